"""A class is graded end to end: results, grades, feedback; bad input; kills and restarts; the instructor's mistakes."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from autograder import bank, intake, results
from autograder.cli import main
from autograder.grading import engine
from autograder.grading.sandbox import SandboxError
from autograder.judge.runner import reference_stub
from autograder.manifest import Course, Week
from autograder.reports import feedback
from tests import faults
from tests.conftest import ROOT

FULL = 70
REFERENCE = ROOT / "solutions/week04/lora_linear.py"


def hand_in(root: Path, student: str, source: str | bytes | Path, name: str = "lora_linear.py", week: bool = False) -> Path:
    folder = root / student / ("week04" if week else "")
    folder.mkdir(parents=True, exist_ok=True)
    data = source.read_bytes() if isinstance(source, Path) else source.encode() if isinstance(source, str) else source
    (folder / name).write_bytes(data)
    return folder


def mutant(week: Week, name: str) -> str:
    return next(m.source for m in bank.mutants(week, REFERENCE.read_text()) if m.name == name)


def lines(out: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(line) for line in (out / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len({r["student"] for r in found}) == len(found)
    return {r["student"]: r for r in found}


def totals(out: Path) -> dict[str, Any]:
    return {name: (r["status"], r["score"], [t["score"] for t in r["tasks"]]) for name, r in lines(out).items()}


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory, course: Course, week: Week, level: str) -> tuple[Path, Path]:
    """A class with every kind of honest and broken submission, graded once: (submissions, out)."""
    root, out = tmp_path_factory.mktemp("class"), tmp_path_factory.mktemp("out") / "results"
    hand_in(root, "right", REFERENCE)
    hand_in(root, "王小明", REFERENCE, week=True)
    hand_in(root, "=cmd|' C calc'!A0", REFERENCE)
    hand_in(root, "Jo <b>& Co, Jr.", mutant(week, "scaled_by_alpha"))
    shutil.copytree(bank.BANK / "week04/alternatives/with_helpers", root / "helper module")
    hand_in(root, "stub", ROOT / "exercises/week04/lora_linear.py")
    (root / "missing").mkdir()
    hand_in(root, "misnamed", REFERENCE, "Lora_Linear.py")
    hand_in(root, "misplaced/inner", REFERENCE)
    hand_in(root, "syntax", "class LoRALinear(:\n```\n<script>alert(1)</script>")
    hand_in(root, "empty", "  \n")
    hand_in(root, "binary", b"\x7fELF\0\0\0")
    hand_in(root, "latin1", "# caf\xe9".encode("latin-1"))
    (root / "folder" / "lora_linear.py").mkdir(parents=True)
    (root / "link").mkdir()
    (root / "link" / "lora_linear.py").symlink_to("/etc/passwd")
    (root / "linked folder").symlink_to(root / "right")
    (root / "fifo").mkdir()
    os.mkfifo(root / "fifo" / "lora_linear.py")
    hand_in(root, "huge", b"#" * 50_000_000)
    hand_in(root, "right beside huge", REFERENCE)
    hand_in(root, "right beside huge", b"\0" * 50_000_000, "data.bin")
    hand_in(root, "chatty", REFERENCE.read_text() + "\nprint('x' * 10**6)\n")
    hand_in(root, "needs peft", REFERENCE.read_text() + "\nfrom peft import LoraConfig\n")
    hand_in(root, "exits", "import sys\nsys.exit(0)\n")
    (root / "stray.txt").write_text("not a student")
    engine.grade(root, week, out, course, seed=11, jobs=2, isolation=level)
    return root, out


def test_scores(graded: tuple[Path, Path], level: str) -> None:
    found = lines(graded[1])
    full = {"right", "王小明", "=cmd|' C calc'!A0", "helper module", "right beside huge", "chatty"}
    if level == "process":
        full.add("needs peft")  # packages are hidden by namespaces
    assert {name for name, r in found.items() if r["score"] == FULL} == full
    assert found["Jo <b>& Co, Jr."]["score"] == 45
    assert [t["status"] for t in found["stub"]["tasks"]] == ["unattempted"] * 7
    assert all(r["status"] == "graded" for r in found.values())
    assert "linked folder" not in found and "stray.txt" not in found


def test_the_schema_is_the_documented_one(graded: tuple[Path, Path]) -> None:
    documented = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    for result in lines(graded[1]).values():
        for name in result:
            assert f"`{name}`" in documented, name
        for task in result["tasks"]:
            assert {"id", "status", "score", "max_score", "message", "misconception", "seconds", "checks"} == set(task)
            for check in task["checks"]:
                assert all(f"`{name}`" in documented for name in check)
        assert (result["schema"], result["week"], result["seed"]) == (1, 4, 11)
        assert result["score"] == pytest.approx(sum(t["score"] for t in result["tasks"]))
        assert sum(t["max_score"] for t in result["tasks"]) == result["max_score"] == FULL


@pytest.mark.parametrize(
    ("student", "line"),
    [
        ("missing", "the folder is empty: lora_linear.py is missing"),
        ("misnamed", "lora_linear.py is missing: found Lora_Linear.py; the name must be exactly lora_linear.py"),
        ("misplaced", "lora_linear.py is missing: it lies at inner/lora_linear.py, and belongs at the top of the folder"),
        ("syntax", "importing your file raised SyntaxError: invalid syntax"),
        ("empty", "lora_linear.py is empty: hand in the completed file"),
        ("binary", "lora_linear.py is not a Python file (it holds binary data)"),
        ("latin1", "lora_linear.py is not UTF-8 text (byte 5); save it as UTF-8"),
        ("folder", "lora_linear.py: left out, it is a folder, not a file; so there is nothing to run"),
        ("link", "lora_linear.py: left out, it is a symlink (hand in the file itself); so there is nothing to run"),
        ("fifo", "lora_linear.py: left out, it is neither a file nor a folder; so there is nothing to run"),
        ("huge", "lora_linear.py: left out, it has 47.7 MiB (at most 1024 KiB); so there is nothing to run"),
        ("exits", "importing your file raised SystemExit: 0"),
    ],
)
def test_bad_input_is_one_clear_line(graded: tuple[Path, Path], student: str, line: str) -> None:
    result = lines(graded[1])[student]
    assert result["score"] == 0
    assert line in result["message"]
    assert "\n" not in result["message"]
    page = (graded[1] / "feedback" / f"{student}.md").read_text(encoding="utf-8")
    assert line in page


def test_a_notice_does_not_cost_points(graded: tuple[Path, Path]) -> None:
    result = lines(graded[1])["right beside huge"]
    assert result["notices"] == ["data.bin: left out, it has 47.7 MiB (at most 1024 KiB)"]


def test_a_wrong_answer_is_told_what_was_misunderstood(graded: tuple[Path, Path]) -> None:
    result = lines(graded[1])["Jo <b>& Co, Jr."]
    task = result["tasks"][0]
    assert task["status"] == "failed"
    assert "scaled by alpha instead of alpha / rank" in task["misconception"]
    forward = task["checks"][0]
    assert forward["message"].startswith(
        "With in_features=3, out_features=5, rank=2, alpha=3.0, x of shape (4, 3):\nlayer(x) is wrong"
    )
    assert "expected:" in forward["message"] and "got:" in forward["message"]


def test_feedback_quotes_what_students_wrote(graded: tuple[Path, Path]) -> None:
    from markdown_it import MarkdownIt

    pages = {p.name: MarkdownIt().render(p.read_text(encoding="utf-8")) for p in (graded[1] / "feedback").iterdir()}
    assert len(pages) == len(lines(graded[1]))
    for name, html in pages.items():
        assert "<script" not in html and "<b>" not in html, name
    assert "Jo &lt;b&gt;&amp; Co, Jr." in pages[feedback.page_name("Jo <b>& Co, Jr.")]


def test_grades_are_safe_in_a_spreadsheet(graded: tuple[Path, Path]) -> None:
    with open(graded[1] / "grades.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(lines(graded[1]))
    by_name = {row["student"]: row for row in rows}
    assert by_name["'=cmd|' C calc'!A0"]["score"] == "70"
    assert by_name["王小明"]["4.1"] == "25"
    for text in ("=1", "+1", "-1", "@x", "\t=1", " =1", "|x", "\uff1d1"):
        assert results.spreadsheet_safe(text).startswith("'")
    for text in ("a=1", "王", "O'Neill", ""):
        assert results.spreadsheet_safe(text) == text


def test_nothing_is_graded_twice(graded: tuple[Path, Path], tmp_path: Path, course: Course, week: Week, level: str) -> None:
    out = tmp_path / "out"
    shutil.copytree(graded[1], out)
    before = totals(out)
    again = engine.grade(graded[0], week, out, course, isolation=level)
    assert again.reused == len(before)
    assert totals(out) == before
    # Half a line, a lost line and a line of junk: what is whole is kept, the rest is graded again.
    text = (out / "results.jsonl").read_bytes().splitlines(keepends=True)
    keep = [line for line in text if b'"student": "stub"' not in line and b'"student": "right"' not in line]
    stub = next(line for line in text if b'"student": "stub"' in line)
    (out / "results.jsonl").write_bytes(b"".join(keep) + b"{junk\n" + stub[: len(stub) // 2])
    again = engine.grade(graded[0], week, out, course, isolation=level)
    assert again.reused == len(before) - 2
    assert totals(out) == before


def test_a_changed_file_is_graded_again_and_a_seed_reproduces(tmp_path: Path, course: Course, week: Week, level: str) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    hand_in(root, "a", mutant(week, "unmerge_adds"))
    hand_in(root, "b", REFERENCE)
    first = engine.grade(root, week, out, course, isolation=level)
    seed = json.loads((out / "run.json").read_text())["seed"]
    assert [r["score"] for r in first.results] == [55, FULL]
    hand_in(root, "a", REFERENCE)
    second = engine.grade(root, week, out, course, isolation=level)
    assert (second.reused, [r["score"] for r in second.results]) == (1, [FULL, FULL])
    hand_in(root, "a", mutant(week, "unmerge_adds"))
    third = engine.grade(root, week, tmp_path / "other", course, isolation=level, seed=seed)
    timeless = [[t | {"seconds": 0} for t in run.results[0]["tasks"]] for run in (first, third)]
    assert timeless[0] == timeless[1]
    (root / "b" / "lora_linear.py").unlink()
    (root / "b").rmdir()
    assert [r["student"] for r in engine.grade(root, week, out, course, isolation=level).results] == ["a"]


def test_killed_anywhere_and_run_again(tmp_path: Path, course: Course, level: str) -> None:
    """kill -9 after the first results: the same command completes the class, to the same totals as one whole run."""
    root, week = faults.make_class(tmp_path / "in", 20), course.week(2)
    whole = engine.grade(root, week, tmp_path / "whole", course, seed=faults.SEED, isolation=level)
    out = tmp_path / "out"
    process = subprocess.Popen(faults.command(root, out, level, "--jobs", "2"), start_new_session=True)
    path = out / "results.jsonl"
    while not (path.exists() and path.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 3 <= path.read_bytes().count(b"\n") < 20
    again = engine.grade(root, week, out, course, isolation=level)
    assert again.reused >= 3
    assert totals(out) == totals(tmp_path / "whole")
    assert [r["score"] for r in again.results] == [r["score"] for r in whole.results]


def test_a_judge_that_is_killed_loses_nothing(
    tmp_path: Path, course: Course, week: Week, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "in"
    for i in range(8):
        hand_in(root, f"s{i}", REFERENCE)
    parent, flag = os.getpid(), tmp_path / "killed"
    real = engine._judge_one

    def once_killed(*arguments: Any) -> engine.Answer:
        if os.getpid() != parent and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)

    monkeypatch.setattr(engine, "_judge_one", once_killed)
    summary = engine.grade(root, week, tmp_path / "out", course, seed=3, jobs=1, isolation=level)
    assert flag.exists()
    assert [r["score"] for r in summary.results] == [FULL] * 8
    assert any("a judge process died" in line for line in summary.lines)


def test_a_timeout_counts_only_alone(tmp_path: Path, course: Course, week: Week, level: str) -> None:
    limits = dataclasses.replace(week.limits, cpu_seconds=1, wall_seconds=20)
    tasks = tuple(dataclasses.replace(t, limits=limits) for t in week.tasks)
    strict = dataclasses.replace(week, tasks=tasks, limits=limits)
    root = tmp_path / "in"
    loop = REFERENCE.read_text().replace(
        "        if not self.merged:\n", "        while True: pass\n        if not self.merged:\n", 1
    )
    hand_in(root, "loops in merge", loop)
    hand_in(root, "dies in merge", loop.replace("while True: pass", "import os; os._exit(0)"))
    hand_in(root, "right", REFERENCE)
    engine.grade(root, strict, tmp_path / "out", course, seed=3, isolation=level)
    found = lines(tmp_path / "out")
    assert [t["status"] for t in found["loops in merge"]["tasks"]] == ["passed", "timeout", *["passed"] * 5]
    assert "s of CPU time" in found["loops in merge"]["tasks"][1]["message"]
    assert [t["status"] for t in found["dies in merge"]["tasks"]] == ["passed", "error", *["passed"] * 5]
    assert "the process that ran your code ended (exit status 0)" in found["dies in merge"]["tasks"][1]["message"]
    assert found["right"]["score"] == FULL


def test_the_canary_stops_a_grader_that_does_not_work(
    tmp_path: Path, course: Course, week: Week, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "lora_linear.py"
    broken.write_text(mutant(week, "growth_zero_rows"))
    monkeypatch.setattr(engine, "reference_stub", lambda _: broken)
    hand_in(tmp_path / "in", "right", REFERENCE)
    with pytest.raises(engine.GradeError, match=r"the grader does not work on this machine: the reference, task 4\.3, new_dir"):
        engine.grade(tmp_path / "in", week, tmp_path / "out", course, isolation=level)
    assert not (tmp_path / "out" / "results.jsonl").exists()
    assert reference_stub(week) == REFERENCE


def test_a_week_without_tasks_cannot_be_graded(course: Course, week: Week, tmp_path: Path) -> None:
    (tmp_path / "in" / "student").mkdir(parents=True)
    with pytest.raises(engine.GradeError, match="week 4 has no tasks yet"):
        engine.grade(tmp_path / "in", dataclasses.replace(week, tasks=()), tmp_path / "out", course)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["grade", "nowhere", "--week", "4", "--out", "o"], "nowhere: No such file or directory; name the folder"),
        (["grade", "empty", "--week", "4", "--out", "o"], "empty holds no student's folder"),
        (["grade", "in", "--week", "99", "--out", "o"], "week 99"),
        (["grade", "in", "--week", "4", "--out", "in/right/lora_linear.py"], "cannot be written"),
        (["grade", "in", "--week", "4", "--out", "o", "--jobs", "0"], "--jobs must be at least 1"),
        (["check", "four"], '"four" is neither a week, such as 4, nor a task, such as 4.2'),
        (["check", "4.9"], "4.9"),
        (["check", "4", "--file", "nowhere.py"], "nowhere.py is not there"),
        (["sample", "in", "--week", "4"], "in holds something else: name another folder"),
    ],
)
def test_an_instructors_mistake_is_one_line(
    arguments: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    hand_in(tmp_path / "in", "right", REFERENCE)
    (tmp_path / "empty").mkdir()
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert line in error
    assert len(error.strip().splitlines()) == 1


def test_an_output_folder_belongs_to_one_run(
    graded: tuple[Path, Path], tmp_path: Path, course: Course, week: Week, level: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(graded[1], out)
    with pytest.raises(results.RunError, match="holds a run with seed 11: pass another --out, or --seed 11"):
        engine.grade(graded[0], week, out, course, seed=12, isolation=level)
    with results.locked(out), pytest.raises(results.RunError, match="another run is writing"):
        engine.grade(graded[0], week, out, course, isolation=level)


def test_missing_bubblewrap_is_refused_unless_told(
    tmp_path: Path, course: Course, week: Week, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand_in(tmp_path / "in", "right", REFERENCE)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxError, match="apt install bubblewrap"):
        engine.grade(tmp_path / "in", week, tmp_path / "out", course)
    summary = engine.grade(tmp_path / "in", week, tmp_path / "out2", course, isolation="process")
    assert summary.results[0]["score"] == FULL
    assert "reduced isolation" in (tmp_path / "out2" / "feedback" / "right.md").read_text()


def test_intake_never_leaves_the_folder(tmp_path: Path, week: Week) -> None:
    folder = hand_in(tmp_path, "s", REFERENCE)
    (folder / "sub").mkdir()
    (folder / "sub" / "helper.py").write_text("x = 1")
    (folder / "up").symlink_to(tmp_path)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "lora_linear.pyc").write_text("")
    found = intake.read("s", folder, week)
    assert set(found.files) == {"lora_linear.py", "sub/helper.py"}
    assert found.notices == ("up: left out, it is a symlink (hand in the file itself)",)
    for i in range(200):
        (folder / f"f{i}.txt").write_text("")
    assert len(intake.read("s", folder, week).files) == week.limits.files
    with contextlib.suppress(OSError):
        bad = os.fsencode(tmp_path) + b"/s/\xff\xfe\n.py"
        Path(os.fsdecode(bad)).write_text("")
        assert all("\n" not in n for n in intake.read("s", folder, week).notices)


def test_a_clone_of_the_students_repository_is_read_where_its_stubs_are(tmp_path: Path, week: Week) -> None:
    clone = tmp_path / "clone"
    (clone / "exercises" / week.folder).mkdir(parents=True)
    (clone / "exercises" / week.folder / week.stub).write_text("x = 1")
    (clone / "README.md").write_text("the course")
    assert set(intake.read("s", clone, week).files) == {week.stub}
    (clone / week.folder).mkdir()
    (clone / week.folder / week.stub).write_text("y = 2")
    assert intake.read("s", clone, week).files == {week.stub: b"y = 2"}
    # A link on the way is nobody's exercises.
    for name in ("exercises", f"exercises/{week.folder}"):
        trap = tmp_path / name.replace("/", "-")
        (trap / name).parent.mkdir(parents=True)
        (trap / name).symlink_to(clone / name)
        found = intake.read("s", trap, week)
        assert not found.files and "is missing" in str(found.problem)
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "exercises").write_text("")
    assert "is missing" in str(intake.read("s", tmp_path / "file", week).problem)


def test_a_folder_name_that_is_not_utf8(tmp_path: Path, course: Course, week: Week, level: str) -> None:
    name = os.fsdecode(b"caf\xe9")
    hand_in(tmp_path / "in", name, REFERENCE)
    summary = engine.grade(tmp_path / "in", week, tmp_path / "out", course, isolation=level)
    assert summary.results[0]["score"] == FULL
    assert engine.grade(tmp_path / "in", week, tmp_path / "out", course, isolation=level).reused == 1
