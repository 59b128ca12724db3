"""doctor: what it finds, in both languages, where everything is there and where nothing is."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from autograder import cli
from autograder.grading import sandbox
from autograder.judge.digest import checks_digest
from autograder.judge.recorded import Recorder
from autograder.manifest import Course, Week
from autograder.student import common, doctor
from tests.conftest import ROOT

CHINESE = re.compile("[\u4e00-\u9fff]")


def command(
    *arguments: str, options: tuple[str, ...] = (), path: str = "", cwd: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    settings = {"PYTHONPATH": os.pathsep.join(filter(None, [path, str(ROOT)])), "PYTHONUTF8": "1"}
    return subprocess.run(
        [sys.executable, *options, "-m", "autograder", "doctor", *arguments], cwd=cwd, env=os.environ | settings | environment,
        stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip


def found(*arguments: str, **more: object) -> tuple[int, dict[str, dict[str, str]]]:
    done = command("--json", *arguments, **more)  # type: ignore[arg-type]
    assert not done.stderr, done.stderr
    return done.returncode, {line["key"]: line for line in json.loads(done.stdout)}


def test_where_all_is_there(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In both languages: the same findings, of which none is missing."""
    monkeypatch.setattr(doctor, "_imports", functools.cache(doctor._imports))  # torch takes seconds
    levels = []
    for lang in ("en", "zh"):
        assert cli.main(["doctor", "--lang", lang]) == 0
        said = capsys.readouterr().out
        assert ("All that a check needs is there" if lang == "en" else "检查所需的一切都已就绪") in said
        assert bool(CHINESE.search(said)) == (lang == "zh")
        assert cli.main(["doctor", "--lang", lang, "--json"]) == 0
        levels.append([(line["key"], line["level"]) for line in json.loads(capsys.readouterr().out)])
    assert levels[0] == levels[1]
    keys = {key for key, _ in levels[0]}
    assert keys >= {"python", "packages", "torch", "numpy", "notebooks", "files", "stubs", "folder", "disk", "memory", "sandbox"}
    assert not [key for key, level in levels[0] if level == "missing"]


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_without_any_package(lang: str, tmp_path: Path) -> None:
    """-S: no site-packages, so neither torch, numpy, pytest nor rich; and from another folder."""
    done = command("--lang", lang, options=("-S",), cwd=tmp_path)
    assert done.returncode == 1 and not done.stderr
    missing = [line for line in done.stdout.splitlines() if line.startswith("missing" if lang == "en" else "缺失")]
    assert len(missing) == 1 and all(name in missing[0] for name in ("torch", "numpy", "pytest")) and "rich" not in missing[0]
    assert "-m pip install -c " in done.stdout and "\x1b" not in done.stdout
    status, lines = found("--lang", lang, options=("-S",))
    assert status == 1 and lines["notebooks"]["level"] == "note" and "rich" in lines["optional packages"]["found"]


@pytest.mark.parametrize(
    ("code", "said"),
    [("raise OSError('DLL load failed while importing _C')", "DLL load failed"), ("import os\nos._exit(132)", "exit status 132")],
    ids=["error", "crash"],
)
def test_a_torch_that_cannot_be_imported(code: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(code)
    status, lines = found(path=str(tmp_path))
    assert status == 1 and lines["torch"]["level"] == "missing" and said in lines["torch"]["found"]
    assert lines["numpy"]["level"] == "ok" and "--force-reinstall" in lines["torch"]["remedy"]


def test_a_torch_in_the_current_folder_is_not_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('not me')")
    program = "import json, sys\nfrom autograder.student import doctor\n"
    program += "print(json.dumps(doctor._imports('torch', '1', False).json()))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout)["level"] == "ok"


def test_versions_are_held_against_the_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: {"numpy": "1.0", "torch": "2.13.0+cu999"}.get(name) or real(name))
    monkeypatch.setattr(doctor, "_imports", lambda module, version, zh: doctor.Finding("ok", module, module, version))
    lines = {finding.key: finding for finding in doctor._packages(False)}
    pin = doctor._pins()["numpy"]
    assert lines["versions"].level == "note" and lines["versions"].told == f"numpy 1.0 (not {pin})", (
        "a local part is no difference"
    )
    assert "应为" in next(finding for finding in doctor._packages(True) if finding.key == "versions").told


# --- a students' copy ---


@pytest.fixture
def students(tmp_path: Path, course: Course, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like a students' copy of week 4."""
    week = course.week(4)
    for folder in ("autograder/checks/week04", "autograder/recorded", "exercises/week04"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "exercises" / "week04" / week.stub).write_text("x = 1\n")
    (tmp_path / "autograder" / "recorded" / "week04.zip").write_bytes(Recorder().pack(checks_digest(week), [], ""))
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    monkeypatch.setattr(common, "ROOT", tmp_path)
    return tmp_path


def files(course: Course, week: Week, zh: bool = False) -> dict[str, doctor.Finding]:
    lines = [doctor._files(course, [week], zh), *doctor._stubs([week], zh)]
    return {finding.key: finding for finding in lines}


def test_recorded_answers_must_fit_the_checks(students: Path, course: Course, week: Week) -> None:
    assert files(course, week)["files"].level == "ok"
    recorded = students / "autograder" / "recorded" / "week04.zip"
    recorded.write_bytes(Recorder().pack("0" * 64, [], ""))
    for zh, said in ((False, "checks are not those of the recorded answers: week 4"), (True, "检查项与答案记录不一致：第 4 周")):
        finding = files(course, week, zh)["files"]
        assert finding.level == "missing" and said in finding.told and finding.remedy
    recorded.write_bytes(b"PK")
    assert "missing or damaged: week 4" in files(course, week)["files"].told


def test_stubs_are_there_and_parse(students: Path, course: Course, week: Week) -> None:
    stub = students / "exercises" / "week04" / week.stub
    assert files(course, week)["stubs"].level == "ok"
    for data in (b"def f(:\n", b"x = '\xff'\n", b"x = '\0'\n"):
        stub.write_bytes(data)
        finding = files(course, week)["stub 4"]
        assert finding.level == "note" and "autograder reset 4" in finding.remedy and f"{week.stub}:" in finding.told
    stub.unlink()
    finding = files(course, week)["stub 4"]
    assert finding.level == "missing" and finding.remedy == "autograder start 4"


def test_a_folder_that_cannot_be_written(students: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._folder(False).level == "ok"
    monkeypatch.setattr(doctor, "ROOT", students / "gone")
    assert doctor._folder(False).level == "note" and "复制" in doctor._folder(True).remedy


def test_little_disk_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: usage(2**40, 0, 2**28))
    monkeypatch.setattr(doctor, "_free_memory", lambda: 2**29)
    assert doctor._disk(False).level == doctor._memory(False).level == "note"
    assert doctor._memory(False).told == "0.5 GiB free" and "腾出空间" in doctor._disk(True).remedy
    monkeypatch.setattr(doctor, "_free_memory", lambda: None)
    assert doctor._memory(False).level == "ok"


def test_a_terminal_that_cannot_show_chinese() -> None:
    done = command("--lang", "zh", options=("-S",), PYTHONUTF8="0", PYTHONIOENCODING="latin-1")
    assert done.returncode == 1 and not done.stderr and "PYTHONUTF8=1" in done.stdout


def test_the_command_that_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_origin", lambda: ROOT)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert "not on the PATH" in doctor._command(False).told
    monkeypatch.setattr(doctor.shutil, "which", lambda name: str(tmp_path / "autograder"))
    assert "the one on the PATH is another" in doctor._command(False).told
    monkeypatch.setattr(doctor.sysconfig, "get_path", lambda name: str(tmp_path))
    assert doctor._command(False).level == "ok"
    monkeypatch.setattr(doctor, "_origin", lambda: tmp_path)
    assert "另一份课程文件" in doctor._command(True).told


def test_the_sandbox_is_for_who_grades(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor.sys, "platform", "linux")
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert doctor._sandbox(False).remedy == "sudo apt install bubblewrap"
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/bwrap")
    monkeypatch.setattr(sandbox, "bwrap_problem", lambda: None)
    assert doctor._sandbox(False).level == "ok"
    monkeypatch.setattr(sandbox, "bwrap_problem", lambda: "refused")
    switch = tmp_path / "apparmor_restrict_unprivileged_userns"
    monkeypatch.setattr(doctor, "_APPARMOR", switch)
    assert "containers often forbid it" in doctor._sandbox(False).remedy
    switch.write_text("1\n")
    for zh in (False, True):
        finding = doctor._sandbox(zh)
        assert finding.level == "note" and "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0" in finding.remedy
    monkeypatch.setattr(doctor, "ROOT", tmp_path)  # a students' copy has no engine
    assert doctor._sandbox(False) == doctor.Finding(
        "ok", "sandbox", "sandbox", "students need none: your checks run in your own process; marking runs in the sandbox"
    )
