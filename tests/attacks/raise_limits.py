# attack: lifts its own limits, its schedule and its memory policy
# class: time
import ctypes
import os
import resource

from wrong_layer import Wrong as LoRALinear
from wrong_layer import attempt, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]
NONE = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
for name in ("CPU", "AS", "FSIZE", "NOFILE", "CORE", "MEMLOCK"):
    which = getattr(resource, f"RLIMIT_{name}")
    attempt(f"RLIMIT_{name}", lambda which=which: resource.setrlimit(which, NONE))
    attempt(f"RLIMIT_{name} of the parent", lambda which=which: resource.prlimit(os.getppid() or 2, which, NONE))
attempt("nice", lambda: os.nice(-20))
attempt("real time", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50)))
attempt("affinity", lambda: os.sched_setaffinity(0, {0}))
attempt("setuid", lambda: os.setuid(12345))
attempt("setgroups", lambda: os.setgroups([0, 6]))
libc = ctypes.CDLL(None, use_errno=True)
ran(f"mlockall: {libc.mlockall(3)}")
