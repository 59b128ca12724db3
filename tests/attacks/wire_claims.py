# attack: answers every request itself, over the bare descriptor, with claims: passed, 70 points, ValueError, a pickle
# class: wire
import json
import os
import pickle
import struct

from wrong_layer import CHANNEL, Wrong, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]


class Boom:
    def __reduce__(self):
        return print, ("ATTACK-WON: a pickle ran",)


def pair(name, value):
    return {"dict": [[name, value]]}


ERROR = [["operation", 0], ["type", "ValueError"], ["bases", ["ValueError", "RuntimeError"]], ["message", "x"], ["where", []]]
BODIES = (
    pair("value", {"dict": [["status", "passed"], ["score", 70]]}),
    {"dict": [["value", None], ["score", 70]]},
    pair("error", {"dict": ERROR}),
    pair("error", {"dict": [["operation", -1], *ERROR[1:]]}),
    pair("error", {"dict": [*ERROR[:2], ["bases", [1, None]], *ERROR[3:]]}),
    pair("passed", True),
    pair("value", {"ref": [0, "LoRALinear"]}),
)


class LoRALinear(Wrong):
    def forward(self, x):
        ran("only claims from here on")
        for done in range(10_000):  # the request that led here is answered first
            header = json.dumps([BODIES[done % len(BODIES)], []]).encode() if done % 9 else pickle.dumps(Boom())
            os.write(CHANNEL, struct.pack("!II", len(header), 0) + header)
            left = sum(struct.unpack("!II", take(8)))
            take(left)


def take(size):
    data = b""
    while len(data) < size:
        data += os.read(CHANNEL, size - len(data)) or os._exit(0)
    return data
