"""How the worked examples of the lecture notes (`course/weekNN/figures.py`) print their numbers: an equation a line.

With `--draw` such a script draws the figures instead, into the folder `figures` beside it or the one that is named.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

QUOTED: list[str] = []  # the readings behind the lines of `quote`, in order


def show(value: ArrayLike) -> str:
    """Four digits at most, all of a large number; a vector in brackets, a matrix with a semicolon between its rows."""
    array = np.asarray(value)
    if array.ndim:
        return "[" + (", " if array.ndim == 1 else "; ").join(show(part).strip("[]") for part in array) + "]"
    whole = array.dtype.kind in "iub" or abs(array) >= 1e4
    return f"{float(array):.0f}" if whole else f"{float(array) + 0.0:.4g}"


def say(name: str, value: ArrayLike) -> None:
    """One line of the output."""
    print(f"{name} = {show(value)}")


def quote(name: str, value: ArrayLike, reading: str) -> None:
    """One line of the output whose number was not computed but is a reading's.

    Args:
        reading: its id in `course/readings.toml`; the text must cite it.
    """
    QUOTED.append(reading)
    say(name, value)


def run(*sections: Callable[[], None], pictures: Sequence[Callable[[Path], None]] = (), **named: Callable[[], None]) -> None:
    """Print every section under its heading's slug, which is the function's name where no other is given.

    Args:
        pictures: each draws into a folder with `drawing.save`.
    """
    if "--draw" in sys.argv:
        rest = sys.argv[sys.argv.index("--draw") + 1 :]
        for picture in pictures:
            picture(Path(rest[0]) if rest else Path(sys.argv[0]).resolve().parent / "figures")
        return
    for name, section in ({section.__name__: section for section in sections} | named).items():
        print(f"[{name.replace('_', '-')}]")
        section()
