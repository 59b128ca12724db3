"""How a child gives up everything that student code must not have. Linux only; runs in the child, before that code.

At level `bwrap` the zygote already lives in bubblewrap's namespaces; the child enters namespaces of its own, where it
is PID 1 and sees two small tmpfs and an empty /proc. At level `process` there are only the limits, the lost
privileges, the system call filter and, where the kernel has it, Landlock.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import shutil
import signal
import struct
import subprocess
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x0002_0000, 0x0400_0000, 0x0800_0000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x1000_0000, 0x2000_0000, 0x4000_0000
CLONE_NEWCGROUP = 0x0200_0000
_CLONE_THREAD = 0x0001_0000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT, _MS_REC, _MS_PRIVATE = 1, 2, 4, 32, 0x4000, 0x40000
_MS_BIND = 4096
_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 4, 22, 38, 47
_PR_SET_PDEATHSIG = 1

# What a student's program never needs and an escape, a bomb or a neighbour's reader would: (x86_64, aarch64) numbers.
_DENIED = {
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "kcmp": (312, 272),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "unshare": (272, 97), "setns": (308, 268),
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424),
    "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "msgget": (68, 186),
    "semget": (64, 190), "mq_open": (240, 180), "userfaultfd": (323, 282),
    "bpf": (321, 280), "perf_event_open": (298, 241), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142), "swapon": (167, 224),
    "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60), "syslog": (103, 116),
    "sched_setaffinity": (203, 122), "setpriority": (141, 140), "fanotify_init": (300, 262),
    "inotify_init1": (294, 26), "personality": (135, 92),
}  # fmt: skip
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_CLONE, _CLONE3, _KILL, _TGKILL, _PRLIMIT = (56, 220), (435, 435), (62, 129), (234, 131), (302, 261)
_PRCTL = (157, 167)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p] * 3 + [ctypes.c_ulong, ctypes.c_char_p]


def call(name: str, *args: object) -> None:
    """Call a function of libc.

    Raises:
        OSError: if it reports an error.
    """
    if getattr(_libc, name)(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def enter_namespaces(folder: Path, tmp_mib: int, keep: dict[str, str]) -> None:
    """Own user, mount, IPC, network, UTS and cgroup namespaces; tmpfs at `folder` and /tmp; nothing in /proc.

    `keep` names folders below /tmp (a Python installation) that stay where they are, and where to hold them meanwhile.

    The PID namespace is new already: the zygote unshared it before it forked this child, its PID 1.
    """
    uid, gid = os.getuid(), os.getgid()
    call("unshare", CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWCGROUP)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"1000 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"1000 {gid} 1")
    call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)
    flags = _MS_NOSUID | _MS_NODEV
    for path, place in keep.items():
        call("mount", path.encode(), place.encode(), None, _MS_BIND | _MS_REC, None)
    for target, size in ((str(folder), 16), ("/tmp", tmp_mib)):
        call("mount", b"tmpfs", target.encode(), b"tmpfs", flags, f"size={size}m,mode=700,nr_inodes=4096".encode())
    for path, place in keep.items():
        Path(path).mkdir(parents=True, exist_ok=True)
        call("mount", place.encode(), path.encode(), None, _MS_BIND | _MS_REC, None)


def seal(folder: Path) -> None:
    """Make the folder with the student's files read-only and cover /proc, once both are no longer needed."""
    flags = _MS_NOSUID | _MS_NODEV
    call("mount", None, str(folder).encode(), None, flags | _MS_REMOUNT | _MS_RDONLY, None)
    call("mount", b"tmpfs", b"/proc", b"tmpfs", flags | _MS_RDONLY, b"size=4k")


def limit(cpu_seconds: int, memory_mib: int, file_mib: int) -> None:
    """Resource limits. Memory is counted from what the process maps already (torch maps gigabytes of file)."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = cpu_seconds + int(used.ru_utime + used.ru_stime)
    for which, value in (
        (resource.RLIMIT_CPU, cpu),  # soft = hard: the kernel's SIGKILL; PID 1 would ignore the softer SIGXCPU
        (resource.RLIMIT_AS, mapped + (memory_mib << 20)),
        (resource.RLIMIT_FSIZE, file_mib << 20),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        _, hard = resource.getrlimit(which)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write past the limit is an OSError, not a death


# Accounts that no person or package has: where systemd takes its passing ones from.
ACCOUNTS = range(61184, 65520)


def become(account: int) -> None:
    """Be this user, with a group of the same number and no other; root does not come back."""
    os.setgroups([])
    os.setresgid(account, account, account)
    os.setresuid(account, account, account)
    die_with_parent()  # the kernel forgets it when the user changes


def drop_privileges() -> None:
    """No capability and no way to get one."""
    call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call("prctl", _PR_CAP_AMBIENT, 4, 0, 0, 0)
    header = struct.pack("Ii", 0x20080522, 0)
    call("capset", header, bytes(24))
    call("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)


_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446  # the same numbers everywhere


def landlock() -> int:
    """The version of the kernel's Landlock; below 1 where there is none (before Linux 5.13, or switched off)."""
    return int(_libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1))


def confine_files(readable: list[Path], writable: Path) -> bool:
    """Landlock: from now on nothing but `readable` can be read and nothing but what is below `writable` written.

    For level `process`, which has no mounts of its own. Call it when no privilege can come back any more. Returns
    whether the kernel has it.
    """
    create, add, restrict = _LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT
    execute, write, read, read_dir = 1, 2, 4, 8
    abi = landlock()
    if abi < 1:
        return False
    everything = (1 << {1: 13, 2: 14}.get(abi, 15)) - 1
    rules = _libc.syscall(create, struct.pack("Q", everything), ctypes.c_size_t(8), 0)
    for path in [*readable, writable]:
        if not path.exists():
            continue
        allowed = everything if path == writable else execute | read | read_dir
        if not path.is_dir():
            allowed &= execute | write | read
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
        call("syscall", add, rules, 1, struct.pack("=Qi", allowed, parent), 0)
        os.close(parent)
    call("syscall", restrict, rules, 0)
    os.close(rules)
    return True


# What a notebook's kernel needs besides, in namespaces with nothing else in them: its sockets, and child processes.
_KERNEL = {
    "fork", "vfork", "execve", "execveat", "socket", "socketpair", "connect", "bind", "pidfd_open", "pidfd_send_signal", "tkill",
    "rt_sigqueueinfo", "rt_tgsigqueueinfo", "memfd_create", "sched_setaffinity", "setpriority",
    "inotify_init1", "shmget", "semget",
}  # fmt: skip
_CLONE_NAMESPACES = 0x7E02_0080


def filter_system_calls(kernel: bool = False) -> None:
    """A seccomp filter: no fork or exec, threads only; nothing in _DENIED; signals to this process only.

    With `kernel`, for a Jupyter kernel in namespaces of its own: processes, sockets and signals among them, no new namespaces.

    Denied calls fail with EPERM, so that honest code that probes for a feature goes on; clone3 answers ENOSYS, so that
    libc falls back to clone, whose flags a filter can read.

    Raises:
        OSError: if the machine is neither x86_64 nor aarch64, or the kernel has no seccomp.
    """
    if platform.machine() not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no system call filter for {platform.machine()}")
    column, audit = _ARCHITECTURES[platform.machine()]
    load, jump_eq, jump_ge, jump_set, ret = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill, deny = 0x7FFF0000, 0x80000000, 0x00050000
    op = struct.Struct("HBBI")
    own = os.getpid()

    code = [op.pack(load, 0, 0, 4), op.pack(jump_eq, 1, 0, audit), op.pack(ret, 0, 0, kill), op.pack(load, 0, 0, 0)]
    if column == 0:  # the x32 numbers are other names for the same calls
        code += [op.pack(jump_ge, 0, 1, 0x4000_0000), op.pack(ret, 0, 0, kill)]
    code += [op.pack(jump_eq, 0, 1, _CLONE3[column]), op.pack(ret, 0, 0, deny | errno.ENOSYS)]
    # clone: only with CLONE_THREAD (argument 0 is the flags); kill, tgkill, prlimit64: only for this process.
    refused, wanted = (1, _CLONE_NAMESPACES) if kernel else (0, _CLONE_THREAD)
    code += [
        op.pack(jump_eq, 0, 4, _CLONE[column]),
        op.pack(load, 0, 0, 16),
        op.pack(jump_set, 1 - refused, refused, wanted),
        op.pack(ret, 0, 0, deny | errno.EPERM),
        op.pack(ret, 0, 0, allow),
    ]
    own_only = () if kernel else ((_KILL[column], [own]), (_TGKILL[column], [own]), (_PRLIMIT[column], [0, own]))
    for number, allowed in own_only:
        code += [op.pack(jump_eq, 0, 3 + len(allowed), number), op.pack(load, 0, 0, 16)]
        code += [op.pack(jump_eq, len(allowed) - i, 0, pid) for i, pid in enumerate(allowed)]
        code += [op.pack(ret, 0, 0, deny | errno.EPERM), op.pack(ret, 0, 0, allow)]
    # prctl: anything but outliving the parent.
    code += [
        op.pack(jump_eq, 0, 4, _PRCTL[column]),
        op.pack(load, 0, 0, 16),
        op.pack(jump_eq, 0, 1, _PR_SET_PDEATHSIG),
        op.pack(ret, 0, 0, deny | errno.EPERM),
        op.pack(ret, 0, 0, allow),
    ]
    for name, numbers in _DENIED.items():
        if numbers[column] is not None and not (kernel and name in _KERNEL):
            code += [op.pack(jump_eq, 0, 1, numbers[column]), op.pack(ret, 0, 0, deny | errno.EPERM)]
    code += [op.pack(ret, 0, 0, allow)]

    program = ctypes.create_string_buffer(b"".join(code))
    fprog = struct.pack("HxxxxxxP", len(code), ctypes.addressof(program))
    call("prctl", _PR_SET_SECCOMP, 2, fprog, 0, 0)


def remove_tree(path: Path) -> None:
    """Remove what a student left, also folders nested too deep for shutil.rmtree's recursion or closed to their owner."""
    try:
        shutil.rmtree(path)
    except (OSError, RecursionError):
        if not os.path.lexists(path):  # somebody who cleans up /tmp was first
            return
        for command in (["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
            subprocess.run([*command, "--", str(path)], capture_output=True, check=False)


def die_with_parent() -> None:
    """Be killed when the thread that forked this process ends."""
    call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
