# attack: clone and clone3 with every flag that a filter may forget: namespaces, vfork, an open pidfd, a thread outside
# class: processes
import ctypes
import platform

from wrong_layer import Wrong as LoRALinear
from wrong_layer import inject_lora, ran, won

__all__ = ["LoRALinear", "inject_lora"]
libc = ctypes.CDLL(None, use_errno=True)
clone, clone3 = {"x86_64": (56, 435), "aarch64": (220, 435)}[platform.machine()]
FLAGS = {
    "a process": 17,
    "a vfork": 0x4000 | 0x100 | 17,
    "a user namespace": 0x10000000 | 17,
    "a PID namespace": 0x20000000 | 17,
    "a mount namespace": 0x00020000 | 17,
    "shared memory": 0x100 | 17,
    "a parent of the same": 0x8000 | 17,
    "an untraced one": 0x00800000 | 17,
    "high bits": 1 << 40 | 17,
}
for name, flags in FLAGS.items():
    result = libc.syscall(clone, ctypes.c_ulong(flags), None, None, None, None)
    if result == 0:
        libc._exit(0)
    (ran if result == -1 else won)(f"clone, {name}: {result}")
arguments = (ctypes.c_uint64 * 11)(0x10000000, 0, 0, 0, 17)
result = libc.syscall(clone3, ctypes.byref(arguments), ctypes.sizeof(arguments))
if result == 0:
    libc._exit(0)
(ran if result == -1 else won)(f"clone3: {result}")
