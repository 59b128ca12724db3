"""Prints the numbers of the worked examples in this folder's lecture notes.

    python course/week04/figures.py

Each line is an equation that stands in the section named above it, letter for letter, in both languages. Rows of a
matrix are separated by semicolons.
"""

from itertools import product
from pathlib import Path

import numpy as np

from course.labs import drawing
from course.labs.worked import run, say

W0 = np.array([[1, 0, 2, 1], [0, 1, 1, 0], [2, 1, 0, 1]])
BIAS = np.array([1, 0, -1])
A = np.array([[1, 0, 1, -1], [0, 2, 1, 0]])
B = np.array([[1, 0], [0, 1], [1, -1]])
X = np.array([1, 1, 2, 0])
G = np.array([1, -1, 2])  # the gradient of the loss by the layer's output
ALPHA, RANK = 4, 2
SCALE = ALPHA / RANK
UPDATE = SCALE * B @ A
BRANCH = B @ A @ X
RATES = 10.0 ** np.arange(-4, -0.49, 0.25)

# Whether a target "q" means the Linear of that name, as the contract of inject_lora says in words.
MEANT = {"q": True, "block.0.q": True, "block.0.qkv": False, "block.1.q.proj": False, "seq": False, "block.0.v": False}


def frobenius(matrix: np.ndarray) -> float:
    """The Frobenius norm."""
    return float(np.sqrt((matrix**2).sum()))


def forward() -> None:
    """The layer's output, what a wrong scale gives, dropout, and the first gradients."""
    say("W_0", W0)
    say("b", BIAS)
    say("A", A)
    say("B", B)
    say("x", X)
    say(r"\alpha", ALPHA)
    say("r", RANK)
    say(r"\alpha / r", SCALE)
    pretrained = W0 @ X + BIAS
    say("W_0 x + b", pretrained)
    say("A x", A @ X)
    say("B A x", BRANCH)
    say("y", pretrained + SCALE * BRANCH)
    say(r"y_{\alpha}", pretrained + ALPHA * BRANCH)
    # Dropout with p = 1/2 doubles what it keeps; `keep` is first one mask, then each of the 2^4 equally likely ones.
    say("p", 1 / 2)
    say(r"\tilde x", 2 * np.array([1, 0, 1, 0]) * X)
    say(r"\tilde y", pretrained + SCALE * (B @ A @ (2 * np.array([1, 0, 1, 0]) * X)))
    masks = [np.array(keep) for keep in product([0, 1], repeat=len(X))]
    say("n", len(masks))
    say(r"\bar y", np.mean([pretrained + SCALE * (B @ A @ (2 * keep * X)) for keep in masks], axis=0))
    say("g", G)
    say(r"\lVert \partial L / \partial B \rVert_F", frobenius(SCALE * np.outer(G, A @ X)))
    say(r"\lVert \partial L / \partial A \rVert_F", frobenius(SCALE * np.outer((0 * B).T @ G, X)))
    say(r"\eta", 0.1)
    moved = -0.1 * SCALE * np.outer(G, A @ X)
    say("B_1", moved)
    say("B_1^\\top g", moved.T @ G)
    say(r"\lVert \partial L / \partial A \rVert_F \,|_{B = B_1}", frobenius(SCALE * np.outer(moved.T @ G, X)))
    width, rank = 4096, 16
    say("d", width)
    say(r"2 \cdot 16 d / d^2", 2 * rank / width)
    for rank in (8, 64):
        say(f"16 / {rank}", 16 / rank)
        say(rf"16 / \sqrt{{{rank}}}", 16 / np.sqrt(rank))


def merge() -> None:
    """The merged weight, an update counted twice, and what rounding leaves behind."""
    say(r"\Delta W", UPDATE)
    say(r"W_0 + \Delta W", W0 + UPDATE)
    say(r"(W_0 + \Delta W) x + b", (W0 + UPDATE) @ X + BIAS)
    say(r"y_{\text{twice}}", (W0 + UPDATE) @ X + BIAS + SCALE * BRANCH)
    rng = np.random.default_rng(0)
    count = 1_000_000
    widest, largest = 0.05, 0.005
    weight = rng.uniform(-widest, widest, count).astype(np.float32)
    change = rng.uniform(-largest, largest, count).astype(np.float32)
    back = (weight + change) - change  # float32 throughout: both operations round
    eps = np.finfo(np.float32).eps
    error = np.abs(back.astype(np.float64) - weight) / (eps * (np.abs(weight.astype(np.float64)) + np.abs(change)))
    print(f"N = {count}")
    say("w", widest)
    say(r"\delta", largest)
    say(r"f_{\ne}", (back != weight).mean())
    say(r"c_{\max}", error.max())
    print(rf"\varepsilon_{{\text{{fp32}}}} = 2^{{{np.log2(eps):.0f}}}")
    print(rf"\varepsilon_{{\text{{bf16}}}} = 1/{2**7}")  # seven stored bits of significand
    print(rf"\varepsilon_{{\text{{bf16}}}} / 4 = 1/{4 * 2**7}")


def set_rank() -> None:
    """Growing from rank 2 to 3, with its mistakes, and shrinking to 1."""
    grown = 3
    factor = grown / RANK
    say("r'", grown)
    say("r' / r", factor)
    say(r"\alpha / r'", ALPHA / grown)
    say(r"\lVert \Delta W \rVert_F", frobenius(UPDATE))
    say(r"\lVert \Delta W \rVert_F r / r'", frobenius(UPDATE) / factor)
    say(r"\lVert \Delta W \rVert_F r' / r", frobenius(UPDATE) * factor)
    fresh = np.array([0, 1, -1, 1])
    say("a", fresh)
    say(r"\partial L / \partial c", ALPHA / grown * G * (fresh @ X))
    first, second = np.linalg.svd(UPDATE, compute_uv=False)[:RANK]
    say(r"\sigma_1", first)
    say(r"\sigma_2", second)
    for kept, left_out in ((1, 1), (2, 0)):
        say(f"e_{kept}", frobenius(SCALE * np.outer(B[:, left_out], A[left_out])))


def inject() -> None:
    """How many names three rules match, and how many parameters train."""
    say(r"n_{\text{dotted}}", sum(MEANT.values()))
    say(r"n_{\text{ending}}", sum(name.endswith("q") for name in MEANT))
    say(r"n_{\text{substring}}", sum("q" in name for name in MEANT))
    width, rank, tokens = 4, 2, 50
    linear, norm, embedding = width * width + width, 2 * width, tokens * width
    factors = rank * (width + width)
    total = embedding + 3 * linear + norm + 2 * factors  # q, k, v; q and v adapted
    say("d", width)
    say("V", tokens)
    say("P", total)
    say("r (d + d)", factors)
    say(r"P_{\text{train}}", 2 * factors)
    say(r"P_{\text{train}} / P", 2 * factors / total)
    say(r"P_{\text{targets}}", total - 2 * linear)


def gradient_checkpointing() -> None:
    """Stored tensors and matrix products, counted."""
    blocks, stored = 12, 10
    say("m", blocks)
    say("k", stored)
    say("m k", blocks * stored)
    say("m + k", blocks + stored)
    say("m'", 48)
    say("m' k", 48 * stored)
    say("m' + k", 48 + stored)
    say(r"\sqrt{m' k}", np.sqrt(48 * stored))
    say(r"2 \sqrt{m' k}", 2 * np.sqrt(48 * stored))
    say("(1 + 2 + 1) / (1 + 2)", (1 + 2 + 1) / (1 + 2))
    say("(1 + 1 + 1) / (1 + 1)", (1 + 1 + 1) / (1 + 1))


def lora_plus() -> None:
    """What one step of equal size in every entry does to the outputs of both factors."""
    width, rank, rate = 4096, 16, 1e-4
    say("n", width)
    say("r", rank)
    print(r"\eta = 10^{-4}")
    say(r"n \eta", width * rate)
    say(r"r \eta", rank * rate)
    say("n / r", width / rank)
    say(r"\lambda", 16)
    for name, ratio in (("LoRA", 1), ("LoRA+", 16)):
        print(rf"\min_\eta e_{{\text{{{name}}}}} = {min(adam(ratio, rate) for rate in RATES):.2g}")


def quiz() -> None:
    """The numbers of the questions."""
    say(r"d_{\text{in}}", 4)
    say(r"d_{\text{out}}", 3)
    say("r (d_{\\text{in}} + d_{\\text{out}})", 2 * (4 + 3))
    say("16 / 4", 16 / 4)
    say("16 / 8", 16 / 8)


def adapters() -> None:
    """Parameters of an adapter and of LoRA at one width."""
    width, bottleneck = 768, 64
    say("d", width)
    say("m", bottleneck)
    print(f"2 m d + d + m = {2 * bottleneck * width + width + bottleneck}")
    say("r", bottleneck)
    print(f"r (d + d) = {bottleneck * (width + width)}")


def regression(rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A weight error of rank 4 that the branch has to learn (inputs white), and factors as LoRA starts them."""
    rng = np.random.default_rng(0)
    width = 32
    target = rng.standard_normal((width, 4)) @ rng.standard_normal((4, width)) / width
    return target, rng.uniform(-1, 1, (rank, width)) / np.sqrt(width), np.zeros((width, rank))


def first_gradients(folder: Path) -> None:
    """Norms of both factors' gradients over the steps of gradient descent from B = 0."""
    target, *factors = regression(4)
    scale, rate, norms = 2.0, 0.05, []
    for _ in range(61):
        row, column = factors
        error = scale * column @ row - target
        slopes = (scale * column.T @ error, scale * error @ row.T)
        norms.append([frobenius(slope) for slope in slopes])
        factors = [factor - rate * slope for factor, slope in zip(factors, slopes, strict=True)]
    figure, axes = drawing.canvas()
    for k, (name, style) in enumerate((("gradient of A", "-"), ("gradient of B", "--"))):
        axes.plot(range(len(norms)), [pair[k] for pair in norms], style, label=name)
    axes.set(xlabel="step", ylabel="Frobenius norm of the gradient", xlim=(0, len(norms) - 1), ylim=(0, None))
    axes.legend()
    zh = {"gradient of A": "A 的梯度", "gradient of B": "B 的梯度", "step": "步"}
    drawing.save(figure, folder, "first-gradients", zh | {"Frobenius norm of the gradient": "梯度的 Frobenius 范数"})


def shrinking(folder: Path) -> None:
    """What is lost of a rank-16 update by the two ways to cut it."""
    rng = np.random.default_rng(1)
    width, rank = 64, 16
    scales = 0.8 ** np.arange(rank)
    mixed = np.linalg.qr(rng.standard_normal((rank, rank)))[0]  # G and its inverse may stand between the factors
    B = rng.standard_normal((width, rank)) * scales @ mixed
    A = mixed.T @ rng.standard_normal((rank, width))
    spectrum = np.linalg.svd(B @ A, compute_uv=False)[:rank]
    kept = range(1, rank + 1)
    best = [frobenius(spectrum[k:]) / frobenius(spectrum) for k in kept]
    first = [frobenius(B[:, k:] @ A[k:]) / frobenius(spectrum) for k in kept]
    figure, axes = drawing.canvas()
    axes.plot(kept, first, "s--", label="first k columns of B and rows of A")
    axes.plot(kept, best, "o-", label="truncated SVD of the product")
    axes.set(xlabel="rank kept, k", ylabel="relative error (Frobenius norm)", ylim=(0, None), xticks=range(2, rank + 1, 2))
    axes.legend()
    zh = {
        "first k columns of B and rows of A": "B 的前 k 列和 A 的前 k 行", "truncated SVD of the product": "乘积的截断奇异值分解",
        "rank kept, k": "保留的秩 k", "relative error (Frobenius norm)": "相对误差（Frobenius 范数）",
    }  # fmt: skip
    drawing.save(figure, folder, "shrinking", zh)


def segments(folder: Path) -> None:
    """Tensors alive at the peak by the number of checkpointed segments."""
    blocks, stored = 48, 10
    counts = [s for s in range(1, blocks + 1) if blocks % s == 0]
    figure, axes = drawing.canvas()
    axes.plot(counts, [s + blocks // s * stored for s in counts], "o-", label="checkpointed")
    axes.axhline(blocks * stored, linestyle="--", color=drawing.COLOURS[1], label="nothing checkpointed")
    axes.set(xlabel="segments", ylabel="tensors kept at the peak", xscale="log", ylim=(0, 540))
    axes.set_xticks(counts, [str(s) for s in counts])
    axes.minorticks_off()
    axes.legend(loc="center right")
    zh = {"segments": "段数", "tensors kept at the peak": "峰值时保留的张量个数"}
    drawing.save(figure, folder, "segments", zh | {"checkpointed": "启用检查点", "nothing checkpointed": "不用检查点"})


def adam(ratio: float, rate: float, steps: int = 100) -> float:
    """The loss after Adam from LoRA's start, with B's rate `ratio` times A's and both falling linearly to zero."""
    target, *factors = regression(8)
    rates, first, second = (rate, ratio * rate), [0.0, 0.0], [0.0, 0.0]
    for step in range(1, steps + 1):
        A, B = factors
        error = B @ A - target
        for k, gradient in enumerate((B.T @ error, error @ A.T)):
            first[k] = 0.9 * first[k] + 0.1 * gradient
            second[k] = 0.999 * second[k] + 0.001 * gradient**2
            size = np.sqrt(second[k] / (1 - 0.999**step)) + 1e-8
            factors[k] = factors[k] - rates[k] * (1 - step / steps) * first[k] / (1 - 0.9**step) / size
    return frobenius(factors[1] @ factors[0] - target) / frobenius(target)


def rate_sweep(folder: Path) -> None:
    """LoRA and LoRA+ over the learning rate."""
    figure, axes = drawing.canvas()
    for ratio, name, style in ((1, "LoRA", "o-"), (16, "LoRA+, λ = 16", "s--")):
        axes.plot(RATES, [adam(ratio, rate) for rate in RATES], style, label=name)
    axes.set(xlabel="learning rate of A", ylabel="relative error of ΔW", xscale="log", yscale="log")
    axes.legend(loc="lower left")
    zh = {
        "learning rate of A": "A 的学习率",
        "relative error of ΔW": "ΔW 的相对误差",
        "LoRA": "LoRA",
        "LoRA+, λ = 16": "LoRA+，λ = 16",
    }
    drawing.save(figure, folder, "rate-sweep", zh)


if __name__ == "__main__":
    run(
        forward, merge, set_rank, inject, gradient_checkpointing, adapters, quiz,
        pictures=[first_gradients, shrinking, segments, rate_sweep], lora=lora_plus,
    )  # fmt: skip
