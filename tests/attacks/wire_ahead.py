# attack: thousands of well-formed replies written ahead of their requests, and then never a word read
# class: wire
import json
import os
import struct

from wrong_layer import CHANNEL, Wrong, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]
BODIES = (True, None, 0.0, {"dict": [["status", "passed"], ["score", 70]]}, [], "passed")


class LoRALinear(Wrong):
    def forward(self, x):
        ran("replies are written ahead")
        os.set_blocking(CHANNEL, False)
        try:
            for i in range(10_000):
                header = json.dumps([{"dict": [["value", BODIES[i % len(BODIES)]]]}, []]).encode()
                os.write(CHANNEL, struct.pack("!II", len(header), 0) + header)
        except BlockingIOError:
            ran(f"{i} replies fit")
        os.set_blocking(CHANNEL, True)
        return super().forward(x)
