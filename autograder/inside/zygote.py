"""The zygote: a warm process inside the sandbox that forks one child for each task of each submission.

Started as `python -m autograder.inside.zygote CONFIG` where CONFIG is JSON: {"level", "folder", "tmp", "account", "hidden",
"keep", "preload", "sockets": [control socket file descriptors]}. After it has imported what the week needs it forks itself
once for every control socket but the first, so that each judge has a zygote of its own for the price of one import.

On a control socket the judge sends one JSON datagram a command, with file descriptors beside it:
    {"spawn": limits} + [channel, output]   ->  {"ok": true} + [pidfd]   or {"error": text}
    {"reap": true}                          ->  {"status": wait status, "cpu": seconds}
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import re
import resource
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from autograder.inside import confine, wire
from autograder.inside.worker import Worker

READY = "confined"  # a worker's first message; what fails before it is the grader's fault


def main() -> None:
    config = json.loads(sys.argv[1])
    controls = [socket.socket(fileno=fd) for fd in config["sockets"]]
    for name in config["hidden"]:
        sys.modules[name] = None  # type: ignore[assignment]  # an empty folder in its place would still be importable
    for name in config["preload"]:
        importlib.import_module(name)
    if "torch" in config["preload"]:
        _warm_torch()
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        # A child of a process with running threads inherits their locks, taken for ever.
        raise SystemExit(f"the zygote has {threads} threads, and may have one")
    gc.collect()
    gc.freeze()
    _use_huge_pages()
    mine = controls[0]
    for control in controls[1:]:
        if os.fork() == 0:
            confine.die_with_parent()
            mine = control
            break
    for control in controls:
        if control is not mine:
            control.close()
    serve(mine, config)
    if mine is controls[0] and config["level"] == "process":
        confine.remove_tree(Path(config["tmp"]))  # whoever made it may have been killed


def serve(control: socket.socket, config: dict[str, Any]) -> None:
    """Answer a judge's commands until it hangs up."""
    own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY) if config["level"] == "bwrap" else -1
    child = 0
    private = Path()
    control.send(json.dumps({"ready": True, "cpu": _cpu(resource.RUSAGE_SELF)}).encode())
    while True:
        command, fds, _, _ = socket.recv_fds(control, 1 << 16, 4)
        if not command:
            return
        match json.loads(command):
            case {"spawn": limits}:
                try:
                    if own_pids >= 0:
                        # The next child is PID 1 of a new namespace; this process stays where it is.
                        confine.call("unshare", confine.CLONE_NEWPID)
                    else:
                        private = Path(tempfile.mkdtemp(prefix="task-", dir=config["tmp"]))
                    child = os.fork()
                    if child == 0:
                        _child(fds, config, limits, private)
                    if own_pids >= 0:
                        confine.call("setns", own_pids, confine.CLONE_NEWPID)
                    pidfd = os.pidfd_open(child)
                    socket.send_fds(control, [b'{"ok": true}'], [pidfd])
                    os.close(pidfd)
                except OSError as error:
                    control.send(json.dumps({"error": str(error)}).encode())
            case {"reap": _}:
                _, status, used = os.wait4(child, 0)
                if own_pids < 0:
                    confine.remove_tree(private)
                control.send(json.dumps({"status": status, "cpu": used.ru_utime + used.ru_stime}).encode())
        for fd in fds:
            os.close(fd)


def _child(fds: list[int], config: dict[str, Any], limits: dict[str, int], private: Path) -> None:
    """Become a worker; never returns."""
    status = 1
    try:
        channel_fd, output = os.dup(fds[0]), os.dup(fds[1])
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (output, 1), (output, 2), (channel_fd, 3)):
            os.dup2(source, target)
        os.closerange(4, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        channel = socket.socket(fileno=3)
        _become_worker(channel, config, limits, private)
        status = 0
    except wire.Closed:
        status = 0
    except BaseException as error:  # nothing may unwind into the zygote's loop
        os.write(2, f"{type(error).__name__}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(status)


def _become_worker(channel: socket.socket, config: dict[str, Any], limits: dict[str, int], private: Path) -> None:
    isolated = config["level"] == "bwrap"
    folder = Path(config["folder"]) if isolated else private / "submission"
    tmp = Path("/tmp") if isolated else private / "tmp"
    if isolated:
        confine.enter_namespaces(folder, limits["tmp_mib"], config["keep"])
    else:
        confine.die_with_parent()
        folder.mkdir()
        tmp.mkdir()
    first = wire.loads(wire.receive(channel))
    for name, data in first["files"].items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.tobytes())
    confine.limit(limits["cpu_seconds"], limits["memory_mib"], limits["tmp_mib"])
    if isolated:
        confine.seal(folder)
    if not isolated and config["account"]:
        # An account for each child: none can open what another one writes.
        account = confine.ACCOUNTS[os.getpid() % len(confine.ACCOUNTS)]
        for path in (private, folder, *folder.rglob("*")):
            os.chown(path, 0, account)
            path.chmod(0o750 if path.is_dir() else 0o640)
        os.chown(tmp, account, account)
        confine.become(account)
    os.chdir(tmp)
    os.environ.update(HOME=str(tmp), TMPDIR=str(tmp), PWD=str(tmp))
    tempfile.tempdir = None
    sys.argv = [first["stub"]]
    confine.drop_privileges()
    if not isolated:
        system = (sys.prefix, sys.base_prefix, "/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/null", "/dev/urandom")
        confine.confine_files([Path(__file__).parent, folder, *map(Path, system)], writable=tmp)
    confine.filter_system_calls()
    sys.stdout = open(1, "w", buffering=1, errors="replace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="replace", closefd=False)  # noqa: SIM115
    worker = Worker(folder / first["stub"])
    wire.send(channel, wire.dumps(READY))
    while True:
        wire.send(channel, worker.handle(wire.receive(channel)))


def _warm_torch() -> None:
    """Pay once for what the first backward and the first optimizer step import (half a second)."""
    import torch

    from autograder.inside import builders, probes  # noqa: F401

    torch.set_num_threads(1)
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()


def _use_huge_pages() -> None:
    """Gather the heap in huge pages: a fork then copies hundreds of table entries, not tens of thousands.

    On the machine where this was written it took a fork from 14 to 4 ms. Kernels without it (before 6.1) say so, and
    nothing is lost.
    """
    collapse, huge = 25, 2 << 20
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for line in Path("/proc/self/maps").read_text().splitlines():
        area = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw-p \S+ \S+ 0\s*(\[heap\])?$", line)
        if area:
            start, end = (int(area[i], 16) for i in (1, 2))
            for at in range(-(-start // huge) * huge, end - huge + 1, huge):
                libc.madvise(at, huge, collapse)


def _cpu(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the judge's to handle
    main()
