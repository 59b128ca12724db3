# attack: replies in UTF-16, with doubled keys, numbers of 4,000 digits or beyond infinity, and 50,000 values
# class: wire
import json
import os
import struct

from wrong_layer import CHANNEL, Wrong, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]
VALUE = '[{"dict": [["value", %s]]}, []]'
HEADERS = [
    (VALUE % "true").encode("utf-16"),
    b"\xef\xbb\xbf" + (VALUE % "true").encode(),
    b'[{"dict": [["value", 1]], "dict": [["value", true]]}, []]',
    b'[{"dict": [["value", 1], ["value", true]]}, []]',
    (VALUE % ("9" * 4000)).encode(),
    (VALUE % ("9" * 5000)).encode(),
    (VALUE % "1e999").encode(),
    (VALUE % "-0.0").encode(),
    (VALUE % '{"float": "NaN"}').encode(),
    (VALUE % json.dumps([0] * 49_000)).encode(),
    (VALUE % json.dumps([[]] * 60_000)).encode(),
    (VALUE % '"\\ud800\\u0000\\u202e"').encode(),
    (VALUE % '{"ref": [0, "__class__", "__subclasses__"]}').encode(),
]


class LoRALinear(Wrong):
    def forward(self, x):
        ran(f"{len(HEADERS)} odd headers")
        for header in HEADERS:
            os.write(CHANNEL, struct.pack("!II", len(header), 0) + header)
        return super().forward(x)
