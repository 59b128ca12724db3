"""Classes of a helper module beside this file."""

from spans import Span, decompose, demand_rank

import numpy as np


class Rank1:
    """A layer with its factors; `fit` knows the data."""

    def __init__(self, W0, b, a, alpha):
        self.W0, self.b, self.a, self.alpha = W0, b, a, alpha

    def __call__(self, X):
        hidden = (X @ self.a)[:, np.newaxis]
        return X @ self.W0.T + self.alpha * hidden * self.b

    def fit(self, X, Y):
        count = np.shape(X)[0]
        error = (self(X) - Y) / count
        loss = count * np.vdot(error, error) / 2
        by_b = self.alpha * error.T @ (X @ self.a)
        by_a = self.alpha * X.T @ (error @ self.b)
        return loss, by_b, by_a

    def moved(self, lr, by_b, by_a):
        return Rank1(self.W0, self.b - lr * by_b, self.a - lr * by_a, self.alpha)


def truncated_svd(W, rank):
    demand_rank(rank, W)
    U, s, V = decompose(W)
    root = np.sqrt(s[:rank])
    return U[:, :rank] @ np.diag(root), np.diag(root) @ V[:, :rank].T


def rank1_forward(W0, b, a, alpha, X):
    return Rank1(W0, b, a, alpha)(X)


def rank1_gradients(W0, b, a, alpha, X, Y):
    return Rank1(W0, b, a, alpha).fit(X, Y)


def train_rank1(W0, X, Y, alpha, lr, steps, a0):
    if lr <= 0:
        raise ValueError("lr")
    if steps < 0:
        raise ValueError("steps")
    layer = Rank1(W0, np.zeros_like(W0[:, 0]), a0, alpha)
    history = [layer.fit(X, Y)]
    for _ in range(steps):
        layer = layer.moved(lr, *history[-1][1:])
        history.append(layer.fit(X, Y))
    return layer.b, layer.a, [loss for loss, *_ in history]


def kron_matvec(A, B, x):
    n, q = A.shape[1], B.shape[1]
    if x.size != n * q:
        raise ValueError(f"x has {x.size} elements")
    blocks = np.split(x, n)
    return np.concatenate([B @ sum(a * block for a, block in zip(row, blocks)) for row in A])


def grassmann_similarity(A1, A2, i, j):
    return Span.of(A1, i).overlap(Span.of(A2, j))


def amplification_factor(W, dW, rank):
    if W.shape != dW.shape:
        raise ValueError("W and dW do not fit")
    demand_rank(rank, W)
    U, s, V = decompose(dW)
    return np.linalg.norm(s) / np.linalg.norm(U[:, :rank].T @ W @ V[:, :rank])
