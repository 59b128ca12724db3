# attack: maps, reserves and locks more memory than it has, from C, where no allocator of Python's counts
# class: memory
import ctypes
import mmap

from wrong_layer import Wrong, attempt, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]
libc = ctypes.CDLL(None, use_errno=True)
libc.malloc.restype = libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
kept = []


class LoRALinear(Wrong):
    def forward(self, x):
        attempt("16 GiB, not reserved", lambda: mmap.mmap(-1, 16 << 30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000))
        attempt("16 GiB, shared", lambda: mmap.mmap(-1, 16 << 30))
        attempt("locked memory", lambda: 1 / (libc.mlockall(1) == 0))
        for _ in range(100_000):
            block = libc.malloc(64 << 20)
            if not block:
                break
            ctypes.memset(block, 1, 64 << 20)
            kept.append(block)
        ran(f"{len(kept) * 64} MiB by malloc")
        return super().forward(x)
