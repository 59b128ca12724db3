# attack: announces arrays of 4 GiB behind a valid header of an array of 2^40 bytes
# class: wire
import json
import os
import struct

from wrong_layer import CHANNEL, Wrong, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]


class LoRALinear(Wrong):
    def forward(self, x):
        header = json.dumps([{"dict": [["value", {"array": 0}]]}, [["uint8", [2**40]]]]).encode()
        ran("a blob of 2^40 bytes is announced")
        os.write(CHANNEL, struct.pack("!II", len(header), 0xFFFF_FFFF) + header)
        return super().forward(x)
