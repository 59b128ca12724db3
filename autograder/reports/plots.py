"""Plots of the class report: drawn by matplotlib, changed into SVG that a page can hold.

A page's own colours and fonts apply: what is drawn here names CSS variables, so one picture serves light, dark and print.
Every text is drawn as a placeholder of the same width and put in afterwards: no font has to hold Chinese, nothing is read as
mathematics, and a browser or a screen reader finds text.
"""

from __future__ import annotations

import io
import math
import re
import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

COLUMNS = 62  # characters that fit into the width, in the widest of the usual fonts
_WIDTH = 420  # units of the drawing; a page scales it
_ROW = 37
_SIZE = 12
_INK = "#010203"
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "report", "font.size": _SIZE, "text.color": _INK, "hatch.linewidth": 0.6,
    "axes.edgecolor": _INK, "axes.labelcolor": _INK, "axes.linewidth": 0.8, "xtick.color": _INK, "ytick.color": _INK,
    "axes.spines.top": False, "axes.spines.right": False,
}  # fmt: skip
# Told apart by pattern as well as by colour.
HATCHES = {
    "passed": "",
    "partial": "//",
    "failed": "\\\\\\",
    "error": "xx",
    "timeout": "..",
    "unattempted": "",
    "unrunnable": "--",
}
MARKERS = {"good": "o", "weak": "s", "negative": "v"}
_COLOURS = {name: f"#a0000{i}" for i, name in enumerate([*HATCHES, *MARKERS])}


@dataclass
class _Drawing:
    """One figure: its axes, and the texts behind the placeholders."""

    height: float
    margins: tuple[float, float, float, float]  # left, right, top, bottom
    texts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        left, right, top, bottom = self.margins
        self.figure = Figure(figsize=(_WIDTH / 72, self.height / 72), dpi=72, facecolor="none")
        place = (left / _WIDTH, bottom / self.height, 1 - (left + right) / _WIDTH, 1 - (top + bottom) / self.height)
        self.axes: Any = self.figure.add_axes(place, facecolor="none")

    def text(self, text: str) -> str:
        """What to draw instead of the text."""
        self.texts.append(text)
        return f"t{len(self.texts) - 1}".ljust(columns(text), "x")

    def counted(self, axis: Any) -> None:
        """Ticks at whole numbers, from 0 to 1 at least."""
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))

    def svg(self, name: str, title: str, description: str) -> str:
        buffer = io.StringIO()
        self.figure.savefig(buffer, format="svg", metadata={"Date": None})
        return _for_page(buffer.getvalue(), name, title, description, self.texts)


def columns(text: str) -> int:
    """How wide a text is, in characters: Chinese ones count twice."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def shortened(text: str, width: int) -> str:
    """At most `width` columns of a text."""
    if columns(text) <= width:
        return text
    while columns(text) > width - 1:
        text = text[:-1]
    return f"{text.rstrip()}…"


def histogram(
    edges: Sequence[float], counts: Sequence[int], median: float, *, x: str, y: str, marked: str, title: str, description: str
) -> str:
    """Bars between `edges`, and a dashed line at the median, called `marked`."""
    with matplotlib.rc_context(_SETTINGS):
        drawing = _Drawing(240, (38, 14, 46, 42))
        axes = drawing.axes
        widths = [b - a for a, b in pairwise(edges)]
        axes.bar(edges[:-1], counts, widths, align="edge", color=_COLOURS["passed"], edgecolor=_INK, linewidth=0.6, clip_on=False)
        axes.axvline(median, color=_INK, linewidth=1.4, linestyle="--", clip_on=False)
        left = median > edges[-1] / 2
        axes.text(
            median, 1.02, drawing.text(marked), ha="right" if left else "left", va="bottom", transform=axes.get_xaxis_transform()
        )
        axes.set(xlim=(edges[0], edges[-1]), ylim=(0, max([1, *counts]) * 1.03), xlabel=drawing.text(x))
        drawing.counted(axes.yaxis)
        axes.text(-32 / (_WIDTH - 52), 1.13, drawing.text(y), ha="left", va="bottom", transform=axes.transAxes)
        return drawing.svg("scores", title, description)


def stacks(
    rows: Sequence[tuple[str, str, dict[str, int]]], total: int, names: dict[str, str], *, x: str, title: str, description: str
) -> str:
    """A bar a row, made of statuses; above it the row's label at the left and its remark at the right."""
    with matplotlib.rc_context(_SETTINGS):
        shown = [status for status in names if any(counts.get(status) for _, _, counts in rows)]
        drawing = _Drawing(_ROW * len(rows) + 90, (8, 12, 46, 44))
        axes = drawing.axes
        for place, (label, remark, counts) in enumerate(rows):
            done = 0.0
            for status in shown:
                share = 100 * counts.get(status, 0) / total
                if share:
                    axes.barh(place, share, 0.42, done, **_fill(status), clip_on=False)
                done += share
            axes.text(0, place - 0.26, drawing.text(label), va="bottom")
            axes.text(100, place - 0.26, drawing.text(remark), va="bottom", ha="right")
        axes.set(xlim=(0, 100), ylim=(len(rows) - 0.6, -0.75), yticks=[], xlabel=drawing.text(x))
        axes.spines.left.set_visible(False)
        patches = [Patch(label=drawing.text(names[status]), **_fill(status)) for status in shown]
        drawing.figure.legend(handles=patches, loc="upper left", ncols=4, frameon=False, handlelength=1.4, borderpad=0)
        return drawing.svg("tasks", title, description)


def ranking(rows: Sequence[tuple[str, int]], *, x: str, title: str, description: str) -> str:
    """A bar a row, its label above it, the longest first."""
    with matplotlib.rc_context(_SETTINGS):
        drawing = _Drawing(_ROW * len(rows) + 48, (8, 28, 4, 44))
        axes = drawing.axes
        for place, (label, count) in enumerate(rows):
            axes.barh(place, count, 0.36, color=_COLOURS["failed"], edgecolor=_INK, linewidth=0.6, clip_on=False)
            axes.text(0, place - 0.24, drawing.text(shortened(label, COLUMNS)), va="bottom")
            axes.annotate(str(count), (count, place), (4, 0), textcoords="offset points", va="center")
        axes.set(xlim=(0, max(1, *(count for _, count in rows))), ylim=(len(rows) - 0.6, -0.75), yticks=[])
        axes.set_xlabel(drawing.text(x))
        drawing.counted(axes.xaxis)
        return drawing.svg("misunderstandings", title, description)


def scatter(
    points: Sequence[tuple[float, float, str]],
    names: dict[str, str],
    level: float,
    *,
    x: str,
    y: str,
    title: str,
    description: str,
) -> str:
    """Points (x in percent, y from -1 to 1, kind of marker), with lines at 0 and at `level`."""
    with matplotlib.rc_context(_SETTINGS):
        drawing = _Drawing(310, (42, 14, 66, 44))
        axes = drawing.axes
        for height, style in ((0, "-"), (level, ":")):
            axes.axhline(height, color=_INK, linewidth=0.8, linestyle=style)
        for kind, name in names.items():
            chosen = [(a, b) for a, b, c in points if c == kind]
            if chosen:
                axes.scatter(
                    *zip(*chosen, strict=True), s=42, marker=MARKERS[kind], facecolor=_COLOURS[kind], edgecolor=_INK,
                    linewidth=0.6, clip_on=False, label=drawing.text(name), zorder=3,
                )  # fmt: skip
        left = min(80, *(10 * math.floor(a / 10) for a, _, _ in points))
        lowest = min(-0.2, *(math.floor(5 * b) / 5 for _, b, _ in points))
        axes.set(xlim=(left, 100), ylim=(lowest, 1), xlabel=drawing.text(x))
        drawing.counted(axes.xaxis)
        axes.text(-36 / (_WIDTH - 56), 1.06, drawing.text(y), ha="left", va="bottom", transform=axes.transAxes)
        drawing.figure.legend(loc="upper left", ncols=3, frameon=False, handletextpad=0.2, borderpad=0)
        return drawing.svg("checks", title, description)


def _fill(status: str) -> dict[str, Any]:
    return {"facecolor": _COLOURS[status], "edgecolor": _INK, "hatch": HATCHES[status], "linewidth": 0.6}


def _for_page(svg: str, name: str, title: str, description: str, texts: Sequence[str]) -> str:
    """Matplotlib's SVG without what only a file needs, its placeholders, colours and ids replaced."""
    root = ET.fromstring(svg)
    used = set(re.findall(r"(?:url\(|href=\")#([\w.]+)", svg))
    for parent in root.iter():
        parent.tag = parent.tag.rpartition("}")[2]
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    for element in root.iter():
        for key, value in element.attrib.items():
            element.set(key, re.sub(r"url\(#", f"url(#{name}-", value))
        style = element.attrib.pop("style", "")
        for key in ("fill", "stroke"):  # a variable works in a style, not in an attribute
            if key in element.attrib:
                style = f"{key}: {element.attrib.pop(key)}; {style}"
        style = re.sub(r"font-family: [^;]*;? ?", "", style)
        for word, colour in _COLOURS.items():
            style = style.replace(colour, f"var(--{word})")
        style = style.replace(_INK, "currentColor").strip("; ")
        if element.tag == "text":
            element.attrib.pop("transform", None)  # nothing is rotated
            style = f"fill: currentColor; {style}" if "fill:" not in style else style
            if match := re.fullmatch(r"t(\d+)x*", element.text or ""):
                element.text = texts[int(match[1])]
        if style:
            element.set("style", style)
        for key, value in list(element.attrib.items()):
            if key.endswith("}href"):
                element.set("href", f"#{name}-{element.attrib.pop(key)[1:]}")
            elif key == "id":
                del element.attrib[key]
                if value in used:
                    element.set("id", f"{name}-{value}")
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title {name}-desc"}
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ET.Element(tag, id=f"{name}-{tag}")
        element.text = text
        root.insert(place, element)
    return ET.tostring(root, encoding="unicode")
