# attack: signals to every process there may be: the judge, the zygote, siblings, groups
# class: neighbours
import ctypes
import os
import platform
import signal

from wrong_layer import Wrong as LoRALinear
from wrong_layer import attempt, inject_lora, ran, won

__all__ = ["LoRALinear", "inject_lora"]
# Signal 0 asks for the same permission as SIGKILL does; should the sandbox be broken, nobody is harmed.
me, reached = os.getpid(), []
for pid in [-1, 0, *range(1, 4000), os.getppid()]:
    if pid != me:
        try:
            os.kill(pid, 0)
            reached.append(pid)
        except OSError:
            pass
(won if reached else ran)(f"processes reached: {reached[:10]}")
attempt("killpg", lambda: os.killpg(os.getpgrp(), 0))
attempt("pidfd_open", lambda: os.pidfd_open(os.getppid() or 1))
libc = ctypes.CDLL(None, use_errno=True)


def tkill():
    if libc.syscall(200 if platform.machine() == "x86_64" else 130, 1, 0):
        raise OSError(ctypes.get_errno(), "tkill")


attempt("tkill", tkill)
attempt("setpriority", lambda: os.setpriority(os.PRIO_USER, 0, 19))
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGXCPU, signal.SIGCHLD, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
