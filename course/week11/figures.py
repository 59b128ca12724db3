"""Prints the numbers of the worked examples in this folder's lecture notes.

    python course/week11/figures.py

Each line is an equation that stands in the section named above it, letter for letter, in both languages. Rows of a
matrix are separated by semicolons.
"""

import numpy as np

from course.labs.worked import run, say


def merge_loras() -> None:
    """Two adapters added, what the sum of their factors gives, and what half precision loses."""
    A1, B1 = np.array([[1, 2]]), np.array([[1], [-1]])
    A2, B2 = np.array([[0, 1]]), np.array([[2], [0]])
    say("A_1", A1[0])
    say("B_1", B1)
    say("A_2", A2[0])
    say("B_2", B2)
    say("B_1 A_1 + B_2 A_2", B1 @ A1 + B2 @ A2)
    say("(B_1 + B_2)(A_1 + A_2)", (B1 + B2) @ (A1 + A2))
    say("B_1 A_2 + B_2 A_1", B1 @ A2 + B2 @ A1)
    start, update, count = np.float16(1.5), 2e-4, 16
    say("w", start)
    say("K", count)
    say(r"\delta", update)
    say(r"2^{-10}", 2.0**-10)
    step_by_step = start
    for _ in range(count):
        step_by_step = np.float16(step_by_step + np.float16(update))
    say(r"w_{\text{each}}", step_by_step)
    say(r"w_{\text{once}}", np.float16(np.float32(start) + count * np.float32(update)))
    say(r"w + K \delta", float(start) + count * update)
    print(rf"M_{{\text{{fp16}}}} = {np.finfo(np.float16).max:.0f}")


def ties() -> None:
    """Three updates, trimmed, elected and merged; the plain mean and the majority beside it."""
    tau = np.array([[4, -1, 2, 0.1], [-1, -3, 2.5, 0.2], [-2, 1, -4, 0.3]])
    for k, row in enumerate(tau, 1):
        say(rf"\tau_{k}", row)
    say("k", 0.5)
    trimmed = np.where(np.abs(tau) >= np.sort(np.abs(tau), axis=1)[:, [2]], tau, 0)
    for k, row in enumerate(trimmed, 1):
        say(rf"\hat\tau_{k}", row)
    total = trimmed.sum(axis=0)
    say(r"\sum_t \hat\tau_t", total)
    agree = trimmed * np.sign(total) > 0
    say(r"\tau_m", (trimmed * agree).sum(axis=0) / np.maximum(agree.sum(axis=0), 1))
    say(r"\bar\tau", tau.mean(axis=0))
    say(r"4 - 1 - 2", tau[:, 0].sum())
    say(r"(-1 - 2) / 2", tau[1:, 0].mean())


def compression() -> None:
    """Shares of the energy, the rank that they lead to, the error, and the scaling."""
    values = np.array([4.0, 2.0, 1.0])
    alpha, old, new = 12, 3, 2
    say(r"\sigma", values)
    say(r"\sum_k \sigma_k^2", (values**2).sum())
    for k in range(1, 4):
        say(f"E_{k}", (values[:k] ** 2).sum() / (values**2).sum())
    say("e", 0.9)
    say("r'", new)
    say(r"\lVert \Delta W - \Delta W' \rVert_F / \lVert \Delta W \rVert_F", np.sqrt(values[new] ** 2 / (values**2).sum()))
    for k in range(1, 4):
        say(f"s_{k}", values[:k].sum() / values.sum())
    say(r"\alpha", alpha)
    say("r", old)
    say(r"\alpha / r", alpha / old)
    say(r"\alpha / r'", alpha / new)
    say("r' / r", new / old)


def onnx() -> None:
    """What an unmerged branch costs at one width, and the size of rounding."""
    width, rank = 4096, 16
    say("d", width)
    say("r", rank)
    print(f"d^2 = {width**2}")
    print(f"2 r d = {2 * rank * width}")
    say("2 r d / d^2", 2 * rank / width)
    print(rf"\varepsilon_{{\text{{fp32}}}} = 2^{{{np.log2(np.finfo(np.float32).eps):.0f}}}")
    print(rf"\varepsilon_{{\text{{fp16}}}} = 2^{{{np.log2(np.finfo(np.float16).eps):.0f}}}")
    print(r"t_{\text{fp32}} = 10^{-5}")
    print(r"t_{\text{fp16}} = 10^{-3}")


def dare() -> None:
    """One draw, and the variance at a high rate."""
    delta, mask, rate = np.array([0.2, -0.4, 0.1, 0.3]), np.array([1, 0, 0, 1]), 0.5
    say(r"\delta", delta)
    say("m", mask)
    say("p", rate)
    say(r"\tilde\delta", mask * delta / (1 - rate))
    say(r"1 / (1 - 0.9)", 1 / (1 - 0.9))
    say(r"0.9 / (1 - 0.9)", 0.9 / (1 - 0.9))


def quantisation() -> None:
    """Two rows of different size, with a scale each and with one for both."""
    weight = np.array([[0.5, -2.54, 1.0], [0.0127, -0.006, 0.003]])
    scale = np.abs(weight).max(axis=1) / 127
    say("W", weight)
    say("s", scale)
    say("Q", np.rint(weight / scale[:, None]))
    say(r"Q_{\text{one}}", np.rint(weight / scale.max()))
    say("1 / 127", 1 / 127)
    say("1 / (2 \\cdot 127)", 1 / 254)


def continual_learning() -> None:
    """A penalty and its gradient, a stack, and a matrix of results."""
    theta, old, fisher, strength = np.array([1, 2]), np.array([0, 2.5]), np.array([4, 1]), 2
    say(r"\theta", theta)
    say(r"\theta^*", old)
    say("F", fisher)
    say(r"\lambda", strength)
    say(r"\frac{\lambda}{2} \sum_i F_i (\theta_i - \theta^*_i)^2", strength / 2 * (fisher * (theta - old) ** 2).sum())
    say(r"\lambda F (\theta - \theta^*)", strength * fisher * (theta - old))
    ranks, alphas = (1, 2), (3, 4)
    for k, (rank, alpha) in enumerate(zip(ranks, alphas, strict=True), 1):
        say(rf"\alpha_{k} / r_{k}", alpha / rank)
    say("r_1 + r_2", sum(ranks))
    result = np.array([[0.9, 0.1, 0.1], [0.7, 0.9, 0.2], [0.5, 0.6, 0.9]])
    say("R", result)
    say(r"\text{BWT}", np.mean([result[2, j] - result[j, j] for j in range(2)]))


if __name__ == "__main__":
    run(merge_loras, ties, compression, onnx, dare, quantisation, continual_learning)
