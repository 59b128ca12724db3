"""The course site's own code: which pages there are, where links lead, what outputs and docstrings show."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat import v4

from autograder.authoring import notebooks
from autograder.manifest import Course, Lang
from course.site import build, labs, linkcheck, pages, slides
from tests.conftest import ROOT

Sites = dict[Lang, pages.Site]


@pytest.fixture(scope="module")
def sites(course: Course) -> Sites:
    return {lang: pages.site(course, lang) for lang in pages.LANGS}


def test_both_sites_have_the_same_pages(sites: Sites) -> None:
    assert set(sites["en"].pages) == set(sites["zh"].pages)


def test_every_page_is_in_the_navigation_once(sites: Sites) -> None:
    for site in sites.values():
        listed = []
        for page in site.pages.values():
            folder = page.name.rpartition("/")[0]
            for tree in re.findall(r"^```\{toctree\}\n(.*?)^```", page.text, re.MULTILINE | re.DOTALL):
                names = [line for line in tree.splitlines() if line and not line.startswith(":")]
                listed += [f"{folder}/{name.partition(' <')[2].rstrip('>') or name}".strip("/") for name in names]
        assert sorted([*listed, "index"]) == sorted(site.pages)


def test_every_document_of_the_course_has_a_page(sites: Sites, course: Course) -> None:
    for week in course.weeks:
        for name in ("index", "lecture", "reading", "exercise", "lab"):
            assert f"{week.folder}/{name}" in sites["zh"].pages
    shown = {page.source for site in sites.values() for page in site.pages.values()}
    documents = [path for folder in ("course", "docs") for path in (ROOT / folder).glob("*.md")]
    documents += [path for folder in ("course/week*", "course/threads") for path in ROOT.glob(f"{folder}/*.md")]
    assert len(documents) > 50 and set(documents) <= shown


def test_a_page_without_translation_stands_in_both_sites_in_its_language(sites: Sites) -> None:
    page = sites["zh"].pages["docs/results"]
    assert page.lang == "en" and page.source == ROOT / "docs" / "results.md"
    assert sites["zh"].pages["week04/lecture"].source == ROOT / "course" / "week04" / "lecture.zh.md"


@pytest.mark.parametrize(
    ("lang", "page", "link", "leads_to"),
    [
        ("en", "week04/lecture", "lecture.zh.md", ("zh", "week04/lecture", "", True)),
        ("zh", "week04/lecture", "../week02/lecture.zh.md#places", ("zh", "week02/lecture", "places", True)),
        ("zh", "week04/reading", "../../docs/reading.zh.md", ("zh", "docs/reading", "", True)),
        ("zh", "docs/nbgrader", "trust.md", ("zh", "docs/trust", "", True)),  # both untranslated: the reader stays
        ("zh", "docs/nbgrader", "../course/week04/lecture.md", ("zh", "week04/lecture", "", True)),
        ("en", "syllabus", "exercises/week04/lora_linear.py", ("en", "week04/exercise", "", True)),
        ("zh", "syllabus", "notebooks/zh/week04.ipynb", ("zh", "week04/lab", "", True)),
        ("en", "syllabus", "Makefile", ("en", "Makefile", "", False)),
        ("en", "syllabus", "no-such-file.md", None),
        ("en", "syllabus", "../outside.md", None),
    ],
)
def test_where_a_link_leads(sites: Sites, lang: Lang, page: str, link: str, leads_to: tuple[Lang, str, str, bool] | None) -> None:
    assert pages.place(sites, lang, sites[lang].pages[page], link) == (leads_to and pages.Place(*leads_to))


def test_the_command_reference_is_the_help_of_every_command(sites: Sites) -> None:
    text = sites["en"].pages["commands"].text
    assert "## autograder project check\n" in text and "--isolation {bwrap,process}" in text


def test_an_output_that_tells_an_answer_is_left_out() -> None:
    lines, numbers = labs.secrets("week04")
    assert 7798784.0 in numbers  # q1
    solution = max(lines, key=len)
    assert labs.gives_away(f"def f():\n        {solution}\n", lines, numbers)
    assert labs.gives_away("so 7,798,784 parameters", lines, numbers)
    assert not labs.gives_away("loss 0.25 after 7798 of 98784 steps", lines, numbers)


def test_what_a_notebook_shows() -> None:
    output = v4.new_output
    picture = output("display_data", {"image/png": "AA==", "text/plain": "<Figure>"}, metadata={"image/png": {"alt": "A curve"}})
    printed = ["plain\n", "\rstep 1/2", "\rstep 2/2", "\r         \r", "loss 1\n"]
    cells = [
        v4.new_code_cell("a", outputs=[output("stream", text="779"), output("stream", text="8784\n")]),
        v4.new_code_cell("a", outputs=[output("stream", text=text) for text in printed]),
        v4.new_code_cell("b", outputs=[picture, output("display_data", {labs.MIME: {"kind": "record"}})]),
        v4.new_code_cell("c", outputs=[output("stream", text="mine\n")], metadata={"nbgrader": {"grade": True}}),
    ]
    zeroth, first, second, third = labs.shown(v4.new_notebook(cells=cells), "week04", "en").cells
    assert [one.text for one in zeroth.outputs] == [labs.LEFT_OUT["en"]]
    assert [one.text for one in first.outputs] == ["plain\nloss 1\n"]
    assert [dict(one.data) for one in second.outputs] == [{"image/png": "AA=="}]
    assert second.metadata["mystnb"]["image"]["alt"] == "A curve"
    assert third.outputs == []


def test_no_untouched_notebook_holds_what_outputs_may_not() -> None:
    """The stubs' own lines are no secrets, so what is left out is left out for a reason."""
    for folder in notebooks.sources():
        lines, _ = labs.secrets(folder)
        code = notebooks.code((ROOT / "notebooks" / f"{folder}.ipynb").read_text(encoding="utf-8"))
        assert not [cell for cell in code if labs.gives_away(cell, lines, set())], folder


def test_outputs_are_kept_until_something_they_follow_from_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = labs.kept(tmp_path, "week04", "en")
    assert kept == labs.kept(tmp_path, "week04", "en") != labs.kept(tmp_path, "week04", "zh")
    monkeypatch.setattr(labs, "_shared", lambda: "another library")
    assert labs.kept(tmp_path, "week04", "en") != kept


def test_a_docstring_is_shown_as_it_stands() -> None:
    from course.site.extension import plain

    table = "Task   points  minutes\n4.1        25       50\n4.2        15       25\n"
    text = f"Use `a_` and `b`s, *args | x_.\n\n        y = 2 * x_\n\n{table}"
    shown = plain(text)
    assert "``a_`` and ``b``\\ s, \\*args \\| x\\_." in shown
    assert "::\n\n        y = 2 * x_" in shown
    assert "::\n\n    Task   points  minutes\n    4.1        25       50" in shown


def test_a_formula_that_cannot_be_converted_stops_the_build() -> None:
    from sphinx.errors import ExtensionError

    from course.site.extension import mathml

    assert "<mfrac>" in mathml(r"\frac{\alpha}{r} B A", block=True)
    with pytest.raises(ExtensionError, match=r"no MathML for '\\\\nosuch"):
        mathml(r"\nosuch{1}", block=False)


def test_chinese_is_searched_by_pairs() -> None:
    from course.site.extension import SearchChinese

    words = SearchChinese({}).split("用 LoRA 做梯度检查，秩")
    assert {"梯度", "度检", "检查", "秩", "LoRA"} <= set(words) and "查秩" not in words
    assert SearchChinese({}).word_filter("秩")


def test_a_lecture_is_cut_at_its_headings() -> None:
    soup = BeautifulSoup(
        "<article><section><h1>T</h1><p>a</p><section><h2>One <math><mi>r</mi></math></h2><p>b</p><p> </p>"
        "<section><h3>Deep</h3><table></table><p><img></p></section></section></section></article>",
        "html.parser",
    )
    assert soup.article is not None
    found = slides.cut(soup.article)
    assert [(slide.title, slide.level, len(slide.blocks)) for slide in found] == [
        ("T", 1, 1),
        ("One <math><mi>r</mi></math>", 2, 1),
        ("Deep", 3, 1),
    ]


def test_a_broken_link_and_a_foreign_picture_are_found(tmp_path: Path) -> None:
    (tmp_path / "b.html").write_text('<p id="here">', encoding="utf-8")
    (tmp_path / "a.html").write_text(
        '<a href="b.html#here"></a><a href="https://example.org"></a><a href="b.html#gone"></a><a href="c.html"></a>'
        '<img src="https://example.org/x.png"><img src="data:image/png;base64,AA"><script src="//example.org/x.js"></script>',
        encoding="utf-8",
    )
    assert linkcheck.problems(tmp_path) == [
        "a.html links to b.html#gone: that page has no such place",
        "a.html links to c.html, which is not there",
        "a.html loads //example.org/x.js",
        "a.html loads https://example.org/x.png",
    ]


def test_a_folder_with_something_else_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").touch()
    assert build.main(["--out", str(tmp_path), "--no-outputs"]) == 2
    assert capsys.readouterr().err.startswith(f"site: {tmp_path} holds something other than a site")
    assert (tmp_path / "thesis.tex").is_file()


@pytest.mark.parametrize(
    ("arguments", "says"), [(["--jobs", "0"], "--jobs must be"), (["--repository", "javascript:x"], "--repository is an address")]
)
def test_a_wrong_option_is_told_in_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"site: {says}")


def test_lines_of_chinese_are_joined_and_a_formula_keeps_its_punctuation() -> None:
    from docutils import nodes

    from course.site.extension import _close, _keep

    formula = nodes.math("", "d")
    strong = nodes.strong("", "", nodes.Text("粗"))
    start = [nodes.Text("第 4.2"), nodes.Text("\n"), nodes.Text("节，"), nodes.Text("\n"), nodes.Text("以及 ")]
    pieces = [*start, formula, nodes.Text(" ）and\nmore"), nodes.Text("\n"), strong]
    paragraph = nodes.paragraph("", "", *pieces)
    _close(paragraph)
    _keep(formula)
    assert paragraph.astext() == "第 4.2\n节，以及 d）and\nmore\n粗"
    together = next(paragraph.findall(nodes.inline))
    assert together.astext() == "d）" and together["classes"] == ["together"]


def test_slugs_are_githubs() -> None:
    assert pages.slug("4.1 LoRA+, `alpha` / r") == "41-lora-alpha--r"


def test_every_stored_notebook_is_valid(sites: Sites) -> None:
    for site in sites.values():
        for page in site.pages.values():
            if page.source is not None and page.source.suffix == ".ipynb":
                nbformat.validate(nbformat.read(page.source, as_version=4))
