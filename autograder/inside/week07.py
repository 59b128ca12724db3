"""Builders and probes of week 7: adapters in a batch, and a small causal model whose adapter layers can be switched off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autograder.inside.probes import backward
from autograder.inside.registry import builder, probe


@builder
def leaf(value: Tensor) -> Tensor:
    """The tensor, requiring a gradient."""
    return value.requires_grad_(True)


@builder
def shared(value: Tensor) -> Tensor:
    """A tensor that several layers are given."""
    return value


@probe
def batch_gradients(
    function: Callable[..., Any], base: nn.Linear, adapters: list[Any], x: Tensor, ids: Tensor, cotangent: Tensor
) -> dict[str, Any]:
    """The gradients of <function(base, adapters, x, ids), cotangent> by x and by both factors of every adapter."""
    leaves = [x, *(factor for A, B, _ in adapters for factor in (A, B))]
    for tensor in leaves:
        tensor.requires_grad_(True)
    backward(function(base, adapters, x, ids), cotangent)
    return {"x": x.grad, "factors": [tensor.grad for tensor in leaves[1:]]}


@probe
def buffers(module: nn.Module) -> list[str]:
    return sorted(name for name, _ in module.named_buffers())


@probe
def parameters(module: nn.Module) -> list[str]:
    return sorted(name for name, _ in module.named_parameters())


@probe
def same_memory(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are one in memory: no copy was made."""
    return first.data_ptr() == second.data_ptr()


@probe
def dict_of(value: Any) -> Any:
    """A dict as it is; of anything else the name of its type."""
    return value if isinstance(value, dict) else type(value).__name__


class Switched(nn.Module):
    """An adapter layer of no known kind: while it is not enabled, it is its base."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.base = nn.Linear(width, width).requires_grad_(False)
        self.gain = nn.Parameter(torch.empty(width))
        self.enabled = True

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        return y + torch.sin(self.gain * y) if self.enabled else y


class Policy(nn.Module):
    """A causal language model: the logits at a position depend on the tokens up to it, by their running mean.

    `scale` is trainable and no adapter's; embedding and head are frozen. In evaluation mode it computes something else, as a
    model with dropout does, so that a reference in another mode than the model's shows.
    """

    def __init__(self, vocabulary: int, width: int, sharpness: float, needs_adapters: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width).requires_grad_(False)
        self.first = Switched(width)
        self.inner = nn.ModuleDict({"second": Switched(width), "third": Switched(width)})
        self.scale = nn.Parameter(torch.empty(width))
        self.head = nn.Linear(width, vocabulary).requires_grad_(False)
        self.sharpness, self.needs_adapters = sharpness, needs_adapters

    def forward(self, tokens: Tensor) -> Tensor:
        layers = [self.first, self.inner["second"], self.inner["third"]]
        if self.needs_adapters and not any(layer.enabled for layer in layers):
            raise RuntimeError("this model does not work without its adapters")
        counts = torch.arange(1, tokens.shape[1] + 1)[:, None]
        x = self.embed(tokens).cumsum(dim=1) / counts
        for layer in layers:
            x = torch.tanh(layer(x)) * (1.0 if self.training else 0.5)
        result: Tensor = self.sharpness * self.head(self.scale * x)
        return result


class SwitchedPolicy(Policy):
    """A Policy that is an adapter layer itself."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.enabled = True

    def forward(self, tokens: Tensor) -> Tensor:
        logits = super().forward(tokens)
        return logits + torch.sin(logits) if self.enabled else logits


@builder
def policy(
    seed: int,
    vocabulary: int,
    width: int,
    disabled: list[str],
    sharpness: float = 1.0,
    itself: bool = False,
    needs_adapters: bool = False,
) -> nn.Module:
    """A float64 Policy in training mode, its parameters drawn by NumPy.

    Args:
        disabled: names of the adapter layers that the caller has switched off.
        sharpness: factor of the logits.
        itself: whether the whole model is an adapter layer too.
        needs_adapters: whether it raises when no adapter is enabled.
    """
    model = (SwitchedPolicy if itself else Policy)(vocabulary, width, sharpness, needs_adapters).double()
    rng = np.random.Generator(np.random.PCG64(seed))
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            parameter.copy_(torch.from_numpy(rng.standard_normal(tuple(parameter.shape))))
    for name in disabled:
        model.get_submodule(name).enabled = False  # type: ignore[assignment]
    return model


@probe
def enabled(model: nn.Module) -> dict[str, Any]:
    """What each adapter layer's switch says, by the layer's name."""
    return {name: module.enabled for name, module in model.named_modules() if isinstance(module, Switched | SwitchedPolicy)}


@probe
def loss_gradients(loss: Callable[..., Any], model: nn.Module, arguments: list[Tensor], beta: float) -> dict[str, Any]:
    """loss(model, *arguments, beta), its gradients by the model's parameters that got one, and the model's mode after it."""
    value = loss(model, *arguments, beta)
    value.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": value, "gradients": gradients, "training": model.training}
