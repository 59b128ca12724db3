# attack: error reports of a megabyte and of 40,000 parts, to bloat the results and to slow the judge
# class: wire
from wrong_layer import Wrong as LoRALinear
from wrong_layer import inject_lora, ran

from autograder.inside import wire
from autograder.inside.worker import Worker

__all__ = ["LoRALinear", "inject_lora"]
LONG = "<b>" * 330_000
turn = 0


def handle(self, message):
    global turn
    turn += 1
    operations = wire.loads(message)
    if turn == 1:  # let the import pass
        return wire.dumps({"value": None})
    if turn % 2:
        return wire.dumps({"value": [[]] * 40_000})
    error = {"operation": len(operations) - 1, "type": "Error", "bases": ["Error"], "message": LONG, "where": ["w"] * 1000}
    return wire.dumps({"error": error})


Worker.handle = handle
ran("words without end")
