"""A student's notebook is inert: rendered by nbconvert, nothing of it is an element that runs or loads."""

from __future__ import annotations

import base64
from html.parser import HTMLParser
from typing import Any

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbconvert.exporters import HTMLExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from autograder.reports import sanitise
from course.labs.core import MIME

RUNS = "window.pwned=1"
MARKDOWN = [
    f"<script>{RUNS}</script>",
    f'<img src=x onerror="{RUNS}">',
    f"<svg/onload={RUNS}>",
    f"<sCrIpT src=//evil>{RUNS}</ScRiPt>",
    f"<iframe srcdoc='<script>{RUNS}</script>'>",
    f"[x](javascript:{RUNS})",
    f"[x]( JaVaScRiPt&colon;{RUNS})",
    f"[x](java&#115;cript:{RUNS})",
    f"[x](data:text/html;base64,{base64.b64encode(RUNS.encode()).decode()})",
    f"[x][1]\n\n[1]: javascript:{RUNS}",
    f"<javascript:{RUNS}>",
    f'![x](x"onerror="{RUNS})',
    "![x](http://evil/track.png)",
    f"$\\href{{javascript:{RUNS}}}{{x}}$",
    f"$\\require{{html}}\\href  {{javascript:{RUNS}}}{{x}}$",
    f"$$</span><script>{RUNS}</script>$$",
    f"```\n</code></pre><script>{RUNS}</script>\n```",
    f"`</code><script>{RUNS}</script>`",
    f"| a |\n|---|\n| <b onmouseover={RUNS}> |",
    f"<!-- --><details open ontoggle={RUNS}>",
    f"<\n/script><script>{RUNS}</script>",
    f"<style>@import 'http://evil'</style><a href=javascript:{RUNS}>x</a>",
    f"\u202e<script>{RUNS}</script>\x00",
    f"<math><maction actiontype=statusline xlink:href=javascript:{RUNS}>x</maction></math>",
]
FORBIDDEN = {"script", "iframe", "svg", "object", "embed", "form", "math", "style", "link", "details", "base", "meta", "audio"}


class Elements(HTMLParser):
    """Every element and attribute of a piece of HTML."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def body(cells: list[Any]) -> str:
    """What nbconvert makes of the cells, without the page around them."""
    cleaned = sanitise.notebook(new_notebook(cells=cells))
    page, _ = HTMLExporter(template_name="basic").from_notebook_node(cleaned)
    return str(page)


def assert_inert(page: str) -> None:
    parser = Elements()
    parser.feed(page)
    for tag, attributes in parser.found:
        assert tag not in FORBIDDEN, (tag, attributes)
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name == "href" and tag == "a" and (value or "").startswith("http://"):
                continue  # a link that shows where it goes
            assert "javascript" not in (value or "").lower() and "evil" not in (value or ""), (tag, name, value)
    assert parser.found


@pytest.mark.parametrize("text", MARKDOWN)
def test_markdown_is_inert(text: str) -> None:
    assert_inert(body([new_markdown_cell(text)]))
    # And the payload does run, or load, where nothing is done about it: else this test would show nothing.
    raw = new_notebook(cells=[new_markdown_cell(text)])
    page, _ = HTMLExporter(template_name="basic").from_notebook_node(raw)
    assert page != body([new_markdown_cell(text)])


@pytest.mark.parametrize("text", MARKDOWN)
def test_outputs_and_code_are_inert(text: str) -> None:
    data = {"text/html": text, "image/svg+xml": text, "application/javascript": text, "text/latex": text, "text/markdown": text}
    outputs = [
        new_output("display_data", data=data | {"text/plain": text}, metadata={"image/png": {"width": text}}),
        new_output("display_data", data={"image/png": text, "application/x-" + text[:20]: text}),
        new_output("stream", name="stdout", text=text),
        new_output("error", ename=text, evalue=text, traceback=[text, f"\x1b]8;;javascript:{RUNS}\x07x\x1b]8;;\x07"]),
    ]
    cell = new_code_cell(text, outputs=outputs, metadata={"tags": [" ".join(text.replace(",", "").split())]})
    assert_inert(body([cell]))


def test_what_was_removed_is_named_and_what_is_harmless_stays() -> None:
    png = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20)).decode()
    outputs = [
        new_output("display_data", data={"image/png": png, "text/plain": "<Figure>"}),
        new_output("display_data", data={"text/html": "<b>x</b>"}),
        new_output("display_data", data={MIME: {"kind": "answer"}, "text/plain": "4.q1: 3"}),
    ]
    made = sanitise.notebook(new_notebook(cells=[new_code_cell("1 < 2", outputs=outputs)]))
    shown = made.cells[0].outputs
    assert shown[0].data == {"image/png": png}
    assert shown[1].text == "[removed: text/html]\n"
    assert shown[2].data == {"text/plain": "4.q1: 3"}
    assert made.cells[0].source == "1 < 2"


def test_mathematics_and_code_stay_readable() -> None:
    assert (
        sanitise.markdown("If $r<d$ then `a[0](x)` & $W\\in R^{d}$, 3 < 4") == "If $r< d$ then `a[0] (x)` & $W\\in R^{d}$, 3 < 4"
    )


def test_only_a_plain_grade_id_is_kept_of_metadata() -> None:
    cells = [
        new_code_cell("1", metadata={"nbgrader": {"grade_id": name, "points": 1000, "grade": True}, "tags": ["x"]})
        for name in ("q1", '"><script>', 3)
    ]
    made = sanitise.notebook(new_notebook(cells=cells))
    assert [dict(cell.metadata) for cell in made.cells] == [{"nbgrader": {"grade_id": "q1"}}, {}, {}]


def test_floods_are_cut() -> None:
    outputs = [new_output("stream", name="stdout", text="x" * 10**6) for _ in range(500)]
    made = sanitise.notebook(new_notebook(cells=[new_code_cell("y" * 10**6, outputs=outputs)]))
    assert len(nbformat.writes(made)) < 3 * 10**6


def test_a_fence_cannot_be_closed_from_within() -> None:
    assert sanitise.fenced("a\n````\nb") == "`````\na\n````\nb\n`````"


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
    )
)
def test_nothing_in_the_place_of_an_output_or_metadata_ends_it(value: Any) -> None:
    for cell in (
        {
            "cell_type": "code",
            "source": value,
            "outputs": [value, {"output_type": "display_data", "data": value}],
            "metadata": value,
        },
        {"cell_type": "markdown", "source": value, "metadata": {"nbgrader": value}},
        {"cell_type": "code", "source": "", "outputs": value, "execution_count": value},
        {"cell_type": value, "source": [value]},
    ):
        nbformat.validate(sanitise.notebook({"cells": [cell]}))
