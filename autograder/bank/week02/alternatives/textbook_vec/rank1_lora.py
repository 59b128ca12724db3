"""Textbook notation: vec runs through columns, examples are columns, subspaces are projectors, triplets by deflation."""

import numpy as np


def triplet(M):
    """The top singular triplet by power iteration."""
    v = np.cos(np.arange(1.0, M.shape[1] + 1))
    for _ in range(400):
        w = M.T @ (M @ v)
        size = np.linalg.norm(w)
        if size == 0:
            return 0.0, np.zeros(M.shape[0]), np.zeros(M.shape[1])
        v = w / size
    u = M @ v
    sigma = np.linalg.norm(u)
    return (sigma, u / sigma, v) if sigma > 0 else (0.0, 0 * u, 0 * v)


def triplets(M, count):
    rest, found = M.copy(), []
    for _ in range(count):
        sigma, u, v = triplet(rest)
        found.append((sigma, u, v))
        rest = rest - sigma * np.outer(u, v)
    return found


def check_rank(shape, *ranks):
    for rank in ranks:
        if rank < 1 or any(rank > side for side in shape):
            raise ValueError(f"{rank} does not fit {shape}")


def truncated_svd(W, rank):
    check_rank(W.shape, rank)
    B, A = np.zeros((W.shape[0], rank)), np.zeros((rank, W.shape[1]))
    for k, (sigma, u, v) in enumerate(triplets(W, rank)):
        B[:, k] = np.sqrt(sigma) * u
        A[k] = np.sqrt(sigma) * v
    return B, A


def rank1_forward(W0, b, a, alpha, X):
    dW = alpha * b.reshape(-1, 1) @ a.reshape(1, -1)
    return ((W0 + dW) @ X.T).T


def rank1_gradients(W0, b, a, alpha, X, Y):
    x, y, n = X.T, Y.T, X.shape[0]
    W = W0 + alpha * np.outer(b, a)
    Sxx, Sxy = x @ x.T / n, y @ x.T / n  # second moments
    loss = 0.5 * (np.trace(W @ Sxx @ W.T) - 2 * np.trace(W @ Sxy.T) + np.trace(y @ y.T) / n)
    by_weight = W @ Sxx - Sxy
    return loss, alpha * by_weight.dot(a), alpha * by_weight.T.dot(b)


def train_rank1(W0, X, Y, alpha, lr, steps, a0):
    if lr <= 0 or steps <= -1:
        raise ValueError("lr or steps")

    def at(point):
        return rank1_gradients(W0, *point, alpha, X, Y)

    path = [(np.zeros(W0.shape[0]), a0)]
    for _ in range(steps):
        gradient = at(path[-1])[1:]
        path.append(tuple(old - lr * slope for old, slope in zip(path[-1], gradient)))
    return (*path[-1], tuple(at(point)[0] for point in path))


def kron_matvec(A, B, x):
    q, n = B.shape[1], A.shape[1]
    if x.shape[0] != q * n:
        raise ValueError("x has not n q elements")
    M = np.reshape(x, (q, n), order="F")
    return np.ravel(B @ M @ A.T, order="F")


def projector(vectors):
    V = np.array(vectors)
    return V.T @ V


def grassmann_similarity(A1, A2, i, j):
    check_rank(A1.shape, i)
    check_rank(A2.shape, j)
    P1 = projector([v for _, _, v in triplets(A1, i)])
    P2 = projector([v for _, _, v in triplets(A2, j)])
    return np.trace(P1 @ P2) / np.minimum(i, j)


def amplification_factor(W, dW, rank):
    if W.shape != dW.shape:
        raise ValueError("shapes")
    check_rank(W.shape, rank)
    parts = triplets(dW, rank)
    left, right = projector([u for _, u, _ in parts]), projector([v for _, _, v in parts])
    return np.linalg.norm(dW) / np.linalg.norm(left @ W @ right)
