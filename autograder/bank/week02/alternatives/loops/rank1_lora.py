"""Sums are written out as loops; the SVD is Jacobi's: columns are rotated in pairs until they are orthogonal."""

import math

import numpy as np


def jacobi(M):
    """The columns U * s of M's thin SVD, largest first, and V with the right singular vectors as columns."""
    columns, V = M.copy(), np.eye(M.shape[1])
    for _ in range(60):
        turned = False
        for p in range(M.shape[1] - 1):
            for q in range(p + 1, M.shape[1]):
                x, y = columns[:, p], columns[:, q]
                dot, xx, yy = float(x @ y), float(x @ x), float(y @ y)
                if abs(dot) <= 1e-15 * math.sqrt(xx * yy) or abs(dot) < 1e-280:
                    continue
                turned = True
                angle = 0.5 * math.atan2(2 * dot, xx - yy)
                turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
                columns[:, [p, q]] = columns[:, [p, q]] @ turn
                V[:, [p, q]] = V[:, [p, q]] @ turn
        if not turned:
            break
    order = sorted(range(M.shape[1]), key=lambda k: -np.linalg.norm(columns[:, k]))
    return columns[:, order], V[:, order]


def truncated_svd(W, rank):
    m, n = W.shape
    if rank < 1 or rank > m or rank > n:
        raise ValueError(f"rank {rank}")
    columns, V = jacobi(W)
    return columns[:, :rank].copy(), V[:, :rank].T.copy()


def rank1_forward(W0, b, a, alpha, X):
    rows = []
    for x in X:
        hidden = sum(float(a[k]) * float(x[k]) for k in range(len(a)))
        rows.append([float(w @ x) + alpha * hidden * float(bo) for w, bo in zip(W0, b)])
    return np.array(rows)


def rank1_gradients(W0, b, a, alpha, X, Y):
    n = len(X)
    loss, db, da = 0.0, np.zeros(len(b)), np.zeros(len(a))
    predictions = rank1_forward(W0, b, a, alpha, X)
    for x, yhat, y in zip(X, predictions, Y):
        e = yhat - y
        loss += float(e @ e) / (2 * n)
        db += alpha * float(a @ x) * e / n
        da += alpha * float(e @ b) * x / n
    return loss, db, da


def train_rank1(W0, X, Y, alpha, lr, steps, a0):
    if not lr > 0:
        raise ValueError("the learning rate must be above 0")
    if steps < 0:
        raise ValueError("there are no negative steps")
    a = np.array(a0)
    b = np.zeros(W0.shape[0])
    losses = []
    while True:
        loss, db, da = rank1_gradients(W0, b, a, alpha, X, Y)
        losses.append(loss)
        if len(losses) == steps + 1:
            return b, a, losses
        b -= lr * db
        a -= lr * da


def kron_matvec(A, B, x):
    m, n = A.shape
    p, q = B.shape
    if x.size != n * q:
        raise ValueError("x has the wrong length")
    y = np.zeros(m * p)
    for j in range(n):
        piece = B @ x[j * q : (j + 1) * q]
        for i in range(m):
            y[i * p : (i + 1) * p] += A[i, j] * piece
    return y


def grassmann_similarity(A1, A2, i, j):
    if i < 1 or i > min(A1.shape) or j < 1 or j > min(A2.shape):
        raise ValueError("there are no such subspaces")
    V1, V2 = jacobi(A1)[1], jacobi(A2)[1]
    total = 0.0
    for k in range(i):
        for l in range(j):
            total += float(V1[:, k] @ V2[:, l]) ** 2
    return total / (i if i < j else j)


def amplification_factor(W, dW, rank):
    if W.shape != dW.shape:
        raise ValueError("W and dW differ in shape")
    if not 1 <= rank <= min(W.shape):
        raise ValueError("there are no so many directions")
    scaled, V = jacobi(dW)
    total = 0.0
    for k in range(rank):
        u = scaled[:, k] / np.linalg.norm(scaled[:, k])
        for l in range(rank):
            total += float(u @ W @ V[:, l]) ** 2
    return math.sqrt(float((dW * dW).sum()) / total)
