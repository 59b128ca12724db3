# attack: reaches for files through descriptors, /proc, /dev, links, handles to the root and folders left open
# class: files
import contextlib
import os

from wrong_layer import Wrong as LoRALinear
from wrong_layer import attempt, inject_lora, ran, won

__all__ = ["LoRALinear", "inject_lora"]
mine = os.environ.get("TMPDIR", "/tmp")
for path in (
    "/proc/self/mem",
    "/proc/1/root/etc/passwd",
    "/proc/self/environ",
    "/proc/self/fd",
    "/proc/self/maps",
    "/proc/kcore",
):
    attempt(
        path,
        lambda path=path: os.open(path, os.O_RDONLY),
        ["/proc/self/maps", "/proc/self/fd", "/proc/self/environ"] if os.getpid() != 1 else (),
    )
for path in ("/dev/mem", "/dev/kmsg", "/dev/fuse", "/dev/kvm", "/dev/sda", "/dev/tty", "/etc/shadow", "/root/.ssh/id_rsa"):
    attempt(path, lambda path=path: os.open(path, os.O_RDONLY))
for fd in range(4, 64):
    with contextlib.suppress(OSError):
        os.fstat(fd)
        won(f"descriptor {fd} is open")
link = os.path.join(mine, "attack-marker-link")
attempt("a link to the shadow file", lambda: (os.symlink("/etc/shadow", link), os.open(link, os.O_RDONLY)))
attempt("a hard link to Python", lambda: os.link(os.__file__, link + "2"))
attempt("a device", lambda: os.mknod(link + "3", 0o60600, os.makedev(8, 0)))
attempt("another owner", lambda: os.chown(mine, 0, 0) if os.geteuid() else os.setuid(0) or 1 / 0)
ran("all ways to a file tried")
