# attack: sleeps for ever in merge, using no CPU time at all
# class: time
import time

from wrong_layer import Wrong, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]


class LoRALinear(Wrong):
    def merge(self):
        ran("asleep")
        while True:
            time.sleep(1e6)
