# attack: closes the channel, and puts another file in its place
# class: wire
import os

from wrong_layer import CHANNEL, Wrong, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]


class LoRALinear(Wrong):
    def forward(self, x):
        ran("the channel is closed")
        os.dup2(os.open(os.devnull, os.O_RDWR), CHANNEL)
        return super().forward(x)
