"""What week 6's lab needs beside the student's file: a loop around the student's step, conversations and verdicts, intervals."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from course.labs import text
from course.labs.core import pick, progress, say
from course.labs.training import device, loggers, moved, schedule_factor

Batch = Mapping[str, Tensor]
Judge = Callable[[str, str, str], str]
Score = Callable[[str, str], float | None]


# --- training data ---


class Letters:
    """A tokenizer with one id for each character, whose padding is the end-of-sequence token, as with many models."""

    eos_token_id = pad_token_id = 0

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


# A batch for question 1: several turns, a system message, and a row that max_length=80 cuts within its last reply.
CONVERSATIONS: list[list[dict[str, str]]] = [
    [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "bye"},
        {"role": "assistant", "content": "see you"},
    ],
    [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}],
    [{"role": "user", "content": "name a city."}, {"role": "assistant", "content": "Paris, which is the capital of France."}],
]


def conversation(example: text.Example) -> list[dict[str, str]]:
    """An example as a conversation of one turn."""
    return [{"role": "user", "content": example.prompt}, {"role": "assistant", "content": example.completion}]


def marked(batch: Batch, tokenizer: Any, row: int = 0) -> str:
    """A row of a batch as text, with brackets around every token that has a label."""
    words = [tokenizer.decode([i]).replace("\n", "\\n") for i in batch["input_ids"][row].tolist()]
    return " ".join(
        word if label == text.IGNORED else f"[{word}]" for word, label in zip(words, batch["labels"][row].tolist(), strict=True)
    )


def tune(
    step: Callable[..., float], model: nn.Module, batches: Iterator[Sequence[Batch]], steps: int, rate: float, name: str
) -> list[float]:
    """Train what is trainable in a causal model by AdamW through the student's `train_step`.

    Ten steps of warm-up, then half a cosine to zero; gradients clipped to norm 1; bf16 autocast in the full profile. Logged for
    TensorBoard as `training.fit` does it.

    Args:
        step: `train_step` of week 6.
        batches: a list of micro-batches for each step.

    Returns:
        The loss before each step.
    """
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: schedule_factor(i, steps, 10, "cosine"))
    logits, kind, losses = text.Logits(model).train(), pick(tiny=None, full=torch.bfloat16), []
    with ExitStack() as stack:
        logs = loggers(name, stack)
        for number in progress(range(steps), name):
            there = moved(list(next(batches)), device())
            losses.append(step(logits, there, optimizer, autocast_dtype=kind, max_grad_norm=1.0))
            schedule.step()
            for log in logs:
                log({"loss": losses[-1]}, number)
    model.eval()
    return losses


@torch.no_grad()
def predictions(model: nn.Module, batches: Sequence[Batch]) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs (logits, labels) for the student's `perplexity`, one for each batch."""
    for batch in batches:
        there = moved(dict(batch), device())
        yield text.Logits(model)(there["input_ids"], there["attention_mask"]), there["labels"]


# --- evaluation ---


def verdicts(count: int = 40, seed: int = 6) -> list[tuple[str, str]]:
    """What a judge that likes the first reply said of pairs of replies: with A's reply first, and with B's reply first."""
    rng = Random(seed)
    weights = {"A": ("first", "second"), "B": ("second", "first")}
    found = []
    for _ in range(count):
        better = rng.choice("AAB")
        kind = rng.random()
        pair = weights[better] if kind < 0.5 else ("first", "first") if kind < 0.8 else ("tie", rng.choice(("tie", "first")))
        found.append(pair)
    return found


def interval(scores: Sequence[float], level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """The percentile bootstrap of the mean, by SciPy; one point where all scores are equal."""
    from scipy.stats import bootstrap

    if len(set(scores)) == 1:
        return scores[0], scores[0]
    found = bootstrap(
        (np.asarray(scores),),
        np.mean,
        confidence_level=level,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def report(lines: Sequence[str], judge: Judge, score: Score) -> dict[str, dict[str, float]]:
    """The rates at which A wins, overall and in each category, with their intervals; empty while `score` returns None.

    Args:
        lines: JSONL, with "category", "prompt", "reply_a" and "reply_b".
        judge: judge(prompt, first, second) says "first", "second" or "tie".
        score: score(verdict with A first, verdict with B first) is 1, 0.5 or 0.

    Returns:
        By category, and for "overall": n, win_rate, low, high.
    """
    if score("tie", "tie") is None:
        print(say("Write `score` in question 2 first.", "请先在问题 2 中写出 `score`。"))
        return {}
    found: dict[str, list[float]] = {"overall": []}
    for line in lines:
        item = json.loads(line)
        a, b = item["reply_a"], item["reply_b"]
        value = score(judge(item["prompt"], a, b), judge(item["prompt"], b, a))
        for group in ("overall", item["category"]):
            found.setdefault(group, []).append(float(value or 0))
    table = {}
    for group, values in found.items():
        low, high = interval(values)
        table[group] = {"n": len(values), "win_rate": float(np.mean(values)), "low": low, "high": high}
    return table


# --- merging ---


def updates(model: Any) -> list[tuple[Tensor, Tensor]]:
    """For each layer with LoRA by peft: its weight and its update (alpha / r) B A."""
    from peft.tuners.lora import LoraLayer

    layers: list[Any] = [part for part in model.modules() if isinstance(part, LoraLayer)]
    return [(layer.get_base_layer().weight.detach(), layer.get_delta_weight("default").detach()) for layer in layers]
