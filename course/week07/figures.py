"""Prints the numbers of the worked examples in this folder's lecture notes.

    python course/week07/figures.py

Each line is an equation that stands in the section named above it, letter for letter, in both languages. Rows of a
matrix are separated by semicolons.
"""

import math
from pathlib import Path

import numpy as np

from course.labs import drawing
from course.labs.worked import run, say, show

ACCURACIES = {
    "rsLoRA": 51.3,
    "LoRA": 47.8,
    "full": 47.2,
    "DoRA": 46.9,
    "AdaLoRA": 37.3,
}  # percent, of 1319 problems, one seed each


def why() -> None:
    """Two tasks that want opposite updates, and what their mean leaves."""
    first = np.array([2, 0])
    say("D_1", first)
    say("D_2", -first)
    say(r"\tfrac{1}{2} (D_1 + D_2)", np.zeros(2))


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
    width, rank, branches_used = 4096, 8, 3
    say("d", width)
    say("r", rank)
    say("N", branches_used)
    say("r d + N r d + N d", rank * width + branches_used * rank * width + branches_used * width)
    say("r_{L}", 2 * rank)
    say("r_{L} (d + d)", 2 * rank * 2 * width)


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
    width, rank, count = 4096, 8, 1000
    say("d", width)
    say("r", rank)
    print(f"n = {count}")
    say("n r (d + d)", count * rank * 2 * width)
    say("n d^2", count * width**2)


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
    gradient, row = np.array([13, 0]), V[0] / norms[0]
    say("G_1", gradient)
    say(r"\hat v_1", row)
    say(r"G_1 - (G_1 \cdot \hat v_1)\, \hat v_1", gradient - gradient @ row * row)


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
    mean = uncertainty = wrong = 0.0
    say(r"\beta_1 = \beta_2", beta)
    for step, sensitivity in ((1, 1.0), (2, 3.0)):
        wrong = np.average([abs(sensitivity - mean), wrong], weights=[1 - beta, beta])
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
    accuracies = ACCURACIES
    say("n", problems)
    for name, value in accuracies.items():
        say(rf"p_{{\text{{{name}}}}}", value)
    p = accuracies["LoRA"]
    error = math.sqrt(p * (100 - p) / problems)
    print(rf"\sqrt{{p (100 - p) / n}} = {show(error)}")
    print(rf"2 \sqrt{{2}} \sqrt{{p (100 - p) / n}} = {show(2 * math.sqrt(2) * error)}")
    print(rf"p_{{\text{{rsLoRA}}}} - p_{{\text{{LoRA}}}} = {show(accuracies['rsLoRA'] - p)}")
    print(rf"p_{{\text{{LoRA}}}} - p_{{\text{{AdaLoRA}}}} = {show(p - accuracies['AdaLoRA'])}")


def beyond() -> None:
    """What was reported for a handful of trained numbers."""
    say(r"p_{\text{TinyLoRA}}", 91)


def quiz() -> None:
    """The numbers of the questions."""
    say(r"\lVert W_0 \rVert_{\text{row}}", [5, 13])
    say("m", [5, 13])
    say("d", 1024)
    say("r", 64)
    say("d / r", 16)
    say("n (r + d)", 16 * (64 + 1024))
    say("z", 0)
    say("L", math.log(2))


def randlora_error(target: np.ndarray, rank: int, rng: np.random.Generator) -> float:
    """The relative error of RandLoRA's best fit, by alternating least squares over its two diagonals."""
    size = len(target)
    count = size // rank
    A, B = rng.standard_normal((rank, size)), rng.standard_normal((count, size, rank))
    gammas = np.ones((count, size)) + 0.1 * rng.standard_normal((count, size))
    lambdas = np.zeros((count, rank))
    for _ in range(150):
        terms = np.einsum("jdr,re,je->dejr", B, A, gammas).reshape(size * size, -1)
        lambdas = np.linalg.lstsq(terms, target.ravel(), rcond=None)[0].reshape(count, rank)
        mixed = np.einsum("jdr,jr,re->dje", B, lambdas, A)  # column e of the update is mixed[:, :, e] @ gammas[:, e]
        gammas = np.stack([np.linalg.lstsq(mixed[:, :, e], target[:, e], rcond=None)[0] for e in range(size)], axis=1)
    update = np.einsum("jdr,jr,re,je->de", B, lambdas, A, gammas)
    return float(np.linalg.norm(update - target) / np.linalg.norm(target))


def spectra(folder: Path) -> None:
    """What LoRA and RandLoRA leave of a target, by how fast its singular values fall, at about equal numbers of parameters."""
    size, rank = 16, 4
    exponents = np.arange(0, 2.01, 0.25)
    left: dict[str, list[float]] = {"LoRA, rank 2 (64 numbers)": [], "LoRA, rank 3 (96 numbers)": [], "RandLoRA (80 numbers)": []}
    for exponent in exponents:
        sigma = np.arange(1, size + 1) ** -exponent
        energy = np.cumsum(sigma**2) / (sigma**2).sum()
        left["LoRA, rank 2 (64 numbers)"].append(np.sqrt(1 - energy[1]))
        left["LoRA, rank 3 (96 numbers)"].append(np.sqrt(1 - energy[2]))
        errors = []
        for seed in range(4):
            rng = np.random.default_rng(seed)
            U, V = (np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(2))
            errors.append(randlora_error(U @ np.diag(sigma) @ V.T, rank, rng))
        left["RandLoRA (80 numbers)"].append(float(np.mean(errors)))
    figure, axes = drawing.canvas(height=3.4)
    for (name, values), style in zip(left.items(), ("o-", "s--", "^:"), strict=True):
        axes.plot(exponents, values, style, label=name)
    axes.set(xlabel="decay a of the spectrum, σₖ = 1 / kᵃ", ylabel="relative error of the best fit", ylim=(0, 1.02))
    axes.legend(loc="lower left")
    zh = {
        "LoRA, rank 2 (64 numbers)": "LoRA，秩 2（64 个数）",
        "LoRA, rank 3 (96 numbers)": "LoRA，秩 3（96 个数）",
        "RandLoRA (80 numbers)": "RandLoRA（80 个数）",
        "decay a of the spectrum, σₖ = 1 / kᵃ": "谱的衰减 a，σₖ = 1 / kᵃ",
        "relative error of the best fit": "最佳拟合的相对误差",
    }
    drawing.save(figure, folder, "spectra", zh)


def pivots(folder: Path) -> None:
    """What k directions leave of a weight: the best ones, pivoted columns, and columns as they stand."""
    rng = np.random.default_rng(0)
    size = 48
    U, V = (np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(2))
    W = U @ np.diag(1 / np.arange(1, size + 1)) @ V.T * rng.uniform(0.2, 2, size)
    total = np.linalg.norm(W)
    best = np.sqrt(np.maximum(0, 1 - np.cumsum(np.linalg.svd(W, compute_uv=False) ** 2) / total**2))
    left: dict[str, list[float]] = {"pivoted": [], "not pivoted": []}
    for name, values in left.items():
        rest = W.copy()
        for k in range(size):
            column = np.linalg.norm(rest, axis=0).argmax() if name == "pivoted" else k
            q = rest[:, column] / max(np.linalg.norm(rest[:, column]), 1e-12)
            rest = rest - np.outer(q, q @ rest)
            values.append(float(np.linalg.norm(rest) / total))
    ranks = np.arange(1, size + 1)
    figure, axes = drawing.canvas(height=3.2)
    axes.plot(ranks, left["not pivoted"], ":", label="QR, columns in their order")
    axes.plot(ranks, left["pivoted"], "--", label="QR with pivoting")
    axes.plot(ranks, best, "-", label="SVD, the best")
    axes.set(xlabel="directions kept", ylabel="share of W that is left (norm)", xlim=(1, size), ylim=(0, 1))
    axes.legend()
    zh = {
        "QR, columns in their order": "QR，列按原来的次序",
        "QR with pivoting": "列主元 QR",
        "SVD, the best": "SVD，最佳",
        "directions kept": "保留的方向数",
        "share of W that is left (norm)": "W 的剩余比例（范数）",
    }
    drawing.save(figure, folder, "pivots", zh)


def preference_loss(folder: Path) -> None:
    """The loss of a pair and its weight in the gradient, by the margin z."""
    z = np.linspace(-4, 4, 161)
    figure, axes = drawing.canvas(height=3.0)
    axes.plot(z, np.log1p(np.exp(-z)), "-", label="loss −log σ(z)")
    axes.plot(z, 1 / (1 + np.exp(z)), "--", label="weight σ(−z) of the pair in the gradient")
    axes.plot([0], [math.log(2)], "o", color=drawing.COLOURS[4], label="start: both models agree")
    axes.set(xlabel="margin z", ylabel="loss (nats) or weight", xlim=(-4, 4), ylim=(0, 4.1))
    axes.legend()
    zh = {
        "loss −log σ(z)": "损失 −log σ(z)",
        "weight σ(−z) of the pair in the gradient": "这一对在梯度中的权重 σ(−z)",
        "start: both models agree": "起点：两个模型一致",
        "margin z": "差值 z",
        "loss (nats) or weight": "损失（nat）或权重",
    }
    drawing.save(figure, folder, "preference-loss", zh)


def table(folder: Path) -> None:
    """Five accuracies with two standard errors on either side."""
    figure, axes = drawing.canvas(height=2.8)
    for place, (p, marker) in enumerate(zip(ACCURACIES.values(), "osD^v", strict=True)):
        error = 2 * math.sqrt(p * (100 - p) / 1319)
        axes.errorbar([p], [-place], xerr=[error], fmt=marker, color=drawing.COLOURS[0], capsize=3)
    axes.set_yticks([-k for k in range(len(ACCURACIES))], ["rsLoRA", "LoRA r = 32", "full fine-tuning", "DoRA", "AdaLoRA"])
    axes.set(xlabel="accuracy (%) and two standard errors, n = 1319", ylabel="method", ylim=(-4.6, 0.6))
    zh = {
        "rsLoRA": "rsLoRA",
        "LoRA r = 32": "LoRA r = 32",
        "full fine-tuning": "全量微调",
        "DoRA": "DoRA",
        "AdaLoRA": "AdaLoRA",
        "method": "方法",
        "accuracy (%) and two standard errors, n = 1319": "准确率（%）与两倍标准误差，n = 1319",
    }
    drawing.save(figure, folder, "table", zh)


if __name__ == "__main__":
    run(
        hydralora,
        mixed_batches,
        dora,
        randlora,
        adalora,
        rank_budget,
        qr_lora,
        preferences,
        reading_a_table,
        quiz,
        pictures=[spectra, pivots, preference_loss, table],
        why_it_matters=why,
        where_the_literature_disagrees=beyond,
    )
