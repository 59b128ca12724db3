# attack: locks, watches and maps the files that all submissions share, to hold up classmates or to pass answers on
# class: neighbours
import ctypes
import fcntl
import mmap
import os

import torch
from wrong_layer import Wrong as LoRALinear
from wrong_layer import attempt, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]
libc = ctypes.CDLL(None, use_errno=True)
for path in (os.__file__, torch.__file__):
    file = open(path, "rb")  # noqa: SIM115
    attempt("a lock", lambda file=file: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB), ["a lock"])
    attempt("a lease", lambda file=file: fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK), ["a lease"])
    attempt("a mapping to write to", lambda file=file: mmap.mmap(file.fileno(), 100, prot=mmap.PROT_WRITE))
    if os.getpid() == 1:  # elsewhere the file is the machine's own, and an attempt that works would stay
        attempt("a mark", lambda path=path: os.setxattr(path, "user.attack", b"x"))
        attempt("a time", lambda path=path: os.utime(path))
        attempt("a mode", lambda path=path: os.chmod(path, 0o644))
ran(f"inotify: {libc.inotify_init1(0)}, fanotify: {libc.fanotify_init(0, 0)}")
