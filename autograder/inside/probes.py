"""Small functions of ours that work on a student's objects in the worker and return data.

They compute nothing that a check compares against: the judge does that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

PROBES: dict[str, Callable[..., Any]] = {}


def probe(function: Callable[..., Any]) -> Callable[..., Any]:
    PROBES[function.__name__] = function
    return function


@probe
def vjp(module: nn.Module, x: Tensor, cotangent: Tensor) -> dict[str, Any]:
    """The output at x, and the gradients of <output, cotangent> by x and by every parameter that got one."""
    x = x.clone().requires_grad_(True)
    module.zero_grad(set_to_none=True)
    y = module(x)
    y.backward(cotangent)
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return {"y": y, "x": x.grad, "parameters": gradients}


@probe
def train(module: nn.Module, x: Tensor, target: Tensor, lr: float, steps: int) -> dict[str, Tensor]:
    """Every parameter after some steps of gradient descent on the squared error, over what is trainable."""
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        (0.5 * (module(x) - target) ** 2).sum().backward()
        optimizer.step()
    return dict(module.named_parameters())


@probe
def trainable_names(module: nn.Module) -> list[str]:
    return sorted(name for name, p in module.named_parameters() if p.requires_grad)


@probe
def same(first: Any, second: Any) -> bool:
    """Whether two references lead to one object."""
    return first is second


@probe
def modules_of_type(module: nn.Module, cls: type) -> list[str]:
    """The names at which modules of a class stand, each name of a shared module included."""
    return sorted(n for n, m in module.named_modules(remove_duplicate=False) if isinstance(m, cls))
