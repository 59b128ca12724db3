"""Prints the numbers of the threads' pages, and draws their figures; those of the page of myths are in evidence.py.

    python course/threads/figures.py [--draw]

Each line is an equation that stands in the page named above it, letter for letter, in both languages.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from course.labs import architectures, drawing
from course.labs.training import schedule_factor
from course.labs.worked import quote, run, say
from course.threads.toys import adam, factors, losses, normal, update

LLAMA = "Llama-2-7B"
TOKENS, WIDTH, INNER, LAYERS = architectures.LLAMA[LLAMA][:4]
RANK = 16
MEASURED = json.loads(Path(__file__).with_name("measured.json").read_text(encoding="utf-8"))


def counts(shapes: list[tuple[int, int]], width: int, inner: int, layers: int) -> dict[str, int]:
    """Trainable parameters of each method, from the shapes (d_out, d_in) of the blocks' matrices.

    As the page of families writes the formulas: adapters of width 64 twice a block; prefix and prompt of 20 tokens; rank 16, but
    256 for VeRA and 32 for RandLoRA; four branches for HydraLoRA.
    """
    both, out, ins = sum(m + n for m, n in shapes), sum(m for m, _ in shapes), sum(n for _, n in shapes)
    return {
        "adapters": 2 * layers * (2 * 64 * width + 64 + width),
        "prefix": 2 * layers * 20 * width,
        "prompt": 20 * width,
        "IA3": layers * (2 * width + inner),
        "LoRA": RANK * both,
        "DoRA": RANK * both + out,
        "AdaLoRA": RANK * (both + len(shapes)),
        "VeRA": 256 * len(shapes) + out,
        "RandLoRA": sum(math.ceil(min(m, n) / 32) * (32 + min(m, n)) for m, n in shapes),
        "HydraLoRA": RANK * (ins + 4 * out) + 4 * ins,
        "QR-LoRA": RANK * len(shapes),
    }


def families() -> None:
    """What each method trains of Llama-2-7B."""
    model = architectures.blueprint(LLAMA)
    shapes = architectures.matrices(model)
    total = sum(p.numel() for p in model.parameters())
    for name, value in (("d", WIDTH), ("f", INNER), ("n_L", LAYERS), ("n_M", len(shapes)), ("P", total)):
        say(name, value)
    for name, value in {"m": 64, "n_t": 20, "r": RANK, r"r_{\text{VeRA}}": 256, r"r_{\text{RandLoRA}}": 32, "N": 4}.items():
        say(name, value)
    for name, value in counts(shapes, WIDTH, INNER, LAYERS).items():
        say(rf"P_{{\text{{{name}}}}}", value)
    say(r"P_{\text{BitFit}}", sum(p.numel() for name, p in model.named_parameters() if name.endswith("bias")))


def sweep() -> dict[str, list[float]]:
    """The error on new inputs after 60 steps of Adam at each of RATES: a tanh layer that has to learn an update."""
    d = 32
    X, fresh, D = normal(1, 256, d), normal(4, 256, d), update(2, [2 / k for k in range(1, 17)], d, d)
    W0 = torch.eye(d, dtype=torch.float64)

    def outputs(W: Tensor, inputs: Tensor = X) -> Tensor:
        return torch.tanh(inputs @ W.T)

    targets, right = outputs(W0 + D) + 0.1 * normal(5, 256, d), outputs(W0 + D, fresh)
    found: dict[str, list[float]] = {}
    for rank in (None, 1, 4, 16):
        for rate in RATES:
            if rank is None:
                parameters = [W0.clone().requires_grad_()]
                weight: Callable[[], Tensor] = lambda p=parameters: p[0]  # type: ignore[misc]
            else:
                parameters = list(factors(3, rank, d, d))
                weight = lambda p=parameters, s=8 / rank: W0 + s * p[0] @ p[1]  # type: ignore[misc]  # noqa: E731
            adam(parameters, lambda w=weight: ((outputs(w()) - targets) ** 2).mean(), 60, rate)  # type: ignore[misc]
            with torch.no_grad():
                found.setdefault(f"r={rank}" if rank else "full", []).append(
                    ((outputs(weight(), fresh) - right) ** 2).mean().item()
                )
    return found


RATES = [round(10 ** (k / 2 - 4), 6) for k in range(8)]


def hyperparameters() -> None:
    """The sweep's best rate and error for each rank and for all weights."""
    say("N", 256)
    say(r"\alpha", 8)
    say("T", 60)
    say(r"\eta", RATES)
    for name, errors in sweep().items():
        best = int(np.argmin(errors))
        label = rf"\text{{{name}}}" if name == "full" else name.removeprefix("r=")
        say(rf"\eta^*_{{{label}}}", RATES[best])
        print(rf"e_{{{label}}} = {errors[best]:.4f}")
    quote(r"c_{\text{post}}", 10, "schulman-regret")
    quote(r"n_{\text{variants}}", 9, "lee-lr-matters")
    quote(r"100 \Delta_{\text{best}}", 2, "lee-lr-matters")


def rates(folder: Path) -> None:
    """The error against the rate."""
    figure, axes = drawing.canvas()
    for (name, errors), style in zip(sweep().items(), ("-", "--", ":", "-."), strict=True):
        axes.loglog(RATES, errors, style, marker="o", markersize=3, label=name.replace("full", "all weights"))
    axes.set(xlabel="learning rate", ylabel="error on new inputs")
    axes.legend()
    zh = {"learning rate": "学习率", "error on new inputs": "新输入上的误差", "all weights": "全部权重"}
    drawing.save(figure, folder, "rates", zh)


def overfitting() -> tuple[list[float], list[float]]:
    """Training and validation error after each of 60 epochs of LoRA on few noisy examples."""
    d, n = 32, 48
    D = update(31, [1.0] * 4, d, d)
    X, V = normal(32, n, d), normal(33, 512, d)
    Y = X @ D.T + 0.7 * normal(34, n, d)
    B, A = factors(35, 16, d, d)
    seen: tuple[list[float], list[float]] = ([], [])
    for _ in losses([B, A], lambda: ((X @ (B @ A).T - Y) ** 2).mean(), 60, 0.01):
        with torch.no_grad():
            seen[0].append(((X @ (B @ A).T - Y) ** 2).mean().item())
            seen[1].append(((V @ (B @ A - D).T) ** 2).mean().item())
    return seen


def schedules() -> dict[str, float]:
    """The error that is left by three schedules of the same peak, on batches of 8 noisy examples."""
    d, steps = 32, 400
    D = update(36, [1.0] * 4, d, d)
    found = {}
    for name, (warmup, kind) in {"constant": (0, "constant"), "cosine": (0, "cosine"), "both": (20, "cosine")}.items():
        B, A = factors(37, 8, d, d)
        step = iter(range(10**6))

        def loss(B: Tensor = B, A: Tensor = A, step: Any = step) -> Tensor:
            number = next(step)
            X, noise = normal(1000 + number, 8, d), 0.5 * normal(5000 + number, 8, d)
            return ((X @ (B @ A - D).T + noise) ** 2).mean()

        adam([B, A], loss, steps, 0.02, lambda k, w=warmup, s=kind: schedule_factor(k, steps, w, s))  # type: ignore[misc]
        found[name] = ((B @ A - D) ** 2).sum().item() / (D**2).sum().item()
    return found


def debugging() -> None:
    """Numbers for each symptom, and for each of the switches."""
    say("V", TOKENS)
    say(r"\ln V", math.log(TOKENS))
    X, labels = normal(41, 8, 32), torch.arange(8)
    B, A = factors(42, 4, 16, 32)
    W = normal(43, 16, 32) / 32**0.5
    say("n", 8)
    print(f"L_0 = {nn.functional.cross_entropy(X @ W.T, labels):.3f}")
    fitted = adam([B, A], lambda: nn.functional.cross_entropy(X @ (W + 4 * B @ A).T, labels), 200, 0.02)
    print(rf"L_{{\text{{one batch}}}} = {fitted:.3f}")
    B, A = (torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in ((16, 4), (4, 32)))
    stuck = adam([B, A], lambda: nn.functional.cross_entropy(X @ (W + 4 * B @ A).T, labels), 200, 0.02)
    print(rf"L_{{A = B = 0}} = {stuck:.3f}")

    train, validation = overfitting()
    best = int(np.argmin(validation))
    say(r"t^*", best + 1)
    say(r"t_{\text{end}}", len(validation))
    print(rf"e_{{t^*}} = {validation[best]:.3f}")
    print(rf"e_{{\text{{end}}}} = {validation[-1]:.3f}")
    print(rf"L_{{t^*}} = {train[best]:.3f}")
    print(rf"L_{{\text{{end}}}} = {train[-1]:.3f}")

    length, heads = 4096, 32
    say("T", length)
    say("h", heads)
    print(rf"2 h T^2 / 10^9 = {2 * heads * length**2 / 1e9:.2f}")
    print(rf"4 T V / 10^9 = {4 * length * TOKENS / 1e9:.2f}")
    print(rf"a_{{\text{{attention}}}} = {MEASURED['attention']:.1f}")
    quote(r"100 (a_{\text{BERT}} - 1)", 15, "dao-flash")
    quote(r"a_{\text{GPT-2}}", 3, "dao-flash")
    print(rf"a_{{\text{{batched}}}} = {MEASURED['preprocessing']['batched']:.1f}")
    print(rf"a_{{\text{{cached}}}} = {MEASURED['preprocessing']['cached']:.0f}")

    for name, value in schedules().items():
        print(rf"e_{{\text{{{name}}}}} = {value:.3f}")
    trained = counts(architectures.matrices(architectures.blueprint(LLAMA)), WIDTH, INNER, LAYERS)["LoRA"]
    say("r", RANK)
    say(r"P_{\text{LoRA}}", trained)
    print(rf"12 P_{{\text{{LoRA}}}} / 10^6 = {12 * trained / 1e6:.0f}")


def early_stopping(folder: Path) -> None:
    """Both errors against the epoch."""
    train, validation = overfitting()
    figure, axes = drawing.canvas()
    epochs = range(1, len(train) + 1)
    axes.plot(epochs, train, "-", label="training")
    axes.plot(epochs, validation, "--", label="validation")
    axes.axvline(int(np.argmin(validation)) + 1, color=drawing.COLOURS[5], linewidth=0.8)
    axes.set(xlabel="epoch", ylabel="mean squared error", ylim=(0, None))
    axes.legend()
    zh = {"training": "训练", "validation": "验证", "epoch": "轮次", "mean squared error": "均方误差"}
    drawing.save(figure, folder, "early-stopping", zh)


FORMATS = {
    "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2,
}  # fmt: skip


def _short(value: float) -> str:
    """As the pages write a number that may be very large or small."""
    if 1e-3 <= abs(value) < 1e6:
        return f"{value:.0f}" if value >= 1e3 else f"{value:.4g}"
    digits, power = f"{value:.2e}".split("e")
    return rf"{digits} \cdot 10^{{{int(power)}}}"


def mixed_precision() -> None:
    """The formats, and what becomes of small updates and gradients in them."""
    for name, dtype in FORMATS.items():
        info = torch.finfo(dtype)
        say(rf"b_{{\text{{{name}}}}}", info.bits)
        print(rf"\varepsilon_{{\text{{{name}}}}} = 2^{{{round(math.log2(info.eps))}}}")
        print(rf"M_{{\text{{{name}}}}} = {_short(info.max)}")
        print(rf"m_{{\text{{{name}}}}} = {_short(info.tiny)}")

    weight, rate, steps = 1.0, 0.001, 1000
    say("w_0", weight)
    say(r"\eta", rate)
    say("T", steps)
    for name in ("fp32", "bf16"):
        w = torch.tensor(weight, dtype=FORMATS[name])
        for _ in range(steps):
            w += torch.tensor(rate, dtype=FORMATS[name])
        print(rf"w_{{\text{{{name}}}}} = {w.item():.3f}")

    d, step = WIDTH, 1e-4
    say("d", d)
    A = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, 10**6)).div(d**0.5).bfloat16()
    say("N", 10**6)
    print(r"\eta_A = 10^{-4}")
    print(r"\eta_a = 10^{-5}")
    for name, size in (("A", step), ("a", step / 10)):
        same = (A + torch.tensor(size, dtype=torch.bfloat16)) == A
        print(rf"f_{name} = {same.double().mean():.2f}")

    gradients = 1e-8 * normal(51, 10**6)
    print(r"\sigma_g = 10^{-8}")
    say("S", 2**16)
    print(rf"z_{{\text{{fp16}}}} = {(gradients.half() == 0).double().mean():.2f}")
    print(rf"z_{{\text{{scaled}}}} = {((gradients * 2**16).half() == 0).double().mean():.5f}")
    print(rf"z_{{\text{{bf16}}}} = {(gradients.bfloat16() == 0).double().mean():.0f}")

    x, W = torch.ones(2, 2), torch.ones(2, 2, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        product = x @ W
        loss = nn.functional.cross_entropy(product, torch.tensor([0, 1]))
    loss.backward()
    assert W.grad is not None
    for name, tensor in (("x W", product), ("L", loss), (r"\nabla W", W.grad)):
        say(rf"\text{{bits}}({name})", 8 * tensor.element_size())


def serving() -> None:
    """The memory and the work of many adapters on one base."""
    model = architectures.blueprint(LLAMA)
    total = sum(p.numel() for p in model.parameters())
    shapes = architectures.matrices(model)
    one = RANK * sum(m + n for m, n in shapes)
    adapters = 1000
    say("P", total)
    say("r", RANK)
    say(r"P_{\text{LoRA}}", one)
    say("K", adapters)
    print(rf"2 P / 10^9 = {2 * total / 1e9:.2f}")
    print(rf"2 P_{{\text{{LoRA}}}} / 10^6 = {2 * one / 1e6:.0f}")
    print(rf"2 K P / 10^{{12}} = {2 * adapters * total / 1e12:.1f}")
    print(rf"2 (P + K P_{{\text{{LoRA}}}}) / 10^9 = {2 * (total + adapters * one) / 1e9:.1f}")
    cache = 2 * 2 * LAYERS * WIDTH
    say(r"2 \cdot 2 n_L d", cache)
    print(rf"2 P_{{\text{{LoRA}}}} / (4 n_L d) = {2 * one / cache:.0f}")
    slots, widest = 8, 64
    say("s", slots)
    say(r"r_{\max}", widest)
    print(rf"2 s r_{{\max}} P_{{\text{{LoRA}}}} / (10^9 r) = {2 * slots * widest * one / RANK / 1e9:.2f}")

    d, rank, batch, kinds = 64, 4, 32, 5
    A, B = normal(61, kinds, rank, d), normal(62, kinds, d, rank)
    X, ids = normal(63, batch, d), torch.from_numpy(np.random.default_rng(64).integers(0, kinds, batch))
    gathered = torch.einsum("bor,bri,bi->bo", B[ids], A[ids], X)
    order = ids.argsort(stable=True)
    segments = [X[rows] @ A[int(k)].T @ B[int(k)].T for k in ids.unique() if len(rows := order[ids[order] == k])]
    sorted_back = torch.cat(segments)[order.argsort()]
    say("b", batch)
    say(r"n_{\text{adapters}}", int(len(ids.unique())))
    say(r"s_{\text{equal}}", torch.isclose(gathered, sorted_back).double().mean().item())
    say(r"2 n_{\text{adapters}}", 2 * len(ids.unique()))
    print(rf"t_{{\text{{one}}}} = {MEASURED['latency']['one']:.2f}")
    print(rf"t_{{\text{{many}}}} = {MEASURED['latency']['many']:.2f}")
    quote(r"a_{\text{S-LoRA}}", 4, "sheng-slora")


def tasks() -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and updates of three tasks: each has eight directions of its own, and all share three."""
    d, n = 27, 96
    basis = torch.linalg.qr(normal(71, d, d))[0]
    inputs = []
    for task in range(3):
        weights = torch.zeros(d, dtype=torch.float64)
        weights[[*range(8 * task, 8 * task + 8), *range(24, d)]] = 1
        inputs.append(normal(72 + task, n, d) * weights @ basis.T)
    return inputs, [update(75 + task, [1.5, 1.0], d, d) for task in range(3)]


def scores(method: str) -> np.ndarray:
    """R[i, j]: the explained share of task j after training on task i, by LoRA of rank 8 trained in turn.

    Args:
        method: one of METHODS. "new adapters" adds one for each task and leaves the earlier ones on; of "an adapter each" only
            the task's own is on.
    """
    inputs, updates = tasks()
    d, rank = len(updates[0]), 8
    done, fisher, anchor = (torch.zeros(d, d, dtype=torch.float64) for _ in range(3))
    own: list[Tensor] = []
    R = np.zeros((3, 3))
    B, A = factors(80, rank, d, d)
    for i in range(3):
        if method in ("new adapters", "an adapter each"):
            B, A = factors(80 + i, rank, d, d)

        def loss(B: Tensor = B, A: Tensor = A, i: int = i) -> Tensor:
            W = done + B @ A
            value = ((inputs[i] @ (W - updates[i]).T) ** 2).sum() / len(inputs[i])
            if method == "replay":
                for j in range(i):
                    value = value + ((inputs[j][:12] @ (W - updates[j]).T) ** 2).sum() / 12
            if method == "EWC":
                value = value + (fisher * (W - anchor) ** 2).sum()
            return value

        adam([B, A], loss, 400, 0.01)
        learned = (B @ A).detach()
        own.append(learned)
        anchor = done + learned
        fisher = fisher + (inputs[i] ** 2).mean(0)  # of a linear layer with unit noise, the same for each output
        if method == "new adapters":
            done = done + learned
        for j in range(3):
            W = (own[j] if j <= i else torch.zeros_like(done)) if method == "an adapter each" else anchor
            R[i, j] = 1 - (((inputs[j] @ (W - updates[j]).T) ** 2).sum() / ((inputs[j] @ updates[j].T) ** 2).sum()).item()
    return R


METHODS = ("one adapter", "replay", "EWC", "new adapters", "an adapter each")


def continual() -> None:
    """The matrix of one adapter, and the last row's mean and the backward transfer of each method."""
    say("r", 8)
    say("n_{\\text{replay}}", 12)
    for method in METHODS:
        R = scores(method)
        if method == "one adapter":
            print("R = [" + "; ".join(", ".join(f"{value:.2f}" for value in row) for row in R) + "]")
        print(rf"\bar R_{{\text{{{method}}}}} = {R[-1].mean():.2f}")
        transfer = (R[-1, :-1] - np.diag(R)[:-1]).mean()
        print(rf"\text{{BWT}}_{{\text{{{method}}}}} = {transfer + 0.0:.2f}".replace("-0.00", "0.00"))
    d, rank = 24, 4
    old, new = torch.linalg.qr(normal(81, d, 2 * rank))[0].T.split(rank)  # rows of two A, orthogonal to each other
    B, inside, anywhere = normal(82, d, rank), normal(83, 64, rank) @ old, normal(84, 64, d)
    for name, X in (("span", inside), ("any", anywhere)):
        print(rf"c_{{\text{{{name}}}}} = {((X @ new.T @ B.T).norm() / (X.norm() * B.norm())).item() + 0.0:.2f}")


def forgetting(folder: Path) -> None:
    """The matrices of four methods."""
    shown = METHODS[:4]
    figure, axes = drawing.canvas(7.2, 2.6, columns=len(shown))
    for each, method in zip(axes, shown, strict=True):
        R = scores(method)
        each.pcolormesh(R, cmap="Blues", vmin=0, vmax=1, edgecolors="none")
        for i in range(3):
            for j in range(3):
                colour = "white" if R[i, j] > 0.55 else "black"
                each.text(j + 0.5, i + 0.5, f"{R[i, j]:.2f}", ha="center", va="center", color=colour, fontsize=9)
        each.set(xlabel="tested on", ylabel="after task", title=method)
        each.set_xticks([0.5, 1.5, 2.5], ["1", "2", "3"])
        each.set_yticks([0.5, 1.5, 2.5], ["1", "2", "3"])
        each.invert_yaxis()
    zh = {
        "tested on": "测试任务",
        "after task": "学完任务",
        "one adapter": "单个适配器",
        "replay": "回放",
        "new adapters": "逐个新增",
    }
    drawing.save(figure, folder, "forgetting", zh)


def case_studies() -> None:
    """Parameters, memory and time of the three configurations."""
    model = architectures.blueprint(LLAMA)
    shapes = architectures.matrices(model)
    total = sum(p.numel() for p in model.parameters())
    linears = sum(m * n for m, n in shapes)
    both = sum(m + n for m, n in shapes)
    speed = 10**14
    print("F = 10^{14}")
    for name, rank, examples, length, epochs in (("L", 16, 5000, 2048, 3), ("I", 64, 50000, 512, 1), ("C", 64, 100000, 1024, 1)):
        say(f"r_{name}", rank)
        say(f"n_{name}", examples)
        say(f"T_{name}", length)
        say(f"k_{name}", epochs)
        say(f"P_{name}", rank * both)
        seen = examples * length * epochs
        print(rf"n_{name} T_{name} k_{name} / 10^6 = {seen / 1e6:.1f}")
        print(rf"4 P n_{name} T_{name} k_{name} / (3600 F) = {4 * total * seen / speed / 3600:.1f}")
    say("P", total)
    print(rf"2 P / 10^9 = {2 * total / 1e9:.2f}")
    four = (4.127 / 8 * linears + 2 * (total - linears)) / 1e9
    print(rf"M_{{\text{{NF4}}}} / 10^9 = {four:.2f}")
    for name, rank in (("L", 16), ("I", 64)):
        print(rf"16 P_{name} / 10^9 = {16 * rank * both / 1e9:.2f}")
    rows = 8000
    say("v", rows)
    say("d", WIDTH)
    say("2 v d", 2 * rows * WIDTH)
    say("2 (V + v) d", 2 * (TOKENS + rows) * WIDTH)
    print(rf"(V + v) / v = {(TOKENS + rows) / rows:.0f}")
    say("V", TOKENS)
    text = "本合同自双方签字之日起生效"
    say("c", len(text))
    say("b", len(text.encode()))


def recent() -> None:
    """What the abstracts claim, and two of the claims on small problems."""
    for name, value, source in (
        (r"c_{\text{rate}}", 10, "schulman-regret"), (r"n_{\text{variants}}", 9, "lee-lr-matters"),
        (r"100 \Delta_{\text{best}}", 2, "lee-lr-matters"), (r"a_{\text{tasks}}", 9, "charakorn-t2l"),
        (r"a_{\text{TinyLLaMA}}", 2.1, "xiao-loragen"), (r"a_{\text{Gemma}}", 10.1, "xiao-loragen"),
        (r"P_{\text{Tiny}}", 13, "morris-tinylora"), (r"100 p_{\text{Tiny}}", 91, "morris-tinylora"),
        (r"a_{\text{SFT}}", 1000, "morris-tinylora"), (r"a_{\text{makespan}}", 7.52, "yan-plora"),
        (r"a_{\text{throughput}}", 12.8, "yan-plora"), (r"P_{\text{QR}}", 601, "liang-qrlora"), (r"a_{\text{QR}}", 77, "liang-qrlora"),
    ):  # fmt: skip
        quote(name, value, source)
    d = 128
    W = update(91, [10 / k**0.7 for k in range(1, d + 1)], d, d)
    old = torch.linalg.svd(W)[0]
    say("d", d)
    say(r"\tau", 0.6)
    for name, D in {"LoRA": update(93, [3.0] * 4, d, d), "full": 6 * normal(95, d, d) / d}.items():
        left = torch.linalg.svd(W + D)[0][:, :10]
        print(rf"\lVert \Delta W \rVert_{{\text{{{name}}}}} = {D.norm().item():.1f}")
        say(rf"n_{{\text{{{name}}}}}", int(((old.T @ left).abs().amax(0) < 0.6).sum()))


PAGES = {
    "families": families, "hyperparameters": hyperparameters, "debugging": debugging, "mixed-precision": mixed_precision,
    "serving": serving, "continual": continual, "case-studies": case_studies, "recent": recent,
}  # fmt: skip
PICTURES = (rates, early_stopping, forgetting)

if __name__ == "__main__":
    run(pictures=PICTURES, **PAGES)
