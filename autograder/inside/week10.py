"""Builders and probes of week 10: adapters as dicts, small classifiers, readers of token ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from autograder.inside.registry import builder, probe


@builder
def adapter(config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """An adapter in the form of the contract."""
    return {"config": config, "tensors": tensors}


@builder
def stand_ins() -> SimpleNamespace:
    """In the place of a canonicalize that does not work yet: some columns of the product, and what combines them to it."""

    def canonicalize(B: Tensor, A: Tensor, rtol: float = 1e-5) -> tuple[Tensor, Tensor]:
        whole = torch.mm(B.to(torch.float64), A.to(torch.float64))
        rest, chosen = whole, []
        while rest.norm() > rtol * whole.norm():
            chosen.append(int(rest.norm(dim=0).argmax()))
            basis, _ = torch.linalg.qr(whole[:, chosen])
            rest = whole - basis @ (basis.T @ whole)
        return whole[:, chosen], torch.linalg.pinv(whole[:, chosen]) @ whole

    return SimpleNamespace(canonicalize=canonicalize)


class _Gain(nn.Module):
    """Does one thing in training and another one in evaluation, without chance."""

    def forward(self, x: Tensor) -> Tensor:
        return 2.0 * x if self.training else x - 0.25


@builder
def classifier(weights: list[Tensor], training: bool) -> nn.Module:
    """Logits of flattened inputs, by a hidden layer; its last parameter is frozen, the others have a gradient stored."""
    first, second = (nn.Linear(w.shape[1], w.shape[0], dtype=w.dtype) for w in weights)
    with torch.no_grad():
        for layer, weight in zip((first, second), weights, strict=True):
            layer.weight.copy_(weight)
            layer.bias.copy_(weight[:, 0])
            layer.weight.grad, layer.bias.grad = weight + 1, weight[:, -1] + 1
    second.bias.requires_grad_(False)
    second.bias.grad = None
    model = nn.Sequential(nn.Flatten(), first, _Gain(), nn.Tanh(), second).train(training)
    model[3].train(not training)  # a part may be in another mode than the whole
    return model


@builder
def reader(embedding: Tensor, fade: float) -> Callable[[Tensor], Tensor]:
    """Logits of token ids: the sum of the tokens' rows of `embedding` (vocabulary, classes), each further one fainter."""

    def logits(tokens: Tensor) -> Tensor:
        weights = fade ** torch.arange(tokens.shape[1], dtype=embedding.dtype)
        return (embedding[tokens] * weights[:, None]).sum(dim=1)

    return logits


@probe
def contents(adapter: Any) -> Any:
    """What an adapter holds, by sorted keys, so that their order is no matter."""
    return _sorted(adapter)


def _sorted(value: Any) -> Any:
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


@probe
def shared(adapter: Any, other: Any) -> list[str]:
    """Where `adapter` holds a dict or a list that `other` holds as well."""
    known = {id(part) for _, part in _containers(other, "adapter")}
    return sorted(path for path, part in _containers(adapter, "adapter") if id(part) in known)


def _containers(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        yield path, value
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _containers(item, f"{path}[{key!r}]")


@probe
def given(value: Any) -> Any:
    """Whatever a call returned."""
    return value


@probe
def elsewhere(fingerprint: Callable[[Any], Any], adapter: Any) -> bool:
    """Whether a fingerprint stays the same where hash() gives other numbers, as Python's does in every process for texts."""
    first, scope = fingerprint(adapter), getattr(fingerprint, "__globals__", {"hash": None})
    if "hash" in scope:  # the student's own
        return True
    scope["hash"] = lambda value: hash(("elsewhere", value))
    try:
        return bool(fingerprint(adapter) == first)
    finally:
        del scope["hash"]


@probe
def state(model: nn.Module) -> dict[str, Any]:
    """What an attack has to leave alone: modes, and of each parameter its value, its gradient, whether it is trainable."""
    return {
        "modes": [module.training for module in model.modules()],
        "trainable": [p.requires_grad for p in model.parameters()],
        "values": {name: p for name, p in model.named_parameters()},
        "gradients": {name: p.grad for name, p in model.named_parameters() if p.grad is not None},
    }


@probe
def pairs(found: list[Any]) -> list[Any]:
    """Pairs of a token and a score, as lists; a score that is no float is what its type is called."""
    return [[int(token), score if isinstance(score, float) else type(score).__name__] for token, score in found]
