"""What the scripts of the threads share: small problems in double precision that a CPU solves in a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

Loss = Callable[[], Tensor]


def normal(seed: int, *shape: int) -> Tensor:
    """Standard normal numbers of NumPy's generator, which gives the same ones on every machine."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def update(seed: int, values: Sequence[float], rows: int, columns: int) -> Tensor:
    """A matrix with these singular values and random singular vectors."""
    left, right = (torch.linalg.qr(normal(seed + i, n, len(values)))[0] for i, n in enumerate((rows, columns)))
    return left * torch.tensor(values, dtype=torch.float64) @ right.T


def factors(seed: int, rank: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """LoRA's start: B zero, A uniform within 1 / sqrt(columns)."""
    A = torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, (rank, columns))) / columns**0.5
    return torch.zeros(rows, rank, dtype=torch.float64, requires_grad=True), A.requires_grad_()


def adam(
    parameters: Sequence[Tensor], loss: Loss, steps: int, lr: float, schedule: Callable[[int], float] | None = None
) -> float:
    """Adam; returns the loss behind the last step.

    Args:
        schedule: the factor of the rate at a step.
    """
    for _ in losses(parameters, loss, steps, lr, schedule):
        pass
    with torch.no_grad():
        return loss().item()


def losses(
    parameters: Sequence[Tensor], loss: Loss, steps: int, lr: float, schedule: Callable[[int], float] | None = None
) -> Iterator[float]:
    """Adam; yields each step's loss, taken before the step."""
    optimizer = torch.optim.Adam(parameters, lr=lr, eps=1e-12)
    for step in range(steps):
        if schedule:
            optimizer.param_groups[0]["lr"] = lr * schedule(step)
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        yield value.item()
