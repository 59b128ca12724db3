"""Week 4: the reference against peft, closed forms and finite differences; the bank against the reference.

Every property below is a function of a module, so that the reference, each alternative, each mutant and each
held-out spelling go through the same ones, independently of the autograder's checks.
"""

from __future__ import annotations

import ast
import tomllib
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.loading import load

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "solutions/week04/lora_linear.py"
BANK = ROOT / "autograder/bank/week04"
ALTERNATIVES = sorted(BANK.glob("alternatives/*/lora_linear.py"))
HELDOUT = sorted(BANK.glob("heldout/*.py"))
TASKS = ("4.1", "4.2", "4.3", "4.4")
MUTANTS = [p for p in sorted(BANK.glob("mutants/*.toml")) if tomllib.loads(p.read_text("utf-8"))["task"] in TASKS]

# in_features, out_features, rank, alpha: non-square both ways, the largest rank, alpha below and above rank.
LADDER = [(1, 1, 1, 1.0), (3, 2, 1, 2.5), (5, 7, 2, 3.0), (8, 4, 4, 1.0), (6, 6, 3, 16.0), (17, 9, 5, 8.0)]


# --------------------------------------------------------------------------- loading


def read_mutant(path: Path) -> SimpleNamespace:
    """The mutant's task, misconceptions, and the patched reference."""
    data = tomllib.loads(path.read_text("utf-8"))
    source = reference = REFERENCE.read_text("utf-8")
    for edit in data["edit"]:
        assert reference.count(edit["find"]) == 1, f"{path.name}: {edit['find']!r} is not unique"
        assert source.count(edit["find"]) == 1, f"{path.name}: {edit['find']!r} was changed by an earlier edit"
        source = source.replace(edit["find"], edit["replace"])
    return SimpleNamespace(**data, source=source)


REF = load(REFERENCE)
SOLUTIONS = {"reference": REF} | {path.parent.name: load(path) for path in ALTERNATIVES}
everywhere = pytest.mark.parametrize("lora", SOLUTIONS.values(), ids=SOLUTIONS.keys())


# --------------------------------------------------------------------------- building


def draw(rng: np.random.Generator, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(rng.standard_normal(shape)).to(dtype)


def build(lora, n_in, n_out, rank, alpha, *, dropout=0.0, bias=True, dtype=torch.float64, seed=0, scale=1.0):
    """A LoRALinear whose every random number comes from PCG64, B included (so it is not zero)."""
    rng = np.random.default_rng(seed)
    base = nn.Linear(n_in, n_out, bias=bias, dtype=dtype)
    layer = lora.LoRALinear(base, rank, alpha, dropout)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.copy_(draw(rng, *parameter.shape))
    set_factors(layer, rng, scale)
    return layer, rng


def set_factors(layer, rng, scale=1.0):
    rank, (n_out, n_in) = layer.rank, layer.base.weight.shape
    layer.lora_A.data.copy_(draw(rng, rank, n_in) * scale)
    layer.lora_B.data.copy_(draw(rng, n_out, rank) * scale)


def np64(t: Tensor) -> np.ndarray:
    return t.detach().double().numpy()


def update_of(layer) -> np.ndarray:
    """dW by the equation, from the names and the meaning that the contract gives."""
    assert layer.scaling == layer.alpha / layer.rank
    return layer.alpha / layer.rank * np64(layer.lora_B) @ np64(layer.lora_A)


def closed_form(layer, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """y in NumPy float64, and the bound of its error for the layer's dtype.

    An inner product of K terms has an error of at most about K eps sum |a_i b_i| (Higham, 2002, section 3.1).
    Here K = in_features + rank, the two products of the branch being chained; 4 more for the roundings of the
    bias, the scaling, the addition and the result; c = 1.
    """
    W, A, B, X = np64(layer.base.weight), np64(layer.lora_A), np64(layer.lora_B), np64(x)
    b = 0.0 if layer.base.bias is None else np64(layer.base.bias)
    s = layer.alpha / layer.rank
    y = X @ W.T + b + s * X @ A.T @ B.T
    scale = abs(X) @ abs(W).T + abs(b) + abs(s) * abs(X) @ abs(A).T @ abs(B).T
    # A layer may also form W + dW first, which rounds |W| and |dW| once more: that is inside 4 + K >= 6.
    return y, (layer.base.in_features + layer.rank + 4) * torch.finfo(x.dtype).eps * scale


def assert_near(got: Tensor, expected: np.ndarray, bound: np.ndarray) -> None:
    assert tuple(got.shape) == expected.shape
    assert (abs(np64(got) - expected) <= bound + np.finfo(float).tiny).all()


def assert_update(layer, expected: np.ndarray, eps: float, kinds: int = 8) -> None:
    """dW within c K eps |dW|: K the inner dimension, c for the SVD (backward stable, a modest constant)."""
    K = max(layer.base.weight.shape)
    got = update_of(layer)
    assert np.linalg.norm(got - expected) <= kinds * K * eps * max(np.linalg.norm(expected), 1e-30)


# --------------------------------------------------------------------------- properties of task 4.1


def start_is_base(lora):
    for n_in, n_out, rank, alpha in LADDER:
        for bias in (True, False):
            base = nn.Linear(n_in, n_out, bias=bias)
            weight = base.weight
            layer = lora.LoRALinear(base, rank, alpha)
            assert layer.base is base and base.weight is weight
            assert layer.lora_A.shape == (rank, n_in) and layer.lora_B.shape == (n_out, rank)
            assert (layer.rank, layer.alpha, layer.merged, layer.enabled) == (rank, alpha, False, True)
            assert layer.scaling == alpha / rank
            assert not layer.lora_B.any()
            assert np.linalg.matrix_rank(np64(layer.lora_A)) == rank
            x = draw(np.random.default_rng(1), 4, n_in, dtype=torch.float32)
            assert torch.equal(layer(x), base(x))
            if n_in > 1:  # an orthogonal start has two values otherwise
                assert not torch.equal(layer.lora_A, lora.LoRALinear(nn.Linear(n_in, n_out), rank, alpha).lora_A)


def only_factors_train(lora):
    base = nn.Linear(5, 4)
    layer = lora.LoRALinear(base, 2, 4.0)
    trainable = {n for n, p in layer.named_parameters() if p.requires_grad}
    assert trainable == {"lora_A", "lora_B"}
    layer(torch.ones(3, 5)).square().sum().backward()
    assert base.weight.grad is None and base.bias.grad is None
    # At the start dL/dA contains B = 0, dL/dB does not.
    assert not layer.lora_A.grad.any() and layer.lora_B.grad.any()


def forward_is_the_equation(lora):
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        for n_in, n_out, rank, alpha in LADDER:
            for lead in ((), (3,), (2, 3), (2, 1, 2)):
                layer, rng = build(lora, n_in, n_out, rank, alpha, dtype=dtype, bias=len(lead) != 1)
                x = draw(rng, *lead, n_in, dtype=dtype)
                y = layer(x)
                assert y.dtype == dtype
                assert_near(y, *closed_form(layer, x))
    layer, rng = build(lora, 5, 7, 2, 3.0)
    x = draw(rng, 2, 5, 4).transpose(1, 2)  # not contiguous
    assert_near(layer(x), *closed_form(layer, x))


def gradients_are_exact(lora):
    for n_in, n_out, rank, alpha in LADDER[:4]:
        layer, rng = build(lora, n_in, n_out, rank, alpha)
        x = draw(rng, 2, 2, n_in).requires_grad_()

        def forward(x, A, B, layer=layer):
            return torch.func.functional_call(layer, {"lora_A": A, "lora_B": B}, (x,))

        A, B = (p.detach().clone().requires_grad_() for p in (layer.lora_A, layer.lora_B))
        assert torch.autograd.gradcheck(forward, (x, A, B))


def dropout_on_the_branch_input(lora):
    # With x = (1, 2, 4) and ones in A, the branch is twice a subset sum at p = 1/2, equal in all outputs.
    layer, _ = build(lora, 3, 4, 1, 1.0, dropout=0.5)
    layer.lora_A.data.fill_(1), layer.lora_B.data.fill_(1)
    x = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64).repeat(200, 1)
    with torch.no_grad():
        branch = (layer.train()(x) - layer.base(x)).round(decimals=6)
    assert torch.equal(branch, branch[:, :1].expand_as(branch))
    assert set(branch[:, 0].tolist()) == {2.0 * k for k in range(8)}
    y, bound = closed_form(layer, x)
    assert_near(layer.eval()(x), y, bound)


def no_dropout_in_eval(lora):
    layer, rng = build(lora, 6, 5, 2, 3.0, dropout=0.9)
    x = draw(rng, 7, 6)
    assert_near(layer.eval()(x), *closed_form(layer, x))


def flags_switch_the_branch_off(lora):
    layer, rng = build(lora, 6, 5, 2, 3.0, dropout=0.5)
    x = draw(rng, 7, 6)
    for training in (False, True):
        layer.train(training)
        for merged, enabled in ((True, True), (False, False), (True, False)):
            layer.merged, layer.enabled = merged, enabled
            assert torch.equal(layer(x), layer.base(x))
    layer.merged, layer.enabled = False, True
    assert not torch.allclose(layer(x), layer.base(x))


def constructor_errors(lora):
    for n_in, n_out in ((3, 5), (5, 3)):
        for rank in (0, -1, 4, 5):
            with pytest.raises(ValueError):
                lora.LoRALinear(nn.Linear(n_in, n_out), rank, 1.0)
        lora.LoRALinear(nn.Linear(n_in, n_out), 3, 1.0, 0.99)
    for dropout in (-0.1, 1.0, 1.5):
        with pytest.raises(ValueError):
            lora.LoRALinear(nn.Linear(3, 3), 1, 1.0, dropout)


def dtype_is_inherited(lora):
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        layer = lora.LoRALinear(nn.Linear(6, 5, dtype=dtype), 3, 1.0)
        assert layer.lora_A.dtype == layer.lora_B.dtype == dtype
        assert np.linalg.matrix_rank(np64(layer.lora_A)) == 3
    layer = lora.LoRALinear(nn.Linear(6, 5, device="meta"), 3, 1.0)
    assert layer.lora_A.device.type == layer.lora_B.device.type == "meta"


# --------------------------------------------------------------------------- properties of task 4.2


def merge_adds_the_update(lora):
    for training in (True, False):
        for n_in, n_out, rank, alpha in LADDER:
            layer, _ = build(lora, n_in, n_out, rank, alpha, dropout=0.5)
            layer.train(training)
            weight, bias = layer.base.weight, layer.base.bias
            tied = nn.Embedding(n_out, n_in)
            tied.weight = weight
            old = {k: v.clone() for k, v in layer.state_dict().items()}
            expected = np64(weight) + update_of(layer)
            layer.merge()
            assert layer.merged is True and layer.base.weight is weight and tied.weight is weight
            assert not weight.requires_grad and layer.base.bias is bias
            np.testing.assert_allclose(np64(weight), expected, rtol=1e-12, atol=1e-12)
            for name in ("base.bias", "lora_A", "lora_B"):
                assert torch.equal(layer.state_dict()[name], old[name])
            once = weight.clone()
            layer.merge()
            assert torch.equal(weight, once) and layer.merged is True
    layer, rng = build(lora, 5, 4, 2, 3.0)
    layer.merge(), layer.unmerge()
    set_factors(layer, rng)
    layer.enabled = False
    expected = np64(layer.base.weight) + update_of(layer)
    layer.merge()
    np.testing.assert_allclose(np64(layer.base.weight), expected, rtol=1e-12, atol=1e-12)


def merged_layer_is_the_same_function(lora):
    for n_in, n_out, rank, alpha in LADDER:
        layer, rng = build(lora, n_in, n_out, rank, alpha, dropout=0.3)
        x = draw(rng, 3, n_in)
        before, bound = closed_form(layer, x)
        layer.merge()
        assert_near(layer.train()(x), before, bound)
        assert_near(layer.eval()(x), before, bound)
        layer.unmerge()
        assert_near(layer.eval()(x), before, 4 * bound)


def unmerge_bound(lora, draws=40):
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        for seed in range(draws):
            n_in, n_out, rank, alpha = LADDER[seed % len(LADDER)]
            scale = 10.0 ** (seed % 5 - 3)  # from updates below the weight's rounding to much larger ones
            layer, _ = build(lora, n_in, n_out, rank, alpha, dtype=dtype, seed=seed, scale=scale)
            weight = layer.base.weight
            w0, dW = np64(weight).copy(), update_of(layer)
            layer.merge()
            layer.unmerge()
            assert layer.merged is False and layer.base.weight is weight and not weight.requires_grad
            bound = 4 * torch.finfo(dtype).eps * (abs(w0) + abs(dW))
            assert (abs(np64(weight) - w0) <= bound).all()
            layer.merge()
            assert layer.merged is True


def unmerge_without_merge(lora):
    layer, _ = build(lora, 4, 3, 2, 5.0)
    old = layer.base.weight.clone()
    layer.unmerge()
    assert torch.equal(layer.base.weight, old) and layer.merged is False


# --------------------------------------------------------------------------- properties of task 4.3


def check_new_rank(layer, new_rank, alpha, dtype):
    n_out, n_in = layer.base.weight.shape
    assert (layer.rank, layer.alpha, layer.scaling) == (new_rank, alpha, alpha / new_rank)
    assert layer.lora_A.shape == (new_rank, n_in) and layer.lora_B.shape == (n_out, new_rank)
    for factor in (layer.lora_A, layer.lora_B):
        assert isinstance(factor, nn.Parameter) and factor.requires_grad and factor.dtype == dtype
    assert {n for n, p in layer.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}


def growth_keeps_the_function(lora):
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        for n_in, n_out, rank, alpha in LADDER:
            for new_rank in range(rank, min(n_in, n_out) + 1):
                layer, rng = build(lora, n_in, n_out, rank, alpha, dtype=dtype)
                old, weight = update_of(layer), layer.base.weight.clone()
                layer.set_rank(new_rank)
                check_new_rank(layer, new_rank, alpha, dtype)
                assert_update(layer, old, torch.finfo(dtype).eps)
                assert torch.equal(layer.base.weight, weight)
                if new_rank > rank:  # the new columns of B are zero in some basis: rank(dW) has not grown
                    assert np.linalg.matrix_rank(np64(layer.lora_A)) == new_rank
                if dtype == torch.float64:
                    x = draw(rng, 3, n_in)
                    before = np64(x) @ (np64(weight) + old).T + np64(layer.base.bias)
                    np.testing.assert_allclose(np64(layer(x)), before, rtol=1e-9, atol=1e-9)


def grown_directions_learn(lora):
    layer, rng = build(lora, 6, 7, 2, 4.0)
    layer.set_rank(5)
    target = draw(rng, 40, 7)
    x = draw(rng, 40, 6)
    optimizer = torch.optim.SGD([layer.lora_A, layer.lora_B], lr=1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        (layer(x) - target).square().mean().backward()
        optimizer.step()
    assert np.linalg.matrix_rank(update_of(layer), tol=1e-7) == 5


def shrinking_is_eckart_young(lora):
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        for n_in, n_out, rank, alpha in LADDER:
            for new_rank in range(1, rank):
                layer, _ = build(lora, n_in, n_out, rank, alpha, dtype=dtype, seed=new_rank)
                old = update_of(layer)
                U, S, Vt = np.linalg.svd(old, full_matrices=False)
                best = U[:, :new_rank] * S[:new_rank] @ Vt[:new_rank]
                tail = np.sqrt((S[new_rank:] ** 2).sum())
                layer.set_rank(new_rank)
                check_new_rank(layer, new_rank, alpha, dtype)
                eps = torch.finfo(dtype).eps
                error = np.linalg.norm(old - update_of(layer))
                # Rounding can only add c K eps |dW| to the optimal error.
                assert error <= tail + 8 * max(n_in, n_out) * eps * S[0]
                assert error >= tail * (1 - 1e-9) - 8 * eps * S[0]
                if dtype == torch.float64:  # the gap of random singular values is far above 1e-6
                    np.testing.assert_allclose(update_of(layer), best, rtol=1e-7, atol=1e-7 * S[0])


def ranks_in_sequence(lora):
    layer, _ = build(lora, 9, 7, 2, 6.0)
    old = update_of(layer)
    for new_rank in (5, 7, 3, 3, 2, 6):  # never below the rank of dW, so nothing is lost
        layer.set_rank(new_rank)
        check_new_rank(layer, new_rank, 6.0, torch.float64)
        assert_update(layer, old, torch.finfo(torch.float64).eps, kinds=100)
    layer.set_rank(1)
    assert np.linalg.matrix_rank(update_of(layer), tol=1e-9) == 1


def set_rank_errors(lora):
    layer, _ = build(lora, 5, 3, 2, 6.0)
    old = update_of(layer)
    for new_rank in (0, -2, 4, 5):
        with pytest.raises(ValueError):
            layer.set_rank(new_rank)
        assert layer.rank == 2 and np.array_equal(update_of(layer), old)
    layer.merge()
    for new_rank in (1, 2, 3):
        with pytest.raises(RuntimeError):
            layer.set_rank(new_rank)
    layer.unmerge()
    layer.set_rank(3)
    assert layer.rank == 3


# --------------------------------------------------------------------------- properties of task 4.4


class Attention(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.v = nn.Linear(d, d)
        self.q = nn.Linear(d, d, bias=False)
        self.qkv = nn.Linear(d, 3 * d)
        self.v_gate = nn.Linear(d, d)

    def forward(self, x):
        gate = self.v_gate(x).sigmoid() + self.qkv(x).chunk(3, -1)[0]
        return torch.softmax(self.q(x) @ x.transpose(-1, -2), -1) @ self.v(x) * gate


class Block(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.norm = nn.LayerNorm(d)
        self.attention = Attention(d)
        self.conv = nn.Conv1d(d, d, 1)
        self.mlp = nn.Sequential(nn.Linear(d, 2 * d), nn.ReLU(), nn.Linear(2 * d, d))

    def forward(self, x):
        x = x + self.attention(self.norm(x))
        return x + self.mlp(self.conv(x.transpose(-1, -2)).transpose(-1, -2))


class Model(nn.Module):
    """Names that trap a careless match, a Linear at two names, other modules called q and base."""

    def __init__(self, d=6):
        super().__init__()
        self.seq = nn.Linear(d, d)
        self.embed = nn.Embedding(11, d)
        self.blocks = nn.ModuleList([Block(d), Block(d)])
        self.base = nn.Linear(d, d)
        self.other = nn.ModuleDict({"q": nn.Embedding(3, d), "v": nn.Conv1d(d, d, 1), "base": nn.Linear(d, d)})
        self.head = nn.Linear(d, 11)
        self.q = nn.Linear(d, d)
        self.tail = nn.ModuleDict({"q": self.q, "head": self.head, "w": self.q})

    def forward(self, ids):
        x = self.seq(self.embed(ids))
        for block in self.blocks:
            x = block(x)
        x = self.other["base"](self.base(x)) + self.tail["q"](x) + self.q(x)
        return self.head(x) + self.tail["head"](x)


def make_model(seed=0) -> Model:
    model = Model().double()
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(draw(rng, *parameter.shape) / 3)
    return model


IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 10]])
Q_NAMES = ["blocks.0.attention.q", "blocks.1.attention.q", "q", "tail.q"]


def lora_names(lora, model) -> list[str]:
    pairs = model.named_modules(remove_duplicate=False)
    return sorted(n for n, m in pairs if isinstance(m, lora.LoRALinear))


def trainable(model) -> set[str]:
    return {n for n, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}


def factors(names) -> set[str]:
    return {f"{n}.lora_{f}" for n in names for f in "AB"}


def injects_what_matches(lora):
    cases = {
        ("q",): Q_NAMES,
        ("v",): ["blocks.0.attention.v", "blocks.1.attention.v"],
        ("attention.q",): Q_NAMES[:2],
        ("blocks.1.attention.q", "seq"): ["blocks.1.attention.q", "seq"],
        ("mlp.2", "head"): ["blocks.0.mlp.2", "blocks.1.mlp.2", "head", "tail.head"],
        ("base",): ["base", "other.base"],
        ("w",): ["tail.w"],
    }
    for targets, expected in cases.items():
        model = make_model()
        before = model(IDS)
        linears = {n: m for n, m in model.named_modules(remove_duplicate=False) if isinstance(m, nn.Linear)}
        assert lora.inject_lora(model, iter(targets), 2, 3.0, 0.25) == expected
        assert lora_names(lora, model) == expected
        assert trainable(model) == factors(expected)
        for name in expected:
            layer = model.get_submodule(name)
            assert layer.base is linears[name]
            assert (layer.rank, layer.alpha) == (2, 3.0)
        # Not bit for bit: torch may take another kernel for a weight that requires no gradient.
        assert torch.allclose(model.eval()(IDS), before, rtol=1e-12, atol=1e-12)


def lookalikes_are_left(lora):
    model = nn.ModuleDict({"attn": nn.ModuleDict({"q": nn.Linear(4, 4)}), "attn_q": nn.Linear(4, 4)})
    model.lora_scale = nn.Parameter(torch.ones(4))
    assert lora.inject_lora(model, ["attn.q"], 2, 1.0) == ["attn.q"]
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {"attn.q.lora_A", "attn.q.lora_B"}


def injected_dropout(lora):
    model = make_model()
    lora.inject_lora(model, ["seq"], 2, 3.0, 0.5)
    set_factors(model.seq, np.random.default_rng(3))
    model.train()
    x = torch.ones(20, 6, dtype=torch.float64)
    assert not torch.equal(model.seq(x), model.seq(x))


def second_call_changes_nothing(lora):
    for targets in (["q", "base"], ["base"], ["attention.q", "q"]):
        model = make_model()
        lora.inject_lora(model, targets, 2, 3.0)
        rng = np.random.default_rng(5)
        for module in model.modules():
            if isinstance(module, lora.LoRALinear):
                set_factors(module, rng)
        state = {k: v.clone() for k, v in model.state_dict().items()}
        modules = dict(model.named_modules(remove_duplicate=False))
        free = trainable(model)
        assert lora.inject_lora(model, targets, 2, 3.0) == []
        after = dict(model.named_modules(remove_duplicate=False))
        assert list(after) == list(modules) and all(after[n] is modules[n] for n in after)
        assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
        assert trainable(model) == free


def calls_add_up(lora):
    model = make_model()
    first = lora.inject_lora(model, ["attention.q"], 2, 3.0)
    second = lora.inject_lora(model, ["attention.q", "v"], 1, 3.0)
    assert second == ["blocks.0.attention.v", "blocks.1.attention.v"]
    assert trainable(model) == factors(first + second)
    assert model.blocks[0].attention.q.rank == 2 and model.blocks[0].attention.v.rank == 1


def tied_linear_is_wrapped_once(lora):
    model = make_model()
    linear = model.q
    assert lora.inject_lora(model, ["q", "w"], 2, 3.0) == sorted([*Q_NAMES, "tail.w"])
    assert model.q is model.tail["q"] is model.tail["w"] and model.q.base is linear
    x = draw(np.random.default_rng(2), 2, 6)
    set_factors(model.q, np.random.default_rng(4))
    assert torch.equal(model.tail["q"](x), model.q(x)) and not torch.equal(model.q(x), linear(x))


def rank_for_each_target(lora):
    ranks = {"q": 1, "attention.q": 2, "blocks.1.attention.q": 3, "head": 4}
    for order in (list(ranks), list(ranks)[::-1]):
        model = make_model()
        lora.inject_lora(model, order, {t: ranks[t] for t in order}, 5.0)
        assert [model.blocks[i].attention.q.rank for i in (0, 1)] == [2, 3]
        assert model.q.rank == 1 and model.head.rank == 4
        assert model.head.scaling == 5.0 / 4


def unknown_targets(lora):
    for targets in (
        ["nothing"],
        ["q", "nothing"],
        ["nothing", "q"],
        ["conv"],
        ["attention"],
        ["uery", "v"],
        [""],
    ):
        model = make_model()
        state, modules, free = model.state_dict(), list(model.modules()), trainable(model)
        with pytest.raises(ValueError):
            lora.inject_lora(model, targets, 2, 3.0)
        assert list(model.modules()) == modules and trainable(model) == free
        assert list(model.state_dict()) == list(state)


def training_moves_factors_only(lora):
    model = make_model()
    lora.inject_lora(model, ["q", "v", "mlp.0"], 2, 4.0)
    old = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(IDS).flatten(0, 1), IDS.roll(-1, 1).flatten()).backward()
        optimizer.step()
    for name, value in model.state_dict().items():
        assert torch.equal(value, old[name]) == ("lora_" not in name), name


PROPERTIES = {
    "4.1": [
        start_is_base,
        only_factors_train,
        forward_is_the_equation,
        gradients_are_exact,
        dropout_on_the_branch_input,
        no_dropout_in_eval,
        flags_switch_the_branch_off,
        constructor_errors,
        dtype_is_inherited,
    ],
    "4.2": [merge_adds_the_update, merged_layer_is_the_same_function, unmerge_bound, unmerge_without_merge],
    "4.3": [
        growth_keeps_the_function,
        grown_directions_learn,
        shrinking_is_eckart_young,
        ranks_in_sequence,
        set_rank_errors,
    ],
    "4.4": [
        injects_what_matches,
        lookalikes_are_left,
        injected_dropout,
        second_call_changes_nothing,
        calls_add_up,
        tied_linear_is_wrapped_once,
        rank_for_each_target,
        unknown_targets,
        training_moves_factors_only,
    ],
}
ALL = [p for properties in PROPERTIES.values() for p in properties]


@everywhere
@pytest.mark.parametrize("prop", ALL, ids=lambda p: p.__name__)
def test_property(lora, prop):
    torch.manual_seed(0)
    prop(lora)


def failures(lora, task: str) -> list[str]:
    """The properties of a task that a module breaks."""
    broken = []
    for prop in PROPERTIES[task]:
        torch.manual_seed(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                prop(lora)
        except (Exception, pytest.fail.Exception):
            broken.append(prop.__name__)
    return broken


# --------------------------------------------------------------------------- the reference beside peft

PRECISION = [(torch.float64, 1e-12), (torch.float32, 5e-7)]  # 5e-7 is about 4 eps, four roundings per element


def peft_twin(layer, base: nn.Linear):
    """peft's own layer on a copy of the base, with the same A, B, alpha and rank."""
    from peft import LoraConfig
    from peft.tuners.lora.layer import Linear

    config = LoraConfig(r=layer.rank, lora_alpha=layer.alpha, lora_dropout=0.0)
    twin = Linear(base, "default", config, r=layer.rank, lora_alpha=layer.alpha)
    twin.lora_A["default"].weight.data = layer.lora_A.data.clone()
    twin.lora_B["default"].weight.data = layer.lora_B.data.clone()
    base.requires_grad_(False)
    return twin


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISION, ids=["fp64", "fp32"])
@pytest.mark.parametrize("case", LADDER, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_reference_agrees_with_peft(case, bias, dtype, tolerance):
    layer, rng = build(REF, *case, bias=bias, dtype=dtype)
    base = nn.Linear(case[0], case[1], bias=bias, dtype=dtype)
    base.load_state_dict(layer.base.state_dict())
    twin = peft_twin(layer, base)
    assert twin.scaling["default"] == layer.scaling

    x = draw(rng, 2, 3, case[0], dtype=dtype).requires_grad_()
    x2 = x.detach().clone().requires_grad_()
    y, y2 = layer(x), twin(x2)
    assert relative(y, y2) <= tolerance
    weights = draw(rng, *y.shape, dtype=dtype)
    (y * weights).sum().backward()
    (y2 * weights).sum().backward()
    pairs = [
        (x.grad, x2.grad),
        (layer.lora_A.grad, twin.lora_A["default"].weight.grad),
        (layer.lora_B.grad, twin.lora_B["default"].weight.grad),
    ]
    for ours, theirs in pairs:
        assert relative(ours, theirs) <= tolerance

    layer.merge(), twin.merge()
    assert relative(layer.base.weight, base.weight) <= tolerance
    assert relative(layer(x), twin(x2)) <= tolerance
    layer.unmerge(), twin.unmerge()
    assert relative(layer.base.weight, base.weight) <= tolerance


def test_injection_into_llama_agrees_with_peft():
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=37,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16,
        tie_word_embeddings=False,
    )
    targets = ["q_proj", "v_proj", "down_proj"]
    torch.manual_seed(0)
    ours = LlamaForCausalLM(config).double().eval()
    theirs = LlamaForCausalLM(config).double().eval()
    theirs.load_state_dict(ours.state_dict())
    ids = torch.tensor([[1, 5, 9, 2], [36, 0, 3, 4]])
    plain = ours(ids).logits

    names = REF.inject_lora(ours, targets, 2, 6.0)
    theirs = get_peft_model(theirs, LoraConfig(r=2, lora_alpha=6, lora_dropout=0.0, target_modules=targets)).double()
    prefix = "base_model.model."
    twins = {n.removeprefix(prefix): m for n, m in theirs.named_modules() if isinstance(m, LoraLayer)}
    assert names == sorted(twins) and len(names) == 6
    free = sum(p.numel() for p in ours.parameters() if p.requires_grad)
    assert free == theirs.get_nb_trainable_parameters()[0]
    torch.testing.assert_close(ours(ids).logits, plain, rtol=1e-12, atol=1e-12)

    rng = np.random.default_rng(0)
    for name in names:
        layer, twin = ours.get_submodule(name), twins[name]
        set_factors(layer, rng, 0.3)
        twin.lora_A["default"].weight.data.copy_(layer.lora_A.data)
        twin.lora_B["default"].weight.data.copy_(layer.lora_B.data)
    expected = theirs(ids).logits
    assert not torch.allclose(expected, plain, rtol=1e-3)
    torch.testing.assert_close(ours(ids).logits, expected, rtol=1e-12, atol=1e-12)
    for name in names:
        ours.get_submodule(name).merge()
    torch.testing.assert_close(ours(ids).logits, expected, rtol=1e-10, atol=1e-12)


# --------------------------------------------------------------------------- the reference over random shapes


@st.composite
def cases(draw_from):
    n_in, n_out = draw_from(st.integers(1, 12)), draw_from(st.integers(1, 12))
    rank = draw_from(st.integers(1, min(n_in, n_out)))
    return SimpleNamespace(
        sizes=(n_in, n_out, rank, draw_from(st.sampled_from([0.1, 1.0, 3.0, 16.0, 64.0]))),
        new_rank=draw_from(st.integers(1, min(n_in, n_out))),
        lead=tuple(draw_from(st.lists(st.integers(0, 3), max_size=3))),
        bias=draw_from(st.booleans()),
        dtype=draw_from(st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16])),
        seed=draw_from(st.integers(0, 2**32 - 1)),
        scale=10.0 ** draw_from(st.integers(-4, 1)),
    )


def build_case(case):
    return build(REF, *case.sizes, bias=case.bias, dtype=case.dtype, seed=case.seed, scale=case.scale)


def smallest(dtype: torch.dtype) -> float:
    """The smallest positive number: 6e-8 in fp16, which small updates do reach."""
    return torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps


derandomized = settings(max_examples=80, deadline=None, derandomize=True, database=None)


@derandomized
@given(cases())
def test_forward_over_shapes(case):
    layer, rng = build_case(case)
    x = draw(rng, *case.lead, case.sizes[0], dtype=case.dtype)
    assert_near(layer(x), *closed_form(layer, x))


@derandomized
@given(cases())
def test_merge_and_unmerge_over_shapes(case):
    layer, _ = build_case(case)
    w0, dW = np64(layer.base.weight).copy(), update_of(layer)
    A, B, s = abs(np64(layer.lora_A)), abs(np64(layer.lora_B)), layer.scaling
    eps = torch.finfo(case.dtype).eps
    layer.merge()
    # The product of inner dimension `rank`, the scaling and the addition: rank + 3 roundings.
    K = layer.rank + 3
    bound = K * (eps * (abs(w0) + s * B @ A) + smallest(case.dtype))
    assert (abs(np64(layer.base.weight) - w0 - dW) <= bound).all()
    layer.unmerge()
    assert (abs(np64(layer.base.weight) - w0) <= 4 * eps * (abs(w0) + abs(dW))).all()


@derandomized
@given(cases())
def test_set_rank_over_shapes(case):
    layer, _ = build_case(case)
    old = update_of(layer)
    tail = np.sqrt((np.linalg.svd(old, compute_uv=False)[case.new_rank :] ** 2).sum())
    layer.set_rank(case.new_rank)
    check_new_rank(layer, case.new_rank, case.sizes[3], case.dtype)
    K = max(case.sizes[:2])
    rounding = 8 * K * torch.finfo(case.dtype).eps * np.linalg.norm(old)
    # Where fp16 underflows, an element of a factor is off by the smallest number, times the other factor.
    norms = sum(np.linalg.norm(np64(factor)) for factor in (layer.lora_A, layer.lora_B))
    rounding += layer.scaling * K * smallest(case.dtype) * norms
    assert np.linalg.norm(update_of(layer) - old) <= tail + rounding


# --------------------------------------------------------------------------- the bank


def syntax(source: str) -> str:
    return ast.dump(ast.parse(source))


def test_the_bank_is_large_enough():
    tasks = [read_mutant(path).task for path in MUTANTS]
    assert all(tasks.count(task) >= 5 for task in TASKS)
    assert len(ALTERNATIVES) >= 4 and len(HELDOUT) >= 12
    trees = {syntax(read_mutant(path).source) for path in MUTANTS} | {syntax(REFERENCE.read_text("utf-8"))}
    assert len(trees) == len(MUTANTS) + 1  # no two mutants are the same, and none is the reference


@pytest.mark.parametrize("path", MUTANTS, ids=lambda p: p.stem)
def test_mutant(path):
    mutant = read_mutant(path)
    assert mutant.task in TASKS
    assert mutant.misconception.endswith(".") and mutant.misconception.isprintable()
    assert mutant.misconception_zh.endswith("。") and mutant.misconception_zh.isprintable()
    assert failures(load(REFERENCE, mutant.source), mutant.task)


@pytest.mark.parametrize("path", HELDOUT, ids=lambda p: p.stem)
def test_heldout_spelling(path):
    first = path.read_text("utf-8").splitlines()[0]
    assert first.startswith("# mutant: ")
    mutant = read_mutant(BANK / "mutants" / f"{first.removeprefix('# mutant: ')}.toml")
    assert syntax(path.read_text("utf-8")) != syntax(mutant.source)
    assert failures(load(path), mutant.task)
