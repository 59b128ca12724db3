"""Prints the numbers of the worked examples in this folder's lecture notes.

    python course/week06/figures.py

Each line is an equation that stands in the section named above it, letter for letter, in both languages.
"""

import math

import numpy as np

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


if __name__ == "__main__":
    run(merge_error, answers, perplexity, training_data, bootstrap, dialogue_evaluation)
