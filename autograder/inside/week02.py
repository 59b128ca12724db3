"""Builders and probes of week 2, which has NumPy alone."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np

from autograder.inside.registry import builder, probe


@builder
def rank1_stand_ins() -> SimpleNamespace:
    """Stand-ins for a rank-1 layer's forward and gradients that do not work yet.

    The loss is quadratic in each of the two vectors, so a central difference has no error but rounding.
    """

    def forward(W0: np.ndarray, b: np.ndarray, a: np.ndarray, alpha: float, X: np.ndarray) -> np.ndarray:
        result: np.ndarray = X @ (W0 + alpha * b[:, None] * a).T
        return result

    def gradients(
        W0: np.ndarray, b: np.ndarray, a: np.ndarray, alpha: float, X: np.ndarray, Y: np.ndarray
    ) -> tuple[float, np.ndarray, np.ndarray]:
        def loss(b: np.ndarray, a: np.ndarray) -> float:
            return float(((forward(W0, b, a, alpha, X) - Y) ** 2).sum()) / (2 * len(X))

        units_b, units_a = np.eye(len(b)), np.eye(len(a))
        by_b = [(loss(b + unit, a) - loss(b - unit, a)) / 2 for unit in units_b]
        by_a = [(loss(b, a + unit) - loss(b, a - unit)) / 2 for unit in units_a]
        return loss(b, a), np.array(by_b), np.array(by_a)

    return SimpleNamespace(rank1_forward=forward, rank1_gradients=gradients)


@builder
def array(value: np.ndarray) -> np.ndarray:
    """An array that stays in the worker, so that it can be looked at again after a call."""
    return value


@probe
def sequence(values: Iterable[Any]) -> np.ndarray:
    """The numbers of any sequence of numbers."""
    return np.array([float(value) for value in values])


@probe
def allocated(function: Callable[..., Any], *args: Any) -> int:
    """How many bytes a call has allocated at its peak, beyond what there was before."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        function(*args)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
