"""Prints the numbers of the worked examples in this folder's lecture notes.

    python course/week11/figures.py

Each line is an equation that stands in the section named above it, letter for letter, in both languages. Rows of a
matrix are separated by semicolons.
"""

from pathlib import Path

import numpy as np

from course.labs import drawing
from course.labs.worked import run, say


def why() -> None:
    """What fits a card of 24 GB: merged copies of a 7B model, or one base with adapters beside it."""
    base, adapter, card = 6_738_415_616, 39_976_960, 24.0
    say("P", base)
    say("P_r", adapter)
    say("r", 16)
    say("G", card)
    say("2 P / 10^9", 2 * base / 1e9)
    say("2 P_r / 10^6", 2 * adapter / 1e6)
    say(r"\lfloor (G - 2 P / 10^9) / (2 P_r / 10^9) \rfloor", int((card - 2 * base / 1e9) / (2 * adapter / 1e9)))


def serving() -> None:
    """When a merged copy costs less than the branch: by requests and by memory."""
    say("K", 8)
    say("2 K P / 10^9", 2 * 8 * 6_738_415_616 / 1e9)
    say("2 (P + K P_r) / 10^9", 2 * (6_738_415_616 + 8 * 39_976_960) / 1e9)


def merge_loras() -> None:
    """Two adapters added, what the sum of their factors gives, and what half precision loses."""
    A1, B1 = np.array([[1, 2]]), np.array([[1], [-1]])
    A2, B2 = np.array([[0, 1]]), np.array([[2], [0]])
    say("A_1", A1[0])
    say("B_1", B1)
    say("A_2", A2[0])
    say("B_2", B2)
    say("B_1 A_1 + B_2 A_2", B1 @ A1 + B2 @ A2)
    say("(B_1 + B_2)(A_1 + A_2)", (B1 + B2) @ (A1 + A2))
    say("B_1 A_2 + B_2 A_1", B1 @ A2 + B2 @ A1)
    start, update, count = np.float16(1.5), 2e-4, 16
    say("w", start)
    say("K", count)
    say(r"\delta", update)
    say(r"2^{-10}", 2.0**-10)
    step_by_step = start
    for _ in range(count):
        step_by_step = np.float16(step_by_step + np.float16(update))
    say(r"w_{\text{each}}", step_by_step)
    say(r"w_{\text{once}}", np.float16(np.float32(start) + count * np.float32(update)))
    say(r"w + K \delta", float(start) + count * update)
    print(rf"M_{{\text{{fp16}}}} = {np.finfo(np.float16).max:.0f}")


def ties() -> None:
    """Three updates, trimmed, elected and merged; the plain mean and the majority beside it."""
    tau = np.array([[4, -1, 2, 0.1], [-1, -3, 2.5, 0.2], [-2, 1, -4, 0.3]])
    for k, row in enumerate(tau, 1):
        say(rf"\tau_{k}", row)
    say("k", 0.5)
    trimmed = np.where(np.abs(tau) >= np.sort(np.abs(tau), axis=1)[:, [2]], tau, 0)
    for k, row in enumerate(trimmed, 1):
        say(rf"\hat\tau_{k}", row)
    total = trimmed.sum(axis=0)
    say(r"\sum_t \hat\tau_t", total)
    agree = trimmed * np.sign(total) > 0
    say(r"\tau_m", (trimmed * agree).sum(axis=0) / np.maximum(agree.sum(axis=0), 1))
    say(r"\bar\tau", tau.mean(axis=0))
    say("K", 4)
    say(r"1 / \sqrt{K}", 0.5)
    say(r"4 - 1 - 2", tau[:, 0].sum())
    say(r"(-1 - 2) / 2", tau[1:, 0].mean())


def compression() -> None:
    """Shares of the energy, the rank that they lead to, the error, and the scaling."""
    values = np.array([4.0, 2.0, 1.0])
    alpha, old, new = 12, 3, 2
    say(r"\sigma", values)
    say(r"\sum_k \sigma_k^2", (values**2).sum())
    for k in range(1, 4):
        say(f"E_{k}", (values[:k] ** 2).sum() / (values**2).sum())
    say("e", 0.9)
    say("r'", new)
    say(r"\lVert \Delta W - \Delta W' \rVert_F / \lVert \Delta W \rVert_F", np.sqrt(values[new] ** 2 / (values**2).sum()))
    for k in range(1, 4):
        say(f"s_{k}", values[:k].sum() / values.sum())
    say(r"\alpha", alpha)
    say("r", old)
    say(r"\alpha / r", alpha / old)
    say(r"\alpha / r'", alpha / new)
    say("r' / r", new / old)
    d, full, kept = 4096, 64, 8
    print(f"d = {d}")
    say("r", full)
    say("2 d r", 2 * d * full)
    say("r'", kept)
    say("2 d r'", 2 * d * kept)


def onnx() -> None:
    """What an unmerged branch costs at one width, and the size of rounding."""
    width, rank = 4096, 16
    say("d", width)
    say("r", rank)
    print(f"d^2 = {width**2}")
    print(f"2 r d = {2 * rank * width}")
    say("2 r d / d^2", 2 * rank / width)
    print(rf"\varepsilon_{{\text{{fp32}}}} = 2^{{{np.log2(np.finfo(np.float32).eps):.0f}}}")
    print(rf"\varepsilon_{{\text{{fp16}}}} = 2^{{{np.log2(np.finfo(np.float16).eps):.0f}}}")
    print(r"t_{\text{fp32}} = 10^{-5}")
    print(r"t_{\text{fp16}} = 10^{-3}")


def dare() -> None:
    """One draw, and the variance at a high rate."""
    delta, mask, rate = np.array([0.2, -0.4, 0.1, 0.3]), np.array([1, 0, 0, 1]), 0.5
    say(r"\delta", delta)
    say("m", mask)
    say("p", rate)
    say(r"\tilde\delta", mask * delta / (1 - rate))
    say(r"1 / (1 - 0.9)", 1 / (1 - 0.9))
    say(r"0.9 / (1 - 0.9)", 0.9 / (1 - 0.9))
    say(r"\sqrt{0.9 / (1 - 0.9)}", np.sqrt(0.9 / (1 - 0.9)))
    say("d", 1024)
    say(r"\sqrt{27 / d}", np.sqrt(27 / 1024))


def quantisation() -> None:
    """Two rows of different size, with a scale each and with one for both."""
    weight = np.array([[0.5, -2.54, 1.0], [0.0127, -0.006, 0.003]])
    scale = np.abs(weight).max(axis=1) / 127
    say("W", weight)
    say("s", scale)
    say("Q", np.rint(weight / scale[:, None]))
    say(r"Q_{\text{one}}", np.rint(weight / scale.max()))
    say("1 / 127", 1 / 127)
    say("1 / (2 \\cdot 127)", 1 / 254)


def continual_learning() -> None:
    """A penalty and its gradient, a stack, and a matrix of results."""
    theta, old, fisher, strength = np.array([1, 2]), np.array([0, 2.5]), np.array([4, 1]), 2
    say(r"\theta", theta)
    say(r"\theta^*", old)
    say("F", fisher)
    say(r"\lambda", strength)
    say(r"\frac{\lambda}{2} \sum_i F_i (\theta_i - \theta^*_i)^2", strength / 2 * (fisher * (theta - old) ** 2).sum())
    say(r"\lambda F (\theta - \theta^*)", strength * fisher * (theta - old))
    ranks, alphas = (1, 2), (3, 4)
    for k, (rank, alpha) in enumerate(zip(ranks, alphas, strict=True), 1):
        say(rf"\alpha_{k} / r_{k}", alpha / rank)
    say("r_1 + r_2", sum(ranks))
    result = np.array([[0.9, 0.1, 0.1], [0.7, 0.9, 0.2], [0.5, 0.6, 0.9]])
    say("R", result)
    say(r"\text{BWT}", np.mean([result[2, j] - result[j, j] for j in range(2)]))


def quiz() -> None:
    """The numbers of the questions."""
    say(r"\sigma", [3, 1, 1])
    say("e", 0.8)
    say("E_1", 9 / 11)
    say("r'", 1)
    say("p", 0.75)
    say("1 / (1 - p)", 4)
    say("R", [[0.8, 0.1], [0.5, 0.9]])
    say(r"\text{BWT}", -0.3)


def rounding(folder: Path) -> None:
    """A float16 weight to which small updates are added: rounded after each, and rounded once."""
    count, update = 40, 2e-4
    steps = np.arange(count + 1)
    each = [np.float16(1.5)]
    for _ in range(count):
        each.append(np.float16(each[-1] + np.float16(update)))
    once = (np.float32(1.5) + steps.astype(np.float32) * np.float32(update)).astype(np.float16)
    figure, axes = drawing.canvas(height=3.0)
    axes.plot(steps, 1.5 + steps * update, ":", color=drawing.COLOURS[5], label="exact")
    axes.step(steps, once.astype(float), "-", where="mid", label="added in float32, rounded once")
    axes.plot(steps, np.array(each, dtype=float), "--", label="rounded after each addition")
    axes.set(xlabel="number of updates of 0.0002", ylabel="weight in float16", xlim=(0, count))
    axes.legend()
    zh = {
        "exact": "精确值",
        "added in float32, rounded once": "以 float32 相加，只舍入一次",
        "rounded after each addition": "每加一次就舍入",
        "number of updates of 0.0002": "大小为 0.0002 的更新量的个数",
        "weight in float16": "float16 的权重",
    }
    drawing.save(figure, folder, "rounding", zh)


def interference(folder: Path) -> None:
    """What a mean and TIES keep of each task's update, when the updates are independent and heavy-tailed."""
    counts = np.arange(1, 9)
    curves: dict[str, list[float]] = {"size kept, TIES": [], "size kept, mean": [], "direction, TIES": [], "direction, mean": []}
    for count in counts:
        rng = np.random.default_rng(0)
        tau = rng.standard_t(3, size=(count, 20000))
        edge = np.sort(np.abs(tau), axis=1)[:, [16000]]
        trimmed = np.where(np.abs(tau) >= edge, tau, 0)
        agree = trimmed * np.sign(trimmed.sum(axis=0)) > 0
        merged = {"TIES": (trimmed * agree).sum(axis=0) / np.maximum(agree.sum(axis=0), 1), "mean": tau.mean(axis=0)}
        for name, update in merged.items():
            curves[f"size kept, {name}"].append(float(np.mean([update @ one / (one @ one) for one in tau])))
            cosines = [update @ one / np.linalg.norm(update) / np.linalg.norm(one) for one in tau]
            curves[f"direction, {name}"].append(float(np.mean(cosines)))
    figure, axes = drawing.canvas(height=3.4)
    for (name, values), style, colour in zip(curves.items(), ("o-", "s-", "o:", "s:"), (0, 1, 0, 1), strict=True):
        axes.plot(counts, values, style, color=drawing.COLOURS[colour], label=name)
    axes.set(xlabel="number of tasks that are merged", ylabel="projection, or cosine", ylim=(0, 1.05))
    figure.legend(loc="outside upper center", ncols=2)
    zh = {
        "size kept, TIES": "保留的大小，TIES",
        "size kept, mean": "保留的大小，平均",
        "direction, TIES": "方向，TIES",
        "direction, mean": "方向，平均",
        "number of tasks that are merged": "合并的任务数",
        "projection, or cosine": "投影或余弦",
    }
    drawing.save(figure, folder, "interference", zh)


def energy(folder: Path) -> None:
    """The share of the first k singular values, squared and not, for a spectrum that falls like 1 / k."""
    ranks = np.arange(1, 17)
    sigma = 1 / ranks
    figure, axes = drawing.canvas(height=3.0)
    axes.plot(ranks, np.cumsum(sigma**2) / (sigma**2).sum(), "o-", label="energy (squares)")
    axes.plot(ranks, np.cumsum(sigma) / sigma.sum(), "s--", label="sums without squares")
    axes.axhline(0.9, color=drawing.COLOURS[5], linewidth=0.8, linestyle=":", label="0.9")
    axes.set(xlabel="singular values kept k", ylabel="share", xlim=(0.5, 16.5), ylim=(0, 1.03))
    axes.legend(loc="lower right")
    zh = {
        "energy (squares)": "能量（平方）",
        "sums without squares": "不平方的和",
        "singular values kept k": "保留的奇异值个数 k",
        "share": "比例",
    }
    drawing.save(figure, folder, "energy", zh)


def dropping(folder: Path) -> None:
    """The relative error that DARE at 0.9 causes in the output of a rank-1 update, by width, for two kinds of input."""
    widths, draws, outputs, rate = 2 ** np.arange(4, 13), 60, 64, 0.9
    curves: dict[str, list[float]] = {"input along the update": [], "random input": []}
    for width in widths:
        rng = np.random.default_rng(0)
        squares: dict[str, list[float]] = {name: [] for name in curves}
        for _ in range(draws):
            row, other = rng.standard_normal(width), rng.standard_normal(width)  # every output has the same row
            # The square of the signal: exactly, and on average over random inputs.
            cases = {"input along the update": (row, (row @ row) ** 2), "random input": (other, row @ row)}
            for name, (x, signal) in cases.items():
                kept = (rng.random((outputs, width)) >= rate) / (1 - rate)
                squares[name].append(float(((((kept - 1) * row) @ x) ** 2).mean() / signal))
        for name in curves:
            curves[name].append(float(np.sqrt(np.mean(squares[name]))))
    figure, axes = drawing.canvas(height=3.0)
    for (name, values), style in zip(curves.items(), ("o-", "s--"), strict=True):
        axes.loglog(widths, values, style, label=name)
    axes.set(xlabel="width of the layer d", ylabel="error of the output (relative)", ylim=(0.05, 6))
    axes.set_xticks([16, 64, 256, 1024, 4096], ["16", "64", "256", "1024", "4096"])
    axes.set_yticks([0.1, 0.3, 1, 3], ["0.1", "0.3", "1", "3"])
    axes.minorticks_off()
    axes.legend(loc="lower left")
    zh = {
        "input along the update": "沿更新量方向的输入",
        "random input": "随机输入",
        "width of the layer d": "层的宽度 d",
        "error of the output (relative)": "输出的相对误差",
    }
    drawing.save(figure, folder, "dropping", zh)


if __name__ == "__main__":
    run(
        merge_loras,
        ties,
        compression,
        onnx,
        serving,
        dare,
        quantisation,
        continual_learning,
        quiz,
        pictures=[rounding, interference, energy, dropping],
        why_it_matters=why,
    )
