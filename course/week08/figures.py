"""Prints the numbers of the worked examples in this folder's lecture notes.

    python course/week08/figures.py

Each line is an equation that stands in the section named above it, letter for letter, in both languages. Rows of a
matrix are separated by semicolons.
"""

import numpy as np

from course.labs.worked import run, say

SAMPLES = np.array([3, 1])
W = SAMPLES / SAMPLES.sum()
A1, A2 = np.array([[1, 2]]), np.array([[1, -2]])
B1, B2 = np.array([[2], [0]]), np.array([[0], [4]])
SCALE = 2  # alpha 2, rank 1


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


def new_tokens() -> None:
    """What is saved for ten new tokens."""
    tokens, width, new = 32000, 4096, 10
    print(f"V = {tokens}")
    print(f"d = {width}")
    print(f"m = {new}")
    print(f"V d = {tokens * width}")
    print(f"m d = {new * width}")


if __name__ == "__main__":
    run(fedavg, stacking, generator, generate_reply, clip_and_noise, new_tokens)
