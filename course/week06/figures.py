"""Prints the numbers of the worked examples in this folder's lecture notes.

    python course/week06/figures.py

Each line is an equation that stands in the section named above it, letter for letter, in both languages.
"""

import math
from pathlib import Path

import numpy as np

from course.labs import drawing
from course.labs.worked import run, say


def to_bf16(values: np.ndarray) -> np.ndarray:
    """The nearest bfloat16: float32's upper half, rounded to even."""
    bits = values.astype(np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32).astype(np.float64)


def to_fp16(values: np.ndarray) -> np.ndarray:
    """The nearest float16."""
    return values.astype(np.float16).astype(np.float64)


def merge_error() -> None:
    """How many entries of an update a half-precision weight swallows."""
    rng = np.random.default_rng(0)
    count = 1_000_000
    weights, normal = 0.02 * rng.standard_normal(count), rng.standard_normal(count)
    print(f"N = {count}")
    say(r"\sigma_W", 0.02)
    for name, rounded in (("bf16", to_bf16), ("fp16", to_fp16)):
        stored = rounded(weights)
        for power in (4, 5):
            update = 10.0**-power * normal
            change = rounded(stored + update) - stored
            print(rf"f_{{\text{{{name}}}}}(10^{{-{power}}}) = {(change == 0).mean():.2g}")
            print(rf"e_{{\text{{{name}}}}}(10^{{-{power}}}) = {np.linalg.norm(change - update) / np.linalg.norm(update):.2g}")
    print(rf"\varepsilon_{{\text{{bf16}}}} = 2^{{{-7}}}")
    print(rf"\varepsilon_{{\text{{fp16}}}} = 2^{{{-10}}}")
    step = 2.0 ** math.floor(math.log2(0.02)) * 2.0**-7  # of bfloat16 around a weight of 0.02
    say(r"10^4 u / 2", 1e4 * step / 2)


def answers() -> None:
    """Precision, recall and F1 of two short answers."""
    got, right = ["cat", "sat", "on", "mat"], ["cat", "sat"]
    shared = len(set(got) & set(right))
    precision, recall = shared / len(got), shared / len(right)
    say("P", precision)
    say("R", recall)
    say("F_1", 2 * precision * recall / (precision + recall))
    say("(P + R) / 2", (precision + recall) / 2)
    same = len(set("低秩适配") & set("低秩分解"))
    say(r"F_1^{\text{zh}}", 2 * same / (4 + 4))


def perplexity() -> None:
    """Three ways to average over two batches, and the windows of a short text."""
    tokens, losses = np.array([2, 8]), np.array([3.0, 1.0])
    for i in (0, 1):
        say(f"n_{i + 1}", tokens[i])
        say(rf"\ell_{i + 1}", losses[i])
    mean = (tokens * losses).sum() / tokens.sum()
    say(r"\bar\ell", mean)
    say(r"e^{\bar\ell}", math.exp(mean))
    say(r"e^{(\ell_1 + \ell_2) / 2}", math.exp(losses.mean()))
    say(r"(e^{\ell_1} + e^{\ell_2}) / 2", np.exp(losses).mean())
    n, window, stride = 10, 4, 2
    windows = 1 + math.ceil((n - window) / stride)
    say("n", n)
    say("L", window)
    say("S", stride)
    say("K", windows)
    say("n - 1", n - 1)
    say("K (L - 1)", windows * (window - 1))


def training_data() -> None:
    """A dialogue in characters, two micro-batches, and a gradient that float16 loses."""
    user, assistant, hi, yes = (len(text) for text in ("<|user|>\n", "<|assistant|>\n", "hi", "yes"))
    print(f"{user} + {hi} + 1 = {user + hi + 1}")
    print(f"{assistant} + {yes} + 1 = {assistant + yes + 1}")
    print(f"{yes} + 1 = {yes + 1}")
    tokens, losses = np.array([1, 9]), np.array([4.0, 2.0])
    for i in (0, 1):
        say(f"n_{i + 1}", tokens[i])
        say(rf"\ell_{i + 1}", losses[i])
    say(r"(n_1 \ell_1 + n_2 \ell_2) / (n_1 + n_2)", (tokens * losses).sum() / tokens.sum())
    say(r"(\ell_1 + \ell_2) / 2", losses.mean())
    assert np.float16(2.0**-24) > 0 == np.float16(2.0**-26)
    print(r"x_{\min} = 2^{-24}")
    print(r"g = 2^{-27}")
    print(rf"2^{{16}} g = 2^{{{16 - 27}}}")


def bootstrap() -> None:
    """Percentile intervals of a win rate from few and from more dialogues."""
    for n in (20, 200):
        wins = 3 * n // 5
        drawn = np.random.default_rng(0).choice([1.0] * wins + [0.0] * (n - wins), (10_000, n)).mean(axis=1)
        say("n", n)
        say(rf"w_{{{n}}}", wins)
        say(rf"I_{{{n}}}", np.quantile(drawn, [0.025, 0.975]))
    say(r"\hat p", 3 / 5)
    say("1 - a", 0.95)
    print(r"n_{\text{half}} = 4 n")


def dialogue_evaluation() -> None:
    """Ties in a win rate, and two kinds of overall figures."""
    wins, ties, losses = 5, 3, 2
    n = wins + ties + losses
    for name, value in (("w", wins), ("t", ties), ("l", losses), ("n", n)):
        say(name, value)
    say("(w + t / 2) / n", (wins + ties / 2) / n)
    say("w / (w + l)", wins / (wins + losses))
    sizes, rates = np.array([8, 2]), np.array([0.75, 0.0])
    for i in (0, 1):
        say(f"n_{i + 1}", sizes[i])
        say(f"p_{i + 1}", rates[i])
    say("(n_1 p_1 + n_2 p_2) / (n_1 + n_2)", (sizes * rates).sum() / sizes.sum())
    say("(p_1 + p_2) / 2", rates.mean())


def quiz() -> None:
    """The numbers of the questions."""
    say("n_1", 3)
    say(r"\ell_1", 2)
    say("n_2", 1)
    say(r"\ell_2", 4)
    say(r"\bar\ell", 2.5)
    say(r"e^{\bar\ell}", math.exp(2.5))
    say(r"e^{(\ell_1 + \ell_2) / 2}", math.exp(3))
    say(r"\frac{1}{2} : \frac{1}{2 \cdot 9}", 9)
    say(r"2 s / (m + k)", 2 * 1 / (3 + 1))
    say(r"I_{20}", [0.4, 0.8])
    say("w", 12)


def lost_by_update(folder: Path) -> None:
    """The share of entries that merging loses, by the size of the updates."""
    rng = np.random.default_rng(0)
    weights, normal = 0.02 * rng.standard_normal(200_000), rng.standard_normal(200_000)
    sizes = 10.0 ** np.arange(-6.5, -1.9, 0.25)
    figure, axes = drawing.canvas()
    for name, rounded, style in (("bfloat16", to_bf16, "o-"), ("float16", to_fp16, "s--")):
        stored = rounded(weights)
        lost = [100 * (rounded(stored + size * normal) == stored).mean() for size in sizes]
        axes.plot(sizes, lost, style, label=name)
    axes.axvline(0.02, linestyle=":", color=drawing.INK, linewidth=1, label="the weights' size")
    axes.set(xlabel="standard deviation of the updates", ylabel="entries lost (%)", xscale="log", ylim=(0, 103))
    axes.legend()
    zh = {"bfloat16": "bfloat16", "float16": "float16", "the weights' size": "权重的大小", "entries lost (%)": "丢失的元素（%）"}
    drawing.save(figure, folder, "lost-by-update", zh | {"standard deviation of the updates": "更新量的标准差"})


def perplexity_by_batch(folder: Path) -> None:
    """Three averages of the same token losses, by the size of the batches."""
    rng = np.random.default_rng(0)
    texts = [rng.gamma(2, 1.5 / (1 + length / 40), length) for length in rng.integers(2, 120, 256)]
    sizes = 2 ** np.arange(9)
    curves: dict[str, list[float]] = {
        "over tokens": [],
        "mean of the batches' losses": [],
        "mean of the batches' perplexities": [],
    }
    for size in sizes:
        losses = [np.concatenate(texts[i : i + size]) for i in range(0, len(texts), size)]
        means = np.array([each.mean() for each in losses])
        for name, value in zip(
            curves, (np.exp(np.concatenate(losses).mean()), np.exp(means.mean()), np.exp(means).mean()), strict=True
        ):
            curves[name].append(float(value))
    figure, axes = drawing.canvas()
    for (name, values), style in zip(curves.items(), ("-", "o--", "s-."), strict=True):
        axes.plot(sizes, values, style, label=name)
    axes.set(xlabel="texts in a batch", ylabel="perplexity", xscale="log", ylim=(0, None))
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.legend()
    zh = {
        "over tokens": "按词元平均", "mean of the batches' losses": "各批损失的平均", "texts in a batch": "每批的文本数",
        "mean of the batches' perplexities": "各批困惑度的平均", "perplexity": "困惑度",
    }  # fmt: skip
    drawing.save(figure, folder, "perplexity-by-batch", zh)


def interval_by_dialogues(folder: Path) -> None:
    """The percentile interval of a win rate of 0.6 by the number of dialogues."""
    numbers = np.array([10, 20, 50, 100, 200, 500, 1000])
    ends = []
    for n in numbers:
        drawn = np.random.default_rng(0).binomial(n, 0.6, 20_000) / n  # the means of resamples of 0.6 n wins and 0.4 n losses
        ends.append(np.quantile(drawn, [0.025, 0.975]))
    low, high = np.array(ends).T
    figure, axes = drawing.canvas()
    axes.fill_between(numbers, low, high, alpha=0.3, label="95 % interval")
    axes.plot(numbers, np.full(len(numbers), 0.6), "o-", label="win rate")
    axes.axhline(0.5, linestyle="--", color=drawing.COLOURS[1], label="no difference")
    axes.set(xlabel="dialogues", ylabel="win rate", xscale="log", ylim=(0.2, 1))
    axes.set_xticks(numbers, [str(n) for n in numbers])
    axes.minorticks_off()
    axes.legend()
    zh = {"95 % interval": "95 % 区间", "win rate": "胜率", "no difference": "没有差别", "dialogues": "对话数"}
    drawing.save(figure, folder, "interval-by-dialogues", zh)


if __name__ == "__main__":
    run(
        merge_error, answers, perplexity, training_data, bootstrap, dialogue_evaluation, quiz,
        pictures=[lost_by_update, perplexity_by_batch, interval_by_dialogues],
    )  # fmt: skip
