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
    _check_rank(rank, W)
    U, sigma, Vt = np.linalg.svd(W, full_matrices=False)
    root = np.sqrt(sigma[:rank])  # an equal share for each factor, so that neither dwarfs the other
    return U[:, :rank] * root, root[:, None] * Vt[:rank]


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
    bottleneck = X @ a  # (n,)
    return X @ W0.T + alpha * np.outer(bottleneck, b)


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
    residual = rank1_forward(W0, b, a, alpha, X) - Y  # (n, d_out)
    loss = np.sum(residual**2) / (2 * n)
    # yhat_i = W0 x_i + alpha (a . x_i) b, so each example passes its residual on to b and to a.
    grad_b = alpha / n * residual.T @ (X @ a)
    grad_a = alpha / n * X.T @ (residual @ b)
    return float(loss), grad_b, grad_a


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
    if lr <= 0:
        raise ValueError(f"lr must be above 0, not {lr}")
    if steps < 0:
        raise ValueError(f"steps must be at least 0, not {steps}")
    b, a = np.zeros(W0.shape[0]), a0.copy()
    loss, grad_b, grad_a = rank1_gradients(W0, b, a, alpha, X, Y)
    losses = [loss]
    for _ in range(steps):
        b, a = b - lr * grad_b, a - lr * grad_a
        loss, grad_b, grad_a = rank1_gradients(W0, b, a, alpha, X, Y)
        losses.append(loss)
    return b, a, losses


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
    n, q = A.shape[1], B.shape[1]
    if x.size != n * q:
        raise ValueError(f"x must have {n} * {q} = {n * q} elements, not {x.size}")
    M = x.reshape(n, q)  # row j is what column j of A multiplies
    return (A @ (M @ B.T)).reshape(-1)


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
    _check_rank(i, A1)
    _check_rank(j, A2)
    overlap = _top_directions(A1, i) @ _top_directions(A2, j).T  # (i, j), cosines between the two bases
    return float(np.sum(overlap**2) / min(i, j))


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
    if W.shape != dW.shape:
        raise ValueError(f"W and dW must have the same shape, not {W.shape} and {dW.shape}")
    _check_rank(rank, dW)
    U, _, Vt = np.linalg.svd(dW, full_matrices=False)
    projected = U[:, :rank].T @ W @ Vt[:rank].T  # what W does in the update's own directions
    return float(np.linalg.norm(dW) / np.linalg.norm(projected))


def _check_rank(rank: int, matrix: ndarray) -> None:
    if not 1 <= rank <= min(matrix.shape):
        raise ValueError(f"must be from 1 to {min(matrix.shape)} for a matrix of shape {matrix.shape}, not {rank}")


def _top_directions(matrix: ndarray, k: int) -> ndarray:
    """The top k right singular vectors, as rows."""
    return np.linalg.svd(matrix, full_matrices=False)[2][:k]

# stub bb5d4ac3682444de
