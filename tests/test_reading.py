"""The readings are what the lectures cite, every week has its guide, and a wrong form or list is told in one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from autograder.authoring import reading
from autograder.manifest import ManifestError, Week, load
from tests.conftest import ROOT

WEEKS = load().weeks
READINGS = reading.load_readings()
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


def cited(page: str, lang: str) -> list[tuple[str, int, str, str]]:
    """Authors, year, title and arXiv identifier (or "") of each entry of a lecture's references, in English spelling."""
    _, heading, text = page.partition("## References\n" if lang == "en" else "## 参考文献\n")
    assert heading, "no references"
    found = []
    for line in text.replace("\n  ", " ").splitlines():
        if line.startswith("- "):
            entry = re.match(r"- (.+?) ?，?(\d{4})(?:, |，)(.+)$", line)
            assert entry, line
            authors = entry[1].replace(" 等", " et al.").replace(" 与 ", " and ")
            identifier = ARXIV.search(line)
            found.append((authors, int(entry[2]), entry[3], identifier[1] if identifier else ""))
    return found


def mismatches(page: str, lang: str, week: int) -> list[str]:
    """Entries of a lecture that the list does not have, has otherwise, or does not give to that week."""
    found = []
    for authors, year, rest, identifier in cited(page, lang):
        entry = next((r for r in READINGS.readings if (r.arxiv == identifier if identifier else rest.startswith(r.title))), None)
        if entry is None:
            found.append(f"{authors} {year} is not in course/readings.toml")
            continue
        if (entry.authors, entry.year) != (authors, year) or not re.match(re.escape(entry.title) + r"(, |，|$)", rest):
            found.append(f"{entry.id}: {authors} {year}, {rest}")
        if week not in (entry.week, *entry.also):
            found.append(f"{entry.id} is not given to week {week}")
    return found


def page(week: Week, name: str) -> str:
    return (ROOT / "course" / week.folder / name).read_text(encoding="utf-8")


LECTURES = {"en": "lecture.md", "zh": "lecture.zh.md"}
GUIDES = {"en": "reading.md", "zh": "reading.zh.md"}
weeks = pytest.mark.parametrize("week", WEEKS, ids=lambda week: week.folder)


@weeks
@pytest.mark.parametrize("lang", LECTURES)
def test_what_a_lecture_cites_is_in_the_list(week: Week, lang: str) -> None:
    text = page(week, LECTURES[lang])
    assert not mismatches(text, lang, week.number)
    listed = {identifier for *_, identifier in cited(text, lang)}
    assert set(ARXIV.findall(text)) == listed - {""}, "a paper is cited in the text only, or a reference is not linked"


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("Hayou et al. 2024", "Hayou et al. 2023", "hayou-loraplus: Hayou et al. 2023"),
        ("Hayou et al. 2024, LoRA+", "Zhao et al. 2024, LoRA+", "hayou-loraplus: Zhao et al. 2024"),
        (
            "LoRA+: Efficient Low Rank",
            "LoRA+: Efficient Low-Rank",
            "hayou-loraplus: Hayou et al. 2024, LoRA+: Efficient Low-Rank",
        ),
        ("arXiv:2402.12354", "arXiv:2402.12355", "Hayou et al. 2024 is not in"),
        ("arXiv:2402.12354", "arXiv:2404.19245", "tian-hydralora is not given to week 4"),
        ("The approximation of one matrix", "An approximation of one matrix", "Eckart and Young 1936 is not in"),
    ],
)
def test_a_wrong_reference_is_found(old: str, new: str, found: str) -> None:
    text = (ROOT / "course/week04/lecture.md").read_text(encoding="utf-8")
    head, mark, references = text.partition("## References\n")
    assert old in references
    assert any(found in line for line in mismatches(head + mark + references.replace(old, new), "en", 4))


@weeks
def test_every_week_has_required_readings(week: Week) -> None:
    assert 1 <= sum(entry.role == "required" for entry in READINGS.of(week.number)) <= reading.MAX_REQUIRED


def test_the_list_names_no_week_that_does_not_exist() -> None:
    numbers = {week.number for week in WEEKS}
    assert {number for entry in READINGS.readings for number in (entry.week, *entry.also)} <= numbers


@weeks
@pytest.mark.parametrize("lang", GUIDES)
def test_a_guide_is_of_the_required_readings(week: Week, lang: str) -> None:
    text = page(week, GUIDES[lang])
    for entry in READINGS.of(week.number):
        if entry.role == "required":
            assert f"](https://arxiv.org/abs/{entry.arxiv})" in text if entry.arxiv else f"]({entry.url})" in text, entry.id
    known = {r.arxiv for r in READINGS.readings}
    assert set(re.findall(r"arxiv\.org/abs/(\d{4}\.\d{4,5})", text)) <= known
    links = [target for target in re.findall(r"\]\(([^)#]+)", text) if "://" not in target]
    assert links and all((ROOT / "course" / week.folder / target).is_file() for target in links), links


@weeks
def test_a_guide_has_three_questions_and_one_page_in_both_languages(week: Week) -> None:
    texts = {lang: page(week, name) for lang, name in GUIDES.items()}
    heads = {
        "en": [
            "What to read",
            "Before you read",
            "What to look for",
            "Questions",
            "Notation",
            "What it does not show",
            "How it is marked",
        ],
        "zh": ["读什么", "读之前", "读的时候注意", "问题", "记号", "它没有说明什么", "怎样评分"],
    }
    for lang, text in texts.items():
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == heads[lang]
        questions = text.split(f"## {heads[lang][3]}\n")[1].split("\n## ")[0]
        assert re.findall(r"^(\d)\. ", questions, re.MULTILINE) == ["1", "2", "3"]
    assert 300 <= len(texts["en"].split()) <= 620
    assert len(re.findall(r"^\| ", texts["en"], re.MULTILINE)) == len(re.findall(r"^\| ", texts["zh"], re.MULTILINE))
    targets = [set(re.findall(r"\]\((https://[^)]+)\)", text)) for text in texts.values()]
    assert targets[0] == targets[1]


@weeks
@pytest.mark.parametrize("lang", GUIDES)
def test_names_in_a_guide_are_those_of_the_code(week: Week, lang: str) -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "exercises").glob("*/*.py"))
    code += (ROOT / "solutions" / week.folder / "lab.py").read_text(encoding="utf-8")
    names = set(re.findall(r"`([A-Za-z_]\w*)`", page(week, GUIDES[lang])))
    assert not {name for name in names if not re.search(rf"\b{name}\b", code)}


def test_the_form_is_worth_ten_points_and_the_docs_say_how() -> None:
    form = reading.load()
    assert form.points == 10
    for name in ("docs/reading.md", "docs/reading.zh.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert f"student,week,{','.join(criterion.id for criterion in form.criteria)},comment\n" in text
        for criterion in form.criteria:
            assert f"| `{criterion.id}` | {criterion.points} |" in text


def criterion(name: str, points: str) -> str:
    texts = "".join(f'{key} = {{en = "a", zh = "b"}}\n' for key in ("title", "full", "half", "none"))
    return f'[[criterion]]\nid = "{name}"\npoints = {points}\n{texts}'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("schema = 1\n", "criterion is missing; add it"),
        ("schema = 1\ncriterion = []\n", "a form must have at least one"),
        ("schema = 2\n" + criterion("a", "1"), "schema must be 1"),
        ("schema = 1\n" + criterion("week", "1"), "criterion week has the name of another column"),
        ("schema = 1\n" + criterion("a", "1") * 2, "criterion a is listed 2 times"),
        ("schema = 1\n" + criterion("a", "0"), "criterion a: points must be an integer from 1 to 100, not 0"),
        (
            "schema = 1\n" + criterion("a", "true"),
            "criterion a: points must be an integer from 1 to 100, not true",
        ),
        ("schema = 1\n" + criterion("a,b", "1"), 'id must be lower-case letters, digits and _, such as "summary"'),
        ("schema = 1\n" + criterion("摘要", "1"), "id must be lower-case letters"),
        ("schema = 1\n" + criterion("a", "1") + 'weight = "x"\n', "unknown key"),
        ("schema = 1\n[[criterion]\n", "is not valid TOML"),
        ('schema = 1\n[[criterion]]\nid = "a"\npoints = 1\ntitle = "x"\n', "title must be a table"),
    ],
)
def test_a_wrong_form_is_told_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "form.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ManifestError) as caught:
        reading.load(path)
    assert said in str(caught.value) and "\n" not in str(caught.value) and "form.toml" in str(caught.value)


READING = 'id = "a"\nauthors = "A"\nyear = 2020\ntitle = "T"\narxiv = "2001.00001"\nweek = 1\nrole = "required"\n'
READING = "[[reading]]\n" + READING + 'why = {en = "a", zh = "b"}\nchecked = "record"\n'


def other(**changes: str) -> str:
    """An entry with other values; "" leaves a key out."""
    lines = [line for line in READING.splitlines() if line.split(" = ")[0] not in changes]
    return "\n".join(lines + [f"{key} = {value}" for key, value in changes.items() if value]) + "\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (READING + READING, "id a is listed 2 times"),
        (READING + other(id='"b"'), "arxiv 2001.00001 is listed 2 times"),
        (other(arxiv='"2106.09685v2"'), "arxiv must be an identifier without a version"),
        (other(arxiv='"cs/0101001"'), "arxiv must be"),
        (other(arxiv=""), "one of arxiv, url and venue is needed"),
        (other(arxiv="", url='"http://x.org"'), "url must be an https address"),
        (other(role='"must"'), "role must be one of required, optional, background"),
        (other(checked='"yes"'), "checked must be one of text, record, link, memory"),
        (other(year="20"), "year must be a year"),
        (other(also="[1]"), "also must list other weeks"),
        (other(also="[2, 2]"), "also must list other weeks"),
        (other(week="2"), "week 1 must have 1 to 2 required readings, not 0"),
        (READING + "".join(other(id=f'"{i}"', arxiv=f'"2001.1000{n}"') for n, i in enumerate("bc")), "not 3"),
        (other(why='{en = "a"}'), "zh is missing"),
        (other(title='"two\\nlines"'), "title must be one line"),
    ],
)
def test_a_wrong_list_is_told_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "readings.toml"
    path.write_text("schema = 1\n" + text, encoding="utf-8")
    with pytest.raises(ManifestError) as caught:
        reading.load_readings(path)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="get the course's files again"):
        reading.load(tmp_path / "none.toml")


def test_the_page_keeps_its_tables_whole(tmp_path: Path) -> None:
    path = tmp_path / "readings.toml"
    path.write_text("schema = 1\n" + other(title='"P(a | b)"', corrections='[{en = "x", zh = "y"}]'), encoding="utf-8")
    found = reading.load_readings(path)
    english, chinese = (reading.render(found, lang) for lang in ("en", "zh"))
    assert (
        r"| required | A 2020, [P(a \| b)](https://arxiv.org/abs/2001.00001), arXiv:2001.00001 | a Corrected: x | record |"
        in english
    )
    assert r"| 必读 | A，2020，[P(a \| b)](https://arxiv.org/abs/2001.00001)，arXiv:2001.00001 | b 更正：y | 记录 |" in chinese
