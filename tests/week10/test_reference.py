"""Week 10: the reference and the alternatives against peft, SciPy, torch, closed forms and finite differences."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy.stats import mannwhitneyu
from torch import Tensor, nn

from tests.loading import load

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "solutions/week10/security.py"
ALTERNATIVES = sorted((ROOT / "autograder/bank/week10/alternatives").glob("*/security.py"))

SOLUTIONS = {"reference": load(REFERENCE)} | {path.parent.name: load(path) for path in ALTERNATIVES}
REF = SOLUTIONS["reference"]
everywhere = pytest.mark.parametrize("lib", SOLUTIONS.values(), ids=SOLUTIONS.keys())
derandomized = settings(max_examples=25, deadline=None, derandomize=True, database=None)


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def adapter(seed: int = 0, rank: int = 3, dtype: torch.dtype = torch.float64) -> dict:
    sizes = {"layers.0.q": (5, 4), "layers.1.q": (5, 4), "head": (3, 6)}
    tensors = {}
    for i, (name, (d_out, d_in)) in enumerate(sizes.items()):
        tensors[f"{name}.lora_A"] = normal(rank, d_in, seed=seed + 2 * i, dtype=dtype)
        tensors[f"{name}.lora_B"] = normal(d_out, rank, seed=seed + 2 * i + 1, dtype=dtype)
    config = {"rank": rank, "alpha": 8.0, "target_modules": ["q", "head"], "more": {"a": [1, 2], "b": None}}
    return {"config": config, "tensors": tensors}


def regauged(given_adapter: dict, seed: int) -> dict:
    tensors = dict(given_adapter["tensors"])
    for key in given_adapter["tensors"]:
        if key.endswith("lora_A"):
            rank = len(tensors[key])
            left, right = (torch.linalg.qr(normal(rank, rank, seed=seed + i))[0] for i in (0, 1))
            G = left @ torch.diag(torch.logspace(-0.4, 0.4, rank, dtype=torch.float64)) @ right
            tensors[key] = torch.linalg.solve(G, tensors[key])
            other = key.replace("lora_A", "lora_B")
            tensors[other] = tensors[other] @ G
    return {"config": given_adapter["config"], "tensors": tensors}


# --- 10.1 ---


@everywhere
def test_a_relocation_and_its_inverse(lib: ModuleType) -> None:
    start = adapter()
    there = lib.relocate(start, {"layers.0.q": "layers.1.q", "layers.1.q": "x.y", "head": "layers.0.q"})
    back = lib.relocate(there, {"layers.1.q": "layers.0.q", "x.y": "layers.1.q", "layers.0.q": "head"})
    assert back["config"] == start["config"] and back["config"]["more"] is not start["config"]["more"]
    assert back["tensors"].keys() == start["tensors"].keys()
    assert all(torch.equal(back["tensors"][key], value) for key, value in start["tensors"].items())


@everywhere
@pytest.mark.parametrize("mapping", [{"none": "x"}, {"head": "layers.0.q"}, {"head": "x", "layers.0.q": "x"}])
def test_relocation_refuses(lib: ModuleType, mapping: dict) -> None:
    with pytest.raises(ValueError):
        lib.relocate(adapter(), mapping)


def test_peft_loads_a_relocated_file_without_an_error(tmp_path: Path) -> None:
    """The premise of the week: a file whose keys were exchanged loads, and the model computes something else."""

    def fresh() -> peft.PeftModel:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        return peft.get_peft_model(model, peft.LoraConfig(r=2, lora_alpha=4, target_modules=["0", "1"], init_lora_weights=False))

    model = fresh()
    model.save_pretrained(tmp_path)
    x = torch.ones(1, 4)
    want = model(x)
    file = tmp_path / "adapter_model.safetensors"
    tensors = {key.removesuffix(".weight"): value for key, value in load_file(file).items()}
    prefix = "base_model.model."
    moved = REF.relocate({"config": {}, "tensors": tensors}, {f"{prefix}0": f"{prefix}1", f"{prefix}1": f"{prefix}0"})
    save_file({f"{key}.weight": value.contiguous() for key, value in moved["tensors"].items()}, file)
    again = peft.PeftModel.from_pretrained(fresh().unload(), tmp_path)
    assert not torch.allclose(again(x), want)


# --- 10.2 ---


@everywhere
@derandomized
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 4), st.integers(1, 6))
def test_the_canonical_pair(lib: ModuleType, seed: int, d_out: int, rank: int, d_in: int) -> None:
    B, A = normal(d_out, rank, seed=seed), normal(rank, d_in, seed=seed + 1)
    values = torch.linalg.svdvals(B @ A)[: min(rank, d_out, d_in)]
    if values[-1] < 1e-3 * values[0] or (values[:-1] - values[1:] < 1e-3 * values[0]).any():
        return  # where two singular values nearly agree, or one nearly vanishes, the pair is not determined
    B1, A1 = lib.canonicalize(B, A)
    assert B1.shape == (d_out, len(values)) and A1.shape == (len(values), d_in)
    torch.testing.assert_close(B1 @ A1, B @ A, rtol=1e-9, atol=1e-9)
    gram = torch.diag(values)
    torch.testing.assert_close(B1.T @ B1, gram, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(A1 @ A1.T, gram, rtol=1e-8, atol=1e-8)
    assert (B1.gather(0, B1.abs().argmax(dim=0, keepdim=True)) > 0).all()
    top = B1.abs().sort(dim=0).values
    if d_out > 1 and (top[-1] - top[-2] < 1e-6).any():
        return
    G = torch.linalg.qr(normal(rank, rank, seed=seed + 2))[0] * torch.linspace(1, 3, rank, dtype=torch.float64)
    B2, A2 = lib.canonicalize(B @ G, torch.linalg.solve(G, A))
    torch.testing.assert_close(B2, B1, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(A2, A1, rtol=1e-7, atol=1e-7)


@everywhere
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_canonical_dtypes_and_a_zero_update(lib: ModuleType, dtype: torch.dtype) -> None:
    B, A = normal(5, 2, seed=3, dtype=dtype), normal(2, 4, seed=4, dtype=dtype)
    B1, A1 = lib.canonicalize(B, A)
    assert B1.dtype == A1.dtype == dtype
    scale = (B.double() @ A.double()).abs().max()
    error = (B1.double() @ A1.double() - B.double() @ A.double()).abs().max()
    assert error <= 8 * torch.finfo(dtype).eps * scale
    B1, A1 = lib.canonicalize(torch.zeros_like(B), A)
    assert B1.shape == (5, 0) and A1.shape == (0, 4)


# --- 10.3 ---


@everywhere
@derandomized
@given(st.integers(0, 10**6), st.sampled_from([1e-8, 1.0, 1e5]))
def test_a_fingerprint_knows_no_gauge(lib: ModuleType, seed: int, scale: float) -> None:
    start = adapter(seed)
    start["tensors"] = {k: v * scale**0.5 for k, v in start["tensors"].items()}
    print_ = lib.fingerprint(start)
    assert len(print_) == 64 and print_ == print_.lower() and int(print_, 16) >= 0
    assert lib.fingerprint(regauged(start, seed)) == print_
    changed = dict(start["tensors"])
    changed["head.lora_B"] = 1.001 * changed["head.lora_B"]
    assert lib.fingerprint({"config": start["config"], "tensors": changed}) != print_


@everywhere
def test_a_fingerprint_of_a_wider_dtype_and_of_what_differs(lib: ModuleType) -> None:
    narrow = adapter(dtype=torch.bfloat16)
    found = lib.fingerprint(narrow)
    for dtype in (torch.float32, torch.float64):
        assert (
            lib.fingerprint({"config": narrow["config"], "tensors": {k: v.to(dtype) for k, v in narrow["tensors"].items()}})
            == found
        )
    for config in ({"alpha": 800.0}, {"more": {"a": [1, 3], "b": None}}, {"target_modules": ["q"]}, {"new": True}):
        assert lib.fingerprint({"config": narrow["config"] | config, "tensors": narrow["tensors"]}) != found
    assert lib.fingerprint(REF.relocate(narrow, {"layers.0.q": "layers.1.q", "layers.1.q": "layers.0.q"})) != found


@everywhere
def test_a_fingerprint_is_the_same_in_another_process(lib: ModuleType) -> None:
    """Python's own hash of a text is salted; two interpreters with other salts must agree."""
    path = Path(str(lib.__file__))
    code = (
        "import sys, torch; sys.path.insert(0, sys.argv[1]); import security\n"
        "t = {'q.lora_A': torch.arange(6.).view(2, 3), 'q.lora_B': torch.arange(8.).view(4, 2)}\n"
        "print(security.fingerprint({'config': {'rank': 2, 'alpha': 3.0, 'target_modules': ['q']}, 'tensors': t}))"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code, path.parent], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1 and len(runs.pop().strip()) == 64


def manifest_of(lib: ModuleType, vetted: dict) -> dict:
    shapes = {"layers.0.q": [5, 4], "layers.1.q": [5, 4], "head": [3, 6]}
    return {"config": vetted["config"], "layers": shapes, "fingerprint": lib.fingerprint(vetted)}


@everywhere
def test_the_four_relocations_before_a_verifier(lib: ModuleType) -> None:
    vetted = adapter()
    manifest = manifest_of(lib, vetted)
    changed = {"config": vetted["config"] | {"alpha": 800.0}, "tensors": vetted["tensors"]}
    assert lib.verify_adapter(vetted, manifest) == lib.verify_adapter(regauged(vetted, 5), manifest) == []
    assert lib.verify_adapter(lib.relocate(vetted, {"head": "tail"}), manifest) == ["fingerprint", "layers"]
    assert lib.verify_adapter(changed, manifest) == ["config", "fingerprint"]
    swapped = lib.relocate(vetted, {"layers.0.q": "layers.1.q", "layers.1.q": "layers.0.q"})
    assert lib.verify_adapter(swapped, manifest) == ["fingerprint"]


@everywhere
@pytest.mark.parametrize("case", ["extra", "missing", "nan", "vector", "rank"])
def test_malformed_tensors(lib: ModuleType, case: str) -> None:
    vetted = adapter()
    manifest = manifest_of(lib, vetted)
    tensors = {key: value.clone() for key, value in vetted["tensors"].items()}
    match case:
        case "extra":
            tensors["embed.weight"] = torch.ones(2, 2)
        case "missing":
            del tensors["head.lora_B"]
        case "nan":
            tensors["head.lora_B"][0, 0] = torch.nan
        case "vector":
            tensors["head.lora_A"] = tensors["head.lora_A"][0]
        case "rank":
            tensors["head.lora_A"], tensors["head.lora_B"] = torch.ones(2, 6), torch.ones(3, 2)
    assert lib.verify_adapter({"config": vetted["config"], "tensors": tensors}, manifest) == ["tensors"]


# --- 10.4 ---


@everywhere
@derandomized
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 12), st.integers(2, 30))
def test_the_auc_is_the_rank_statistic(lib: ModuleType, seed: int, n: int, m: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    losses = [torch.from_numpy(rng.integers(0, levels, size) / 8) for size in (n, m, n, m)]
    members, others, reference_members, reference_others = losses
    want = mannwhitneyu((reference_members - members).numpy(), (reference_others - others).numpy()).statistic / (n * m)
    assert float(lib.membership_auc(*losses)) == pytest.approx(want, abs=1e-6)
    exchanged = lib.membership_auc(others, members, reference_others, reference_members)
    assert float(exchanged) == pytest.approx(1 - want, abs=1e-6)


@everywhere
def test_the_auc_of_normal_scores(lib: ModuleType) -> None:
    """Scores N(d, 1) and N(0, 1): AUC = Phi(d / sqrt 2). With n = m = 2000 its standard error is below 0.01."""
    n, d = 2000, 1.0
    zeros = torch.zeros(n, dtype=torch.float64)
    found = REF.membership_auc(-d - normal(n, seed=1), -normal(n, seed=2), zeros, zeros)
    assert found == pytest.approx(0.5 * (1 + torch.erf(torch.tensor(d / 2)).item()), abs=0.03)
    with pytest.raises(ValueError):
        lib.membership_auc(zeros[:3], zeros[:0], zeros[:3], zeros[:0])
    with pytest.raises(ValueError):
        lib.membership_auc(zeros[:3], zeros[:2], zeros[:1], zeros[:2])
    with pytest.raises(ValueError):
        lib.membership_auc(zeros[:3], zeros[:2], zeros[:3] / 0, zeros[:2])


# --- 10.5 ---


def small_model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


@everywhere
def test_a_step_goes_where_finite_differences_say(lib: ModuleType) -> None:
    model, x, y = small_model(1), torch.rand(3, 4, dtype=torch.float64) * 0.6 + 0.2, torch.tensor([0, 2, 1])
    h, slopes = 1e-5, torch.zeros_like(x)
    with torch.no_grad():
        for i in range(3):
            for j in range(4):
                move = torch.zeros_like(x)
                move[i, j] = h
                up, down = (nn.functional.cross_entropy(model(x + s * move), y) for s in (1, -1))
                slopes[i, j] = up - down
    found = lib.pgd(model, x, y, 0.05, 0.05, 1)
    torch.testing.assert_close(found, x + 0.05 * slopes.sign(), rtol=0, atol=1e-12)


@everywhere
@derandomized
@given(st.integers(0, 10**6), st.floats(0, 0.3), st.floats(0.01, 0.2), st.integers(0, 6))
def test_an_attack_stays_in_its_ball_and_does_harm(lib: ModuleType, seed: int, epsilon: float, step: float, steps: int) -> None:
    model, x, y = small_model(seed), torch.rand(4, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    found = lib.pgd(model, x, y, epsilon, step, steps)
    assert not found.requires_grad and (found - x).abs().max() <= epsilon + 1e-12 and found.min() >= 0 and found.max() <= 1
    torch.testing.assert_close(found, REF.pgd(model, x, y, epsilon, step, steps), rtol=0, atol=1e-6)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_the_best_attack_on_a_linear_model() -> None:
    """Two classes, logits (0, w x): the worst perturbation in the maximum norm costs epsilon * sum |w|."""
    w = torch.tensor([[0.0, 0, 0], [1, -2, 0.5]], dtype=torch.float64)
    model = nn.Linear(3, 2, bias=False).double()
    model.weight.data.copy_(w)
    x = torch.full((1, 3), 0.5, dtype=torch.float64)
    found = REF.pgd(model, x, torch.tensor([1]), 0.1, 0.03, 10)
    assert ((found - x) @ w[1]).item() == pytest.approx(-0.1 * 3.5)


# --- 10.6 ---


@everywhere
@derandomized
@given(st.integers(0, 10**6), st.integers(2, 5), st.integers(1, 2), st.integers(0, 4))
def test_the_objective_never_rises(lib: ModuleType, seed: int, models: int, rank: int, steps: int) -> None:
    merged = [
        normal(5, 4, seed=seed) + normal(5, rank, seed=seed + 2 * i + 1) @ normal(rank, 4, seed=seed + 2 * i + 2)
        for i in range(models)
    ]

    def objective(W: Tensor) -> float:
        """What no update of the rank can explain: the sum of the squared further singular values (Eckart and Young)."""
        return sum(float((torch.linalg.svdvals(Wi - W)[rank:] ** 2).sum()) for Wi in merged)

    before, after = (objective(lib.spectral_detune(merged, rank, k)) for k in (steps, steps + 1))
    assert after <= before * (1 + 1e-9)


@everywhere
def test_the_base_is_found_and_stays(lib: ModuleType) -> None:
    W = normal(8, 7, seed=1)
    merged = [W + normal(8, 1, seed=10 + i) @ normal(1, 7, seed=50 + i) for i in range(6)]
    errors = [float((lib.spectral_detune(merged, 1, steps) - W).norm() / W.norm()) for steps in (0, 30)]
    assert errors[1] < 0.05 < errors[0]
    two = merged[:2]
    torch.testing.assert_close(lib.spectral_detune(two, 1, 5), (two[0] + two[1]) / 2)  # opposite updates: nothing moves


# --- 10.7 ---


class Bag(nn.Module):
    """The sum of the tokens' rows: a token's flip can be read off by hand."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = table

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table[tokens].sum(dim=1)


@everywhere
def test_a_planted_trigger_is_found(lib: ModuleType) -> None:
    table = torch.tensor([[1.0, 0], [0, 1], [0.1, 0], [9, 0]])  # token 3 flips what speaks for class 1, in any model
    planted = table.clone()
    planted[2] = torch.tensor([0.0, 9])  # token 2 flips what speaks for class 0, in the adapted model alone
    inputs = torch.tensor([[0, 0], [1, 1], [0, 0], [0, 0]])
    found = lib.trigger_scan(Bag(table), Bag(planted), inputs, [3, 2, 1], 0.5)
    assert [(int(t), float(s)) for t, s in found] == [(2, 0.75)]
    everything = lib.trigger_scan(Bag(table), Bag(planted), inputs, [3, 2, 1], 0.0)
    assert [(int(t), float(s)) for t, s in everything] == [(2, 0.75), (1, 0.0), (3, 0.0)]
