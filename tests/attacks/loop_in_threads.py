# attack: an endless loop in set_rank, in several threads and inside one call of C that holds the interpreter's lock
# class: time
import threading

from wrong_layer import Wrong, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]


class LoRALinear(Wrong):
    def set_rank(self, new_rank):
        ran("a loop without end")
        for _ in range(3):
            threading.Thread(target=lambda: 7**10_000_000).start()
        sum(iter(int, 1))
