"""The pictures of the README: what a check says to a student who scales by alpha instead of alpha / rank, in each language.

    python -m course.site.pictures

runs week 4's checks on that wrong answer and writes docs/pictures/check.svg and check.zh.svg. They have a background
and a border of their own, so they are readable on light pages and on dark ones, and load no font from elsewhere.
"""

from __future__ import annotations

import html
import io
import re
import sys
import tempfile
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.segment import Segment, Segments
from rich.text import Text

from autograder import bank, show
from autograder.judge import runner as judge
from autograder.judge.runner import TaskRun
from autograder.manifest import Lang, Week, load
from course.labs.core import ROOT

TASK, MUTANT, WIDTH = "4.1", "scaled_by_alpha", 120
_ASPECT = 0.61  # of a character of the font; its height is 20
TOLD: dict[Lang, str] = {"en": "likely misunderstanding", "zh": "可能的误解"}
FILES: dict[Lang, Path] = {"en": ROOT / "docs/pictures/check.svg", "zh": ROOT / "docs/pictures/check.zh.svg"}
# As rich's own, but without its fonts from the web and its window buttons.
FORMAT = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" role="img">
<title>autograder check 4.1</title>
<style>
.{unique_id}-matrix {{
  font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", "Noto Sans Mono CJK SC", monospace;
  font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width;
}}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}
</defs>
<rect fill="#161b22" stroke="#6e7681" stroke-width="2" width="100%" height="100%" rx="8"/>
<g transform="translate({terminal_x}, 20)" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def runs() -> list[TaskRun]:
    """What the checks of the task find in the wrong answer."""
    week = _week()
    reference = judge.reference_stub(week).read_text(encoding="utf-8")
    (wrong,) = (mutant for mutant in bank.mutants(week, reference) if mutant.name == MUTANT)
    found: list[TaskRun] = []
    with tempfile.TemporaryDirectory() as folder:
        stub = Path(folder) / week.stub
        stub.write_text(wrong.source, encoding="utf-8")
        runner = judge.Runner(week, 0, [TASK])
        runner.run_in_pytest(lambda: found.extend(runner.run(judge.loopback(stub))))
    return found


def shown(found: list[TaskRun], lang: Lang) -> RenderableType:
    """The page that the command prints: up to the first misunderstanding that it tells, and its last three lines."""
    lines = _console().render_lines(show.page(_week(), found, Path("exercises/week04/lora_linear.py"), lang), pad=False)
    texts = ["".join(segment.text for segment in line).rstrip() for line in lines]
    told = next(number for number, line in enumerate(texts) if line.strip().startswith(TOLD[lang]))
    while texts[told + 1].startswith(" " * 10):  # it may take more than one line
        told += 1
    kept = [*lines[: told + 1], [Segment("     ...")], *lines[-3:]]
    return Segments([segment for line in kept for segment in [*line, Segment.line()]])


def _week() -> Week:
    return load().week(int(TASK.split(".")[0]))


def _console() -> Console:
    return Console(
        record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor", legacy_windows=False,
        highlight=False,
    )  # fmt: skip


def picture(page: RenderableType, lang: Lang) -> str:
    """A page as an SVG, a prompt with the command above it."""
    console = _console()
    console.print(Text(f"$ autograder check {TASK}" + (" --lang zh" if lang == "zh" else ""), style="bold"))
    console.print(page)
    svg = console.export_svg(code_format=FORMAT, unique_id="check", font_aspect_ratio=_ASPECT)
    svg = re.sub(r'(<text [^>]*?textLength=")[^"]*("[^>]*>)(.*?)(?=</text>)', _measured, svg)
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def _measured(text: re.Match[str]) -> str:
    """A piece of text with its width in cells: rich counts characters, of which a Chinese one takes two."""
    return f"{text[1]}{cell_len(html.unescape(text[3])) * 20 * _ASPECT:g}{text[2]}{text[3]}"


def text_of(svg: str) -> list[str]:
    """The lines of text that a picture shows, without the space that lays them out."""
    rows: dict[float, list[tuple[float, str]]] = {}
    for place in re.finditer(r'<text [^>]*?x="([\d.]+)" y="([\d.]+)"[^>]*>(.*?)</text>', svg, re.DOTALL):
        rows.setdefault(float(place[2]), []).append((float(place[1]), html.unescape(place[3]).replace("\xa0", " ")))
    lines = ("".join(text for _, text in sorted(row)) for _, row in sorted(rows.items()))
    return [joined for line in lines if (joined := " ".join(line.split()))]


def main() -> int:
    """Write the pictures."""
    found = runs()
    for lang, path in FILES.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(picture(shown(found, lang), lang), encoding="utf-8", newline="\n")
        print(path.relative_to(ROOT).as_posix())
    return 0


if __name__ == "__main__":
    sys.exit(main())
