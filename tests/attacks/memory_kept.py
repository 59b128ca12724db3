# attack: takes all the memory it may have and keeps it, so that the worker's own answers find none
# class: memory
from wrong_layer import Wrong, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]
held = []


class LoRALinear(Wrong):
    def forward(self, x):
        for size in (64 << 20, 1 << 20, 1 << 16, 1 << 12, 256):
            try:
                while True:
                    held.append(bytes(size))
            except MemoryError:
                pass
        ran(f"{len(held)} pieces are kept")
        return super().forward(x)
