"""start, status and reset, and the progress that they read: what a learner sees, in both languages."""

from __future__ import annotations

import ast
import json
import os
import re
import select
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autograder import bank, cli
from autograder.judge import runner as judge
from autograder.judge.digest import checks_digest
from autograder.judge.recorded import Recorder
from autograder.manifest import Course, Task, Week, load
from autograder.screen import columns
from autograder.student import common, learner, pristine, progress
from tests.conftest import ROOT

WEEKS = load().weeks
TASKS = [(week, task) for week in WEEKS for task in week.tasks]
CHINESE = re.compile("[\u4e00-\u9fff]")


def stub_of(week: Week) -> str:
    return (ROOT / "exercises" / week.folder / week.stub).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A students' copy with weeks 2 and 4, in a folder with a space, its recorded answers empty but for the stubs."""
    copy = tmp_path_factory.mktemp("a course") / "lora"
    junk = shutil.ignore_patterns("__pycache__", "bank", "grading", "build.py", "week0[135-9]", "week1*")
    shutil.copytree(ROOT / "autograder", copy / "autograder", ignore=junk)
    shutil.copytree(ROOT / "exercises", copy / "exercises", ignore=junk)
    shutil.copytree(ROOT / "course" / "week04", copy / "course" / "week04", ignore=junk)
    for name in (
        "course/course.toml",
        "notebooks/week04.ipynb",
        "notebooks/zh/week04.ipynb",
        "pyproject.toml",
        "constraints.txt",
    ):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    (copy / "autograder" / "recorded").mkdir()
    for week in (WEEKS[1], WEEKS[3]):
        data = Recorder().pack(checks_digest(week), [], stub_of(week))
        (copy / "autograder" / "recorded" / f"{week.folder}.zip").write_bytes(data)
    return copy


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "my copy"))


def command(root: Path, *arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a copy, its output in a pipe."""
    names = ("AUTOGRADER_LANG", "LC_ALL", "LC_MESSAGES", "LANG", "FORCE_COLOR", "NO_COLOR")
    clean = {name: value for name, value in os.environ.items() if name not in names}
    settings = {"PYTHONPATH": str(root), "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    line = [sys.executable, "-m", "autograder", *arguments]
    return subprocess.run(
        line, cwd=cwd or root, env=clean | settings | environment, stdin=subprocess.DEVNULL, capture_output=True,
        encoding="utf-8", check=False,
    )  # fmt: skip


def on_a_terminal(root: Path, *arguments: str, typed: bytes = b"") -> tuple[int, str]:
    """The command on a terminal of 80 columns; its exit status and all that it showed."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES", "LC_ALL")}
    environment = kept | {"PYTHONPATH": str(root), "PYTHONUTF8": "1", "TERM": "xterm-256color", "LANG": "C.UTF-8"}
    line = [sys.executable, "-m", "autograder", *arguments]
    process = subprocess.Popen(line, cwd=root, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    os.write(ours, typed)
    shown, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline and select.select([ours], [], [], 60)[0]:
        try:
            data = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not data:
            break
        shown += data
    os.close(ours)
    return process.wait(60), shown.decode().replace("\r\n", "\n")


def remember(root: Path, **entries: progress.Entry) -> None:
    """Entries by task, "t4_2" for 4.2, in a copy's progress."""
    fields = {name[1:].replace("_", "."): vars(entry) for name, entry in entries.items()}
    (root / ".autograder").mkdir(exist_ok=True)
    (root / ".autograder" / "progress.json").write_text(json.dumps({"schema": 1, "tasks": fields}), encoding="utf-8")


def digest_in(root: Path, week: Week) -> str:
    program = "from autograder import manifest\nfrom autograder.student import progress\n"
    program += f"print(progress.digest(manifest.load().week({week.number})))"
    environment = os.environ | {"PYTHONPATH": str(root)}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


# --- the language ---


@pytest.mark.parametrize(
    ("environment", "lang"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LC_ALL": "C", "LANG": "zh_CN.UTF-8"}, "en"),
        ({"LC_ALL": "", "LC_MESSAGES": "zh_TW", "LANG": "C"}, "zh"),
        ({"AUTOGRADER_LANG": "en", "LC_ALL": "zh_CN.UTF-8"}, "en"),
        ({"AUTOGRADER_LANG": "zh"}, "zh"),
        ({"AUTOGRADER_LANG": "fr", "LANG": "zh_CN"}, "zh"),
    ],
)
def test_the_language_is_the_learners(environment: dict[str, str], lang: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AUTOGRADER_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert common.language() == lang


@pytest.mark.parametrize("arguments", [["status"], ["status", "4"], ["start", "4"], ["reset", "4.2", "--yes"]], ids=" ".join)
def test_the_locale_decides_and_lang_overrides(made: Path, arguments: list[str]) -> None:
    assert CHINESE.search(command(made, *arguments, LANG="zh_CN.UTF-8").stdout)
    assert not CHINESE.search(command(made, *arguments, "--lang", "en", LANG="zh_CN.UTF-8").stdout)


@pytest.mark.parametrize("arguments", [["status"], ["status", "4"], ["start"], ["start", "4"]], ids=" ".join)
def test_they_import_nothing_heavy(arguments: list[str]) -> None:
    program = (
        f"import sys\nfrom autograder.cli import main\nassert main({arguments!r}) == 0\n"
        "heavy = {'torch', 'numpy', 'pytest'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- progress ---


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this process keeps progress, and looks for stubs."""
    monkeypatch.setattr(progress, "ROOT", tmp_path)
    monkeypatch.setattr(progress, "_warned", False)
    shutil.copytree(ROOT / "exercises" / "week02", tmp_path / "exercises" / "week02")
    return tmp_path


def run(week: Week, path: Path) -> list[judge.TaskRun]:
    runner, runs = judge.Runner(week, 0), list[judge.TaskRun]()
    runner.run_in_pytest(lambda: runs.extend(runner.run(judge.loopback(path))))
    return runs


def test_a_check_is_remembered_and_a_change_is_noticed(elsewhere: Path, course: Course) -> None:
    week = course.week(2)
    stub = elsewhere / "exercises" / "week02" / week.stub
    reference = judge.reference_stub(week).read_text(encoding="utf-8")
    mutant = next(m for m in bank.mutants(week, reference) if m.task == "2.1")
    stub.write_text(mutant.source, encoding="utf-8")
    progress.hinted("2.1", 2)
    progress.hinted("2.1", 1)
    assert progress.load() == {"2.1": progress.Entry(hint=2)}
    runs = run(week, stub)
    progress.record(week, runs, stub)
    found = progress.load()
    assert found["2.1"].misconception == mutant.misconception and found["2.1"].hint == 2
    assert found["2.1"].share < 1 and found["2.1"].failing in {outcome.name for outcome in runs[0].outcomes}
    assert found["2.2"] == progress.Entry(1.0, "passed", None, None, progress.digest(week), 0)
    (elsewhere / "exercises" / "week02" / "helper.py").write_text("x = 1\n")
    assert progress.digest(week) != found["2.2"].digest, "a helper beside the stub is part of the answer"
    (elsewhere / "other.py").write_text(reference)
    progress.record(week, run(week, elsewhere / "other.py"), elsewhere / "other.py")
    assert progress.load() == found, "another file's check is not the stub's"
    raw = json.loads((elsewhere / ".autograder" / "progress.json").read_text())
    assert raw["tasks"]["2.2"]["seed"] == 0 and raw["tasks"]["2.2"]["tier"] is None
    assert [path.name for path in (elsewhere / ".autograder").iterdir()] == ["progress.json"], "no temporary file is left"


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"schema": 2, "tasks": {}}', b'{"schema": 1, "tasks": {"4.1": 3}}',
        b'{"schema": 1, "tasks": {"4.1": {"share": NaN, "status": "passed", "digest": "", "hint": 0}}}',
        b'{"schema": 1, "tasks": {"4.1": {"share": 1, "status": "great", "digest": "", "hint": 0}}}',
    ],
    ids=range(9),
)  # fmt: skip
def test_a_damaged_file_is_set_aside(copy: Path, data: bytes) -> None:
    folder = copy / ".autograder"
    folder.mkdir()
    (folder / "progress.json").write_bytes(data)
    done = command(copy, "status")
    assert done.returncode == 0 and "0 of 140 points" in done.stdout and not done.stderr
    assert (folder / "progress.json.bad").read_bytes() == data and not (folder / "progress.json").exists()


def test_where_nothing_can_be_written_it_says_so_once(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (elsewhere / ".autograder").write_text("a file is in the way")
    progress.hinted("2.1", 1)
    progress.hinted("2.1", 2)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "progress.json" in error
    assert progress.load() == {}


# --- status ---


def test_status_of_a_fresh_copy(made: Path) -> None:
    said = command(made, "status").stdout
    assert "By your last checks: 0 of 140 points" in said
    assert "Next: 2.1 truncated_svd" in said and "autograder start 2" in said
    assert "not in this copy: weeks 1, 3, 5, 6" in said
    said = command(made, "status", "--lang", "zh").stdout
    assert "根据你最近的检查：0 / 140 分" in said and "下一步：2.1" in said and "本份课程文件中没有第 1、3、5" in said


def test_status_says_what_is_done_changed_and_next(copy: Path, course: Course) -> None:
    week = course.week(4)
    now = digest_in(copy, week)
    full = {f"t2_{number}": progress.Entry(1.0, "passed", digest=digest_in(copy, course.week(2))) for number in (1, 2, 3, 4)}
    failed = progress.Entry(0.0, "failed", "merge", "You merge\x1b[31m B A without the scaling.", now, 2)
    remember(copy, **full, t4_1=progress.Entry(1.0, "passed", digest=now), t4_2=failed)
    said = command(copy, "status").stdout
    assert "95 of 140 points" in said and "changed" not in said and "\x1b" not in said
    assert re.search(r"^ *2  █{10}  +70/70  ✓✓✓✓ \+ ··", said, re.MULTILINE)
    assert re.search(r"^ *4  █{4}░{6}  +25/70  ✓✗·· \+ ···", said, re.MULTILINE)
    assert "Next: 4.2 merge and unmerge\n  autograder check 4.2\n  autograder hint 4.2" in said

    one = command(copy, "status", "4").stdout
    assert "failed first: merge" in one and "likely misunderstanding: You merge?[31m B A without the scaling." in one
    assert "hints seen: 2" in one and "4.5  stretch" in one and "stretch tasks are checked, but carry no points" in one
    assert "先失败的检查项：merge" in command(copy, "status", "4", "--lang", "zh").stdout

    with open(copy / "exercises" / "week04" / week.stub, "a", encoding="utf-8") as file:
        file.write("\n# more\n")
    said = command(copy, "status").stdout
    assert "70 of 140 points (and 25 before your last changes)" in said and said.count("changed since") == 1
    assert re.search(r"^ *4  ▒{4}░{6}  +0/70 ", said, re.MULTILINE)
    assert "Next: 4.2" in said, "a task that passed before the change is not the next one"
    found = json.loads(command(copy, "status", "--json").stdout)
    assert found["next"] == {"task": "4.2", "command": "autograder check 4.2"}
    assert [(w["week"], w["points"], w["earlier"], w["of"]) for w in found["weeks"]] == [(2, 70, 0, 70), (4, 0, 25, 70)]
    task = found["weeks"][1]["tasks"][1]
    assert (task["id"], task["status"], task["changed"], task["failing"], task["hint"]) == ("4.2", "failed", True, "merge", 2)


def test_status_when_all_is_done(copy: Path, course: Course) -> None:
    def entries(digest: str) -> dict[str, progress.Entry]:
        return {f"t{t.id.replace('.', '_')}": progress.Entry(1.0, "passed", digest=digest) for t in course.week(4).core}

    remember(copy, **entries(digest_in(copy, course.week(4))))
    assert "All core tasks have full marks." in command(copy, "status", "4").stdout
    remember(copy, **entries("0" * 64))
    assert "All passed, but changed since: autograder check 4" in command(copy, "status", "4").stdout


def test_a_pipe_and_a_plain_encoding_lose_no_word(made: Path, course: Course) -> None:
    for lang in ("en", "zh"):
        said = command(made, "status", "--lang", lang, COLUMNS="20").stdout
        assert all(course.week(number).title.of(lang) in said for number in (2, 4))
    done = command(made, "status", "--lang", "zh", PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "0/70" in done.stdout and ".........." in done.stdout


def test_a_terminal_gets_colour_and_80_columns(copy: Path, course: Course) -> None:
    remember(copy, t4_1=progress.Entry(1.0, "passed", digest=digest_in(copy, course.week(4))))
    for lang in ("en", "zh"):
        for arguments in (["status"], ["status", "4"], ["start", "4"]):
            status, shown = on_a_terminal(copy, *arguments, "--lang", lang)
            assert status == 0 and "\x1b[32m" in shown, shown
            lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
            assert max(map(columns, lines)) <= 80, [line for line in lines if columns(line) > 80]


# --- start ---


def test_start_opens_a_week(copy: Path) -> None:
    said = command(copy, "start", "4").stdout
    assert said.startswith("Week 4 · Implementation") and "150 minutes" in said
    for name in (
        "course/week04/lecture.md",
        "exercises/week04/lora_linear.py",
        "notebooks/week04.ipynb",
        "course/week04/reading.md",
    ):
        assert name in said.split(), name
    assert "autograder check 4.1" in said and "put back" not in said and "4.5" in said
    said = command(copy, "start", "4", "--lang", "zh", cwd=copy / "exercises").stdout
    for name in ("../course/week04/lecture.zh.md", "week04/lora_linear.py", "../notebooks/zh/week04.ipynb"):
        assert name in said.split() and (copy / "exercises" / name).is_file()
    assert command(copy, "start").stdout.startswith("Week 2 · "), "the first that is not done"


def test_start_puts_a_missing_stub_back_and_touches_no_other(copy: Path, course: Course) -> None:
    stub = copy / "exercises" / "week04" / "lora_linear.py"
    stub.write_text("mine = 1\n")
    command(copy, "start", "4")
    assert stub.read_text() == "mine = 1\n"
    shutil.rmtree(stub.parent)
    assert "(it was missing: put back)" in command(copy, "start", "4").stdout
    assert stub.read_bytes() == stub_of(course.week(4)).encode()
    stub.unlink()
    (copy / "autograder" / "recorded" / "week04.zip").write_bytes(b"PK")
    done = command(copy, "start", "4")
    assert done.returncode == 2 and "week04.zip is missing, damaged" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["start", "x"], '"x" is no week: give its number, such as 4'),
        (["status", "4.2"], '"4.2" is no week'),
        (["start", "3"], "there is no week 3 in this copy; it has: 2, 4"),
        (["status", "99"], "there is no week 99"),
        (["reset", "4.9", "--yes"], 'there is no task "4.9"; the week has 4.1,'),
        (["reset", "4."], 'there is no task "4."'),
        (["reset", "4", "--lang", "zh"], "加 --yes"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_said_in_one_line(copy: Path, arguments: list[str], said: str) -> None:
    (copy / "exercises" / "week04" / "lora_linear.py").write_text("x = 1\n")
    done = command(copy, *arguments)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1 and not done.stdout


# --- reset ---

MINE = '''\
"""Mine."""
from __future__ import annotations
import collections  # my own
import torch
from torch import Tensor, nn

LIMIT = 3  # keep


class LoRALinear(nn.Module):
    def helper(self):  # keep
        return 1

    # keep: about merge
    def merge(self) -> None:
        self.base.weight += 1  # lost
        # lost as well

        # and this
    # keep: about unmerge
    @torch.no_grad()
    def unmerge(self) -> None: self.x = 1  # lost too

    def forward(self, x):
        return x  # keep


def last(): ...  # keep, and no newline after it'''


@pytest.mark.parametrize("ending", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "bom"])
def test_reset_of_a_task_leaves_the_rest(copy: Path, ending: str, mark: bytes) -> None:
    stub = copy / "exercises" / "week04" / "lora_linear.py"
    old = mark + MINE.replace("\n", ending).encode()
    stub.write_bytes(old)
    stub.chmod(0o640)
    done = command(copy, "reset", "4.2", "--yes")
    assert done.returncode == 0 and "LoRALinear.merge, LoRALinear.unmerge" in done.stdout, done.stderr
    new = stub.read_bytes()
    assert new.startswith(mark) and new.count(b"\n") == new.count(ending.encode()) and stub.stat().st_mode & 0o777 == 0o640
    text = new[len(mark) :].decode().replace(ending, "\n")
    assert all(line in text.splitlines() for line in MINE.splitlines() if "keep" in line or "import" in line)
    assert "lost" not in text and "and this" not in text and text.endswith("no newline after it")
    released = {name: ast.dump(node) for name, node in pristine._functions(ast.parse(stub_of(WEEKS[3]))).items()}
    found = {name: ast.dump(node) for name, node in pristine._functions(ast.parse(text)).items()}
    assert [name for name in found if found[name] == released.get(name)] == ["LoRALinear.merge", "LoRALinear.unmerge"]
    assert "nothing to do" in command(copy, "reset", "4.2").stdout, "a second time there is no question and no backup"

    (backup,) = (stub.parent / ".backup").iterdir()
    assert backup.read_bytes() == old and re.fullmatch(r"lora_linear-\d{8}-\d{6}\.py", backup.name)
    back = next(line for line in done.stdout.splitlines() if line.startswith("to bring it back: "))
    subprocess.run(shlex.split(back.partition(": ")[2]), cwd=copy, check=True)
    assert stub.read_bytes() == old


def test_reset_of_a_week_and_backups_within_a_second(copy: Path, course: Course) -> None:
    stub = copy / "exercises" / "week04" / "lora_linear.py"
    for number in range(3):
        stub.write_bytes(b"this is (no python %d\r\n" % number)
        done = command(copy, "reset", "4", "-y", "--lang", "zh", cwd=stub.parent)
        assert done.returncode == 0 and "取回：cp .backup/lora_linear-" in done.stdout
        assert stub.read_bytes().replace(b"\r\n", b"\n") == stub_of(course.week(4)).encode() and b"\r\n" in stub.read_bytes()
    backups = list((stub.parent / ".backup").iterdir())
    assert sorted(path.read_bytes()[-3:-2] for path in backups) == [b"0", b"1", b"2"]


def test_backups_have_names_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda form: "20260101-000000")
    made = [learner._backup(tmp_path / "x.py", data) for data in (b"1", b"2", b"3")]
    assert [path.name for path in made] == ["x-20260101-000000.py", "x-20260101-000000-2.py", "x-20260101-000000-3.py"]
    assert [path.read_bytes() for path in made] == [b"1", b"2", b"3"]


@pytest.mark.parametrize(
    ("data", "en", "zh"),
    [
        (b"def f(:\n", "lora_linear.py:1 is no valid Python", "lora_linear.py:1 处不是合法的 Python"),
        (b"x = '\0'\n", "is no valid Python", "不是合法的 Python"),
        (b"x = 1\n", "has no LoRALinear.merge", "中没有 LoRALinear.merge"),
        (b"x = '\xff'\n", "is not UTF-8 text", "不是 UTF-8 文本"),
    ],
    ids=["syntax", "null", "lacking", "encoding"],
)
def test_a_file_in_which_the_task_cannot_be_found(copy: Path, data: bytes, en: str, zh: str) -> None:
    stub = copy / "exercises" / "week04" / "lora_linear.py"
    stub.write_bytes(data)
    for lang, said in (("en", en), ("zh", zh)):
        done = command(copy, "reset", "4.2", "--yes", "--lang", lang)
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert said in done.stderr and "`autograder reset 4`" in done.stderr
    assert stub.read_bytes() == data and not (stub.parent / ".backup").exists()


def test_a_task_that_was_reset_is_next_again(copy: Path, course: Course) -> None:
    week = course.week(4)
    stub = copy / "exercises" / "week04" / week.stub
    stub.write_text(judge.reference_stub(week).read_text(encoding="utf-8"), encoding="utf-8")
    passed = progress.Entry(1.0, "passed", digest=digest_in(copy, week), hint=1)
    remember(copy, t4_1=passed, t4_2=passed, t4_3=passed)
    assert "Next: 4.4 " in command(copy, "status", "4").stdout
    command(copy, "reset", "4.2", "--yes")
    said = command(copy, "status", "4").stdout
    assert "Next: 4.2 " in said and "0 of 70 points (and 40 before your last change)" in said and "not checked" in said
    command(copy, "reset", "4", "--yes")
    assert "Next: 4.1 " in command(copy, "status", "4").stdout


@pytest.mark.parametrize(("typed", "status"), [(b"y\n", 0), (b"\n", 1), (b"n\n", 1)], ids=["yes", "enter", "no"])
def test_a_terminal_is_asked(copy: Path, typed: bytes, status: int) -> None:
    stub = copy / "exercises" / "week04" / "lora_linear.py"
    stub.write_text(MINE)
    done, shown = on_a_terminal(copy, "reset", "4.2", "--lang", "en", typed=typed)
    assert done == status and "[y/N]" in shown, shown
    assert (stub.read_text() == MINE) == (status == 1) and ("nothing was changed" in shown) == (status == 1)
    assert (stub.parent / ".backup").exists() == (status == 0)


def test_without_a_terminal_it_demands_yes(copy: Path) -> None:
    (copy / "exercises" / "week04" / "lora_linear.py").write_text(MINE)
    done = command(copy, "reset", "4.2")
    assert done.returncode == 2 and "add --yes" in done.stderr and (done.stderr.count("\n"), done.stdout) == (1, "")


@pytest.mark.parametrize("indent", ["  ", "\t"], ids=["two", "tab"])
def test_functions_keep_the_place_where_they_stand(indent: str) -> None:
    text = f"class LoRALinear:\n{indent}def merge(self):\n{indent * 2}return 1\n{indent}def unmerge(self): ...\n"
    if indent == "  ":
        text = "if True:\n" + "".join(f"  {line}\n" for line in text.splitlines())
    text += "def merge(self): return 2\n"
    week = WEEKS[3]
    new = pristine.restored(text, stub_of(week), week.tasks[1])
    found = pristine._functions(ast.parse(new))
    assert pristine.names(new, week.tasks[1]) == ["LoRALinear.merge", "LoRALinear.unmerge"] and "merge" in found
    assert new.endswith("def merge(self): return 2\n")


@pytest.mark.parametrize(("week", "task"), TASKS, ids=[task.id for _, task in TASKS])
def test_every_task_of_a_finished_file_can_be_reset_alone(week: Week, task: Task) -> None:
    """The reference with one task taken back: that task's functions are the stub's, all others are what they were."""
    stub, done = stub_of(week), judge.reference_stub(week).read_text(encoding="utf-8")
    new = pristine.restored(done, stub, task)
    before, after, released = (
        {name: ast.dump(node) for name, node in pristine._functions(ast.parse(text)).items()} for text in (done, new, stub)
    )
    names = pristine.names(stub, task)
    assert names and pristine.unattempted(new, task) == names and not pristine.unattempted(done, task)
    assert after == before | {name: released[name] for name in names}
    assert pristine.restored(new, stub, task) == new


def test_all_tasks_of_every_stub_are_known(course: Course) -> None:
    for week in course.weeks:
        stub = stub_of(week)
        found = sum(len(pristine.names(stub, task)) for task in week.tasks)
        assert found == stub.count(f'raise NotImplementedError("Week {week.number}, task ')


def test_the_repository_has_the_stub_without_a_release(course: Course) -> None:
    assert pristine.source(course.week(4)) == stub_of(course.week(4))


def test_they_work_where_unix_modules_are_absent(made: Path) -> None:
    """As on Windows: no fcntl, resource, termios, nor fork."""
    program = (
        "import os, sys\nfor name in ('resource', 'fcntl', 'pwd', 'grp', 'termios'): sys.modules[name] = None\n"
        "del os.fork\nfrom autograder.cli import main\n"
        "sys.exit(sum(main(a) for a in (['status'], ['start', '4'], ['reset', '4.2', '--yes'], ['reset', '4', '--yes'])))"
    )
    environment = os.environ | {"PYTHONPATH": str(made), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", program], cwd=made, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_help_of_each_command_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("doctor", "start", "status", "reset"):
        with pytest.raises(SystemExit):
            cli.main([name, "--help"])
        said = capsys.readouterr().out
        assert f"autograder {name}" in said and "--lang" in said and max(map(len, said.splitlines())) <= 120
