# attack: short replies whose arrays have a shape of 128 TiB, of objects, of negative and of fractional sizes
# class: wire
import json
import os
import struct

from wrong_layer import CHANNEL, Wrong, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]
SPECS = (
    ["float64", [2**22, 2**22]],
    ["float64", [2**26, 2**26, 2**26, 0]],
    ["float64", [-1]],
    ["float64", [2.0]],
    ["float64", [True]],
    ["float64", [1] * 40],
    ["object", [1]],
    ["O", [1]],
    ["U1000000000", [1]],
    ["V1073741824", [1]],
)


class LoRALinear(Wrong):
    def forward(self, x):
        ran(f"{len(SPECS)} forged shapes")
        for spec in SPECS:
            header = json.dumps([{"dict": [["value", {"tensor": [0, "float64"]}]]}, [spec]]).encode()
            os.write(CHANNEL, struct.pack("!II", len(header), 8) + header + bytes(8))
        return super().forward(x)
