"""The Gradescope zip, unpacked and run as Gradescope's harness does: same points as `autograder grade`, and nothing to forge."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from autograder import UserError, bank
from autograder.authoring.release import grader_files
from autograder.cli import main
from autograder.grading import engine, sandbox
from autograder.inside import confine
from autograder.manifest import Course, Week
from autograder.platforms import gradescope
from tests import accounts
from tests.conftest import ROOT

WEEK = 2
FORGED = '{"score": 70, "tests": [{"score": 70, "max_score": 70}]}'
ATTACK = """
import glob, os, signal
BASE = {base!r}
for place in (BASE + "/results", BASE, "/autograder/results", "/tmp", "."):
    for name in ("results.json", ".results.json.new"):
        try:
            open(place + "/" + name, "w").write({forged!r})
        except OSError:
            pass
for path in [BASE + "/source/solutions/week02/rank1_lora.py", *glob.glob("/tmp/gradescope-*/**/*", recursive=True)]:
    try:
        exec(open(path).read())  # a solution that can be read can be handed in
    except (OSError, SyntaxError):
        pass
for pid in (os.getppid(), 1, -1):
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        pass
try:
    os.fork()
except OSError:
    pass
print({forged!r})
"""


@dataclass
class Container:
    """What stands at /autograder."""

    base: Path
    python: str

    def grade(self, files: dict[str, bytes | str], *, ok: bool = True) -> tuple[dict[str, Any], str]:
        """(results.json, what instructors see) of a submission."""
        submission, results = self.base / "submission", self.base / "results"
        for folder in (submission, results):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            folder.chmod(0o777)  # the harness promises nothing about modes
        for name, content in files.items():
            path = submission / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        (results / "results.json").write_text(FORGED)  # of an earlier run, say
        command = [str(self.base / "run_autograder")]
        done = subprocess.run(
            command, cwd=self.base, env=self.environment(), capture_output=True, text=True, timeout=300, check=False
        )
        said = done.stdout + done.stderr
        assert (done.returncode == 0) == ok, said
        assert (results / "results.json").exists() == ok
        assert stat.S_IMODE(results.stat().st_mode) == 0o700
        return json.loads((results / "results.json").read_bytes()) if ok else {}, said

    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "AUTOGRADER_BASE": str(self.base), "AUTOGRADER_PYTHON": self.python}


def container(archive: Path, python: str) -> Container:
    """Does what Gradescope's image build does."""
    made = Container(accounts.open_folder() / "autograder", python)
    source = made.base / "source"
    source.mkdir(parents=True)
    made.base.chmod(0o755)
    with zipfile.ZipFile(archive) as zipped:
        for info in zipped.infolist():
            (source / zipped.extract(info, source)).chmod(info.external_attr >> 16 & 0o777)
    shutil.copy(source / "run_autograder", made.base)
    subprocess.run(["bash", str(source / "setup.sh")], env=made.environment(), check=True)
    return made


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gradescope")
    for isolation in gradescope.ISOLATIONS:
        arguments = ["gradescope", "--week", str(WEEK), "--out", str(folder / f"{isolation}.zip"), "--isolation", isolation]
        assert main(arguments) == 0
    return folder


@pytest.fixture(scope="module")
def auto(archives: Path) -> Container:
    return container(archives / "auto.zip", accounts.python() or sys.executable)


@pytest.fixture(scope="module", params=["auto", "process", "process, no Landlock"])
def grader(request: pytest.FixtureRequest, archives: Path) -> Container:
    level, _, kernel = request.param.partition(", ")
    if level == "auto":
        return request.getfixturevalue("auto")  # type: ignore[no-any-return]
    made = container(archives / f"{level}.zip", accounts.python() or sys.executable)
    if kernel and accounts.python():  # with neither it refuses: see test_it_refuses_to_show_the_solution
        accounts.without_landlock(made.base / "source/autograder/inside/confine.py")
    return made


@pytest.fixture(scope="module")
def week(course: Course) -> Week:
    return course.week(WEEK)


@pytest.fixture(scope="module")
def reference() -> str:
    return (ROOT / "solutions/week02/rank1_lora.py").read_text(encoding="utf-8")


def assert_schema(answer: dict[str, Any]) -> None:
    """What the published specification says of a results.json."""
    fields = {"score", "execution_time", "output", "output_format", "test_output_format", "test_name_format", "visibility",
              "stdout_visibility", "extra_data", "tests"}  # fmt: skip
    assert set(answer) == fields
    assert isinstance(answer["score"], int | float) and isinstance(answer["execution_time"], int | float)
    assert answer["stdout_visibility"] == "hidden" and answer["visibility"] == "visible"
    assert {answer[name] for name in fields if name.endswith("format")} == {"text"}
    points = 0.0
    for test in answer["tests"]:
        assert set(test) - {"score", "max_score"} == {"number", "name", "status", "output", "visibility"}
        assert test["status"] in ("passed", "failed") and test["visibility"] == "visible"
        assert all(isinstance(test[name], str) for name in ("number", "name", "output"))
        if "score" in test:
            assert 0 <= test["score"] <= test["max_score"]
            points += test["score"]
    assert answer["score"] == pytest.approx(points)
    assert sum(test.get("max_score", 0) for test in answer["tests"]) == 70


def test_a_right_answer_gets_all_points(grader: Container, reference: str) -> None:
    answer, said = grader.grade({"rank1_lora.py": reference})
    assert_schema(answer)
    assert answer["score"] == 70 and {test["status"] for test in answer["tests"]} == {"passed"}
    level = answer["extra_data"]["isolation"]
    assert f"isolation: {level}" in said and "Traceback" not in said
    assert ("reduced isolation" in answer["output"]) == (level == "process") == ("reduced" in said)
    asked = json.loads((grader.base / "source/gradescope.json").read_text())["isolation"]
    assert level == ("bwrap" if asked == "auto" and not sandbox.bwrap_problem() else "process")


def test_a_stub_gets_none(grader: Container) -> None:
    answer, _ = grader.grade({"exercises/week02/rank1_lora.py": (ROOT / "exercises/week02/rank1_lora.py").read_bytes()})
    assert_schema(answer)
    assert answer["score"] == 0 and "Not attempted" in answer["tests"][0]["output"]


def strays() -> list[str]:
    """What an attacker left in /tmp, and no more."""
    found = list(Path("/tmp").glob("*results.json*"))
    for path in found:
        path.unlink()
    return [path.name for path in found]


def test_an_attacker_gets_none_and_forges_nothing(grader: Container) -> None:
    strays()
    answer, said = grader.grade({"rank1_lora.py": ATTACK.format(base=str(grader.base), forged=FORGED)})
    left = strays()
    assert_schema(answer)
    assert answer["score"] == 0 and len(answer["tests"]) == 6, "no solution could be read"
    assert FORGED not in said and "Traceback" not in said
    assert sorted(path.name for path in (grader.base / "results").iterdir()) == ["results.json"]
    assert not left or "Landlock" not in said, "without it /tmp is open, and nothing is read from there"
    assert (grader.base / "source/solutions/week02/rank1_lora.py").is_file()


def test_a_wrong_answer_is_scored_and_told_as_by_grade(
    auto: Container, week: Week, course: Course, reference: str, tmp_path: Path, level: str
) -> None:
    mutant = next(m for m in bank.mutants(week, reference) if m.task == "2.3")
    answer, _ = auto.grade({"rank1_lora.py": mutant.source})
    (tmp_path / "in" / "submission").mkdir(parents=True)
    (tmp_path / "in" / "submission" / week.stub).write_text(mutant.source, encoding="utf-8")
    seed = answer["extra_data"]["seed"]
    summary = engine.grade(tmp_path / "in", week, tmp_path / "out", course, seed=seed, isolation=level)
    wanted = gradescope.results_json(summary.results[0], week, "en")
    assert answer["tests"] == wanted["tests"] and 0 < answer["score"] == wanted["score"] < 70
    assert f"Likely misunderstanding: {mutant.misconception}" in "\n".join(test["output"] for test in answer["tests"])
    again, _ = auto.grade({"rank1_lora.py": mutant.source})
    assert again["extra_data"]["seed"] != seed, "what one try showed must not help the next"


ODD = [
    ({"rank1_lora.py": "def truncated_svd(:\n"}, "SyntaxError"),
    ({}, "rank1_lora.py is missing"),
    ({"Rank1 LoRA.py": "x = 1"}, "the name must be exactly rank1_lora.py"),
    ({"rank1_lora.py": b"\xff\xfe\x00"}, "rank1_lora.py is not"),
    ({'答案,"=1+1".py': "x = 1", "rank1_lora.py": "raise Exception('<b>\\x1b[31m\\ud800</b>\\r\\n')\n"}, "<b>"),
    ({"rank1_lora.py": b"\xef\xbb\xbf" + b"import os\r\nos._exit(0)\r\n"}, "ended"),
]


@pytest.mark.parametrize(("files", "told"), ODD, ids=[told for _, told in ODD])
def test_odd_submissions_get_none_and_are_told_why(auto: Container, files: dict[str, bytes | str], told: str) -> None:
    answer, said = auto.grade(files)
    assert_schema(answer)
    shown = answer["output"] + "".join(test["output"] for test in answer["tests"])
    assert answer["score"] == 0 and told in shown and "Traceback" not in said
    assert not set(shown) & set("\x1b\r\0")


def test_links_are_not_followed(auto: Container) -> None:
    submission = auto.base / "submission"
    auto.grade({})
    (submission / "rank1_lora.py").symlink_to(auto.base / "source/solutions/week02/rank1_lora.py")
    os.mkfifo(submission / "pipe")
    done = subprocess.run([str(auto.base / "run_autograder")], env=auto.environment(), timeout=300, check=False)
    answer = json.loads((auto.base / "results/results.json").read_bytes())
    assert done.returncode == 0 and answer["score"] == 0 and "a symlink (hand in the file itself)" in answer["output"]


def test_a_grader_that_fails_leaves_no_result(archives: Path, reference: str) -> None:
    """Gradescope calls that an autograder that failed; a 0 would be the student's."""
    broken = container(archives / "process.zip", accounts.python() or sys.executable)
    solution = broken.base / "source/solutions/week02/rank1_lora.py"
    solution.write_text(reference.replace("### BEGIN SOLUTION 2.1", "raise MemoryError\n    ### BEGIN SOLUTION 2.1", 1))
    _, said = broken.grade({"rank1_lora.py": reference}, ok=False)
    assert said.splitlines()[-1].startswith("autograder: the grader does not work on this machine")


def test_it_refuses_to_show_the_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "bwrap_problem", lambda: "bubblewrap is not installed: apt")
    monkeypatch.setattr(sandbox, "account_problem", lambda: "only root can switch to another account")
    assert gradescope.choose("auto")[0] == "process" or confine.landlock() < 1
    monkeypatch.setattr(confine, "landlock", lambda: -1)
    with pytest.raises(UserError, match="student code could read the solutions here: no Landlock, and only root"):
        gradescope.choose("auto")
    monkeypatch.setattr(sandbox, "account_problem", lambda: None)
    level, told = gradescope.choose("auto")
    assert level == "process" and "reduced (an account of its own, a system call filter); bubblewrap is not installed" in told
    with pytest.raises(UserError, match="in bubblewrap alone, and here bubblewrap is not installed"):
        gradescope.choose("bwrap")


def test_the_zip_is_the_same_each_time_and_has_what_the_specification_wants(archives: Path, tmp_path: Path, week: Week) -> None:
    again = tmp_path / "again.zip"
    gradescope.write(again, week)
    gradescope.write(again, week)  # its own zip may be written again
    assert again.read_bytes() == (archives / "auto.zip").read_bytes()
    with zipfile.ZipFile(again) as archive:
        infos = {info.filename: info for info in archive.infolist()}
        assert list(infos) == sorted(infos)
        assert {name for name, info in infos.items() if info.external_attr >> 16 & 0o111} == {"run_autograder", "setup.sh"}
        assert archive.read("run_autograder").startswith(b"#!/bin/sh\n")
        assert b"\r" not in archive.read("setup.sh") + archive.read("run_autograder")
        assert "torch" in archive.read("requirements.txt").decode().split()
    secrets = [name for name in infos if name.startswith(("solutions/", "autograder/bank/week", "autograder/checks/week"))]
    assert secrets and all("week02" in name for name in secrets), "no other week's"
    assert not [name for name in infos if "__pycache__" in name or "/." in name]


def test_setup_is_a_script_that_bash_reads(archives: Path) -> None:
    for name in gradescope.SCRIPTS:
        subprocess.run(["bash", "-n", str(gradescope.TEMPLATES / name)], check=True)


@pytest.mark.parametrize("number", range(1, 13))
def test_every_week_has_the_files_that_it_needs(number: int, course: Course) -> None:
    names = set(grader_files(course.week(number)))
    week = course.week(number)
    assert {f"solutions/{week.folder}/{week.stub}", "autograder/grading/engine.py", "course/course.toml"} <= names
    assert any(name.startswith(f"autograder/bank/{week.folder}/mutants/") for name in names)
    assert any(name.startswith(f"autograder/checks/{week.folder}/test_") for name in names)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--week", "13", "--out", "x.zip"], "week"),
        (["--week", "2", "--out", "README.md"], "README.md is there and no zip of this command: name another file"),
        (["--week", "2", "--out", "docs"], "docs is there and no zip of this command"),
        (["--week", "2", "--out", "README.md/x.zip"], "README.md/x.zip cannot be written: "),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["gradescope", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1


def test_chinese_texts(week: Week) -> None:
    check = {"name": "x", "property": "p", "weight": 1, "gate": True, "status": "wrong", "message": "m", "misconception": None}
    task = {"id": "2.1", "status": "failed", "score": 0, "max_score": 15, "message": "", "misconception": "A and B"}
    task["checks"] = [check]
    result = {"score": 0, "isolation": "process", "message": "", "notices": [], "tasks": [task]}
    answer = gradescope.results_json(result, week, "zh", notebook=True)
    assert "隔离程度较低" in answer["output"] and "实验笔记本另行评分" in answer["output"]
    assert "可能的误解：" in answer["tests"][0]["output"] and "未通过 (1，决定本任务得分)" in answer["tests"][0]["output"]
    assert set(gradescope._TEXTS["en"]) == set(gradescope._TEXTS["zh"])
