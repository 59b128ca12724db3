# attack: 4 GiB at once, in a map, as many small pieces and by torch
# class: memory
import mmap

import torch
from wrong_layer import Wrong, attempt, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]


def pieces():
    held = []
    while True:
        held.append(bytearray(16 << 20))


class LoRALinear(Wrong):
    def forward(self, x):
        attempt("4 GiB of bytes", lambda: len(bytearray(4 << 30)))
        attempt("a map of 16 GiB", lambda: mmap.mmap(-1, 16 << 30))
        attempt("a tensor of 8 GiB", lambda: torch.ones(1 << 30, dtype=torch.float64).sum())
        attempt("pieces", pieces)
        ran("memory is asked for")
        return super().forward(x)
