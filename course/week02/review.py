"""Week 2, code review: this file has four bugs. Find each one, say what goes wrong because of it, and how to mend it.

It is meant to show that an update of low rank is well approximated by a small pair of factors, and to compare the
directions of two such updates. It runs without an error and prints plausible numbers. Style is not the point here:
look for what it computes, and for what its last line claims.
"""

from __future__ import annotations

import numpy as np

RANK, TRUE_RANK, SIZE = 8, 10, 200


def made_update(rng: np.random.Generator) -> np.ndarray:
    """An update that is a product of two Gaussian factors, so its rank is TRUE_RANK."""
    return rng.standard_normal((SIZE, TRUE_RANK)) @ rng.standard_normal((TRUE_RANK, SIZE))


def lora_factors(rng: np.random.Generator, update: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Factors of LoRA for this update."""
    rows, columns = update.shape
    return 0.01 * rng.standard_normal((rows, rank)), 0.01 * rng.standard_normal((rank, columns))


def best_error(update: np.ndarray, rank: int) -> float:
    """The least relative error that any product of this rank can have, in Frobenius norms."""
    spectrum = np.linalg.svd(update, compute_uv=False)
    return float(spectrum[rank:].sum() / spectrum.sum())


def top_directions(update: np.ndarray, count: int) -> np.ndarray:
    """The first right singular vectors, one in each column."""
    _, _, directions = np.linalg.svd(update)
    return directions[:, :count]


def shared(first: np.ndarray, second: np.ndarray, i: int, j: int) -> float:
    """The similarity of two subspaces: 1 if the smaller one lies in the larger one."""
    cosines = top_directions(first, i).T @ top_directions(second, j)
    return float(np.linalg.norm(cosines) ** 2 / max(i, j))


def main() -> None:
    rng = np.random.default_rng(0)
    update, other = made_update(rng), made_update(rng)
    B, A = lora_factors(rng, update, RANK)
    error = np.linalg.norm(update - B @ A) / np.linalg.norm(update)
    print(f"parameters saved: {1 - (A.size + B.size) / update.size:.0%}")
    print(f"error of LoRA: {error:.2f}, least possible: {best_error(update, RANK):.2f}")
    print(f"shared directions: {shared(update, other, 2, 6):.3f}")
    print(f"so rank {RANK} approximates a rank-{TRUE_RANK} update well with a fraction of its parameters")


if __name__ == "__main__":
    main()
