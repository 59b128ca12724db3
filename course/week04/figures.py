"""Prints the numbers of the worked examples in this folder's lecture notes.

    python course/week04/figures.py

Each line is an equation that stands in the section named above it, letter for letter, in both languages. Rows of a
matrix are separated by semicolons.
"""

from itertools import product

import numpy as np

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
    say("(1 + 2 + 1) / (1 + 2)", (1 + 2 + 1) / (1 + 2))
    say("(1 + 1 + 1) / (1 + 1)", (1 + 1 + 1) / (1 + 1))


def adapters() -> None:
    """Parameters of an adapter and of LoRA at one width."""
    width, bottleneck = 768, 64
    say("d", width)
    say("m", bottleneck)
    print(f"2 m d + d + m = {2 * bottleneck * width + width + bottleneck}")
    say("r", bottleneck)
    print(f"r (d + d) = {bottleneck * (width + width)}")


if __name__ == "__main__":
    run(forward, merge, set_rank, inject, gradient_checkpointing, adapters)
