"""The wire between the judge and a worker: plain data and typed handles, never code.

A message is a JSON header and raw array bytes behind it. Both ends check every size before they allocate, so a
forged message costs its reader no more than the limits below. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import math
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

MAX_HEADER = 1 << 20
MAX_ARRAYS = 64 << 20
MAX_DEPTH = 32
MAX_NODES = 50_000
MAX_TEXT = 4096  # characters of one string: texts end up in results, pages and terminals
MAX_NDIM = 8
DTYPES = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
# bfloat16 has no NumPy type: it travels as float32, which holds every bfloat16 exactly.
TENSOR_DTYPES = {**{name: name for name in DTYPES}, "bfloat16": "float32"}

_PREFIX = struct.Struct("!II")
_NAMES = {np.dtype(name): name for name in DTYPES}  # NumPy makes up a dtype's name each time it is asked
_TYPES = {name: np.dtype(name) for name in DTYPES}
_UNKNOWN = "a message holds a value of no known form"


class WireError(Exception):
    """A message that breaks the format; its text says how, in one line."""


class Closed(WireError):
    """The other end is gone."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor's value on the wire: data, and the dtype to make or made from it (a key of TENSOR_DTYPES)."""

    data: np.ndarray
    dtype: str


@dataclass(frozen=True, slots=True)
class Ref:
    """Names an object that lives in the worker: a slot, then attributes (str) and items (int) from there."""

    slot: int
    path: tuple[str | int, ...] = ()


Value = Any  # None, bool, int, float, str, list, tuple, dict with str keys, np.ndarray, Tensor, Ref


def dumps(value: Value) -> bytes:
    """Encode one message.

    Raises:
        WireError: if the value holds something that may not travel.
    """
    arrays: list[np.ndarray] = []
    body = _pack(value, arrays)
    header = json.dumps([body, [[_NAMES[a.dtype], list(a.shape)] for a in arrays]]).encode()
    size = sum(a.nbytes for a in arrays)
    if len(header) > MAX_HEADER or size > MAX_ARRAYS:
        raise WireError(f"a message of {len(header)} + {size} bytes is too large")
    return b"".join([_PREFIX.pack(len(header), size), header, *(a.tobytes() for a in arrays)])


def loads(message: bytes | bytearray) -> Value:
    """Decode one whole message; the inverse of dumps.

    Raises:
        WireError: if the message is malformed in any way.
    """
    if len(message) < _PREFIX.size:
        raise WireError("a message is shorter than its prefix")
    header_size, arrays_size = _sizes(message[: _PREFIX.size])
    if len(message) != _PREFIX.size + header_size + arrays_size:
        raise WireError("a message's length is not the one that it announces")
    start = _PREFIX.size + header_size
    try:
        header = json.loads(message[_PREFIX.size : start], parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise WireError(f"a header is not JSON: {type(error).__name__}") from None
    if not (isinstance(header, list) and len(header) == 2 and isinstance(header[1], list)):
        raise WireError("a header is not a pair of a body and a list of arrays")
    arrays = _arrays(header[1], memoryview(message)[start:])
    return _Unpacker(arrays).unpack(header[0], 0)


def send(sock: socket.socket, message: bytes) -> None:
    """Send one encoded message, whole."""
    try:
        sock.sendall(message)
    except OSError as error:
        raise Closed(f"cannot send: {error.strerror}") from None


def receive(sock: socket.socket) -> bytearray:
    """Receive one whole message, still encoded.

    Raises:
        Closed: at the end of the stream.
        WireError: if a size is over its limit; nothing was allocated for it.
    """
    message = bytearray()
    _fill(sock, message, _PREFIX.size)
    _fill(sock, message, _PREFIX.size + sum(_sizes(message)))
    return message


def missing(message: bytearray) -> int:
    """How many bytes a message that is still arriving lacks, as far as its prefix tells.

    Raises:
        WireError: if a size is over its limit.
    """
    if len(message) < _PREFIX.size:
        return _PREFIX.size - len(message)
    return _PREFIX.size + sum(_sizes(message[: _PREFIX.size])) - len(message)


def _fill(sock: socket.socket, message: bytearray, size: int) -> None:
    while len(message) < size:
        try:
            chunk = sock.recv(min(size - len(message), 1 << 20))
        except OSError as error:
            raise Closed(f"cannot receive: {error.strerror}") from None
        if not chunk:
            raise Closed("the stream ended")
        message += chunk


def _sizes(prefix: bytes | bytearray) -> tuple[int, int]:
    header_size, arrays_size = _PREFIX.unpack(prefix)
    if header_size > MAX_HEADER or arrays_size > MAX_ARRAYS:
        raise WireError(f"a message announces {header_size} + {arrays_size} bytes, which is too large")
    return header_size, arrays_size


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _text(text: str) -> str:
    if len(text) > MAX_TEXT:
        raise WireError(f"a string has {len(text)} characters, and may have {MAX_TEXT}")
    return text


def _pack(value: Value, arrays: list[np.ndarray]) -> Any:
    # Exact types only: a subclass could say one thing when it is checked and another when it is written.
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is str:
        return _text(value)
    if kind is int:
        if not -(2**63) <= value < 2**63:
            raise WireError("an integer is out of 64 bits")
        return value
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if kind is list:
        return [_pack(item, arrays) for item in value]
    if kind is tuple:
        return {"tuple": [_pack(item, arrays) for item in value]}
    if kind is dict:
        if any(type(key) is not str for key in value):
            raise WireError("a dict has a key that is not a str")
        return {"dict": [[_text(key), _pack(item, arrays)] for key, item in value.items()]}
    if kind is np.ndarray:
        if value.dtype not in _NAMES or value.ndim > MAX_NDIM:
            raise WireError(f"an array of dtype {value.dtype.name} and {value.ndim} dimensions may not travel")
        arrays.append(value)
        return {"array": len(arrays) - 1}
    if kind is Tensor:
        if value.dtype not in TENSOR_DTYPES:
            raise WireError(f"a tensor of dtype {value.dtype} may not travel")
        _pack(value.data, arrays)
        return {"tensor": [len(arrays) - 1, value.dtype]}
    if kind is Ref:
        return {"ref": [value.slot, *value.path]}
    raise WireError(f"a {kind.__name__} may not travel")


def _arrays(specs: list[Any], data: memoryview) -> list[np.ndarray]:
    arrays = []
    at = 0
    for spec in specs:
        match spec:
            case [str(name), list(shape)] if name in DTYPES and len(shape) <= MAX_NDIM:
                pass
            case _:
                raise WireError("an array's description is malformed")
        if any(type(n) is not int or not 0 <= n <= MAX_ARRAYS for n in shape):
            raise WireError("an array's shape is malformed")
        dtype = _TYPES[name]
        size = dtype.itemsize * math.prod(shape)
        if size > len(data) - at:
            raise WireError("an array is larger than the bytes that came with it")
        array = np.frombuffer(data[at : at + size], np.uint8)
        at += size
        if name == "bool" and array.max(initial=0) > 1:
            raise WireError("a bool array holds a byte that is neither 0 nor 1")
        try:
            arrays.append(array.copy().view(dtype).reshape(shape))
        except ValueError:  # an empty array with dimensions too large even so
            raise WireError("an array's shape is malformed") from None
    if at != len(data):
        raise WireError("bytes are left over behind the arrays")
    return arrays


class _Unpacker:
    def __init__(self, arrays: list[np.ndarray]) -> None:
        self.arrays = arrays
        self.nodes = 0

    def unpack(self, body: Any, depth: int) -> Value:
        self.nodes += 1
        if depth > MAX_DEPTH or self.nodes > MAX_NODES:
            raise WireError("a message is nested too deep or has too many values")
        # JSON gives exact types, and comparing them is several times as quick as a match statement.
        kind = type(body)
        if kind is str:
            return _text(body)
        if kind is int and -(2**63) <= body < 2**63:
            return body
        if body is None or kind is bool or kind is float:
            return body
        if kind is list:
            return [self.unpack(item, depth + 1) for item in body]
        if kind is dict and len(body) == 1:
            [(name, content)] = body.items()
            if unpack := self._KINDS.get(name):
                return unpack(self, content, depth)
        raise WireError(_UNKNOWN)

    def _float(self, text: Any, depth: int) -> float:
        if text not in ("nan", "inf", "-inf"):
            raise WireError(_UNKNOWN)
        return float(text)

    def _tuple(self, items: Any, depth: int) -> tuple[Value, ...]:
        if type(items) is not list:
            raise WireError(_UNKNOWN)
        return tuple([self.unpack(item, depth + 1) for item in items])

    def _dict(self, pairs: Any, depth: int) -> dict[str, Value]:
        if type(pairs) is not list:
            raise WireError(_UNKNOWN)
        result: dict[str, Value] = {}
        for pair in pairs:
            if type(pair) is not list or len(pair) != 2 or type(pair[0]) is not str or pair[0] in result:
                raise WireError("a dict is malformed")
            result[_text(pair[0])] = self.unpack(pair[1], depth + 1)
        return result

    def _tensor(self, content: Any, depth: int) -> Tensor:
        if type(content) is not list or len(content) != 2 or type(content[1]) is not str:
            raise WireError(_UNKNOWN)
        array, dtype = self._array(content[0]), content[1]
        if TENSOR_DTYPES.get(dtype) != _NAMES[array.dtype]:
            raise WireError(f"a tensor of dtype {dtype[:20]!r} does not fit its data")
        return Tensor(array, dtype)

    def _ref(self, content: Any, depth: int) -> Ref:
        if type(content) is not list or not content or type(content[0]) is not int:
            raise WireError(_UNKNOWN)
        slot, *path = content
        if any(type(step) not in (str, int) for step in path):
            raise WireError("a reference's path is malformed")
        return Ref(slot, tuple(path))

    def _array(self, index: Any, depth: int = 0) -> np.ndarray:
        if type(index) is not int or not 0 <= index < len(self.arrays):
            raise WireError("a message names an array that did not come with it")
        return self.arrays[index]

    _KINDS: ClassVar[dict[str, Callable[[_Unpacker, Any, int], Value]]] = {
        "float": _float,
        "tuple": _tuple,
        "dict": _dict,
        "array": _array,
        "tensor": _tensor,
        "ref": _ref,
    }
