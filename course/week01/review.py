"""Find the bugs: a cost report for tuning a 70B model, as one might find it in a blog post.

The file runs and prints plausible numbers, and it has FIVE bugs. Find them, and explain for each what is wrong, why it matters
and what the right number is. The shapes are those of Llama-2-70B, and they are right: 80 layers of width 8192, 64 query heads
that share 8 key and value heads, feed-forward width 28672, 32000 tokens.
"""

LAYERS, WIDTH, FEED_FORWARD, TOKENS = 80, 8192, 28672, 32000
HEADS, KV_HEADS = 64, 8

KV_WIDTH = WIDTH * KV_HEADS // HEADS
ATTENTION = {"q": (WIDTH, WIDTH), "k": (KV_WIDTH, WIDTH), "v": (KV_WIDTH, WIDTH), "o": (WIDTH, WIDTH)}
MLP = {"gate": (FEED_FORWARD, WIDTH), "up": (FEED_FORWARD, WIDTH), "down": (WIDTH, FEED_FORWARD)}


def elements(shapes):
    """Parameters in one layer's matrices."""
    return sum(rows * columns for rows, columns in shapes.values())


def lora_size(targets, rank):
    """Trainable parameters of LoRA on the named attention matrices of every layer."""
    return LAYERS * sum(2 * rank * ATTENTION[name][1] for name in targets)


def report(targets=("q", "v"), rank=16):
    linears = LAYERS * elements(ATTENTION | MLP)
    base = linears + 2 * TOKENS * WIDTH + (2 * LAYERS + 1) * WIDTH  # embedding, head, norms
    extra = lora_size(targets, rank)
    print(f"base: {base / 1e9:.2f} billion parameters")
    share = 100 * extra / (LAYERS * elements(ATTENTION))
    print(f"LoRA on {', '.join(targets)}: {extra / 1e6:.1f} million parameters, {share:.3f} % of the model")

    # Full fine-tuning in mixed precision: weights and gradients in 16 bits, two moments in 32 bits.
    full = (2 + 2 + 2 * 4) * base
    print(f"full fine-tuning: {full / 1e9:.0f} GB before activations")

    # QLoRA: 4-bit weights with double quantisation, factors with gradients and Adam in 32 bits.
    quantised = 4.127 / 8 * base
    factors = (4 + 4 + 8) * extra
    print(f"QLoRA: {(quantised + factors) / 1e9:.1f} GB before activations")

    # 8 GPUs for 20 hours at 350 W each, a data centre with PUE 1.3, a grid of 400 g CO2e for each kWh.
    energy = 8 * 20 * 350 / 1000 * 1.3
    emissions = energy * 1.3 * 400 / 1000
    print(f"energy: {energy:.0f} kWh, emissions: {emissions:.0f} kg CO2e")


if __name__ == "__main__":
    report()
