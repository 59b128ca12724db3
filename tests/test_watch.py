"""`autograder watch`, as a student uses it: save, read, save again."""

from __future__ import annotations

import os
import pty
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autograder import cli
from autograder.authoring import release
from autograder.manifest import load
from autograder.student import watch
from tests.conftest import ROOT

WEEK = load().week(2)
RIGHT = (ROOT / "solutions" / "week02" / WEEK.stub).read_text(encoding="utf-8")
STUB = (ROOT / "exercises" / "week02" / WEEK.stub).read_text(encoding="utf-8")
WAITING = "waiting for you to save; Ctrl-C ends"
PROGRAM = "import sys\n{0}\nfrom autograder import cli\nsys.exit(cli.main(sys.argv[1:]))"
SECONDS = 180  # until a run's answer; a busy machine must fail nothing
Start = Callable[..., "Watched"]


class Watched:
    """A running `autograder watch` on a stub file."""

    def __init__(self, stub: Path, *options: str, what: str = "2", before: str = "", root: Path = ROOT) -> None:
        self.stub = stub
        words = [sys.executable, "-c", PROGRAM.format(before), "watch", what, "--file", str(stub), *options]
        environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "AUTOGRADER_LANG": "en"}
        self.process = subprocess.Popen(
            words, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def until(self, text: str) -> str:
        """What it prints, up to a line with this text."""
        said, end = "", time.monotonic() + SECONDS
        while text not in said:
            try:
                line = self._lines.get(timeout=max(0.01, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {text!r} in:\n{said}") from None
            if line is None:
                assert self.process.stderr is not None
                raise AssertionError(f"ended before {text!r}:\n{said}{self.process.stderr.read()}")
            said += line
        return said

    def answer(self) -> str:
        return self.until(WAITING)

    def save(self, text: str, name: str | None = None) -> str:
        """Write the file in one go and read the answer."""
        (self.stub.parent / (name or self.stub.name)).write_text(text, encoding="utf-8")
        said = self.answer()
        while "is empty: " in said:  # on a busy machine: the moment in which it was
            said = self.answer()
        return said

    def end(self) -> tuple[int, str]:
        """Wait for the end; the status and what was said on stderr."""
        _, err = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, err


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    made: list[Watched] = []

    def begin(text: str, *options: str, name: str = WEEK.stub, **more: object) -> Watched:
        folder = tmp_path / "my work"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
        made.append(Watched(folder / name, *options, **more))  # type: ignore[arg-type]
        return made[-1]

    yield begin
    for watched in made:
        if watched.process.poll() is None:
            watched.process.kill()
            watched.process.wait()


WAYS = {
    "told by the system": ([], ""),
    "--poll": (["--poll"], ""),
    "without watchfiles": ([], "sys.modules['watchfiles'] = None"),
}


@pytest.mark.parametrize(("options", "before"), WAYS.values(), ids=WAYS)
def test_every_save_is_checked_until_ctrl_c(start: Start, options: list[str], before: str) -> None:
    watched = start(STUB, *options, before=before)
    said = watched.answer()
    assert "2.1  truncated_svd: the best approximation of a given rank: unattempted" in said and "0 of 70 points" in said
    said = watched.save(RIGHT)
    assert "70 of 70 points" in said and "everything passes" in said
    said = watched.save("x = (\n")
    assert "line 1: '(' was never closed\n    x = (\n        ^\n" in said and "points" not in said
    # As editors write: a new file renamed over the old one, which may be gone for a moment.
    new = watched.stub.with_suffix(".tmp")
    new.write_text(RIGHT.replace("truncated_svd", "truncated_SVD"), encoding="utf-8")
    watched.stub.unlink()
    time.sleep(0.3)
    os.replace(new, watched.stub)
    assert "truncated_svd is gone from your file: was it renamed to truncated_SVD?" in watched.answer()
    # Two saves that differ neither in size nor in the second that they were made in.
    one, two = RIGHT + "\n\nraise ValueError(1)\n", RIGHT + "\n\nraise ValueError(2)\n"
    assert "ValueError: 1" in watched.save(one)
    assert "ValueError: 2" in watched.save(two)
    # A helper beside it counts as well.
    watched.save(RIGHT + "\n\nimport helper\n")
    assert "70 of 70 points" in watched.save("x = 1\n", "helper.py")
    assert "raised ZeroDivisionError" in watched.save("x = 1 / 0\n", "helper.py")
    watched.process.send_signal(signal.SIGINT)
    status, err = watched.end()
    assert (status, err) == (130, "stopped; run the same command again to go on\n")
    assert not list(watched.stub.parent.glob("__pycache__"))


def test_a_file_that_is_gone_is_waited_for(start: Start) -> None:
    watched = start(STUB)
    watched.answer()
    watched.stub.unlink()
    watched.until("rank1_lora.py is gone; waiting for it")
    assert "70 of 70 points" in watched.save(RIGHT)


def test_a_loop_without_end_ends_neither_the_watch_nor_the_next_answer(start: Start) -> None:
    watched = start(RIGHT.replace("def truncated_svd", "while True: pass\n\n\ndef truncated_svd"), "--seconds", "0.3", what="2.1")
    assert "your code was still running after 0.3 s, at rank1_lora.py:" in watched.answer()
    assert "15 of 15 points" in watched.save(RIGHT)


LEAKS = """
import os, sys, threading, time, warnings
import numpy as np
import torch
torch.set_default_dtype(torch.float64)
torch.set_grad_enabled(False)
torch.Tensor.mine = lambda self: 1
torch.nn.Linear.forward = lambda self, x: x
torch.matmul = torch.einsum = None
np.linalg.svd = np.linalg.qr = lambda *a, **k: 1 / 0
np.seterr(all="raise")
warnings.simplefilter("error")
sys.path.insert(0, "/nowhere")
os.environ["LEAK"] = "1"
os.chdir("/")
sys.setrecursionlimit(3000)
print("leaked", flush=True)
sys.stdout = sys.stderr = None
"""
BUILTINS = "import builtins\nbuiltins.float = builtins.len = builtins.callable = None\n"


def test_what_a_run_does_to_the_process_is_undone(start: Start) -> None:
    right = (ROOT / "solutions" / "week04" / "lora_linear.py").read_text(encoding="utf-8")  # week 2 does not have torch
    watched = start(right, name="lora_linear.py", what="4.1")
    assert "25 of 25 points" in watched.answer()
    assert "leaked" in watched.save(right + LEAKS)
    assert "25 of 25 points" in watched.save(right)


def test_libraries_get_their_functions_and_defaults_back(tmp_path: Path) -> None:
    import numpy as np
    import torch

    kept = (torch.matmul, torch.nn.Linear.forward, np.linalg.svd, os.getcwd(), [*sys.path], len, dict(os.environ), sys.stdout)
    event = threading.Event()
    left = threading.Thread(target=event.wait, args=[60], name="mine")
    with watch.restored(tmp_path) as notes:
        left.start()
        exec(LEAKS, {})
        torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
        torch.set_default_device("meta")
        exec(BUILTINS, {})
    event.set()
    now = (torch.matmul, torch.nn.Linear.forward, np.linalg.svd, os.getcwd(), [*sys.path], len, dict(os.environ), sys.stdout)
    assert now == kept and all(a is b for a, b in zip(now[:3], kept[:3], strict=True))
    assert not hasattr(torch.Tensor, "mine") and not torch.nn.modules.module._global_forward_hooks
    assert torch.get_default_dtype() is torch.float32 and torch.is_grad_enabled() and torch.zeros(1).device.type == "cpu"
    assert notes == ["your code left a thread running (mine): it may disturb the next run; start watch again"]
    left.join()


def test_a_change_of_the_course_ends_it(start: Start, tmp_path: Path) -> None:
    root = tmp_path / "course"
    for name in release.grader_files(WEEK):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, root / name)
    watched = start(RIGHT, root=root)
    watched.answer()
    with open(root / "autograder" / "checks" / "week02" / "test_rank1_lora.py", "a", encoding="utf-8") as file:
        file.write("# newer\n")
    assert watched.end() == (2, "autograder: the course's files changed: start watch again\n")


def test_once_answers_as_check_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stub = tmp_path / WEEK.stub
    for text, status in ((RIGHT, 0), (STUB, 1), ("x = (", 2)):
        stub.write_text(text, encoding="utf-8")
        assert cli.main(["watch", "2.1", "--file", str(stub), "--once", "--lang", "en"]) == status
        watched = capsys.readouterr()
        assert cli.main(["check", "2.1", "--file", str(stub)]) == status
        checked = capsys.readouterr()
        assert watched.out == checked.out + (checked.err if status == 2 else "")
    assert cli.main(["watch", "2.9", "--once"]) == 2
    assert "there is no task 2.9" in capsys.readouterr().err


def test_on_a_terminal_the_screen_is_cleared_and_chinese_is_spoken(tmp_path: Path) -> None:
    stub = tmp_path / WEEK.stub
    stub.write_text(RIGHT, encoding="utf-8")
    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "autograder", "watch", "2", "--file", str(stub), "--once", "--lang", "zh"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    process = subprocess.Popen(words, env=environment, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    while True:
        try:
            said += os.read(ours, 65536)
        except OSError:
            break
    os.close(ours)
    assert process.wait() == 0 and said.startswith(watch._CLEAR.encode()) and "全部通过" in said.decode()


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:30 / /home rw shared:2 - nfs4 server:/home rw
31 30 8:2 / /home/local rw - ext4 /dev/sda2 rw
32 22 0:31 / /mnt/c rw - 9p drvfs rw
33 22 0:32 / /media/my\\040disk rw - fuse.sshfs me@host: rw
34 22 0:33 / /media/sf rw - vboxsf share rw
"""


@pytest.mark.parametrize(
    ("folder", "remote"),
    [
        ("/home/ada/lora", True), ("/home/local/lora", False), ("/homework", False), ("/mnt/c/Users/ada", True),
        ("/media/my disk/x", True), ("/media/sf", True), ("/opt", False),
    ],
)  # fmt: skip
def test_network_folders_are_recognised(folder: str, remote: bool) -> None:
    assert watch._file_system(Path(folder), MOUNTS).startswith(watch._REMOTE) == remote
