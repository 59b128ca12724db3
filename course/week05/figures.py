"""Prints the numbers of the worked examples in this folder's lecture notes.

    python course/week05/figures.py

Each line is an equation that stands in the section named above it, letter for letter, in both languages.
"""

from pathlib import Path
from statistics import NormalDist

import numpy as np

from course.labs import drawing
from course.labs.worked import run, say

FP4 = np.array([0, 1 / 192, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 1])  # bitsandbytes' table; each value has both signs


DELTA = np.mean([1 - 1 / 30, 1 - 1 / 32])


def halves() -> list[list[float]]:
    """NF4's quantiles in standard deviations, without zero: negative, positive."""
    found = []
    for count in (7, 8):
        probabilities = [0.5 + (DELTA - 0.5) * i / count for i in range(1, count + 1)]
        found.append([NormalDist().inv_cdf(p) for p in probabilities])
    return [[-q for q in reversed(found[0])], found[1]]


LOWER, UPPER = halves()
NF4 = np.array([*LOWER, 0, *UPPER]) / UPPER[-1]


def nearest(x: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The index of the nearest value of an ascending table."""
    below = np.searchsorted(table, x).clip(1, len(table) - 1)
    return np.where(x - table[below - 1] <= table[below] - x, below - 1, below)


def codebook() -> None:
    """The table of NF4, and errors of 4-bit types on normal numbers."""
    say("k", 4)
    say("2^k", 2**4)
    say("n_-", len(LOWER))
    say("n_+", len(UPPER))
    say(r"\delta = (1 - 1/30 + 1 - 1/32) / 2", DELTA)
    say(r"Q(\delta)", UPPER[-1])
    say("q_{0..7}", NF4[:8])
    say("q_{8..15}", NF4[8:])
    say(r"\max_i (q_{i+1} - q_i) / 2", np.diff(NF4).max() / 2)


def errors(block: int = 64) -> dict[str, float]:
    """Mean squared errors of a million draws from N(0, 1) in blocks."""
    x = np.random.default_rng(0).standard_normal((2**20 // block, block))
    absmax = np.abs(x).max(axis=1, keepdims=True)
    fp4 = np.unique([*-FP4, *FP4])
    low, high = x.min(axis=1, keepdims=True), x.max(axis=1, keepdims=True)
    step = (high - low) / 15
    shift = np.rint(-low / step)
    rounded = {
        "NF4": NF4[nearest(x / absmax, NF4)] * absmax,
        "FP4": fp4[nearest(x / absmax, fp4)] * absmax,
        "sym": np.rint(x / absmax * 7) / 7 * absmax,
        "aff": (np.clip(np.rint(x / step) + shift, 0, 15) - shift) * step,
    }
    return {name: float(((y - x) ** 2).mean()) for name, y in rounded.items()}


def blocks() -> None:
    """Two blocks, quantised by their own constants and by one for both."""
    x = np.array([0.5, -2, 1, 0.1, 0.02, 0.01, -0.04, 0.03])
    say("B", 64)
    say("x", x)
    say(r"\mathrm{block\_size}", 4)
    pair = x.reshape(2, 4)
    absmax = np.abs(pair).max(axis=1)
    say("c", absmax)
    codes = nearest(pair / absmax[:, None], NF4)
    say("x / c", (pair / absmax[:, None]).ravel())
    say(r"\mathrm{codes}", codes.ravel())
    say(r"\hat x", (NF4[codes] * absmax[:, None]).ravel())
    say(r"\hat x_{\text{one}}", (NF4[nearest(x / absmax.max(), NF4)] * absmax.max())[4:])
    say(r"|\hat x - x| / c \le \max_i (q_{i+1} - q_i) / 2", np.diff(NF4).max() / 2)
    for name, index in (("0", 0), ("7", 7)):
        say(f"q_{{{name}}}", NF4[index])


def double_quantisation() -> None:
    """Four constants, with and without their mean."""
    tree = [(0.1 + 0.9 * (k + 0.5) / 2 ** (6 - e)) / 10**e for e in range(7) for k in range(2 ** (6 - e))]
    table = np.array(sorted([0, 1, *tree, *(-value for value in tree)]))
    constants = np.array([2, 3, 2.5, 4.5])
    mean = constants.mean()
    scale = np.abs(constants - mean).max()
    restored = table[nearest((constants - mean) / scale, table)] * scale + mean
    raw = table[nearest(constants / constants.max(), table)] * constants.max()
    say("c_2", constants)
    say(r"\bar c", mean)
    say(r"c_2 - \bar c", constants - mean)
    say("c_1", scale)
    say(r"\hat c_2", restored)
    say(r"\max |\hat c_2 - c_2|", np.abs(restored - constants).max())
    say(r"\max |\hat c_{\text{raw}} - c_2|", np.abs(raw - constants).max())
    for name, value in (("k_2", 8), ("b_2", 256), ("b", 64), ("k", 4)):
        say(name, value)


def qlora_layer() -> None:
    """What one layer keeps, in millions of bytes."""
    width, rank = 4096, 16
    weights = width * width
    say("d", width)
    say("r", rank)
    say("2 d^2 / 10^6", 2 * weights / 1e6)
    say("(4 + 8/64 + 32/(64 \\cdot 256)) d^2 / (8 \\cdot 10^6)", (4 + 8 / 64 + 32 / (64 * 256)) * weights / 8e6)
    say("2 r (d + d) / 10^6", 2 * rank * 2 * width / 1e6)


def affine_quantisation() -> None:
    """One block in 4 bits, and the errors of four types."""
    x = np.array([-1, 0, 2.4, 4])
    step = (x.max() - x.min()) / 15
    shift = np.rint(-x.min() / step)
    q = np.rint(x / step) + shift
    say("x", x)
    say(r"2^4 - 1", 15)
    say("s", step)
    say("z", shift)
    say("q", q)
    say(r"\hat x", step * (q - shift))
    say("3 - 5", -2)
    say(r"3 - 5 \bmod 2^8", (3 - 5) % 2**8)
    found = errors()
    for name in ("NF4", "FP4", "sym", "aff"):
        say(rf"e_{{\text{{{name}}}}}", found[name])
    say(r"e_{\text{NF4}} / e_{\text{sym}}", found["NF4"] / found["sym"])
    say(r"e_{\text{NF4}} / e_{\text{aff}}", found["NF4"] / found["aff"])
    say("b", 64)
    say("k", 4)


def packing() -> None:
    """Two codes in a byte."""
    say("k_1", 10)
    say("k_2", 3)
    say("16 k_1 + k_2", 16 * 10 + 3)
    say(r"\lfloor 163 / 16 \rfloor", 163 // 16)
    say(r"163 \bmod 16", 163 % 16)
    say("k", 4)


def bits_per_parameter() -> None:
    """The paper's count."""
    one, two = 32 / 64, 8 / 64 + 32 / (64 * 256)
    say("32 / 64", one)
    say(r"8 / 64 + 32 / (64 \cdot 256)", two)
    say(r"4 + 8 / 64 + 32 / (64 \cdot 256)", 4 + two)
    say(r"\Delta", one - two)
    say(r"2 \cdot 70", 140)
    say(r"4.127 \cdot 70 / 8", (4 + two) * 70 / 8)
    say(r"\Delta \cdot 65 \cdot 10^9 / (8 \cdot 10^9)", (one - two) * 65 / 8)


def quiz() -> None:
    """The numbers of the questions."""
    constants = 4096**2 // 64
    say("x", [0.3, -0.6, 0, 0.1])
    say("c", 0.6)
    say("B", 64)
    say("4096^2 / 64", constants)
    say(r"4 \cdot 262144 / 10^6", 4 * constants / 1e6)
    say("262144 / 256", constants // 256)
    say(r"(262144 + 4 \cdot 1024) / 10^6", (constants + 4 * (constants // 256)) / 1e6)
    say(r"4.127 \cdot 70 / 8", 4.127 * 70 / 8)
    say(r"m_{\text{card}}", 24)


def codes(folder: Path) -> None:
    """The values of four 4-bit types, and where normal numbers lie in a block of 64."""
    x = np.random.default_rng(0).standard_normal((4096, 64))
    x /= np.abs(x).max(axis=1, keepdims=True)
    heights, edges = np.histogram(x, bins=80, range=(-1, 1), density=True)
    figure, (upper, lower) = drawing.canvas(height=4.2, rows=2)
    upper.step(edges[:-1], heights, where="post")
    upper.set(xlabel="number divided by its block's constant", ylabel="density", xlim=(-1.05, 1.05), ylim=(0, None))
    types = {"NF4": NF4, "FP4": np.unique([*-FP4, *FP4]), "symmetric INT4": np.arange(-7, 8) / 7}
    for row, ((_, values), mark) in enumerate(zip(types.items(), ("o", "s", "^"), strict=True)):
        lower.plot(values, np.full(len(values), -row), mark)
    lower.set_yticks([0, -1, -2], types)
    lower.set(xlabel="value of a code", ylabel="type", xlim=(-1.05, 1.05), ylim=(-2.5, 0.5))
    zh = {"number divided by its block's constant": "数值除以所在块的常数", "density": "密度", "symmetric INT4": "对称 INT4"}
    drawing.save(figure, folder, "codes", zh | {"value of a code": "码代表的值", "type": "类型", "NF4": "NF4", "FP4": "FP4"})


def usage(folder: Path) -> None:
    """How often each code of NF4 is used."""
    figure, axes = drawing.canvas()
    for place, block in ((-0.2, 64), (0.2, 1024)):
        x = np.random.default_rng(0).standard_normal((2**20 // block, block))
        found = nearest(x / np.abs(x).max(axis=1, keepdims=True), NF4)
        share = 100 * np.bincount(found.ravel(), minlength=16) / x.size
        hatch = "" if block == 64 else "///"
        axes.bar(np.arange(16) + place, share, 0.4, label=f"block of {block}", hatch=hatch, edgecolor=drawing.INK, linewidth=0.4)
    axes.axhline(100 / 16, linestyle="--", color=drawing.COLOURS[4], label="equal use")
    axes.set(xlabel="code", ylabel="share of the numbers (%)", xticks=range(16))
    axes.legend()
    zh = {"block of 64": "块大小 64", "block of 1024": "块大小 1024", "equal use": "使用次数相等", "code": "码"}
    drawing.save(figure, folder, "usage", zh | {"share of the numbers (%)": "占全部数值的比例（%）"})


def error_by_block(folder: Path) -> None:
    """Mean squared errors of four types by the size of the block."""
    blocks = 2 ** np.arange(4, 13)
    found = [errors(int(block)) for block in blocks]
    names = {"FP4": "FP4", "sym": "symmetric INT4", "NF4": "NF4", "aff": "affine INT4"}
    figure, axes = drawing.canvas()
    for (key, name), style in zip(names.items(), ("^-.", "s--", "o-", "D:"), strict=True):
        axes.plot(blocks, [each[key] for each in found], style, label=name)
    axes.set(xlabel="numbers in a block", ylabel="mean squared error (variance 1)", xscale="log", ylim=(0, None))
    axes.set_xticks(blocks, [str(block) for block in blocks])
    axes.minorticks_off()
    axes.legend()
    zh = {"symmetric INT4": "对称 INT4", "affine INT4": "仿射 INT4", "numbers in a block": "每块的数值个数"}
    drawing.save(figure, folder, "error-by-block", zh | {"mean squared error (variance 1)": "均方误差（方差为 1）", "FP4": "FP4"})


if __name__ == "__main__":
    run(
        codebook, blocks, double_quantisation, qlora_layer, affine_quantisation, packing, bits_per_parameter, quiz,
        pictures=[codes, usage, error_by_block],
    )  # fmt: skip
