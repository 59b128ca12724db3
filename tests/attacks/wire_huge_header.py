# attack: announces a header of 4 GiB and sends a part of it
# class: wire
import os
import struct

from wrong_layer import CHANNEL, Wrong, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]


class LoRALinear(Wrong):
    def forward(self, x):
        ran("a header of 4 GiB is announced")
        os.write(CHANNEL, struct.pack("!II", 0xFFFF_FFFF, 0) + b"[" * 60)
        return super().forward(x)
