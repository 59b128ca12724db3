"""judge/files.py: safetensors and JSON that student code wrote."""

from __future__ import annotations

import json
import struct

import numpy as np
from safetensors.numpy import save

from autograder.judge import files
from autograder.judge.session import CheckFailed


def framed(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


_FILES = [
    save({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros((0, 4), np.int64)}),
    save({"m": np.array([True, False])}, metadata={"format": "pt"}),
    framed(json.dumps({"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode(), b"\0\1\2\3"),
    framed(json.dumps({"x": {"dtype": "F8", "shape": [2**40], "data_offsets": [0, 1]}}).encode(), b"\0"),
]
_TEXTS = [
    b'{"r": 4, "target_modules": ["q"], "alpha": 1.5e3, "none": null, "t": true}',
    b"[" * 40,
    b'{"a":1,"a":2}',
    b"NaN",
    b"1e999",
]
# The first byte: 0 a safetensors file, 1 one whose header has its true length, 2 JSON.
SEEDS = [b"\0" + data for data in _FILES] + [b"\2" + text for text in _TEXTS]
for _file in _FILES:
    (_size,) = struct.unpack("<Q", _file[:8])
    SEEDS.append(b"\1" + _file[8 : 8 + _size] + b"\n" + _file[8 + _size :])


def one(data: bytes) -> None:
    """Open it; only CheckFailed may come, and what is opened is within the limits."""
    kind, rest = data[:1], data[1:]
    if kind == b"\1":
        header, _, body = rest.partition(b"\n")
        rest = framed(header, body)
    value = np.frombuffer(rest, np.uint8)
    try:
        if kind == b"\2":
            files.open_json(value, "config.json")
        else:
            tensors = files.open_tensors(value, "a.safetensors")
            assert all(np.isfinite(tensor.data).all() for tensor in tensors.values())
            assert sum(tensor.data.nbytes for tensor in tensors.values()) <= 2 * len(rest)
    except CheckFailed as error:
        assert len(str(error)) < 1000
