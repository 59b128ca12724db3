"""Prints the numbers of the worked examples in this folder's lecture notes.

    python course/week03/figures.py

Each line is an equation that stands in the section named above it, letter for letter, in both languages. Rows of a
matrix are separated by semicolons.
"""

import json
import math
from pathlib import Path

import numpy as np

from course.labs import drawing
from course.labs.worked import run, say

A = np.array([[1, 0, 2], [0, 1, -1]])
B = np.array([[1, 0], [2, 1], [0, -1], [1, 1]])
ALPHA, RANK = 6, 2


def delta() -> None:
    """An update, its scalings, and what its parts are."""
    say("A", A)
    say("B", B)
    say(r"\alpha", ALPHA)
    say("r", RANK)
    product = B @ A
    say("B A", product)
    say(r"\alpha / r", ALPHA / RANK)
    say(r"\Delta W", ALPHA / RANK * product)
    say(r"\alpha / \sqrt{r}", ALPHA / np.sqrt(RANK))
    say("1 / 64", 1 / 64)
    say(r"\sqrt{64}", 8)
    say("b_1 a_1^\\top", np.outer(B[:, 0], A[0]))
    say("b_2 a_2^\\top", np.outer(B[:, 1], A[1]))


def freezing() -> None:
    """Parameters of a small model, and a step on a gradient that was left behind."""
    width, rank, tokens = 4, 2, 50
    linear, norm, embedding, factors = width * width + width, 2 * width, tokens * width, rank * 2 * width
    say("d", width)
    say("V", tokens)
    say("r", rank)
    total = embedding + 3 * linear + norm + 2 * factors  # q, k, v; q and v adapted
    say("P", total)
    say(r"P_{\text{train}}", 2 * factors)
    say(r"P_{\text{train}} / P", 2 * factors / total)
    say(r"P_{\text{bias}}", 2 * factors + 3 * width + width)
    say(r"w - \eta g", 1.5 - 0.1 * 4)
    print("w = 1.5")
    print("g = 4")
    print(r"\eta = 0.1")


def configuration() -> None:
    """The scalings of the presets, and a default that belongs to somebody else."""
    for rank, alpha in ((1, 2), (4, 8), (8, 16)):
        say(f"{alpha} / {rank}", alpha / rank)
    say(r"16 / \sqrt{64}", 16 / np.sqrt(64))
    say("8 / 16", 8 / 16)
    for matrices, rank in ((1, 8), (2, 4), (4, 2)):
        print(rf"{matrices} \cdot 2 \cdot {rank} d = {matrices * 2 * rank * 12288}")
    print("d = 12288")
    say("16 / 16", 16 / 16)


def storage() -> None:
    """Sizes of adapters, and the bytes of a small file."""
    layers, width, rank, parameters = 96, 12_288, 4, 175e9
    say("L", layers)
    print(f"d = {width}")
    say("r", rank)
    factors = 2 * layers * rank * (width + width)
    print(f"2 L r (d + d) = {factors}")
    say(r"m_{\text{adapter}} / \text{MB}", 2 * factors / 1e6)
    say(r"N / 10^9", parameters / 1e9)
    say(r"m_{\text{base}} / \text{GB}", 2 * parameters / 1e9)
    print(rf"m_{{\text{{base}}}} / m_{{\text{{adapter}}}} = {2 * parameters / (2 * factors):.0f}")
    # A file of one layer, rank 1, A of shape (1, 3) and B of shape (2, 1), float32
    shapes = {"lora_A": (1, 3), "lora_B": (2, 1)}
    header, at = {}, 0
    for factor, shape in shapes.items():
        size = 4 * math.prod(shape)
        header[f"base_model.model.q.{factor}.weight"] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":"))
    length = -(-len(text) // 8) * 8  # padded by spaces
    say("n", at)
    say("h", length)
    say("8 + h + n", 8 + length + at)


def adapters() -> None:
    """An adapter on two features, and parameters of a layer."""
    u, down, up = np.array([3, 1]), np.array([[1, -2]]), np.array([[2], [-1]])
    say("u", u)
    say(r"W_{\text{down}}", down)
    say(r"W_{\text{up}}", up)
    z = down @ u
    bent = z * np.array([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in z])
    say(r"W_{\text{down}} u", z)
    say(r"\phi(W_{\text{down}} u)", bent)
    say("a(u)", u + up @ bent)
    width, size, rank = 768, 64, 8
    say("d", width)
    say("m", size)
    print(f"2 (2 m d + d + m) = {2 * (2 * size * width + width + size)}")
    say("r", rank)
    print(f"2 r (d + d) = {2 * rank * 2 * width}")


def prompt_tuning() -> None:
    """A mean that leaves the prompt and the padding out, and three that do not."""
    prompt, tokens, padding = [9.0], [1.0, 3.0], [7.0]
    say(r"h_{\text{prompt}}", prompt)
    say(r"h_{\text{tokens}}", tokens)
    say(r"h_{\text{padding}}", padding)
    say(r"\bar h", np.mean(tokens))
    say(r"\bar h_{\text{prompt counted}}", np.mean(prompt + tokens))
    say(r"\bar h_{\text{padding counted}}", np.mean(tokens + padding))
    say(r"\bar h_{\text{wrong divisor}}", sum(tokens) / len(tokens + padding))
    say("p", 20)
    say("d", 768)
    print(f"p d = {20 * 768}")


def prefix_tuning() -> None:
    """One head of width 1 with a prefix of length 1."""
    say("q", 1)
    say("k_{P}", np.log(2))
    say("k", np.array([0.0, 0.0]))
    scores = np.array([np.log(2), 0, 0])
    weights = np.exp(scores) / np.exp(scores).sum()
    values = np.array([8, 2, 6])
    say("w", weights)
    say("v_{P}", values[0])
    say("v", values[1:])
    say(r"\sum_i w_i v_i", weights @ values)
    say(r"y_{\text{without}}", values[1:].mean())
    say("l", 10)
    say("d", 768)
    print(f"2 l d = {2 * 10 * 768}")


def rescaling() -> None:
    """Both places of the scale, merging, and parameters."""
    weight, bias, x = np.array([[1, 2], [0, 3], [-1, 1]]), np.array([1, 0, 2]), np.array([2, 1])
    out, into = np.array([2, 1, 0.5]), np.array([0.5, 3])
    say("W", weight)
    say("b", bias)
    say("x", x)
    say("W x + b", weight @ x + bias)
    say(r"s_{\text{out}}", out)
    say(r"s_{\text{out}} \odot (W x + b)", out * (weight @ x + bias))
    say(r"s_{\text{out}} \odot (W x) + b", out * (weight @ x) + bias)
    say(r"s_{\text{in}}", into)
    say(r"W (s_{\text{in}} \odot x) + b", weight @ (into * x) + bias)
    say(r"W \text{diag}(s_{\text{in}})", weight * into)
    width, hidden = 768, 3072
    say("d", width)
    say(r"d_{\text{ff}}", hidden)
    say(r"d + d + d_{\text{ff}}", width + width + hidden)


def quiz() -> None:
    """The numbers of the questions."""
    for rank in (8, 32):
        say(f"16 / {rank}", 16 / rank)
        say(rf"16 / \sqrt{{{rank}}}", 16 / np.sqrt(rank))
    say("8 / 32", 8 / 32)
    say(r"37.75 \cdot 4 \cdot 2", 37.75 * 8)


def first_step(folder: Path) -> None:
    """How far the first step moves the output, by rank, optimizer and scaling; alpha and the rate are the same throughout."""
    rng = np.random.default_rng(0)
    width, ranks, draws = 256, 2 ** np.arange(9), 50
    inner = [rng.uniform(-1, 1, (draws, rank, width)) @ rng.standard_normal(width) / np.sqrt(width) for rank in ranks]
    size = {  # of the change of an output; gradient descent moves B by g (A x)^T times the scale, Adam by its sign
        "gradient descent": np.array([(u**2).sum(1).mean() for u in inner]),
        "Adam": np.array([np.abs(u).sum(1).mean() for u in inner]),
    }
    figure, axes = drawing.canvas()
    for optimizer, power, mark in (("gradient descent", 2, "o"), ("Adam", 1, "s")):
        for name, scale, style in (("α / r", 1 / ranks, "-"), ("α / √r", 1 / np.sqrt(ranks), "--")):
            moved = scale**power * size[optimizer]
            axes.plot(ranks, moved / moved[0], mark + style, label=f"{optimizer}, {name}")
    axes.set(xlabel="rank r", ylabel="change of the output (rank 1: 1)", xscale="log", yscale="log", ylim=(None, 100))
    axes.set_xticks(ranks, [str(rank) for rank in ranks])
    axes.xaxis.minorticks_off()
    axes.legend(ncols=2)
    zh = {f"gradient descent, {name}": f"梯度下降，{name}" for name in ("α / r", "α / √r")}
    zh |= {f"Adam, {name}": f"Adam，{name}" for name in ("α / r", "α / √r")}
    drawing.save(
        figure, folder, "first-step", zh | {"rank r": "秩 r", "change of the output (rank 1: 1)": "输出的变化（秩 1 为 1）"}
    )


def parameters(folder: Path) -> None:
    """What each family adds to one layer of width 768, by its size."""
    width, hidden, sizes = 768, 3072, 2 ** np.arange(9)
    figure, axes = drawing.canvas()
    for name, counts, style in (
        ("two adapters, width m", 2 * (2 * sizes * width + width + sizes), "o-"),
        ("LoRA on q and v, rank r", 2 * sizes * 2 * width, "s--"),
        ("prefix, length l", 2 * sizes * width, "^-."),
    ):
        axes.plot(sizes, counts, style, label=name)
    axes.axhline(2 * width + hidden, linestyle=":", color=drawing.COLOURS[3], label="IA3")
    axes.axhline(
        4 * width**2 + 2 * width * hidden, linestyle="-", linewidth=1, color=drawing.INK, label="the layer's own weights"
    )
    axes.set(xlabel="size: m, r or l", ylabel="trainable parameters", xscale="log", yscale="log", ylim=(1e3, 1e8))
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.xaxis.minorticks_off()
    axes.legend(ncols=2, fontsize=9)
    zh = {
        "two adapters, width m": "两个适配器，宽度 m", "LoRA on q and v, rank r": "q、v 上的 LoRA，秩 r",
        "prefix, length l": "前缀，长度 l",
        "the layer's own weights": "该层自己的权重", "size: m, r or l": "大小：m、r 或 l", "trainable parameters": "可训练参数量",
    }  # fmt: skip
    drawing.save(figure, folder, "parameters", zh)


if __name__ == "__main__":
    run(
        delta, freezing, configuration, storage, adapters, prompt_tuning, prefix_tuning, rescaling, quiz,
        pictures=[first_step, parameters],
    )  # fmt: skip
