"""What a wrong array shows: where it differs, and how it is related to the right one.

Facts about the two arrays, never a guess at the cause: "yours is 4 times what is expected, and 4 is rank".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

_RTOL = 1e-6  # as for traces: what rounding in single precision leaves
_NUMBER = re.compile(r"(\w+)=(-?\d+(?:\.\d+)?)(?![\w.])")


@dataclass(frozen=True, slots=True)
class Relation:
    """How a wrong array is related to the right one: a sentence, and the factor between the two where there is one."""

    sentence: str
    factor: float | None = None

    def told(self, rung: str) -> str:
        """The sentence, with the number of the rung ("rank=4") that the factor, or its inverse, is."""
        if self.factor is None:
            return self.sentence
        for name, value in _NUMBER.findall(rung):
            number = float(value)
            if number in (0, 1, -1):
                continue
            if _near(self.factor, number):
                return f"{self.sentence}, and {value} is {name}"
            if _near(self.factor * number, 1):
                return f"{self.sentence}, which is 1 / {value}, and {value} is {name}"
        return self.sentence


def relation(got: np.ndarray, want: np.ndarray, known: np.ndarray | None = None) -> Relation | None:
    """How `got` comes out of `want`, if it does so simply.

    Args:
        known: the part of `want` that the submission is given (the frozen layer's output, say): what it adds to that is compared.
    """
    if got.size < 2 or got.dtype.kind not in "fiu" or want.dtype.kind not in "fiu":
        return None
    got, want = got.astype(np.float64), want.astype(np.float64)
    if not (np.isfinite(got).all() and np.isfinite(want).all()):
        return None
    scale = float(np.abs(want).max())
    with np.errstate(all="ignore"):
        if known is not None and known.shape == want.shape:
            return _related(got - known, want - known, "what your code adds", scale)
        return _related(got, want, "yours", scale)


def place(wrong: np.ndarray) -> str:
    """Where an array's wrong elements are, if they share an index: ", all in [:, 2]"; else nothing."""
    if wrong.ndim < 2 or wrong.sum() < 2:
        return ""
    shared = [np.unique(index) for index in np.nonzero(wrong)]
    axes = [str(int(s[0])) if len(s) == 1 and length > 1 else ":" for s, length in zip(shared, wrong.shape, strict=True)]
    return f", all in [{', '.join(axes)}]" if set(axes) != {":"} else ""


def _related(got: np.ndarray, want: np.ndarray, name: str, scale: float) -> Relation | None:
    def same(a: np.ndarray, b: np.ndarray) -> bool:
        return bool(np.abs(a - b).max() <= _RTOL * max(scale, 1e-30))

    zero = np.zeros_like(want)
    if same(want, zero):
        return None
    if same(got, want):
        return Relation(f"{name} agrees with it to six digits, and the check asks for more")
    if same(got, zero):
        return Relation(f"{name} is 0 everywhere" if name == "yours" else "your code adds nothing")
    if same(got, -want):
        return Relation(f"{name} has the opposite sign everywhere")
    factor = float(np.vdot(want, got) / np.vdot(want, want))
    if factor and same(got, factor * want):
        return Relation(f"{name} is {factor:.6g} times what is expected", factor)
    offset = float((got - want).flat[0])
    if abs(offset) < scale / _RTOL and same(got - want, np.full_like(want, offset)):  # a larger one would swallow the rest
        return Relation(f"{name} minus what is expected is {offset:.6g} everywhere")
    if got.ndim == 2 and got.shape[0] == got.shape[1] and same(got, want.T):
        return Relation(f"{name} is the transpose of what is expected")
    if same(np.sort(got, axis=None), np.sort(want, axis=None)):
        return Relation(f"{name} has the expected numbers in another order")
    return None


def _near(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-5 * abs(b)
