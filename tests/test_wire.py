"""The wire keeps every value that may travel, and refuses everything else cheaply and with a WireError."""

from __future__ import annotations

import json
import math
import os
import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from autograder.inside import wire

fuzz = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])

texts = st.text(st.characters(codec=None), max_size=20)  # lone surrogates too
dtypes = st.sampled_from(wire.DTYPES).map(np.dtype)
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
arrays = dtypes.flatmap(lambda dtype: hnp.arrays(dtype, shapes))
tensors = st.sampled_from([*wire.TENSOR_DTYPES]).flatmap(
    lambda name: hnp.arrays(np.dtype(wire.TENSOR_DTYPES[name]), shapes).map(lambda data: wire.Tensor(data, name))
)
refs = st.builds(wire.Ref, st.integers(0, 10**6), st.lists(texts | st.integers(-9, 9), max_size=4).map(tuple))
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | texts
values = st.recursive(
    scalars | arrays | tensors | refs,
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple) | st.dictionaries(texts, inner, max_size=4)
    ),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    """Equality to the bit and the type; NaN equals itself."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, wire.Tensor):
        return a.dtype == b.dtype and same(a.data, b.data)
    if isinstance(a, float):
        return (a == b and math.copysign(1, a) == math.copysign(1, b)) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return bool(a == b)


def assert_known(value: Any, depth: int = 0) -> None:
    """A value that loads may give: exact types, owned and finite in size."""
    assert depth <= wire.MAX_DEPTH + 1
    if value is None or type(value) in (bool, float):
        return
    if type(value) is str:
        assert len(value) <= wire.MAX_TEXT
    elif type(value) is int:
        assert -(2**63) <= value < 2**63
    elif type(value) in (list, tuple):
        for item in value:
            assert_known(item, depth + 1)
    elif type(value) is dict:
        for key, item in value.items():
            assert type(key) is str
            assert_known(item, depth + 1)
    elif type(value) is wire.Ref:
        assert type(value.slot) is int and all(type(step) in (str, int) for step in value.path)
    else:
        data = value.data if type(value) is wire.Tensor else value
        assert type(data) is np.ndarray and data.dtype.name in wire.DTYPES and data.ndim <= wire.MAX_NDIM
        assert data.nbytes <= wire.MAX_ARRAYS and data.flags.writeable
        if type(value) is wire.Tensor:
            assert wire.TENSOR_DTYPES[value.dtype] == data.dtype.name


def refused_or_known(message: bytes | bytearray) -> bool:
    """Whether a message is refused; whatever else loads may do is a failure."""
    try:
        value = wire.loads(message)
    except wire.WireError as error:
        assert "\n" not in str(error) and len(str(error)) < 300
        return True
    assert_known(value)
    return False


def framed(header: bytes | Any, data: bytes = b"", sizes: tuple[int, int] | None = None) -> bytes:
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("!II", *(sizes or (len(header), len(data)))) + header + data


@contextmanager
def at_most(mib: float) -> Iterator[None]:
    """Demand that what happens inside never holds more memory than this at once."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < mib * 2**20, f"{peak / 2**20:.1f} MiB"


# --- what may travel ---


@fuzz
@given(values)
def test_round_trip(value: Any) -> None:
    message = wire.dumps(value)
    assert same(wire.loads(message), value)
    assert same(wire.loads(bytearray(message)), value)


@fuzz
@given(arrays)
def test_arrays_that_are_views(array: np.ndarray) -> None:
    for view in (array.T, array[..., None][..., ::-1], np.asfortranarray(array)):
        back = wire.loads(wire.dumps(view))
        assert np.array_equal(back, view, equal_nan=view.dtype.kind == "f") and back.dtype == view.dtype


@fuzz
@given(values)
def test_a_message_arrives_whole_over_a_socket(value: Any) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire.send(ours, wire.dumps(value))
        wire.send(ours, wire.dumps("next"))
        assert same(wire.loads(wire.receive(theirs)), value)
        assert wire.loads(wire.receive(theirs)) == "next"


@pytest.mark.parametrize("end", [0, 5, 8, 12])
def test_a_stream_that_ends_is_closed(end: int) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            ours.sendall(wire.dumps([1, 2, 3])[:end])
        with pytest.raises(wire.Closed):
            wire.receive(theirs)
        with pytest.raises(wire.Closed):
            wire.send(theirs, wire.dumps("x" * 4000))


def test_missing_counts_down_to_nothing() -> None:
    message = wire.dumps({"a": np.arange(5)})
    for end in range(8, len(message) + 1):
        assert wire.missing(bytearray(message[:end])) == len(message) - end
    assert wire.missing(bytearray()) == 8


class Str(str): ...


class Int(int): ...


class Dict(dict): ...


class Array(np.ndarray): ...


@pytest.mark.parametrize(
    "value",
    [
        object(), len, Str("a"), Int(1), Dict(), {1: 2}, {Str("a"): 1}, {1, 2}, b"bytes", 1j, 2**63, -(2**63) - 1, wire,
        np.float64(1), np.int64(1), np.zeros(1).view(Array), np.zeros(1, object), np.zeros(1, "U1"), np.zeros(1, complex),
        np.zeros(1, [("a", int)]), np.zeros(1, "M8[s]"), np.zeros((1,) * 9), wire.Tensor(np.zeros(1), "object"),
        np.zeros(1, ">f8").view(Array), "x" * (wire.MAX_TEXT + 1), {"x" * (wire.MAX_TEXT + 1): 1}, [[lambda: 0]],
        np.zeros(wire.MAX_ARRAYS + 1, np.uint8), ["x" * 4000] * 300,
    ],
    ids=lambda value: f"{type(value).__name__}-{str(value)[:20]!a}",
)  # fmt: skip
def test_what_may_not_travel(value: Any) -> None:
    with pytest.raises(wire.WireError):
        wire.dumps(value)


# --- forgeries ---


@fuzz
@given(st.binary(max_size=400))
def test_noise(noise: bytes) -> None:
    refused_or_known(noise)
    refused_or_known(framed(noise))
    refused_or_known(framed(b"[" + noise + b",[]]", noise))


# JSON of every shape, with the words of the format in it.
words = st.sampled_from(
    ["array", "tensor", "ref", "dict", "tuple", "float", "nan", "inf", "float64", "bfloat16", "bool", "object"]
)
bodies = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.integers() | st.floats() | words | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=2),
    max_leaves=15,
)
specs = st.lists(st.tuples(words, st.lists(st.integers(-2, 4) | st.integers(), max_size=4)), max_size=3)


@fuzz
@given(bodies, specs | bodies, st.binary(max_size=64))
def test_json_of_the_right_words(body: Any, spec: Any, data: bytes) -> None:
    refused_or_known(framed([body, spec], data))
    refused_or_known(framed([{"dict": [["value", body]]}, spec], data))
    refused_or_known(framed(body, data))


kinds = st.sampled_from(["flip", "set", "cut", "insert", "double"])
edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255), kinds), max_size=5)


@fuzz
@given(values, edits)
def test_edited_messages(value: Any, changes: list[tuple[float, int, str]]) -> None:
    message = bytearray(wire.dumps(value))
    for where, byte, how in changes:
        at = int(where * (len(message) - 1)) if message else 0
        match how:
            case "flip" if message:
                message[at] ^= 1 << byte % 8
            case "set" if message:
                message[at] = byte
            case "cut":
                del message[at : at + 1 + byte % 9]
            case "insert":
                message[at:at] = bytes([byte]) * (1 + byte % 5)
            case "double":
                message += message[at : at + byte]
    refused_or_known(message)


@fuzz
@given(values, st.integers(-9, 9), st.integers(-9, 9))
def test_length_fields_must_be_true(value: Any, header: int, data: int) -> None:
    message = wire.dumps(value)
    sizes = struct.unpack("!II", message[:8])
    wrong = [(size + change) % 2**32 for size, change in zip(sizes, (header, data), strict=True)]
    refused = refused_or_known(struct.pack("!II", *wrong) + message[8:])
    assert refused or header + data == 0


@fuzz
@given(values)
def test_every_truncation_is_refused(value: Any) -> None:
    message = wire.dumps(value)
    for end in {0, 1, 7, 8, len(message) // 2, len(message) - 1}:
        if end < len(message):
            assert refused_or_known(message[:end])


HUGE = 2**26
FORGERIES: dict[str, bytes] = {
    "a header of 4 GiB": framed(b"[" * 60, sizes=(2**32 - 1, 0)),
    "arrays of 4 GiB": framed(b"[" * 60, sizes=(60, 2**32 - 1)),
    "a blob of 2^40": framed([{"array": 0}, [["uint8", [2**40]]]], bytes(8)),
    "128 TiB by its shape": framed([{"array": 0}, [["float64", [2**22, 2**22]]]], bytes(8)),
    "6.5 GB within each dimension's limit": framed([{"array": 0}, [["float64", [HUGE, 13]]]]),
    "2^208 elements": framed([{"array": 0}, [["float64", [HUGE] * 8]]], bytes(8)),
    "none of 2^182 elements": framed([{"array": 0}, [["float64", [0, *[HUGE] * 7]]]]),
    "a negative dimension": framed([{"array": 0}, [["float64", [-1]]]], bytes(8)),
    "two negative dimensions": framed([{"array": 0}, [["float64", [-1, -1]]]], bytes(8)),
    "a fractional dimension": framed([{"array": 0}, [["float64", [1.0]]]], bytes(8)),
    "a boolean dimension": framed([{"array": 0}, [["float64", [True]]]], bytes(8)),
    "a dimension of text": framed([{"array": 0}, [["float64", ["1"]]]], bytes(8)),
    "a dimension of 4,000 digits": framed([{"array": 0}, [["float64", [10**4000]]]], bytes(8)),
    "nine dimensions": framed([{"array": 0}, [["float64", [1] * 9]]], bytes(8)),
    "an object array": framed([{"array": 0}, [["object", [1]]]], bytes(8)),
    "an object array by letter": framed([{"array": 0}, [["O", [1]]]], bytes(8)),
    "a text array of 4 GiB": framed([{"array": 0}, [["U1000000000", [1]]]], bytes(8)),
    "a void array of 1 GiB": framed([{"array": 0}, [["V1073741824", [1]]]], bytes(8)),
    "a structured array": framed([{"array": 0}, [["f8,O", [1]]]], bytes(16)),
    "big-endian": framed([{"array": 0}, [[">f8", [1]]]], bytes(8)),
    "a bool that is 2": framed([{"array": 0}, [["bool", [1]]]], b"\2"),
    "bytes left over": framed([None, []], bytes(8)),
    "an array that overlaps the next": framed([[{"array": 0}, {"array": 1}], [["int8", [6]], ["int8", [6]]]], bytes(8)),
    "an array that did not come": framed([{"array": 3}, []]),
    "an array by a negative index": framed([{"array": -1}, [["int8", [1]]]], bytes(1)),
    "an array by True": framed([{"array": True}, [["int8", [1]], ["int8", [0]]]], bytes(1)),
    "a tensor of another dtype": framed([{"tensor": [0, "float64"]}, [["float32", [1]]]], bytes(4)),
    "a tensor of objects": framed([{"tensor": [0, "object"]}, [["float32", [1]]]], bytes(4)),
    "JSON 900,000 deep": framed(b"[" * 900_000),
    "JSON 450,000 deep and closed": framed(b"[" * 450_000 + b"]" * 450_000),
    "objects 180,000 deep": framed(b'{"a":' * 180_000 + b"1" + b"}" * 180_000),
    "33 deep": framed([json.loads("[" * 40 + "]" * 40), []]),
    "tuples 33 deep": framed(b'[{"tuple":[' * 1 + b'{"tuple":[' * 40 + b"]}" * 41 + b",[]]"),
    "60,000 values": framed([[0] * 60_000, []]),
    "an integer of a million digits": framed(b"[1" + b"0" * 1_000_000 + b",[]]"),
    "an integer of 65 bits": framed([2**63, []]),
    "a string of a megabyte": framed([["x" * 1_000_000], []]),
    "a key of a megabyte": framed([{"dict": [["x" * 1_000_000, 1]]}, []]),
    "NaN as JSON": framed(b"[NaN,[]]"),
    "-Infinity as JSON": framed(b"[-Infinity,[]]"),
    "a float of text": framed([{"float": "1e5"}, []]),
    "an object of no known form": framed([{"status": "passed"}, []]),
    "an object of two forms": framed([{"tuple": [], "dict": []}, []]),
    "a dict with a key twice": framed([{"dict": [["a", 1], ["a", 2]]}, []]),
    "a dict with a key of no text": framed([{"dict": [[1, 1]]}, []]),
    "a dict that is no list": framed([{"dict": {"a": 1}}, []]),
    "a reference by True": framed([{"ref": [True]}, []]),
    "a reference with a list": framed([{"ref": [0, ["x"]]}, []]),
    "a reference with True": framed([{"ref": [0, True]}, []]),
    "an empty reference": framed([{"ref": []}, []]),
    "no list of arrays": framed([None, None]),
    "a header of three": framed([None, [], []]),
    "a header that is a number": framed(b"7"),
    "an empty header": framed(b""),
    "two values": framed(b"[1,[]][1,[]]"),
    "half a character": framed(b'["\xff",[]]'),
    "zeros": bytes(8),
    "a pickle": framed(b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R."),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forgeries_are_refused(name: str) -> None:
    message = FORGERIES[name]
    start = time.process_time()
    with at_most(1 + 60 * len(message) / 2**20), pytest.raises(wire.WireError) as caught:
        wire.loads(message)
    assert len(str(caught.value)) < 300
    assert time.process_time() - start < 10  # a bound on a hang, not a measure


def test_a_short_header_allocates_nothing_large() -> None:
    """A 60-byte header made a prototype allocate 6.5 GB, on receiving and on decoding."""
    for header, size in ((b"[" * 60, (2**32 - 1, 0)), (b"[" * 60, (60, 2**32 - 1)), (b"[" * 60, (2**20 + 1, 0))):
        ours, theirs = socket.socketpair()
        with ours, theirs, at_most(1):
            ours.sendall(framed(header, sizes=size))
            with pytest.raises(wire.WireError):
                wire.receive(theirs)
            with pytest.raises(wire.WireError):
                wire.missing(bytearray(framed(header, sizes=size)))


def test_an_announced_message_costs_only_what_arrives() -> None:
    """The largest message that may be announced is not allocated before its bytes are there."""
    ours, theirs = socket.socketpair()
    with theirs, at_most(4):
        with ours:
            ours.sendall(framed(b"[" * 60, sizes=(wire.MAX_HEADER, wire.MAX_ARRAYS)))
        with pytest.raises(wire.Closed):
            wire.receive(theirs)


def test_the_costliest_messages_stay_below_twice_the_limits() -> None:
    limit = 2 * (wire.MAX_HEADER + wire.MAX_ARRAYS) / 2**20
    many = wire.MAX_HEADER // 24
    for message in (
        wire.dumps(np.zeros(wire.MAX_ARRAYS, np.uint8)),
        framed([[{"array": 0}] * 40_000, [["uint8", [wire.MAX_ARRAYS // 4]]]], bytes(wire.MAX_ARRAYS // 4)),
        framed([[{"array": i} for i in range(many)], [["bool", []]] * many], bytes(many)),
        framed([[[]] * 40_000, []]),
        framed([[{}] * 200_000, []]),
        framed([[[]] * 250_000, []]),
        framed([["xy"] * 170_000, []]),
        framed([[{"dict": [["a", 1]]}] * 30_000, []]),
        framed([[], [["int8", [0]]] * 55_000]),
    ):
        with at_most(limit):
            refused_or_known(message)


def test_arrays_own_their_memory() -> None:
    message = bytearray(wire.dumps([np.arange(4), np.arange(4)]))
    first, second = wire.loads(message)
    message[-64:] = bytes(64)
    first[0] = 9
    assert list(first) == [9, 1, 2, 3] and list(second) == [0, 1, 2, 3]


def test_a_trickle_is_read_whole() -> None:
    message = wire.dumps({"x": np.arange(100.0)})
    ours, theirs = socket.socketpair()

    def trickle() -> None:
        with ours:
            for i in range(0, len(message), 37):
                ours.sendall(message[i : i + 37])

    thread = threading.Thread(target=trickle)
    thread.start()
    with theirs:
        assert same(wire.loads(wire.receive(theirs)), {"x": np.arange(100.0)})
    thread.join()


def test_random_bytes_in_bulk() -> None:
    valid = wire.dumps({"value": wire.Tensor(np.ones(3), "float64")})
    rng = np.random.Generator(np.random.PCG64(0))
    for _ in range(3_000):
        message = bytearray(valid)
        for at in rng.integers(len(message), size=rng.integers(1, 6)):
            message[at] = rng.integers(256)
        refused_or_known(message)
        refused_or_known(os.urandom(int(rng.integers(60))))
