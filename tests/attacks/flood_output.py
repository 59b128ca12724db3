# attack: 200 MB of output, to both streams, past the buffers of Python
# class: output
import os
import sys

from wrong_layer import Wrong, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]
ran("a flood begins")


class LoRALinear(Wrong):
    def forward(self, x):
        if not getattr(sys, "flooded", False):
            sys.flooded = True
            block = b"ATTACK " * 15_000
            for _ in range(1_000):
                os.write(1, block)
                os.write(2, block)
        return super().forward(x)
