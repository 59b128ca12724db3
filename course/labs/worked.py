"""How the worked examples of the lecture notes (`course/weekNN/figures.py`) print their numbers: an equation a line."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike


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


def run(*sections: Callable[[], None], **named: Callable[[], None]) -> None:
    """Print every section under its heading's slug, which is the function's name where no other is given."""
    for name, section in ({section.__name__: section for section in sections} | named).items():
        print(f"[{name.replace('_', '-')}]")
        section()
