"""Builders and probes of week 6: tokenizers, language models, judges and scalers small enough to be watched."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autograder.inside.registry import builder, probe


class PairTokenizer:
    """A character is a token, but for a line break, which makes one token together with what follows it.

    So the end of one text and the beginning of the next may become one token where the two are encoded together.
    """

    def __init__(self, eos: int, pad: int) -> None:
        self.eos_token_id, self.pad_token_id = eos, pad

    def encode(self, text: str) -> list[int]:
        return [10 + sum(ord(c) << 21 * i for i, c in enumerate(piece)) for piece in re.findall(r"\n.|.|\n", text)]


@builder
def tokenizer(eos: int, pad: int) -> PairTokenizer:
    return PairTokenizer(eos, pad)


class Watched(nn.Module):
    """A language model that writes down how it is called.

    Its logits at a position are a sum of rows of tables: one for the token there, one for the token before it, and so on,
    for `memory` tokens, as far as there are any and the attention mask lets them be seen. A table is a product of two
    factors, whose second one is a Linear, so that autocast has something to do.
    """

    def __init__(self, vocabulary: int, width: int, memory: int) -> None:
        super().__init__()
        self.embed = nn.ModuleList(nn.Embedding(vocabulary, width) for _ in range(memory))
        self.head = nn.Linear(width, vocabulary)
        self.events: list[str] = []
        self.seen: list[dict[str, Any]] = []
        self._inner: list[weakref.ref[Tensor]] = []

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        on = torch.is_autocast_enabled("cpu")
        self.events.append("forward")
        self.seen.append(
            {
                "autocast": str(torch.get_autocast_dtype("cpu")).removeprefix("torch.") if on else "off",
                "training": self.training,
                "grad": torch.is_grad_enabled(),
                "length": input_ids.shape[-1],
                "dims": input_ids.ndim,
                "graphs": sum(ref() is not None for ref in self._inner),  # of earlier calls, kept for a backward pass
            }
        )
        hidden: Any = 0.0
        for back, table in enumerate(self.embed):
            rows = table(input_ids)
            if attention_mask is not None:
                rows = rows * attention_mask[..., None].to(rows.dtype)
            hidden = hidden + nn.functional.pad(rows, (0, 0, back, 0))[:, : input_ids.shape[1]]
        if hidden.requires_grad:  # the head's backward pass needs it, and nobody else has it
            self._inner.append(weakref.ref(hidden))
        logits: Tensor = self.head(hidden)
        if logits.requires_grad:
            logits.register_hook(self._backward)  # type: ignore[no-untyped-call]
        return logits

    def _backward(self, gradient: Tensor) -> None:
        self.events.append("backward")


@builder
def language_model(
    seed: int, vocabulary: int, width: int, memory: int = 1, dtype: str = "float64", overflow: bool = False
) -> nn.Module:
    """A Watched model with parameters drawn by NumPy: small multiples of 1/4, so that half precision holds its logits exactly.

    Args:
        overflow: the gradient of the head's bias arrives as infinity.
    """
    model = Watched(vocabulary, width, memory).to(getattr(torch, dtype))
    rng = np.random.Generator(np.random.PCG64(seed))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(rng.integers(-4, 5, tuple(parameter.shape)) / 4))
    if overflow:
        model.head.bias.register_hook(lambda gradient: gradient + torch.inf)  # type: ignore[no-untyped-call]
    return model


@builder
def optimizer(model: nn.Module, lr: float, momentum: float = 0.0, groups: int = 1) -> torch.optim.Optimizer:
    trainable = list(filter(lambda p: p.requires_grad, model.parameters()))
    return torch.optim.SGD([{"params": trainable[i::groups]} for i in range(groups)], lr=lr, momentum=momentum)


@builder
def scaler(init_scale: float, growth_interval: int = 1) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=init_scale, growth_interval=growth_interval)


@builder
def batches(items: list[Any]) -> list[Any]:
    """A list of batches, which has a name in messages in place of all its numbers."""
    return items


@builder
def stale(model: nn.Module, value: float) -> nn.Module:
    """The model with a gradient of `value` everywhere, as an earlier pass might have left it."""
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, value)
    return model


@builder
def once(items: list[Any]) -> Iterator[Any]:
    """An iterator over the items, which can be read a single time."""
    return iter(items)


class Judge:
    """Prefers the reply with more of the letter x, and the first one where they differ by less than `margin`.

    On prompts that begin with "even" it sees no difference. On those that begin with "shy" it never says that the second
    is better.
    """

    def __init__(self, margin: int, answers: list[str]) -> None:
        self.margin, self.answers = margin, answers
        self.asked: list[list[str]] = []

    def __call__(self, prompt: str, first: str, second: str) -> str:
        self.asked.append([prompt, first, second])
        ahead = first.count("x") - second.count("x")
        if prompt.startswith("even") or (prompt.startswith("shy") and ahead < 0):
            return self.answers[2]
        return self.answers[0] if ahead > -self.margin else self.answers[1]


@builder
def judge(margin: int, answers: list[str]) -> Callable[[str, str, str], str]:
    """A Judge; `answers` are its words for the first, the second, and neither."""
    return Judge(margin, answers)


@builder
def interval() -> Callable[..., tuple[float, float]]:
    """Stands in for a bootstrap_ci that does not work yet; it is none, but shows which values and settings it was given."""

    def bootstrap_ci(values: Any, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
        weighted = sum((i + 1) * float(v) for i, v in enumerate(values))
        return weighted - level, weighted + resamples + seed

    return bootstrap_ci


@probe
def batch(found: Any) -> Any:
    """A dict's entries under the names of a batch."""
    return {name: found[name] for name in ("input_ids", "attention_mask", "labels")}


@probe
def parameters(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters())


@probe
def watched(model: Watched) -> dict[str, Any]:
    """What the model wrote down: its events in order, and how it was called."""
    return {"events": model.events, "seen": model.seen}


@probe
def grad_enabled() -> bool:
    """Whether gradients are recorded now; they are afterwards."""
    enabled = torch.is_grad_enabled()
    torch.set_grad_enabled(True)
    return enabled


@probe
def scale_of(scaler: torch.amp.GradScaler) -> float:
    return float(scaler.get_scale())


@probe
def asked(judge: Judge) -> list[list[str]]:
    return sorted(judge.asked)


@probe
def numbers(value: Any) -> Any:
    """Plain data in which every number is a float, whatever kind it was, a tensor of one number too."""
    if isinstance(value, dict):
        return {str(key): numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [numbers(item) for item in value]
    return float(value)


@probe
def kinds(value: Any) -> list[str]:
    """What the numbers in a value are: "number", or the name of their type."""
    items = value.values() if isinstance(value, dict) else [value]
    return sorted({"number" if isinstance(item, int | float | np.number) else type(item).__name__ for item in items})


@probe
def plain(value: Any) -> Any:
    """The value as it is."""
    return value


@probe
def each(function: Callable[..., Any], calls: list[list[Any]]) -> list[Any]:
    """What a function returns for each list of arguments: texts as they are, numbers as floats."""
    results = [function(*args) for args in calls]
    return [r if isinstance(r, str) else float(r) for r in results]
