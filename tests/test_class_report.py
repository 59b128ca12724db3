"""The class report: its statistics by hand and against closed forms, a page that is sound in every class, and no way in."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from scipy import stats

from autograder import bank, results
from autograder.cli import main
from autograder.judge.runner import reference_stub
from autograder.manifest import Course, Lang, Week
from autograder.reports import classreport, plots
from autograder.reports.classreport import Class, analyse, discrimination
from tests.conftest import ROOT

SECRET = 8_675_309_224_466
HOSTILE = (
    "<script>alert(1)</script> \"'&amp; javascript:alert(1) \x1b[31m\u202egnp.exe\x07 ]]> {{ 7 * 7 }} $x$ https://example.org/"
)
NAME = "<img src=x onerror=alert(1)>\"'\u202e\x1b[2J\udce9"
SWAPPED = "The `scaling` is <b>forgotten</b> & $alpha$ is not used."


def a_check(name: str, told: str | None, *, weight: float = 1, gate: bool = False) -> dict[str, Any]:
    known = told in ("passed", "wrong", "error", "unattempted", "timeout", "crash")
    status, misconception = (told, None) if known else ("wrong", told)
    text = f"The property of {name} <holds>."
    message = "" if status == "passed" else HOSTILE
    return {
        "name": name, "property": text, "weight": weight, "gate": gate, "status": status, "message": message,
        "misconception": misconception,
    }  # fmt: skip


def a_task(name: str, points: float, status: str, score: float, *checks: dict[str, Any]) -> dict[str, Any]:
    told = next((c["misconception"] for c in checks if c["misconception"]), None)
    return {
        "id": name, "status": status, "score": score, "max_score": points, "message": "", "misconception": told, "seconds": 0.1,
        "checks": list(checks),
    }  # fmt: skip


def a_result(student: str, *tasks: dict[str, Any], message: str = "", status: str = "graded") -> dict[str, Any]:
    return {
        "schema": 1, "student": student, "week": 4, "seed": SECRET, "isolation": "bwrap", "status": status,
        "score": sum(t["score"] for t in tasks) if status == "graded" else None, "max_score": 40, "seconds": 1.0,
        "message": message, "notices": [], "tasks": list(tasks), "key": "k",
    }  # fmt: skip


def abc(student: str, a: str, b: str, c: str, first: tuple[str, float], second: tuple[str, float]) -> dict[str, Any]:
    checks = a_check("a", a, gate=True), a_check("b", b)
    return a_result(student, a_task("4.1", 25, *first, *checks), a_task("4.2", 15, *second, a_check("c", c)))


def unrunnable(student: str) -> dict[str, Any]:
    tasks = a_task("4.1", 25, "error", 0), a_task("4.2", 15, "error", 0)
    return a_result(student, *tasks, message=HOSTILE)


def unattempted(student: str) -> dict[str, Any]:
    left = "unattempted"
    return abc(student, left, left, left, (left, 0), (left, 0))


SMALL = [
    abc("A", "passed", "passed", "passed", ("passed", 25), ("passed", 15)),
    abc("B", "passed", SWAPPED, "passed", ("partial", 12.5), ("passed", 15)),
    abc("C", SWAPPED, "passed", "error", ("failed", 0), ("error", 0)),
    unattempted("D"),
    unrunnable(NAME),
    a_result("F", status="ungraded", message=HOSTILE),
]


def many(count: int) -> list[dict[str, Any]]:
    """SMALL over and over, other students."""
    return [SMALL[i % len(SMALL)] | {"student": f"{i:03d} {SMALL[i % len(SMALL)]['student']}"} for i in range(count)]


CLASSES = {
    "nobody": [],
    "one": SMALL[:1],
    "one with a gap": SMALL[1:2],
    "all ungraded": [SMALL[5]],
    "only unattempted": [unattempted("D"), unattempted("E")],
    "only unrunnable": [unrunnable(NAME)],
    "small": SMALL,
    "300": many(300),
}


def folder_of(place: Path, found: list[dict[str, Any]], week: int = 4) -> Path:
    place.mkdir(exist_ok=True)
    (place / "run.json").write_text(json.dumps({"schema": 1, "week": week, "seed": SECRET, "isolation": "bwrap"}))
    (place / "results.jsonl").write_text("".join(json.dumps(result) + "\n" for result in found))
    return place


def page_of(place: Path, found: list[dict[str, Any]], course: Course, lang: Lang = "en") -> str:
    return classreport.write(folder_of(place, found), course, lang)[0].read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, course: Course) -> dict[tuple[str, Lang], str]:
    """Every class in both languages."""
    found = {}
    for name, class_ in CLASSES.items():
        place = tmp_path_factory.mktemp("results")
        for lang in classreport.FILES:
            found[name, lang] = page_of(place, class_, course, lang)
    return found


every_page = pytest.mark.parametrize("lang", classreport.FILES)


# --- statistics ---


def test_a_small_class_by_hand() -> None:
    found = analyse(SMALL)
    assert (len(found.graded), found.unrunnable, found.failing) == (5, {NAME}, {"B", "C"})
    first, second = found.tasks
    assert first.counts == {"passed": 1, "partial": 1, "failed": 1, "unattempted": 1, "unrunnable": 1}
    assert second.counts == {"passed": 2, "error": 1, "unattempted": 1, "unrunnable": 1}
    assert (first.tried, first.failing, first.recognised, first.different) == (3, 2, 2, 1)
    assert (second.tried, second.failing, second.recognised, second.different) == (3, 1, 0, 0)
    assert [(i.task, i.name, i.passed, i.tried) for i in found.items] == [
        ("4.1", "a", 2, 3),
        ("4.1", "b", 2, 3),
        ("4.2", "c", 2, 3),
    ]
    # Scores of A, B, C without the check. a: 40, 15, 25, for b alone then decides 4.1; b: 40, 40, 0, the gate; c: 25, 12.5, 0.
    assert [i.discrimination for i in found.items] == pytest.approx([0.1147079, -0.5, 3**0.5 / 2])


def test_what_is_taught_again_counts_students_and_says_what_is_not_recognised() -> None:
    found = analyse(SMALL)
    assert [(g.task, g.text, g.students) for g in found.misunderstandings] == [("4.1", SWAPPED, ["B", "C"])]
    assert [(g.task, g.text, g.students) for g in found.unexplained] == [("4.2", "The property of c <holds>.", ["C"])]
    assert [(g.task, g.recognised) for g in found.teach] == [("4.1", True), ("4.2", False)]
    assert found.reached == 2
    # Two checks of one task that tell the same are one student; a cascade of unexplained failures is one thing to look at.
    both = abc("G", SWAPPED, SWAPPED, "passed", ("failed", 0), ("passed", 15))
    cascade = [abc(f"H{i}", "error", "crash", "passed", ("error", 0), ("passed", 15)) for i in range(3)]
    found = analyse([*SMALL, both, *cascade])
    assert len(found.misunderstandings[0].students) == 3
    assert [(g.task, len(g.students), g.recognised) for g in found.teach] == [
        ("4.1", 3, True),
        ("4.1", 3, False),
        ("4.2", 1, False),
    ]


def test_discrimination_is_the_point_biserial_correlation() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        count = int(rng.integers(3, 60))
        rest = rng.normal(size=count).round(1).tolist()
        passed = [False, True, *(rng.random(count - 2) < 0.6).tolist()]
        ones, zeros = (np.array([r for r, p in zip(rest, passed, strict=True) if p is kind]) for kind in (True, False))
        closed = (ones.mean() - zeros.mean()) / np.std(rest) * (len(ones) * len(zeros)) ** 0.5 / count
        assert discrimination(passed, rest) == pytest.approx(closed)
        assert discrimination(passed, rest) == pytest.approx(stats.pointbiserialr(passed, rest).statistic)


@pytest.mark.parametrize(
    "case", [([], []), ([True], [3]), ([True, True], [1, 2]), ([False] * 3, [1, 2, 3]), ([True, False], [5, 5])]
)
def test_discrimination_is_undefined_without_variance(case: tuple[list[bool], list[float]]) -> None:
    assert discrimination(*case) is None


def test_quartiles_and_bins(course: Course, week: Week) -> None:
    page = classreport._Page(analyse(SMALL), {}, week, "en")
    assert sorted(page.all.scores) == [0, 0, 0, 27.5, 40]
    assert page.summary() == {"low": "0", "median": "0", "high": "27.5", "full": "1"}
    edges, counts = page.bins()
    assert (edges[0], edges[-1], sum(counts)) == (0, 42, 5)
    assert {e: c for e, c in zip(edges, counts, strict=False) if c} == {0: 3, 27: 1, 39: 1}
    assert page.hardest().id == "4.1"


def test_percentages_are_never_rounded_to_all_or_nothing() -> None:
    assert [classreport._percent(*p).replace("\u00a0", " ") for p in ((299, 300), (1, 300), (300, 300), (0, 3), (1, 3))] == [
        "99 %", "1 %", "100 %", "0 %", "33 %",
    ]  # fmt: skip
    assert classreport._percent(0, 0) == "–"


def test_only_what_is_clearly_negative_is_called_so() -> None:
    def kind(r: float | None, tried: int) -> str:
        return classreport.Item("4.1", "a", "", 1, False, tried, 1, r).kind

    assert [kind(-0.3, 101), kind(-0.1, 101), kind(0.1, 101), kind(0.2, 101), kind(None, 101)] == [
        "negative",
        "weak",
        "weak",
        "good",
        "",
    ]
    assert kind(-1.0, 2) == "weak"  # two students prove nothing


# --- the page ---


def tree(page: str) -> ET.Element:
    assert page.startswith("<!DOCTYPE html>")
    return ET.fromstring(page)


def texts(page: str) -> str:
    return " ".join("".join(tree(page).itertext()).split())


@every_page
@pytest.mark.parametrize("name", CLASSES)
def test_a_page_is_sound(pages: dict[tuple[str, Lang], str], name: str, lang: Lang) -> None:
    page = pages[name, lang]
    root = tree(page)
    assert root.attrib == {"lang": "zh-CN" if lang == "zh" else "en"}
    elements = list(root.iter())
    assert not {e.tag for e in elements} & {"script", "img", "iframe", "link", "object", "embed", "form", "base", "image", "b"}
    policy = next(e for e in elements if e.get("http-equiv") == "Content-Security-Policy").get("content", "")
    assert policy.startswith("default-src 'none';") and "script" not in policy
    for element in elements:
        assert not [key for key in element.attrib if key.lower().startswith("on")]
        target = element.get("href", "")
        assert target == "" or re.match(r"#[\w.-]+$|feedback/[\w.%-]+\.md$", target), target
    ids = Counter(e.get("id") for e in elements if e.get("id"))
    assert set(ids.values()) <= {1}
    named = {i for e in elements for i in e.get("aria-labelledby", "").split()}
    linked = {e.get("href", "#")[1:] for e in elements if e.get("href", "").startswith("#")}
    used = set(re.findall(r"url\(#([^)]+)\)", page))
    assert named | linked | used <= set(ids)
    levels = [int(e.tag[1]) for e in elements if re.fullmatch(r"h\d", e.tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in pairwise(levels))
    for table in root.iter("table"):
        assert table.find("caption") is not None
        assert {th.get("scope") for th in table.iter("th")} <= {"col", "row"}
    for picture in root.iter("svg"):
        assert picture.get("role") == "img"
        assert all((picture.findtext(tag) or "").strip() for tag in ("title", "desc"))
    assert len(list(root.iter("svg"))) == {"small": 4, "300": 4}.get(name, len(list(root.iter("svg"))))


@every_page
@pytest.mark.parametrize("name", CLASSES)
def test_nothing_of_a_students_is_markup_and_no_seed_is_told(pages: dict[tuple[str, Lang], str], name: str, lang: Lang) -> None:
    page = pages[name, lang]
    assert str(SECRET) not in page
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u061c\u200b-\u200f\u202a-\u202e\u2066-\u2069]", page)
    assert "<script" not in page and "<img" not in page
    without = page.replace("https://example.org/", "")  # as text, in a message
    assert "http:" not in without and "https:" not in without and "//" not in re.sub(r"/\*.*?\*/", "", without)


def test_hostile_texts_are_shown_as_they_are(pages: dict[tuple[str, Lang], str]) -> None:
    shown = texts(pages["small", "en"])
    assert "<img src=x onerror=alert(1)>\"'??[2J?" in shown
    assert "<script>alert(1)</script> \"'&amp; javascript:alert(1) ?[31m?gnp.exe? ]]> {{ 7 * 7 }} $x$" in shown
    assert "The scaling is <b>forgotten</b> & $alpha$ is not used." in shown
    assert "<code>scaling</code>" in pages["small", "en"]
    picture = tree(pages["small", "en"]).findall(".//svg")[2]
    assert any("$alpha$" in (e.text or "") for e in picture.iter("text"))  # not read as mathematics


def test_what_a_class_without_results_is_told(pages: dict[tuple[str, Lang], str]) -> None:
    assert "Nobody has handed in." in texts(pages["nobody", "en"])
    for name in ("nobody", "all ungraded", "only unattempted", "only unrunnable"):
        shown = texts(pages[name, "en"])
        expected = "every check that was attempted passed" if name == "only unattempted" else "Nothing can be said yet"
        assert "nobody attempted" in shown.lower() or expected in shown, name
    assert "never counted as 0" in texts(pages["all ungraded", "en"])
    assert "median" not in texts(pages["all ungraded", "en"])
    assert "every check that was attempted passed" in texts(pages["one", "en"])


def test_the_class_table(pages: dict[tuple[str, Lang], str]) -> None:
    table = tree(pages["small", "en"]).findall(".//table")[-1]
    rows = [["".join(cell.itertext()) for cell in row] for row in table.iterfind("tbody/tr")]
    assert [row[1:4] for row in rows] == [
        ["0", "not run", "not run"], ["40", "passed", "passed"], ["27.5", "partial", "passed"], ["0", "failed", "error"],
        ["0", "unattempted", "unattempted"], ["ungraded", "–", "–"],
    ]  # fmt: skip
    assert len(tree(pages["300", "en"]).findall(".//table")[-1].findall("tbody/tr")) == 300


def test_the_numbers_of_the_plots_stand_in_tables(pages: dict[tuple[str, Lang], str]) -> None:
    scores, tasks, *_ = tree(pages["small", "en"]).findall(".//table")
    assert [int(row[1].text or "") for row in scores.iterfind("tbody/tr")] == [3, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]
    assert ["".join(c.itertext()) for c in tasks.findall("tbody/tr")[0]][1:] == [
        "1",
        "1",
        "1",
        "0",
        "0",
        "1",
        "1",
        "3",
        "33\u00a0%",
    ]


def test_the_chinese_page_is_chinese(tmp_path: Path, course: Course, week: Week) -> None:
    mutant = next(m for m in bank.mutants(week, reference_stub(week).read_text()) if m.task == "4.1")
    student = abc("王小明", mutant.misconception, "passed", "passed", ("failed", 0), ("passed", 15))
    page = page_of(tmp_path, [*many(12), student], course, "zh")
    assert mutant.misconception_zh in texts(page) and mutant.misconception not in texts(page)
    assert (tmp_path / "report.zh.html").is_file() and not (tmp_path / "report.html").exists()

    def own(element: ET.Element) -> str:
        """Text that is not marked as English, quoted or a path."""
        if element.get("lang") == "en" or element.tag in ("code", "bdi", "style", "desc") or SWAPPED[:20] in (element.text or ""):
            return element.tail or ""
        return (element.text or "") + "".join(map(own, element)) + (element.tail or "")

    terms = {"bwrap", "run", "json", *re.findall(r"[A-Za-z]{2,}", week.title.zh + mutant.misconception_zh)}
    terms |= {word for task in week.tasks for word in re.findall(r"[A-Za-z]{2,}", task.title.zh)}
    ranks = "".join(e.text or "" for svg in tree(page).findall(".//svg")[2:3] for e in svg.iter("text"))
    assert set(re.findall(r"[A-Za-z]{2,}", own(tree(page)).replace(ranks, ""))) <= terms | set(re.findall(r"[A-Za-z]+", SWAPPED))


def test_without_the_bank_the_chinese_page_quotes_english(
    tmp_path: Path, course: Course, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classreport, "reference_stub", lambda _: tmp_path / "nowhere")
    assert '<strong lang="en">The <code>scaling</code>' in page_of(tmp_path, SMALL, course, "zh")


def test_colours_have_the_contrast_that_wcag_aa_asks_for(pages: dict[tuple[str, Lang], str]) -> None:
    def luminance(colour: str) -> float:
        colour = colour if len(colour) == 6 else "".join(2 * c for c in colour)
        parts = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    schemes = re.findall(r":root \{(.*?)\}", pages["small", "en"], re.DOTALL)
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--(\w+): #(\w+);", scheme))
        assert {*plots.HATCHES, *plots.MARKERS} <= set(colours)
        for ground in ("page", "panel"):
            for text in ("ink", "quiet", "link"):
                light, dark = sorted((luminance(colours[ground]), luminance(colours[text])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


def test_long_and_wide_labels_are_shortened() -> None:
    assert plots.shortened("a" * 30, 30) == "a" * 30
    assert plots.shortened("秩" * 30, 31) == "秩" * 15 + "…"
    assert plots.columns(plots.shortened("set_rank 秩" * 9, 20)) <= 20


# --- the command ---


def test_grade_writes_it_and_report_makes_the_same_again(
    tmp_path: Path, week: Week, level: str, capsys: pytest.CaptureFixture[str]
) -> None:
    right = (ROOT / "solutions/week04/lora_linear.py").read_text(encoding="utf-8")
    shifted = next(m.source for m in bank.mutants(week, right) if m.name == "scaled_by_alpha")
    for name, text in ((NAME, f"raise RuntimeError({HOSTILE!r})\n"), ("right", right), ("two", shifted), ("three", shifted)):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "lora_linear.py").write_text(text, encoding="utf-8")
    out = tmp_path / "out"
    assert main(["grade", str(tmp_path / "in"), "--week", "4", "--out", str(out), "--isolation", level]) == 0
    assert f"{out}/report.html" in capsys.readouterr().out
    first = (out / "report.html").read_bytes()
    assert str(json.loads((out / "run.json").read_text())["seed"]).encode() not in first
    (out / "report.html").unlink()
    assert main(["report", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{out}/report.html"
    assert printed[2].startswith("1. The update is scaled by alpha instead of alpha / rank")
    assert "(2 students, 4.1 LoRALinear: construction and forward, course/week04/lecture.md#forward)" in printed[2]
    assert (out / "report.html").read_bytes() == first
    assert main(["report", str(out), "--lang", "zh"]) == 0
    assert "2 名学生" in capsys.readouterr().out
    root = tree(first.decode())
    links = [unquote(a.get("href", "")) for a in root.iter("a") if a.find("bdi") is not None]
    assert len(links) == 4 and all((out / link).is_file() for link in links)


GOOD = json.dumps(SMALL[0])


@pytest.mark.parametrize(
    ("run", "lines", "error"),
    [
        (None, None, "holds no results: name the folder that was the --out of `autograder grade`"),
        ({"week": 4, "isolation": "bwrap"}, None, "holds no results"),
        ("{junk", GOOD, "run.json cannot be read"),
        ([4], GOOD, "run.json cannot be read (it describes no run)"),
        ({"week": "4", "isolation": "bwrap"}, GOOD, "run.json does not say which run this is"),
        ({"week": 99, "isolation": "bwrap"}, "", "there is no week 99"),
        ({"week": 5, "isolation": "bwrap"}, GOOD, "line 1 is no result of this run: run the same `autograder grade` again"),
        ({"week": 4, "isolation": "bwrap"}, GOOD + "\n" + GOOD[:99], "line 2 is no result of this run"),
        ({"week": 4, "isolation": "bwrap"}, "[]", "line 1 is no result"),
        ({"week": 4, "isolation": "bwrap"}, "[" * 100_000, "line 1 is no result"),
        ({"week": 4, "isolation": "bwrap"}, GOOD.replace('"score": 40', '"score": null'), "line 1 is no result"),
        ({"week": 4, "isolation": "bwrap"}, GOOD.replace('"score": 40', '"score": NaN'), "line 1 is no result"),
        ({"week": 4, "isolation": "bwrap"}, GOOD.replace('"status": "passed"', '"status": "<b>"'), "line 1 is no result"),
        ({"week": 4, "isolation": "bwrap"}, GOOD.replace('"weight": 1', '"weight": 0'), "line 1 is no result"),
        ({"week": 4, "isolation": "bwrap"}, GOOD.replace('"gate"', '"gat"'), "line 1 is no result"),
    ],
)
def test_a_folder_that_holds_no_sound_results_is_one_line(
    run: Any, lines: str | None, error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if run is not None:
        (tmp_path / "run.json").write_text(run if isinstance(run, str) else json.dumps(run))
    if lines is not None:
        (tmp_path / "results.jsonl").write_text(lines)
    assert main(["report", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert error in told and len(told.strip().splitlines()) == 1
    assert not (tmp_path / "report.html").exists()


def test_a_result_that_is_in_twice_counts_once(tmp_path: Path) -> None:
    place = folder_of(tmp_path, [*SMALL, SMALL[0] | {"score": 1}])
    _, found = results.read(place)
    assert [r["student"] for r in found] == sorted(r["student"] for r in SMALL)
    assert next(r for r in found if r["student"] == "A")["score"] == 1


def test_a_class_is_empty() -> None:
    assert analyse([]) == Class([], [], set(), [], [], [], [], [], set())
