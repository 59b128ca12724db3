"""Week 8: the reference against peft, transformers, torch and closed forms; then properties; the alternatives beside it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

from tests.loading import load

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "solutions/week08/edge_federated.py"
ALTERNATIVES = sorted((ROOT / "autograder/bank/week08/alternatives").glob("*/edge_federated.py"))

SOLUTIONS = {path.parent.name: load(path) for path in (REFERENCE, *ALTERNATIVES)}
REF = SOLUTIONS["week08"]
everywhere = pytest.mark.parametrize("lib", SOLUTIONS.values(), ids=SOLUTIONS.keys())


def draw(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).standard_normal(shape))


def clients(lib: ModuleType, seed: int, ranks: list[int], alphas: list[float], into: int = 5, out: int = 4) -> list:
    rows = zip(ranks, alphas, strict=True)
    return [lib.Adapter(draw(seed + 2 * k, r, into), draw(seed + 2 * k + 1, out, r), a) for k, (r, a) in enumerate(rows)]


def update(adapter) -> Tensor:
    return adapter.alpha / len(adapter.lora_A) * adapter.lora_B @ adapter.lora_A


def mean_update(adapters: list, samples: list[int]) -> Tensor:
    return sum(n / sum(samples) * update(a) for a, n in zip(adapters, samples, strict=True))


# --- federated averages ---


@everywhere
def test_the_residual_makes_the_average_exact(lib: ModuleType) -> None:
    adapters, samples = clients(lib, 0, [3, 3, 3], [6.0] * 3), [5, 1, 4]
    averaged, residual = lib.fedavg_exact(adapters, samples)
    torch.testing.assert_close(update(averaged) + residual, mean_update(adapters, samples), rtol=1e-12, atol=1e-12)
    factors = lib.fedavg_factors(adapters, samples)
    expected = np.average([a.lora_A.numpy() for a in adapters], axis=0, weights=samples)
    np.testing.assert_allclose(factors.lora_A.numpy(), expected, rtol=1e-12)
    torch.testing.assert_close(averaged.lora_B, factors.lora_B, rtol=1e-12, atol=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 100), min_size=1, max_size=5), st.integers(1, 4))
def test_averaging_is_off_by_the_covariance_of_the_factors(seed: int, samples: list[int], rank: int) -> None:
    adapters = clients(REF, seed, [rank] * len(samples), [3.0] * len(samples))
    centre, residual = REF.fedavg_exact(adapters, samples)
    spread = sum(
        n / sum(samples) * (a.lora_B - centre.lora_B) @ (a.lora_A - centre.lora_A) for a, n in zip(adapters, samples, strict=True)
    )
    torch.testing.assert_close(residual, 3.0 / rank * spread, rtol=1e-9, atol=1e-10)
    shared = [a._replace(lora_A=adapters[0].lora_A) for a in adapters]
    assert REF.fedavg_exact(shared, samples)[1].abs().max() < 1e-10


@pytest.mark.parametrize("count", [2, 4, 8])
def test_independent_factors_lose_a_known_share(count: int) -> None:
    """The relative error of averaged factors is sqrt(1 - 1 / K); wide factors leave little to chance."""
    adapters = clients(REF, 7, [8] * count, [8.0] * count, into=200, out=200)
    _, residual = REF.fedavg_exact(adapters, [1] * count)
    share = residual.norm() / mean_update(adapters, [1] * count).norm()
    assert abs(float(share) - (1 - 1 / count) ** 0.5) < 0.03


@everywhere
def test_stacking_is_exact_and_agrees_with_peft(lib: ModuleType) -> None:
    ranks, alphas, samples = [2, 1, 3], [6.0, 3.0, 5.0], [4, 1, 5]
    adapters = clients(lib, 20, ranks, alphas)
    stacked = lib.stack_adapters(adapters, samples)
    assert stacked.lora_A.shape == (6, 5) and stacked.lora_B.shape == (4, 6)
    torch.testing.assert_close(update(stacked), mean_update(adapters, samples), rtol=1e-12, atol=1e-12)

    model = get_peft_model(nn.Sequential(nn.Linear(5, 4)), LoraConfig(r=2, lora_alpha=6, target_modules=["0"]), "c0")
    for k in (1, 2):
        model.add_adapter(f"c{k}", LoraConfig(r=ranks[k], lora_alpha=int(alphas[k]), target_modules=["0"]))
    layer = model.base_model.model[0]
    for k, adapter in enumerate(adapters):
        layer.lora_A[f"c{k}"].weight.data = adapter.lora_A.float()
        layer.lora_B[f"c{k}"].weight.data = adapter.lora_B.float()
    model.add_weighted_adapter(["c0", "c1", "c2"], [n / sum(samples) for n in samples], "all", combination_type="cat")
    torch.testing.assert_close(layer.get_delta_weight("all"), update(stacked).float(), rtol=1e-5, atol=1e-5)


@everywhere
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_aggregates_keep_the_dtype(lib: ModuleType, dtype: torch.dtype) -> None:
    adapters = [a._replace(lora_A=a.lora_A.to(dtype), lora_B=a.lora_B.to(dtype)) for a in clients(lib, 3, [2, 2], [3.0, 3.0])]
    averaged, residual = lib.fedavg_exact(adapters, [1, 3])
    for part in (averaged.lora_A, averaged.lora_B, residual, *lib.stack_adapters(adapters, [1, 3])[:2]):
        assert part.dtype == dtype


@everywhere
def test_what_cannot_be_averaged_is_refused(lib: ModuleType) -> None:
    two = clients(lib, 0, [2, 2], [3.0, 3.0])
    for function in (lib.fedavg_factors, lib.fedavg_exact, lib.stack_adapters):
        for adapters, samples in (([], []), (two, [1]), (two, [1, 2, 3]), (two, [0, 0])):
            with pytest.raises(ValueError):
                function(adapters, samples)
    for other in (clients(lib, 0, [2, 1], [3.0, 3.0]), clients(lib, 0, [2, 2], [3.0, 4.0])):
        for function in (lib.fedavg_factors, lib.fedavg_exact):
            with pytest.raises(ValueError):
                function(other, [1, 2])
        lib.stack_adapters(other, [1, 2])


# --- the generator ---


def generator(lib: ModuleType, top_k: int = 2) -> nn.Module:
    made = lib.LoRAGenerator(3, 2, 4, 6, 5, 2, 3.0, top_k).double()
    for k, p in enumerate((made.gate, made.bank_A, made.bank_B)):
        p.data = draw(30 + k, *p.shape)
    return made


@everywhere
@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_generated_weights_by_hand(lib: ModuleType, top_k: int) -> None:
    made, task, weights = generator(lib, top_k), draw(40, 3), [draw(41, 5, 6), draw(42, 5, 6)]
    got = made.reparameterize(task, weights)
    g = made.route(task)
    assert torch.allclose(g.sum(dim=1), torch.ones(2, dtype=g.dtype)) and ((g > 0).sum(dim=1) == top_k).all()
    for layer in range(2):
        scores = {e: (made.gate[layer, e] @ task).item() for e in range(4)}
        best = sorted(scores, key=lambda e: scores[e])[-top_k:]
        share = {e: np.exp(scores[e]) / sum(np.exp(scores[b]) for b in best) for e in best}
        A = sum(share[e] * made.bank_A[e] for e in best)
        B = sum(share[e] * made.bank_B[e] for e in best)
        torch.testing.assert_close(got[layer], weights[layer] + 1.5 * B @ A, rtol=1e-10, atol=1e-10)


@everywhere
def test_the_generator_s_gradients(lib: ModuleType) -> None:
    made, task, weights = generator(lib), draw(40, 3), [draw(41, 5, 6), draw(42, 5, 6)]

    def merged(*parameters: Tensor) -> tuple[Tensor, ...]:
        state = dict(zip(("gate", "bank_A", "bank_B"), parameters, strict=True))
        return tuple(torch.func.functional_call(_Merger(made), {f"made.{n}": p for n, p in state.items()}, (task, weights)))

    assert torch.autograd.gradcheck(merged, tuple(p.detach().requires_grad_() for p in (made.gate, made.bank_A, made.bank_B)))


class _Merger(nn.Module):
    def __init__(self, made: nn.Module) -> None:
        super().__init__()
        self.made = made

    def forward(self, task: Tensor, weights: list[Tensor]) -> list[Tensor]:
        return self.made.reparameterize(task, weights)


@everywhere
def test_a_new_generator_leaves_every_task_at_the_base(lib: ModuleType) -> None:
    made = lib.LoRAGenerator(3, 2, 4, 6, 5, 2, 3.0, 2)
    weights = [draw(41, 5, 6).float(), draw(42, 5, 6).float()]
    for got, W in zip(made.reparameterize(draw(40, 3).float(), weights), weights, strict=True):
        assert torch.equal(got, W)
    assert sorted(n for n, _ in made.named_parameters()) == ["bank_A", "bank_B", "gate"]
    for top_k in (0, 5):
        with pytest.raises(ValueError):
            lib.LoRAGenerator(3, 2, 4, 6, 5, 2, 3.0, top_k)
    with pytest.raises(ValueError):
        made.reparameterize(draw(40, 3).float(), weights[:1])


# --- replies ---


class Letters:
    eos_id = 0

    def encode(self, text: str) -> list[int]:
        return [ord(c) - 31 for c in text]

    def decode(self, ids) -> str:
        return "".join("</s>" if i == 0 else chr(int(i) + 31) for i in ids)


class Fixed(nn.Module):
    """Logits that do not depend on the input, and a memory of what it was asked."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits, self.asked = logits, []

    def forward(self, ids: Tensor) -> Tensor:
        self.asked.append((ids[0].tolist(), self.training, torch.is_grad_enabled()))
        return self.logits.expand(1, ids.shape[1], -1)


@everywhere
@pytest.mark.parametrize(("top_p", "temperature"), [(0.5, 1.0), (0.9, 0.7), (1.0, 2.0)])
def test_the_nucleus_is_that_of_transformers(lib: ModuleType, top_p: float, temperature: float) -> None:
    """On an even grid of uniform numbers each token comes up as often as its probability says, to one step of the grid."""
    logits = 2 * draw(50, 20)
    logits[0] = -50.0
    scores = TemperatureLogitsWarper(temperature)(torch.zeros(1, 1, dtype=torch.long), logits[None])
    want = TopPLogitsWarper(top_p)(torch.zeros(1, 1, dtype=torch.long), scores)[0].softmax(-1)
    steps = 400
    grid = iter((np.arange(steps) + 0.5) / steps)
    text = lib.generate_reply(
        Fixed(logits), Letters(), "{message}", "", steps, ((" ", ""),), top_p, temperature, uniform=lambda: next(grid)
    )
    assert len(text) == steps
    share = torch.bincount(torch.tensor(Letters().encode(text)), minlength=20) / steps
    torch.testing.assert_close(share.double(), want, rtol=0, atol=1.01 / steps)
    assert ((share > 0) <= (want > 0)).all()


@everywhere
def test_the_prompt_is_the_training_text(lib: ModuleType) -> None:
    logits = torch.zeros(100)
    logits[Letters().encode("x")[0]] = 1.0
    model = Fixed(logits).train()
    assert lib.generate_reply(model, Letters(), "U:{message} B:", "{hi}", 2, [("a", "b")]) == "xx"
    prompt = [*Letters().encode("U:a B:b"), 0, *Letters().encode("U:{hi} B:")]
    assert model.asked == [(prompt, False, False), ([*prompt, *Letters().encode("x")], False, False)]
    assert model.training
    model.logits = logits.clone()
    model.logits[0] = 2.0
    assert lib.generate_reply(model, Letters(), "U:{message}", "hi", 5) == ""
    for wrong in ({"top_p": 0.0}, {"top_p": 1.1}, {"temperature": 0.0}, {"top_p": 0.5, "temperature": -1.0}):
        with pytest.raises(ValueError):
            lib.generate_reply(model, Letters(), "U:{message}", "hi", 5, **wrong)


# --- privacy ---


@everywhere
def test_clipping_is_that_of_torch(lib: ModuleType) -> None:
    shapes = {"a": (3, 2), "b": (4,)}
    updates = [{n: s * draw(60 + k, *shape) for k, (n, shape) in enumerate(shapes.items())} for s in (0.1, 1.0, 5.0)]
    noise = {n: draw(70 + k, *shape) for k, (n, shape) in enumerate(shapes.items())}
    clip, multiplier = 1.3, 0.4
    clipped = []
    for update_ in updates:
        holders = [nn.Parameter(torch.zeros_like(t)) for t in update_.values()]
        for holder, t in zip(holders, update_.values(), strict=True):
            holder.grad = t.clone()
        nn.utils.clip_grad_norm_(holders, clip)
        clipped.append(dict(zip(update_, (h.grad for h in holders), strict=True)))
    got = lib.clip_and_noise(updates, clip, multiplier, noise)
    for name in shapes:
        want = (sum(c[name] for c in clipped) + multiplier * clip * noise[name]) / 3
        torch.testing.assert_close(got[name], want, rtol=1e-5, atol=1e-6)  # torch adds 1e-6 to the norm


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 10), st.floats(0, 100))
def test_one_client_moves_the_average_by_at_most_clip_over_k(seed: int, clip: float, size: float) -> None:
    updates = [{"a": draw(seed + k, 3, 2)} for k in range(4)]
    other = [*updates[:-1], {"a": size * draw(seed + 9, 3, 2)}]
    none = {"a": torch.zeros(3, 2, dtype=torch.float64)}
    first, second = (REF.clip_and_noise(u, clip, 0.0, none)["a"] for u in (updates, other))
    assert (first - second).norm() <= 2 * clip / 4 * (1 + 1e-12)


# --- new tokens ---


@everywhere
def test_new_rows_are_those_of_a_longer_embedding(lib: ModuleType) -> None:
    base = nn.Embedding(5, 3, dtype=torch.float64)
    made = lib.NewTokenRows(base, 2)
    torch.testing.assert_close(made.new_rows.data, base.weight.mean(dim=0).expand(2, 3), rtol=1e-12, atol=1e-12)
    made.new_rows.data = draw(80, 2, 3)
    table = torch.cat([base.weight, made.new_rows]).detach().requires_grad_(True)
    ids, hidden = torch.tensor([[0, 6, 5], [6, 4, 6]]), draw(81, 2, 3)
    wanted, got = nn.functional.embedding(ids, table), made(ids)
    assert torch.equal(got, wanted)
    weight = draw(82, 2, 3, 3)
    (gradient,) = torch.autograd.grad((weight * wanted).sum(), table)
    (rows,) = torch.autograd.grad((weight * got).sum(), made.new_rows)
    torch.testing.assert_close(rows, gradient[5:], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(made.logits(hidden), hidden @ table.T, rtol=1e-12, atol=1e-12)
    assert not base.weight.requires_grad and made.base is base
    state = made.state_to_save()
    assert list(state) == ["new_rows"] and not state["new_rows"].requires_grad
    made.new_rows.data += 1.0
    assert not torch.equal(state["new_rows"], made.new_rows)
