"""Starting the sandbox, and the judge's end of a link to a sandboxed worker. Trusted code; Linux only.

Two levels: `bwrap` (bubblewrap around the zygote, own namespaces around every child) and `process` (separate
processes, under accounts of their own where the grader is root, limits, the system call filter and Landlock, but the
machine's own file system: for places without namespaces).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from autograder import UserError
from autograder.inside import confine, wire
from autograder.inside.zygote import READY
from autograder.judge.session import LinkDown
from autograder.manifest import Limits

LEVELS = ("bwrap", "process")
PACKAGE = Path(__file__).parents[1]
OUTPUT_KEPT = 4096
REPLIES_MAX = wire.MAX_HEADER + wire.MAX_ARRAYS  # all replies of one worker together: a judge may keep them all
_START_SECONDS = 120
_SUBMISSION = "/submission"
_BWRAP_HELP = {
    "missing": "bubblewrap is not installed: `apt install bubblewrap` (as root), or pass --isolation process",
    "refused": (
        "bubblewrap may not make namespaces here (on Ubuntu 24.04: `sudo sysctl -w "
        "kernel.apparmor_restrict_unprivileged_userns=0`, or an AppArmor profile for bwrap); "
        "or pass --isolation process"
    ),
}


class SandboxError(UserError):
    """The sandbox cannot be used; the text is one line that says what to do."""


def bwrap_problem() -> str | None:
    """Why level `bwrap` cannot be used here, in one line with the remedy, or None."""
    if shutil.which("bwrap") is None:
        return _BWRAP_HELP["missing"]
    probe = ["bwrap", "--unshare-all", "--cap-add", "ALL", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"]
    probe += ["unshare", "--user", "--mount", "--ipc", "--net", "true"]
    result = subprocess.run(probe, capture_output=True, check=False)
    return None if result.returncode == 0 else _BWRAP_HELP["refused"]


def account_problem() -> str | None:
    """Why level `process` cannot give student code an account of its own, in one line, or None."""
    if os.geteuid() != 0:
        return "only root can switch to another account"
    account = confine.ACCOUNTS[0]
    command = [sys.executable, "-B", "-c", "import numpy"]
    try:
        probe = subprocess.run(
            command, user=account, group=account, extra_groups=[], cwd="/", env={}, capture_output=True, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"other accounts cannot start {sys.executable} ({error.__class__.__name__})"
    return f"other accounts cannot use the packages of {sys.executable}" if probe.returncode else None


class Zygotes:
    """A sandbox with one zygote for each of `count` judges; a context manager.

    Attributes:
        sockets: the judges' ends of the control sockets, one each.
        shared_account: why student code runs under the grader's own account, or None where it does not.
    """

    def __init__(self, level: str, count: int, preload: Sequence[str], hidden_packages: Sequence[str]) -> None:
        if level == "bwrap" and (problem := bwrap_problem()):
            raise SandboxError(problem)
        self.sockets, theirs = zip(*(socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(count)), strict=True)
        self._tmp = _process_folder() if level == "process" else ""
        self.shared_account = account_problem() if level == "process" else None
        config = {
            "level": level,
            "folder": _SUBMISSION,
            "tmp": self._tmp,
            "account": level == "process" and self.shared_account is None,
            "hidden": list(hidden_packages),
            "keep": _below_tmp(),
            "preload": ["numpy", *preload],
            "sockets": [s.fileno() for s in theirs],
        }
        command = [sys.executable, "-B", "-m", "autograder.inside.zygote", json.dumps(config)]
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": "/tmp",
            "LANG": "C.UTF-8",
            "PYTHONPATH": "/grader" if level == "bwrap" else f"{self._tmp}/grader",
            "PYTHONHASHSEED": "0",
            "HF_HUB_OFFLINE": "1",
            **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
        }
        if level == "bwrap":
            command = [*_bwrap_command(environment, hidden_packages), *command]
        self.process = subprocess.Popen(
            command,
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[s.fileno() for s in theirs],
            start_new_session=True,
        )
        for s in theirs:
            s.close()
        self.cpu_seconds = 0.0

    def wait(self) -> None:
        """Wait until every zygote is warm.

        Raises:
            SandboxError: if one is not.
        """
        for s in self.sockets:
            s.settimeout(_START_SECONDS)
            try:
                ready = json.loads(s.recv(1 << 16) or b"{}")
            except (OSError, ValueError):
                ready = {}
            if not ready:
                self.close()
                text = self.process.stderr.read().decode(errors="replace") if self.process.stderr else ""
                raise SandboxError(f"the sandbox did not start: {(text.strip().splitlines() or ['no message'])[-1]}")
            self.cpu_seconds = max(self.cpu_seconds, ready["cpu"])  # forks of one warm-up

    def close(self) -> None:
        for s in self.sockets:
            s.close()
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self._tmp:
            confine.remove_tree(Path(self._tmp))

    def __enter__(self) -> Zygotes:
        self.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _process_folder() -> str:
    """A folder for level `process`, with what a worker needs of the grader: all the rest may be closed to its account."""
    place = Path(tempfile.mkdtemp(prefix="autograder-"))
    package = place / "grader" / "autograder"
    shutil.copytree(PACKAGE / "inside", package / "inside", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PACKAGE / "__init__.py", package)
    place.chmod(0o711)
    for path in (place / "grader").rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (place / "grader").chmod(0o755)
    return str(place)


def _bwrap_command(environment: dict[str, str], hidden_packages: Sequence[str]) -> list[str]:
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-add", "ALL", "--clearenv"]
    for name, value in environment.items():
        command += ["--setenv", name, value]
    command += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--dir", _SUBMISSION]
    for place in _below_tmp().values():
        command += ["--dir", place]
    command += system_mounts()
    for site in package_folders():
        for name in (*hidden_packages, "autograder"):
            if (Path(site) / name).is_dir():
                # Read-only: all children see this one, so a file in it would reach every classmate.
                command += ["--tmpfs", f"{site}/{name}", "--remount-ro", f"{site}/{name}"]
    for name in ("__init__.py", "inside"):
        command += ["--ro-bind", str(PACKAGE / name), f"/grader/autograder/{name}"]
    return [*command, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/"]


def system_mounts(*more: str) -> list[str]:
    """bubblewrap's options that show the system's programs and this Python, read-only, and further paths where they exist."""
    command = []
    for path in ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/alternatives", *more):
        command += ["--ro-bind-try", path, path]
    for path in sorted({sys.base_prefix, sys.prefix}):
        if not path.startswith("/usr/") and path != "/usr":
            command += ["--ro-bind", path, path]
    return command


def _below_tmp() -> dict[str, str]:
    """The parts of the Python installation that a child's own /tmp would cover, and where it keeps them meanwhile."""
    paths = sorted({sys.prefix, sys.base_prefix})
    return {path: f"/grader/kept{i}" for i, path in enumerate(paths) if path.startswith("/tmp/")}


def package_folders() -> list[str]:
    """Every folder of installed packages that the sandbox shows: this environment's, the base Python's, the system's."""
    variables = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
    folders = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    folders |= {sysconfig.get_path(name, vars=variables) for name in ("purelib", "platlib")}
    folders |= {path for path in sys.path if path.endswith(("/site-packages", "/dist-packages"))}
    folders |= {str(path) for place in ("lib", "local/lib") for path in Path("/usr", place).glob("python3*/*-packages")}
    return sorted(folders)


def gone(control: socket.socket) -> bool:
    """Whether nobody is left at the other end of a control socket."""
    poll = select.poll()
    poll.register(control.fileno(), 0)  # a hang-up is told unasked
    return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))


class SandboxLink:
    """One child of a zygote: the worker for one task of one submission. Close it, whatever happens.

    Attributes:
        output: the first bytes that the child printed.
        cpu_seconds: what the child used, known once it is closed.
    """

    def __init__(self, control: socket.socket, limits: Limits, stub: str, files: dict[str, bytes]) -> None:
        self._control = control
        self._limits = limits
        self.output = bytearray()
        self.cpu_seconds = 0.0
        self._pidfd = -1
        self._received = 0
        self._channel, theirs = socket.socketpair()
        self._pipe, their_output = os.pipe()
        os.set_blocking(self._pipe, False)
        request = {"spawn": {name: getattr(limits, name) for name in ("cpu_seconds", "memory_mib", "tmp_mib")}}
        try:
            socket.send_fds(control, [json.dumps(request).encode()], [theirs.fileno(), their_output])
            answer, fds, _, _ = socket.recv_fds(control, 1 << 16, 1)
            if not fds:
                self._close_fds()
                raise LinkDown(f"the sandbox made no worker: {answer.decode(errors='replace')}", "ours")
            self._pidfd = fds[0]
        except OSError as error:
            self._close_fds()
            raise LinkDown(f"the sandbox is gone: {error}", "ours") from None
        finally:
            theirs.close()
            os.close(their_output)
        self._poll = select.poll()
        for fd in (self._channel.fileno(), self._pipe, self._pidfd):
            self._poll.register(fd, select.POLLIN)
        self._channel.setblocking(False)
        # The clock starts with the child: all its requests share one budget.
        self._deadline = time.monotonic() + limits.wall_seconds
        blobs = {name: np.frombuffer(data, np.uint8) for name, data in files.items()}
        try:
            if wire.loads(self.exchange(wire.dumps({"stub": stub, "files": blobs}))) != READY:
                raise LinkDown("its first message is wrong", "ours")
        except LinkDown as error:
            self.close()
            said = self.output.decode(errors="replace").strip()
            raise LinkDown(f"a worker could not be confined: {error}: {said}", "ours") from None

    def exchange(self, message: bytes) -> bytes | bytearray:
        """Send one request and wait for its reply, draining what the child prints.

        Raises:
            LinkDown: if the child dies, or is over its CPU or wall time. It is dead then.
        """
        self._send(message)
        reply = bytearray()
        while left := self._missing(reply):
            if self._channel.fileno() in self._wait():
                try:
                    chunk = self._channel.recv(min(left, 1 << 20))
                except BlockingIOError:
                    continue
                except OSError:
                    chunk = b""
                if not chunk:
                    self._down()
                reply += chunk
                self._received += len(chunk)
                if self._received > REPLIES_MAX:
                    raise LinkDown("the process that ran your code sent too much data", "crash")
        return reply

    def _missing(self, reply: bytearray) -> int:
        try:
            return wire.missing(reply)
        except wire.WireError as error:
            raise LinkDown(f"the process that ran your code broke the protocol: {error}", "crash") from None

    def close(self) -> None:
        """Kill the child and everything in its namespaces, and learn what it used."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            self._reap()
        self._close_fds()

    def _send(self, message: bytes) -> None:
        view = memoryview(message)
        self._poll.modify(self._channel.fileno(), select.POLLIN | select.POLLOUT)
        try:
            while view:
                try:
                    view = view[self._channel.send(view) :]
                except BlockingIOError:
                    self._wait()
                except OSError:
                    self._down()
        finally:
            self._poll.modify(self._channel.fileno(), select.POLLIN)

    def _wait(self) -> set[int]:
        """Wait until something happens; returns the ready descriptors other than the output's."""
        ready = dict(self._poll.poll(max(0, self._deadline - time.monotonic()) * 1000))
        if not ready:
            raise LinkDown(f"no answer within {self._limits.wall_seconds} s of wall time", "timeout")
        if self._pipe in ready:
            self._drain()
        if self._pidfd in ready and self._channel.fileno() not in ready:
            self._down()
        if time.monotonic() > self._deadline:  # a flood must not hold off the clock
            raise LinkDown(f"no answer within {self._limits.wall_seconds} s of wall time", "timeout")
        return set(ready) - {self._pipe}

    def _drain(self) -> None:
        try:
            data = os.read(self._pipe, 1 << 16)
        except BlockingIOError:
            return
        if not data:
            self._poll.unregister(self._pipe)
        self.output += data[: OUTPUT_KEPT - len(self.output)]

    def _down(self) -> None:
        """The child closed the channel or died: say which of the two, and why."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        status = self._reap()
        if self.cpu_seconds >= self._limits.cpu_seconds - 0.5:
            raise LinkDown(f"used its {self._limits.cpu_seconds} s of CPU time", "timeout")
        with contextlib.suppress(BlockingIOError):
            self.output += os.read(self._pipe, OUTPUT_KEPT)[: OUTPUT_KEPT - len(self.output)]
        how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit status {os.waitstatus_to_exitcode(status)}"
        raise LinkDown(f"the process that ran your code ended ({how})", "crash")

    def _reap(self) -> int:
        try:
            self._control.send(b'{"reap": true}')
            answer = json.loads(self._control.recv(1 << 16) or b"{}")
        except (OSError, ValueError):
            answer = {}
        os.close(self._pidfd)
        self._pidfd = -1
        if not answer:
            raise LinkDown("the sandbox is gone", "ours")
        self.cpu_seconds = float(answer["cpu"])
        status: int = answer["status"]
        return status

    def _close_fds(self) -> None:
        self._channel.close()
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1


@contextlib.contextmanager
def spawned(control: socket.socket, limits: Limits, stub: str, files: dict[str, bytes]) -> Iterator[SandboxLink]:
    """A SandboxLink that is closed at the end."""
    link = SandboxLink(control, limits, stub, files)
    try:
        yield link
    finally:
        link.close()
