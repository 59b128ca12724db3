"""Weight updates as matrices: data for week 2, the update of a fine-tuned model, adapters and their subspaces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy import ndarray

from course.labs import text, training
from course.labs.core import profile

Truncate = Callable[[ndarray, int], tuple[ndarray, ndarray]]
Updates = dict[str, ndarray]


# --- matrices made to order ---


def with_spectrum(rows: int, columns: int, values: ndarray, seed: int) -> ndarray:
    """A random matrix with given singular values: U diag(values) V^T, U and V from the QR of Gaussian matrices."""
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.normal(size=(size, len(values))))[0] for size in (rows, columns))
    matrix: ndarray = (U * values) @ V.T
    return matrix


def puzzle() -> ndarray:
    """The matrix of question 2.q1, shape (60, 40)."""
    values = [50, 30, 20, *np.linspace(6.2, 5.8, 10), *np.linspace(1.05, 0.95, 11)]
    return with_spectrum(60, 40, np.array(values), seed=21)


def regression(values: Sequence[float], seed: int, correlated: bool = False) -> tuple[ndarray, ndarray, ndarray]:
    """A layer and data that ask for an update with given singular values.

    Args:
        values: singular values of dW, 5 at most.

    Returns:
        (W0, X, Y) with Y = X (W0 + dW)^T exactly, and dW of shape (6, 5). X^T X / n is the identity, or, where inputs are
        correlated, has eigenvalues from 0.05 to 4.
    """
    rng = np.random.default_rng(seed)
    n, d_in, d_out = 40, 5, 6
    dW = with_spectrum(d_out, d_in, np.array(values), seed + 1)
    X = np.linalg.qr(rng.normal(size=(n, d_in)))[0] * np.sqrt(n)
    if correlated:
        X = X @ np.linalg.qr(rng.normal(size=(d_in, d_in)))[0] * np.sqrt(np.geomspace(0.05, 4, d_in))
    W0 = rng.normal(size=(d_out, d_in))
    return W0, X, X @ (W0 + dW).T


def question() -> tuple[ndarray, ndarray, ndarray]:
    """W0, X and Y of question 2.q2, as `regression` makes them; X^T X / n is the identity."""
    return regression([5, 3, 2, 1], seed=22)


# --- the update of a fine-tuned model ---


@dataclass
class Tuned:
    """A fine-tuned model.

    Attributes:
        updates: W - W0 of each matrix that was trained, float64, by its name.
        weights: W0 of the same.
        accuracy: exact match on the task's held-out examples.
    """

    model: Any
    tokenizer: Any
    examples: list[text.Example]
    updates: Updates
    weights: Updates
    accuracy: float

    def accuracy_with(self, updates: Updates) -> float:
        """The accuracy with other updates in place of those that training found."""
        self._put(updates)
        try:
            # As in training: beside a bf16 model the trained matrices are in float32.
            with torch.autocast(self.model.device.type, torch.bfloat16, enabled=profile() == "full"):
                return text.exact_match(self.model, self.tokenizer, self.examples)
        finally:
            self._put(self.updates)

    @torch.no_grad()
    def _put(self, updates: Updates) -> None:
        for name, update in updates.items():
            parameter = self.model.get_parameter(name)
            parameter.copy_(torch.as_tensor(self.weights[name] + update))


def finetune(task: str, train: int, test: int, *, steps: int, lr: float, batch_size: int, trained: str, seed: int = 0) -> Tuned:
    """Fine-tune the base model on a task: the matrices in its blocks train in full, everything else is frozen.

    Args:
        task: see `text.examples`.
        train, test: how many examples.
        trained: only matrices train whose name contains this.
        seed: of the training examples and the order of the batches.
    """
    model, tokenizer = text.base_model()
    model.requires_grad_(False)
    chosen = {name: p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name and trained in name}
    for parameter in chosen.values():
        parameter.requires_grad_(True)
        parameter.data = parameter.data.float()  # small updates are lost in bf16
    weights = _arrays(chosen)
    batches = text.length_batches(text.examples(task, train, seed), tokenizer, batch_size, seed)
    training.fit(model, batches, steps, lr, name=f"week02-{task}", seed=seed)
    updates = {name: after - weights[name] for name, after in _arrays(chosen).items()}
    tuned = Tuned(model, tokenizer, text.examples(task, test, seed, "test"), updates, weights, 0.0)
    tuned.accuracy = tuned.accuracy_with(updates)
    return tuned


def _arrays(parameters: dict[str, Any]) -> Updates:
    return {name: p.detach().cpu().double().numpy().copy() for name, p in parameters.items()}


# --- adapters and their subspaces ---


def adapter(task: str, train: int, rank: int, module: str, *, steps: int, lr: float, batch_size: int, seed: int) -> ndarray:
    """The factor A (rank x d_in) of one module after LoRA, by peft, on all linear layers.

    Args:
        module: the end of its name, such as "layers.1.mlp.down_proj".
        seed: of LoRA's start and of the order of the batches; the training examples are the same for every seed.
    """
    model, tokenizer = text.base_model()
    model = text.lora(model, rank, 2 * rank, "all-linear", seed=seed)
    batches = text.length_batches(text.examples(task, train), tokenizer, batch_size, seed)
    training.fit(model, batches, steps, lr, name=f"week02-rank{rank}-seed{seed}", seed=seed)
    name = next(name for name, _ in model.named_parameters() if f"{module}.lora_A" in name)
    factor: ndarray = model.get_parameter(name).detach().cpu().double().numpy()
    return factor


def similarity_map(truncate: Truncate, A1: ndarray, A2: ndarray, most: int) -> ndarray:
    """phi(A1, A2, i, j) of Hu et al., arXiv:2106.09685, section 7.2, for i and j from 1 to `most`; shape (most, most).

    The span of the top i right singular vectors is the row space of the best approximation of rank i, so the student's
    own truncation gives it.
    """
    first, second = ([_basis(truncate(A, rank)[1]) for rank in range(1, most + 1)] for A in (A1, A2))
    return np.array([[np.linalg.norm(U.T @ V) ** 2 / min(U.shape[1], V.shape[1]) for V in second] for U in first])


def _basis(rows: ndarray) -> ndarray:
    return np.linalg.qr(rows.T)[0]
