"""Week 9: the reference and the alternatives against peft, diffusers, torch's convolution and closed forms."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType

import peft
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.loading import load

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "solutions/week09/multimodal.py"
ALTERNATIVES = sorted((ROOT / "autograder/bank/week09/alternatives").glob("*/multimodal.py"))


SOLUTIONS = {"reference": load(REFERENCE)} | {path.parent.name: load(path) for path in ALTERNATIVES}
everywhere = pytest.mark.parametrize("lib", SOLUTIONS.values(), ids=SOLUTIONS.keys())
derandomized = settings(max_examples=20, deadline=None, derandomize=True, database=None)


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def fill(module: nn.Module, seed: int) -> None:
    with torch.no_grad():
        for i, (_, parameter) in enumerate(sorted(module.named_parameters())):
            parameter.copy_(normal(*parameter.shape, seed=seed + i, dtype=parameter.dtype))


# --- 9.1 ---

CONVS = [
    {"kernel_size": 1},
    {"kernel_size": (2, 3), "padding": 1},
    {"kernel_size": 3, "stride": (2, 1), "padding": (0, 2), "bias": False},
    {"kernel_size": 3, "dilation": 2, "padding": "same"},
    {"kernel_size": 2, "stride": 3, "padding": "valid"},
]


@everywhere
@pytest.mark.parametrize("options", CONVS, ids=str)
def test_conv_lora_is_that_of_peft(lib: ModuleType, options: dict) -> None:
    base = nn.Conv2d(3, 5, **options).double()
    fill(base, 1)
    x = normal(2, 3, 8, 9, seed=2)
    config = peft.LoraConfig(r=3, lora_alpha=7, target_modules=["0"])
    twin = nn.Conv2d(3, 5, **options).double()
    twin.load_state_dict(base.state_dict())
    wrapped = peft.get_peft_model(nn.Sequential(twin), config)
    other = wrapped.base_model.model[0]
    layer = lib.LoRAConv2d(base, rank=3, alpha=7.0)
    with torch.no_grad():
        layer.lora_A.copy_(normal(*layer.lora_A.shape, seed=3))
        layer.lora_B.copy_(normal(*layer.lora_B.shape, seed=4))
        other.lora_A["default"].weight.data = layer.lora_A.data.clone()  # raises where the shapes differ
        other.lora_B["default"].weight.data = layer.lora_B.data.clone()
    # peft's branch has no dilation, so its own merged kernel is another layer then; the update is compared below all the same.
    assert torch.allclose(layer(x), other(x), rtol=1e-10, atol=1e-10) == (base.dilation == (1, 1))
    before = layer(x)
    layer.merge()
    assert torch.allclose(layer.base.weight - other.base_layer.weight, other.get_delta_weight("default"), atol=1e-12)
    by_torch = F.conv2d(x, layer.base.weight, base.bias, base.stride, base.padding, base.dilation)
    assert torch.allclose(by_torch, before, rtol=1e-10, atol=1e-10)
    assert torch.equal(layer(x), base(x))


@everywhere
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.data())
@derandomized
def test_a_conv_of_any_size_merges_and_unmerges(lib: ModuleType, i: int, o: int, kh: int, kw: int, stride: int, data) -> None:
    rank = data.draw(st.integers(1, min(i * kh * kw, o)))
    base = nn.Conv2d(i, o, (kh, kw), stride=stride, padding=1)
    layer = lib.LoRAConv2d(base, rank, 2.5)
    x, W = normal(2, i, 5, 6, seed=0, dtype=torch.float32), base.weight.detach().clone()
    assert torch.equal(layer(x), base(x)) or torch.allclose(layer(x), base(x), atol=1e-5)
    with torch.no_grad():
        layer.lora_B.copy_(normal(*layer.lora_B.shape, seed=1))
    y = layer(x)
    layer.merge()
    merged = base.weight.detach().clone()
    assert torch.allclose(layer(x), y, atol=1e-4)
    layer.unmerge()
    assert ((base.weight - W).abs() <= 4 * torch.finfo(torch.float32).eps * (W.abs() + (merged - W).abs())).all()


@everywhere
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_conv_dtypes(lib: ModuleType, dtype: torch.dtype) -> None:
    layer = lib.LoRAConv2d(nn.Conv2d(2, 3, 2, dtype=dtype), 2, 4.0)
    assert layer.lora_A.dtype == layer.lora_B.dtype == layer(normal(1, 2, 4, 4, seed=0, dtype=dtype)).dtype == dtype
    layer.merge()
    assert layer.base.weight.dtype == dtype and not layer.base.weight.requires_grad


@everywhere
@pytest.mark.parametrize(
    ("base", "rank"),
    [
        (nn.Conv2d(2, 3, 2), 4),
        (nn.Conv2d(1, 9, (1, 2)), 3),
        (nn.Conv2d(2, 3, 2), 0),
        (nn.Conv2d(4, 4, 2, groups=2), 1),
        (nn.Conv2d(2, 3, 2, padding_mode="reflect", padding=1), 1),
    ],
    ids=["rank above out", "rank above in * kh * kw", "rank 0", "groups", "padding mode"],
)
def test_conv_errors(lib: ModuleType, base: nn.Conv2d, rank: int) -> None:
    with pytest.raises(ValueError):
        lib.LoRAConv2d(base, rank, 1.0)


# --- 9.2 ---

STEPS = 20
DDPM = DDPMScheduler(num_train_timesteps=STEPS, beta_start=0.01, beta_end=0.2)
ABAR = DDPM.alphas_cumprod.double()


@everywhere
@pytest.mark.parametrize("shape", [(4, 3), (4, 2, 3, 5)], ids=str)
def test_the_noised_sample_is_that_of_diffusers(lib: ModuleType, shape: tuple[int, ...]) -> None:
    x0, noise, t = normal(*shape, seed=0), normal(*shape, seed=1), torch.tensor([0, 19, 7, 7])
    seen: list[Tensor] = []

    def model(x: Tensor, steps: Tensor) -> Tensor:
        assert torch.equal(steps, t)
        seen.append(x)
        return 0.5 * x

    loss = lib.diffusion_loss(model, x0, t, noise, ABAR)
    # diffusers casts its float32 table to the samples' dtype before the roots, as ABAR is made
    assert torch.allclose(seen[0], DDPM.add_noise(x0, noise, t), rtol=1e-6, atol=1e-6)
    assert torch.allclose(loss, F.mse_loss(0.5 * seen[0], noise), rtol=1e-12)
    assert len(seen) == 1 and loss.shape == ()


@everywhere
def test_a_perfect_model_has_no_loss(lib: ModuleType) -> None:
    x0, noise, t = normal(3, 4, seed=0), normal(3, 4, seed=1), torch.tensor([1, 5, 19])
    a = ABAR[t][:, None]
    loss = lib.diffusion_loss(lambda x, _: (x - a.sqrt() * x0) / (1 - a).sqrt(), x0, t, noise, ABAR)
    assert loss < 1e-24
    assert torch.allclose(lib.diffusion_loss(lambda x, _: 0 * x, x0, t, noise, ABAR), noise.pow(2).mean())


@everywhere
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("inference_steps", [STEPS, 5])
def test_ddim_steps_are_those_of_diffusers(lib: ModuleType, eta: float, inference_steps: int) -> None:
    scheduler = DDIMScheduler(num_train_timesteps=STEPS, beta_start=0.01, beta_end=0.2, clip_sample=False, set_alpha_to_one=True)
    scheduler.set_timesteps(inference_steps)
    jump = STEPS // inference_steps
    x = mine = normal(2, 3, 4, seed=0)
    for t in scheduler.timesteps.tolist():
        eps, noise = torch.tanh(x + 0.1 * t), normal(2, 3, 4, seed=t)
        x = scheduler.step(eps, t, x, eta=eta, variance_noise=noise).prev_sample
        mine = lib.ddim_step(mine, eps, t, max(t - jump, -1), ABAR, eta=eta, noise=noise)
        assert torch.allclose(mine, x, rtol=1e-5, atol=1e-5)  # diffusers' table is float32


@everywhere
def test_eta_of_one_is_the_posterior_of_ddpm(lib: ModuleType) -> None:
    """Ho et al., equations (6) and (7): mean and variance of q(x_{t-1} | x_t, x_0), from other formulas."""
    t, x_t, eps, noise = 6, normal(5, seed=0), normal(5, seed=1), normal(5, seed=2)
    a, before = ABAR[t], ABAR[t - 1]
    alpha = a / before
    x0 = (x_t - (1 - a).sqrt() * eps) / a.sqrt()
    mean = (before.sqrt() * (1 - alpha) * x0 + alpha.sqrt() * (1 - before) * x_t) / (1 - a)
    variance = (1 - before) / (1 - a) * (1 - alpha)
    got = lib.ddim_step(x_t, eps, t, t - 1, ABAR, eta=1.0, noise=noise)
    assert torch.allclose(got, mean + variance.sqrt() * noise, rtol=1e-10)


@everywhere
@given(st.integers(0, STEPS - 1), st.data())
@derandomized
def test_the_true_noise_leads_along_the_forward_process(lib: ModuleType, t: int, data) -> None:
    t_prev = data.draw(st.integers(-1, t - 1))
    x0, eps = normal(2, 3, seed=t), normal(2, 3, seed=t + 1)
    x_t = ABAR[t].sqrt() * x0 + (1 - ABAR[t]).sqrt() * eps
    before = ABAR[t_prev] if t_prev >= 0 else torch.tensor(1.0)
    want = before.sqrt() * x0 + (1 - before).sqrt() * eps
    assert torch.allclose(lib.ddim_step(x_t, eps, t, t_prev, ABAR), want, rtol=1e-9, atol=1e-9)
    single = lib.ddim_step(x_t.float(), eps.float(), t, t_prev, ABAR)
    assert single.dtype == torch.float32 and torch.allclose(single.double(), want, atol=1e-4)


@everywhere
def test_diffusion_errors(lib: ModuleType) -> None:
    x = normal(2, 3, seed=0)

    def model(*_: Tensor) -> Tensor:
        raise AssertionError("must not be called")

    for t in ([-1, 0], [0, STEPS], [1], [[1], [2]]):
        with pytest.raises(ValueError):
            lib.diffusion_loss(model, x, torch.tensor(t), x, ABAR)
    with pytest.raises(ValueError):
        lib.diffusion_loss(model, x, torch.tensor([1, 2]), x[:1], ABAR)
    for t, t_prev, eta, noise in (
        (3, 3, 0.0, None),
        (3, -2, 0.0, None),
        (STEPS, 1, 0.0, None),
        (3, 2, 0.1, None),
        (3, 2, 1.2, x),
    ):
        with pytest.raises(ValueError):
            lib.ddim_step(x, x, t, t_prev, ABAR, eta=eta, noise=noise)


# --- 9.3 ---


def two_layers(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)
    fill(model, 5)
    return model


def styles(dtype: torch.dtype = torch.float64) -> dict:
    def style(seed: int, rank: int, alpha: float) -> dict:
        return {
            name: {"lora_A": normal(rank, i, seed=seed, dtype=dtype), "lora_B": normal(o, rank, seed=seed + 1, dtype=dtype)}
            | {"alpha": alpha}
            for name, (o, i) in {"0": (6, 4), "2": (3, 6)}.items()
        }

    return {"slanted": style(10, 2, 5.0), "inverted": style(20, 3, 4.0)}


@everywhere
def test_a_blend_is_pefts_sum_of_adapters(lib: ModuleType) -> None:
    model, adapters = two_layers(), styles()
    wrapped = peft.get_peft_model(two_layers(), peft.LoraConfig(r=2, lora_alpha=5, target_modules=["0", "2"]), "slanted")
    wrapped.add_adapter("inverted", peft.LoraConfig(r=3, lora_alpha=4, target_modules=["0", "2"]))
    for name in ("0", "2"):
        layer = wrapped.base_model.model[int(name)]
        for style in adapters:
            layer.lora_A[style].weight.data = adapters[style][name]["lora_A"].clone()
            layer.lora_B[style].weight.data = adapters[style][name]["lora_B"].clone()
            layer.scale_layer(1.0)
        for style, scale in (("slanted", 0.7), ("inverted", -1.5)):
            layer.set_scale(style, scale)
    wrapped.base_model.set_adapter(["slanted", "inverted"])
    x = normal(3, 4, seed=9)
    lib.StyleBlender(model, adapters).blend_styles({"slanted": 0.7, "inverted": -1.5})
    assert torch.allclose(model(x), wrapped(x), rtol=1e-10, atol=1e-10)


@everywhere
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@given(st.lists(st.dictionaries(st.sampled_from(["slanted", "inverted"]), st.floats(-3, 3)), max_size=3))
@derandomized
def test_blends_are_restored_bit_for_bit(lib: ModuleType, dtype: torch.dtype, blends: list[dict[str, float]]) -> None:
    model = two_layers(dtype)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    blender = lib.StyleBlender(model, styles(dtype))
    for scales in blends:
        blender.blend_styles(scales)
    blender.blend_styles({})
    assert all(torch.equal(p, before[name]) and p.dtype == dtype for name, p in model.named_parameters())


@everywhere
def test_style_errors(lib: ModuleType) -> None:
    with pytest.raises(ValueError):
        lib.StyleBlender(two_layers(), styles()).blend_styles({"slanted": 1.0, "other": 0.0})
    good = styles()["slanted"]["0"]
    for name, adapter in (("1", good), ("4", good), ("2", good), ("0", good | {"lora_B": good["lora_B"][:, :1]})):
        with pytest.raises(ValueError):
            lib.StyleBlender(two_layers(), {"bad": {name: adapter}})


# --- 9.4 ---


@everywhere
@pytest.mark.parametrize("sizes", [None, (4, 4, 4), (6, 2, 4)], ids=str)
@pytest.mark.parametrize("slices", ["q", "vk", "qkv"])
def test_a_fused_layer_is_three_of_pefts_layers(lib: ModuleType, sizes: tuple[int, int, int] | None, slices: str) -> None:
    base = nn.Linear(5, 12).double()
    fill(base, 1)
    layer = lib.LoRAFusedQKV(base, slices, 2, 3.0, sizes)
    fill(layer.lora_A, 3)
    fill(layer.lora_B, 6)
    x, parts, start = normal(2, 3, 5, seed=2), [], 0
    weight = base.weight.detach().clone()
    for name, size in zip("qkv", sizes or (4, 4, 4), strict=True):
        single = nn.Linear(5, size).double()
        single.weight.data, single.bias.data = weight[start : start + size].clone(), base.bias.data[start : start + size].clone()
        if name in slices:
            wrapped = peft.get_peft_model(nn.Sequential(single), peft.LoraConfig(r=2, lora_alpha=3, target_modules=["0"]))
            wrapped.base_model.model[0].lora_A["default"].weight.data = layer.lora_A[name].data.clone()
            wrapped.base_model.model[0].lora_B["default"].weight.data = layer.lora_B[name].data.clone()
            parts.append(wrapped(x))
        else:
            parts.append(single(x))
        start += size
    want = torch.cat(parts, dim=-1)
    assert torch.allclose(layer(x), want, rtol=1e-10, atol=1e-10)
    layer.merge()
    assert torch.allclose(base(x), want, rtol=1e-10, atol=1e-10)
    moved = {name for name, rows in zip("qkv", (base.weight - weight).split(sizes or (4, 4, 4)), strict=True) if rows.any()}
    assert moved == set(slices)


@everywhere
@given(st.tuples(*[st.integers(1, 5)] * 3), st.sets(st.sampled_from("qkv"), min_size=1), st.integers(1, 4))
@derandomized
def test_training_leaves_the_other_slices_alone(
    lib: ModuleType, sizes: tuple[int, int, int], slices: set[str], in_features: int
) -> None:
    base = nn.Linear(in_features, sum(sizes))
    weight, x = base.weight.detach().clone(), normal(4, in_features, seed=0, dtype=torch.float32)
    before = base(x).detach()
    layer = lib.LoRAFusedQKV(base, slices, 1, 2.0, sizes)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        layer(x).pow(2).sum().backward()
        optimizer.step()
    assert base.weight.grad is None and torch.equal(base.weight, weight)
    for name, old, new in zip("qkv", before.split(sizes, -1), layer(x).split(sizes, -1), strict=True):
        assert torch.allclose(old, new, atol=1e-6) == (name not in slices)


@everywhere
def test_injection(lib: ModuleType) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.proj_qkv = nn.Linear(4, 6), nn.Linear(4, 6)

    model = nn.ModuleDict({"blocks": nn.ModuleList([Block(), Block()]), "qkv": nn.Conv2d(2, 6, 1), "head": nn.Linear(4, 3)})
    assert lib.inject_fused_qkv(model, iter(["head", "qkv"]), iter("kv"), 1, 2.0) == ["blocks.0.qkv", "blocks.1.qkv", "head"]
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    sites = ("blocks.0.qkv", "blocks.1.qkv", "head")
    assert trainable == {f"{site}.lora_{f}.{s}" for site in sites for f in "AB" for s in "kv"}
    assert type(model["blocks"][0].proj_qkv) is nn.Linear and type(model["qkv"]) is nn.Conv2d
    with pytest.raises(ValueError):
        lib.inject_fused_qkv(nn.Sequential(nn.Linear(3, 3)), ["kv"], ["q"], 1, 1.0)


@everywhere
@pytest.mark.parametrize(
    ("out", "slices", "rank", "sizes"),
    [
        (9, "", 1, None),
        (9, "o", 1, None),
        (10, "q", 1, None),
        (9, "q", 1, (3, 3, 2)),
        (9, "q", 1, (9, 0, 0)),
        (9, "q", 1, (4, 5)),
        (9, "k", 3, (5, 2, 2)),
        (9, "q", 0, None),
        (9, "q", 3, None),
    ],
)
def test_fused_errors(lib: ModuleType, out: int, slices: str, rank: int, sizes: tuple[int, ...] | None) -> None:
    with pytest.raises(ValueError):
        lib.LoRAFusedQKV(nn.Linear(2, out), slices, rank, 1.0, sizes)


@everywhere
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_fused_dtypes(lib: ModuleType, dtype: torch.dtype) -> None:
    layer = lib.LoRAFusedQKV(nn.Linear(4, 9, dtype=dtype), "qv", 2, math.pi)
    assert {p.dtype for p in layer.parameters()} == {dtype} and layer(normal(2, 4, seed=0, dtype=dtype)).dtype == dtype
