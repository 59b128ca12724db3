"""What the references cost beside the libraries that they are tested against, on a CPU with one thread.

    python benchmarks/reference.py [--rounds 30]

NF4: quantisation and dequantisation of a 1024 x 1024 float32 weight in blocks of 64, beside bitsandbytes, whose codes are
packed by two. LoRA: forward and backward of one 1024 x 1024 linear layer, rank 8, on 8 x 128 tokens, beside peft.

The two sides of a comparison take turns, each going first in every other round. Printed are the median times and the ratio of
the library's median to the reference's: above 1 the reference is faster.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

os.environ.setdefault("OMP_NUM_THREADS", "1")

import bitsandbytes.functional as bnb
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

SOLUTIONS = Path(__file__).resolve().parents[1] / "solutions"
SIZE, BLOCK, RANK, ALPHA = 1024, 64, 8, 16.0

Sides = tuple[Callable[[], object], Callable[[], object]]  # ours, the library's


def reference(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, SOLUTIONS / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def nf4_sides() -> dict[str, Sides]:
    nf4 = reference("week05/nf4.py")
    x = torch.randn(SIZE, SIZE)
    codes, absmax = nf4.quantize_nf4(x, BLOCK)
    packed, state = bnb.quantize_4bit(x, blocksize=BLOCK, quant_type="nf4")
    return {
        "NF4 quantise": (
            lambda: nf4.quantize_nf4(x, BLOCK),
            lambda: bnb.quantize_4bit(x, blocksize=BLOCK, quant_type="nf4"),
        ),
        "NF4 dequantise": (lambda: nf4.dequantize_nf4(codes, absmax, BLOCK), lambda: bnb.dequantize_4bit(packed, state)),
    }


def lora_sides() -> dict[str, Sides]:
    x, gradient = torch.randn(8, 128, SIZE, requires_grad=True), torch.randn(8, 128, SIZE)
    ours = reference("week04/lora_linear.py").LoRALinear(nn.Linear(SIZE, SIZE), RANK, ALPHA)
    model = nn.ModuleDict({"q": nn.Linear(SIZE, SIZE)})
    inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["q"]), model)

    def step(layer: nn.Module) -> Callable[[], object]:
        def run() -> None:
            layer.zero_grad()
            x.grad = None
            layer(x).backward(gradient)

        return run

    return {"LoRA forward and backward": (step(ours), step(model["q"]))}


def seconds(side: Callable[[], object]) -> float:
    start = time.perf_counter()
    side()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="turns that each side takes")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{'medians, one thread':26} {'reference':>12} {'library':>12} {'ratio':>7}")
    for name, sides in (nf4_sides() | lora_sides()).items():
        for side in sides:
            side()
        times: tuple[list[float], list[float]] = ([], [])
        for turn in range(rounds):
            for which in (0, 1) if turn % 2 else (1, 0):
                times[which].append(seconds(sides[which]))
        mine, theirs = (statistics.median(t) for t in times)
        print(f"{name:26} {1e3 * mine:9.2f} ms {1e3 * theirs:9.2f} ms {theirs / mine:7.2f}")


if __name__ == "__main__":
    main()
