"""Builders and probes of week 1."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autograder.inside import probes
from autograder.inside.registry import builder, probe


@builder
def network(
    shapes: dict[str, tuple[int, ...]],
    frozen: list[str],
    tied: dict[str, str],
    buffers: dict[str, tuple[int, ...]],
    device: str = "cpu",
    dtype: str = "float32",
    sliced: list[str] | None = None,
    training: bool = True,
    gradients: bool = False,
) -> nn.Module:
    """A model that has parameters at these dotted names, all zero, and computes nothing.

    Args:
        shapes: of each parameter, by its name.
        frozen: names of those that do not train.
        tied: further names, and the name of the parameter, or of the module, that stands there as well.
        buffers: shapes of buffers by their names.
        sliced: names of those that are every second row of a larger tensor.
        training: the mode of the modules.
        gradients: whether those that train have a gradient.
    """
    like = {"device": device, "dtype": getattr(torch, dtype)}
    root = nn.Module()
    for name, shape in shapes.items():
        parent, leaf = _place(root, name)
        data = torch.zeros((2 * shape[0], *shape[1:]), **like)[::2] if name in (sliced or ()) else torch.zeros(shape, **like)
        parameter = nn.Parameter(data, requires_grad=name not in frozen)
        if gradients and parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
        parent.register_parameter(leaf, parameter)
    for name, shape in buffers.items():
        parent, leaf = _place(root, name)
        parent.register_buffer(leaf, torch.zeros(shape, **like))
    for name, other in tied.items():
        parent, leaf = _place(root, name)
        source, last = _place(root, other)
        setattr(parent, leaf, getattr(source, last))
    return root.train(training)


def _place(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that a dotted name leads to, made on the way, and the name's last part."""
    *path, leaf = name.split(".")
    for step in path:
        if not hasattr(root, step):
            root.add_module(step, nn.Module())
        root = getattr(root, step)
    return root, leaf


@builder
def only_once(items: list[Any]) -> Iterator[Any]:
    """An iterator, which is empty after one pass."""
    return iter(items)


class Block(nn.Module):
    """A residual block; `odd` adds parameters whose names only look like a bias, or do not look like one."""

    def __init__(self, width: int, odd: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.q = nn.Linear(width, width)
        self.out = nn.Linear(width, width, bias=False)
        self.odd = odd
        if odd:
            self.bias = nn.Linear(width, width, bias=False)
            self.in_proj_bias = nn.Parameter(torch.zeros(width))
            self.bias_scale = nn.Parameter(torch.ones(width))
            self.debias = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.q(self.norm(x))
        if self.odd:
            inner = self.bias(inner) * self.bias_scale * self.debias + self.in_proj_bias
        result: Tensor = x + self.out(torch.tanh(inner))
        return result


class Stack(nn.Module):
    """A projection, blocks, a norm and a head; of the kinds that `stack` names."""

    def __init__(self, width: int, blocks: int, kind: str) -> None:
        super().__init__()
        self.embed = nn.Linear(width, width, bias=False)
        row = [Block(width, kind == "odd names") for _ in range(blocks)]
        if kind == "nested":
            self.body = nn.ModuleDict({"h": nn.ModuleList(row)})
            self.layers = nn.ModuleList([Block(width, odd=False)])
            row = [*self.layers, *row]
        else:
            self.layers = nn.ModuleList(row)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, width + 1)
        self.bias = nn.Parameter(torch.zeros(width + 1)) if kind == "odd names" else None
        self.__dict__["row"] = row  # not a submodule, so no further names
        if kind == "no bias":
            for module in list(self.modules()):
                if isinstance(module, nn.Linear | nn.LayerNorm):
                    module.register_parameter("bias", None)
        if kind == "shared":
            self.embed.weight = row[-1].out.weight
            row[0].norm.bias = row[0].norm.weight
            self.norm.weight = row[-1].norm.bias

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.__dict__["row"]:
            x = block(x)
        result: Tensor = self.head(self.norm(x))
        return result if self.bias is None else result + self.bias


@builder
def stack(seed: int, width: int, blocks: int, kind: str = "plain", frozen: str = "none") -> nn.Module:
    """A float64 model of blocks, its parameters drawn by NumPy's generator.

    Args:
        kind: "plain"; "odd names": see Block, and the model has a bias of its own; "no bias"; "nested": the blocks stand at
            `body.h`, and `layers` has one more, in front of them; "shared": the embedding's weight is that of the last
            block's `out`, the first block's norm has one Parameter as weight and as bias, and the bias of the last
            block's norm is the final norm's weight.
        frozen: "none"; "all"; "half": every second parameter, by name.
    """
    model = Stack(width, blocks, kind).double()
    rng = np.random.Generator(np.random.PCG64(seed))
    with torch.no_grad():
        for i, (_, parameter) in enumerate(sorted(model.named_parameters())):
            parameter.copy_(torch.from_numpy(0.5 * rng.standard_normal(tuple(parameter.shape))))
            parameter.requires_grad_(frozen == "none" or (frozen == "half" and i % 2 == 0))
    return model


@probe
def numbers(result: Any, keys: list[str] | None = None) -> Any:
    """A dict's numbers (of `keys`, where given), a sequence's or a single one as floats, so that 2 and 2.0 are one answer.

    Of anything else, the name of its type.
    """
    if isinstance(result, dict):
        return {key: _plain(value) for key, value in result.items() if keys is None or key in keys}
    if isinstance(result, np.ndarray | Tensor) and result.ndim == 1:
        result = result.tolist()
    if isinstance(result, list | tuple):
        return [_plain(value) for value in result]
    found = _plain(result)
    return found if isinstance(found, float) else type(result).__name__


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor) and value.ndim == 0:
        value = value.item()
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else value


@probe
def keys(result: dict[str, Any]) -> list[str]:
    return sorted(result)


@probe
def states(model: nn.Module) -> list[str]:
    """The training mode of every module, and of every parameter its dtype and whether it has a gradient."""
    modes = [f"{name or 'model'}: {'training' if module.training else 'evaluation'}" for name, module in model.named_modules()]
    return modes + [
        f"{name}: {parameter.dtype}, {'no' if parameter.grad is None else 'a'} gradient"
        for name, parameter in model.named_parameters()
    ]


@probe
def after_a_step(model: nn.Module, x: Tensor) -> dict[str, Any]:
    """The names of the trainable parameters, and every parameter after one step of gradient descent over those."""
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if trainable:
        model.zero_grad()
        (0.5 * model(x) ** 2).sum().backward()
        probes.step(trainable.values(), 0.1)
    return {"trainable": sorted(trainable), "parameters": dict(model.named_parameters())}
