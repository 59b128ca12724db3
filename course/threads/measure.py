"""Measures what no other machine will repeat to the digit, times, and keeps it in measured.json, which the pages show.

python course/threads/measure.py
"""

from __future__ import annotations

import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

KEPT = Path(__file__).with_name("measured.json")


def seconds(work: Callable[[], object]) -> float:
    """The wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ratio(slow: Callable[[], object], fast: Callable[[], object], rounds: int) -> float:
    """How many times as long the first takes: the median over pairs of calls in turn, so that a busy machine slows both."""
    slow(), fast()
    return median(seconds(slow) / seconds(fast) for _ in range(rounds))


def latency(width: int = 1024, layers: int = 8, rounds: int = 100) -> dict[str, float]:
    """Unmerged against merged, for one token and for a batch, on linear layers with LoRA of rank 16 by peft."""
    from peft import LoraConfig, get_peft_model

    def stack() -> Any:
        torch.manual_seed(0)
        return nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(layers)))

    names = [str(i) for i in range(layers)]
    unmerged = get_peft_model(stack(), LoraConfig(r=16, target_modules=names)).eval()
    merged = get_peft_model(stack(), LoraConfig(r=16, target_modules=names)).eval().merge_and_unload()
    found = {}
    with torch.inference_mode():
        for name, batch in (("one", 1), ("many", 512)):
            x = torch.randn(batch, width)
            found[name] = ratio(lambda: unmerged(x), lambda: merged(x), rounds)  # noqa: B023 - called at once
    return found


def attention(length: int = 1024, heads: int = 8, size: int = 64, rounds: int = 10) -> float:
    """Attention with its matrix of scores against PyTorch's fused one, forward, on this CPU."""
    q, k, v = (torch.randn(1, heads, length, size) for _ in range(3))
    mask = torch.full((length, length), -torch.inf).triu(1)

    def eager() -> torch.Tensor:
        return torch.softmax(q @ k.mT / size**0.5 + mask, -1) @ v

    with torch.inference_mode():
        return ratio(eager, lambda: nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True), rounds)


def preprocessing(rows: int = 20000) -> dict[str, float]:
    """`Dataset.map` of a tokenizer row by row, against batches, and against the cache of the run before."""
    import datasets

    from course.labs import text

    datasets.disable_progress_bars()
    _, tokenizer = text.base_model()
    data = {"text": [f"the film number {i} was good and the end of it was not" for i in range(rows)]}
    with tempfile.TemporaryDirectory() as folder:
        datasets.Dataset.from_dict(data).save_to_disk(folder)
        kept = datasets.load_from_disk(folder)

        def encode(batch: dict[str, list[str]]) -> Any:
            return tokenizer(batch["text"])

        took = {}
        for name, options in (("rows", {}), ("batched", {"batched": True}), ("cached", {"batched": True})):
            start = time.perf_counter()
            kept.map(encode, **options)
            took[name] = time.perf_counter() - start
    return {"batched": took["rows"] / took["batched"], "cached": took["batched"] / took["cached"]}


def main() -> None:
    """Measure everything and write the file."""
    found = {
        "machine": f"CPU, {platform.machine()}, one thread, torch {torch.__version__.split('+')[0]}",
        "latency": latency(),
        "attention": attention(),
        "preprocessing": preprocessing(),
    }
    KEPT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
