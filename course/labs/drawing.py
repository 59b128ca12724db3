"""Draws the figures of the lecture notes (`course/weekNN/figures.py --draw`): SVG in both languages, for print and for the dark.

Texts stay texts, in the reader's own fonts, so a figure is drawn once and its words are exchanged for Chinese. The lines take the
colour of the page's scheme; the series' colours are readable on either.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import rcsetup
from matplotlib.figure import Figure

INK = "#010203"  # becomes the colour of the page's text
COLOURS = ("#3b82c4", "#d9822b", "#2a9d6f", "#a86bb8", "#d1495b", "#7f8790")
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "lecture", "font.size": 11, "text.color": INK, "axes.edgecolor": INK,
    "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.prop_cycle": rcsetup.cycler(color=COLOURS), "axes.linewidth": 0.8, "lines.linewidth": 1.8, "legend.frameon": False,
    "axes.grid": False, "figure.facecolor": "none", "axes.facecolor": "none", "mathtext.default": "regular",
}  # fmt: skip
_SCHEME = "svg { color: #222; } @media (prefers-color-scheme: dark) { svg { color: #ddd; } }"
_NAMESPACE = "{http://www.w3.org/2000/svg}"
_WORD = re.compile(r"[A-Za-z]{4,}|[a-z]{3,}")


def canvas(width: float = 6.4, height: float = 3.4, columns: int = 1, rows: int = 1) -> tuple[Figure, Any]:
    """An empty figure in the course's style, and its axes: one, or an array of them. Sizes in inches."""
    matplotlib.rcParams.update(_SETTINGS)
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns)


def save(figure: Figure, folder: Path, name: str, zh: Mapping[str, str]) -> None:
    """Write `name`.svg and `name`.zh.svg.

    Args:
        zh: the Chinese of every text in the figure that has a word in it; numbers and symbols need none. Mathematics between
            dollar signs would need fonts that readers lack: write Unicode instead, such as σ² or ΔW.

    Raises:
        ValueError: an axis has no label, or a text no translation.
    """
    for axes in figure.axes:
        if axes.axison and not (axes.get_xlabel() and axes.get_ylabel()):
            raise ValueError(f"{name}: label both axes, with their units")
    buffer = io.StringIO()
    with matplotlib.rc_context(_SETTINGS):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, words in (("", None), (".zh", zh)):
        (folder / f"{name}{suffix}.svg").write_text(_page(buffer.getvalue(), name, words) + "\n", encoding="utf-8")


def _page(svg: str, name: str, zh: Mapping[str, str] | None) -> str:
    ET.register_namespace("", _NAMESPACE.strip("{}"))
    ET.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ET.fromstring(svg)
    for child in list(root):
        if child.tag == f"{_NAMESPACE}metadata":
            root.remove(child)
    for element in root.iter():
        style = element.attrib.get("style", "")
        style = re.sub(r"font: ([\d.]+px) [^;]*", r"font: \1 system-ui, sans-serif", style)
        style = re.sub(r"font-family: [^;]*", "font-family: system-ui, sans-serif", style)
        style = re.sub(r"font-size: ([\d.]+px)", r"font-size: \1", style).replace(INK, "currentColor")
        if element.tag == f"{_NAMESPACE}text":
            style = f"fill: currentColor; {style}" if "fill:" not in style else style
            text = "".join(element.itertext())
            if zh is not None and text in zh:
                element.text = zh[text]
            elif zh is not None and _WORD.search(text):
                raise ValueError(f"{name}: no Chinese for {text!r}")
        if style:
            element.set("style", style.strip("; "))
    scheme = ET.Element(f"{_NAMESPACE}style")
    scheme.text = _SCHEME
    root.insert(0, scheme)
    return ET.tostring(root, encoding="unicode")
