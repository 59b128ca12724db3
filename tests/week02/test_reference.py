"""Week 2: the reference and the alternatives against NumPy, SciPy, PyTorch, peft, closed forms and finite differences."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import peft
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.loading import load

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "solutions/week02/rank1_lora.py"
ALTERNATIVES = sorted((ROOT / "autograder/bank/week02/alternatives").glob("*/rank1_lora.py"))

SOLUTIONS = {"reference": load(REFERENCE)} | {path.parent.name: load(path) for path in ALTERNATIVES}
REF = SOLUTIONS["reference"]
everywhere = pytest.mark.parametrize("lib", SOLUTIONS.values(), ids=SOLUTIONS.keys())
derandomized = settings(max_examples=60, deadline=None, derandomize=True, database=None)

# d_out, d_in, n, alpha
LAYERS = ((1, 1, 1, 1.0), (3, 2, 4, 0.5), (2, 5, 1, 3.0), (6, 4, 9, 2.5))


def draw(seed: int, d_out: int, d_in: int, n: int):
    """W0, b, a, X, Y."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in ((d_out, d_in), d_out, d_in, (n, d_in), (n, d_out))]


def with_spectrum(seed: int, rows: int, columns: int, values) -> np.ndarray:
    """A matrix with these singular values."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((size, len(values))))[0] for size in (rows, columns))
    return left * values @ right.T


# --------------------------------------------------------------------------- task 2.1


@everywhere
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (3, 6), (7, 7)])
def test_the_error_is_the_sum_of_the_discarded_squares(lib, shape):
    values = 3.0 * 0.6 ** np.arange(min(shape))
    W = with_spectrum(0, *shape, values)
    for rank in range(1, min(shape) + 1):
        B, A = lib.truncated_svd(W, rank)
        assert B.shape == (shape[0], rank) and A.shape == (rank, shape[1]) and B.dtype == A.dtype == np.float64
        np.testing.assert_allclose(((W - B @ A) ** 2).sum(), (values[rank:] ** 2).sum(), rtol=1e-9, atol=1e-20)


@everywhere
def test_no_other_factors_are_better(lib):
    W = with_spectrum(1, 6, 5, 2.0 * 0.7 ** np.arange(5))
    best = np.linalg.norm(W - np.matmul(*lib.truncated_svd(W, 2)))
    rng = np.random.default_rng(2)
    for size in (1e-3, 0.1, 1.0):
        for _ in range(50):
            A = lib.truncated_svd(W, 2)[1] + size * rng.standard_normal((2, 5))
            B = W @ np.linalg.pinv(A)  # the best for this A
            assert np.linalg.norm(W - B @ A) >= best * (1 - 1e-12)


@everywhere
def test_torch_truncates_alike(lib):
    W = with_spectrum(3, 5, 8, 1.5 * 0.5 ** np.arange(5))
    U, S, Vh = torch.linalg.svd(torch.from_numpy(W), full_matrices=False)
    np.testing.assert_allclose(np.matmul(*lib.truncated_svd(W, 3)), (U[:, :3] * S[:3] @ Vh[:3]).numpy(), atol=1e-12)


@everywhere
def test_a_deficient_matrix_is_kept(lib):
    for values in ((2.0,), (3.0, 1.0)):
        W = with_spectrum(4, 6, 4, values)
        np.testing.assert_allclose(np.matmul(*lib.truncated_svd(W, 3)), W, atol=1e-12)
    assert not np.matmul(*lib.truncated_svd(np.zeros((3, 4)), 2)).any()


@everywhere
@pytest.mark.parametrize(("shape", "rank"), [((3, 5), 0), ((3, 5), -1), ((3, 5), 4), ((5, 3), 4), ((5, 3), 6)])
def test_ranks_out_of_range(lib, shape, rank):
    with pytest.raises(ValueError):
        lib.truncated_svd(np.ones(shape), rank)


def test_the_best_rank_8_of_a_rank_10_matrix():
    """The curriculum's 0.3995: the seed and the sizes of the tutorial whose factors were never fitted."""
    drawn = np.random.RandomState(42)
    M = drawn.randn(1000, 10) @ drawn.randn(10, 1000)
    B, A = REF.truncated_svd(M, 8)
    assert round(np.linalg.norm(M - B @ A) / np.linalg.norm(M), 4) == 0.3995


# --------------------------------------------------------------------------- task 2.2


def by_autograd(W0, b, a, alpha, X, Y):
    """Output, loss and gradients from torch."""
    b, a = (torch.from_numpy(v).requires_grad_() for v in (b, a))
    out = torch.from_numpy(X) @ (torch.from_numpy(W0) + alpha * torch.outer(b, a)).T
    loss = torch.nn.functional.mse_loss(out, torch.from_numpy(Y), reduction="sum") / (2 * len(X))
    loss.backward()
    return out.detach().numpy(), loss.item(), b.grad.numpy(), a.grad.numpy()


@everywhere
@pytest.mark.parametrize("sizes", LAYERS)
def test_torch_has_the_same_gradients(lib, sizes):
    W0, b, a, X, Y = draw(0, *sizes[:3])
    for now in (b, np.zeros_like(b)):
        out, loss, db, da = by_autograd(W0, now, a, sizes[3], X, Y)
        np.testing.assert_allclose(lib.rank1_forward(W0, now, a, sizes[3], X), out, rtol=1e-12, atol=1e-12)
        got = lib.rank1_gradients(W0, now, a, sizes[3], X, Y)
        for mine, theirs in zip(got, (loss, db, da), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-11, atol=1e-12)
    assert got[1].shape == b.shape and got[2].shape == a.shape and db.any() and not da.any()


@pytest.mark.parametrize("sizes", LAYERS[1:])
def test_finite_differences_agree(sizes):
    W0, b, a, X, Y = draw(1, *sizes[:3])
    _, db, da = REF.rank1_gradients(W0, b, a, sizes[3], X, Y)
    loss = lambda b, a: REF.rank1_gradients(W0, b, a, sizes[3], X, Y)[0]  # noqa: E731
    # The loss is quadratic in each factor, so the difference has no error but rounding.
    by_b = [(loss(b + unit, a) - loss(b - unit, a)) / 2 for unit in np.eye(len(b))]
    by_a = [(loss(b, a + unit) - loss(b, a - unit)) / 2 for unit in np.eye(len(a))]
    np.testing.assert_allclose(db, by_b, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(da, by_a, rtol=1e-10, atol=1e-12)


def test_peft_is_the_same_layer():
    W0, b, a, X, Y = draw(2, 4, 3, 5)
    base = torch.nn.Sequential(torch.nn.Linear(3, 4, bias=False)).double()
    base[0].weight.data = torch.from_numpy(W0)
    model = peft.get_peft_model(base, peft.LoraConfig(r=1, lora_alpha=3, target_modules=["0"])).double()
    layer = model.base_model.model[0]
    layer.lora_B["default"].weight.data = torch.from_numpy(b[:, None])
    layer.lora_A["default"].weight.data = torch.from_numpy(a[None])
    out = model(torch.from_numpy(X))
    (0.5 * ((out - torch.from_numpy(Y)) ** 2).sum() / len(X)).backward()
    np.testing.assert_allclose(REF.rank1_forward(W0, b, a, 3.0, X), out.detach().numpy(), rtol=1e-12)
    _, db, da = REF.rank1_gradients(W0, b, a, 3.0, X, Y)
    np.testing.assert_allclose(db, layer.lora_B["default"].weight.grad.numpy()[:, 0], rtol=1e-11)
    np.testing.assert_allclose(da, layer.lora_A["default"].weight.grad.numpy()[0], rtol=1e-11)


# --------------------------------------------------------------------------- task 2.3


@everywhere
def test_torch_trains_alike(lib):
    W0, _, a0, X, Y = draw(3, 3, 4, 6)
    steps, lr, alpha = 30, 0.01, 1.5
    b, a = torch.zeros(3, dtype=torch.float64, requires_grad=True), torch.from_numpy(a0.copy()).requires_grad_()
    optimizer = torch.optim.SGD([b, a], lr=lr)
    losses = []
    for step in range(steps + 1):
        optimizer.zero_grad()
        out = torch.from_numpy(X) @ (torch.from_numpy(W0) + alpha * torch.outer(b, a)).T
        loss = 0.5 * ((out - torch.from_numpy(Y)) ** 2).sum() / len(X)
        losses.append(loss.item())
        if step < steps:
            loss.backward()
            optimizer.step()
    got_b, got_a, got_losses = lib.train_rank1(W0, X, Y, alpha, lr, steps, a0)
    np.testing.assert_allclose(got_b, b.detach().numpy(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(got_a, a.detach().numpy(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(got_losses, losses, rtol=1e-11)
    assert all(later < earlier for earlier, later in pairwise(got_losses))


@everywhere
def test_the_start_and_the_first_step(lib):
    W0, _, a0, X, Y = draw(4, 3, 2, 5)
    b, a, losses = lib.train_rank1(W0, X, Y, 2.0, 0.1, 0, a0)
    assert not b.any() and np.array_equal(a, a0) and len(losses) == 1
    np.testing.assert_allclose(losses[0], ((X @ W0.T - Y) ** 2).sum() / (2 * len(X)), rtol=1e-12)
    b, a, losses = lib.train_rank1(W0, X, Y, 2.0, 0.1, 1, a0)
    assert b.any() and np.array_equal(a, a0) and len(losses) == 2


def test_whitened_data_lead_to_the_best_rank_one():
    """With X^T X / n = 1 the loss is half the squared distance to the wanted update, so its minimum is half the rest."""
    n, d = 12, 4
    X = np.sqrt(n) * np.linalg.qr(np.random.default_rng(5).standard_normal((n, d)))[0]
    W0, wanted = np.ones((3, d)), with_spectrum(6, 3, d, (2.0, 1.0, 0.5))
    b, a, losses = REF.train_rank1(W0, X, X @ (W0 + wanted).T, 1.5, 0.05, 3000, np.ones(d))
    assert losses[-1] == pytest.approx((1.0**2 + 0.5**2) / 2, rel=1e-9)
    np.testing.assert_allclose(1.5 * np.outer(b, a), np.matmul(*REF.truncated_svd(wanted, 1)), atol=1e-6)


@everywhere
@pytest.mark.parametrize(("lr", "steps"), [(0.0, 1), (-1.0, 1), (0.1, -1)])
def test_training_refuses(lib, lr, steps):
    W0, _, a0, X, Y = draw(5, 2, 3, 4)
    with pytest.raises(ValueError):
        lib.train_rank1(W0, X, Y, 1.0, lr, steps, a0)


# --------------------------------------------------------------------------- task 2.4

sizes = st.integers(1, 5)


@everywhere
@derandomized
@given(sizes, sizes, sizes, sizes)
def test_the_kronecker_product(lib, m, n, p, q):
    rng = np.random.default_rng(0)
    A, B, x = rng.standard_normal((m, n)), rng.standard_normal((p, q)), rng.standard_normal(n * q)
    got = lib.kron_matvec(A, B, x)
    assert got.shape == (m * p,)
    np.testing.assert_allclose(got, np.kron(A, B) @ x, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(got, torch.kron(torch.from_numpy(A), torch.from_numpy(B)).numpy() @ x, rtol=1e-10, atol=1e-12)
    for length in {n * q + 1, n * q - 1, (n + 1) * q}:
        with pytest.raises(ValueError):
            lib.kron_matvec(A, B, np.ones(length))


def test_the_vec_identities():
    rng = np.random.default_rng(1)
    A, B, M = rng.standard_normal((3, 2)), rng.standard_normal((5, 4)), rng.standard_normal((2, 4))
    np.testing.assert_allclose(REF.kron_matvec(A, B, M.ravel()), (A @ M @ B.T).ravel(), rtol=1e-12)
    columns = REF.kron_matvec(A, B, M.T.ravel(order="F"))  # the textbook's vec of a q x n matrix
    np.testing.assert_allclose(columns, (B @ M.T @ A.T).ravel(order="F"), rtol=1e-12)
    assert np.linalg.matrix_rank(np.kron(A, B)) == np.linalg.matrix_rank(A) * np.linalg.matrix_rank(B)


@everywhere
@pytest.mark.parametrize("size", [16, 40])
def test_the_memory_that_the_contract_allows(lib, size):
    A, x = np.ones((size, size)), np.ones(size * size)
    lib.kron_matvec(A, A, x)
    tracemalloc.start()
    lib.kron_matvec(A, A, x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * size**4 / 4


# --------------------------------------------------------------------------- task 2.5


@everywhere
def test_scipys_angles_between_subspaces(lib):
    for seed, (r1, r2, d, i, j) in enumerate(((2, 3, 4, 1, 2), (4, 3, 6, 4, 1), (3, 3, 5, 2, 2), (6, 2, 3, 2, 1))):
        A1 = with_spectrum(seed, r1, d, 2.0 * 0.5 ** np.arange(min(r1, d)))
        A2 = with_spectrum(seed + 10, r2, d, 3.0 * 0.6 ** np.arange(min(r2, d)))
        spans = [np.linalg.svd(A)[2][:k].T for A, k in ((A1, i), (A2, j))]
        want = (np.cos(scipy.linalg.subspace_angles(*spans)) ** 2).sum() / min(i, j)
        got = lib.grassmann_similarity(A1, A2, i, j)
        assert got == pytest.approx(want, rel=1e-8) and -1e-12 <= got <= 1 + 1e-12
        assert lib.grassmann_similarity(A2, A1, j, i) == pytest.approx(got, rel=1e-9)


@everywhere
def test_similarity_is_of_subspaces(lib):
    A1, A2 = with_spectrum(1, 4, 6, (3.0, 2.0, 1.0, 0.5)), with_spectrum(2, 3, 6, (3.0, 1.5, 0.5))
    turn = np.linalg.qr(np.random.default_rng(3).standard_normal((6, 6)))[0]
    plain = lib.grassmann_similarity(A1, A2, 2, 3)
    assert lib.grassmann_similarity(A1 @ turn, A2 @ turn, 2, 3) == pytest.approx(plain, rel=1e-9)
    # All of A2's rows are used, so it may be multiplied from the left.
    mixed = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0]]) @ A2
    assert lib.grassmann_similarity(A1, mixed, 2, 3) == pytest.approx(plain, rel=1e-9)
    assert lib.grassmann_similarity(A1, A1, 2, 2) == pytest.approx(1, rel=1e-12)
    assert lib.grassmann_similarity(A1, A1, 3, 1) == pytest.approx(1, rel=1e-12)
    assert lib.grassmann_similarity(A1[:, :3] @ turn[:3], A1[:, :3] @ turn[3:], 2, 3) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("d", "i", "j"), [(20, 2, 6), (30, 5, 3)])
def test_random_subspaces_share_the_larger_dimension_over_d(d, i, j):
    rng = np.random.default_rng(0)
    draws = [REF.grassmann_similarity(rng.standard_normal((i, d)), rng.standard_normal((j, d)), i, j) for _ in range(600)]
    # The mean of 600 draws: five standard errors.
    assert abs(np.mean(draws) - max(i, j) / d) < 5 * np.std(draws) / np.sqrt(600)


@everywhere
@pytest.mark.parametrize(
    ("first", "second", "i", "j"),
    [((2, 4), (3, 4), 3, 1), ((2, 4), (3, 4), 1, 4), ((5, 3), (2, 3), 4, 1), ((2, 4), (3, 4), 0, 1), ((2, 4), (3, 4), 1, 0)],
)
def test_similarity_refuses(lib, first, second, i, j):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError):
        lib.grassmann_similarity(rng.standard_normal(first), rng.standard_normal(second), i, j)


# --------------------------------------------------------------------------- task 2.6


@everywhere
def test_amplification_by_scipy(lib):
    for seed, (m, n, rank) in enumerate(((3, 2, 1), (4, 6, 2), (5, 4, 4))):
        W = with_spectrum(seed, m, n, 2.0 * 0.7 ** np.arange(min(m, n)))
        dW = with_spectrum(seed + 20, m, n, 1.0 * 0.6 ** np.arange(min(m, n)))
        U, _, Vh = scipy.linalg.svd(dW)
        want = scipy.linalg.norm(dW) / scipy.linalg.norm(U[:, :rank].T @ W @ Vh[:rank].T)
        assert lib.amplification_factor(W, dW, rank) == pytest.approx(want, rel=1e-9)


@everywhere
def test_amplification_of_known_updates(lib):
    W = with_spectrum(7, 5, 4, (2.0, 1.0))
    assert lib.amplification_factor(W, 3 * W, 2) == pytest.approx(3, rel=1e-9)
    assert lib.amplification_factor(W, W, 2) == pytest.approx(1, rel=1e-9)
    assert lib.amplification_factor(np.diag([2.0, 1.0]), np.diag([0.0, 3.0]), 1) == pytest.approx(3, rel=1e-12)
    assert lib.amplification_factor(5 * W, W, 2) == pytest.approx(1 / 5, rel=1e-9)


@everywhere
@pytest.mark.parametrize(("shape", "other", "rank"), [((4, 3), (4, 3), 4), ((4, 3), (4, 3), 0), ((4, 3), (3, 4), 2)])
def test_amplification_refuses(lib, shape, other, rank):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError):
        lib.amplification_factor(rng.standard_normal(shape), rng.standard_normal(other), rank)


# --------------------------------------------------------------------------- all of them


@everywhere
def test_arguments_stay_as_they_were(lib):
    W0, b, a, X, Y = draw(8, 3, 4, 5)
    calls = (
        (lib.truncated_svd, W0, 2),
        (lib.rank1_forward, W0, b, a, 2.0, X),
        (lib.rank1_gradients, W0, b, a, 2.0, X, Y),
        (lib.train_rank1, W0, X, Y, 2.0, 0.01, 5, a),
        (lib.kron_matvec, W0, X, np.ones(16)),
        (lib.grassmann_similarity, W0, X, 2, 3),
        (lib.amplification_factor, W0, W0 + 1, 2),
    )
    for function, *arguments in calls:
        before = [np.copy(argument) for argument in arguments]
        function(*arguments)
        for old, now in zip(before, arguments, strict=True):
            np.testing.assert_array_equal(old, now, err_msg=function.__name__)
