"""Prints the numbers of the worked examples in this folder's lecture notes.

    python course/week10/figures.py

Each line is an equation that stands in the section named above it, letter for letter, in both languages. Rows of a
matrix are separated by semicolons.
"""

from pathlib import Path

import numpy as np

from course.labs import drawing
from course.labs.worked import run, say


def auc(members: np.ndarray, others: np.ndarray) -> float:
    """The share of pairs in which the member scores higher, ties counted half."""
    return float((members[:, None] > others).mean() + (members[:, None] == others).mean() / 2)


def why() -> None:
    """How small the lever is: a LoRA beside the model that it steers."""
    rank, width, layers = 8, 4096, 32
    say("r", rank)
    print(f"L (4 r (d + d)) = {layers * 4 * rank * 2 * width}")
    print(f"d = {width}")
    say("L", layers)
    print(f"L (4 d^2) = {layers * 4 * width**2}")


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
    width, rank = 4096, 16
    print(f"d = {width}")
    say("r", rank)
    print(f"d^2 = {width**2}")
    say("r^2", rank**2)


def fingerprint() -> None:
    """The same number by two ways, in float64."""
    print(rf"0.1 \cdot 3 = {0.1 * 3!r}")
    print(rf"0.3 / 1 = {0.3 / 1!r}")
    width, error, grid = 4096, 1e-15, 1e-6
    print(f"d = {width}")
    print("e = 10^{-15}")
    print("g = 10^{-6}")
    print(f"2 e / g = {2 * error / grid * 1e9:.0f} \\cdot 10^{{-9}}")
    say("d^2 (2 e / g)", width**2 * 2 * error / grid)


def membership() -> None:
    """Two members and two others, with and without a reference model."""
    members, others = np.array([1.0, 2.5]), np.array([0.5, 2.0])
    easy_members, easy_others = np.array([2.0, 3.5]), np.array([0.5, 2.5])

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
    say(r"\lVert w \rVert_1", np.abs(w).sum())
    say(r"\varepsilon \sqrt{d}", epsilon * np.sqrt(784))
    say(r"\varepsilon d", epsilon * 784)
    say("d", 784)


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


def quiz() -> None:
    """The numbers of the questions."""
    say("r", 8)
    say(r"\alpha", 16)
    say(r"\alpha / r", 2)
    say(r"\alpha'", 64)
    say(r"\alpha' / r", 8)
    say(r"\ell_{\text{members}}", [0.2, 0.4])
    say(r"\ell_{\text{others}}", [0.4, 0.6])
    say(r"\text{AUC}", auc(-np.array([0.2, 0.4]), -np.array([0.4, 0.6])))


def gauges(folder: Path) -> None:
    """How far an update moves when it is computed from other factors, by the condition number of the change."""
    rng = np.random.default_rng(0)
    size, rank, draws = 64, 8, 20
    conditions = 10.0 ** np.arange(0, 9)
    B, A = rng.standard_normal((size, rank)), rng.standard_normal((rank, size))
    update = B @ A
    moved: dict[str, list[float]] = {"float64": [], "float32": []}
    for condition in conditions:
        worst = dict.fromkeys(moved, 0.0)
        for _ in range(draws):
            left, right = (np.linalg.qr(rng.standard_normal((rank, rank)))[0] for _ in range(2))
            G = left @ np.diag(np.geomspace(1, 1 / condition, rank)) @ right
            for name in moved:
                other = (B @ G).astype(name).astype(np.float64) @ np.linalg.solve(G, A).astype(name).astype(np.float64)
                worst[name] = max(worst[name], float(np.abs(other - update).max() / np.abs(update).max()))
        for name, value in worst.items():
            moved[name].append(10 ** np.round(np.log10(value)))  # to a power of ten: the last digits differ between machines
    figure, axes = drawing.canvas(height=3.2)
    for (name, values), style in zip(moved.items(), ("o-", "s--"), strict=True):
        axes.loglog(conditions, values, style, label=name)
    axes.loglog(conditions, np.full(len(conditions), 1e-6), ":", color=drawing.COLOURS[4], label="grid of the fingerprint")
    axes.set(xlabel="condition number of G", ylabel="largest change / largest entry\n(to a power of ten)")
    axes.minorticks_off()
    figure.legend(loc="outside upper center", ncols=3)
    zh = {
        "float64": "float64",
        "float32": "float32",
        "grid of the fingerprint": "指纹的取整间距",
        "condition number of G": "G 的条件数",
        "largest change / largest entry": "最大变化 / 最大元素",
        "(to a power of ten)": "（取整到 10 的幂）",
    }
    drawing.save(figure, folder, "gauges", zh)


def roc(folder: Path) -> None:
    """True against false positives of two scores: the loss alone, and calibrated by a reference model."""
    rng = np.random.default_rng(3)
    count = 400
    easy = {"member": rng.normal(2, 0.8, count), "other": rng.normal(2, 0.8, count)}  # how hard an example is
    own = {"member": easy["member"] - 0.4 + rng.normal(0, 0.2, count), "other": easy["other"] + rng.normal(0, 0.2, count)}
    known = {name: value + rng.normal(0, 0.2, count) for name, value in easy.items()}
    scores = {
        "loss alone": {name: -own[name] for name in own},
        "calibrated": {name: known[name] - own[name] for name in own},
    }
    figure, axes = drawing.canvas(height=3.4)
    for (label, score), style in zip(scores.items(), ("--", "-"), strict=True):
        cuts = np.sort(np.concatenate([score["member"], score["other"]]))[::-1]
        false, true = ([float((score[name] >= cut).mean()) for cut in cuts] for name in ("other", "member"))
        axes.plot(false, true, style, label=f"{label}, AUC {auc(score['member'], score['other']):.2f}")
    axes.plot([0, 1], [0, 1], ":", color=drawing.COLOURS[5], label="no information, AUC 0.50")
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(loc="lower right")
    words = {"loss alone": "只看损失", "calibrated": "校准之后", "no information": "没有信息"}
    zh = {
        text.get_text(): words[text.get_text().split(",")[0]] + "，AUC " + text.get_text()[-4:]
        for text in axes.get_legend().get_texts()
    }
    drawing.save(figure, folder, "roc", zh | {"false positive rate": "假阳性率", "true positive rate": "真阳性率"})


def detuning(folder: Path) -> None:
    """The error of the estimated base by step, for several numbers of published models."""
    figure, axes = drawing.canvas(height=3.2)
    for models, style in ((2, "o-"), (4, "s--"), (8, "^:")):
        rng = np.random.default_rng(0)
        size, rank, steps = 16, 1, 12
        W = rng.standard_normal((size, size))
        merged = np.stack([W + rng.standard_normal((size, rank)) @ rng.standard_normal((rank, size)) for _ in range(models)])
        estimate, errors = merged.mean(axis=0), []
        for _ in range(steps + 1):
            errors.append(np.linalg.norm(estimate - W) / np.linalg.norm(W))
            left, values, right = np.linalg.svd(merged - estimate)
            estimate = (merged - values[:, :1, None] * left[:, :, :1] * right[:, :1]).mean(axis=0)
        axes.semilogy(errors, style, label=f"{models} models")
    axes.set(xlabel="step", ylabel="error of the base (relative)", ylim=(1e-5, 2))
    axes.minorticks_off()
    axes.legend(loc="lower left")
    zh = {f"{models} models": f"{models} 个模型" for models in (2, 4, 8)}
    drawing.save(figure, folder, "detuning", zh | {"step": "步", "error of the base (relative)": "底座的相对误差"})


if __name__ == "__main__":
    run(
        why_it_matters=why,
        relocate=relocate,
        canonicalize=canonicalize,
        fingerprint=fingerprint,
        membership=membership,
        pgd=pgd,
        spectral_detuning=spectral,
        trigger_scan=trigger,
        quiz=quiz,
        pictures=[gauges, roc, detuning],
    )
