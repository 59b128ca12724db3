"""Builders and probes of week 5."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autograder.inside.registry import builder, probe


@builder
def returning(value: Tensor) -> Callable[[], Tensor]:
    """A function without arguments that returns a copy of `value`: stands in for one that does not work yet."""
    return value.clone


@builder
def stand_in(name: str) -> Callable[..., Any]:
    """Stands in for the quantiser of that name, where one does not work yet.

    They quantise nothing: what is taken apart and put together again is only as long and of the type that it must be, and
    depends on everything that it came from, so that it shows what was passed on.
    """
    stand_ins: dict[str, Callable[..., Any]] = {
        "quantize_nf4": _take_apart,
        "dequantize_nf4": _put_together,
        "double_quantize": _take_constants_apart,
        "double_dequantize": _put_constants_together,
    }
    return stand_ins[name]


def _length(of: int, block_size: int) -> int:
    return len(range(0, of, block_size))


def _take_apart(x: Tensor, block_size: int = 64) -> tuple[Tensor, Tensor]:
    size = float(x.detach().abs().mean())
    return (x.detach() > 0).to(torch.uint8), torch.linspace(size, 2 * size, _length(x.numel(), block_size))


def _put_together(codes: Tensor, absmax: Tensor, block_size: int = 64, dtype: torch.dtype = torch.float32) -> Tensor:
    size = float(absmax.mean()) / block_size
    return (codes - size).mul(size).to(dtype)


def _take_constants_apart(absmax: Tensor, block_size: int = 256) -> tuple[Tensor, Tensor, Tensor]:
    codes = torch.arange(len(absmax)).remainder(251).to(torch.uint8)
    return codes, torch.linspace(0.5, 1, _length(len(absmax), block_size)) * absmax.max(), absmax.median()


def _put_constants_together(codes: Tensor, scales: Tensor, mean: Tensor, block_size: int = 256) -> Tensor:
    return codes.float() / block_size * scales.sum() + mean


@probe
def kept(layer: nn.Module, base: nn.Module, x: Tensor | None = None) -> dict[str, Any]:
    """What a layer keeps, after a call with x: in tensors that it leads to, and in what the call left behind elsewhere.

    Returns:
        bytes: of both; elsewhere: those of the latter; base: whether base.weight is among what it leads to.
    """
    sizes: dict[int, int] = {}
    left: dict[int, int] = {}
    if x is not None:
        before = set(_alive())
        layer(x)
        gc.collect()
        left = {place: size for place, size in _alive().items() if place not in before}
    seen: set[int] = set()
    todo: list[Any] = [layer]
    while todo:
        value = todo.pop()
        if id(value) in seen or isinstance(value, type) or type(value).__name__ == "module":
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            sizes[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        elif isinstance(value, np.ndarray):
            sizes[id(value)] = value.nbytes
        elif callable(value) and hasattr(value, "__code__"):  # not the module that a function stands in
            todo += [cell.cell_contents for cell in value.__closure__ or ()]
        else:
            todo += gc.get_referents(value)
    elsewhere = sum(size for place, size in left.items() if place not in sizes)
    return {
        "bytes": sum(sizes.values()) + elsewhere,
        "elsewhere": elsewhere,
        "base": base.get_parameter("weight").untyped_storage().data_ptr() in sizes,
    }


def _alive() -> dict[int, int]:
    """The bytes of all tensors in this process, by where their storage is."""
    found: dict[int, int] = {}
    for value in gc.get_objects():
        if type(value) in (Tensor, nn.Parameter):  # not torch.export's, which have no memory
            with contextlib.suppress(RuntimeError):  # a sparse one, say, has no storage
                storage = value.untyped_storage()
                found[storage.data_ptr()] = storage.nbytes()
    return found


@probe
def gradients(layer: nn.Module, base: nn.Module, x: Tensor, cotangents: list[Tensor]) -> dict[str, Any]:
    """Of one call after the other, and of two backward passes for each: the gradients of <output, cotangent>.

    They are those of x and of every parameter that got one.
    """
    found: list[Any] = []
    for cotangent in cotangents:
        leaf = x.clone().requires_grad_(True)
        product = (layer(leaf) * cotangent).sum()
        for again in (True, False):
            leaf.grad = None
            layer.zero_grad(set_to_none=True)
            torch.autograd.backward(product, retain_graph=again)
            found.append({"x": leaf.grad} | {name: p.grad for name, p in layer.named_parameters() if p.grad is not None})
    return {"calls": found, "base": sorted(name for name, p in base.named_parameters() if p.grad is not None)}
