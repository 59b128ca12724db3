"""Prints the numbers of the worked examples in this folder's lecture notes.

    python course/week07/figures.py

Each line is an equation that stands in the section named above it, letter for letter, in both languages. Rows of a
matrix are separated by semicolons.
"""

import math

import numpy as np

from course.labs.worked import run, say, show


def softmax(logits: np.ndarray, axis: int) -> np.ndarray:
    """The softmax along an axis."""
    powers = np.exp(logits)
    result: np.ndarray = powers / powers.sum(axis=axis, keepdims=True)
    return result


def hydralora() -> None:
    """Two tokens, two branches: the weights, the outputs, and the weights of a softmax along the wrong axis."""
    tokens = np.array([[1, 0], [0, 2]])
    router = math.log(3) * np.eye(2)
    A, branches, scale = np.array([[1, 1]]), np.array([[[1], [0]], [[0], [1]]]), 2
    logits = tokens @ router.T
    weights = softmax(logits, axis=1)
    say("A", A)
    for i, B in enumerate(branches, start=1):
        say(f"B_{i}", B)
    say(r"\alpha / r", scale)
    for i, token in enumerate(tokens, start=1):
        say(f"x_{i}", token)
        say(f"w(x_{i})", weights[i - 1])
        update = sum(w * B @ A @ token for w, B in zip(weights[i - 1], branches, strict=True))
        say(f"y(x_{i})", token + scale * update)
    say(r"w_{\text{tokens}}(x_1)", softmax(logits, axis=0)[0])


def mixed_batches() -> None:
    """Three samples with two adapters of different ranks and one sample without."""
    x = np.array([1, 2])
    adapters = [(np.array([[1, 0]]), np.array([[1], [1]]), 4), (np.array([[1, 1], [0, 1]]), np.array([[1, 0], [0, 1]]), 2)]
    say("x", x)
    for k, (A, B, alpha) in enumerate(adapters):
        say(f"A_{k}", A)
        say(f"B_{k}", B)
        say(rf"\alpha_{k} / r_{k}", alpha / len(A))
        say(f"y_{k}", x + alpha / len(A) * B @ A @ x)
    say("y_{-1}", x)
    mean = sum(alpha / len(A) * B @ A @ x for A, B, alpha in adapters) / len(adapters)
    say(r"\bar y", x + mean)


def dora() -> None:
    """One row whose direction turns, with the mistakes that change its length."""
    W0 = np.array([[3, 4], [0, 2]])
    A, B, scale, x = np.array([[1, 4]]), np.array([[1], [0]]), 2, np.array([1, 1])
    V = W0 + scale * B @ A
    start, norms, later = np.linalg.norm(W0, axis=1), np.linalg.norm(V, axis=1), np.array([26, 2])
    say("W_0", W0)
    say("A", A)
    say("B", B)
    say(r"\alpha / r", scale)
    say(r"\lVert W_0 \rVert_{\text{row}}", start)
    say("V", V)
    say(r"\lVert V \rVert_{\text{row}}", norms)
    say("m", later)
    say("W'", (later / norms)[:, None] * V)
    say("x", x)
    say("W' x", (later / norms)[:, None] * V @ x)
    say(r"y_{W_0}", (later / start)[:, None] * V @ x)
    say("W_0 x", W0 @ x)
    say(r"y_{\text{ones}}", W0 / start[:, None] @ x)


def randlora() -> None:
    """Two bases of rank 1 that make rank 2, and the parameters of a square layer."""
    A, bases = np.array([[1, 2]]), np.array([[[1], [0], [1]], [[0], [1], [1]]])
    lambdas, gammas = np.array([[2], [1]]), np.array([[1, 1], [1, -1]])
    say("A", A)
    for i in (0, 1):
        say(f"B_{i + 1}", bases[i])
        say(rf"\lambda_{i + 1}", lambdas[i])
        say(rf"\gamma_{i + 1}", gammas[i])
    M = sum(B @ np.diag(a) @ A @ np.diag(c) for B, a, c in zip(bases, lambdas, gammas, strict=True))
    shared = sum(B @ np.diag(a) @ A @ np.diag(gammas[0]) for B, a in zip(bases, lambdas, strict=True))
    say("M", M)
    say(r"\operatorname{rank}(M)", np.linalg.matrix_rank(M))
    say(r"\operatorname{rank}(M_{\text{shared}})", np.linalg.matrix_rank(shared))
    width, rank = 4096, 32
    n = width // rank
    say("d", width)
    say("r", rank)
    say("d / r", n)
    say("n (r + d)", n * (rank + width))
    say("r_{L} (d + d)", 64 * 2 * width)
    say("r_{L}", 64)


def adalora() -> None:
    """Two steps of one entry's score."""
    beta = 0.5
    mean = uncertainty = 0.0
    say(r"\beta_1 = \beta_2", beta)
    for step, sensitivity in ((1, 1.0), (2, 3.0)):
        wrong = np.average([abs(sensitivity - mean), uncertainty], weights=[1 - beta, beta])
        mean = np.average([sensitivity, mean], weights=[1 - beta, beta])
        uncertainty = np.average([abs(sensitivity - mean), uncertainty], weights=[1 - beta, beta])
        say(f"I_{step}", sensitivity)
        say(rf"\bar I_{step}", mean)
        say(rf"\bar U_{step}", uncertainty)
        say(f"s_{step}", mean * uncertainty)
    say(r"\bar U_{\text{old}}", wrong)


def rank_budget() -> None:
    """Two matrices, one budget."""
    scores = {"q": np.array([5.0, 1.0]), "k": np.array([4.0, 3.0, 2.0])}
    budget = 3
    edge = np.sort(np.concatenate(list(scores.values())))[-budget]
    say("b", budget)
    for name, s in scores.items():
        say(f"S_{name}", s)
        say(f"r_{name}", (s >= edge).sum())
    say(r"\lfloor b / 2 \rfloor", budget // len(scores))


def qr_lora() -> None:
    """One direction of a matrix with two columns: pivoted, not pivoted, and the best there is."""
    W = np.array([[1, 3], [0, 4]])
    say("W", W)
    lengths = np.linalg.norm(W, axis=0)
    say(r"\lVert W \rVert_{\text{column}}", lengths)
    for name, column in (("p", lengths.argmax()), ("u", 0)):
        q = W[:, column] / lengths[column]
        say(f"q_{name}", q)
        say(rf"q_{name}^\top W", q @ W)
        say(f"e_{name}", np.linalg.norm(W - np.outer(q, q @ W)))
    say(r"\sigma_2", np.linalg.svd(W, compute_uv=False)[1])


def preferences() -> None:
    """One pair."""
    chosen, chosen_reference, rejected, rejected_reference, beta = -10, -11, -12, -11.5, 0.1
    say(r"\log \pi(y_w)", chosen)
    say(r"\log \pi_{\text{ref}}(y_w)", chosen_reference)
    say(r"\log \pi(y_l)", rejected)
    say(r"\log \pi_{\text{ref}}(y_l)", rejected_reference)
    say(r"\beta", beta)
    z = beta * (chosen - chosen_reference - rejected + rejected_reference)
    say("z", z)
    say("L", math.log1p(math.exp(-z)))
    say("L_{z = 0}", math.log(2))
    say(r"-\partial L / \partial \log \pi(y_w)", beta / (1 + math.exp(z)))


def reading_a_table() -> None:
    """The sampling error of an accuracy."""
    problems = 1319
    accuracies = {"rsLoRA": 51.3, "LoRA": 47.8, "full": 47.2, "DoRA": 46.9, "AdaLoRA": 37.3}
    say("n", problems)
    for name, value in accuracies.items():
        say(rf"p_{{\text{{{name}}}}}", value)
    p = accuracies["LoRA"]
    error = math.sqrt(p * (100 - p) / problems)
    print(rf"\sqrt{{p (100 - p) / n}} = {show(error)}")
    print(rf"2 \sqrt{{2}} \sqrt{{p (100 - p) / n}} = {show(2 * math.sqrt(2) * error)}")
    print(rf"p_{{\text{{rsLoRA}}}} - p_{{\text{{LoRA}}}} = {show(accuracies['rsLoRA'] - p)}")
    print(rf"p_{{\text{{LoRA}}}} - p_{{\text{{AdaLoRA}}}} = {show(p - accuracies['AdaLoRA'])}")


if __name__ == "__main__":
    run(hydralora, mixed_batches, dora, randlora, adalora, rank_budget, qr_lora, preferences, reading_a_table)
