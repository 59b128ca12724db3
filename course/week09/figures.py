"""Prints the numbers of the worked examples in this folder's lecture notes.

    python course/week09/figures.py

Each line is an equation that stands in the section named above it, letter for letter, in both languages. Rows of a
matrix are separated by semicolons.
"""

import numpy as np

from course.labs.worked import run, say


def conv() -> None:
    """One channel and a kernel of one row: the branch beside the merged kernel."""
    W, A, B, scaling, x = np.array([1.0, 2]), np.array([0.5, -1]), 2.0, 3.0, np.array([1.0, 0, 2])
    say("W_0", W)
    say("A", A)
    say("B", B)
    say(r"\alpha / r", scaling)
    say("x", x)
    base, inner = np.correlate(x, W), np.correlate(x, A)
    say("W_0 * x", base)
    say("A * x", inner)
    say("y", base + scaling * B * inner)
    merged = W + scaling * B * A
    say(r"W_0 + \Delta W", merged)
    say(r"(W_0 + \Delta W) * x", np.correlate(x, merged))
    d, k, r = 320, 3, 4
    say("d", d)
    say("k", k)
    say("r", r)
    say("d^2 k^2", d * d * k * k)
    say("r (d k^2 + d)", r * (d * k * k + d))


def diffusion() -> None:
    """One number that is noised, and one step back."""
    x0, noise, eps, now, before = 2.0, -1.0, 0.5, 0.64, 0.96
    x = np.sqrt(now) * x0 + np.sqrt(1 - now) * noise
    clean = x / np.sqrt(now) - np.sqrt(1 / now - 1) * eps
    sigma = np.sqrt((1 - before) / (1 - now)) * np.sqrt(1 - now / before)
    say(r"\bar\alpha_t", now)
    say("x_0", x0)
    say(r"\epsilon", noise)
    say("x_t", x)
    say(r"\hat\epsilon", eps)
    say(r"(\epsilon - \hat\epsilon)^2", (noise - eps) ** 2)
    say(r"\bar\alpha_s", before)
    say(r"\hat x_0", clean)
    say("x_s", np.sqrt(before) * clean + np.sqrt(1 - before) * eps)
    say(r"\sigma", sigma)


def blend() -> None:
    """Two styles, one of them subtracted."""
    W = np.eye(2)
    first, second = 2.0 * np.outer([1, 0], [0, 1]), 0.5 * np.outer([0, 1], [1, 1])
    say("W_0", W)
    say(r"\Delta W_1", first)
    say(r"\Delta W_2", second)
    say("s", [0.5, -1])
    say("W", W + 0.5 * first - second)


def fused() -> None:
    """An adapter for the values of a projection with two query features, one key and one value."""
    W, x = np.array([[1.0, 0], [0, 1], [1, 1], [2, 0]]), np.array([1.0, 2])
    A, B, scaling = np.array([1.0, 1]), 1.0, 2.0
    say("W_0", W)
    say("x", x)
    say("W_0 x", W @ x)
    say("A_v", A)
    say("B_v", B)
    say(r"\alpha / r", scaling)
    say("y", W @ x + np.array([0, 0, 0, scaling * B * (A @ x)]))
    print("4096 + 1024 + 1024 = 6144")


if __name__ == "__main__":
    run(conv_lora=conv, diffusion=diffusion, blend_styles=blend, fused_qkv=fused)
