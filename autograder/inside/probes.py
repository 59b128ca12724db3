"""Small functions of ours that work on a student's objects in the worker and return data.

They compute nothing that a check compares against: the judge does that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from autograder.inside.registry import probe


def backward(output: Tensor, cotangent: Tensor) -> None:
    """What output.backward(cotangent) does; that imports SymPy at its first call, as long as all of torch takes."""
    if output.shape != cotangent.shape:
        raise RuntimeError(f"an output of shape {tuple(output.shape)} where {tuple(cotangent.shape)} was expected")
    torch.autograd.backward((output * cotangent).sum())


@torch.no_grad()
def step(parameters: Iterable[Tensor], lr: float) -> None:
    """One step of gradient descent, as torch.optim.SGD takes it; that imports torch's compiler when it is first made."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.add_(parameter.grad, alpha=-lr)


@probe
def vjp(module: nn.Module, x: Tensor, cotangent: Tensor) -> dict[str, Any]:
    """The output at x, and the gradients of <output, cotangent> by x and by every parameter that got one."""
    x = x.clone().requires_grad_(True)
    module.zero_grad(set_to_none=True)
    y = module(x)
    backward(y, cotangent)
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return {"y": y, "x": x.grad, "parameters": gradients}


@probe
def train(module: nn.Module, x: Tensor, target: Tensor, lr: float, steps: int) -> dict[str, Tensor]:
    """Every parameter after some steps of gradient descent on the squared error, over what is trainable."""
    for _ in range(steps):
        module.zero_grad()
        (0.5 * (module(x) - target) ** 2).sum().backward()
        step(module.parameters(), lr)
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


@probe
def passes(
    module: nn.Module, block: nn.Module, calls: list[Any], cotangents: list[Tensor], leaf: bool, seed: int, tell: list[str]
) -> dict[str, Any]:
    """Calls of `module` one after the other, then as many backward passes, and what became of `block` inside it.

    Args:
        calls: [positional arguments, keyword arguments] of each.
        cotangents: the gradient that each output gets.
        leaf: whether the tensors among the arguments require a gradient.
        tell: what to return of the following.

    Returns:
        outputs; parameters: gradients by their names in `block`; inputs: gradients of the tensors among the arguments;
        calls: how often block's forward has run, after the first half and at the end; kept: how many numbers autograd
        stored meanwhile that are neither arguments, parameters nor outputs; next: the generator's next number.
    """
    torch.default_generator.manual_seed(seed)
    block.zero_grad(set_to_none=True)
    tensors = [t for args, kwargs in calls for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
    for tensor in tensors:
        tensor.requires_grad_(leaf)
    stored: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        stored.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = [module(*args, **kwargs) for args, kwargs in calls]
    known = [*tensors, *outputs, *module.parameters(), *block.parameters()]
    # A single number is no activation: some ways to checkpoint carry the graph by one.
    inside = [t for t in stored if t.is_floating_point() and t.numel() > 1 and not any(_alike(t, other) for other in known)]
    kept = sum({t.untyped_storage().data_ptr(): t.numel() for t in inside}.values())
    inside.clear()
    stored.clear()
    counts = [getattr(block, "calls", 0)]
    torch.rand(())  # the generator goes on between the halves
    for output, cotangent in zip(outputs, cotangents, strict=True):
        if output.requires_grad:
            backward(output, cotangent)
    found = {
        "outputs": outputs,
        "parameters": {name: p.grad for name, p in block.named_parameters() if p.grad is not None},
        "inputs": [tensor.grad for tensor in tensors],
        "calls": [*counts, getattr(block, "calls", 0)],
        "kept": kept,
        "next": torch.rand((), dtype=torch.float64),
    }
    return {name: found[name] for name in tell}


def _alike(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors share their memory, or hold the same numbers."""
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr() or (a.dtype == b.dtype and torch.equal(a, b))


@probe
def computes(module: nn.Module, block: nn.Module, x: Tensor, training: bool, grad: bool, seed: int) -> dict[str, Any]:
    """One call in a mode, with or without gradients enabled, and how often block's forward ran for it."""
    torch.default_generator.manual_seed(seed)
    module.train(training)
    before = getattr(block, "calls", 0)
    with torch.set_grad_enabled(grad):
        y = module(x)
    return {"y": y, "calls": getattr(block, "calls", 0) - before, "training": block.training}


@probe
def names_in(module: nn.Module, block: nn.Module) -> list[str]:
    """The parameters of `module` by the names that `block` has for the same objects."""
    known = {id(p): name for name, p in block.named_parameters()}
    return sorted(known.get(id(p), "a parameter that is not the block's") for p in module.parameters())


@probe
def rates(model: nn.Module, groups: list[dict[str, Any]]) -> dict[str, Any]:
    """Of parameter groups: how often each parameter of the model is listed, its learning rate, and further options."""
    names = {id(p): name for name, p in model.named_parameters()}
    listed: list[str] = []
    rate: dict[str, Any] = {}
    for group in groups:
        for parameter in group["params"]:
            name = names.get(id(parameter), "a parameter that is not the model's")
            listed.append(name)
            rate[name] = group.get("lr")
    return {"listed": sorted(listed), "rate": rate, "options": sorted({key for group in groups for key in group})}


@probe
def descend(model: nn.Module, groups: list[dict[str, Any]], optimizer: str, x: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Every parameter after three steps of a torch optimizer, built from the groups, on the squared error."""
    options = {"lr": 0.0, "weight_decay": 0.1}  # what a group does not say itself
    built = getattr(torch.optim, optimizer)(groups, **options)
    for _ in range(3):
        built.zero_grad()
        (0.5 * (model(x) - target) ** 2).mean().backward()
        built.step()
    return dict(model.named_parameters())
