# attack: writes to address 0, and when that does not end it, jumps into nothing
# class: processes
import ctypes

from wrong_layer import Wrong, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]


class LoRALinear(Wrong):
    def merge(self):
        ran("segmentation fault")
        ctypes.memset(0, 0, 4096)
        ctypes.CFUNCTYPE(None)(8)()
