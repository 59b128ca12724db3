"""Week 5: the reference against bitsandbytes, SciPy and closed forms; the alternatives against the same properties."""

from __future__ import annotations

import itertools
from pathlib import Path

import bitsandbytes as bnb
import bitsandbytes.functional as bnb_functional
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from torch import nn

from autograder import bank
from autograder.authoring.build import stub_source
from autograder.judge import scoring
from autograder.judge.runner import Runner, TaskRun, loopback, reference_stub
from autograder.manifest import load
from tests.loading import load as load_module

WEEK = load().week(5)
REFERENCE = reference_stub(WEEK)
EPS = torch.finfo(torch.float32).eps

REF = load_module(REFERENCE)
SOLUTIONS = {"reference": REF} | {path.parent.name: load_module(path) for path in bank.alternatives(WEEK)}
everywhere = pytest.mark.parametrize("nf4", SOLUTIONS.values(), ids=SOLUTIONS.keys())
quick = settings(max_examples=40, deadline=None, derandomize=True, database=None)


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype)


def blocks(flat: torch.Tensor, block_size: int) -> list[torch.Tensor]:
    return list(flat.flatten().split(block_size))


# --------------------------------------------------------------------------- 5.1


@everywhere
def test_codebook_is_that_of_bitsandbytes(nf4):
    """Its own map by SciPy, and the table of its kernels."""
    code = nf4.nf4_codebook()
    assert code.dtype == torch.float32 and code.shape == (16,)
    assert (code - bnb_functional.create_normal_map()[[*range(8), *range(-8, 0)]]).abs().max() <= 1e-6
    assert (code - bnb_functional.get_4bit_type("nf4", device="cpu")).abs().max() <= 1e-6
    assert code[[0, 7, 15]].tolist() == [-1.0, 0.0, 1.0] and bool((code.diff() > 0).all())
    assert int((code > 0).sum()) == 8 and int((code < 0).sum()) == 7


def test_codebook_splits_the_probability_evenly():
    """By SciPy's distribution function: the values of either half are evenly spaced in probability."""
    largest = norm.ppf(0.5 * (29 / 30 + 31 / 32))
    p = norm.cdf(REF.nf4_codebook().double().numpy() * largest)
    assert np.ptp(np.diff(p[7:])) < 1e-6 and np.ptp(np.diff(p[:8])) < 1e-6


# --------------------------------------------------------------------------- 5.2


def unpacked(packed: torch.Tensor, count: int) -> torch.Tensor:
    """Codes of bitsandbytes, by the meaning of its bytes: the first of two is the high half."""
    flat = packed.flatten().tolist()
    return torch.tensor([half for byte in flat for half in divmod(byte, 16)][:count], dtype=torch.uint8)


@everywhere
@pytest.mark.parametrize("block_size", [32, 64, 128, 256, 512])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_agrees_with_bitsandbytes(nf4, block_size, dtype):
    """Equal constants and codes, but for values within 1e-6 of a midpoint; equal values back. Its last dimension is a
    multiple of the block here: otherwise its dequantisation on a CPU is wrong.
    """
    x = normal(block_size, 6, 1024, dtype=dtype) * torch.logspace(-4, 3, 6)[:, None].to(dtype)
    packed, state = bnb_functional.quantize_4bit(x, blocksize=block_size, quant_type="nf4")  # its default is fp4
    codes, absmax = nf4.quantize_nf4(x, block_size)
    assert torch.equal(absmax, state.absmax)
    theirs = unpacked(packed, x.numel()).view(x.shape)
    scaled = x.double() / absmax.double().repeat_interleave(block_size).view(x.shape)
    code = nf4.nf4_codebook().double()
    near = (scaled[..., None] - (code[1:] + code[:-1]) / 2).abs().amin(dim=-1) < 1e-6
    assert bool(((codes == theirs) | (near & ((codes.int() - theirs.int()).abs() == 1))).all())
    assert near.float().mean() < 0.02  # bfloat16 has few numbers, so some lie on a midpoint exactly
    back = nf4.dequantize_nf4(theirs, absmax, block_size, dtype)
    expected = bnb_functional.dequantize_4bit(packed, state)
    assert back.dtype == expected.dtype == dtype
    # A codebook of 1e-6 and one rounding to dtype, which may fall to either side
    assert bool(((back - expected).abs() <= (torch.finfo(dtype).eps + 2e-5) * expected.abs()).all())


shapes = st.lists(st.integers(1, 9), min_size=1, max_size=3)


@everywhere
@quick
@given(shape=shapes, block_size=st.integers(1, 70), seed=st.integers(0, 2**16), power=st.integers(-60, 60))
def test_properties_of_quantisation(nf4, shape, block_size, seed, power):
    """Nearest code, exact ends and zeros, the error's bound, idempotence, powers of two."""
    x = normal(seed, *shape)
    x[x.abs() < 0.1] = 0
    codes, absmax = nf4.quantize_nf4(x, block_size)
    assert codes.dtype == torch.uint8 and codes.shape == x.shape and absmax.dtype == torch.float32
    code = nf4.nf4_codebook().double()
    for block, top, chosen in zip(blocks(x, block_size), absmax, blocks(codes, block_size), strict=True):
        assert top == block.abs().max()
        distance = (block.double()[:, None] - code * top.double()).abs()
        mine = distance.gather(1, chosen.long()[:, None])[:, 0]
        assert bool((mine <= distance.amin(dim=1) + 1e-6 * top).all())
    back = nf4.dequantize_nf4(codes, absmax, block_size)
    tops = torch.cat([top.expand(len(b)) for b, top in zip(blocks(x, block_size), absmax, strict=True)]).view(x.shape)
    assert bool(((back - x).abs() <= 0.15191 * tops + EPS * tops).all())
    assert not back[x == 0].any() and torch.equal(back[x.abs() == tops], x[x.abs() == tops])
    again = nf4.quantize_nf4(back, block_size)
    assert torch.equal(again[0], codes) and torch.equal(again[1], absmax)
    scaled = nf4.quantize_nf4(x * 2.0**power, block_size)
    assert torch.equal(scaled[0], codes) and torch.equal(scaled[1], absmax * 2.0**power)


def test_bounds_of_the_error():
    """Half the widest gap: .1519 of absmax in float32, .1531 in bfloat16, .1566 with double quantisation."""
    code = REF.nf4_codebook()
    assert float(code.diff().max() / 2) == pytest.approx(0.1519, abs=1e-4)
    x = normal(1, 1 << 16)
    codes, absmax = REF.quantize_nf4(x)
    tops = absmax.repeat_interleave(64)
    bf16 = REF.dequantize_nf4(codes, absmax, dtype=torch.bfloat16).float()
    assert ((bf16 - x).abs() / tops).max() <= 0.1519 + 2**-8
    nested = REF.dequantize_nf4(codes, REF.double_dequantize(*REF.double_quantize(absmax)))
    # One constant errs by half of the 8-bit float's widest gap, .0071 of the largest deviation, which is below absmax here
    assert ((nested - x).abs() / tops).max() <= 0.1519 + 0.0071 * float(((absmax - absmax.mean()).abs().max()) / absmax.min())


def test_mean_squared_errors_of_4_bit_types():
    """N(0, 1) in blocks of 64: NF4 beats FP4 and symmetric INT4, and the affine INT4 with its zero point beats NF4."""
    x = normal(2, 1 << 20)
    fp4 = bnb_functional.dequantize_4bit(*bnb_functional.quantize_4bit(x[None], blocksize=64, quant_type="fp4"))[0]
    tops = x.view(-1, 64).abs().amax(dim=1).repeat_interleave(64)
    int4 = (x / tops * 7).round() * tops / 7
    affine = REF.dequantize_affine(*REF.quantize_affine(x, 4, 64), 64)
    found = [float(((y - x) ** 2).mean()) for y in (REF.dequantize_nf4(*REF.quantize_nf4(x)), fp4, int4, affine)]
    assert found == pytest.approx([0.00846, 0.01487, 0.01158, 0.00829], rel=0.01)


@everywhere
def test_zeros_and_views(nf4):
    x = torch.zeros(3, 4)
    x[1] = torch.tensor([1.0, -2.0, 0.5, 0.0])
    codes, absmax = nf4.quantize_nf4(x, 4)
    assert absmax.tolist() == [0, 2, 0] and codes[[0, 2]].eq(7).all()
    assert torch.equal(nf4.dequantize_nf4(codes, absmax, 4)[[0, 2]], torch.zeros(2, 4))
    y = normal(3, 5, 7)
    assert torch.equal(nf4.quantize_nf4(y.T, 3)[0], nf4.quantize_nf4(y.T.contiguous(), 3)[0])
    weight = nn.Parameter(y.clone())
    assert not nf4.quantize_nf4(weight, 8)[1].requires_grad and torch.equal(weight.data, y)


@everywhere
def test_errors_of_quantisation(nf4):
    codes = torch.full((3, 4), 5, dtype=torch.uint8)
    for block_size in (0, -1):
        with pytest.raises(ValueError):
            nf4.quantize_nf4(torch.ones(4), block_size)
        with pytest.raises(ValueError):
            nf4.dequantize_nf4(codes, torch.ones(3), block_size)
        with pytest.raises(ValueError):
            nf4.double_quantize(torch.ones(4), block_size)
        with pytest.raises(ValueError):
            nf4.double_dequantize(codes[0], torch.ones(1), torch.ones(()), block_size)
        with pytest.raises(ValueError):
            nf4.quantize_affine(torch.ones(4), 4, block_size)
    for count in (1, 2, 4):
        with pytest.raises(ValueError):
            nf4.dequantize_nf4(codes, torch.ones(count), 4)
        with pytest.raises(ValueError):
            nf4.double_dequantize(codes.flatten(), torch.ones(count), torch.ones(()), 4)
        with pytest.raises(ValueError):
            nf4.dequantize_affine(codes, torch.ones(count), torch.ones(count, dtype=torch.uint8), 4)
    for num_bits in (1, 9):
        with pytest.raises(ValueError):
            nf4.quantize_affine(torch.ones(4), num_bits, 4)


# --------------------------------------------------------------------------- 5.3


@everywhere
def test_8_bit_codebook_is_that_of_bitsandbytes(nf4):
    assert (nf4.float8_codebook() - bnb_functional.create_dynamic_map()).abs().max() <= 1e-7


@everywhere
def test_double_quantisation_agrees_with_bitsandbytes(nf4):
    """Its nested state: the same mean and scales, and constants that differ where its coarse search takes the other neighbour."""
    x = normal(4, 300, 1024) * (1 + normal(5, 300, 1).abs())
    _, state = bnb_functional.quantize_4bit(x, blocksize=64, quant_type="nf4", compress_statistics=True)
    absmax = nf4.quantize_nf4(x)[1]
    codes, scales, mean = nf4.double_quantize(absmax)
    assert mean == pytest.approx(float(state.offset), rel=1e-6)
    torch.testing.assert_close(scales, state.state2.absmax, rtol=1e-5, atol=0)
    theirs = bnb_functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
    mine = nf4.double_dequantize(codes, scales, mean)
    closer = (mine - absmax).abs() <= (theirs - absmax).abs() + 1e-5 * absmax
    assert bool(closer.all()) and (mine - theirs).abs().gt(1e-5).float().mean() < 0.01


@everywhere
@quick
@given(count=st.integers(1, 700), block_size=st.integers(1, 300), seed=st.integers(0, 2**16))
def test_properties_of_double_quantisation(nf4, count, block_size, seed):
    """Each deviation gets the nearest code, and no constant errs by more than half the widest gap of its block."""
    absmax = normal(seed, count).abs() + 1
    codes, scales, mean = nf4.double_quantize(absmax, block_size)
    assert (codes.dtype, scales.dtype, mean.dtype, mean.shape) == (torch.uint8, torch.float32, torch.float32, ())
    assert mean == pytest.approx(float(absmax.double().mean()), rel=1e-5)
    table = nf4.float8_codebook().double()
    mine = nf4.double_dequantize(codes, scales, mean, block_size).double()
    for block, scale, restored in zip(blocks(absmax, block_size), scales, blocks(mine, block_size), strict=True):
        deviation = block.double() - mean.double()
        assert scale == pytest.approx(float(deviation.abs().max()), rel=1e-5, abs=1e-6)
        nearest = (deviation[:, None] - table * scale.double()).abs().amin(dim=1)
        assert bool(((restored - block.double()).abs() <= nearest + 1e-5).all())


@everywhere
def test_equal_constants_come_back(nf4):
    for absmax in (torch.tensor([0.37]), torch.full((8,), 0.75), torch.zeros(4)):
        codes, scales, mean = nf4.double_quantize(absmax, 4)
        assert not scales.any() and not nf4.float8_codebook()[codes.long()].any()
        assert torch.equal(nf4.double_dequantize(codes, scales, mean, 4), absmax)


# --------------------------------------------------------------------------- 5.4


def layer_of(nf4, n_in, n_out, rank, alpha, block_size, bias=True, dtype=torch.float32):
    base = nn.Linear(n_in, n_out, bias=bias, dtype=dtype)
    with torch.no_grad():
        for seed, parameter in enumerate(base.parameters()):
            parameter.copy_(normal(seed, *parameter.shape))
    layer = nf4.QLoRALinear(base, rank, alpha, block_size)
    layer.lora_A.data.copy_(normal(7, rank, n_in))
    layer.lora_B.data.copy_(normal(8, n_out, rank))
    return base, layer


@everywhere
@pytest.mark.parametrize("bias", [True, False])
def test_layer_agrees_with_linear4bit_and_peft(nf4, bias):
    """peft's LoRA on bitsandbytes' Linear4bit, NF4 with double quantisation: output and gradients."""
    from peft import LoraConfig, inject_adapter_in_model

    base, layer = layer_of(nf4, 256, 192, 3, 7.0, 64, bias)
    quantised = bnb.nn.Linear4bit(256, 192, bias=bias, quant_type="nf4", compute_dtype=torch.float32, compress_statistics=True)
    quantised.load_state_dict(base.state_dict())
    model = nn.ModuleDict({"q": quantised}).to("cpu")
    model.train()  # in evaluation mode it may repack to bfloat16
    inject_adapter_in_model(LoraConfig(r=3, lora_alpha=7.0, target_modules=["q"], init_lora_weights=False), model)
    theirs = model["q"]
    theirs.lora_A["default"].weight.data.copy_(layer.lora_A.data)
    theirs.lora_B["default"].weight.data.copy_(layer.lora_B.data)
    x, g = normal(9, 5, 256), normal(10, 5, 192)
    found = []
    for module, factors in (
        (layer, (layer.lora_A, layer.lora_B)),
        (theirs, (theirs.lora_A["default"].weight, theirs.lora_B["default"].weight)),
    ):
        leaf = x.clone().requires_grad_()
        y = module(leaf)
        y.backward(g)
        found.append((y.detach(), leaf.grad, *(f.grad for f in factors)))
    for mine, other in zip(*found, strict=True):
        # Their 8-bit search errs near midpoints: a few constants in a thousand are off by a step of the 8-bit float
        assert float((mine - other).norm() / other.norm()) < 2e-4


@everywhere
def test_layer_is_the_equation(nf4):
    for n_in, n_out, rank, alpha, block_size in ((3, 2, 1, 2.0, 4), (8, 5, 2, 3.0, 3), (70, 9, 9, 16.0, 64)):
        base, layer = layer_of(nf4, n_in, n_out, rank, alpha, block_size)
        codes, absmax = nf4.quantize_nf4(base.weight, block_size)
        W = nf4.dequantize_nf4(codes, nf4.double_dequantize(*nf4.double_quantize(absmax)), block_size).double()
        A, B, b = (t.detach().double() for t in (layer.lora_A, layer.lora_B, layer.bias))
        for lead in ((), (3,), (2, 3)):
            x, g = normal(11, *lead, n_in), normal(12, *lead, n_out)
            leaf = x.clone().requires_grad_()
            y = layer(leaf)
            layer.zero_grad()
            y.backward(g)
            whole = W + alpha / rank * B @ A
            # K eps times the sum of the terms' magnitudes
            bound = (n_in + rank + 4) * EPS
            slack = bound * (x.abs().double() @ (W.abs() + alpha / rank * B.abs() @ A.abs()).T + b.abs())
            assert bool(((y.detach() - (x.double() @ whole.T + b)).abs() <= slack).all())
            torch.testing.assert_close(leaf.grad.double(), g.double() @ whole, rtol=1e-5, atol=1e-4)
            flat_x, flat_g = x.double().reshape(-1, n_in), g.double().reshape(-1, n_out)
            torch.testing.assert_close(layer.lora_A.grad.double(), alpha / rank * B.T @ flat_g.T @ flat_x, rtol=1e-5, atol=1e-4)
            torch.testing.assert_close(layer.lora_B.grad.double(), alpha / rank * flat_g.T @ flat_x @ A.T, rtol=1e-5, atol=1e-4)
        assert base.weight.grad is None
        assert [n for n, p in layer.named_parameters() if p.requires_grad] == ["lora_A", "lora_B"]


@everywhere
def test_start_state_and_dtypes(nf4):
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        base = nn.Linear(8, 6, dtype=dtype)
        layer = nf4.QLoRALinear(base, 6, 3.0, 16)
        assert not layer.lora_B.any() and torch.linalg.matrix_rank(layer.lora_A.detach().double()) == 6
        assert layer.lora_A.dtype == layer.lora_B.dtype == dtype and layer.scaling == 3.0 / 6
        x = normal(13, 4, 8, dtype=dtype)
        codes, absmax = nf4.quantize_nf4(base.weight, 16)
        absmax = nf4.double_dequantize(*nf4.double_quantize(absmax))
        W = nf4.dequantize_nf4(codes, absmax, 16, dtype)
        eps = torch.finfo(dtype).eps  # outputs are about 2; product and bias may be rounded apart
        torch.testing.assert_close(layer(x), nn.functional.linear(x, W, base.bias), rtol=4 * eps, atol=4 * eps)
        assert layer(x).dtype == dtype
        other = nf4.QLoRALinear(nn.Linear(8, 6, dtype=dtype), 6, 3.0, 16)
        assert not torch.equal(other(x), layer(x))
        other.load_state_dict(layer.state_dict())
        assert torch.equal(other(x), layer(x))
    for rank in (0, -1, 7):
        with pytest.raises(ValueError):
            nf4.QLoRALinear(nn.Linear(8, 6), rank, 1.0)
    with pytest.raises(ValueError):
        nf4.QLoRALinear(nn.Linear(8, 6), 2, 1.0, 0)


@everywhere
def test_the_layer_is_small(nf4):
    """A byte for each weight and each constant, counted in the state_dict."""
    layer = nf4.QLoRALinear(nn.Linear(512, 512, bias=False), 1, 1.0, 64)
    size = sum(t.numel() * t.element_size() for t in layer.state_dict().values()) - 4 * 2 * 512
    assert size <= 512 * 512 * (1 + 1 / 64) + 4 * (16 + 1)


# --------------------------------------------------------------------------- 5.5 to 5.7


@everywhere
@quick
@given(
    shape=shapes, block_size=st.integers(1, 70), num_bits=st.integers(2, 8), seed=st.integers(0, 2**16), shift=st.floats(-3, 3)
)
def test_properties_of_affine_quantisation(nf4, shape, block_size, num_bits, seed, shift):
    """Within half a step of x (a step at the ends of a range), zeros exact, integers within their bits."""
    x = normal(seed, *shape) + shift
    x[x.abs() < 0.1] = 0
    q, scale, zero_point = nf4.quantize_affine(x, num_bits, block_size)
    assert (q.dtype, scale.dtype, zero_point.dtype) == (torch.uint8, torch.float32, torch.uint8)
    assert int(q.max()) < 2**num_bits
    back = nf4.dequantize_affine(q, scale, zero_point, block_size)
    assert not back[x == 0].any()
    for block, restored, step in zip(blocks(x, block_size), blocks(back, block_size), scale, strict=True):
        low, high = min(0.0, float(block.min())), max(0.0, float(block.max()))
        assert step == pytest.approx((high - low) / (2**num_bits - 1), rel=1e-6)
        error = (restored - block).abs()
        assert bool((error <= 0.5 * step + 1e-5).all())


@everywhere
def test_affine_agrees_with_torch(nf4):
    """torch's own kernel, given the scale and the zero point, for one block."""
    for num_bits, seed in itertools.product((4, 8), range(5)):
        x = normal(seed, 50) * 3 + 1
        q, scale, zero_point = nf4.quantize_affine(x, num_bits, 50)
        top = 2**num_bits - 1
        theirs = torch.fake_quantize_per_tensor_affine(x, float(scale), int(zero_point), 0, top)
        mine = nf4.dequantize_affine(q, scale, zero_point, 50)
        away = (x / scale - (x / scale).floor() - 0.5).abs() > 1e-4
        torch.testing.assert_close(mine[away], theirs[away], rtol=1e-6, atol=1e-6)


@everywhere
def test_affine_of_zeros_and_ties(nf4):
    q, scale, zero_point = nf4.quantize_affine(torch.zeros(2, 3), 4, 3)
    assert not q.any() and not scale.any() and not zero_point.any()
    assert not nf4.dequantize_affine(q, scale, zero_point, 3).any()
    for num_bits, below in itertools.product((2, 4, 8), (0.5, 1.5, 2.5)):
        top = 2**num_bits - 1
        q, _, _ = nf4.quantize_affine(torch.tensor([-below, 0, top - below]), num_bits, 3)
        assert q.tolist() == sorted(q.tolist()) and int(q.max()) <= top


@everywhere
@quick
@given(shape=shapes, seed=st.integers(0, 2**16))
def test_packing(nf4, shape, seed):
    codes = torch.from_numpy(np.random.default_rng(seed).integers(16, size=shape).astype(np.uint8))
    packed = nf4.pack_nibbles(codes)
    assert packed.dtype == torch.uint8 and packed.shape == ((codes.numel() + 1) // 2,)
    assert torch.equal(unpacked(packed, codes.numel()), codes.flatten())
    assert torch.equal(nf4.unpack_nibbles(packed, tuple(shape)), codes)
    if codes.numel() % 2:
        assert packed[-1] % 16 == 0
    for wrong in (codes.numel() + 2, codes.numel() - 2):
        if wrong > 0:
            with pytest.raises(ValueError):
                nf4.unpack_nibbles(packed, (wrong,))
    with pytest.raises(ValueError):
        nf4.pack_nibbles(torch.cat([codes.flatten(), torch.tensor([16], dtype=torch.uint8)]))


@everywhere
def test_packed_bytes_are_those_of_bitsandbytes(nf4):
    x = normal(14, 8, 128)
    packed, _ = bnb_functional.quantize_4bit(x, blocksize=64, quant_type="nf4")
    assert torch.equal(nf4.pack_nibbles(nf4.quantize_nf4(x)[0]), packed.flatten())


@everywhere
def test_bits(nf4):
    """The paper's numbers: 0.5 and 0.127 bits of constants, 0.373 saved."""
    assert nf4.bits_per_parameter(64, None) == 4.5
    assert nf4.bits_per_parameter() == pytest.approx(4.127, abs=5e-4)
    assert nf4.bits_per_parameter(64, None) - nf4.bits_per_parameter() == pytest.approx(0.373, abs=5e-4)
    count = 64 * 256 * 3
    codes, absmax = nf4.quantize_nf4(normal(15, count))
    small, scales, _ = nf4.double_quantize(absmax)
    stored = 8 * (nf4.pack_nibbles(codes).numel() + small.numel() + 4 * scales.numel())
    assert nf4.bits_per_parameter() == stored / count
    for sizes in ((0, 256), (64, 0), (-1, None)):
        with pytest.raises(ValueError):
            nf4.bits_per_parameter(*sizes)


# --------------------------------------------------------------------------- the checks


def graded(stub: Path, seed: int) -> dict[str, TaskRun]:
    runner = Runner(WEEK, seed)
    found: list[TaskRun] = []
    runner.run_in_pytest(lambda: found.extend(runner.run(loopback(stub))))
    return {run.task.id: run for run in found}


@pytest.mark.parametrize("stub", [REFERENCE, *bank.alternatives(WEEK)], ids=lambda p: p.parent.name)
def test_a_right_answer_is_full_on_many_seeds(stub):
    for seed in (100, 101):
        for run in graded(stub, seed).values():
            assert not [(o.name, o.message) for o in run.outcomes if o.kind != "passed"], seed


@pytest.mark.parametrize("task", WEEK.tasks, ids=lambda t: t.id)
def test_each_task_is_doable_alone(task, tmp_path):
    """A submission that has one task, and stubs for the others, gets that task's points in full and no others'."""
    source = REFERENCE.read_text(encoding="utf-8")
    helpers = source[source.rindex("### BEGIN SOLUTION 5.2") : source.rindex("### END SOLUTION")]
    stub = tmp_path / WEEK.stub
    stub.write_text(stub_source(source, WEEK, keep={task.id}) + helpers, encoding="utf-8")
    for task_id, run in graded(stub, 3).items():
        failures = [(o.name, o.message) for o in run.outcomes if o.kind != "passed"]
        assert scoring.share(run.outcomes) == (1.0 if task_id == task.id else 0.0), failures
