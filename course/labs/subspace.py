"""Training in a random subspace: a small network on scikit-learn's digits, in NumPy (week 2).

All weights of the network are one vector theta, so that theta = theta0 + P z is one line in the notebook.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from course.labs.core import progress

SIDE, CLASSES = 8, 10
TRAIN = 1200  # of 1797 pictures


class Data(NamedTuple):
    """Pictures of shape (n, 64), values from -1 to 1, and their labels, shape (n,)."""

    pictures: ndarray
    labels: ndarray


def digits(slant: float = 0.0) -> tuple[Data, Data]:
    """Digits for training and for testing, the same split at any slant.

    Args:
        slant: each row of a picture is shifted by this many pixels more than the one below it, by linear interpolation.
    """
    from sklearn.datasets import load_digits

    pictures, labels = load_digits(return_X_y=True)
    pictures = pictures.reshape(-1, SIDE, SIDE) / 8 - 1
    columns = np.arange(SIDE, dtype=float)
    for row in range(SIDE):
        source = columns - slant * ((SIDE - 1) / 2 - row)
        left = np.floor(source).astype(int)
        part = source - left
        padded = np.pad(pictures[:, row], ((0, 0), (SIDE, SIDE)), constant_values=-1)
        pictures[:, row] = (1 - part) * padded[:, left + SIDE] + part * padded[:, left + SIDE + 1]
    order = np.random.default_rng(0).permutation(len(labels))
    parts = order[:TRAIN], order[TRAIN:]
    train, test = (Data(pictures[part].reshape(-1, SIDE * SIDE), labels[part]) for part in parts)
    return train, test


class Network:
    """One hidden layer of ReLUs; its weights and biases are one vector theta of `size` numbers.

    Args:
        hidden: width of the hidden layer.
    """

    def __init__(self, hidden: int) -> None:
        self.shapes = [(SIDE * SIDE, hidden), (hidden,), (hidden, CLASSES), (CLASSES,)]
        self.size = sum(math.prod(shape) for shape in self.shapes)

    def start(self, seed: int) -> ndarray:
        """Random weights (He et al., arXiv:1502.01852, for the first layer) and biases of zero."""
        rng = np.random.default_rng(seed)
        parts = [rng.normal(0, math.sqrt(2 / shape[0]), shape) if len(shape) == 2 else np.zeros(shape) for shape in self.shapes]
        return np.concatenate([part.ravel() for part in parts])

    def gradient(self, theta: ndarray, data: Data) -> ndarray:
        """Gradient of the mean cross-entropy over all of the data, shape (size,)."""
        _, _, W2, _ = self._parts(theta)
        hidden, logits = self._forward(theta, data.pictures)
        delta = np.exp(logits - logits.max(1, keepdims=True))
        delta /= delta.sum(1, keepdims=True)
        delta[np.arange(len(delta)), data.labels] -= 1
        delta /= len(delta)
        back = (delta @ W2.T) * (hidden > 0)
        return np.concatenate([(data.pictures.T @ back).ravel(), back.sum(0), (hidden.T @ delta).ravel(), delta.sum(0)])

    def accuracy(self, theta: ndarray, data: Data) -> float:
        """The share of pictures that are classified rightly."""
        _, logits = self._forward(theta, data.pictures)
        return float((logits.argmax(1) == data.labels).mean())

    def _parts(self, theta: ndarray) -> list[ndarray]:
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])[:-1]
        return [part.reshape(shape) for part, shape in zip(np.split(theta, ends), self.shapes, strict=True)]

    def _forward(self, theta: ndarray, pictures: ndarray) -> tuple[ndarray, ndarray]:
        W1, b1, W2, b2 = self._parts(theta)
        hidden = np.maximum(pictures @ W1 + b1, 0)
        return hidden, hidden @ W2 + b2


def adam(gradient: Callable[[ndarray], ndarray], start: ndarray, steps: int, lr: float, desc: str = "") -> ndarray:
    """Where Adam arrives after some steps with its usual settings (Kingma and Ba, arXiv:1412.6980, algorithm 1).

    Args:
        desc: the name of a progress bar; none without a name.
    """
    x, mean, square = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for t in progress(range(1, steps + 1), desc) if desc else range(1, steps + 1):
        g = gradient(x)
        mean += 0.1 * (g - mean)
        square += 0.001 * (g * g - square)
        x -= lr * mean / (1 - 0.9**t) / (np.sqrt(square / (1 - 0.999**t)) + 1e-8)
    return x


def kronecker_factors(size: int, side: int, seed: int) -> tuple[ndarray, ndarray]:
    """Gaussian A (m x side) and B (p x side) with m p = size, m as close to p as it can be.

    Entries have the variance 1 / side, so every entry of (A kron B) z has the variance |z|^2 / side^2: that of P z with a
    dense Gaussian P (size x side^2) of the variance 1 / side^2.
    """
    rng = np.random.default_rng(seed)
    m = max(k for k in range(1, math.isqrt(size) + 1) if size % k == 0)
    A, B = (rng.normal(0, math.sqrt(1 / side), (rows, side)) for rows in (m, size // m))
    return A, B


def dense_matrix(size: int, dim: int, seed: int) -> ndarray:
    """Gaussian P (size x dim), entries of variance 1 / dim."""
    return np.random.default_rng(seed).normal(0, math.sqrt(1 / dim), (size, dim))


def d90(dims: list[int], accuracies: ndarray, full: float) -> int | None:
    """The smallest dimension whose accuracy reaches 90 % of `full` (Li et al., arXiv:1804.08838), None if none does."""
    return next((dim for dim, reached in zip(dims, accuracies, strict=True) if reached >= 0.9 * full), None)
