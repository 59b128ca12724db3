"""The students' repository checks and diagnoses on its own, and holds no solution, mutant or key."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from autograder import UserError, bank
from autograder.authoring import release
from autograder.judge import recorded
from autograder.judge import runner as judge
from autograder.manifest import Course, load
from autograder.platforms import classroom
from tests.conftest import NIGHTLY, ROOT

WEEK = 2


def command(root: Path, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "autograder", *arguments]
    return subprocess.run(line, cwd=cwd or root, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("students") / "lora"
    done = command(ROOT, "release", "--out", str(out), "--week", str(WEEK), "--quiet")
    assert done.returncode == 0, done.stderr
    assert "without solutions, mutants or keys" in done.stdout
    return out


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def test_it_has_what_a_student_needs_and_no_more(made: Path) -> None:
    for name in (
        "README.md",
        "README.zh.md",
        "AGENTS.md",
        ".devcontainer/Dockerfile",
        "docs/students.zh.md",
        "exercises/week02/rank1_lora.py",
        "course/week02/lecture.zh.md",
        "course/threads/myths.zh.md",
        "course/threads/evidence.py",
        "course/week02/reading.md",
        "course/week02/reading.zh.md",
        "course/readings.md",
        "course/readings.zh.md",
        "docs/reading.md",
        "docs/reading.zh.md",
        "course/labs/core.py",
    ):
        assert (made / name).is_file(), name
    for name in (
        "solutions",
        "tests",
        "autograder/bank",
        "autograder/grading",
        "autograder/authoring/build.py",
        "exercises/week03",
    ):
        assert not (made / name).exists(), name


def test_its_first_pages_lead_to_files_that_are_there(made: Path) -> None:
    pages = [*made.glob("*.md"), *(made / "docs").glob("students*.md")]
    assert {page.name for page in pages} >= {"README.md", "README.zh.md", "AGENTS.md", "students.md", "students.zh.md"}
    targets = [
        (page, link) for page in pages for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    ]
    lost = {(page.name, link) for page, link in targets if not (page.parent / link).exists()}
    # A copy of one week has the syllabus of all.
    assert len(targets) > 20 and {one for one in lost if not one[0].startswith("syllabus")} == set()


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_its_readme_shows_what_a_done_task_looks_like(made: Path, name: str) -> None:
    (shown,) = re.findall(r"```text\n(.*?)```", (made / name).read_text(encoding="utf-8"), re.DOTALL)
    said = command(made, "check", "2.1", "--file", str(bank.alternatives(load().week(2))[0]))
    assert said.returncode == 0 and shown in said.stdout, said.stdout


def test_the_stub_is_unattempted_and_the_help_is_the_students(made: Path) -> None:
    done = command(made, "check", "2")
    assert done.returncode == 1 and "2.1  truncated_svd: the best approximation of a given rank: unattempted" in done.stdout
    said = command(made, "--help").stdout
    assert "autograder check 4.2" in said and "instructors" not in said
    assert "Traceback" not in command(made, "grade", "x").stderr


@pytest.mark.parametrize("path", bank.alternatives(load().week(WEEK)), ids=lambda path: path.parent.name)
def test_right_answers_get_full_marks(made: Path, path: Path) -> None:
    done = command(made, "check", "2", "--file", str(path))
    assert done.returncode == 0 and "70 of 70 points" in done.stdout, done.stdout


def test_answers_are_judged_as_with_the_reference(
    made: Path, course: Course, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every mutant and held-out spelling: the same outcomes, messages and misconceptions."""
    week = course.week(WEEK)
    reference = judge.reference_stub(week).read_text(encoding="utf-8")
    wrong = [m.source for m in bank.mutants(week, reference)][::6] + [h.source for h in bank.heldout(week, reference)][::6]

    def outcomes() -> list[list[tuple[object, ...]]]:
        seen: list[list[tuple[object, ...]]] = []
        runner = judge.Runner(week, recorded.PUBLIC_SEED)

        def body() -> None:
            for place, source in enumerate(wrong):
                stub = tmp_path / f"{place}" / week.stub
                stub.parent.mkdir(exist_ok=True)
                stub.write_text(source, encoding="utf-8")
                runs = runner.run(judge.loopback(stub))
                seen.append([(o.name, o.kind, o.message, o.misconception) for run in runs for o in run.outcomes])

        runner.run_in_pytest(body)
        return seen

    with_reference = outcomes()
    monkeypatch.setattr(judge, "reference_stub", lambda week: tmp_path / "nowhere.py")
    monkeypatch.setattr(recorded, "FOLDER", made / "autograder" / "recorded")
    assert outcomes() == with_reference
    assert sum(o[3] is not None for run in with_reference for o in run) >= len(wrong) // 2


def test_an_argument_that_differs_in_its_last_bits_is_the_same_question() -> None:
    import numpy as np

    def program() -> None: ...

    values = np.random.default_rng(0).standard_normal((20, 20))
    asked = recorded.question(1, program, 1, (values, {"a": [1.5, True]}))
    assert recorded.question(1, program, 1, (values * (1 + 1e-15), {"a": [1.5, True]})) == asked
    for other in ((values * (1 + 1e-6), {"a": [1.5, True]}), (values.T, {"a": [1.5, True]}), (values, {"a": [1.5, False]})):
        assert recorded.question(1, program, 1, other) != asked


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda r: (r / "autograder/recorded/week02.zip").unlink(),
            "week02.zip is missing or damaged: get the course's files again",
        ),
        (lambda r: (r / "autograder/recorded/week02.zip").write_bytes(b"PK"), "week02.zip is missing or damaged"),
        (
            lambda r: (r / "autograder/checks/week02/test_rank1_lora.py").write_text("x = 1\n"),
            "the checks of week 2 are not those of",
        ),
    ],
)
def test_a_damaged_copy_says_so_in_one_line(copy: Path, spoil: object, said: str) -> None:
    spoil(copy)  # type: ignore[operator]
    done = command(copy, "check", "2")
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_learners_commands_work_there(copy: Path, tmp_path: Path) -> None:
    """From another folder: the released stub comes out of the recorded answers, and doctor finds them in order."""
    stub = copy / "exercises" / "week02" / "rank1_lora.py"
    released = stub.read_bytes()
    assert "not in this copy: weeks 1, 3, 4" in command(copy, "status", "--lang", "en", cwd=tmp_path).stdout
    stub.unlink()
    assert "copy/exercises/week02/rank1_lora.py" in command(copy, "start", "--lang", "en", cwd=tmp_path).stdout
    assert stub.read_bytes() == released
    stub.write_bytes(released.replace(b"    raise NotImplementedError", b"    return None  # ", 2))
    for what in ("2.1", "2"):
        done = command(copy, "reset", what, "--yes", cwd=tmp_path)
        assert done.returncode == 0 and "copy/exercises/week02/.backup/rank1_lora-" in done.stdout, done.stderr
    assert stub.read_bytes() == released
    done = command(copy, "doctor", "--json", "--lang", "en", cwd=tmp_path)
    lines = {line["key"]: line for line in json.loads(done.stdout)}
    assert done.returncode == 0 and lines["files"]["found"] == "1 of 12 weeks; recorded answers fit the checks"
    assert lines["sandbox"]["found"].startswith("students need none")


def test_no_backup_is_released(tmp_path: Path) -> None:
    (tmp_path / "week02" / ".backup").mkdir(parents=True)
    (tmp_path / "week02" / ".backup" / "x.py").write_text("an instructor's answer")
    release._copy(tmp_path / "week02", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_another_seed_is_refused_in_one_line(made: Path) -> None:
    done = command(made, "check", "2", "--seed", "7")
    assert done.returncode == 2 and "knows the answers for seed 0 only: leave --seed out" in done.stderr


def test_planted_pieces_are_found(copy: Path, course: Course) -> None:
    week = course.week(WEEK)
    reference = judge.reference_stub(week).read_text(encoding="utf-8")
    assert list(release.problems(copy, course)) == []
    mutant = bank.mutants(week, reference)[0]
    (copy / "course" / "week02" / "more.py").write_text(mutant.source)
    (copy / "course" / "labs" / "other.py").write_text(bank.alternatives(week)[0].read_text(encoding="utf-8"))
    (copy / "course" / "labs" / "marked.py").write_text(bank.calibration(week)[-1].read_text(encoding="utf-8"))
    lines = [
        max((bank.BANK / name).read_text(encoding="utf-8").splitlines(), key=len)
        for name in ("comments.toml", "week02/comments.toml", "week02/calibration/calibration.toml")
    ]
    (copy / "docs" / "staff.md").write_text("\n".join(lines))
    key = max((ROOT / "solutions/week02/review.md").read_text(encoding="utf-8").splitlines(), key=len)
    (copy / "docs" / "notes.md").write_text(f"# Notes\n\n  {key}\n")
    found = "\n".join(release.problems(copy, course))
    assert "more.py:" in found and "holds a piece of the solution" in found
    assert "other.py:" in found and "(bank/week02/alternatives/" in found
    assert "marked.py:" in found and "(bank/week02/calibration/" in found
    assert all(f"docs/staff.md:{number} is a line of a key" in found for number in (1, 2, 3))
    assert "docs/notes.md:3 is a line of a key (week02/review.md)" in found
    (copy / "autograder" / "bank").mkdir()
    assert list(release.problems(copy, course)) == ["autograder/bank is for those who grade"]


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path, course: Course) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(UserError, match="is not empty: name a new folder"):
        release.write(tmp_path, course, [course.week(WEEK)], lambda done, total: None, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.fixture
def assignment(copy: Path, course: Course, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `autograder classroom` writes, of a release that is there already."""
    monkeypatch.setattr(release, "_names", lambda weeks: ["autograder/__init__.py"])
    monkeypatch.setattr(release, "_record", lambda week: b"")
    monkeypatch.setattr(release, "ProcessPoolExecutor", lambda jobs, mp_context: ThreadPoolExecutor(jobs))
    count = classroom.write(tmp_path / "made", course, course.week(WEEK), lambda done, total: None)
    assert count == len([path for path in (tmp_path / "made").rglob("*") if path.is_file()]) == 7
    shutil.copytree(tmp_path / "made" / ".github", copy / ".github")
    return copy


def test_the_assignments_workflow_is_sound(assignment: Path) -> None:
    text = (assignment / classroom.WORKFLOW).read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert set(workflow["on"]) == {"push", "workflow_dispatch"} and workflow["permissions"] == {"contents": "read"}
    (job,) = workflow["jobs"].values()
    assert "@" not in re.sub(r"uses: \S+@v\d+\.\d+\.\d+\n", "", text), "every action at a version, every place filled"
    used = [step["uses"].partition("@")[0] for step in job["steps"] if "uses" in step]
    assert used == ["actions/checkout", "actions/setup-python"], "no action of a service that is gone"
    install, check = (step["run"] for step in job["steps"] if "run" in step)
    assert (
        install == classroom.INSTALL and (assignment / "constraints.txt").is_file() and (assignment / "pyproject.toml").is_file()
    )
    assert check == f".venv/bin/autograder check {WEEK} --github"


@pytest.mark.parametrize("kind", ["stub", "partial", "right"])
def test_the_workflows_check_says_what_a_push_earned(assignment: Path, kind: str, course: Course) -> None:
    week = course.week(WEEK)
    reference = judge.reference_stub(week).read_text(encoding="utf-8")
    stub = assignment / "exercises" / week.folder / week.stub
    if kind == "right":
        shutil.copy(bank.alternatives(week)[0], stub)
    elif kind == "partial":
        stub.write_text(next(m.source for m in bank.mutants(week, reference) if m.task == "2.3"), encoding="utf-8")
    program = assignment / ".venv" / "bin" / "autograder"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m autograder "$@"\n')
    program.chmod(0o755)
    workflow = yaml.safe_load((assignment / classroom.WORKFLOW).read_text(encoding="utf-8"))
    command = workflow["jobs"]["check"]["steps"][-1]["run"]
    environment = os.environ | {"PYTHONPATH": str(assignment), "GITHUB_STEP_SUMMARY": str(assignment / "summary.md")}
    done = subprocess.run(
        ["bash", "-e", "-c", command], cwd=assignment, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == (0 if kind == "right" else 1), done.stderr
    (points,) = re.findall(r"(?:^| )([\d.]+) of 70 points$", done.stdout, re.MULTILINE)
    assert {"stub": points == "0", "partial": 0 < float(points) < 70, "right": points == "70"}[kind]
    assert f"::notice title=Autograding complete::Points {points}/70\n" in done.stdout
    report = done.stdout.partition("::notice title=Autograding report::")[2].splitlines()[0]
    assert json.loads(report) == {"totalPoints": float(points), "maxPoints": 70}
    summary = (assignment / "summary.md").read_text(encoding="utf-8")
    assert f"Points {points} of 70: feedback, no mark." in summary and "| 2.1 |" in summary
    assert ("Likely misunderstandings:\n\n- 2.3: " in summary) == (kind == "partial")


def test_classroom_50_gets_the_same_tests(assignment: Path, course: Course) -> None:
    """Its published fields: name, type, run, timeout up to 600 seconds, points; at most 100 tests."""
    tests = json.loads((assignment / classroom.TESTS).read_text(encoding="utf-8"))
    assert [test["name"] for test in tests] == ["setup", *(task.id for task in course.week(WEEK).core)]
    assert sum(test["points"] for test in tests) == 70
    for test in tests:
        assert set(test) == {"name", "type", "run", "timeout", "points"} and test["type"] == "run"
        assert 1 <= test["timeout"] <= 600 and len(test["name"].encode()) <= 100


ASKED = [w.number for w in load().weeks] if NIGHTLY else [WEEK, 12]


@pytest.mark.parametrize("number", ASKED)
def test_a_check_asks_nothing_that_depends_on_the_submission(number: int, course: Course) -> None:
    """Else a students' copy, which has only recorded answers, could not answer."""
    week = course.week(number)
    runner = judge.Runner(week, recorded.PUBLIC_SEED)
    runner.diagnoser.name = lambda task, traces: {}  # type: ignore[method-assign]
    asked: list[set[object]] = []

    def body() -> None:
        for stub in (judge.reference_stub(week), *bank.alternatives(week)):
            runner.run(judge.loopback(stub))
            asked.append(set(runner.oracle._answers))  # type: ignore[union-attr]

    runner.run_in_pytest(body)
    assert asked[0] and all(later == asked[0] for later in asked)
