"""Prints the numbers of the worked examples in this folder's lecture notes.

    python course/week01/figures.py

Each line is an equation that stands in the section named above it, letter for letter, in both languages.
"""

from pathlib import Path

import numpy as np

from course.labs import drawing
from course.labs.worked import run, say

WIDTH, FEED_FORWARD, LAYERS, TOKENS = 4096, 11008, 32, 32000  # Llama-2-7B
RANK = 16
LINEARS = LAYERS * (4 * WIDTH**2 + 3 * WIDTH * FEED_FORWARD)
BASE = LINEARS + 2 * TOKENS * WIDTH + (2 * LAYERS + 1) * WIDTH  # an embedding, a head, the scales of the norms
FACTORS = LAYERS * RANK * (4 * 2 * WIDTH + 3 * (WIDTH + FEED_FORWARD))  # on every linear layer of the blocks


def counting_parameters() -> None:
    """GPT-2's tied embedding, and the share that LoRA trains of Llama-2-7B."""
    width, layers, tokens, positions = 768, 12, 50257, 1024
    say("V", tokens)
    say("d", width)
    embedding = tokens * width
    say("V d", embedding)
    block = 12 * width**2 + 13 * width  # four matrices of attention and feed-forward, their biases, two norms
    total = embedding + positions * width + layers * block + 2 * width
    say("P", total)
    say("P + V d", total + embedding)
    say("r", RANK)
    say(r"P_{\text{train}}", FACTORS)
    say(r"P_{\text{all}}", BASE + FACTORS)
    say(r"100 P_{\text{train}} / P_{\text{all}}", 100 * FACTORS / (BASE + FACTORS))
    say(r"P_{\text{train}} / P_{\text{all}}", FACTORS / (BASE + FACTORS))


def lora_parameters() -> None:
    """One matrix, GPT-3, and grouped-query attention in Llama-3-8B."""
    say("r", 8)
    say("d", WIDTH)
    say("d^2", WIDTH**2)
    say("2 r d", 2 * 8 * WIDTH)
    say("d / (2 r)", WIDTH / (2 * 8))
    layers, width, rank = 96, 12288, 4
    each = rank * (width + width)
    say(r"d_{\text{GPT}}", width)
    say(r"n_{\text{layers}}", layers)
    say(r"r_{\text{GPT}}", rank)
    say(r"2 n_{\text{layers}}", 2 * layers)
    say(r"P_{\text{LoRA}}", 2 * layers * each)
    say(r"P_{\text{LoRA}} / 2", layers * each)
    say(r"2 P_{\text{LoRA}} / 10^6", 2 * 2 * layers * each / 10**6)
    say(r"P_{\text{GPT}} / 10^9", 175)
    say(r"2 \cdot 175", 2 * 175)
    say(r"1000 \cdot 350 / 10^4", 1000 * 350 / 10**4)
    head, heads, groups, feed_forward = 128, 32, 8, 14336
    say("h", head)
    say("n_q", heads)
    say(r"n_{kv}", groups)
    say(r"n_{kv} h", groups * head)
    square, small = 8 * (WIDTH + heads * head), 8 * (WIDTH + groups * head)
    say(r"r (d + n_q h)", square)
    say(r"r (d + n_{kv} h)", small)
    say(r"P_{\text{linears}}", LAYERS * (2 * square + 2 * small + 3 * 8 * (WIDTH + feed_forward)))


BITS = 4 + 8 / 64 + 32 / (64 * 256)
# width, feed-forward width, layers, width of the keys and values: Llama-2-7B, 13B and 70B
SIZES = {"7B": (4096, 11008, 32, 4096), "13B": (5120, 13824, 40, 5120), "70B": (8192, 28672, 80, 1024)}


def counts(name: str) -> tuple[int, int, int]:
    """Parameters of the base, of its linear layers, and of LoRA of rank 16 on them."""
    width, wide, layers, kv = SIZES[name]
    linears = layers * (2 * width**2 + 2 * width * kv + 3 * width * wide)
    factors = layers * RANK * (2 * 2 * width + 2 * (width + kv) + 3 * (width + wide))
    return linears + 2 * TOKENS * width + (2 * layers + 1) * width, linears, factors


def parts(name: str) -> dict[str, list[float]]:
    """Gigabytes of weights, LoRA factors, gradients and optimizer in each recipe."""
    base, linears, factors = counts(name)
    found = {
        "full, float32": [4 * base, 0, 4 * base, 8 * base],
        "full, mixed": [2 * base, 0, 2 * base, 12 * base],
        "LoRA": [2 * base, 4 * factors, 4 * factors, 8 * factors],
        "QLoRA": [BITS / 8 * linears + 2 * (base - linears), 4 * factors, 4 * factors, 8 * factors],
    }
    return {recipe: [part / 1e9 for part in each] for recipe, each in found.items()}


def activations(tokens: int) -> float:
    """The least bytes that Llama-2-7B keeps for the backward pass: the inputs of its linear layers, in 16 bits."""
    return 2 * tokens * LAYERS * (3 * WIDTH + FEED_FORWARD)


def memory() -> None:
    """Llama-2-7B in the four recipes, and the bits of NF4."""
    bits = BITS
    say("N", BASE)
    say("n", FACTORS)
    say("2 + 2 + 12", 2 + 2 + 12)
    say(r"16 N / 10^9", 16 * BASE / 10**9)
    say(r"16 N / 2^{30}", 16 * BASE / 2**30)
    say(r"2 N / 10^9", 2 * BASE / 10**9)
    say(r"4 n / 10^9", 4 * FACTORS / 10**9)
    say(r"8 n / 10^9", 8 * FACTORS / 10**9)
    say(r"(2 N + 16 n) / 10^9", (2 * BASE + 16 * FACTORS) / 10**9)
    print(f"4 + 8 / 64 + 32 / (64 \\cdot 256) = {bits}")
    say("b", bits)
    say(r"4 + 32 / 64", 4 + 32 / 64)
    say("q", LINEARS)
    say("q / N", LINEARS / BASE)
    weights = bits / 8 * LINEARS + 2 * (BASE - LINEARS)
    say(r"(b q / 8 + 2 (N - q)) / 10^9", weights / 10**9)
    say(r"b N / 8 / 10^9", bits / 8 * BASE / 10**9)
    say(r"M_{\text{QLoRA}} / 10^9", (weights + 16 * FACTORS) / 10**9)
    say(r"2^{30} / 10^9", 2**30 / 10**9)
    say("d", WIDTH)
    say(r"d_{\text{ff}}", FEED_FORWARD)
    say("L", LAYERS)
    say("s", 2048)
    say(r"2 s L (3 d + d_{\text{ff}}) / 10^9", activations(2048) / 1e9)
    say(r"N_{13}", counts("13B")[0])
    say(r"N_{70}", counts("70B")[0])
    say(r"16 N_{70} / 10^9", 16 * counts("70B")[0] / 1e9)
    say("d_{13}", 5120)


def energy() -> None:
    """A small run, and the training of LLaMA-7B as its paper counts it."""
    kwh = 8 * 3 * 250 / 1000 * 1.5
    say("t", 8 * 3)
    say("w", 250)
    say(r"\text{PUE}", 1.5)
    say("i", 500)
    say("E", kwh)
    say("C", kwh * 500 / 1000)
    hours = 82432
    large = hours * 400 / 1000 * 1.1
    say(r"t_{\text{LLaMA}}", hours)
    say(r"w_{\text{LLaMA}}", 400)
    say(r"\text{PUE}_{\text{LLaMA}}", 1.1)
    say(r"i_{\text{LLaMA}}", 385)
    say(r"E_{\text{LLaMA}} / 1000", large / 1000)
    say(r"C_{\text{LLaMA}} / 1000", large * 0.385 / 1000)


def selective_methods() -> None:
    """How small the biases of a layer are, and how large one block of Llama-2-7B is."""
    width = 768
    say("d", width)
    say("d^2 + d", width**2 + width)
    say("100 d / (d^2 + d)", 100 * width / (width**2 + width))
    block = LINEARS // LAYERS + 2 * WIDTH
    say(r"P_{\text{block}}", block)
    say(r"100 P_{\text{block}} / N", 100 * block / BASE)


def quiz() -> None:
    """The numbers of the questions."""
    say(r"d_{\text{out}}", 11008)
    say(r"d_{\text{in}}", 4096)
    say("r", 16)
    say(r"r (d_{\text{out}} + d_{\text{in}})", 16 * (11008 + 4096))
    base = counts("13B")[0]
    say("N", base)
    say(r"16 N / 10^9", 16 * base / 1e9)
    say(r"2 N / 10^9", 2 * base / 1e9)
    say(r"80 \cdot 10^9 / 2^{30}", 80e9 / 2**30)
    kwh = 4 * 10 * 300 / 1000 * 1.2
    say("t", 4 * 10)
    say("w", 300)
    say(r"\text{PUE}", 1.2)
    say("i", 400)
    say("E", kwh)
    say("C", kwh * 400 / 1000)


def memory_parts(folder: Path) -> None:
    """Where the memory goes for Llama-2-7B, in four recipes."""
    found = parts("7B")
    figure, axes = drawing.canvas()
    bottom = np.zeros(len(found))
    names = {"weights": "权重", "LoRA factors": "LoRA 因子", "gradients": "梯度", "optimizer": "优化器"}
    for k, (name, hatch) in enumerate(zip(names, ("", "xx", "//", ".."), strict=True)):
        height = np.array([each[k] for each in found.values()])
        axes.bar(list(found), height, 0.6, bottom, label=name, hatch=hatch, edgecolor=drawing.INK, linewidth=0.5)
        bottom += height
    for place, total in enumerate(bottom):
        axes.text(place, total + 2, f"{total:.1f}", ha="center")
    axes.set(xlabel="recipe", ylabel="memory without activations (GB)", ylim=(0, 125))
    axes.legend()
    zh = {"full, float32": "全量，float32", "full, mixed": "全量，混合精度", "LoRA": "LoRA", "QLoRA": "QLoRA"}
    drawing.save(
        figure,
        folder,
        "memory-parts",
        zh | names | {"recipe": "方案", "memory without activations (GB)": "不含激活值的显存（GB）"},
    )


def memory_by_size(folder: Path) -> None:
    """The memory of three sizes in four recipes, beside what one card holds."""
    billions = [counts(name)[0] / 1e9 for name in SIZES]
    figure, axes = drawing.canvas()
    lines = (("full, mixed", "o-"), ("LoRA", "s--"), ("QLoRA", "^-."))
    for recipe, style in lines:
        axes.plot(billions, [sum(parts(name)[recipe]) for name in SIZES], style, label=recipe)
    for card in (24, 80):
        axes.axhline(card, linestyle=":", color=drawing.INK, linewidth=1)
        axes.text(88, card, f"{card} GB", va="center")
    axes.set(xlabel="parameters (billions)", ylabel="memory without activations (GB)", xscale="log", yscale="log", xlim=(6, 85))
    axes.set_xticks(billions, [name.removesuffix("B") for name in SIZES])
    axes.minorticks_off()
    axes.legend()
    zh = {"full, mixed": "全量，混合精度", "LoRA": "LoRA", "QLoRA": "QLoRA", "parameters (billions)": "参数量（十亿）"}
    drawing.save(figure, folder, "memory-by-size", zh | {"memory without activations (GB)": "不含激活值的显存（GB）"})


def activation_growth(folder: Path) -> None:
    """The least memory of the activations by the tokens of a batch, beside what LoRA and QLoRA take without them."""
    tokens = 2 ** np.arange(9, 16)
    figure, axes = drawing.canvas()
    axes.plot(tokens, [activations(int(count)) / 1e9 for count in tokens], "o-", label="activations, lower bound")
    for recipe, style, colour in (("LoRA", "--", 1), ("QLoRA", "-.", 2)):
        total = sum(parts("7B")[recipe])
        axes.axhline(total, linestyle=style, color=drawing.COLOURS[colour], label=f"{recipe} without activations")
    axes.set(xlabel="tokens in a batch", ylabel="memory (GB)", xscale="log", yscale="log")
    axes.set_xticks(tokens, [str(count) for count in tokens])
    axes.minorticks_off()
    axes.legend()
    zh = {"activations, lower bound": "激活值，下界", "tokens in a batch": "一个批次的词元数", "memory (GB)": "显存（GB）"}
    zh |= {f"{recipe} without activations": f"{recipe}，不含激活值" for recipe in ("LoRA", "QLoRA")}
    drawing.save(figure, folder, "activation-growth", zh)


if __name__ == "__main__":
    run(
        counting_parameters, lora_parameters, memory, energy, selective_methods, quiz,
        pictures=[memory_parts, memory_by_size, activation_growth],
    )  # fmt: skip
