"""Week 7: the references against peft, SciPy, closed forms in NumPy and finite differences; the alternatives likewise.

Every property is checked on the reference and on each whole alternative of the bank, independently of the checks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autograder.inside.registry import find_builder
from tests.loading import load as load_module

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "solutions/week07/branches.py"
ALTERNATIVES = sorted((ROOT / "autograder/bank/week07/alternatives").glob("*/branches.py"))
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)

REF = load_module(REFERENCE)
everywhere = pytest.mark.parametrize(
    "lib", [REF, *map(load_module, ALTERNATIVES)], ids=["reference", *(path.parent.name for path in ALTERNATIVES)]
)


def draw(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype)


def linear(n_in: int, n_out: int, seed: int = 0, bias: bool = True, dtype: torch.dtype = torch.float64) -> nn.Linear:
    layer = nn.Linear(n_in, n_out, bias=bias, dtype=dtype)
    with torch.no_grad():
        for i, parameter in enumerate(layer.parameters()):
            parameter.copy_(draw(seed + i, *parameter.shape))
    return layer


def fill(*tensors: Tensor, seed: int = 10) -> None:
    with torch.no_grad():
        for i, tensor in enumerate(tensors):
            tensor.copy_(draw(seed + i, *tensor.shape))


def np64(t: Tensor) -> np.ndarray:
    return t.detach().double().numpy()


def near(got: Tensor, want, scale: float = 1.0, ops: int = 64) -> None:
    """Within ops roundings of numbers of size `scale`, in got's dtype."""
    want = np64(want) if isinstance(want, Tensor) else np.asarray(want)
    assert tuple(got.shape) == want.shape
    size = max(scale, float(np.abs(want).max(initial=0)))
    assert np.abs(np64(got) - want).max(initial=0) <= ops * torch.finfo(got.dtype).eps * size


def trainable(layer: nn.Module) -> set[str]:
    return {name for name, p in layer.named_parameters() if p.requires_grad}


def gradcheck(layer: nn.Module, x: Tensor, names: list[str]) -> None:
    """Finite differences agree with back-propagation, for x and the named parameters."""

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    values = [layer.get_parameter(name).detach().clone().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(call, (x.clone().requires_grad_(), *values))


def peft_layer(base: nn.Linear, config, adapter: str = "default"):
    """peft's layer around (a copy of) base, and the model that it stands in."""
    import peft

    inner = nn.Linear(base.in_features, base.out_features, bias=base.bias is not None, dtype=base.weight.dtype)
    inner.load_state_dict(base.state_dict())
    model = peft.get_peft_model(nn.Sequential(inner), config, adapter_name=adapter)
    return model.base_model.model[0], model


# --------------------------------------------------------------------------- 7.1


def hydra(lib, n_in, n_out, rank, branches, alpha, bias=True, dtype=torch.float64):
    layer = lib.HydraLoRALinear(linear(n_in, n_out, bias=bias, dtype=dtype), rank, branches, alpha)
    fill(layer.lora_A, layer.lora_B, layer.router.weight)
    return layer


def hydra_closed_form(layer, x: Tensor) -> np.ndarray:
    """Token by token, from equations (3) and (4)."""
    W, A, B, R = map(np64, (layer.base.weight, layer.lora_A, layer.lora_B, layer.router.weight))
    b = 0 if layer.base.bias is None else np64(layer.base.bias)
    rows = []
    for token in np64(x).reshape(-1, x.shape[-1]):
        logits = R @ token
        w = np.exp(logits - logits.max())
        dW = sum(w_i / w.sum() * B_i @ A for w_i, B_i in zip(w, B, strict=True))
        rows.append(W @ token + b + layer.alpha / layer.rank * dW @ token)
    return np.array(rows).reshape(*x.shape[:-1], len(W))


HYDRAS = [(1, 1, 1, 1, 1.0), (3, 2, 1, 3, 2.0), (5, 7, 2, 4, 3.0), (8, 4, 4, 2, 1.0)]


@everywhere
def test_hydra_is_the_equations(lib):
    for dtype in DTYPES:
        for shape in HYDRAS:
            for lead in ((), (6,), (2, 9)):
                layer = hydra(lib, *shape, bias=len(lead) != 1, dtype=dtype)
                x = draw(5, *lead, shape[0], dtype=dtype)
                y = layer(x)
                assert y.dtype == dtype
                near(y, hydra_closed_form(layer, x), scale=10)
                near(layer.route_weights(x).sum(-1), np.ones(lead))


@everywhere
def test_one_branch_is_lora(lib):
    import peft

    layer = hydra(lib, 5, 7, 2, 1, 3.0)
    other, _ = peft_layer(layer.base, peft.LoraConfig(r=2, lora_alpha=3, target_modules=["0"]))
    with torch.no_grad():
        other.lora_A["default"].weight.copy_(layer.lora_A)
        other.lora_B["default"].weight.copy_(layer.lora_B[0])
    x = draw(3, 4, 6, 5)
    near(layer(x), other(x), scale=10)


@everywhere
def test_uniform_routing_is_the_mean_of_the_branches(lib):
    layer = hydra(lib, 5, 7, 2, 4, 3.0)
    with torch.no_grad():
        layer.router.weight.zero_()
    x = draw(3, 4, 6, 5)
    near(layer(x), layer.base(x) + 1.5 * x @ layer.lora_A.T @ layer.lora_B.mean(0).T, scale=10)


@everywhere
def test_a_route_is_its_branch_alone(lib):
    layer, x = hydra(lib, 5, 7, 2, 4, 3.0), draw(3, 4, 6, 5)
    routed = layer(x)
    for i in range(4):
        layer.set_route(i)
        near(layer(x), layer.base(x) + 1.5 * x @ layer.lora_A.T @ layer.lora_B[i].T, scale=10)
        assert torch.equal(layer.route_weights(x), torch.eye(4).double()[i].expand(4, 6, 4))
    for wrong in (4, -1):
        with pytest.raises(ValueError):
            layer.set_route(wrong)
    near(layer(x), layer.base(x) + 1.5 * x @ layer.lora_A.T @ layer.lora_B[3].T, scale=10)
    layer.set_route(None)
    assert torch.equal(layer(x), routed)


@everywhere
def test_hydra_gradients_and_start(lib):
    layer = hydra(lib, 3, 4, 2, 3, 5.0)
    assert trainable(layer) == {"lora_A", "lora_B", "router.weight"}
    gradcheck(layer, draw(4, 2, 3), ["lora_A", "lora_B", "router.weight"])
    base = linear(6, 5, dtype=torch.float32)
    new = lib.HydraLoRALinear(base, 3, 4, 2.0)
    x = draw(1, 7, 6, dtype=torch.float32)
    assert new.base is base and torch.equal(new(x), base(x))
    assert len(new.router.weight.unique(dim=0)) == 4 and torch.linalg.matrix_rank(new.lora_A) == 3
    for rank, branches in ((6, 2), (0, 2), (2, 0)):
        with pytest.raises(ValueError):
            lib.HydraLoRALinear(base, rank, branches, 1.0)


def test_equal_branches_with_equal_weights_stay_equal():
    """Why router.weight must be random. Under Adam, which scales rounding errors up, they would part by accident."""
    for zero in (True, False):
        layer = REF.HydraLoRALinear(linear(6, 5), 2, 3, 2.0)
        if zero:
            nn.init.zeros_(layer.router.weight)
        optimizer = torch.optim.SGD([p for p in layer.parameters() if p.requires_grad], lr=0.05)
        x, target = draw(1, 40, 6), draw(2, 40, 5)
        for _ in range(10):
            optimizer.zero_grad()
            (layer(x) - target).square().mean().backward()
            optimizer.step()
        spread = (layer.lora_B - layer.lora_B.mean(0)).abs().max()
        assert (spread < 1e-12) == zero


def test_parameters_go_where_the_base_is():
    """Where values do not matter, the layers can be made on the meta device."""
    base = nn.Linear(6, 5, device="meta", dtype=torch.bfloat16)
    layers = [
        REF.HydraLoRALinear(base, 2, 3, 1.0),
        REF.DoRALinear(base, 2, 1.0),
        REF.RandLoRALinear(base, base.weight.new_empty(3, 5), base.weight.new_empty(2, 6, 3), 1.0),
    ]
    for parameter in (p for layer in layers for p in layer.parameters()):
        assert parameter.device.type == "meta" and parameter.dtype == torch.bfloat16


# --------------------------------------------------------------------------- 7.2


@st.composite
def batches(draw_from):
    ranks = draw_from(st.lists(st.integers(1, 3), max_size=4))
    ids = draw_from(st.lists(st.integers(-1, len(ranks) - 1), min_size=1, max_size=7))
    between = draw_from(st.lists(st.integers(1, 3), max_size=2))
    return ranks, ids, tuple(between), draw_from(st.booleans()), draw_from(st.sampled_from(DTYPES))


def adapters_of(ranks: list[int], n_in: int, n_out: int, dtype: torch.dtype):
    return [(draw(20 + k, r, n_in, dtype=dtype), draw(40 + k, n_out, r, dtype=dtype), 0.5 + k) for k, r in enumerate(ranks)]


@everywhere
@quick
@given(batches())
def test_a_mixed_batch_is_each_sample_by_itself(lib, batch):
    ranks, ids, between, bias, dtype = batch
    base, adapters = linear(5, 4, bias=bias, dtype=dtype), adapters_of(ranks, 5, 4, dtype)
    x = draw(1, len(ids), *between, 5, dtype=dtype)
    y = lib.multi_adapter_forward(base, adapters, x, torch.tensor(ids, dtype=torch.int64))
    assert y.dtype == dtype and y.shape == (*x.shape[:-1], 4)
    for i, k in enumerate(ids):
        W = np64(base.weight)
        if k >= 0:
            A, B, alpha = adapters[k]
            W = W + alpha / len(A) * np64(B) @ np64(A)
        near(y[i], np64(x[i]) @ W.T + (np64(base.bias) if bias else 0), scale=20)


@everywhere
def test_a_mixed_batch_is_pefts(lib):
    import peft

    base, adapters = linear(5, 4), adapters_of([2, 1, 3], 5, 4, torch.float64)
    layer, model = peft_layer(base, peft.LoraConfig(r=2, lora_alpha=0.5, target_modules=["0"]), "0")
    for k, (A, _, alpha) in enumerate(adapters[1:], start=1):
        model.add_adapter(str(k), peft.LoraConfig(r=len(A), lora_alpha=alpha, target_modules=["0"]))
    with torch.no_grad():
        for k, (A, B, _) in enumerate(adapters):
            layer.lora_A[str(k)].weight.copy_(A)
            layer.lora_B[str(k)].weight.copy_(B)
    ids = [2, -1, 0, 1, 2, 0, -1]
    x = draw(1, 7, 3, 5)
    with torch.no_grad():
        want = layer(x, adapter_names=["__base__" if k < 0 else str(k) for k in ids])
    near(lib.multi_adapter_forward(base, adapters, x, torch.tensor(ids)), want, scale=20)


@everywhere
def test_mixed_batch_gradients(lib):
    base, adapters = linear(3, 4).requires_grad_(False), adapters_of([2, 1], 3, 4, torch.float64)
    ids = torch.tensor([1, -1, 0, 1])

    def call(x, A0, B0, A1, B1):
        return lib.multi_adapter_forward(base, [(A0, B0, 0.5), (A1, B1, 1.5)], x, ids)

    leaves = [draw(1, 4, 2, 3), *(factor for A, B, _ in adapters for factor in (A, B))]
    assert torch.autograd.gradcheck(call, [leaf.requires_grad_() for leaf in leaves])


@everywhere
def test_mixed_batch_errors(lib):
    base, adapters = linear(3, 4), adapters_of([2, 1], 3, 4, torch.float64)
    for ids in ([0, 2], [-2, 0], [0], [0, 0, 0], [[0], [1]]):
        with pytest.raises(ValueError):
            lib.multi_adapter_forward(base, adapters, draw(1, 2, 3), torch.tensor(ids))


# --------------------------------------------------------------------------- 7.3


def dora(lib, n_in, n_out, rank, alpha, bias=True, dtype=torch.float64):
    layer = lib.DoRALinear(linear(n_in, n_out, bias=bias, dtype=dtype), rank, alpha)
    fill(layer.lora_A, layer.lora_B, layer.magnitude)
    return layer


@everywhere
def test_dora_is_pefts(lib):
    """Forward pass, and the gradients with the norm held constant."""
    import peft

    for n_in, n_out, rank, bias in ((5, 7, 2, True), (6, 4, 3, False)):
        layer = dora(lib, n_in, n_out, rank, 3.0, bias)
        other, _ = peft_layer(layer.base, peft.LoraConfig(r=rank, lora_alpha=3, target_modules=["0"], use_dora=True))
        theirs = (other.lora_A["default"].weight, other.lora_B["default"].weight, other.lora_magnitude_vector["default"].weight)
        mine = (layer.lora_A, layer.lora_B, layer.magnitude)
        with torch.no_grad():
            for a, b in zip(theirs, mine, strict=True):
                a.copy_(b)
        x, g = draw(3, 4, 6, n_in), draw(4, 4, 6, n_out)
        near(layer(x), other(x), scale=50)
        layer(x).backward(g)
        other(x).backward(g)
        for a, b in zip(theirs, mine, strict=True):
            near(b.grad, a.grad, scale=100)


@everywhere
def test_dora_rows_have_the_magnitude(lib):
    for dtype in DTYPES:
        for shape in ((3, 2, 1, 2.0), (5, 7, 2, 3.0), (8, 4, 4, 1.0)):
            layer = dora(lib, *shape, bias=False, dtype=dtype)
            W = layer(torch.eye(shape[0], dtype=dtype)).T
            near(torch.linalg.vector_norm(W.double(), dim=1).to(dtype), layer.magnitude.abs(), scale=4)
            V = np64(layer.base.weight) + layer.alpha / layer.rank * np64(layer.lora_B) @ np64(layer.lora_A)
            direction = V / np.linalg.norm(V, axis=1, keepdims=True) * np.sign(np64(layer.magnitude))[:, None]
            near((W / layer.magnitude.abs()[:, None]), direction, scale=2)


@everywhere
def test_dora_start_and_errors(lib):
    base = linear(6, 5, dtype=torch.float32)
    layer = lib.DoRALinear(base, 3, 2.0)
    x = draw(1, 7, 6, dtype=torch.float32)
    assert layer.base is base and trainable(layer) == {"lora_A", "lora_B", "magnitude"}
    near(layer(x), base(x), scale=10)
    near(layer.magnitude, np.linalg.norm(np64(base.weight), axis=1))
    gradcheck(dora(lib, 3, 4, 2, 5.0), draw(4, 2, 3), ["magnitude"])  # of the factors it is not the true derivative
    for rank in (6, 0):
        with pytest.raises(ValueError):
            lib.DoRALinear(base, rank, 1.0)


# --------------------------------------------------------------------------- 7.4


def rand(lib, n_in, n_out, rank, n, alpha, bias=True, dtype=torch.float64):
    small, large = sorted((n_in, n_out))
    A, B = draw(30, rank, small, dtype=dtype), draw(31, n, large, rank, dtype=dtype)
    layer = lib.RandLoRALinear(linear(n_in, n_out, bias=bias, dtype=dtype), A, B, alpha)
    fill(layer.diag_lambda, layer.diag_gamma)
    return layer


RANDS = [(2, 3, 1, 2, 1.5), (3, 5, 2, 2, 3.0), (7, 4, 3, 2, 12.0), (6, 6, 2, 3, 0.5), (5, 1, 1, 1, 2.0)]


@everywhere
def test_rand_is_the_sum_and_has_full_rank(lib):
    for dtype in DTYPES:
        for n_in, n_out, rank, n, alpha in RANDS:
            layer = rand(lib, n_in, n_out, rank, n, alpha, dtype=dtype)
            A, lambdas, gammas = np64(layer.basis_A), np64(layer.diag_lambda), np64(layer.diag_gamma)
            M = sum(B @ np.diag(a) @ A @ np.diag(c) for B, a, c in zip(np64(layer.basis_B), lambdas, gammas, strict=True))
            dW = alpha / rank * (M if n_out >= n_in else M.T)
            assert np.linalg.matrix_rank(dW) == min(n_in, n_out)
            x = draw(3, 4, 6, n_in, dtype=dtype)
            near(layer(x), np64(x) @ (np64(layer.base.weight) + dW).T + np64(layer.base.bias), scale=300)


@everywhere
def test_rand_is_pefts(lib):
    import peft

    for n_in, n_out, rank, n, alpha in RANDS:
        if n != -(-min(n_in, n_out) // rank):  # peft takes no more bases than it needs
            continue
        layer = rand(lib, n_in, n_out, rank, n, alpha)
        other, _ = peft_layer(layer.base, peft.RandLoraConfig(r=rank, randlora_alpha=alpha, target_modules=["0"]))
        with torch.no_grad():
            other.randlora_A["default"] = layer.basis_A[:, None].clone()
            # peft flattens A's rows by (rank, base) and B's columns, of shape (D, n, rank), by (base, rank), so column k n + j
            # of its B stands for B_j[:, k]: random columns in another order.
            other.randlora_B["default"] = layer.basis_B.permute(1, 2, 0).reshape(max(n_in, n_out), n, rank)
            other.randlora_lambda["default"].copy_(layer.diag_lambda.T)
            other.randlora_gamma["default"].copy_(layer.diag_gamma)
        x, g = draw(3, 4, 6, n_in), draw(4, 4, 6, n_out)
        near(layer(x), other(x), scale=300)
        layer(x).backward(g)
        other(x).backward(g)
        near(layer.diag_lambda.grad, other.randlora_lambda["default"].grad.T, scale=300)
        near(layer.diag_gamma.grad, other.randlora_gamma["default"].grad, scale=300)


@everywhere
def test_rand_trains_the_diagonals_only(lib):
    layer = rand(lib, 7, 4, 3, 2, 12.0)
    assert trainable(layer) == {"diag_lambda", "diag_gamma"}
    assert {name for name, _ in layer.named_parameters()} == {"base.weight", "base.bias", "diag_lambda", "diag_gamma"}
    gradcheck(layer, draw(4, 2, 7), ["diag_lambda", "diag_gamma"])
    base, A, B = linear(7, 4, dtype=torch.float32), draw(1, 2, 4, dtype=torch.float32), draw(2, 2, 7, 2, dtype=torch.float32)
    new = lib.RandLoRALinear(base, A, B, 1.0)
    x = draw(3, 5, 7, dtype=torch.float32)
    near(new(x), base(x), scale=10)
    assert new.base is base and new.basis_A.data_ptr() == A.data_ptr() and new.basis_B.data_ptr() == B.data_ptr()
    new(x).square().sum().backward()
    assert new.diag_lambda.grad.any()  # so it moves, and diag_gamma with it after one step
    for A_shape, B_shape in (((1, 4), (3, 7, 1)), ((2, 7), (2, 4, 2)), ((2, 4), (2, 7, 3)), ((2, 4), (2, 6, 2))):
        with pytest.raises(ValueError):
            lib.RandLoRALinear(base, torch.ones(A_shape), torch.ones(B_shape), 1.0)


# --------------------------------------------------------------------------- 7.5 and 7.6


@everywhere
def test_importance_and_budget_are_pefts(lib):
    """Three matrices, four steps: peft's RankAllocator keeps the same triplets."""
    import peft
    from peft.tuners.adalora.layer import RankAllocator

    model = nn.Sequential(linear(5, 4), linear(4, 6), linear(6, 3))
    config = peft.AdaLoraConfig(
        init_r=3, target_r=2, beta1=0.7, beta2=0.4, target_modules=["0", "1", "2"], total_step=10, tinit=0, tfinal=1
    )
    wrapped = peft.get_peft_model(model, config)
    allocator = RankAllocator(wrapped, config, "default")
    layers = [wrapped.base_model.model[i] for i in range(3)]
    states, scores = [None] * 3, [None] * 3
    for step in range(4):
        for i, layer in enumerate(layers):
            P, E, Q = layer.lora_B["default"], layer.lora_E["default"], layer.lora_A["default"]
            fill(P, E, Q, seed=100 * step + 10 * i)
            for j, p in enumerate((P, E, Q)):
                p.grad = draw(1000 + 100 * step + 10 * i + j, *p.shape)
            gradients = (P.grad, E.grad[:, 0], Q.grad)
            scores[i], states[i] = lib.adalora_importance((P, E[:, 0], Q), gradients, states[i], 0.7, 0.4)
            assert not scores[i].requires_grad
        allocator.update_ipt(wrapped)
    masks = lib.allocate_ranks({str(i): s for i, s in enumerate(scores)}, 5)
    allocator.mask_to_budget(wrapped, 5)  # sets what is not kept to zero
    assert sum(int(mask.sum()) for mask in masks.values()) == 5
    for i, layer in enumerate(layers):
        assert masks[str(i)].dtype == torch.bool
        assert masks[str(i)].tolist() == (layer.lora_E["default"][:, 0] != 0).tolist()


@everywhere
def test_importance_in_closed_form(lib):
    """One step: I_mean U_mean = (1 - b1) I (1 - b2) b1 I."""
    P, E, Q, gP, gE, gQ = (draw(i, *s) for i, s in enumerate(((4, 2), (2,), (2, 3)) * 2))
    got, _ = lib.adalora_importance((P, E, Q), (gP, gE, gQ), None, 0.7, 0.4)
    factor = 0.3 * 0.6 * 0.7
    near(got, factor * ((E * gE) ** 2 + ((P * gP) ** 2).mean(0) + ((Q * gQ) ** 2).mean(1)))
    for betas in ((0.0, 0.5), (0.5, 1.0)):
        with pytest.raises(ValueError):
            lib.adalora_importance((P, E, Q), (gP, gE, gQ), None, *betas)


@everywhere
@quick
@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), max_size=4), st.data())
def test_the_budget_is_spent_to_the_last_triplet(lib, values, data):
    """With many equal scores: the number kept is exact, and nothing that is kept scores less than what is not."""
    scores = {str(i): torch.tensor(v, dtype=torch.float64) for i, v in enumerate(values)}
    total = sum(map(len, values))
    if not total:
        return
    budget = data.draw(st.integers(0, total))
    masks = lib.allocate_ranks(scores, budget)
    assert masks.keys() == scores.keys() and all(masks[n].shape == scores[n].shape for n in scores)
    assert sum(int(mask.sum()) for mask in masks.values()) == budget
    kept = [s for n in scores for s in scores[n][masks[n]].tolist()]
    left = [s for n in scores for s in scores[n][~masks[n]].tolist()]
    assert not kept or not left or min(kept) >= max(left)
    for wrong in (-1, total + 1):
        with pytest.raises(ValueError):
            lib.allocate_ranks(scores, wrong)


# --------------------------------------------------------------------------- 7.7


def greedy_qr(W: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Pivoted QR by Gram-Schmidt: take the column that is longest outside of what was taken. R is in W's column order."""
    rest, columns = W.copy(), []
    for _ in range(rank):
        longest = rest[:, np.argmax(np.linalg.norm(rest, axis=0))]
        columns.append(longest / np.linalg.norm(longest))
        rest = rest - np.outer(columns[-1], columns[-1] @ rest)
    Q = np.array(columns).T
    return Q, Q.T @ W


@everywhere
def test_qr_is_greedy_gram_schmidt(lib):
    for dtype in (torch.float64, torch.float32):
        for n_in, n_out, rank in ((2, 3, 1), (3, 5, 2), (7, 4, 4), (6, 6, 3), (5, 3, 3)):
            base = linear(n_in, n_out, dtype=dtype)
            layer = lib.QRLoRALinear(base, rank)
            assert trainable(layer) == {"lora_lambda"} and not layer.lora_lambda.any()
            fill(layer.lora_lambda)
            Q, R = greedy_qr(np64(base.weight), rank)
            near(layer.basis_Q.T @ layer.basis_Q, np.eye(rank))
            x = draw(3, 4, 6, n_in, dtype=dtype)
            dW = Q @ np.diag(np64(layer.lora_lambda)) @ R
            near(layer(x), np64(x) @ (np64(base.weight) + dW).T + np64(base.bias), scale=50, ops=256)


@everywhere
def test_qr_ends(lib):
    """With the largest rank and all scalars 1, dW is W; in half precision the bases are as good as their dtype."""
    for n_in, n_out in ((3, 5), (6, 4)):
        layer = lib.QRLoRALinear(linear(n_in, n_out, bias=False), min(n_in, n_out))
        nn.init.ones_(layer.lora_lambda)
        x = draw(3, 4, n_in)
        near(layer(x), 2 * layer.base(x), scale=10)
        for dtype in (torch.bfloat16, torch.float16):
            half = lib.QRLoRALinear(linear(n_in, n_out, bias=False, dtype=dtype), 2)
            assert {t.dtype for t in (half.basis_Q, half.basis_R, half.lora_lambda, half(x.to(dtype)))} == {dtype}
            near(half.basis_Q.T @ half.basis_Q, np.eye(2))
        gradcheck(layer, x, ["lora_lambda"])
    for rank in (4, 0):
        with pytest.raises(ValueError):
            lib.QRLoRALinear(linear(3, 5), rank)


# --------------------------------------------------------------------------- 7.8


def policy(seed: int = 0, disabled: tuple[str, ...] = (), **more) -> nn.Module:
    return find_builder("week07.policy")(seed=seed, vocabulary=7, width=4, disabled=list(disabled), **more)


def pairs(batch: int, lengths: tuple[int, int], masked: int) -> list[Tensor]:
    rng = np.random.default_rng(batch)
    found = []
    for length in lengths:
        tokens = torch.from_numpy(rng.integers(0, 7, (batch, length)))
        labels = tokens.clone()
        labels[:, :masked] = -100
        labels[0, length - masked :] = -100
        found += [tokens, labels]
    return found


def dpo_closed_form(model: nn.Module, arguments: list[Tensor], beta: float) -> float:
    """Token by token, in NumPy."""

    def logp(tokens: Tensor, labels: Tensor) -> np.ndarray:
        logits = np64(model(tokens))
        sums = np.zeros(len(tokens))
        for i in range(len(tokens)):
            for t in range(1, tokens.shape[1]):
                if labels[i, t] != -100:
                    z = logits[i, t - 1]
                    sums[i] += z[tokens[i, t]] - z.max() - np.log(np.exp(z - z.max()).sum())
        return sums

    chosen, chosen_labels, rejected, rejected_labels = arguments
    margin = logp(chosen, chosen_labels) - logp(rejected, rejected_labels)
    layers = [m for m in model.modules() if hasattr(m, "enabled")]
    before = [layer.enabled for layer in layers]
    for layer in layers:
        layer.enabled = False
    reference = logp(chosen, chosen_labels) - logp(rejected, rejected_labels)
    for layer, enabled in zip(layers, before, strict=True):
        layer.enabled = enabled
    return float(np.log1p(np.exp(-beta * (margin - reference))).mean())


@everywhere
def test_dpo_in_closed_form(lib):
    for batch, lengths, masked, disabled in ((1, (2, 2), 0, ()), (3, (5, 7), 2, ("first",)), (2, (6, 4), 1, ())):
        model, arguments = policy(batch, disabled), pairs(batch, lengths, masked)
        switches = [m.enabled for m in model.modules() if hasattr(m, "enabled")]
        loss = lib.dpo_loss(model, *arguments, beta=0.7)
        assert loss.shape == () and loss.dtype == torch.float64
        near(loss, dpo_closed_form(model, arguments, 0.7), scale=20)
        assert [m.enabled for m in model.modules() if hasattr(m, "enabled")] == switches


@everywhere
def test_dpo_without_an_adapters_effect_is_log_2(lib):
    model, arguments = policy(), pairs(3, (5, 6), 1)
    for name, parameter in model.named_parameters():
        if name.endswith("gain"):
            nn.init.zeros_(parameter)  # sin(0) = 0: the adapters change nothing
    near(lib.dpo_loss(model, *arguments), np.log(2))


@everywhere
def test_dpo_gradients(lib):
    """Finite differences of the adapters; `scale`, which is in the reference too, gets the policy's part alone."""
    model, arguments = policy(3), pairs(3, (5, 6), 1)
    lib.dpo_loss(model, *arguments, beta=0.7).backward()
    gain = model.first.gain
    step = 1e-6
    for k in range(4):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                gain[k] += sign * step
                values.append(dpo_closed_form(model, arguments, 0.7))
                gain[k] -= sign * step
        assert abs(float(gain.grad[k]) - (values[0] - values[1]) / (2 * step)) < 1e-7
    frozen = policy(3)
    with torch.no_grad():
        reference = [frozen.scale.clone()]
    assert torch.equal(reference[0], model.scale)  # the same numbers, so the two losses below differ in the reference only
    with_graph = lib.dpo_loss(frozen, *arguments, beta=0.7)
    frozen.scale.requires_grad_(False)
    near(lib.dpo_loss(frozen, *arguments, beta=0.7), with_graph)


@everywhere
def test_dpo_ends(lib):
    arguments = pairs(3, (5, 6), 1)
    for order in (arguments, arguments[2:] + arguments[:2]):
        model = policy(1, sharpness=1e4)
        loss = lib.dpo_loss(model, *order, beta=2.0)
        loss.backward()
        assert loss.isfinite() and all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    model = policy(1, ("first",), needs_adapters=True)
    with pytest.raises(RuntimeError):
        lib.dpo_loss(model, *arguments)
    assert [m.enabled for m in model.modules() if hasattr(m, "enabled")] == [False, True, True]
    with pytest.raises(ValueError):
        lib.dpo_loss(policy(), *arguments, beta=0.0)
