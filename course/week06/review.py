"""Find the bug. This file runs, its loss falls, and it has five bugs.

It fine-tunes a small language model on question and answer pairs, with gradient accumulation, and reports the perplexity of
a text. Your job: find each bug, say in which line it is, what goes wrong because of it, and how you would mend it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EOS = PAD = 0


def encode(text: str) -> list[int]:
    return [1 + b % 62 for b in text.encode()]


def make_batch(pairs: list[tuple[str, str]]) -> tuple[Tensor, Tensor]:
    """Ids and labels; the question is not learned."""
    questions = [encode(f"Q: {question}\nA: ") for question, _ in pairs]
    answers = [encode(answer) for _, answer in pairs]
    longest = max(len(q) + len(a) for q, a in zip(questions, answers, strict=True)) + 1
    ids = torch.full((len(pairs), longest), PAD)
    for row, q, a in zip(ids, questions, answers, strict=True):
        row[: len(q) + len(a) + 1] = torch.tensor([*q, *a, EOS])
    labels = ids.clone()
    for row, q in zip(labels, questions, strict=True):
        row[: len(q)] = -100
    labels[ids == PAD] = -100
    return ids, labels


def loss_of(model: nn.Module, ids: Tensor, labels: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(ids)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def train_step(model: nn.Module, batches: list[tuple[Tensor, Tensor]], optimizer: torch.optim.Optimizer) -> float:
    """One step on several micro-batches."""
    optimizer.zero_grad()
    total = 0.0
    for ids, labels in batches:
        loss = loss_of(model, ids, labels) / len(batches)
        loss.backward()
        total += loss.item()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return total


@torch.no_grad()
def evaluate(model: nn.Module, text: str, window: int = 16) -> float:
    """The perplexity of a long text with a sliding window, in which every token has at least half a window of context."""
    ids = torch.tensor(encode(text))
    stride = window // 2
    losses = []
    for begin in range(0, len(ids) - stride, stride):
        part = ids[begin : begin + window]
        losses.append(F.cross_entropy(model(part[None])[0, :-1], part[1:], reduction="none"))
    return float(torch.cat(losses).mean().exp2())


if __name__ == "__main__":
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(64, 32), nn.Linear(32, 64))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    data = [[("2 + 2?", "4"), ("3 + 4?", "7")], [("The capital of France, in one word?", "Paris, a city on the Seine")]]
    for _ in range(30):
        loss = train_step(model, [make_batch(pairs) for pairs in data], optimizer)
    print(f"loss {loss:.3f}, perplexity {evaluate(model, 'A text that is longer than one window of the model.'):.1f}")
