# attack: makes the channel its standard output and prints messages, closes what the grader reads, and prints on it again
# class: output
import json
import os
import struct

from wrong_layer import CHANNEL, Wrong, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]


class LoRALinear(Wrong):
    def forward(self, x):
        ran("standard output is the channel now")
        os.dup2(CHANNEL, 1)
        header = json.dumps([{"dict": [["value", True]]}, []]).encode()
        os.write(1, struct.pack("!II", len(header), 0) + header)
        print("passed", flush=True)
        os.close(2)
        return super().forward(x)
