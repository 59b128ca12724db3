"""A Jupyter kernel in a sandbox of its own: a kernel provisioner that starts ipykernel in bubblewrap, over Unix sockets.

The kernel has every namespace to itself, a read-only Python, the lab library, the student's own files, and one folder with the
sockets that it is asked through. It has no network, and no solutions, keys, checks, other students, results or gradebook.
What it sends is a student's and is read as data; labrun.py reads it in a process that has nothing to lose either.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from autograder.grading import sandbox
from autograder.inside import confine
from autograder.judge.runner import ROOT
from autograder.manifest import Week

NAME = "lora-graded-sandbox"
LIMITS = {"cpu_seconds": 900, "memory_mib": 6144, "file_mib": 256}
_TMP_MIB = 1024  # of each place that a notebook may write to; they are memory
_MEMORY_MIB = 8192  # of all its processes together
_CONNECTION, _ENTRIES = "connection.json", 32  # of the folder of the sockets
_PROCESSES = 64  # a notebook that has more at once is ended
_PLACE = "/lab"  # where the repository stands in the sandbox
# What the lab library imports of the grader: the manifest's reader, and how a value is compared. No key is among them.
_GRADER = (
    "__init__.py", "intake.py", "manifest.py", "judge/__init__.py", "judge/answers.py", "inside/__init__.py", "inside/kernel.py",
    "inside/confine.py",
)  # fmt: skip


class SandboxProvisioner(LocalProvisioner):
    """Starts the kernel's command in bubblewrap, and ends it with everything that it started."""

    _watch: threading.Event | None = None

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        kwargs |= {"env": {"PATH": "/usr/bin:/bin"}, "cwd": "/", "stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL,
                   "stderr": subprocess.DEVNULL}  # fmt: skip
        info = await super().launch_kernel(cmd, **kwargs)
        assert self.process is not None and self.parent is not None
        self._watch = threading.Event()
        sockets = Path(self.parent.connection_file).parent
        threading.Thread(target=_watch, args=(self.process.pid, sockets, self._watch), daemon=True).start()
        return info

    async def send_signal(self, signum: int) -> None:
        # bwrap does not hand on an interrupt; what does not stop in time is killed, and with it all that it started.
        if self.process is not None and signum != 0:
            _kill(self.process.pid)

    async def cleanup(self, restart: bool = False) -> None:
        if self._watch is not None:
            self._watch.set()
        if self.process is not None:
            _kill(self.process.pid)
        await super().cleanup(restart=restart)


# What the package's metadata would say of a provisioner that is installed for everybody.
KernelProvisionerFactory.instance().provisioners[NAME] = EntryPoint(
    NAME, f"{__name__}:SandboxProvisioner", KernelProvisionerFactory.GROUP_NAME
)


@contextmanager
def manager(week: Week, files: dict[str, bytes], isolation: str = "bwrap") -> Iterator[AsyncKernelManager]:
    """A kernel manager for one student's notebook; whatever it started is gone at the end.

    Args:
        files: the student's, by path relative to `exercises/weekNN`.
        isolation: "process" runs the kernel without a sandbox: for the reference, or where there are no namespaces.

    Raises:
        SandboxError: if bubblewrap cannot be used.
    """
    if isolation == "bwrap" and (problem := sandbox.bwrap_problem()):
        raise sandbox.SandboxError(problem)
    place = Path(tempfile.mkdtemp(prefix="lab-"))
    try:
        sockets, own = place / "s", place / "own"
        sockets.mkdir(mode=0o700)
        for name, data in files.items():
            path = own / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        own.mkdir(exist_ok=True)
        command = [sys.executable, "-B", "-m", "autograder.inside.kernel", json.dumps(LIMITS), "-f", "{connection_file}"]
        if isolation == "bwrap":
            command = [*_bwrap(week, sockets, own), *command]
        made = AsyncKernelManager(
            kernel_name=NAME, kernel_spec_manager=_Specs(command), transport="ipc", ip=str(sockets / "k"),
            connection_file=str(sockets / _CONNECTION),
        )  # fmt: skip
        yield made
        if made.provisioner is not None and getattr(made.provisioner, "process", None) is not None:
            _kill(made.provisioner.process.pid)  # type: ignore[attr-defined]
    finally:
        confine.remove_tree(place)


class _Specs(KernelSpecManager):
    """Knows one kernel, which needs no file of its own."""

    def __init__(self, command: list[str]) -> None:
        super().__init__()
        self._spec = KernelSpec(
            argv=command, display_name=NAME, language="python", metadata={"kernel_provisioner": {"provisioner_name": NAME}}
        )

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return self._spec


def _bwrap(week: Week, sockets: Path, own: Path) -> list[str]:
    size = str(_TMP_MIB << 20)
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
        "PYTHONPATH": _PLACE,
        "PYTHONHASHSEED": "0",
        "HF_HUB_OFFLINE": "1",
        "LAB_PROFILE": "tiny",
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    }
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"]
    for name, value in environment.items():
        command += ["--setenv", name, value]
    command += ["--proc", "/proc", "--dev", "/dev"]
    command += ["--size", str(_TMP_MIB << 19), "--tmpfs", "/dev/shm", "--size", size, "--tmpfs", "/tmp"]
    command += sandbox.system_mounts("/etc/fonts")
    for site in sandbox.package_folders():
        if (Path(site) / "autograder").is_dir():
            command += ["--tmpfs", f"{site}/autograder", "--remount-ro", f"{site}/autograder"]
    for name in _GRADER:
        command += ["--ro-bind", str(sandbox.PACKAGE / name), f"{_PLACE}/autograder/{name}"]
    command += ["--ro-bind", str(ROOT / "course"), f"{_PLACE}/course"]
    command += ["--ro-bind", str(own), f"{_PLACE}/exercises/{week.folder}"]
    for folder in ("build", "notebooks"):
        command += ["--size", size, "--tmpfs", f"{_PLACE}/{folder}"]
    command += ["--bind", str(sockets), str(sockets), "--remount-ro", "/dev", "--remount-ro", "/"]
    return [*command, "--chdir", f"{_PLACE}/notebooks"]


def _watch(pid: int, sockets: Path, done: threading.Event) -> None:
    """End a sandbox with too many processes or too much memory, or with anything but sockets in the shared folder."""
    while not done.wait(0.2):
        tree = _tree(pid)
        if len(tree) > _PROCESSES or sum(map(_resident, tree)) > _MEMORY_MIB << 20 or not _only_sockets(sockets):
            _kill(pid)


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0  # it ended meanwhile


def _only_sockets(folder: Path) -> bool:
    """The folder is the grader's disk: nothing that takes room may be in it, and it must stay readable."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return False
    for entry in entries[:_ENTRIES]:
        with suppress(FileNotFoundError):
            found = entry.stat(follow_symlinks=False)
            small = entry.name == _CONNECTION and stat.S_ISREG(found.st_mode) and found.st_size < 1 << 14
            if not small and not stat.S_ISSOCK(found.st_mode):
                return False
    return len(entries) <= _ENTRIES


def _tree(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        try:
            for task in os.listdir(f"/proc/{one}/task"):
                found += map(int, Path(f"/proc/{one}/task/{task}/children").read_text().split())
        except (OSError, ValueError):
            continue
        if len(found) > 4 * _PROCESSES:
            break
    return found


def _kill(pid: int) -> None:
    """Kill bwrap; the kernel of the operating system then ends PID 1 of the sandbox and all that is in it."""
    for one in reversed(_tree(pid)[:3]):
        try:
            os.kill(one, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
