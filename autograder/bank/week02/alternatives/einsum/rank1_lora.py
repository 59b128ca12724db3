"""Einsum notation; singular vectors are eigenvectors of Gram matrices."""

import numpy as np


def _right(M, k):
    """The top k right singular vectors of M, as rows."""
    return np.linalg.eigh(np.einsum("ri,rj->ij", M, M))[1][:, ::-1].T[:k]


def truncated_svd(W, rank):
    if rank < 1 or rank > W.shape[0] or rank > W.shape[1]:
        raise ValueError("rank")
    A = _right(W, rank)
    return np.einsum("ij,kj->ik", W, A), A


def rank1_forward(W0, b, a, alpha, X):
    return np.einsum("ni,oi->no", X, W0) + alpha * np.einsum("ni,i,o->no", X, a, b)


def rank1_gradients(W0, b, a, alpha, X, Y):
    error = rank1_forward(W0, b, a, alpha, X) - Y
    scale = alpha / X.shape[0]
    loss = np.einsum("no,no->", error, error) / (2 * X.shape[0])
    return loss, scale * np.einsum("no,ni,i->o", error, X, a), scale * np.einsum("no,o,ni->i", error, b, X)


def train_rank1(W0, X, Y, alpha, lr, steps, a0):
    if lr <= 0:
        raise ValueError("lr must be positive")
    if steps < 0:
        raise ValueError("steps must not be negative")
    theta = np.concatenate((np.zeros(W0.shape[0]), a0))
    split = W0.shape[0]
    losses = np.empty(steps + 1)
    for k in range(steps + 1):
        losses[k], db, da = rank1_gradients(W0, theta[:split], theta[split:], alpha, X, Y)
        if k < steps:
            theta -= lr * np.concatenate((db, da))
    return theta[:split], theta[split:], losses


def kron_matvec(A, B, x):
    if len(x) != A.shape[1] * B.shape[1]:
        raise ValueError("x does not fit")
    return np.einsum("pq,mq->mp", B, np.einsum("mn,nq->mq", A, x.reshape(A.shape[1], -1))).reshape(-1)


def grassmann_similarity(A1, A2, i, j):
    if not (0 < i <= min(A1.shape) and 0 < j <= min(A2.shape)):
        raise ValueError("i or j")
    cosines = np.einsum("ad,bd->ab", _right(A1, i), _right(A2, j))
    return np.einsum("ab,ab->", cosines, cosines) / min(i, j)


def amplification_factor(W, dW, rank):
    if W.shape != dW.shape or rank not in range(1, min(W.shape) + 1):
        raise ValueError("shapes or rank")
    inside = np.einsum("am,mn,bn->ab", _right(dW.T, rank), W, _right(dW, rank))
    return np.sqrt(np.einsum("mn,mn->", dW, dW) / np.einsum("ab,ab->", inside, inside))
