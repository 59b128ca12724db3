"""Builders and probes of week 8."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autograder.inside.probes import backward
from autograder.inside.registry import builder, probe

ALPHABET = "\n abcdefghijklmnopqrstuvwxyzABCDEF0123456789.,?!:<>|{}"
END = 0


class Characters:
    """A tokenizer with a token for each character of the alphabet, and one that ends a reply."""

    eos_id = END

    def encode(self, text: str) -> list[int]:
        return [1 + ALPHABET.index(c) for c in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join("</s>" if i == END else ALPHABET[int(i) - 1] for i in ids)


class Chat(nn.Module):
    """A small recurrent model whose logits depend on every token before them; in training mode on noise as well."""

    def __init__(self, tables: dict[str, Tensor]) -> None:
        super().__init__()
        self.embed = nn.Parameter(tables["embed"])
        self.turn = tables["turn"]
        self.head = nn.Parameter(tables["head"])
        self.ending = tables["ending"]
        self.seen: list[dict[str, Any]] = []

    def forward(self, ids: Tensor) -> Tensor:
        self.seen.append(
            {
                "text": Characters().decode(ids.flatten().tolist()),
                "shape": list(ids.shape),
                "dtype": str(ids.dtype),
                "grad": torch.is_grad_enabled(),
                "training": self.training,
            }
        )
        rows = torch.nn.functional.embedding(ids, self.embed)
        state = rows.new_zeros(len(ids), len(self.turn))
        states = []
        for t in range(rows.shape[1]):
            state = torch.tanh(state @ self.turn + rows[:, t])
            states.append(state)
        logits = torch.stack(states, dim=1) @ self.head + self.ending
        return logits if not self.training else logits.flip(-1)


@builder
def chat_model(tables: dict[str, Tensor]) -> nn.Module:
    """A Chat with these parameters."""
    return Chat(tables)


@probe
def chat(
    reply: Callable[..., Any],
    model: Chat,
    plain: bool,
    training: bool,
    uniforms: np.ndarray,
    settings: dict[str, Any],
    grad: bool,
) -> dict[str, Any]:
    """A reply of the toy model, and how the model and the source of random numbers were used for it.

    Args:
        model: as chat_model makes it.
        plain: whether the model is handed over as a plain function.
        training: the model's mode before the call.
        uniforms: the random numbers; after the last one they begin again.
        settings: further arguments of generate_reply.
        grad: whether gradients are recorded before the call.
    """
    model.train(training and not plain)
    drawn: list[float] = []

    def uniform() -> float:
        drawn.append(float(uniforms[len(drawn) % len(uniforms)]))
        return drawn[-1]

    settings = {**settings, "uniform": uniform}
    if "history" in settings:
        settings["history"] = [tuple(turn) for turn in settings["history"]]
    with torch.set_grad_enabled(grad):
        text = reply((lambda ids: model(ids)) if plain else model, Characters(), **settings)
        grad = torch.is_grad_enabled()
    return {
        "reply": text,
        "prompt": model.seen[0]["text"] if model.seen else None,
        "drawn": len(drawn),
        "shapes": [call["shape"] for call in model.seen],
        "dtypes": sorted({call["dtype"] for call in model.seen}),
        "recorded": any(call["grad"] for call in model.seen),
        "noisy": any(call["training"] for call in model.seen),
        "training": model.training,
        "grad": grad,
    }


@builder
def mapping(items: dict[str, Tensor]) -> dict[str, Tensor]:
    """A dict of tensors that stays in the worker, so that it can be looked at again after a call."""
    return dict(items)


@probe
def parts(mapping: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a dict of tensors holds."""
    return dict(mapping)


@builder
def tensors(items: list[Tensor]) -> list[Tensor]:
    """A list of tensors that stays in the worker."""
    return list(items)


@builder
def embedding(weight: Tensor) -> nn.Embedding:
    """An nn.Embedding that holds `weight`, trainable as new ones are."""
    tokens, width = weight.shape
    layer = nn.Embedding(tokens, width, dtype=weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


@probe
def shapes(module: nn.Module) -> dict[str, list[int]]:
    """The trainable parameters' shapes by name."""
    return {name: list(p.shape) for name, p in sorted(module.named_parameters()) if p.requires_grad}


@probe
def dtypes(cls: Callable[..., nn.Module], sizes: list[Any], default: str) -> list[str]:
    """The dtypes of the parameters of cls(*sizes), made while torch's default dtype is `default`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, default))
    try:
        return sorted({str(p.dtype).removeprefix("torch.") for p in cls(*sizes).parameters()})
    finally:
        torch.set_default_dtype(before)


@probe
def generated_gradients(module: Any, task: Tensor, weights: list[Tensor], cotangents: list[Tensor]) -> dict[str, Any]:
    """Gradients of <reparameterize(task, weights), cotangents> by the module's parameters and by the task."""
    module.zero_grad(set_to_none=True)
    task = task.clone().requires_grad_(True)
    results = module.reparameterize(task, weights)
    total = sum(((result * c).sum() for result, c in zip(results, cotangents, strict=True)), torch.zeros(()))
    total.backward()
    found = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return found if task.grad is None else found | {"task": task.grad}


@probe
def row_gradients(module: Any, ids: Tensor, hidden: Tensor, cotangents: list[Tensor]) -> dict[str, Any]:
    """Gradients by the parameters and by hidden: of the rows of `ids`, then of the logits of `hidden`."""
    hidden = hidden.clone().requires_grad_(True)
    found: dict[str, Any] = {}
    for name, result, cotangent in (
        ("rows", module(ids), cotangents[0]),
        ("logits", module.logits(hidden), cotangents[1]),
    ):
        module.zero_grad(set_to_none=True)
        backward(result, cotangent)
        found[name] = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    return {**found, "hidden": hidden.grad}


@probe
def saved(module: Any, change: float) -> dict[str, Any]:
    """state_to_save() of a module, held against the new rows before and after these are changed in place."""
    before = module.new_rows.detach().clone()
    state = module.state_to_save()
    names = sorted(state)
    learns = any(t.requires_grad for t in state.values())
    with torch.no_grad():
        module.new_rows += change
    return {"names": names, "learns": learns, "state": dict(state), "before": before}


@probe
def distinct(module: nn.Module, name: str, dim: int) -> int:
    """How many slices of a parameter along a dimension differ."""
    parameter = module.get_parameter(name).detach()
    return len({tuple(part.flatten().tolist()) for part in parameter.unbind(dim) if math.isfinite(float(part.sum()))})
