"""inside/wire.py: loads, missing and receive, on what a worker may send."""

from __future__ import annotations

import socket
import struct
from typing import Any

import numpy as np

from autograder.inside import wire

DECLARED = wire.WireError

_VALUES: list[Any] = [
    "confined",
    {"value": None},
    {"value": [True, -1, 2**62, 0.5, float("nan"), float("inf"), "text \u4e2d \ud800", (), {}]},
    {"value": wire.Tensor(np.arange(6.0).reshape(2, 3), "float64")},
    {"value": wire.Tensor(np.zeros((2, 0), np.float32), "bfloat16")},
    {"value": {"y": np.array([[True], [False]]), "parameters": {"lora_A": wire.Tensor(np.ones(3, np.float16), "float16")}}},
    {
        "error": {
            "operation": 1,
            "type": "ValueError",
            "bases": ["ValueError", "Exception"],
            "message": "m",
            "where": ["a.py:1: x"],
        }
    },
    [{"op": "call", "out": 1, "function": wire.Ref(0, ("LoRALinear", 3)), "args": [wire.Ref(2)], "kwargs": {"rank": 2}}],
]
# The first byte chooses how the rest becomes a message: as it is, or with lengths that are true, so that the rest is read.
SEEDS = [b"\0" + wire.dumps(value) for value in _VALUES]
for _message in [wire.dumps(value) for value in _VALUES]:
    _header, _arrays = struct.unpack("!II", _message[:8])
    SEEDS.append(b"\1" + _message[8 : 8 + _header] + b"\n" + _message[8 + _header :])


def one(data: bytes) -> None:
    """Decode; what is decoded can be encoded again, and is then the same."""
    message = data[1:]
    if data[:1] != b"\0":
        header, _, arrays = message.partition(b"\n")
        message = struct.pack("!II", len(header), len(arrays)) + header + arrays
    try:
        value = wire.loads(message)
    except DECLARED as error:
        assert "\n" not in str(error) and len(str(error)) < 300
    else:
        try:
            again = wire.dumps(value)
        except DECLARED:  # a text of 4,096 characters may stand once for many escapes: too long in JSON
            return
        assert wire.dumps(wire.loads(again)) == again
    if len(message) < 1 << 14:
        _through_a_socket(message)


def _through_a_socket(message: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(message)
        theirs.shutdown(socket.SHUT_WR)
        try:
            got = wire.receive(ours)
        except DECLARED:
            return
    assert wire.missing(got) == 0 and message.startswith(got)
