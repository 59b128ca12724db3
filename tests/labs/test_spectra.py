"""Matrices made to order, the update of a fine-tuned model, and the similarity of subspaces."""

from __future__ import annotations

import numpy as np
import pytest

from course.labs import spectra
from tests.conftest import ROOT


def by_svd(matrix: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    U, S, Vh = np.linalg.svd(matrix, full_matrices=False)
    return U[:, :rank], S[:rank, None] * Vh[:rank]


def test_a_matrix_has_the_spectrum_that_was_ordered() -> None:
    matrix = spectra.with_spectrum(9, 7, np.array([4.0, 2.0, 0.5]), seed=1)
    np.testing.assert_allclose(np.linalg.svd(matrix, compute_uv=False), [4, 2, 0.5, 0, 0, 0, 0], atol=1e-12)


@pytest.mark.parametrize("correlated", [False, True])
def test_the_data_ask_for_the_ordered_update(correlated: bool) -> None:
    W0, X, Y = spectra.regression([3, 1.5, 0.5], seed=4, correlated=correlated)
    wanted = np.linalg.lstsq(X, Y - X @ W0.T, rcond=None)[0].T
    np.testing.assert_allclose(np.linalg.svd(wanted, compute_uv=False), [3, 1.5, 0.5, 0, 0], atol=1e-9)
    values = np.linalg.eigvalsh(X.T @ X / len(X))
    np.testing.assert_allclose(values, np.geomspace(0.05, 4, 5) if correlated else np.ones(5))


def test_the_questions_answers_have_a_margin() -> None:
    """Rounding on another machine must not move 2.q1: at rank 8 the error is well above 0.2, at rank 9 well below."""
    values = np.linalg.svd(spectra.puzzle(), compute_uv=False)
    errors = np.sqrt(np.cumsum(values[::-1] ** 2)[::-1] / (values**2).sum())
    assert errors[8] > 0.205 and errors[9] < 0.195  # errors[r] is that of rank r
    _, X, _ = spectra.question()
    np.testing.assert_allclose(X.T @ X / len(X), np.eye(5), atol=1e-12)


def test_similarity_is_that_of_right_singular_vectors() -> None:
    rng = np.random.default_rng(0)
    A1, A2 = rng.normal(size=(4, 12)), rng.normal(size=(6, 12))
    got = spectra.similarity_map(by_svd, A1, A2, 4)
    V1, V2 = (np.linalg.svd(A)[2] for A in (A1, A2))
    for i in range(1, 5):
        for j in range(1, 5):
            assert got[i - 1, j - 1] == pytest.approx(np.sum((V1[:i] @ V2[:j].T) ** 2) / min(i, j))
    np.testing.assert_allclose(np.diag(spectra.similarity_map(by_svd, A1, A1, 4)), 1)


def test_a_fine_tuned_model_takes_other_updates_and_gives_its_own_back() -> None:
    tuned = spectra.finetune("stars", 32, 40, steps=60, lr=1e-3, batch_size=16, trained=".layers.0.")
    assert tuned.updates and all(".layers.0." in name and update.any() for name, update in tuned.updates.items())
    assert all(not p.requires_grad for name, p in tuned.model.named_parameters() if name not in tuned.updates)
    nothing = {name: np.zeros_like(update) for name, update in tuned.updates.items()}
    assert tuned.accuracy_with(nothing) < tuned.accuracy
    assert tuned.accuracy_with(tuned.updates) == tuned.accuracy


def test_an_adapters_factor_has_the_rank_and_moves_with_training() -> None:
    options = {"lr": 3e-3, "batch_size": 8, "seed": 1}
    first, later = (spectra.adapter("stars", 16, 4, "layers.0.self_attn.q_proj", steps=steps, **options) for steps in (1, 5))
    assert first.shape == (4, 128) and np.abs(first - later).max() > 1e-3


def test_the_full_profile_evaluates_float32_matrices_beside_a_bf16_model(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PROFILE": "full", "DEVICE": "cpu", "LLAMA": str(ROOT / "course/labs/pretrained/tiny_llama")}.items():
        monkeypatch.setenv(f"LAB_{name}", value)
    tuned = spectra.finetune("stars", 16, 8, steps=2, lr=1e-3, batch_size=8, trained=".layers.1.self_attn.")
    assert {str(p.dtype) for p in tuned.model.parameters()} == {"torch.float32", "torch.bfloat16"}
    assert 0 <= tuned.accuracy_with({name: np.zeros_like(update) for name, update in tuned.updates.items()}) <= 1
