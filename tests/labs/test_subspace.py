"""The network and the random subspaces of week 2."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from course.labs import subspace


def test_the_gradient_is_that_of_the_cross_entropy() -> None:
    net, (train, _) = subspace.Network(7), subspace.digits()
    data = subspace.Data(train.pictures[:50], train.labels[:50])
    theta = net.start(3) + 0.01

    def loss(theta: np.ndarray) -> float:
        W1, c1, W2, c2 = (part.reshape(s) for part, s in zip(np.split(theta, [448, 455, 525]), net.shapes, strict=True))
        logits = np.maximum(data.pictures @ W1 + c1, 0) @ W2 + c2
        return float(np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(50), data.labels]))

    direction = np.random.default_rng(0).normal(size=net.size)
    slope = (loss(theta + 1e-6 * direction) - loss(theta - 1e-6 * direction)) / 2e-6
    assert net.gradient(theta, data) @ direction == pytest.approx(slope, rel=1e-6)


def test_adam_is_torchs() -> None:
    curvature, start = np.array([1.0, 10.0, 0.1]), np.array([1.0, -2.0, 3.0])
    parameter = torch.nn.Parameter(torch.tensor(start))
    optimizer = torch.optim.Adam([parameter], lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        (0.5 * torch.tensor(curvature) * parameter**2).sum().backward()
        optimizer.step()
    got = subspace.adam(lambda x: curvature * x, start, 20, 0.1)
    np.testing.assert_allclose(got, parameter.detach().numpy(), rtol=1e-6)
    assert start.tolist() == [1.0, -2.0, 3.0]


def test_a_slanted_digit_is_the_upright_one_with_shifted_rows() -> None:
    (plain, rest), (slanted, slanted_rest) = subspace.digits(), subspace.digits(slant=2.0)
    assert len(plain.labels) == 1200 and len(rest.labels) == 597
    assert (plain.labels == slanted.labels).all() and (rest.labels == slanted_rest.labels).all()
    upright, moved = plain.pictures.reshape(-1, 8, 8), slanted.pictures.reshape(-1, 8, 8)
    for row in range(8):
        shift = 7 - 2 * row  # to the right at the top, to the left at the bottom
        wanted = np.full((1200, 8), -1.0)
        if shift >= 0:
            wanted[:, shift:] = upright[:, row, : 8 - shift]
        else:
            wanted[:, :shift] = upright[:, row, -shift:]
        np.testing.assert_allclose(moved[:, row], wanted)


def test_both_kinds_of_subspace_have_the_same_scale() -> None:
    size, side, z = 2860, 8, np.ones(64)
    A, B = subspace.kronecker_factors(size, side, 1)
    assert A.shape == (52, 8) and B.shape == (55, 8)
    kronecker = np.mean([np.var(np.kron(*subspace.kronecker_factors(size, side, seed)) @ z) for seed in range(30)])
    dense = np.mean([np.var(subspace.dense_matrix(size, 64, seed) @ z) for seed in range(30)])
    assert dense == pytest.approx(1, rel=0.1)  # |z|^2 / d
    assert kronecker == pytest.approx(dense, rel=0.35)


def test_d90_is_the_first_dimension_that_reaches_the_goal() -> None:
    assert subspace.d90([1, 4, 9, 16], np.array([0.2, 0.79, 0.8, 0.85]), 0.9) == 16
    assert subspace.d90([1, 4, 9], np.array([0.2, 0.81, 0.8]), 0.9) == 4
    assert subspace.d90([1, 4], np.array([0.2, 0.3]), 0.9) is None
