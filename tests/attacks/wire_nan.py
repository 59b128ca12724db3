# attack: well-formed replies with NaN and infinity in all the ways that JSON and arrays can spell them
# class: wire
import json
import os
import struct

from wrong_layer import CHANNEL, Wrong, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]
NAN_BYTES = struct.pack("<d", float("nan")) * 12
BODIES = ({"tensor": [0, "float64"]}, {"array": 0}, float("nan"), float("inf"), {"float": "nan"}, {"float": "-inf"})


class LoRALinear(Wrong):
    def forward(self, x):
        ran("NaN in every spelling")
        for body in BODIES:
            for shape in ([4, 3], [12]):
                header = json.dumps([{"dict": [["value", body]]}, [["float64", shape]]]).encode()
                os.write(CHANNEL, struct.pack("!II", len(header), 96) + header + NAN_BYTES)
        header = b'[{"dict": [["value", 1e999]]}, []]'
        os.write(CHANNEL, struct.pack("!II", len(header), 0) + header)
        return super().forward(x)
