# attack: carries a classmate's name in its files, its objects and its replies, and answers for the classmate too
# class: neighbours
import json
import os
import struct

from wrong_layer import CHANNEL, Wrong, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]
CLAIM = {
    "schema": 1,
    "student": "0-first",
    "week": 4,
    "status": "graded",
    "score": 0,
    "tasks": [],
    "key": "",
    "message": "copied",
}
LoRALinear = type("0-first", (Wrong,), {"student": "0-first", "__module__": "0-first"})


def forward(self, x):
    ran("answers for somebody else")
    line = json.dumps(CLAIM)
    print(line, flush=True)
    header = json.dumps([{"dict": [["value", line], ["student", "0-first"]]}, []]).encode()
    os.write(CHANNEL, struct.pack("!II", len(header), 0) + header)
    raise type("0-first: results.jsonl", (Exception,), {})(line)


LoRALinear.forward = forward
