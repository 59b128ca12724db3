"""Prints the numbers of the worked examples in this folder's lecture notes.

    python course/week12/figures.py

Each line is an equation that stands in the section named above it, letter for letter, in both languages.
"""

import itertools
from pathlib import Path

import numpy as np

from course.labs import drawing
from course.labs.worked import run, say, show

LEVEL = 0.05
DIFFERENCES = np.array([3, 1, 2, 4, -1])


def flipped(d: np.ndarray) -> np.ndarray:
    """The sums of the differences under every vector of signs."""
    return np.array([np.dot(signs, d) for signs in itertools.product((1, -1), repeat=len(d))])


def best_of(k: int) -> float:
    """The expected largest of k standard normal numbers."""
    grid = np.linspace(-8, 8, 160_001)
    density = np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi)
    below = np.cumsum(density) * (grid[1] - grid[0])
    return float((grid * k * below ** (k - 1) * density).sum() * (grid[1] - grid[0]))


def why() -> None:
    """What reporting the best of five seeds is worth."""
    say("k", 5)
    say("s", 0.03)
    say("E_k", best_of(5))
    say("E_k s", 0.03 * best_of(5))


def experiment() -> None:
    """Three seeds, two denominators."""
    x = np.array([0.8, 0.83, 0.77])
    say("x", x)
    say(r"\bar x", x.mean())
    say("s", x.std(ddof=1))
    say("s_n", x.std())
    drawn = np.random.RandomState(0).rand(3)
    say("u", drawn)


def comparison() -> None:
    """An exact sign-flip test of five differences, and one bootstrap interval of three values."""
    d = DIFFERENCES
    sums = flipped(d)
    count = int((abs(sums) >= abs(d.sum())).sum())
    say("d", d)
    say(r"\sum_i d_i", d.sum())
    print(f"2^{{{len(d)}}} = {len(sums)}")
    print(f"p = {count} / {len(sums)} = {show(count / len(sums))}")
    print(f"p_{{\\min}} = 2 / {len(sums)} = {show(2 / len(sums))}")
    means = np.array([1, 4, 2, 3, 6])
    say(r"\bar x^*", means)
    low, high = np.quantile(means, [0.1, 0.9])
    say(r"\ell", 0.8)
    say("I", [low, high])
    spread, rho = 0.03, 0.8
    say("s_a", spread)
    say("s_b", spread)
    say(r"\rho", rho)
    say("s_d", spread * np.sqrt(2 * (1 - rho)))
    say("s_u", spread * np.sqrt(2))
    say("s_u^2 / s_d^2", 1 / (1 - rho))


def report() -> None:
    """Two comparisons with the same difference."""
    say(r"\Delta", 0.02)
    say("I_1", [-0.01, 0.05])
    say("I_2", [0.005, 0.035])
    say("I_3", [-0.01, 0.015])
    say("M", 0.02)


def holm() -> None:
    """Four p-values, adjusted."""
    p = np.array([0.005, 0.01, 0.03, 0.04])
    factors = np.arange(len(p), 0, -1)
    say("p", p)
    say("m", len(p))
    say("f", factors)
    say("f p", factors * p)
    say(r"\tilde p", np.maximum.accumulate((factors * p).clip(max=1)))
    say(r"\text{level}", LEVEL)
    say("1 - (1 - 0.05)^4", 1 - (1 - LEVEL) ** 4)


def quiz() -> None:
    """The numbers of the questions."""
    say("d", [2, 1, 1, 3])
    sums = flipped(np.array([2, 1, 1, 3]))
    print(f"p = 2 / {len(sums)} = {show(2 / len(sums))}")
    say("p", [0.02, 0.04])
    say(r"\tilde p", [0.04, 0.04])
    say("m", 2)
    say("I", [-0.02, 0.04])


def sign_flips(folder: Path) -> None:
    """How many of the vectors of signs give each sum of the example's differences."""
    sums = flipped(DIFFERENCES)
    values, counts = np.unique(sums, return_counts=True)
    extreme = abs(values) >= abs(DIFFERENCES.sum())
    figure, axes = drawing.canvas(height=3.0)
    axes.bar(values[~extreme], counts[~extreme], width=1.4, color=drawing.COLOURS[5], label="less extreme")
    axes.bar(
        values[extreme], counts[extreme], width=1.4, color=drawing.COLOURS[1], hatch="//", label="as extreme as what was seen"
    )
    axes.set(xlabel="sum of the differences with their signs drawn anew", ylabel="vectors of signs (count)", ylim=(0, 5.6))
    axes.legend(loc="upper center", ncols=2)
    zh = {
        "less extreme": "不那么极端",
        "as extreme as what was seen": "与观测值同样极端",
        "sum of the differences with their signs drawn anew": "重新抽取符号之后各差之和",
        "vectors of signs (count)": "符号向量（个数）",
    }
    drawing.save(figure, folder, "sign-flips", zh)


def pairing(folder: Path) -> None:
    """How far pairing shrinks the standard deviation of a difference, by the correlation of the two scores."""
    rho = np.linspace(-0.5, 1, 151)
    figure, axes = drawing.canvas(height=3.0)
    axes.plot(rho, np.sqrt(2 * (1 - rho)), label="paired")
    axes.plot(rho, np.full_like(rho, np.sqrt(2)), "--", label="not paired")
    axes.plot([0.8], [np.sqrt(0.4)], "o", color=drawing.COLOURS[4], label="the example")
    axes.set(xlabel="correlation ρ of the two scores", ylabel="standard deviation of d, in s", xlim=(-0.5, 1), ylim=(0, 1.9))
    axes.legend(loc="lower left")
    zh = {
        "paired": "配对",
        "not paired": "不配对",
        "the example": "算例",
        "correlation ρ of the two scores": "两个得分的相关系数 ρ",
        "standard deviation of d, in s": "d 的标准差（以 s 为单位）",
    }
    drawing.save(figure, folder, "pairing", zh)


def verdicts(folder: Path) -> None:
    """Three intervals, the zero, and a margin of equality."""
    rows = {"I₁: inconclusive": (-0.01, 0.05), "I₂: first higher": (0.005, 0.035), "I₃: equal within M": (-0.01, 0.015)}
    figure, axes = drawing.canvas(height=2.6)
    axes.axvspan(-0.02, 0.02, color=drawing.COLOURS[5], alpha=0.2, label="margin −M to M")
    axes.axvline(0, color=drawing.INK, linewidth=0.8)
    for place, ((low, high), marker) in enumerate(zip(rows.values(), "os^", strict=True)):
        axes.plot([low, high], [-place, -place], "-", color=drawing.COLOURS[0])
        axes.plot([(low + high) / 2], [-place], marker, color=drawing.COLOURS[0])
    axes.set_yticks([0, -1, -2], list(rows))
    axes.set(xlabel="difference of the accuracies, first minus second", ylabel="comparison", ylim=(-2.6, 0.9))
    axes.legend(loc="lower right")
    zh = {
        "I₁: inconclusive": "I₁：无法定论",
        "I₂: first higher": "I₂：第一个更高",
        "I₃: equal within M": "I₃：在 M 之内相等",
        "margin −M to M": "界限 −M 至 M",
        "comparison": "比较",
        "difference of the accuracies, first minus second": "准确率之差（第一个减第二个）",
    }
    drawing.save(figure, folder, "verdicts", zh)


def family(folder: Path) -> None:
    """The probability of one or more false finds among independent comparisons of which none differs."""
    m = np.arange(1, 11)
    figure, axes = drawing.canvas(height=3.0)
    axes.plot(m, 1 - (1 - LEVEL) ** m, "o-", label="each at the level 0.05")
    axes.plot(m, 1 - (1 - LEVEL / m) ** m, "s--", label="corrected (Bonferroni, Holm)")
    axes.set(xlabel="number of comparisons m", ylabel="probability of a false find", xlim=(0.5, 10.5), ylim=(0, 0.45))
    axes.legend(loc="upper left")
    zh = {
        "each at the level 0.05": "各自取水平 0.05",
        "corrected (Bonferroni, Holm)": "校正之后（Bonferroni、Holm）",
        "number of comparisons m": "比较的个数 m",
        "probability of a false find": "错误发现的概率",
    }
    drawing.save(figure, folder, "false-finds", zh)


if __name__ == "__main__":
    run(
        why_it_matters=why,
        run_experiment=experiment,
        paired_comparison=comparison,
        report=report,
        holm=holm,
        quiz=quiz,
        pictures=[sign_flips, pairing, verdicts, family],
    )
