"""Prints the numbers of the worked examples in this folder's lecture notes.

    python course/week10/figures.py

Each line is an equation that stands in the section named above it, letter for letter, in both languages. Rows of a
matrix are separated by semicolons.
"""

import numpy as np

from course.labs.worked import run, say


def relocate() -> None:
    """Two layers that exchange their updates, and a changed alpha."""
    one, two, x, identity = np.array([[2, 0], [0, 0]]), np.array([[0, 0], [3, 0]]), np.array([1, 1]), np.eye(2)
    say(r"\Delta W_1", one)
    say(r"\Delta W_2", two)
    say("x", x)
    say(r"(I + \Delta W_2)(I + \Delta W_1) x", (identity + two) @ (identity + one) @ x)
    say(r"(I + \Delta W_1)(I + \Delta W_2) x", (identity + one) @ (identity + two) @ x)
    say(r"\alpha / r", 800 / 4)
    say("r", 4)
    say(r"\alpha", 800)


def canonicalize() -> None:
    """One rank-1 update in two gauges, and its canonical pair."""
    B, A = np.array([[3], [4]]), np.array([[0.4, 0.3]])
    G = -2
    say("B", B)
    say("A", A)
    say("G", G)
    say("B G", B * G)
    say("G^{-1} A", A / G)
    say("B A", B @ A)
    U, s, Vh = np.linalg.svd(B @ A)
    sign = np.sign(U[1, 0])
    say("s_1", s[0])
    say("B'", sign * U[:, :1] * np.sqrt(s[0]))
    say("A'", sign * Vh[:1] * np.sqrt(s[0]))


def fingerprint() -> None:
    """The same number by two ways, in float64."""
    print(rf"0.1 \cdot 3 = {0.1 * 3!r}")
    print(rf"0.3 / 1 = {0.3 / 1!r}")


def membership() -> None:
    """Two members and two others, with and without a reference model."""
    members, others = np.array([1.0, 2.5]), np.array([0.5, 2.0])
    easy_members, easy_others = np.array([2.0, 3.5]), np.array([0.5, 2.5])

    def auc(a: np.ndarray, b: np.ndarray) -> float:
        return float((a[:, None] > b).mean() + (a[:, None] == b).mean() / 2)

    say(r"\ell_{\text{members}}", members)
    say(r"\ell_{\text{others}}", others)
    say(r"\ell^{\text{ref}}_{\text{members}}", easy_members)
    say(r"\ell^{\text{ref}}_{\text{others}}", easy_others)
    say(r"s_{\text{members}}", easy_members - members)
    say(r"s_{\text{others}}", easy_others - others)
    say(r"\text{AUC}", auc(easy_members - members, easy_others - others))
    say(r"\text{AUC}_{\text{uncalibrated}}", auc(-members, -others))


def pgd() -> None:
    """The worst perturbation of a linear logit."""
    w, epsilon = np.array([1, -2]), 0.1
    say("w", w)
    say(r"\varepsilon", epsilon)
    say(r"\delta", -epsilon * np.sign(w))
    say(r"w^\top \delta", -epsilon * np.abs(w).sum())


def spectral() -> None:
    """How far the estimate is from the base, before and after the iteration."""
    rng = np.random.default_rng(0)
    size, models, rank, steps = 16, 6, 1, 5
    W = rng.standard_normal((size, size))
    merged = np.stack([W + rng.standard_normal((size, rank)) @ rng.standard_normal((rank, size)) for _ in range(models)])
    estimate, errors = merged.mean(axis=0), []
    for _ in range(steps + 1):
        errors.append(np.linalg.norm(estimate - W) / np.linalg.norm(W))
        left, values, right = np.linalg.svd(merged - estimate)
        estimate = (merged - values[:, :1, None] * left[:, :, :1] * right[:, :1]).mean(axis=0)
    say("d", size)
    say("n", models)
    say("r", rank)
    say("T", steps)
    say("e_0", errors[0])
    say("e_T", errors[-1])


def trigger() -> None:
    """Flip rates of a planted trigger and of a word that sways any model."""
    say("n", 8)
    say("7 / 8 - 1 / 8", 7 / 8 - 1 / 8)
    say("6 / 8 - 6 / 8", 0)


if __name__ == "__main__":
    run(
        relocate=relocate,
        canonicalize=canonicalize,
        fingerprint=fingerprint,
        membership=membership,
        pgd=pgd,
        spectral_detuning=spectral,
        trigger_scan=trigger,
    )
