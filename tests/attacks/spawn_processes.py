# attack: every way to make a process, to outlive the grading or to bomb: fork, vfork, clone, clone3, spawn, exec
# class: processes
import ctypes
import os
import platform
import subprocess
import sys

from wrong_layer import Wrong as LoRALinear
from wrong_layer import attempt, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]
libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {"x86_64": {"fork": 57, "vfork": 58, "clone": 56, "clone3": 435}, "aarch64": {"clone": 220, "clone3": 435}}


def raw(name, *arguments):
    pid = libc.syscall(NUMBERS[platform.machine()][name], *arguments)
    if pid == 0:
        os._exit(0)
    if pid < 0:
        raise OSError(ctypes.get_errno(), name)
    return pid


def fork():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    return pid


def multiprocess():
    import multiprocessing

    process = multiprocessing.get_context("spawn").Process(target=print)
    process.start()
    return process.pid


attempt("os.fork", fork)
for name in NUMBERS[platform.machine()]:
    attempt(f"{name}, raw", lambda name=name: raw(name, 17, 0, 0, 0, 0))
attempt("clone into a new user namespace", lambda: raw("clone", 0x10000000 | 17, 0, 0, 0, 0))
attempt("subprocess", lambda: subprocess.run([sys.executable, "-c", "1"], check=True))
attempt("os.system", lambda: 1 / (os.system("true") == 0))
attempt("posix_spawn", lambda: os.posix_spawn(sys.executable, ["python", "-c", "1"], {}))
attempt("multiprocessing", multiprocess)
attempt("execv", lambda: os.execv(sys.executable, [sys.executable, "-c", "1"]))
attempt("forkpty", os.forkpty)
ran("all ways tried")
