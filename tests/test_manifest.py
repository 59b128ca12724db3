"""The manifest loads, refuses what is wrong in one line that names the place, and renders to the syllabus."""

import copy
import datetime
import hashlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from autograder.authoring.syllabus import FILES, render
from autograder.manifest import Course, Limits, ManifestError, load, parse

ROOT = Path(__file__).resolve().parents[1]
BYTES = (ROOT / "course" / "course.toml").read_bytes()
RAW = tomllib.loads(BYTES.decode())
NAME = "course/course.toml: "
DELETE = object()
OPTIONAL = {"limits", "question", "review", "stretch", "task", "written"}  # keys of a week or of a task
COUNT = len(RAW["week"])
TASKS = ", ".join(task["id"] for week in RAW["week"] for task in week.get("task", []))
WEEK_4 = ", ".join(task["id"] for task in RAW["week"][3]["task"])

Keys = tuple[str | int, ...]


def dump(value: Any) -> str:
    """A TOML value: JSON's strings, numbers and lists are TOML's; tables are written inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{dump(key)} = {dump(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(dump, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value).lower() if isinstance(value, bool) else str(value)


def document(raw: dict[str, Any]) -> bytes:
    return "\n".join(f"{dump(key)} = {dump(value)}" for key, value in raw.items()).encode()


def edited(*edits: tuple[Keys, Any]) -> bytes:
    """The real manifest with some values put in or, with DELETE, taken out."""
    raw = copy.deepcopy(RAW)
    for (*path, last), value in edits:
        table = reduce(lambda node, key: node[key], path, raw)
        if value is DELETE:
            del table[last]
        else:
            table[last] = value
    return document(raw)


def week(number: int, *keys: str | int) -> Keys:
    return ("week", number - 1, *keys)


def task(number: int, *keys: str | int) -> Keys:
    return week(4, "task", number - 1, *keys)


def stretch(points: int = 0) -> dict[str, Any]:
    return {**RAW["week"][3]["task"][0], "id": "4.99", "points": points, "stretch": True}


def fault_of(data: bytes) -> str:
    """The message of the refusal; one line that begins with the file."""
    with pytest.raises(ManifestError) as caught:
        parse(data)
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and message.startswith(NAME)
    return message.removeprefix(NAME)


def test_dump_helper_writes_the_same_data() -> None:
    assert tomllib.loads(document(RAW).decode()) == RAW


def test_real_manifest_has_the_promised_content() -> None:
    course = load()
    assert [w.number for w in course.weeks][:12] == list(range(1, 13))
    grade, hours = course.grade, course.about.hours_per_week
    assert (grade.weekly_code, grade.reading_discussion, grade.final_project) == (30, 20, 50)
    assert (hours.lecture, hours.lab, hours.homework) == (2, 1, 5)
    assert {(w.points.code, w.points.notebook, w.points.review) for w in course.weeks} == {(70, 15, 15)}
    stubs = "cost_model rank1_lora lora_mechanics lora_linear nf4 metrics branches edge_federated multimodal"
    stubs += " security merge experiment"
    assert [w.stub for w in course.weeks][:12] == [f"{stub}.py" for stub in stubs.split()]
    assert course.week(2).preload == ("numpy",) and "torch" in course.week(2).hidden_packages
    assert all(3 <= len(w.objectives.en) <= 5 for w in course.weeks)
    assert course.sha256 == hashlib.sha256(BYTES).hexdigest()


def test_a_week_has_the_course_s_rubric_or_its_own() -> None:
    course = load()
    own = {w.number for w in course.weeks if w.review != course.review}
    assert own == {n for n, w in enumerate(RAW["week"], 1) if "review" in w} != set()
    assert course.week(4).review is course.review
    assert [one.points for one in parse(edited((week(4, "review"), RAW["review"][::-1]))).week(4).review] == [3, 3, 4, 5]
    assert "Criterion" not in repr(course.week(5)), "rewording the rubric must not grade everybody again"


def test_week_4_has_its_four_core_tasks() -> None:
    four = load().week(4)
    assert [(t.id, t.points, t.minutes) for t in four.core] == [
        ("4.1", 25, 50),
        ("4.2", 15, 25),
        ("4.3", 15, 40),
        ("4.4", 15, 35),
    ]
    anchors = ["forward", "merge", "set-rank", "inject"]
    assert [t.lecture for t in four.core] == [f"course/week04/lecture.md#{anchor}" for anchor in anchors]
    assert [(t.id, t.points) for t in four.tasks if t.stretch] == [("4.5", 0), ("4.6", 0), ("4.7", 0)]
    assert {"peft", "bitsandbytes"} <= set(four.hidden_packages)
    second = load().task("4.2")
    assert (second.week, second.number, four.folder) == (4, 2, "week04") and second is not four.core[0]


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_every_text_is_in_its_own_language(lang: str) -> None:
    """Every Chinese text has Chinese characters unless it is only a name; no English one has any."""
    for path, text in leaves(RAW):
        if path[-1] == lang or (len(path) > 1 and path[-2] == lang):
            has_chinese = re.search("[\u4e00-\u9fff]", text) is not None
            is_name = re.fullmatch(r"\w+", text) is not None
            assert has_chinese == (lang == "zh") or is_name, (path, text)


def test_a_loaded_course_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        load().grade.weekly_code = 100  # type: ignore[misc]


# Where, the bad value put there, and the beginning of the refusal.
CASES: list[tuple[Keys, Any, str]] = [
    (("schema",), 2, "schema must be 1, the schema that this version reads, not 2"),
    (task(2, "points"), "15", 'week 4, task 4.2: points must be an integer from 0 to 100, not "15"'),
    (task(2, "points"), True, "week 4, task 4.2: points must be an integer from 0 to 100, not true"),
    (task(1, "minutes"), 50.0, "week 4, task 4.1: minutes must be an integer from 1 to 600, not 50.0"),
    (task(1, "stretch"), 0, "week 4, task 4.1: stretch must be true or false, not 0"),
    (task(2, "points"), -15, "week 4, task 4.2: points must be an integer from 0 to 100, not -15"),
    (task(2, "points"), 0, "week 4, task 4.2: points of a core task must be positive, not 0"),
    (task(2, "difficulty"), 6, "week 4, task 4.2: difficulty must be an integer from 1 to 5, not 6"),
    (week(3, "tittle"), RAW["week"][2]["title"], 'week 3: unknown key "tittle"; did you mean title?'),
    (
        ("grade", "zzz"),
        1,
        'grade: unknown key "zzz"; the keys here are weekly_code, reading_discussion, final_project',
    ),
    (("sha256",), "0", 'unknown key "sha256"; the keys here are schema, course, grade, limits, review, week'),
    (("grade", "a\n\u2028b"), 1, "grade: unknown key "),
    (week(7, "stub"), DELETE, "week 7: stub is missing; add it"),
    (("week",), DELETE, "week is missing; add it"),
    (("week",), [], "a course must have at least one [[week]]"),
    (week(1, "title", "zh"), DELETE, "week 1, title: zh is missing; add it"),
    (week(1, "practice", "en"), DELETE, "week 1, practice: en is missing; add it"),
    (task(4, "title"), "inject_lora", 'week 4, task 4.4: title must be a table, not "inject_lora"'),
    (
        week(5, "topics", "zh"),
        ["量化"],
        f"week 5, topics: en has {len(RAW['week'][4]['topics']['en'])} items but zh has 1; write each item",
    ),
    (week(5, "topics"), {"en": [], "zh": []}, "week 5, topics: en must have at least one item"),
    (week(5, "topics", "en"), "NF4", 'week 5, topics: en must be a list, not "NF4"'),
    (
        week(1, "title", "en"),
        "",
        'week 1, title: en must be one line of text, neither empty nor padded, not ""',
    ),
    (
        week(1, "topics", "en", 2),
        "  ",
        'week 1, topics, en: item 3 must be one line of text, neither empty nor padded, not "  "',
    ),
    (
        week(1, "title", "en"),
        "a\nb",
        'week 1, title: en must be one line of text, neither empty nor padded, not "a\\nb"',
    ),
    (week(1, "title", "en"), "a\u2028b", "week 1, title: en must be one line of text"),
    (("grade", "final_project"), 40, "grade: the three weights must sum to 100, not 90"),
    (week(9, "points", "code"), 60, "week 9, points: code, notebook and review must sum to 100, not 90"),
    (task(2, "points"), 14, "week 4: points of core tasks must sum to 70 (points.code), not 69"),
    (task(2, "minutes"), 26, "week 4: minutes of core tasks must sum to at most 150, not 151"),
    (
        week(4, "task"),
        [*RAW["week"][3]["task"], {**stretch(5), "stretch": False}],
        "week 4: core tasks must be at most 4, not 5",
    ),
    (week(4, "task"), [stretch()], "week 4: points of core tasks must sum to 70 (points.code), not 0"),
    (
        week(4, "task"),
        [*RAW["week"][3]["task"], stretch(5)],
        "week 4, task 4.99: points of a stretch task must be 0, not 5",
    ),
    (task(2, "id"), "4.1", "week 4: task 4.1 is listed 2 times; give each task its own id"),
    (task(2, "id"), "5.2", "week 4: task 5.2 must have an id of week 4, such as 4.1"),
    (task(2, "id"), "41.2", "week 4: task 41.2 must have an id of week 4, such as 4.1"),
    (task(2, "id"), 4.2, 'week 4, task in place 2: id must be the week and the task, such as "4.2", not 4.2'),
    (week(4, "task"), [4], "week 4: task in place 1 must be a table, not 4"),
    (week(5), RAW["week"][2], "week 3 is listed twice; number the weeks 1, 2, 3, ... in order"),
    (
        week(COUNT),
        {key: value for key, value in {**RAW["week"][-1], "number": COUNT + 1}.items() if key not in ("task", "question")},
        f"week {COUNT + 1} stands in place {COUNT}; number the weeks 1, 2, 3",
    ),
    (
        week(4, "question", 0, "points"),
        1,
        f"week 4: points of questions must sum to 15 (points.notebook), not {16 - RAW['week'][3]['question'][0]['points']}",
    ),
    (week(4, "question", 0, "id"), "4.q2", "week 4: question 4.q2 must have an id of its own, such as 4.q"),
    (week(4, "question", 0, "id"), "5.q1", "week 4: question 5.q1 must have an id of its own, such as 4.q"),
    (
        week(4, "question", 0, "id"),
        "4.1",
        'week 4, question 4.1: id must be the week and the question, such as "4.q1", not "4.1"',
    ),
    (("limits",), DELETE, "limits is missing; add it"),
    (("review",), DELETE, "review is missing; add it"),
    (("review", 0, "points"), 4, "week 1: points of review must sum to 15 (points.review), not 14; give this week its own"),
    (("review", 1, "id"), RAW["review"][0]["id"], "review must give each criterion an id of its own"),
    (("review", 1, "id"), "Too Long", 'review in place 2: id must be a short name in lower case, such as "comments", not'),
    (("review", 1, "text", "zh"), DELETE, "review short, text: zh is missing; add it"),
    (("review", 1, "text"), "short", 'review short: text must be a table, not "short"'),
    (("review",), {}, "review must be a list, not a table"),
    (week(5, "review", 0, "points"), 0, "week 5, review says: points must be an integer from 1 to 100, not 0"),
    (week(5, "review"), RAW["review"][:3], "week 5: points of review must sum to 15 (points.review), not 12"),
    (week(5, "review"), [RAW["review"][0]] * 3, "week 5: review must give each criterion an id of its own"),
    (week(5, "review"), {}, "week 5: review must be a list, not a table"),
    (week(1, "number"), 0, "week 0: number must be an integer from 1 to 99, not 0"),
    (week(2, "stub"), "week02/rank1_lora.py", "week 2: stub must be a Python file name without a folder"),
    (week(2, "stub"), "..\\x.py", "week 2: stub must be a Python file name without a folder"),
    (week(2, "stub"), "rank1_lora.ipynb", "week 2: stub must be a Python file name without a folder"),
    (week(2, "stub"), "rank1_lora.py\n", "week 2: stub must be a Python file name without a folder"),
    (task(1, "lecture"), "course/week04/lecture.md", "week 4, task 4.1: lecture must be a lecture section"),
    (week(2, "preload"), ["numpy", "a-b"], 'week 2, preload: item 2 must be a module\'s name, not "a-b"'),
    (week(2, "preload"), ["torch.nn"], "week 2: preload and hidden_packages must not both name torch"),
    (("limits", "cpu_seconds"), 0, "limits: cpu_seconds must be an integer from 1 to 600, not 0"),
    (
        task(1, "limits"),
        {"cpu_seconds": 3600},
        "week 4, task 4.1, limits: cpu_seconds must be an integer from 1 to 600, not 3600",
    ),
    (
        week(5, "limits"),
        {"cpu_seconds": 90},
        "week 5, limits: wall_seconds must not be less than cpu_seconds",
    ),
    (("limits", "file_kib"), 8192, "limits: total_kib must not be less than file_kib"),
    (task(1, "limits"), 20, "week 4, task 4.1: limits must be a table, not 20"),
    (
        task(1, "limits"),
        {"cpu_second": 20},
        'week 4, task 4.1, limits: unknown key "cpu_second"; did you mean cpu_seconds?',
    ),
    (
        task(1, "limits"),
        {"files": 3},
        "week 4: task 4.1, limits: files is of a submission; set it for the week",
    ),
]


@pytest.mark.parametrize(("where", "value", "expected"), CASES, ids=[case[2] for case in CASES])
def test_a_bad_value_is_refused_in_one_line_that_names_the_place(where: Keys, value: Any, expected: str) -> None:
    assert fault_of(edited((where, value))).startswith(expected)


def test_a_hexadecimal_number_too_long_to_print_is_refused() -> None:
    data = BYTES.replace(b"minutes = 50", b"minutes = 0x" + b"f" * 5000)
    assert fault_of(data).endswith("minutes must be an integer from 1 to 600, not a very large integer")


@pytest.mark.parametrize(
    "data",
    [b"schema = ", b"schema = 1\nschema = 1", b"\xff\xfe", b"a = " + b"[" * 100_000, b"a = " + b"9" * 5000],
    ids=["no value", "twice", "not UTF-8", "deep", "long number"],
)
def test_what_is_not_toml_is_refused_in_one_line(data: bytes) -> None:
    assert fault_of(data).startswith("is not valid TOML (")


def test_a_missing_file_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    with pytest.raises(ManifestError, match=r"none\.toml: cannot be read \(No such file .*$") as caught:
        load(path)
    assert len(str(caught.value).splitlines()) == 1


def test_load_reads_the_path_that_it_is_given(tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_bytes(edited((("course", "title", "en"), "Another course")))
    assert load(path).about.title.of("en") == "Another course"
    path.write_bytes(edited((("schema",), 2)))
    with pytest.raises(ManifestError, match=f"^{re.escape(str(path))}: schema must be 1"):
        load(path)


def test_load_does_not_depend_on_the_working_directory(tmp_path: Path) -> None:
    code = "from autograder.manifest import load; print(load().sha256)"
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert found.stdout.strip() == hashlib.sha256(BYTES).hexdigest(), found.stderr


def test_a_stretch_task_without_points_is_not_core() -> None:
    four = parse(edited((week(4, "task"), [*RAW["week"][3]["task"], stretch()]))).week(4)
    assert [t.id for t in four.tasks if t not in four.core] == ["4.5", "4.6", "4.7", "4.99"] and len(four.core) == 4


def test_limits_of_a_task_are_its_own_over_the_weeks_over_the_courses() -> None:
    defaults = RAW["limits"]
    course = parse(
        edited(
            (week(4, "limits"), {"cpu_seconds": 30, "files": 5}),
            (task(1, "limits"), {}),
            (task(2, "limits"), {"cpu_seconds": 20}),
            (week(5, "limits"), {}),
        )
    )
    assert course.limits == course.week(5).limits == load().limits == Limits(**defaults)
    assert course.week(4).limits == Limits(**{**defaults, "cpu_seconds": 30, "files": 5})
    assert course.task("4.1").limits == course.week(4).limits
    assert course.task("4.2").limits == Limits(**{**defaults, "cpu_seconds": 20, "files": 5})
    assert parse(edited((task(1, "limits"), {}))).task("4.1").limits == load().week(4).limits


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (lambda course: course.week(99), f"there is no week 99; the course has weeks 1 to {COUNT}"),
        (lambda course: course.week(0), f"there is no week 0; the course has weeks 1 to {COUNT}"),
        (lambda course: course.task("4.98"), f"there is no task 4.98; there are {WEEK_4}"),
        (lambda course: course.task("4\n2"), f"there is no task 4 2; there are {TASKS}"),
    ],
)
def test_asking_for_what_does_not_exist_says_what_does(ask: Callable[[Course], object], answer: str) -> None:
    with pytest.raises(ManifestError) as caught:
        ask(load())
    assert str(caught.value) == answer


def test_a_week_more_is_only_data() -> None:
    number = COUNT + 1
    extra = copy.deepcopy(RAW["week"][3])
    extra |= {"number": number, "title": {"en": "Guest | lecture", "zh": "特邀 | 讲座"}, "stub": "guest.py"}
    extra["task"] = [item | {"id": f"{number}.{place}"} for place, item in enumerate(extra["task"], start=1)]
    extra["question"] = [item | {"id": f"{number}.q{place}"} for place, item in enumerate(extra["question"], start=1)]
    course = parse(edited((("week",), [*RAW["week"], extra])))
    assert course.week(number).folder == f"week{number}" and course.task(f"{number}.4").week == number
    english, chinese = render(course, "en"), render(course, "zh")
    assert f"## Week {number} · Guest | lecture" in english
    assert f"| {number} | Guest \\| lecture |" in english
    assert [str(number), "Guest | lecture"] in [row[:2] for row in rows_of(english)]
    assert f"[`guest.py`](exercises/week{number}/guest.py)" in english
    assert f"{number} weeks, {3 * number} h in class" in english
    assert f"## 第 {number} 周 · 特邀 | 讲座" in chinese
    assert f"共 {number} 周，课内合计 {3 * number} 学时" in chinese


def rows_of(page: str) -> list[list[str]]:
    """The cells of every table row, as a Markdown reader sees them."""
    rows: list[list[str]] = []
    cell = False
    for token in MarkdownIt("commonmark").enable("table").parse(page):
        if token.type == "tr_open":
            rows.append([])
        elif token.type in ("td_open", "th_open"):
            cell = True
        elif token.type == "inline" and cell:
            rows[-1].append(token.content)
            cell = False
    return rows


@pytest.mark.parametrize("lang", FILES)
def test_the_committed_syllabus_is_the_render(lang: Any) -> None:
    course = load()
    page = render(course, lang)
    assert (ROOT / FILES[lang]).read_bytes().decode() == page == render(parse(BYTES), lang)
    first = "<!-- Generated from course/course.toml by `autograder build`; edit that instead. -->"
    assert page.splitlines()[0] == first
    assert page.endswith("\n") and not page.endswith("\n\n") and "\n\n\n" not in page


@pytest.mark.parametrize("lang", FILES)
def test_the_syllabus_says_all_of_the_manifest(lang: Any) -> None:
    """Every text of the manifest stands in the page of its language, and the tables read back as written."""
    course = load()
    page = render(course, lang)
    for path, text in leaves(RAW):
        if path[-1] == lang or (len(path) > 1 and path[-2] == lang):
            assert text in page, path
    rows = rows_of(page)
    for w in course.weeks:
        assert [str(w.number), w.title.of(lang), w.practice.of(lang)] in rows
        assert (f"(exercises/{w.folder}/{w.stub})" in page) == bool(w.tasks)
    suffix = {"en": " (stretch, no marks)", "zh": "（拓展任务，不计分）"}[lang]
    for t in course.week(4).tasks:
        assert [f"{t.id} {t.title.of(lang)}{suffix if t.stretch else ''}", str(t.points), str(t.minutes)] in rows
    assert [row[1] for row in rows if row[-1].endswith("%")] == ["30%", "20%", "50%"]


def test_a_stretch_task_is_marked_in_both_languages() -> None:
    course = parse(edited((week(4, "task"), [*RAW["week"][3]["task"], stretch()])))
    assert "forward (stretch, no marks) | 0 | 50 |" in render(course, "en")
    assert "前向计算（拓展任务，不计分） | 0 | 50 |" in render(course, "zh")


def leaves(node: Any, path: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Every value that is neither a table nor a list, with the way to it."""
    if isinstance(node, dict | list):
        for key, item in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(item, (*path, key))
    else:
        yield path, node


def ways(node: Any) -> list[Keys]:
    """The way to every value, tables and lists included."""
    return sorted({path[:end] for path, _ in leaves(node) for end in range(1, len(path) + 1)}, key=str)


SCALARS = (
    st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.dates()
    | st.times()
    | st.datetimes()
    | st.sampled_from(["4.1", "a.py", "../a.py", "course/week01/lecture.md#a", "torch", "\u2028", "é|"])
)
JUNK = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(way=st.sampled_from(ways(RAW)), junk=JUNK)
def test_junk_anywhere_is_refused_in_one_line_or_loads(way: Keys, junk: Any) -> None:
    data = edited((way, junk))
    tomllib.loads(data.decode())  # so the refusal below is not one of our own bad TOML
    try:
        course = parse(data)
    except ManifestError as error:
        message = str(error)
        assert len(message.splitlines()) == 1 and message.startswith(NAME)
        assert str(way[0]) in message.removeprefix(NAME)
    else:
        assert "\n\n\n" not in render(course, "en") + render(course, "zh")


@settings(max_examples=100, deadline=None, derandomize=True)
@given(way=st.sampled_from([w for w in ways(RAW) if isinstance(w[-1], str)]), key=st.text(max_size=8))
def test_a_key_taken_out_or_put_in_is_never_ignored(way: Keys, key: str) -> None:
    """No key of the real manifest but the optional can be left out, and no other key can stand there."""
    overrides = "limits" in way[:-1] and way[0] != "limits"  # a week's or task's own limits: each is optional
    if way[-1] not in OPTIONAL and not overrides:
        assert f"{way[-1]} is missing; add it" in fault_of(edited((way, DELETE)))
    table = reduce(lambda node, part: node[part], way[:-1], RAW)
    if key not in {*table, *OPTIONAL}:
        assert "unknown key" in fault_of(edited(((*way[:-1], key), 1)))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(start=st.integers(0, len(BYTES)), length=st.integers(0, 40), junk=st.binary(max_size=20))
def test_a_damaged_file_is_refused_in_one_line_or_loads(start: int, length: int, junk: bytes) -> None:
    try:
        parse(BYTES[:start] + junk + BYTES[start + length :])
    except ManifestError as error:
        assert len(str(error).splitlines()) == 1 and str(error).startswith(NAME)
