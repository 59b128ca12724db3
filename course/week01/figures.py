"""Prints the numbers of the worked examples in this folder's lecture notes.

    python course/week01/figures.py

Each line is an equation that stands in the section named above it, letter for letter, in both languages.
"""

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


def memory() -> None:
    """Llama-2-7B in the four recipes, and the bits of NF4."""
    bits = 4 + 8 / 64 + 32 / (64 * 256)
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


if __name__ == "__main__":
    run(counting_parameters, lora_parameters, memory, energy, selective_methods)
