"""Prints the numbers of the worked examples in this folder's lecture notes.

    python course/week08/figures.py

Each line is an equation that stands in the section named above it, letter for letter, in both languages. Rows of a
matrix are separated by semicolons.
"""

from pathlib import Path

import numpy as np

from course.labs import drawing
from course.labs.worked import run, say

SAMPLES = np.array([3, 1])
W = SAMPLES / SAMPLES.sum()
A1, A2 = np.array([[1, 2]]), np.array([[1, -2]])
B1, B2 = np.array([[2], [0]]), np.array([[0], [4]])
SCALE = 2  # alpha 2, rank 1


def why() -> None:
    """What a round of federated training sends: a whole model, or the factors of a LoRA."""
    weights, factors, clients = 1_100_000_000, 4_500_000, 100
    print(f"P = {weights}")
    print(f"P_r = {factors}")
    say("K", clients)
    say(r"2 P K / 10^9", 2 * weights * clients / 1e9)
    say(r"2 P_r K / 10^9", 2 * factors * clients / 1e9)


def edge() -> None:
    """The size of a model, the pace that reading it allows, and one column of int8 weights."""
    weights, bandwidth = 1.1e9, 10e9
    say(r"P / 10^9", weights / 1e9)
    say(r"\beta / 10^9", bandwidth / 1e9)
    for name, size in (("float32", 4), ("int8", 1)):
        say(rf"M_{{\text{{{name}}}}} / 10^9", weights * size / 1e9)
        say(rf"\beta / M_{{\text{{{name}}}}}", bandwidth / (weights * size))
    column = np.array([0.5, -1.27, 0.024])
    scale = np.abs(column).max() / 127
    codes = np.round(column / scale).astype(int)
    say("b", 8)
    say("w", column)
    say("s", scale)
    say("q", codes)
    say("s q", scale * codes)
    say("s / 2", scale / 2)
    print(r"\max |w_i| / 127")


def fedavg() -> None:
    """Two clients, and what the average of their factors misses."""
    say("n", SAMPLES)
    say("w", W)
    for k, (A, B) in enumerate(((A1, B1), (A2, B2)), start=1):
        say(f"A_{k}", A[0])
        say(f"B_{k}", B)
    updates = SCALE * (W[0] * B1 @ A1 + W[1] * B2 @ A2)
    mean_A, mean_B = W[0] * A1 + W[1] * A2, W[0] * B1 + W[1] * B2
    say(r"\sum_k w_k \Delta W_k", updates)
    say(r"\bar A", mean_A[0])
    say(r"\bar B", mean_B)
    say(r"\frac{\alpha}{r} \bar B \bar A", SCALE * mean_B @ mean_A)
    say("R", updates - SCALE * mean_B @ mean_A)
    for count in (2, 10):
        say(rf"\sqrt{{1 - 1 / {count}}}", np.sqrt(1 - 1 / count))
    say(r"\lVert R \rVert_F", np.linalg.norm(updates - SCALE * mean_B @ mean_A))
    say(r"\lVert \sum_k w_k \Delta W_k \rVert_F", np.linalg.norm(updates))


def stacking() -> None:
    """The scales of two unequal clients, and what a forgotten rank does."""
    say("n", SAMPLES)
    say("r_1", 1)
    say("r_2", 2)
    say(r"\alpha_1", 2)
    say(r"\alpha_2", 3)
    say(r"w_1 \alpha_1 / r_1", W[0] * 2 / 1)
    say(r"w_2 \alpha_2 / r_2", W[1] * 3 / 2)
    say("r_1 + r_2", 1 + 2)


def generator() -> None:
    """A gate over three experts, and what a bank saves."""
    z = np.array([2, 1, 0])
    say("z", z)
    chosen = np.exp(z[:2]) / np.exp(z[:2]).sum()
    say("g", [*chosen, 0])
    whole = np.exp(z) / np.exp(z).sum()
    say(r"\text{softmax}(z)", whole)
    say("s", whole[:2].sum())
    layers, rank, width, experts, task = 16, 8, 2048, 4, 256
    say("L", layers)
    say("r", rank)
    print(f"d = {width}")
    say("E", experts)
    say("t", task)
    print(f"L r (d + d) = {layers * rank * (width + width)}")
    print(f"E r (d + d) = {experts * rank * (width + width)}")
    print(f"L E t = {layers * experts * task}")


def generate_reply() -> None:
    """One step of nucleus sampling, at two temperatures."""
    p = np.array([0.5, 0.25, 0.15, 0.1])
    say("p", p)
    say(r"\text{top-p}", 0.7)
    say("m", p[:2].sum())
    say(r"\tilde p", p[:2] / p[:2].sum())
    say("u", 0.7)
    say("T", 2)
    warm = np.sqrt(p) / np.sqrt(p).sum()
    say("p_T", warm)
    say("m_T", warm[:3].sum())


def clip_and_noise() -> None:
    """Two updates, clipped, summed, averaged."""
    first, second, clip, sigma = np.array([3, 4]), np.array([0, 0.5]), 1, 0.5
    say("u_1", first)
    say("u_2", second)
    say("C", clip)
    say(r"\lVert u_1 \rVert", np.linalg.norm(first))
    clipped = first * clip / np.linalg.norm(first)
    say(r"\tilde u_1", clipped)
    say(r"\tilde u_1 + \tilde u_2", clipped + second)
    say(r"\bar u", (clipped + second) / 2)
    say(r"\sigma", sigma)
    say(r"\sigma C / K", sigma * clip / 2)
    factors = 2**22
    print(f"N = {factors}")
    say(r"\sqrt{N}", np.sqrt(factors))
    print("P = 6.7 \\cdot 10^9")
    say(r"\sqrt{P}", np.sqrt(6.7e9))


def new_tokens() -> None:
    """What is saved for ten new tokens."""
    tokens, width, new = 32000, 4096, 10
    print(f"V = {tokens}")
    print(f"d = {width}")
    print(f"m = {new}")
    print(f"V d = {tokens * width}")
    print(f"m d = {new * width}")


def quiz() -> None:
    """The numbers of the questions."""
    say("w", [0.5, 0.5])
    say("B_1 A_1", [[1, 0], [0, 0]])
    say("B_2 A_2", [[0, 0], [0, 1]])
    say(r"\bar B \bar A", [[0.25, 0.25], [0.25, 0.25]])
    say(r"\sum_k w_k B_k A_k", [[0.5, 0], [0, 0.5]])
    say("r_1", 4)
    say("r_2", 8)
    say("r_1 + r_2", 12)
    say("p", [0.4, 0.35, 0.2, 0.05])
    say(r"\text{top-p}", 0.75)
    say(r"\tilde p", np.array([0.4, 0.35]) / 0.75)


def averaging_error(folder: Path) -> None:
    """The relative error of averaged factors by the number of clients, for several distances from a common start."""
    size, rank, draws = 24, 4, 40
    counts = np.array([2, 3, 4, 6, 8, 12, 16, 24, 32])
    figure, axes = drawing.canvas(height=3.2)
    axes.plot(counts, np.sqrt(1 - 1 / counts), "-", label="independent factors, √(1 − 1/K)")
    for drift, style in ((1.0, "o--"), (0.3, "s:"), (0.1, "^-.")):
        rng = np.random.default_rng(0)
        curve = []
        for count in counts:
            ratios = []
            for _ in range(draws):
                start, common = rng.standard_normal((rank, size)), rng.standard_normal((size, rank))
                A = start + drift * rng.standard_normal((count, rank, size))
                B = common + rng.standard_normal((count, size, rank))
                exact = (B @ A).mean(axis=0)
                ratios.append(np.linalg.norm(exact - B.mean(axis=0) @ A.mean(axis=0)) / np.linalg.norm(exact))
            curve.append(np.mean(ratios))
        axes.plot(counts, curve, style, label=f"common start, A drifts by {drift:g}")
    axes.set(xlabel="number of clients K", ylabel="relative error", ylim=(0, 1.02), xlim=(1, 33))
    figure.legend(loc="outside upper center", ncols=2)
    zh = {f"common start, A drifts by {drift}": f"起点相同，A 偏离 {drift}" for drift in ("1", "0.3", "0.1")} | {
        "independent factors, √(1 − 1/K)": "因子相互独立，√(1 − 1/K)",
        "number of clients K": "客户端个数 K",
        "relative error": "相对误差",
    }
    drawing.save(figure, folder, "averaging-error", zh)


def nucleus(folder: Path) -> None:
    """How many tokens the nucleus holds by temperature, for a vocabulary whose probabilities fall like 1 / rank."""
    words, temperatures = 1000, np.linspace(0.3, 1.5, 49)
    logits = -np.log(np.arange(1, words + 1)) * 1.5
    figure, axes = drawing.canvas(height=3.0)
    for share, style in ((0.5, ":"), (0.8, "--"), (0.95, "-")):
        held = []
        for temperature in temperatures:
            p = np.exp(logits / temperature)
            held.append(1 + int((np.cumsum(p / p.sum()) < share).sum()))
        axes.semilogy(temperatures, held, style, label=f"top-p = {share}")
    axes.set(xlabel="temperature T", ylabel="tokens in the nucleus (of 1000)", ylim=(0.8, 1000), xlim=(0.3, 1.5))
    axes.minorticks_off()
    axes.legend(loc="upper left")
    drawing.save(
        figure,
        folder,
        "nucleus",
        {"temperature T": "温度 T", "tokens in the nucleus (of 1000)": "核中的词元数（共 1000 个）"}
        | {f"top-p = {share}": f"top-p = {share}" for share in (0.5, 0.8, 0.95)},
    )


def noise(folder: Path) -> None:
    """How long the privacy noise is beside an update that fills the clipping norm, by the number of clients."""
    clients = 10.0 ** np.linspace(1, 6, 51)
    figure, axes = drawing.canvas(height=3.2)
    for name, count, style in (
        ("LoRA, 10⁵ numbers", 1e5, ":"),
        ("LoRA, 4·10⁶ numbers", 2**22, "--"),
        ("all weights, 6.7·10⁹", 6.7e9, "-"),
    ):
        axes.loglog(clients, np.sqrt(count) / clients, style, label=name)
    axes.axhline(1, color=drawing.COLOURS[5], linewidth=0.8)
    axes.set(xlabel="clients in a round K", ylabel="norm of the noise / C, σ = 1", xlim=(10, 1e6), ylim=(1e-4, 1e4))
    axes.minorticks_off()
    figure.legend(loc="outside upper center", ncols=3, fontsize=9)
    zh = {
        "LoRA, 10⁵ numbers": "LoRA，10⁵ 个数",
        "LoRA, 4·10⁶ numbers": "LoRA，4·10⁶ 个数",
        "all weights, 6.7·10⁹": "全部权重，6.7·10⁹",
        "clients in a round K": "每轮的客户端个数 K",
        "norm of the noise / C, σ = 1": "噪声的范数 / C，σ = 1",
    }
    drawing.save(figure, folder, "privacy-noise", zh)


if __name__ == "__main__":
    run(
        fedavg,
        stacking,
        generator,
        generate_reply,
        edge,
        clip_and_noise,
        new_tokens,
        quiz,
        pictures=[averaging_error, nucleus, noise],
        why_it_matters=why,
    )
