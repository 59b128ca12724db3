"""Computes what the page of myths shows: a function for each claim, a second or so each on a CPU.

    python course/threads/evidence.py

Each line is an equation that stands in the section named above it, letter for letter, in both languages.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from course.labs.worked import quote, run, say
from course.threads.toys import adam, factors, normal, update


def slower() -> None:
    """Products and operations of a layer, by itself, with a branch, and merged."""
    from torch.utils.flop_counter import FlopCounterMode

    d, rank = 4096, 16
    say("d", d)
    say("r", rank)
    with torch.device("meta"):
        x, W, A, B = (torch.zeros(shape) for shape in ((1, d), (d, d), (rank, d), (d, rank)))
    counts = {}
    for name, layer in {"merged": lambda: x @ W.T, "branch": lambda: x @ W.T + x @ A.T @ B.T}.items():
        with FlopCounterMode(display=False) as counter:
            layer()
        counts[name] = counter.get_total_flops()
        say(rf"F_{{\text{{{name}}}}}", counts[name])
    say(r"F_{\text{branch}} / F_{\text{merged}}", counts["branch"] / counts["merged"])
    say(r"n_{\text{merged}}", 1)
    say(r"n_{\text{branch}}", 3)


def speed() -> None:
    """Operations of one step of Llama-2-7B, counted on the meta device."""
    from course.labs import architectures

    full, lora = architectures.blueprint("Llama-2-7B"), architectures.lora_of("Llama-2-7B", 16)
    trained, of_all = (sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (lora, full))
    say("r", 16)
    say(r"100 P_{\text{LoRA}} / P_{\text{full}}", 100 * trained / of_all)
    operations = [architectures.step_flops(model) for model in (full, lora)]
    say(r"F_{\text{LoRA}} / F_{\text{full}}", operations[1] / operations[0])


def higher_rank() -> None:
    """The error on new data of the best fit of each rank to few noisy examples."""
    d, n, true, noise = 32, 48, 4, 1.0
    D = update(1, [4.0] * true, d, d)
    X, E = normal(3, n, d), noise * normal(4, n, d)
    fit = torch.linalg.lstsq(X, X @ D.T + E).solution.T
    v = torch.linalg.svd(X @ fit.T, full_matrices=False)[2]
    say("d", d)
    say("n", n)
    say("r^*", true)
    say(r"\lVert D \rVert_F^2", (D**2).sum().item())
    for rank in (1, 2, 4, 8, 16, 32):
        rows = v[:rank]  # the best fit of rank r to the examples is the full fit, projected
        say(f"E_{{{rank}}}", ((fit.T @ rows.T @ rows).T - D).pow(2).sum().item())


def alpha() -> None:
    """Two runs of Adam with another alpha, the same but for the scale of A's start and the rate."""
    d, rank, steps, lr = 16, 4, 40, 0.01
    D = update(11, [2.0, 1.0], d, d)

    def trained(a: float, start: float, rate: float) -> Tensor:
        B, A = factors(5, rank, d, d)
        A.data *= start
        adam([B, A], lambda: (a / rank * B @ A - D).pow(2).sum() / 2, steps, rate)
        return (a / rank * B @ A).detach()

    say("r", rank)
    say(r"\eta_8", lr)
    one, ratio = trained(8, 1, lr), 4.0
    say(r"\eta_{32}", lr / ratio**0.5)
    same, naive = trained(8 * ratio, 1 / ratio**0.5, lr / ratio**0.5), trained(8 * ratio, 1, lr)
    say(r"s_{\text{equal}}", torch.isclose(one, same, rtol=0, atol=1e-6).double().mean().item())
    say(r"e_{\text{same rate}}", ((one - naive).norm() / one.norm()).item())


def lossless() -> None:
    """The share of entries that a merge leaves unchanged, and what becomes of the update."""
    n, spread = 10**6, 0.02
    W, D = spread * normal(6, n), 1e-4 * normal(7, n)
    say("N", n)
    say(r"\sigma_W", spread)
    say(r"\sigma_{\Delta}", 1e-4)
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        rounded = W.to(dtype)
        merged = (rounded.double() + D).to(dtype)
        say(rf"f_{{\text{{{name}}}}}", (merged == rounded).double().mean().item())
        say(rf"e_{{\text{{{name}}}}}", ((merged.double() - rounded.double() - D).norm() / D.norm()).item())


def full_fine_tuning() -> None:
    """The loss that is left of three updates, by full training and by LoRA of rank 4."""
    d, rank = 24, 4
    say("d", d)
    say("r", rank)
    for name, values in {"4": [3.0, 2.0, 1.0, 0.5], "8": [3.0, 2.0, 1.0, 0.5] + [0.4] * 4, "24": [0.8] * d}.items():
        D = update(21, values, d, d)
        B, A = factors(8, rank, d, d)
        left = adam([B, A], lambda: ((B @ A - D) ** 2).sum() / 2, 3000, 0.01)  # noqa: B023 - called at once
        W = torch.zeros(d, d, dtype=torch.float64, requires_grad=True)
        full = adam([W], lambda: ((W - D) ** 2).sum() / 2, 3000, 0.01)  # noqa: B023
        start = sum(v**2 for v in values) / 2
        print(rf"\ell_{{{name}}} = {left / start:.3f}")
        print(rf"\ell^{{\text{{full}}}}_{{{name}}} = {full / start:.3f}")
        print(rf"\ell^{{\text{{tail}}}}_{{{name}}} = {sum(v**2 for v in values[rank:]) / 2 / start:.3f}")


def int4() -> None:
    """The mean squared error of 4-bit types on normal numbers, and the gaps between NF4's codes."""
    from bitsandbytes import functional

    from course.labs import quant

    n, block = 2**20, 64
    x = normal(9, n).float()
    say("N", n)
    say(r"\text{block}", block)
    packed, state = functional.quantize_4bit(x, blocksize=block, quant_type="nf4")
    errors = {
        "NF4": functional.dequantize_4bit(packed, state),
        "FP4": quant.fp4(x, block),
        "INT4": quant.int4(x, block),
        "INT4, zero point": quant.int4(x, block, zero_point=True),
    }
    for name, back in errors.items():
        print(rf"m_{{\text{{{name}}}}} = {(back - x).double().pow(2).mean():.5f}")
    gaps = np.diff(functional.get_4bit_type("nf4", device="cpu").sort().values.numpy())
    say(r"g_{\min}", gaps.min())
    say(r"g_{\max}", gaps.max())
    say(r"g_{\text{INT4}}", 1 / 7)


def four_bits() -> None:
    """Where the gradients of a QLoRA layer are, and of what type."""
    from bitsandbytes.nn import Linear4bit
    from peft import LoraConfig, get_peft_model

    d, rank = 128, 8
    base: Any = Linear4bit(d, d, bias=False, compute_dtype=torch.float32, quant_type="nf4")
    base.load_state_dict({"weight": normal(10, d, d).float()})
    base.to("cpu")
    base.support_avx512bf16_for_cpu = False  # or bitsandbytes repacks the codes on some processors, and no gradient passes
    model = get_peft_model(nn.Sequential(base), LoraConfig(r=rank, target_modules=["0"]))
    model(normal(11, 4, d).float()).pow(2).sum().backward()
    layer: Any = model.base_model.model[0]
    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    say("d", d)
    say("r", rank)
    say(r"8 \cdot \text{bytes}(W) / d^2", 8 * base.weight.numel() * base.weight.element_size() / d**2)
    say(r"\text{bits}(A)", 8 * A.element_size())
    say(r"\text{bits}(\partial L / \partial B)", 8 * B.grad.element_size())
    say(r"n_{\nabla W}", int(base.weight.grad is not None))
    say(r"n_{\nabla A, \nabla B}", sum(part.grad is not None for part in (A, B)))


def no_gradient() -> None:
    """The gradients at LoRA's start, and with both factors at zero."""
    d, rank = 16, 4
    G = normal(12, d, d)
    say("r", rank)
    for name, scale in (("LoRA", 1), ("zero", 0)):
        B, A = factors(13, rank, d, d)
        A.data *= scale
        (B @ A * G).sum().backward()
        assert A.grad is not None and B.grad is not None
        say(rf"\lVert \nabla A \rVert_{{\text{{{name}}}}}", A.grad.norm().item())
        say(rf"\lVert \nabla B \rVert_{{\text{{{name}}}}}", B.grad.norm().item())


def forgetting() -> None:
    """The loss on the old task after training on a new one, with the adapter on and off."""
    d, rank, n = 32, 4, 64
    D, X_old, X = update(31, [2.0] * 8, d, d), normal(14, n, d), normal(15, n, d)
    say("r", rank)
    say(r"\text{rank}(D)", 8)

    def old(W: Tensor) -> float:
        return float(((X_old @ W.T) ** 2).sum() / n)

    B, A = factors(16, rank, d, d)
    W = torch.zeros(d, d, dtype=torch.float64, requires_grad=True)
    new = {}
    new["LoRA"] = adam([B, A], lambda: ((X @ (B @ A - D).T) ** 2).sum() / n, 2000, 0.01)
    new["full"] = adam([W], lambda: ((X @ (W - D).T) ** 2).sum() / n, 2000, 0.01)
    for name, value in {"LoRA": (B @ A).detach(), "full": W.detach()}.items():
        print(rf"L^{{\text{{new}}}}_{{\text{{{name}}}}} = {new[name]:.2f}")
        print(rf"L^{{\text{{old}}}}_{{\text{{{name}}}}} = {old(value):.2f}")
    print(rf"L^{{\text{{old}}}}_{{\text{{off}}}} = {old(torch.zeros(d, d, dtype=torch.float64)):.0f}")


def private() -> None:
    """How well the losses of an adapter tell its training examples from others of the same kind."""
    from sklearn.metrics import roc_auc_score

    d, rank, n = 32, 8, 24
    D = update(41, [1.0] * 4, d, d)
    X = normal(17, 2 * n, d)
    Y = X @ D.T + normal(18, 2 * n, d)
    B, A = factors(19, rank, d, d)
    adam([B, A], lambda: ((X[:n] @ (B @ A).T - Y[:n]) ** 2).sum() / n, 1500, 0.01)
    with torch.no_grad():
        losses = ((X @ (B @ A).T - Y) ** 2).sum(1)
    say("n", n)
    say("r", rank)
    say(r"\text{AUC}", roc_auc_score([1] * n + [0] * n, -losses.numpy()))
    quote(r"\text{AUC}_{\text{paper}}", 0.775, "ran-loraleak")


def averaging() -> None:
    """The relative error of averaged factors for independent adapters."""
    d, rank = 256, 8
    say("d", d)
    say("r", rank)
    for count in (2, 8):
        pairs = [(normal(50 + 2 * k, d, rank), normal(51 + 2 * k, rank, d)) for k in range(count)]
        right = sum(B @ A for B, A in pairs) / count
        B, A = (sum(side) / count for side in zip(*pairs, strict=True))
        print(rf"e_{count} = {((B @ A - right).norm() / right.norm()).item():.2f}")  # type: ignore[union-attr]
        print(rf"\sqrt{{1 - 1 / {count}}} = {(1 - 1 / count) ** 0.5:.2f}")


def activations() -> None:
    """What a small Llama keeps for the backward pass, in bytes without its parameters."""
    from course.labs import text

    kept = {}
    for name in ("full", "LoRA"):
        model, _ = text.base_model()
        model = text.lora(model, 8, 16, "all-linear") if name == "LoRA" else text.full_finetune(model)
        model.train()
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        saved: dict[int, int] = {}

        def pack(tensor: Tensor, own: set[int] = own, saved: dict[int, int] = saved) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        ids = torch.arange(512).reshape(4, 128) % 100
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model(input_ids=ids, labels=ids).loss
        kept[name] = sum(saved.values())
        del loss
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        say(rf"P_{{\text{{{name}}}}}", trained)
    print(rf"M_{{\text{{LoRA}}}} / M_{{\text{{full}}}} = {kept['LoRA'] / kept['full']:.2f}")


def rank_used() -> None:
    """The spectrum of a trained update of rank 16 whose target has two directions."""
    d, rank = 32, 16
    D = update(61, [2.0, 1.0], d, d)
    X = normal(20, 4 * d, d)
    B, A = factors(21, rank, d, d)
    adam([B, A], lambda: ((X @ (B @ A - D).T) ** 2).sum() / len(X), 1500, 0.005)
    values = torch.linalg.svdvals((B @ A).detach())
    energy = (values**2).cumsum(0) / (values**2).sum()
    say("r", rank)
    say(r"k_{99\,\%}", int((energy < 0.99).sum()) + 1)
    say(r"\lVert \Delta W \rVert_F^2 / \lVert \Delta W \rVert_2^2", (values**2).sum().item() / values[0].item() ** 2)
    say(r"\text{rank}(D)", 2)


def bytes_and_parameters() -> None:
    """GPT-3 with rank 4 on q and v: parameters and bytes."""
    layers, width, rank, total = 96, 12288, 4, 175 * 10**9
    trained = 2 * layers * rank * 2 * width
    say(r"P_{\text{LoRA}}", trained)
    print(rf"2 P_{{\text{{LoRA}}}} / 10^6 = {2 * trained / 1e6:.1f}")
    say(r"P / 10^9", total // 10**9)
    say(r"2 P / 10^9", 2 * total // 10**9)
    say(r"P / P_{\text{LoRA}}", total // trained)
    quote(r"M_{\text{paper}}", 35, "hu-lora")


SECTIONS = (
    slower, speed, higher_rank, alpha, lossless, full_fine_tuning, int4, four_bits, no_gradient, forgetting, private,
    averaging, activations, rank_used, bytes_and_parameters,
)  # fmt: skip

if __name__ == "__main__":
    run(*SECTIONS)
