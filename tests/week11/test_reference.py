"""Week 11: the reference against peft, onnxruntime, closed forms and finite differences; the alternatives against it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.loading import load

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "solutions/week11/merge.py"
ALTERNATIVES = sorted((ROOT / "autograder/bank/week11/alternatives").glob("*/merge.py"))

MERGE = load(REFERENCE)
EVERY = pytest.mark.parametrize(
    "merge", [load(path) for path in (REFERENCE, *ALTERNATIVES)], ids=lambda m: Path(m.__file__).parent.name
)
SEEDS = st.integers(0, 2**31 - 1)


def normal(seed: int, *shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def lora(merge: ModuleType, seed: int, rank: int, alpha: float, out: int = 6, into: int = 5, dtype=torch.float64):
    A, B = normal(seed, (rank, into), (out, rank), dtype=dtype)
    return merge.LoRA(A, B, alpha)


def delta(one) -> Tensor:
    """dW entry by entry, in float64."""
    A, B = one.lora_A.double(), one.lora_B.double()
    return sum(torch.outer(B[:, k], A[k]) for k in range(len(A))) * one.alpha / len(A)


# --------------------------------------------------------------------------- peft


class OneLinear(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.q = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        self.q.weight.data = weight.clone().float()

    def forward(self, x: Tensor) -> Tensor:
        return self.q(x)


def in_peft(weight: Tensor, loras: dict) -> nn.Module:
    """A peft model with an adapter for each LoRA, its factors written."""
    from peft import LoraConfig, get_peft_model

    model = None
    for name, one in loras.items():
        config = LoraConfig(r=len(one.lora_A), lora_alpha=one.alpha, target_modules=["q"])
        if model is None:
            model = get_peft_model(OneLinear(weight), config, adapter_name=name)
        else:
            model.add_adapter(name, config)
        layer = model.base_model.model.q
        layer.lora_A[name].weight.data = one.lora_A.clone().float()
        layer.lora_B[name].weight.data = one.lora_B.clone().float()
    return model


def of_peft(model: nn.Module, name: str) -> Tensor:
    return model.base_model.model.q.get_delta_weight(name).detach()


def combined(model: nn.Module, kind: str, names: list[str], weights: list[float], **options) -> Tensor:
    model.add_weighted_adapter(names, weights, kind, combination_type=kind, **options)
    return of_peft(model, kind)


def test_peft_cat_and_full_svd_are_the_sum_and_linear_is_not():
    (W0,) = normal(0, (6, 5))
    loras = {"a": lora(MERGE, 1, 2, 3.0), "b": lora(MERGE, 2, 2, 8.0)}
    weights = [0.7, 1.3]
    model = in_peft(W0, loras)
    merged = MERGE.merge_loras({"q": W0}, [{"q": one} for one in loras.values()], weights, torch.float64)["q"]
    update = (merged - W0).float()
    torch.testing.assert_close(combined(model, "cat", ["a", "b"], weights), update, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(combined(model, "svd", ["a", "b"], weights, svd_rank=4), update, rtol=1e-5, atol=1e-5)
    # "linear" adds factors that are scaled by sqrt(weight * scaling), so cross terms B_i A_j stay.
    roots = [(w * one.alpha / len(one.lora_A)) ** 0.5 for w, one in zip(weights, loras.values(), strict=True)]
    a, b = loras.values()
    cross = roots[0] * roots[1] * (a.lora_B @ b.lora_A + b.lora_B @ a.lora_A)
    linear = combined(model, "linear", ["a", "b"], weights)
    torch.testing.assert_close(linear, update + cross.float(), rtol=1e-5, atol=1e-5)
    assert (linear - update).norm() > 0.3 * update.norm()


def test_peft_merge_and_unload_gives_the_merged_weight():
    (W0,) = normal(3, (6, 5))
    one = lora(MERGE, 4, 3, 2.0)
    merged = in_peft(W0, {"a": one}).merge_and_unload().q.weight
    ours = MERGE.merge_loras({"q": W0}, [{"q": one}], [1.0], torch.float32)["q"]
    torch.testing.assert_close(ours, merged.detach(), rtol=1e-5, atol=1e-6)


@EVERY
@pytest.mark.parametrize("tasks", [1, 2, 5])
@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_ties_is_that_of_peft(merge, tasks, density):
    from peft.utils.merge_utils import ties

    deltas = normal(tasks, *[(4, 5)] * tasks)
    want = ties([d.clone() for d in deltas], torch.ones(tasks, dtype=torch.float64), density)
    torch.testing.assert_close(merge.ties_merge(deltas, density), want)
    torch.testing.assert_close(merge.ties_merge(deltas, density, 0.4), 0.4 * want)


@EVERY
def test_compression_is_that_of_peft(merge):
    (W0,) = normal(5, (6, 5))
    loras = {"a": lora(merge, 6, 2, 8.0), "b": lora(merge, 7, 2, 3.0)}
    small = merge.svd_compress(merge.stack_tasks(list(loras.values())), 2)
    # with one adapter peft falls back to its "linear", which compresses nothing
    theirs = combined(in_peft(W0, loras), "svd", ["a", "b"], [1.0, 1.0], svd_rank=2)
    torch.testing.assert_close(delta(small).float(), theirs, rtol=1e-4, atol=1e-5)


# --------------------------------------------------------------------------- merging


@EVERY
def test_merging_by_hand(merge):
    W0 = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    one = merge.LoRA(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0], [-1.0]]), 3.0)
    two = merge.LoRA(torch.eye(2), torch.tensor([[0.0, 1.0], [1.0, 0.0]]), 4.0)
    merged = merge.merge_loras({"w": W0}, [{"w": one}, {"w": two}], [1.0, 0.5])["w"]
    assert merged.dtype == torch.float16
    torch.testing.assert_close(merged, torch.tensor([[4.0, 7.0], [-2.0, -4.0]], dtype=torch.float16), rtol=0, atol=0)


@EVERY
@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, count=st.integers(1, 5))
def test_merging_is_order_invariant_and_linear(merge, seed, count):
    (W0,) = normal(seed, (6, 5))
    loras = [lora(merge, seed + k, 1 + k % 3, 1.0 + k) for k in range(count)]
    weights = [0.5 + k for k in range(count)]
    args = [{"q": one} for one in loras], weights
    merged = merge.merge_loras({"q": W0}, *args, torch.float64)["q"]
    backwards = merge.merge_loras({"q": W0}, args[0][::-1], weights[::-1], torch.float64)["q"]
    torch.testing.assert_close(merged, backwards)
    want = W0 + sum(w * delta(one) for w, one in zip(weights, loras, strict=True))
    torch.testing.assert_close(merged, want)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_merging_rounds_once(merge, dtype):
    (W0,) = normal(9, (40, 30), dtype=torch.float32)
    loras = [lora(merge, k, 2, 2.0, 40, 30, torch.float32) for k in range(12)]
    loras = [one._replace(lora_B=1e-4 * one.lora_B) for one in loras]
    merged = merge.merge_loras({"q": W0}, [{"q": one} for one in loras], [1.0] * 12, dtype)["q"]
    want = W0.double() + sum(delta(one) for one in loras)
    eps = torch.finfo(dtype).eps
    # half a unit in the last place, and the float32 sum's own rounding
    assert ((merged.double() - want).abs() <= eps / 2 * want.abs() + 30 * 2**-23 * (want.abs() + 1e-2)).all()


@EVERY
def test_merging_refuses_and_leaves_alone(merge):
    W0 = torch.ones(6, 5)
    one = lora(merge, 1, 2, 1.0, dtype=torch.float32)
    table = {"q": W0, "positions": torch.arange(7), "norm": torch.full((3,), 7e4)}
    with pytest.raises(ValueError):
        merge.merge_loras(table, [{"q": one}], [])
    with pytest.raises(ValueError):
        merge.merge_loras(table, [{"k": one}], [1.0])
    with pytest.raises(OverflowError):
        merge.merge_loras(table, [{"q": one}], [1.0])
    merged = merge.merge_loras(table, [{"q": one}], [1.0], torch.bfloat16)
    assert merged["positions"].tolist() == list(range(7)) and merged["norm"].dtype == torch.bfloat16
    assert (W0 == 1).all()


# --------------------------------------------------------------------------- TIES


@EVERY
def test_ties_by_hand(merge):
    deltas = [torch.tensor([4.0, -1.0, 2.0, 0.1]), torch.tensor([-1.0, -3.0, 2.5, 0.2]), torch.tensor([-2.0, 1.0, -4.0, 0.3])]
    # density 1: sums 1, -3, 0.5, 0.6
    torch.testing.assert_close(merge.ties_merge(deltas, 1.0), torch.tensor([4.0, -2.0, 2.25, 0.2]))
    # density 0.5 keeps (4, ., 2, .), (., -3, 2.5, .), (-2, ., -4, .): sums 2, -3, 0.5, 0
    torch.testing.assert_close(merge.ties_merge(deltas, 0.5), torch.tensor([4.0, -3.0, 2.25, 0.0]))


@EVERY
@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, density=st.sampled_from([0.05, 0.25, 0.5, 1.0]))
def test_ties_of_one_is_the_trim(merge, seed, density):
    (one,) = normal(seed, (4, 5))
    got = merge.ties_merge([one], density)
    kept = max(1, int(density * one.numel()))
    assert int((got != 0).sum()) == kept
    torch.testing.assert_close(got[got != 0], one[got != 0])
    assert one[got != 0].abs().min() >= one[got == 0].abs().max() if kept < one.numel() else True
    torch.testing.assert_close(merge.ties_merge([one, one, one], density), got)  # agreement changes nothing


@EVERY
def test_ties_refuses(merge):
    one, other = normal(1, (2, 3), (3, 2))
    for deltas, density in (([one], 0.0), ([one], 1.5), ([], 0.5), ([one, other], 0.5)):
        with pytest.raises(ValueError):
            merge.ties_merge(deltas, density)


# --------------------------------------------------------------------------- compression


@EVERY
@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, rank=st.integers(1, 4))
def test_compression_loses_the_tail(merge, seed, rank):
    """Eckart and Young: the squared error is the sum of the squared singular values that are left out."""
    one = lora(merge, seed, 4, 6.0)
    small = merge.svd_compress(one, rank)
    assert len(small.lora_A) == rank and small.alpha == one.alpha
    tail = torch.linalg.svdvals(delta(one))[rank:].square().sum()
    error = (delta(one) - delta(small)).square().sum()
    torch.testing.assert_close(error, tail, rtol=1e-8, atol=1e-10)


@EVERY
@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, energy=st.floats(0.02, 0.999))
def test_pruning_keeps_the_energy_and_no_more(merge, seed, energy):
    one = lora(merge, seed, 4, 6.0)
    small = merge.prune_by_energy(one, energy)
    whole = delta(one).square().sum()
    assert delta(small).square().sum() >= energy * whole * (1 - 1e-9)
    if len(small.lora_A) > 1:
        less = merge.svd_compress(one, len(small.lora_A) - 1)
        assert delta(less).square().sum() < energy * whole


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_compression_in_other_dtypes(merge, dtype):
    one = lora(merge, 3, 3, 2.0, dtype=dtype)
    small = merge.svd_compress(one, 2)
    assert small.lora_A.dtype == small.lora_B.dtype == dtype
    wide = merge.svd_compress(merge.LoRA(one.lora_A.double(), one.lora_B.double(), 2.0), 2)
    assert (delta(small) - delta(wide)).norm() < 4 * torch.finfo(dtype).eps * delta(wide).norm() + 1e-5


@EVERY
def test_compression_at_the_ends(merge):
    one = lora(merge, 3, 3, 2.0)
    torch.testing.assert_close(delta(merge.prune_by_energy(one, 1.0)), delta(one))
    assert len(merge.prune_by_energy(one._replace(lora_B=0 * one.lora_B), 0.9).lora_A) == 1
    for act in (lambda: merge.svd_compress(one, 0), lambda: merge.svd_compress(one, 4), lambda: merge.prune_by_energy(one, 0.0)):
        with pytest.raises(ValueError):
            act()


# --------------------------------------------------------------------------- export


@EVERY
def test_export_agrees_with_torch(merge, tmp_path):
    """One model with two LoRA layers, one export; float32 parity at three batch sizes, merged, and the model as it was."""
    import onnx
    import onnxruntime

    torch.manual_seed(0)
    model = nn.Sequential(merge.LoRALinear(nn.Linear(5, 7), 2, 3.0, 0.5), nn.GELU(), nn.Dropout(0.5), nn.Linear(7, 4))
    model.append(merge.LoRALinear(nn.Linear(4, 3, bias=False), 1, 2.0))
    for layer in (model[0], model[4]):
        nn.init.normal_(layer.lora_B)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    path = tmp_path / "model.onnx"
    merge.export_onnx(model, torch.randn(3, 5), path)
    assert model.training and model[0].dropout.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    model.eval()
    for rows in (1, 3, 17):
        x = torch.randn(rows, 5)
        (got,) = session.run(["y"], {"x": x.numpy()})
        np.testing.assert_allclose(got, model(x).detach().numpy(), rtol=1e-5, atol=1e-5)
    nodes = [node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node]
    assert nodes.count("Gemm") + nodes.count("MatMul") == 3 and "Dropout" not in nodes


# --------------------------------------------------------------------------- stretch


@EVERY
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, rate=st.sampled_from([0.1, 0.5, 0.9]))
def test_dare_is_unbiased(merge, seed, rate):
    one = torch.ones(200, 200, dtype=torch.float64)
    new = merge.dare(one, rate, torch.Generator().manual_seed(seed))
    assert set(new.unique().tolist()) <= {0.0, 1 / (1 - rate), one.div(1 - rate)[0, 0].item()}
    # the mean of 40,000 entries of variance rate / (1 - rate)
    assert abs(new.mean() - 1) < 6 * (rate / (1 - rate) / 40_000) ** 0.5
    torch.testing.assert_close(new, merge.dare(one, rate, torch.Generator().manual_seed(seed)), rtol=0, atol=0)


@EVERY
@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_int8_errs_by_half_a_step(merge, seed):
    (weight,) = normal(seed, (5, 30))
    weight[2] = 0
    codes, scale = merge.compress_int8(weight)
    assert codes.dtype == torch.int8 and int(codes.abs().max()) == 127 and not codes[2].any()
    back = merge.decompress_int8(codes, scale)
    step = weight.abs().amax(dim=1, keepdim=True) / 127
    assert ((back - weight).abs() <= step / 2 * (1 + 1e-9)).all()


@EVERY
def test_int8_is_that_of_torch(merge):
    (weight,) = normal(7, (6, 40), dtype=torch.float32)
    codes, scale = merge.compress_int8(weight)
    theirs = torch.quantize_per_channel(weight, scale[:, 0].double(), torch.zeros(6, dtype=torch.int64), 0, torch.qint8)
    assert (codes.int() - theirs.int_repr().int()).abs().max() <= 0
    torch.testing.assert_close(merge.decompress_int8(codes, scale), theirs.dequantize())


@EVERY
def test_ewc_gradient_is_that_of_finite_differences(merge):
    theta, old, fisher = normal(1, *[(3, 2)] * 3)
    fisher = fisher.abs()

    def penalty(value: Tensor) -> Tensor:
        return merge.ewc_penalty({"w": value, "new": value}, {"w": old}, {"w": fisher}, 3.0)

    assert torch.autograd.gradcheck(penalty, theta.requires_grad_(True))
    torch.testing.assert_close(penalty(old), torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(penalty(old + 2), 1.5 * 4 * fisher.sum())


@EVERY
@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, count=st.integers(1, 4))
def test_a_stack_is_the_sum(merge, seed, count):
    loras = [lora(merge, seed + k, 1 + k, 1.0 + 2 * k) for k in range(count)]
    stack = merge.stack_tasks(loras)
    torch.testing.assert_close(delta(stack), sum(map(delta, loras)))
    assert stack.alpha == len(stack.lora_A) == sum(len(one.lora_A) for one in loras)
