"""Prints the numbers of the worked examples in this folder's lecture notes.

    python course/week02/figures.py

Each line is an equation that stands in the section named above it, letter for letter, in both languages. Rows of a
matrix are separated by semicolons.
"""

from pathlib import Path

import numpy as np

from course.labs import drawing
from course.labs.worked import run, say

D = np.array([[3, 0], [4, 5]])  # the update that a rank-1 layer has to learn
W0 = np.eye(2)
X = np.array([[1, 1], [1, -1]])  # X^T X / n is the identity, so the loss is half the squared distance of the weights
Y = X @ (W0 + D).T
ALPHA, LR = 2, 0.05


def loss(b: np.ndarray, a: np.ndarray) -> float:
    """Half the mean squared residual of the rank-1 layer."""
    residual = X @ (W0 + ALPHA * np.outer(b, a)).T - Y
    return float((residual**2).sum()) / (2 * len(X))


def weight_gradient(b: np.ndarray, a: np.ndarray) -> np.ndarray:
    """The gradient by the effective weight; X^T X / n is the identity."""
    return ALPHA * np.outer(b, a) - D


def truncated_svd() -> None:
    """A rank-1 approximation, its error beside that of two shortcuts, and the best rank 8 of a rank-10 matrix."""
    left, values, right = np.linalg.svd(D)
    best = values[0] * np.outer(left[:, 0], right[0])
    say("W", D)
    say(r"\sigma_1", values[0])
    say(r"\sigma_2", values[1])
    say("W_1", best)
    say(r"\lVert W - W_1 \rVert_F^2", ((D - best) ** 2).sum())
    say(r"\sigma_2^2", values[1] ** 2)
    say("P_1", np.outer(left[:, 0], left[:, 0]))
    say(r"\sigma_1^2 / (\sigma_1^2 + \sigma_2^2)", values[0] ** 2 / (values**2).sum())
    first = D[:, 0] / np.linalg.norm(D[:, 0])
    say(r"e^2_{\text{QR}}", ((D - np.outer(first, first @ D)) ** 2).sum())
    say(r"e^2_{\text{column}}", (D[:, 1:] ** 2).sum())
    size, true, rank = 1000, 10, 8
    drawn = np.random.RandomState(42)
    tall, wide = drawn.randn(size, true), drawn.randn(true, size)
    M = tall @ wide
    spectrum = np.linalg.svd(np.linalg.qr(tall)[1] @ np.linalg.qr(wide.T)[1].T, compute_uv=False)
    deviation = 0.01
    A, B = deviation * drawn.randn(rank, size), deviation * drawn.randn(size, rank)
    say("d", size)
    say(r"\text{rank}(M)", true)
    say("r", rank)
    say(r"\text{seed}", 42)
    say(r"e_{\text{best}}", np.sqrt((spectrum[rank:] ** 2).sum() / (spectrum**2).sum()))
    say(r"\tau", deviation)
    print(rf"e_{{\text{{untrained}}}} = {np.linalg.norm(M - B @ A) / np.linalg.norm(M):.8f}")
    print(f"2 r d = {2 * rank * size}")
    print(f"d^2 = {size**2}")


def gradients() -> None:
    """Loss and gradients at one point, a central difference, and the start."""
    b, a = np.array([1, 1]), np.array([1, 0])
    G = weight_gradient(b, a)
    say("W_0", W0)
    say(r"\alpha", ALPHA)
    say("n", len(X))
    say("X", X)
    say("Y", Y)
    say("b", b)
    say("a", a)
    say(r"\hat Y", X @ (W0 + ALPHA * np.outer(b, a)).T)
    say("G", G)
    say("L", loss(b, a))
    say(r"\partial L / \partial b", ALPHA * G @ a)
    say(r"\partial L / \partial a", ALPHA * G.T @ b)
    unit = np.array([1, 0])
    up, down = loss(b + unit, a), loss(b - unit, a)
    say(r"(L_+ - L_-) / 2", (up - down) / 2)
    say("L_+", up)
    say("L_-", down)
    start = weight_gradient(0 * b, a)
    say(r"\partial L / \partial b \,|_{b = 0}", ALPHA * start @ a)
    say(r"\partial L / \partial a \,|_{b = 0}", ALPHA * start.T @ (0 * b))


STEPS = 200


def descent(steps: int, move_a: bool = True) -> list[float]:
    """The losses of gradient descent from b = 0, before the first step and after each."""
    b, a = np.zeros(2), np.array([1.0, 0.0])
    losses = [loss(b, a)]
    for _ in range(steps):
        slope = LR * ALPHA * weight_gradient(b, a)
        b, a = b - slope @ a, a - slope.T @ b * move_a
        losses.append(loss(b, a))
    return losses


def training() -> None:
    """The losses of simultaneous steps, where they end, and what a loop that moves b only reaches."""
    say(r"\Delta W", D)
    say(r"\eta", LR)
    say("a_0", [1, 0])
    slope = LR * ALPHA * weight_gradient(np.zeros(2), np.array([1.0, 0.0]))
    say("b_1", -slope @ [1, 0])
    say("a_1", [1, 0])
    losses = descent(STEPS)
    say("L_{0..3}", losses[:4])
    print(f"T = {STEPS}")
    say("L_T", losses[-1])
    say(r"\sigma_2^2 / 2", np.linalg.svd(D, compute_uv=False)[1] ** 2 / 2)
    say(r"L_{\text{b only}}", descent(STEPS, move_a=False)[-1])


def kronecker() -> None:
    """One product in both orders, and what a large one would cost."""
    A, B = np.array([[1, 2], [0, 1]]), np.array([[1, 0, 1], [0, 2, 1]])
    x = np.arange(1, 7)
    M = x.reshape(2, 3)
    say("A", A)
    say("B", B)
    say("x", x)
    say("M", M)
    say(r"A M B^\top", A @ M @ B.T)
    say(r"(A \otimes B) x", np.kron(A, B) @ x)
    say(r"(B \otimes A) x", np.kron(B, A) @ x)
    size = 1024
    print(f"m = n = p = q = {size}")
    print("8 m n p q = 2^{43}")
    print(f"m n q + m q p = 2^{{{np.log2(2 * size**3):.0f}}}")


def similarity() -> None:
    """Two lines in a plane, and random subspaces."""
    say(r"\cos^2 60^\circ", np.cos(np.pi / 3) ** 2)
    rng = np.random.default_rng(0)
    d, i, j, draws = 64, 2, 8, 2000
    total = 0.0
    for _ in range(draws):
        first, second = (np.linalg.qr(rng.standard_normal((d, k)))[0] for k in (i, j))
        total += float(((first.T @ second) ** 2).sum()) / min(i, j)
    say("d", d)
    say("i", i)
    say("j", j)
    print(f"N = {draws}")
    print(rf"\bar\phi = {total / draws:.3f}")
    say(r"\max(i, j) / d", max(i, j) / d)
    say(r"\min(i, j) / d", min(i, j) / d)


def amplification() -> None:
    """A diagonal example, and the ratios of the paper's rounded table."""
    W, dW = np.diag([2, 1]), np.diag([0, 3])
    say("W", W)
    say(r"\Delta W", dW)
    say(r"\lVert \Delta W \rVert_F", np.linalg.norm(dW))
    say(r"\lVert U^\top W V \rVert_F", 1)
    say(r"\lVert \Delta W \rVert_F / \lVert U^\top W V \rVert_F", 3)
    say(r"\lVert \Delta W \rVert_F / \lVert W \rVert_F", np.linalg.norm(dW) / np.linalg.norm(W))
    say("r", 4)
    say("6.91 / 0.32", 6.91 / 0.32)


def quiz() -> None:
    """The numbers of the questions."""
    sigma = np.array([4, 2, 1])
    say(r"\sigma", sigma)
    say(r"\sigma_2^2 + \sigma_3^2", (sigma[1:] ** 2).sum())
    say(r"\sqrt{5 / 21}", np.sqrt(5 / 21))
    say("i", 4)
    say("j", 16)
    say("d", 64)
    say(r"\max(i, j) / d", 16 / 64)


def training_loss(folder: Path) -> None:
    """The losses of the worked example, and the best that rank 1 can reach."""
    steps = 40
    figure, axes = drawing.canvas()
    axes.plot(range(steps + 1), descent(steps), "-", label="both factors move")
    axes.plot(range(steps + 1), descent(steps, move_a=False), "--", label="only b moves")
    floor = np.linalg.svd(D, compute_uv=False)[1] ** 2 / 2
    axes.axhline(floor, linestyle=":", color=drawing.COLOURS[2], label="σ₂² / 2, the best of rank 1")
    axes.set(xlabel="step", ylabel="loss", xlim=(0, steps), ylim=(0, 26))
    axes.legend()
    zh = {
        "both factors move": "两个因子都移动",
        "only b moves": "只移动 b",
        "σ₂² / 2, the best of rank 1": "σ₂² / 2，秩 1 的最小值",
    }
    drawing.save(figure, folder, "training-loss", zh | {"step": "步", "loss": "损失"})


def random_subspaces(folder: Path) -> None:
    """The similarity of random subspaces: the mean over draws, and the rule."""
    rng = np.random.default_rng(0)
    size, draws, dimensions = 64, 200, np.array([1, 2, 4, 8, 16, 32, 64])
    figure, axes = drawing.canvas()
    for i, mark, style in ((2, "o", "-"), (16, "s", "--")):
        means = []
        for j in dimensions:
            pairs = [[np.linalg.qr(rng.standard_normal((size, k)))[0] for k in (i, j)] for _ in range(draws)]
            means.append(np.mean([((one.T @ two) ** 2).sum() for one, two in pairs]) / min(i, j))
        (line,) = axes.plot(dimensions, np.maximum(i, dimensions) / size, style, label=f"max(i, j) / d, i = {i}")
        axes.plot(dimensions, means, mark, color=line.get_color(), label=f"mean of 200 draws, i = {i}")
    axes.set(xlabel="dimension j of the second subspace", ylabel="similarity φ", xscale="log", ylim=(0, 1.05))
    axes.set_xticks(dimensions, [str(j) for j in dimensions])
    axes.minorticks_off()
    axes.legend()
    zh = {f"max(i, j) / d, i = {i}": f"max(i, j) / d，i = {i}" for i in (2, 16)}
    zh |= {f"mean of 200 draws, i = {i}": f"200 次抽取的平均，i = {i}" for i in (2, 16)}
    zh |= {"dimension j of the second subspace": "第二个子空间的维数 j", "similarity φ": "相似度 φ"}
    drawing.save(figure, folder, "random-subspaces", zh)


def error_by_rank(folder: Path) -> None:
    """The relative error of the best rank-r approximation for three spectra of the same length."""
    size, ranks = 64, np.arange(65)
    k = np.arange(1, size + 1)
    spectra = {"all σₖ equal": np.ones(size), "σₖ = 1 / k": 1 / k, "σₖ = 1 / k²": 1 / k**2}
    figure, axes = drawing.canvas()
    for (name, sigma), style in zip(spectra.items(), ("-", "--", ":"), strict=True):
        kept = np.concatenate([[0], np.cumsum(sigma**2)])
        axes.plot(ranks, np.sqrt(np.maximum(0, 1 - kept / kept[-1])), style, label=name)
    axes.set(xlabel="rank r", ylabel="relative error (Frobenius norm)", xlim=(0, size), ylim=(0, 1.02))
    axes.legend()
    zh = {"all σₖ equal": "各 σₖ 相等", "rank r": "秩 r", "relative error (Frobenius norm)": "相对误差（Frobenius 范数）"}
    drawing.save(figure, folder, "error-by-rank", zh)


if __name__ == "__main__":
    run(
        truncated_svd, gradients, training, kronecker, similarity, amplification, quiz,
        pictures=[error_by_rank, training_loss, random_subspaces],
    )  # fmt: skip
