# attack: 60 MiB of ballast in every reply, well formed and within the limits, to fill the judge's memory
# class: wire
import numpy as np
from wrong_layer import Wrong as LoRALinear
from wrong_layer import inject_lora, ran

from autograder.inside import wire
from autograder.inside.worker import Worker

__all__ = ["LoRALinear", "inject_lora"]
BALLAST = np.zeros(60 << 20, np.uint8)
honest = Worker.handle


def handle(self, message):
    operations = wire.loads(message)
    reply = wire.loads(honest(self, message))
    if operations[-1]["op"] in ("read", "probe"):
        reply["value"] = {"": BALLAST}
    return wire.dumps(reply)


Worker.handle = handle
ran("replies of 60 MiB")
