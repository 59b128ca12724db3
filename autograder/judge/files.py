"""Files that a student's code wrote, opened in the judge: safetensors and JSON, nothing else, and never by a path.

A probe in the worker reads a file's bytes and sends them as a uint8 array; what they claim about themselves is held
against limits before anything is allocated for it. Every failure is the submission's, a CheckFailed in one line.
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize

from autograder.inside.wire import MAX_NDIM, MAX_TEXT, Tensor
from autograder.judge.session import CheckFailed

MAX_FILE = 16 << 20
MAX_HEADER = 256 << 10  # of a safetensors file, and the whole of a JSON file
MAX_TENSORS = 4096
MAX_DEPTH = 16
MAX_NODES = 50_000

# A safetensors dtype: how NumPy reads it, and torch's name of it. bfloat16 becomes float32, as on the wire.
_DTYPES = {
    "F64": ("<f8", "float64"), "F32": ("<f4", "float32"), "F16": ("<f2", "float16"), "BF16": ("<u2", "bfloat16"),
    "I64": ("<i8", "int64"), "I32": ("<i4", "int32"), "I16": ("<i2", "int16"), "I8": ("|i1", "int8"), "U8": ("|u1", "uint8"),
    "BOOL": ("|b1", "bool"),
}  # fmt: skip


def open_tensors(value: Any, name: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file, all of them finite; pass each through `Session.array` before it is compared.

    Args:
        value: the file's bytes, as a probe sent them.
        name: of the file, for messages.

    Raises:
        CheckFailed: if the bytes are no such file, or are over a limit.
    """
    data = _bytes(value, name, MAX_FILE)
    (size,) = struct.unpack("<Q", data[:8]) if len(data) >= 8 else (0,)
    if not 0 < size <= len(data) - 8:
        raise CheckFailed(f"{name} is no safetensors file: it is cut off, or does not begin with the size of a header")
    if size > MAX_HEADER:
        raise CheckFailed(f"{name} has a header of {size} bytes, and may have {MAX_HEADER}")
    header = _json(data[8 : 8 + size], f"the header of {name}")
    if not isinstance(header, dict) or len(header) > MAX_TENSORS:
        raise CheckFailed(f"the header of {name} is no object of at most {MAX_TENSORS} tensors")
    for key, entry in header.items():
        if key != "__metadata__" and not _describes(entry, len(data)):
            raise CheckFailed(f"{name} does not describe {key[:200]!r} as a tensor that can be read: {str(entry)[:200]}")
    try:
        # Its own rules: the tensors fill the file, without overlap, hole or remainder.
        found = deserialize(data)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise CheckFailed(f"{name} is no safetensors file: {str(error)[:200]}") from None
    tensors = {key: _tensor(entry) for key, entry in found}
    for key, tensor in tensors.items():
        if not np.isfinite(tensor.data).all():
            raise CheckFailed(f"{name} holds values that are not finite, in {key[:200]!r}")
    return tensors


def open_json(value: Any, name: str) -> Any:
    """What a JSON file holds: None, bool, int, float, str, list and dict, its numbers finite.

    Args:
        value: the file's bytes, as a probe sent them.
        name: of the file, for messages.

    Raises:
        CheckFailed: if the bytes are no JSON, a key stands twice in an object, or a limit is exceeded.
    """
    return _json(_bytes(value, name, MAX_HEADER), name)


def _bytes(value: Any, name: str, limit: int) -> bytes:
    if value is None:
        raise CheckFailed(f"{name} was not written")
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.ndim != 1:
        raise CheckFailed(f"{name} did not arrive as bytes")
    if value.nbytes > limit:
        raise CheckFailed(f"{name} has {value.nbytes} bytes, and may have {limit}")
    return value.tobytes()


def _json(data: bytes, name: str) -> Any:
    try:
        value = json.loads(data.decode(), object_pairs_hook=_once, parse_constant=_refuse)
    except RecursionError:
        raise CheckFailed(f"{name} is nested too deep") from None
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError too
        raise CheckFailed(f"{name} is not JSON: {str(error)[:200]}") from None
    _walk(value, name)
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _walk(value: Any, name: str) -> None:
    """Refuse what the limits forbid: depth, number of values, texts, numbers."""
    level, nodes = [value], 0
    for _ in range(MAX_DEPTH + 1):
        nodes += len(level)
        if nodes > MAX_NODES:
            raise CheckFailed(f"{name} holds more than {MAX_NODES} values")
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += [*item, *item.values()]
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str) and (len(item) > MAX_TEXT or any("\ud800" <= c <= "\udfff" for c in item)):
                raise CheckFailed(f"{name} holds a text that is longer than {MAX_TEXT} characters, or not Unicode")
            elif isinstance(item, float) and not math.isfinite(item):
                raise CheckFailed(f"{name} holds a number that is out of range")
            elif isinstance(item, int) and not -(2**63) <= item < 2**63:
                raise CheckFailed(f"{name} holds an integer that is out of 64 bits")
        level = below
        if not level:
            return
    raise CheckFailed(f"{name} is nested too deep")


def _describes(entry: Any, size: int) -> bool:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end], **rest} if not rest:
            numbers = [*shape, begin, end]
            return dtype in _DTYPES and len(shape) <= MAX_NDIM and all(type(n) is int and 0 <= n <= size for n in numbers)
    return False


def _tensor(entry: dict[str, Any]) -> Tensor:
    kind, name = _DTYPES[entry["dtype"]]
    if name == "bool" and np.frombuffer(entry["data"], np.uint8).max(initial=0) > 1:
        raise CheckFailed("a bool tensor holds a byte that is neither 0 nor 1")
    array = np.frombuffer(entry["data"], kind).reshape(entry["shape"])
    if name == "bfloat16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return Tensor(array, name)
