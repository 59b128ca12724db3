"""The comment bank: well-formed, kind to read in both languages, and no way to the solution; and where TAs find it."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from autograder import bank
from autograder.authoring.build import regions
from autograder.cli import main
from autograder.judge.runner import ROOT, reference_stub
from autograder.manifest import ManifestError, Week, load
from autograder.marking import nbcourse, nbjudge
from autograder.reports import comments, review

WEEKS = [week for week in load().weeks if week.tasks]
CHINESE = re.compile("[\u4e00-\u9fff]")


def own(week: Week) -> dict[str, comments.Remark]:
    return {one.name: one.more for one in comments.of(week) if one.more}


@pytest.mark.parametrize("week", WEEKS, ids=lambda w: w.folder)
def test_a_week_has_more_to_say_of_its_core_misconceptions(week: Week) -> None:
    core = {task.id for task in week.core}
    assert sum(one.more is not None and one.task in core for one in comments.of(week)) >= 3
    mutants = bank.mutants(week, reference_stub(week).read_text(encoding="utf-8"))
    assert [m.name for m in mutants] == sorted(one.name for one in comments.of(week)), "each misconception has a comment"


@pytest.mark.parametrize("week", [*WEEKS, None], ids=lambda w: w.folder if w else "general")
def test_a_remark_is_in_both_languages_and_asks(week: Week | None) -> None:
    for name, remark in (own(week) if week else comments.general()).items():
        assert CHINESE.search(remark.zh) and not CHINESE.search(remark.en), name
        assert week is None or ("?" in remark.en and "？" in remark.zh), name
        decimals = [set(re.findall(r"\d+\.\d+", text)) for text in (remark.en, remark.zh)]
        assert decimals[0] == decimals[1], name


@pytest.mark.parametrize("week", WEEKS, ids=lambda w: w.folder)
def test_no_remark_gives_the_solution_away(week: Week) -> None:
    source = reference_stub(week).read_text(encoding="utf-8")
    lines = source.splitlines()
    stub = (ROOT / "exercises" / week.folder / week.stub).read_text(encoding="utf-8")
    known = set(re.findall(r"\w+", stub))
    inside = regions(source, week.stub)
    secret = {line.strip() for r in inside for line in lines[r.first + 1 : r.last]} - {line.strip() for line in stub.splitlines()}
    names = {
        node.id if isinstance(node, ast.Name) else node.name
        for node in ast.walk(ast.parse(source))
        if (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)) or isinstance(node, ast.FunctionDef | ast.ClassDef)
        if any(r.first < node.lineno - 1 < r.last for r in inside)
    }
    for name, remark in own(week).items():
        for text in (remark.en, remark.zh):
            assert not [line for line in secret if len(line) > 12 and line in text], name
            # Of one word alone nobody can tell whether it is English or a name.
            told = {word for word in re.findall(r"[A-Za-z_]\w*", text) if "_" in word}
            assert not told & (names - known), name


FAULTS = [
    (b'[nobody]\nen = "a"\nzh = "b"\n', "the week has no mutant 'nobody'; a key is the name of a file in mutants/"),
    (b'[known]\nen = "a"\n', "known: zh is missing; add it"),
    (b'[known]\nen = ""\nzh = "b"\n', "known: en must be one line of at most 400 characters, neither empty nor padded"),
    (b'[known]\nen = "a\\nb"\nzh = "b"\n', "known: en must be one line of at most 400 characters"),
    (b'[known]\nen = "' + b"a" * 401 + b'"\nzh = "b"\n', "known: en must be one line of at most 400 characters"),
    (b'[known]\nen = "a"\nzh = "b"\nfr = "c"\n', 'known: unknown key "fr"'),
    (b'known = "a"\n', 'known: must be a table, not "a"'),
    (b"[known\n", "cannot be read ("),
    (b"\xff", "cannot be read ("),
]


@pytest.mark.parametrize(("data", "message"), FAULTS)
def test_a_malformed_file_is_refused_in_one_line(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "comments.toml"
    path.write_bytes(data)
    with pytest.raises(ManifestError) as caught:
        comments.read(path, {"known"})
    assert str(caught.value).startswith(f"{path}: {message}") and len(str(caught.value).splitlines()) == 1


def test_a_week_without_a_file_has_no_remarks(tmp_path: Path) -> None:
    assert comments.read(tmp_path / "comments.toml") == {}


def result(week: Week, *told: tuple[str, str]) -> dict[str, Any]:
    checks = [
        {"property": "a <property>", "status": "wrong", "message": "m", "misconception": text, "task": task}
        for task, text in told
    ]
    return {
        "student": "王小明",
        "message": "",
        "tasks": [
            {"id": t.id, "status": "wrong", "score": 0, "max_score": t.points, "message": "", "checks": mine}
            for t in week.tasks
            for mine in [[c for c in checks if c["task"] == t.id]]
        ],
    }


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_ta_finds_the_comments_below_the_submission_and_the_student_does_not(week: Week, lang: Any) -> None:
    twice = next(one for one in comments.of(week) if one.name == "merge_twice_adds_twice")
    told = result(week, (twice.task, twice.said.en), (twice.task, twice.said.en), ("4.1", "a <b>misconception</b> of last year"))
    stub = (ROOT / "exercises" / week.folder / week.stub).read_bytes()
    sections = review.material(week, {week.stub: stub + b"# x\n"}, told, [], lang)
    assert [s.staff for s in sections] == [False] * (len(sections) - 2) + [True, True]
    shown = sections[-2].text
    assert twice.more and twice.more.of(lang) in shown and shown.count(twice.more.of(lang)) == 1
    assert twice.said.of(lang) in shown and "lecture" + (".zh" if lang == "zh" else "") + ".md#merge" in shown
    assert shown.index(twice.more.of(lang)) < shown.index(comments.general()["naming"].of(lang)), "those of this submission first"
    assert "<property>" not in shown and "<b>" not in sections[0].text
    made = nbjudge.code_notebook(week, told, {week.stub: stub}, [], lang)
    cells = [cell for cell in made.cells if twice.more.of(lang) in cell.source]
    assert [cell.metadata.get(nbcourse.STAFF) for cell in cells] == [True]
    rubric = next(cell.source for cell in made.cells if cell.metadata.get("nbgrader", {}).get("grade_id") == nbcourse.REVIEW)
    assert all(one.title.of(lang) in rubric and f"| {one.points} |" in rubric for one in week.review)


def test_comments_are_found_in_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["comments", "4", "--search", "MERGE_TWICE"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("4.2 merge_twice_adds_twice\n") and said.count("\n") == 2
    assert main(["comments", "4", "--search", "合并之后", "--lang", "zh"]) == 0
    assert CHINESE.search(capsys.readouterr().out)
    assert main(["comments"]) == 0
    assert capsys.readouterr().out.count("\n\n") == len(comments.general()) - 1
    for wrong in (["comments", "99"], ["comments", "4", "--search", "=\udcff no such"]):
        assert main(wrong) == 2
        said = capsys.readouterr().err
        assert said.startswith("autograder: ") and said.count("\n") == 1
