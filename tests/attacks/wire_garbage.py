# attack: noise on the channel: short random messages with right lengths, then plain noise
# class: wire
import os
import struct

from wrong_layer import CHANNEL, Wrong, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]


class LoRALinear(Wrong):
    def forward(self, x):
        ran("noise on the channel")
        for size in range(0, 400, 7):
            os.write(CHANNEL, struct.pack("!II", size, size // 2) + os.urandom(size + size // 2))
        os.write(CHANNEL, os.urandom(4096))
        return super().forward(x)
