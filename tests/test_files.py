"""The judge's reader of a student's files takes what safetensors and JSON say it is, and nothing that is made to harm."""

from __future__ import annotations

import json
import struct
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from autograder.judge import files
from autograder.judge.check import CheckFailed


def sent(data: bytes) -> np.ndarray:
    """Bytes as they come over the wire."""
    return np.frombuffer(data, np.uint8)


def made(header: object, data: bytes = b"", size: int | None = None) -> np.ndarray:
    """A safetensors file of any header; `size`: what it claims of its length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return sent(struct.pack("<Q", len(text) if size is None else size) + text + data)


def entry(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4), **more: object) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


GOOD = save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.float64)}, {"format": "pt"})


@pytest.mark.parametrize(
    "name", ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
)
def test_every_dtype_comes_back(name: str) -> None:
    tensor = (torch.arange(-3, 9).reshape(3, 4) / 2).to(getattr(torch, name))
    found = files.open_tensors(sent(save({"x": tensor, "none": tensor[:0], "one": tensor[1, 1].clone()})), "f")
    assert {key: (t.dtype, t.data.shape) for key, t in found.items()} == {
        "x": (name, (3, 4)), "none": (name, (0, 4)), "one": (name, ()),
    }  # fmt: skip
    np.testing.assert_array_equal(found["x"].data, (tensor.float() if name == "bfloat16" else tensor).numpy())


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.dictionaries(st.text(max_size=8), st.lists(st.integers(0, 4), max_size=4), max_size=5))
def test_what_safetensors_writes_is_read(shapes: dict[str, list[int]]) -> None:
    rng = np.random.default_rng(0)
    tensors = {name: torch.from_numpy(rng.standard_normal(shape)) for name, shape in shapes.items()}
    found = files.open_tensors(sent(save(tensors)), "f")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name].data, tensor.numpy())


@pytest.mark.parametrize("length", range(0, len(GOOD), 7))
def test_truncated(length: int) -> None:
    with pytest.raises(CheckFailed):
        files.open_tensors(sent(GOOD[:length]), "f")


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(place: int, byte: int) -> None:
    try:
        files.open_tensors(sent(GOOD[:place] + bytes([byte]) + GOOD[place + 1 :]), "f")
    except CheckFailed as error:
        assert "\n" not in str(error)


TWO = (entry(), entry(offsets=(4, 8)))
MALFORMED = {
    "a header that is said to be huge": made({}, size=2**63),
    "a header of 4 GiB": made({}, size=2**32),
    "a header that is huge": made(b"{" + b" " * (files.MAX_HEADER + 1) + b"}"),
    "a header of size 0": made(b""),
    "no object": made([1]),
    "no JSON": made(b"{'a': 1}"),
    "not UTF-8": made(b'{"\xff": 1}'),
    "a file too large": sent(bytes(files.MAX_FILE + 1)),
    "too many tensors": made({str(i): entry(shape=(0,), offsets=(0, 0)) for i in range(files.MAX_TENSORS + 1)}),
    "overlapping offsets": made({"a": TWO[0], "b": TWO[0]}, bytes(4)),
    "partly overlapping": made({"a": entry("F16", (2,), (0, 4)), "b": entry("F16", (2,), (2, 6))}, bytes(6)),
    "a hole": made({"a": TWO[0], "b": entry(offsets=(8, 12))}, bytes(12)),
    "bytes left over": made({"a": TWO[0]}, bytes(8)),
    "data missing": made({"a": TWO[0], "b": TWO[1]}, bytes(4)),
    "offsets backwards": made({"a": entry(offsets=(4, 0))}, bytes(4)),
    "offsets below zero": made({"a": entry(offsets=(-4, 0))}, bytes(4)),
    "offsets far out": made({"a": entry(offsets=(0, 2**64))}, bytes(4)),
    "three offsets": made({"a": entry(offsets=(0, 2, 4))}, bytes(4)),
    "a shape that is too large for its bytes": made({"a": entry(shape=(2,))}, bytes(4)),
    "a shape of 2^62": made({"a": entry(shape=(2**31, 2**31))}, bytes(4)),
    "a shape below zero": made({"a": entry(shape=(-1,))}, bytes(4)),
    "a shape of a float": made({"a": entry(shape=(1.0,))}, bytes(4)),
    "a shape of True": made({"a": entry(shape=(True,))}, bytes(4)),
    "a shape of nine dimensions": made({"a": entry(shape=(1,) * 9)}, bytes(4)),
    "a dtype that does not exist": made({"a": entry("F33")}, bytes(4)),
    "a dtype of another size": made({"a": entry("F64")}, bytes(4)),
    "a complex dtype": made({"a": entry("C64", offsets=(0, 8))}, bytes(8)),
    "a dtype that is no text": made({"a": entry(["F32"])}, bytes(4)),
    "a key too many": made({"a": entry(more=1)}, bytes(4)),
    "an entry that is no object": made({"a": 5}, bytes(4)),
    "metadata that is no object of texts": made({"__metadata__": {"a": 1}}),
    "a tensor twice": made(b'{"a":%b,"a":%b}' % (json.dumps(TWO[0]).encode(), json.dumps(TWO[0]).encode()), bytes(4)),
    "a dtype twice": made(b'{"a":{"dtype":"F64","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
    "a bool of 2": made({"a": entry("BOOL", (1,), (0, 1))}, b"\x02"),
    "not a number": sent(save({"a": torch.tensor([0.0, float("nan")])})),
    "infinite": sent(save({"a": torch.tensor([float("-inf")], dtype=torch.float16)})),
    "not a number in bfloat16": sent(save({"a": torch.tensor([float("nan")], dtype=torch.bfloat16)})),
    "a pickle": sent(b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07builtins"),
    "a zip archive": sent(b"PK\x03\x04" + bytes(60)),
    "a header nested deep": made(b'{"a":' * 20_000 + b"1" + b"}" * 20_000),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_safetensors(name: str) -> None:
    tracemalloc.start()
    with pytest.raises(CheckFailed) as caught:
        files.open_tensors(MALFORMED[name], "adapter_model.safetensors")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
    assert caught.value.kind == "wrong"
    assert peak < (8 << 20) + 4 * len(MALFORMED[name])  # never what a header claims


def test_json() -> None:
    value = {"a": [1, -2.5, True, None, "é"], "b": {"a": {}}}
    assert files.open_json(sent(json.dumps(value).encode()), "f") == value


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"{} {}", b"'a'", b"\xff", b"\xef\xbb\xbf{}", b'{"a": NaN}', b"[Infinity]", b"[-Infinity]", b"1e999",
        b"[9223372036854775808]", b"1" + b"0" * 5000, b'{"a": 1, "a": 2}', b'[{"b": {"a": 1, "a": 1}}]', b"[" * 18 + b"]" * 18,
        b"[" * 100_000, b"[" * 90_000 + b"]" * 90_000, b'"\\ud800"', b'{"\\udfff": 1}', json.dumps("a" * 4097).encode(),
        json.dumps({"k" * 4097: 1}).encode(), json.dumps([0] * 60_000).encode(), b" " * (files.MAX_HEADER + 1),
    ],
    ids=lambda text: repr(text[:24]),
)  # fmt: skip
def test_malformed_json(text: bytes) -> None:
    with pytest.raises(CheckFailed) as caught:
        files.open_json(sent(text), "adapter_config.json")
    assert "adapter_config.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value", [None, b"{}", "{}", 5, {"type": "bytes"}, np.zeros(3), np.zeros((1, 2), np.uint8), np.zeros(2, np.int8), [123, 125]]
)
def test_only_bytes_are_opened(value: object) -> None:
    for read in (files.open_tensors, files.open_json):
        with pytest.raises(CheckFailed, match=r"^f (was not written|did not arrive as bytes)"):
            read(value, "f")
