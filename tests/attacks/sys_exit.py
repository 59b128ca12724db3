# attack: SystemExit and KeyboardInterrupt from wherever student code is called
# class: processes
import sys

from wrong_layer import Wrong, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]


class LoRALinear(Wrong):
    def forward(self, x):
        ran("sys.exit(0) in forward")
        sys.exit(0)

    def merge(self):
        raise KeyboardInterrupt

    def set_rank(self, new_rank):
        raise GeneratorExit
