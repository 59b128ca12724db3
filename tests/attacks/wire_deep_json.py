# attack: a header that nests 900,000 deep, and one of a number with a million digits
# class: wire
import os
import struct

from wrong_layer import CHANNEL, Wrong, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]


class LoRALinear(Wrong):
    def forward(self, x):
        ran("JSON 900,000 deep")
        for header in (b"[" * 900_000, b"[" * 450_000 + b"]" * 450_000, b"[[1" + b"0" * 1_000_000 + b"],[]]"):
            os.write(CHANNEL, struct.pack("!II", len(header), 0) + header)
        return super().forward(x)
