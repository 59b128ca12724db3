# attack: the calls that lead out of a sandbox: ptrace, mount, namespaces, io_uring, keys, bpf, handles, modules
# class: processes
import ctypes
import platform

from wrong_layer import Wrong as LoRALinear
from wrong_layer import inject_lora, ran, won

__all__ = ["LoRALinear", "inject_lora"]
libc = ctypes.CDLL(None, use_errno=True)
column = {"x86_64": 0, "aarch64": 1}[platform.machine()]
buffer = ctypes.create_string_buffer(4096)
CALLS = {
    "ptrace": ((101, 117), 16, 1, 0, 0),
    "process_vm_readv": ((310, 270), 1, buffer, 1, buffer, 1, 0),
    "mount": ((165, 40), b"tmpfs", b"/tmp", b"tmpfs", 0, 0),
    "umount2": ((166, 39), b"/proc", 2),
    "pivot_root": ((155, 41), b"/tmp", b"/tmp"),
    "chroot": ((161, 51), b"/tmp"),
    "open_tree": ((428, 428), -100, b"/", 1),
    "fsopen": ((430, 430), b"tmpfs", 0),
    "mount_setattr": ((442, 442), -100, b"/", 0, buffer, 32),
    "unshare a user namespace": ((272, 97), 0x10000000),
    "unshare a mount namespace": ((272, 97), 0x00020000),
    "setns": ((308, 268), 0, 0),
    "io_uring_setup": ((425, 425), 8, buffer),
    "keyctl": ((250, 219), 0, -3, 1),
    "add_key": ((248, 217), b"user", b"attack", b"x", 1, -3),
    "bpf": ((321, 280), 0, buffer, 128),
    "perf_event_open": ((298, 241), buffer, 0, -1, -1, 0),
    "userfaultfd": ((323, 282), 1),
    "open_by_handle_at": ((304, 265), -100, buffer, 0),
    "name_to_handle_at": ((303, 264), -100, b"/", buffer, buffer, 0),
    "init_module": ((175, 105), buffer, 16, b""),
    "kexec_load": ((246, 104), 0, 0, buffer, 0),
    "reboot": ((169, 142), 0, 0, 0, 0),
    "personality": ((135, 92), 0x0040000),
    "memfd_create": ((319, 279), b"x", 0),
    "shmget": ((29, 194), 0, 4096, 0o1600),
    "syslog": ((103, 116), 3, buffer, 4096),
}
for name, (numbers, *arguments) in CALLS.items():
    ctypes.set_errno(0)
    result = libc.syscall(numbers[column], *arguments)
    error = ctypes.get_errno()
    (ran if result == -1 and error in (1, 38) else won)(f"{name}: {result}, errno {error}")
ran("all calls tried")
