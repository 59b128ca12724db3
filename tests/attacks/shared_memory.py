# attack: shared memory of every kind, which is charged to nobody: /dev/shm, POSIX, System V, memfd, torch's own
# class: memory
import ctypes
import os

import torch
from wrong_layer import Wrong as LoRALinear
from wrong_layer import attempt, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]
libc = ctypes.CDLL(None, use_errno=True)


def posix():
    fd = libc.shm_open(b"/attack-marker", os.O_RDWR | os.O_CREAT, 0o600)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "shm_open")
    return fd


def failing(result):
    if result == -1:
        raise OSError(ctypes.get_errno(), "refused")
    return result


attempt("/dev/shm", lambda: os.open("/dev/shm/attack-marker", os.O_CREAT | os.O_RDWR))
attempt("shm_open", posix)
attempt("shmget", lambda: failing(libc.shmget(7, 1 << 20, 0o1600)))
attempt("memfd", lambda: os.memfd_create("attack-marker"))
attempt("torch's", lambda: torch.ones(1 << 20).share_memory_())
attempt("mq_open", lambda: failing(libc.mq_open(b"/attack-marker", os.O_RDWR | os.O_CREAT, 0o600, None)))
ran("all kinds tried")
