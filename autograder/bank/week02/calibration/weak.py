"""Week 2: low rank by hand, with NumPy alone: the truncated SVD, a rank-1 LoRA layer, Kronecker products, subspaces.

Complete the tasks below, in any order; `autograder check 2` tells how far you are and `autograder check 2.2` checks
one task alone. Each docstring is the contract: the checks use the names, shapes and errors that stand there and
nothing else, so everything else is yours to choose. Helper functions and helper modules beside this file are welcome.
Arrays are float64. No function changes its arguments.

Convention: y = W0 x + (alpha / rank) B A x, with A (rank x in_features) and B (out_features x rank). Inputs are rows
here, X (n x in_features), so Y = X W0^T + (alpha / rank) X A^T B^T. Source: Hu et al., "LoRA: Low-Rank Adaptation of
Large Language Models", arXiv:2106.09685, section 4.1.

Task   points  minutes  difficulty  importance (both from 1 to 5)
2.1        15       25           1           4
2.2        25       45           3           5
2.3        15       30           2           5
2.4        15       30           2           3
2.5   stretch       25           3           3
2.6   stretch       15           2           2
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray


def truncated_svd(W: ndarray, rank: int) -> tuple[ndarray, ndarray]:
    """Task 2.1: factors (B, A) whose product B A is the best approximation of W of rank at most `rank`.

    The error ||W - B A||_F^2 is the sum of the discarded squared singular values, and no product of such factors has
    a smaller one (Eckart and Young, 1936). How the singular values are shared between B and A, and the signs, are
    yours.

    Args:
        W: shape (m, n), of any rank, also one below `rank`; it may be all zeros.
        rank: 1 <= rank <= min(m, n).

    Returns:
        B, shape (m, rank), and A, shape (rank, n).

    Raises:
        ValueError: if rank is out of its range.
    """
    m = W.shape[0]
    n = W.shape[1]
    k = 0
    if m < n:
        k = m
    elif n < m:
        k = n
    else:
        k = m
    if rank <= 0:
        raise ValueError
    elif rank > k:
        raise ValueError
    else:
        r = np.linalg.svd(W, full_matrices=False)
        x = np.zeros((m, rank))
        y = np.zeros((rank, n))
        for i in range(rank):
            for j in range(m):
                x[j, i] = r[0][j, i] * r[1][i]
        for i in range(rank):
            y[i] = r[2][i]
        # print(np.linalg.norm(W - x @ y))
        # print(r[1])
        return x, y


def rank1_forward(W0: ndarray, b: ndarray, a: ndarray, alpha: float, X: ndarray) -> ndarray:
    """Task 2.2: the output of a rank-1 LoRA layer, Y = X (W0 + alpha b a^T)^T.

    How it is computed is yours; b a^T, which is as large as W0, need not be formed.

    Args:
        W0: the frozen weight, shape (d_out, d_in).
        b: the only column of B, shape (d_out,).
        a: the only row of A, shape (d_in,).
        alpha: the scaling is alpha / rank, and rank is 1.
        X: inputs as rows, shape (n, d_in).

    Returns:
        Y, shape (n, d_out).
    """
    n = len(X)
    out = np.zeros((n, len(W0)))
    for i in range(n):
        t = 0.0
        for j in range(len(a)):
            t = t + a[j] * X[i, j]
        o1 = W0.dot(X[i])
        o2 = b * t
        o2 = o2 * alpha
        out[i] = o1 + o2
    return out


def rank1_gradients(W0: ndarray, b: ndarray, a: ndarray, alpha: float, X: ndarray, Y: ndarray) -> tuple[float, ndarray, ndarray]:
    """Task 2.2: the loss of a rank-1 LoRA layer and its gradients by b and a, derived by hand.

    The loss is L = 1 / (2 n) sum_i ||yhat_i - y_i||^2, with Yhat the output of the layer: a mean over the n examples
    and a sum over the d_out outputs.

    Args:
        W0, b, a, alpha, X: as in rank1_forward.
        Y: targets as rows, shape (n, d_out).

    Returns:
        L (a number), dL/db of shape (d_out,), and dL/da of shape (d_in,).
    """
    n = len(X)
    loss = 0.0
    gb = np.zeros(len(b))
    ga = np.zeros(len(a))
    # out = rank1_forward(W0, b, a, alpha, X)
    for i in range(n):
        t = 0.0
        for j in range(len(a)):
            t = t + a[j] * X[i, j]
        o1 = W0.dot(X[i])
        o2 = b * t
        o2 = o2 * alpha
        d = o1 + o2 - Y[i]
        loss = loss + (d**2).sum()
        gb = gb + d * t * alpha
        ga = ga + X[i] * (d * b).sum() * alpha
    loss = loss / n
    loss = loss / 2
    gb = gb / n
    ga = ga / n
    # check with finite differences
    # e = 1e-6
    # for j in range(len(b)):
    #     bb = b.copy(); bb[j] += e
    #     print(gb[j], j)
    return loss, gb, ga


def train_rank1(
    W0: ndarray, X: ndarray, Y: ndarray, alpha: float, lr: float, steps: int, a0: ndarray
) -> tuple[ndarray, ndarray, list[float]]:
    """Task 2.3: train a rank-1 LoRA from its start, by full-batch gradient descent on the loss of task 2.2.

    LoRA's start is b = 0 and a not zero, so the first step moves b only. Each step takes both gradients at the
    current point, then moves both vectors: b <- b - lr dL/db, a <- a - lr dL/da. W0 stays as it is. You may call your
    functions of task 2.2: where they do not work yet, the checks of this task put working ones in their place.

    Args:
        W0, X, Y, alpha: as in rank1_gradients.
        lr: learning rate, lr > 0.
        steps: number of steps, steps >= 0.
        a0: where a starts, shape (d_in,); it is not changed.

    Returns:
        b of shape (d_out,), a of shape (d_in,), and the losses, any sequence of steps + 1 numbers: before the first
        step and after each one.

    Raises:
        ValueError: if lr or steps is out of its range.
    """
    if not lr > 0:
        raise ValueError
    if steps < 0:
        raise ValueError
    b = np.zeros(len(W0))
    a = a0.copy()
    l = []
    best = 1e10
    if steps == 0:
        x = rank1_gradients(W0, b, a, alpha, X, Y)
        l.append(x[0])
        return b, a, l
    else:
        for s in range(steps):
            x = rank1_gradients(W0, b, a, alpha, X, Y)
            l.append(x[0])
            if x[0] < best:
                best = x[0]
            b = b - lr * x[1]
            a = a - lr * x[2]
            # if s % 10 == 0:
            #     print(s, x[0], best)
        x = rank1_gradients(W0, b, a, alpha, X, Y)
        l.append(x[0])
        return b, a, l


def kron_matvec(A: ndarray, B: ndarray, x: ndarray) -> ndarray:
    """Task 2.4: the product (A kron B) x, without forming the Kronecker product.

    A kron B, shape (m p, n q), has the blocks A[i, j] B, as in np.kron. NumPy's `reshape` runs through the rows first,
    while the textbook's vec runs through the columns: (A kron B) vec(M) = vec(B M A^T) holds for the latter (Horn and
    Johnson, "Topics in Matrix Analysis", 1991, lemma 4.3.1).

    Args:
        A: shape (m, n).
        B: shape (p, q).
        x: shape (n q,).

    Returns:
        Shape (m p,). What the call allocates stays below a quarter of the 8 m p n q bytes of A kron B, wherever m, n,
        p and q are all 16 or more; a check measures it (Python's tracemalloc).

    Raises:
        ValueError: if x has not n q elements.
    """
    m = A.shape[0]
    n = A.shape[1]
    p = B.shape[0]
    q = B.shape[1]
    if len(x) != n * q:
        raise ValueError
    # return np.kron(A, B) @ x   # too much memory!!
    y = np.zeros(m * p)
    l = []
    for j in range(n):
        t = B.dot(x[j * q : j * q + q])
        l.append(t)
    for i in range(m):
        for j in range(n):
            y[i * p : i * p + p] = y[i * p : i * p + p] + A[i, j] * l[j]
    return y


def grassmann_similarity(A1: ndarray, A2: ndarray, i: int, j: int) -> float:
    """Task 2.5 (stretch): how much of one subspace lies in another.

    phi(A1, A2, i, j) = ||U1^T U2||_F^2 / min(i, j), where U1 holds the top i right singular vectors of A1 as columns
    and U2 the top j of A2. It is 1 where the smaller span lies in the larger one and 0 where they are orthogonal.
    Source: Hu et al., arXiv:2106.09685, section 7.2, equation 4 (there A is r x d, and so it is here).

    Args:
        A1: shape (r1, d). Its i-th singular value is above zero and above the next one, so that the span is defined.
        A2: shape (r2, d), likewise for j.
        i: 1 <= i <= min(r1, d).
        j: 1 <= j <= min(r2, d).

    Returns:
        A number in [0, 1], up to rounding.

    Raises:
        ValueError: if i or j is out of its range.
    """
    k = 0
    if A1.shape[0] < A1.shape[1]:
        k = A1.shape[0]
    else:
        k = A1.shape[1]
    if i < 1 or i > k:
        raise ValueError
    k = 0
    if A2.shape[0] < A2.shape[1]:
        k = A2.shape[0]
    else:
        k = A2.shape[1]
    if j < 1 or j > k:
        raise ValueError
    x = np.linalg.svd(A1)[2]
    y = np.linalg.svd(A2)[2]
    s = 0
    for u in range(i):
        for v in range(j):
            s = s + (x[u] * y[v]).sum() ** 2
    if i < j:
        return s / i
    else:
        return s / j


def amplification_factor(W: ndarray, dW: ndarray, rank: int) -> float:
    """Task 2.6 (stretch): how much an update amplifies what W has in the update's own directions.

    ||dW||_F / ||U^T W V||_F, where U and V hold the top `rank` left and right singular vectors of dW as columns.
    ||dW||_F is the norm of all of dW, whatever `rank` is. Source: Hu et al., arXiv:2106.09685, section 7.3 (W projected
    onto the subspace of dW, not the other way round).

    Args:
        W: shape (m, n). Its projection is not zero.
        dW: shape (m, n). Its singular value number `rank` is above zero and above the next one.
        rank: 1 <= rank <= min(m, n).

    Returns:
        A number above 0.

    Raises:
        ValueError: if rank is out of its range, or the shapes differ.
    """
    if W.shape[0] != dW.shape[0]:
        raise ValueError
    if W.shape[1] != dW.shape[1]:
        raise ValueError
    k = 0
    if W.shape[0] < W.shape[1]:
        k = W.shape[0]
    else:
        k = W.shape[1]
    if rank < 1 or rank > k:
        raise ValueError
    r = np.linalg.svd(dW)
    s = 0
    for i in range(rank):
        for j in range(rank):
            s = s + r[0][:, i].dot(W).dot(r[2][j]) ** 2
    s2 = (dW * dW).sum()
    return (s2**0.5) / (s**0.5)

# stub bb5d4ac3682444de
