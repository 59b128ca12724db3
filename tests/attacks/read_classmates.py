# attack: reads the files of classmates and of the other tasks of its own: siblings' folders, shared memory, descriptors
# class: neighbours
import contextlib
import os
import stat

from wrong_layer import Wrong as LoRALinear
from wrong_layer import attempt, inject_lora, ran, won

__all__ = ["LoRALinear", "inject_lora"]
mine = {"lora_linear.py", "wrong_layer.py", "__pycache__"}
for folder in ("/submission", "/submission/..", os.path.dirname(__file__), "/tmp", "/dev/shm"):
    try:
        other = [n for n in os.listdir(folder) if n not in mine and (n.endswith(".py") or n.startswith("task-"))]
    except OSError as error:
        ran(f"{folder}: {error.strerror}")
        continue
    (won if other else ran)(f"{folder} shows {other}")
open_now = []
for fd in range(1024):
    with contextlib.suppress(OSError):
        open_now.append((fd, stat.S_IFMT(os.fstat(fd).st_mode)))
(won if len(open_now) > 4 else ran)(f"descriptors {open_now}")
for name in ("fd", "root", "cwd", "task"):
    attempt(f"/proc/1/{name}", lambda name=name: os.listdir(f"/proc/1/{name}"))
for name in ("mem", "maps", "environ"):
    attempt(f"/proc/1/{name}", lambda name=name: os.open(f"/proc/1/{name}", os.O_RDONLY))
attempt("a hard link", lambda: os.link("/submission/lora_linear.py", "/tmp/attack-marker-link"))
attempt("a device", lambda: os.mknod("/tmp/attack-marker-device", stat.S_IFBLK | 0o600, os.makedev(8, 0)))
attempt("chroot", lambda: os.chroot("/tmp"))
