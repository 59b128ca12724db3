"""Decompositions and spans."""

from dataclasses import dataclass

import numpy as np


def demand_rank(rank, M):
    if rank < 1 or rank > min(M.shape):
        raise ValueError(f"{rank} is no rank for {M.shape}")


def decompose(M):
    """U, s, V with the singular vectors as columns."""
    U, s, Vh = np.linalg.svd(M)
    return U, s, Vh.T


@dataclass(frozen=True)
class Span:
    basis: np.ndarray  # orthonormal columns

    @classmethod
    def of(cls, M, dimension):
        demand_rank(dimension, M)
        return cls(decompose(M)[2][:, :dimension])

    def overlap(self, other):
        cosines = np.linalg.svd(self.basis.T @ other.basis, compute_uv=False)
        return sum(cosines**2) / len(cosines)
