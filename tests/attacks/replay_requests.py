# attack: reads every request, learns inputs, names and seeds, and plays later requests' values back as answers
# class: score
import gc

from wrong_layer import Wrong as LoRALinear
from wrong_layer import inject_lora, ran

from autograder.inside import wire
from autograder.inside.worker import Worker

__all__ = ["LoRALinear", "inject_lora"]
log = []
worker = next(thing for thing in gc.get_objects() if type(thing) is Worker)
honest = worker.handle


def arrays(value):
    if isinstance(value, wire.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from arrays(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from arrays(item)


def handle(message):
    log.extend(wire.loads(message))
    if len(log) < 40:
        ran(f"learnt: {[(o['op'], o.get('name'), o.get('seed')) for o in log]!r:.300}")
    reply = wire.loads(honest(message))
    value = reply.get("value")
    if isinstance(value, wire.Tensor):
        same = [a for a in arrays(log) if a.data.shape == value.data.shape and a.dtype == value.dtype]
        reply["value"] = same[-1] if same else value
    return wire.dumps(reply)


worker.handle = handle
ran("requests are read")
