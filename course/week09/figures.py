"""Prints the numbers of the worked examples in this folder's lecture notes.

    python course/week09/figures.py

Each line is an equation that stands in the section named above it, letter for letter, in both languages. Rows of a
matrix are separated by semicolons.
"""

from pathlib import Path

import numpy as np

from course.labs import drawing
from course.labs.worked import run, say

# Signal left at each of 1000 timesteps: DDPM's schedule (Ho et al., section 4) and the one in Stable Diffusion's scheduler file.
SCHEDULES = {
    "DDPM": np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)),
    "Stable Diffusion": np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2),
}


def why() -> None:
    """What one style costs as a whole model and as an adapter: the attention of SDXL's denoiser at rank 4."""
    blocks = {640: 2 * 2 + 3 * 2, 1280: 2 * 10 + 10 + 3 * 10}  # transformer blocks of each width: down, middle, up
    context, rank = 2048, 4
    count = sum(n * rank * (4 * 2 * d + 2 * 2 * d + 2 * (context + d)) for d, n in blocks.items())
    whole = 2_567_463_684
    say("P", whole)
    say("r", rank)
    say("P_r", count)
    say("P / P_r", round(whole / count))
    print(f"2 P = {2 * whole / 1e9:.1f}")
    print(f"2 P_r = {2 * count / 1e6:.1f}")


def stable_diffusion() -> None:
    """The size of a latent, what is left of the signal at the end, and the layers that LoRA may stand beside."""
    print(f"512 \\cdot 512 \\cdot 3 = {512 * 512 * 3}")
    print(f"64 \\cdot 64 \\cdot 4 = {64 * 64 * 4}")
    print(f"786432 / 16384 = {512 * 512 * 3 // (64 * 64 * 4)}")
    for name, abar in zip(("DDPM", "SD"), SCHEDULES.values(), strict=True):
        say(rf"\sqrt{{\bar\alpha_T}}^{{\text{{{name}}}}}", np.sqrt(abar[-1]))
    say("T", 1000)
    d, context, r = 1280, 2048, 4
    say("d", d)
    say("c", context)
    say("r", r)
    say("2 r d", 2 * r * d)
    say("r (c + d)", r * (context + d))
    say("4 (2 r d) + 2 (2 r d) + 2 r (c + d)", 6 * 2 * r * d + 2 * r * (context + d))


def latency() -> None:
    """What an unmerged branch adds to one layer: calls and multiply-adds."""
    r = 8
    say("r", r)
    for d in (64, 768, 4096):
        print(rf"2 r / d \,|_{{d = {d}}} = {2 * r / d:.4g}")


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
    say(r"r_{\max}", round(d * d * k * k / (d * k * k + d)))


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
    say(r"\sqrt{1 - \bar\alpha_s - \sigma^2}", np.sqrt(1 - before - sigma**2))
    say(r"(1 - \bar\alpha_s - \sigma^2) + \sigma^2", 1 - before)


def blend() -> None:
    """Two styles, one of them subtracted."""
    W = np.eye(2)
    first, second = 2.0 * np.outer([1, 0], [0, 1]), 0.5 * np.outer([0, 1], [1, 1])
    say("W_0", W)
    say(r"\Delta W_1", first)
    say(r"\Delta W_2", second)
    say("s", [0.5, -1])
    say("W", W + 0.5 * first - second)
    share = np.float16(1) + np.float16(0.0004)
    say("w", 1)
    say("u", 0.0004)
    say(r"w \oplus u \oplus u \oplus u \oplus u", share)
    say(r"\text{fp16}(w + 4 u)", np.float16(1 + 4 * 0.0004))


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
    print(f"(224 / 16)^2 + 1 = {(224 // 16) ** 2 + 1}")
    d, r = 768, 8
    say("d", d)
    say("r", r)
    say("2 r (d + d)", 2 * r * (d + d))
    say("r (d + 3 d)", r * (d + 3 * d))


def quiz() -> None:
    """The numbers of the questions."""
    say("r", 4)
    print("r (16 \\cdot 9 + 32) = 704")
    print("\\bar\\alpha_t = 0.25")
    say("x_0", 2)
    say(r"\epsilon", 0)
    say("x_t", 1)


def schedules(folder: Path) -> None:
    """How much of the picture and how much noise a sample holds at each timestep."""
    figure, axes = drawing.canvas()
    for (name, abar), dashes in zip(SCHEDULES.items(), ("-", "--"), strict=True):
        axes.plot(np.sqrt(abar), dashes, color=drawing.COLOURS[0], label=f"signal √ᾱ, {name}")
        axes.plot(np.sqrt(1 - abar), dashes, color=drawing.COLOURS[1], label=f"noise √(1 − ᾱ), {name}")
    axes.set(xlabel="timestep t", ylabel="factor", xlim=(0, 1000), ylim=(0, 1.02))
    figure.legend(loc="outside upper center", ncols=2)
    zh = {
        f"{en} {name}": f"{cn}，{name}"
        for name in SCHEDULES
        for en, cn in (("signal √ᾱ,", "信号 √ᾱ"), ("noise √(1 − ᾱ),", "噪声 √(1 − ᾱ)"))
    }
    drawing.save(figure, folder, "schedules", zh | {"timestep t": "时间步 t", "factor": "系数"})


def blending_trace(folder: Path) -> None:
    """What is left in half-precision weights after styles were put in and taken out again, in place and from a copy."""
    rng = np.random.default_rng(0)
    start = rng.normal(0, 0.02, 4096).astype(np.float16)
    weights, moved = start.copy(), [0.0]
    for _ in range(60):
        style = rng.normal(0, 0.01, 4096).astype(np.float16)
        weights = ((weights + style).astype(np.float16) - style).astype(np.float16)
        moved.append(float(100 * (weights != start).mean()))
    figure, axes = drawing.canvas(height=3.0)
    axes.plot(moved, label="added and subtracted in place")
    axes.plot([0] * len(moved), "--", label="set from a copy of W₀")
    axes.set(xlabel="styles that were blended in and out", ylabel="weights that changed (%)", xlim=(0, 60), ylim=(-3, 100))
    axes.legend(loc="center right")
    zh = {
        "added and subtracted in place": "原地相加再相减",
        "set from a copy of W₀": "每次从 W₀ 的副本设置",
        "styles that were blended in and out": "混入又移除的风格个数",
        "weights that changed (%)": "发生变化的权重（%）",
    }
    drawing.save(figure, folder, "blending-trace", zh)


def branch_cost(folder: Path) -> None:
    """Relative cost of an unmerged branch beside one square layer, in multiply-adds and in calls."""
    widths = 2 ** np.arange(5, 14)
    figure, axes = drawing.canvas(height=3.0)
    for rank, style in ((4, "o-"), (16, "s--"), (64, "^:")):
        wide = widths[widths >= rank]  # no rank is larger than its layer
        axes.loglog(wide, 1 + 2 * rank / wide, style, label=f"multiply-adds, r = {rank}")
    axes.loglog(widths, np.full(len(widths), 3), "-.", label="matrix products (calls)")
    axes.set(xlabel="width d of the layer (features)", ylabel="unmerged / base", ylim=(0.9, 6))
    axes.set_xticks([32, 128, 512, 2048, 8192], ["32", "128", "512", "2048", "8192"])
    axes.set_yticks([1, 2, 3, 5], ["1", "2", "3", "5"])
    axes.minorticks_off()
    figure.legend(loc="outside upper center", ncols=2)
    zh = {f"multiply-adds, r = {rank}": f"乘加次数，r = {rank}" for rank in (4, 16, 64)} | {
        "matrix products (calls)": "矩阵乘法（调用次数）",
        "width d of the layer (features)": "层的宽度 d（特征数）",
        "unmerged / base": "未合并 / 底座",
    }
    drawing.save(figure, folder, "branch-cost", zh)


if __name__ == "__main__":
    run(
        why_it_matters=why,
        stable_diffusion=stable_diffusion,
        conv_lora=conv,
        diffusion=diffusion,
        blend_styles=blend,
        fused_qkv=fused,
        latency=latency,
        quiz=quiz,
        pictures=[schedules, blending_trace, branch_cost],
    )
