# attack: destructors, exit handlers, weak references and thread ends that never end, for when the process is told to go
# class: time
import atexit
import threading
import weakref

from wrong_layer import Wrong, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]


def forever(*_):
    while True:
        pass


class Stubborn:
    def __del__(self):
        forever()


atexit.register(forever)
threading._register_atexit(forever) if hasattr(threading, "_register_atexit") else None
ran("will not go")


class LoRALinear(Wrong):
    def forward(self, x):
        weakref.finalize(self, forever)
        raise SystemExit(0)

    def set_rank(self, new_rank):
        thing = Stubborn()
        ran("a destructor without end")
        del thing
