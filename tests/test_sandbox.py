"""What student code finds around it: small submissions print what they see, and the tests read it.

All at level `bwrap`, which is the one that final grading asks for.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autograder.grading.sandbox import OUTPUT_KEPT, SandboxLink, Zygotes, spawned
from autograder.inside import confine
from autograder.judge.session import CheckFailed, LinkDown, Session
from autograder.manifest import load

pytestmark = pytest.mark.bwrap

ROOT = Path(__file__).parents[1]
WEEK = load().week(4)
LIMITS = dataclasses.replace(WEEK.limits, cpu_seconds=3, wall_seconds=20, memory_mib=512, tmp_mib=16)
EPERM, ENOSYS = 1, 38
# A Python installation below /tmp is shown to each child there, in folders of the child's own tmpfs.
INSTALLED = sorted({path.split("/")[2] for path in (sys.prefix, sys.base_prefix) if path.startswith("/tmp/")})


@pytest.fixture(scope="module")
def zygotes() -> Iterator[Zygotes]:
    os.environ["ATTACK_SECRET"] = "the parent's"
    with open(__file__) as held, Zygotes("bwrap", 1, WEEK.preload, WEEK.hidden_packages) as zygotes:
        os.set_inheritable(held.fileno(), True)
        yield zygotes
    del os.environ["ATTACK_SECRET"]


@pytest.fixture
def control(zygotes: Zygotes) -> socket.socket:
    return zygotes.sockets[0]


def run(control: socket.socket, code: str, limits: Any = LIMITS, **files: str) -> SandboxLink:
    """Import a submission of this code; returns its link, closed."""
    sources = {"lora_linear.py": textwrap.dedent(code), **files}
    with spawned(control, limits, "lora_linear.py", {name: text.encode() for name, text in sources.items()}) as link:
        Session(link).load()
    return link


def seen(control: socket.socket, code: str, **files: str) -> Any:
    """What a submission left in `seen`, as JSON over its standard output."""
    code = "import json, os, sys\nseen = {}\n" + textwrap.dedent(code) + "\nprint(json.dumps(seen), flush=True)\n"
    return json.loads(run(control, code, dataclasses.replace(LIMITS, cpu_seconds=20, wall_seconds=60), **files).output)


# --- who it is ---


def test_it_is_alone_and_without_power(control: socket.socket) -> None:
    found = seen(
        control,
        """
        import ctypes, struct
        libc = ctypes.CDLL(None)
        data = ctypes.create_string_buffer(24)
        assert libc.capget(struct.pack("Ii", 0x20080522, 0), data) == 0
        seen["capabilities"] = sum(data.raw)
        seen["bounding usable"] = [libc.prctl(47, 1, cap, 0, 0) for cap in range(41)]  # ambient, is set
        seen["no new privileges"] = libc.prctl(39, 0, 0, 0, 0)
        seen["seccomp"] = libc.prctl(21, 0, 0, 0, 0)
        seen["dumpable"] = libc.prctl(3, 0, 0, 0, 0)
        seen["pids"] = [os.getpid(), os.getppid()]
        seen["others"] = []
        for pid in range(2, 5000):
            try:
                os.getpgid(pid)
                seen["others"].append(pid)
            except ProcessLookupError:
                pass
        seen["ids"] = [os.getresuid(), os.getresgid()]
        seen["proc"] = os.listdir("/proc")
        """,
    )
    assert found["capabilities"] == 0
    assert set(found["bounding usable"]) == {0}
    assert found["no new privileges"] == 1 and found["seccomp"] == 2 and found["dumpable"] == 0
    assert found["pids"] == [1, 0]
    assert found["others"] == []
    assert found["ids"] == [[1000] * 3] * 2
    assert found["proc"] == []


def test_it_holds_four_descriptors_and_none_of_ours(control: socket.socket) -> None:
    found = seen(
        control,
        """
        import stat
        for fd in range(4096):
            try:
                seen[fd] = stat.S_IFMT(os.fstat(fd).st_mode)
            except OSError:
                pass
        """,
    )
    assert found == {"0": 0o020000, "1": 0o010000, "2": 0o010000, "3": 0o140000}


def test_its_environment_is_ours_alone(control: socket.socket) -> None:
    found = seen(control, "seen.update(os.environ, argv=sys.argv, cwd=os.getcwd(), home=os.path.expanduser('~'))")
    assert "ATTACK_SECRET" not in found
    known = {
        "PATH",
        "HOME",
        "LANG",
        "LC_CTYPE",
        "PYTHONPATH",
        "PYTHONHASHSEED",
        "HF_HUB_OFFLINE",
        "TMPDIR",
        "PWD",
        "argv",
        "cwd",
        "home",
    }
    threads = {"OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"}
    # What torch sets for itself when it is imported.
    assert {name for name in found if not name.startswith(("TORCH", "KMP", "CUDA", "PYTORCH"))} <= known | threads
    assert found["HOME"] == found["TMPDIR"] == found["cwd"] == found["home"] == "/tmp"
    assert found["PYTHONPATH"] == "/grader" and found["argv"] == ["lora_linear.py"]


# --- what it reads and writes ---


def test_only_tmp_is_writable(control: socket.socket) -> None:
    found = seen(
        control,
        """
        import contextlib
        writable, folders = set(), 0
        for folder, _, files in os.walk("/"):
            folders += 1
            with contextlib.suppress(OSError):
                with open(f"{folder}/attack-marker", "w"):
                    writable.add(folder)
            for name in files[:3]:
                with contextlib.suppress(OSError):
                    if not (os.stat(f"{folder}/{name}").st_mode & 0o170000 == 0o020000):
                        with open(f"{folder}/{name}", "r+b"):
                            writable.add(f"{folder}/{name}")
        seen.update(writable=sorted(writable), folders=folders)
        """,
    )
    assert found["folders"] > 1000
    # An installation below /tmp is shown there again, in folders of the child's own tmpfs.
    own = {"/tmp", "/tmp/attack-marker"} | {str(p) for p in Path(sys.prefix).parents if p.is_relative_to("/tmp")}
    assert "/tmp" in found["writable"] and set(found["writable"]) <= own | {f"{p}/attack-marker" for p in own}


def test_devices_are_harmless(control: socket.socket) -> None:
    found = seen(
        control,
        """
        import stat
        for folder, _, files in os.walk("/dev"):
            for name in files:
                mode = os.lstat(f"{folder}/{name}").st_mode
                if stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
                    seen[f"{folder}/{name}"] = stat.S_ISBLK(mode)
        """,
    )
    harmless = {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "pts/ptmx")}
    assert set(found) <= harmless
    assert not any(found.values())


def test_solutions_and_checks_are_nowhere(control: socket.socket) -> None:
    folders = ["solutions", "exercises", "tests", "course", "submissions", ".git"]
    folders += [f"autograder/{name}" for name in ("checks", "judge", "bank", "grading", "intake.py")]
    paths = [str(ROOT / name) for name in folders] + [f"/grader/{name}" for name in folders] + [str(Path.home() / ".ssh")]
    # Distinctive lines of the reference, the checks and the judge; not as they stand here, or this would find itself.
    marks = ["_random_rows(rank, base)"[::-1], "def test_shrinking_is_the_best_truncation"[::-1], "class Diagnoser"[::-1]]
    assert marks[0][::-1] in (ROOT / "solutions/week04/lora_linear.py").read_text(encoding="utf-8")
    assert marks[1][::-1] in (ROOT / "autograder/checks/week04/test_lora_linear.py").read_text(encoding="utf-8")
    assert marks[2][::-1] in (ROOT / "autograder/judge/diagnose.py").read_text(encoding="utf-8")
    found = seen(
        control,
        f"""
        paths, marks = {paths!r}, [mark[::-1].encode() for mark in {marks!r}]
        seen["paths"] = [path for path in paths if os.path.exists(path)]
        seen["files"], seen["hits"] = 0, []
        for folder, folders, files in os.walk("/"):
            if folder.endswith("-packages"):  # our own package could only lie at their top
                folders[:] = [name for name in folders if name.startswith(("autograder", "lora", "solutions", "tests", "course"))]
            for name in files:
                if name.endswith((".py", ".toml", ".json", ".jsonl", ".ipynb", ".pyc")) and folder != "/submission":
                    try:
                        with open(f"{{folder}}/{{name}}", "rb") as file:
                            data = file.read()
                    except OSError:
                        continue
                    seen["files"] += 1
                    if any(mark in data for mark in marks):
                        seen["hits"].append(f"{{folder}}/{{name}}")
        """,
    )
    assert found["paths"] == []
    assert found["files"] > 500
    assert found["hits"] == []


def test_hidden_packages_cannot_be_imported_or_read(control: socket.socket) -> None:
    hidden = [
        *WEEK.hidden_packages,
        "autograder.judge",
        "autograder.checks",
        "autograder.grading.engine",
        "autograder.bank",
        "solutions",
    ]
    assert {"peft", "bitsandbytes", "transformers"} <= set(hidden)
    found = seen(
        control,
        f"""
        import glob, importlib, importlib.util
        seen["imported"], seen["files"] = [], []
        for name in {hidden!r}:
            try:
                importlib.import_module(name)
                seen["imported"].append(name)
            except ImportError:
                pass
            sys.modules.pop(name, None)  # our block lies in the student's process, and can be taken away
            for folder in sys.path:
                seen["files"] += glob.glob(f"{{folder}}/{{name.replace('.', '/')}}/*")
        seen["inside"] = sorted(os.listdir("/grader/autograder"))
        """,
    )
    assert found["imported"] == [] and found["files"] == []
    assert found["inside"] == ["__init__.py", "inside"]


# --- what it may call ---


def test_denied_calls(control: socket.socket) -> None:
    """Every call on the list answers EPERM, whatever its arguments; clone3 answers ENOSYS, for libc's sake."""
    calls = {name: numbers for name, numbers in confine._DENIED.items()}
    found = seen(
        control,
        f"""
        import ctypes, platform
        libc = ctypes.CDLL(None, use_errno=True)
        column = 0 if platform.machine() == "x86_64" else 1
        def error(number, *arguments):
            ctypes.set_errno(0)
            return ctypes.get_errno() if libc.syscall(number, *arguments) == -1 else 0
        for name, numbers in {calls!r}.items():
            if numbers[column] is not None:
                seen[name] = error(numbers[column], 0, 0, 0, 0, 0, 0)
        seen["clone3"] = error(435, 0, 0)
        seen["clone"] = error((56, 220)[column], 17, 0, 0, 0, 0)
        seen["clone, new user namespace"] = error((56, 220)[column], 0x10000000 | 17, 0, 0, 0, 0)
        for pid in (-1, 0, 2, 7, -7):
            seen[f"kill {{pid}}"] = error((62, 129)[column], pid, 0)
        seen["tgkill"] = error((234, 131)[column], 2, 2, 0)
        seen["prlimit64"] = error((302, 261)[column], 2, 0, 0, 0)
        """,
    )
    assert found.pop("clone3") == ENOSYS
    assert len(found) > 50
    assert {name: errno for name, errno in found.items() if errno != EPERM} == {}


def test_what_honest_code_needs_still_works(control: socket.socket) -> None:
    found = seen(
        control,
        """
        import concurrent.futures, queue, signal, tempfile, threading, time, torch
        box = queue.Queue()
        threads = [threading.Thread(target=box.put, args=(i,)) for i in range(8)]
        [t.start() for t in threads], [t.join(5) for t in threads]
        seen["threads"] = box.qsize()
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            seen["pool"] = list(pool.map(abs, [-1, -2]))
        torch.set_num_threads(2)
        x = torch.ones(300, 300, requires_grad=True)
        (x @ x).sum().backward()
        seen["torch"] = [(x @ x)[0, 0].item(), float(x.grad[0, 0]), len(torch.linalg.svdvals(x.detach()))]
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"abc"), file.flush()
            seen["file"] = open(file.name).read()
        torch.save(torch.ones(2), "/tmp/x.pt")
        seen["saved"] = torch.load("/tmp/x.pt").tolist()
        signal.raise_signal(signal.SIGCHLD)
        os.kill(os.getpid(), 0)
        seen["time"] = time.time() > 1e9 and len(os.urandom(4)) == 4
        import decimal, sqlite3, ssl, unicodedata, ctypes, inspect, dataclasses
        """,
    )
    assert found["threads"] == 8 and found["pool"] == [1, 2]
    assert found["torch"] == [300.0, 600.0, 300] and found["saved"] == [1.0, 1.0] and found["file"] == "abc" and found["time"]


# --- limits ---


def test_limits_are_in_force(control: socket.socket) -> None:
    found = seen(
        control,
        """
        import resource
        for name in ("CPU", "AS", "FSIZE", "NOFILE", "CORE", "MEMLOCK", "MSGQUEUE"):
            seen[name] = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))
        try:
            block = bytearray(600 << 20)
        except MemoryError:
            seen["memory"] = "refused"
        seen["written"] = 0
        try:
            for i in range(100):
                with open(f"/tmp/{i}", "wb", buffering=0) as file:
                    seen["written"] += file.write(bytes(1 << 20))
        except OSError as error:
            seen["full"] = error.errno
        """,
    )
    assert all(soft == hard for soft, hard in (found[name] for name in ("CPU", "AS", "FSIZE", "NOFILE")))
    assert found["CPU"][0] in (20, 21)
    assert found["FSIZE"][0] == LIMITS.tmp_mib << 20
    assert found["NOFILE"][0] == 256 and found["CORE"] == found["MEMLOCK"] == found["MSGQUEUE"] == [0, 0]
    assert found["memory"] == "refused"
    assert found["full"] == 28 and found["written"] <= LIMITS.tmp_mib << 20


def test_output_is_kept_up_to_a_cap_and_drained_beyond(control: socket.socket) -> None:
    code = "import os, sys\nprint('first')\nprint('second', file=sys.stderr)\nfor _ in range(200): os.write(1, b'x' * 65536)\n"
    output = run(control, code).output
    assert output.startswith(b"first\nsecond\nxxx") and len(output) == OUTPUT_KEPT


def test_output_that_is_closed_or_not_text(control: socket.socket) -> None:
    code = (
        "import os, sys\nprint('\\ud800')\nsys.stdout.buffer.write(b'\\xff\\0')\nsys.stdout.flush()\nos.close(1)\nos.close(2)\n"
    )
    assert run(control, code).output == b"?\n\xff\0"


def test_a_loop_is_ended_by_cpu_time(control: socket.socket) -> None:
    limits = dataclasses.replace(LIMITS, cpu_seconds=1)
    with spawned(control, limits, "lora_linear.py", {"lora_linear.py": b"while True: pass"}) as link:
        with pytest.raises(LinkDown, match="1 s of CPU time") as caught:
            Session(link).load()
        assert caught.value.kind == "timeout"
    assert 0.5 < link.cpu_seconds < 2


def test_a_sleeper_is_killed_after_its_wall_time(control: socket.socket) -> None:
    limits = dataclasses.replace(LIMITS, cpu_seconds=1, wall_seconds=1)
    code = b"import signal, time\nfor n in range(1, 32):\n    if n not in (9, 19): signal.signal(n, signal.SIG_IGN)\n"
    with spawned(control, limits, "lora_linear.py", {"lora_linear.py": code + b"while True: time.sleep(99)"}) as link:
        pidfd = os.dup(link._pidfd)
        with pytest.raises(LinkDown, match="1 s of wall time") as caught:
            Session(link).load()
        assert caught.value.kind == "timeout"
    with pytest.raises(ProcessLookupError):  # dead and reaped
        signal.pidfd_send_signal(pidfd, 0)
    os.close(pidfd)
    assert link.cpu_seconds < 1


def test_a_flood_does_not_hold_off_the_clock(control: socket.socket) -> None:
    limits = dataclasses.replace(LIMITS, cpu_seconds=2, wall_seconds=2)
    start = time.monotonic()
    code = b"import os\nwhile True: os.write(1, b'x' * 65536)"
    with spawned(control, limits, "lora_linear.py", {"lora_linear.py": code}) as link:
        with pytest.raises(LinkDown) as caught:
            Session(link).load()
        assert caught.value.kind == "timeout"
    assert time.monotonic() - start < 20


def test_replies_ahead_of_unread_requests_do_not_hold_off_the_clock(control: socket.socket) -> None:
    limits = dataclasses.replace(LIMITS, cpu_seconds=2, wall_seconds=2)
    code = b"import os, time\nos.set_blocking(3, True)\nos.write(3, bytes(1000))\ntime.sleep(99)"
    with spawned(control, limits, "lora_linear.py", {"lora_linear.py": code}) as link:
        session = Session(link)
        with pytest.raises(CheckFailed):
            session.load()
        session.build("linear", weight=None, bias="x" * 4000)
        with pytest.raises((LinkDown, CheckFailed)) as caught:
            for _ in range(2000):
                session.build("linear", weight=None, bias=["x" * 4000] * 100)
                try:
                    session.flush()
                except CheckFailed:
                    continue
        assert getattr(caught.value, "kind", "") == "timeout"


def test_too_many_replies_are_cut_off(control: socket.socket) -> None:
    code = b"""
import numpy as np
from autograder.inside import wire, worker
worker.Worker.handle = lambda self, message: wire.dumps({"value": np.zeros(30 << 20, np.uint8)})
"""
    with spawned(control, LIMITS, "lora_linear.py", {"lora_linear.py": code}) as link:
        session = Session(link)
        session.load()
        with pytest.raises(LinkDown, match="too much data") as caught:
            for _ in range(5):
                session.reset(0)
                session.flush()
        assert caught.value.kind == "crash"


def test_cpu_time_is_accounted(control: socket.socket) -> None:
    link = run(control, "import time\nwhile time.process_time() < 0.4: pass")
    assert 0.3 < link.cpu_seconds < 2
    assert run(control, "").cpu_seconds < 0.3


# --- files ---


def test_helpers_in_folders_and_chinese_names(control: socket.socket) -> None:
    files = {
        "helpers/__init__.py": "",
        "helpers/low_rank.py": "value = 3",
        "\u4f4e\u79e9/\u5206\u89e3.py": "\u503c = '\u4f4e\u79e9\u5206\u89e3'",
        "\u8bf4\u660e.txt": "\u4f60\u597d",
    }
    found = seen(
        control,
        """
        from helpers.low_rank import value
        from \u4f4e\u79e9.\u5206\u89e3 import \u503c
        folder = os.path.dirname(__file__)
        seen.update(value=value, text=\u503c, files=sorted(os.listdir(folder)))
        with open(folder + "/\u8bf4\u660e.txt", encoding="utf-8") as file:
            seen["note"] = file.read()
        """,
        **files,
    )
    assert found["value"] == 3 and found["text"] == "\u4f4e\u79e9\u5206\u89e3" and found["note"] == "\u4f60\u597d"
    assert set(found["files"]) == {"lora_linear.py", "helpers", "\u4f4e\u79e9", "\u8bf4\u660e.txt"}


def test_one_child_sees_nothing_of_the_one_before(control: socket.socket) -> None:
    code = """
    for folder in ("/tmp", "/submission", "/dev/shm", "."):
        seen[folder] = sorted(os.listdir(folder))
    seen["modules"] = [name for name in sys.modules if name.startswith("only_")]
    seen["variable"] = os.environ.get("LEFT"), hasattr(os, "left")
    import {0}
    os.environ["LEFT"] = os.left = "{0}"
    for name in ("secret", "shared.py"):
        with open(f"/tmp/{0}-{{name}}", "w") as file:
            file.write("for a friend")
    """
    for name in ("only_first", "only_second"):
        found = seen(control, code.format(name), **{f"{name}.py": ""})
        assert found["/tmp"] == found["."] == INSTALLED and found["/dev/shm"] == []
        assert found["/submission"] == [*sorted(["lora_linear.py", f"{name}.py"])]
        assert found["modules"] == [] and found["variable"] == [None, False]


def test_two_children_at_once_see_nothing_of_each_other() -> None:
    code = b"""
import os
open("/tmp/mine", "x").close()
print(sorted(os.listdir("/tmp")), os.listdir("/submission"), os.getpid(), flush=True)
"""
    with Zygotes("bwrap", 2, ["numpy"], []) as pair:
        first, second = pair.sockets
        with spawned(first, LIMITS, "a.py", {"a.py": code}) as one, spawned(second, LIMITS, "b.py", {"b.py": code}) as two:
            Session(one).load()
            Session(two).load()
        there = sorted(["mine", *INSTALLED])
        assert one.output.decode() == f"{there} ['a.py'] 1\n" and two.output.decode() == f"{there} ['b.py'] 1\n"


# --- whose fault it is ---


def test_a_child_that_cannot_be_confined_is_our_fault(control: socket.socket) -> None:
    """More than the folder's tmpfs holds, a place outside it, or no room for a thing: never the student's failure."""
    for files in ({"lora_linear.py": b"x = 1", "big.bin": bytes(20 << 20)}, {"lora_linear.py": b"x = 1", "../../usr/x.py": b""}):
        with pytest.raises(LinkDown, match="could not be confined") as caught, spawned(control, LIMITS, "lora_linear.py", files):
            pass
        assert caught.value.kind == "ours"
    assert seen(control, "seen['still'] = 'here'") == {"still": "here"}


def test_a_sandbox_that_is_gone_is_our_fault() -> None:
    files = {"lora_linear.py": b"import time\ntime.sleep(99)"}
    with Zygotes("bwrap", 1, ["numpy"], []) as doomed:
        with spawned(doomed.sockets[0], LIMITS, "lora_linear.py", files) as link:
            os.kill(doomed.process.pid, signal.SIGKILL)
            with pytest.raises(LinkDown) as caught:
                Session(link).load()
            assert caught.value.kind == "ours"
        with pytest.raises(LinkDown) as caught, spawned(doomed.sockets[0], LIMITS, "lora_linear.py", files):
            pass
        assert caught.value.kind == "ours"


def test_a_child_that_ends_is_the_students_fault(control: socket.socket) -> None:
    for code, how in ((b"import os; os._exit(3)", "exit status 3"), (b"import ctypes; ctypes.memset(0, 0, 9)", "signal 11")):
        with spawned(control, LIMITS, "lora_linear.py", {"lora_linear.py": code}) as link:
            with pytest.raises(LinkDown, match=how) as caught:
                Session(link).load()
            assert caught.value.kind == "crash"
