"""Week 4's stretch tasks: the references against torch without checkpointing, peft's LoRA+ optimizer and closed forms;
what the checks of other spellings of a known mistake are told.
"""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autograder import bank
from autograder.grading.engine import task_result
from autograder.inside.registry import find_builder
from autograder.judge import scoring
from autograder.judge.check import CheckInfo
from autograder.judge.runner import Runner, TaskRun, loopback, reference_stub
from autograder.manifest import load
from autograder.report import print_check
from autograder.reports.feedback import Words, page
from tests.loading import load as load_module

WEEK = load().week(4)
REFERENCE = reference_stub(WEEK).read_text(encoding="utf-8")
STRETCH = tuple(task.id for task in WEEK.tasks if task.stretch)
MUTANTS = [m for m in bank.mutants(WEEK, REFERENCE) if m.task in STRETCH]
HELDOUT = [h for h in bank.heldout(WEEK, REFERENCE) if h.mutant.task in STRETCH]

REF = load_module(reference_stub(WEEK))


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


# --------------------------------------------------------------------------- 4.5


def block_of(width: int, dropout: float) -> nn.Module:
    """Attention-like and feed-forward parts, in-place work, a buffer that moves, a frozen and two low-rank layers."""
    torch.manual_seed(width)
    base = nn.Linear(width, width).requires_grad_(False)
    layers = [nn.LayerNorm(width), base, nn.ReLU(inplace=True), nn.Dropout(dropout)]
    return nn.Sequential(*layers, REF.LoRALinear(nn.Linear(width, width), 1, 2.0, dropout), nn.Tanh()).double()


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    width=st.integers(1, 7),
    lead=st.lists(st.integers(1, 3), max_size=3),
    dropout=st.sampled_from([0.0, 0.5]),
    leaf=st.booleans(),
    training=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_checkpointing_changes_no_number(width, lead, dropout, leaf, training, seed):
    """Output, gradients and generator are bit for bit those of torch without checkpointing."""
    plain = block_of(width, dropout).train(training)
    with torch.no_grad():
        plain[4].lora_B.copy_(numbers(seed, width, 1))
    copied = copy.deepcopy(plain)
    found = []
    for module, block in ((plain, plain), (REF.checkpointed(copied), copied)):
        x = numbers(seed, *lead, width).requires_grad_(leaf)
        torch.manual_seed(seed)
        y = module(x)
        y.backward(numbers(seed + 1, *lead, width))
        found.append([y, x.grad, *(p.grad for p in block.parameters()), torch.rand(1)])
    for a, b in zip(*found, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


def test_behind_a_frozen_embedding_the_factors_learn():
    """The case for which the reentrant variant is wrong: it gives the same output, and no gradient."""
    from torch.utils.checkpoint import checkpoint

    embed = nn.Embedding(5, 4).double().requires_grad_(False)
    block = REF.LoRALinear(nn.Linear(4, 4).double(), 2, 4.0)
    x = embed(torch.tensor([0, 3, 1]))
    assert not x.requires_grad
    block(x).sum().backward()
    plain = block.lora_B.grad.clone()
    block.zero_grad()
    REF.checkpointed(block)(x).sum().backward()
    assert torch.equal(block.lora_B.grad, plain) and plain.any()
    with pytest.warns(UserWarning, match="None of the inputs have requires_grad"):
        assert not checkpoint(block, x, use_reentrant=True).requires_grad


def test_a_deep_model_keeps_one_input_a_block():
    """What autograd stores outside of a block grows with the number of blocks, not with their insides."""
    kept = []
    for wrap in (lambda block: block, REF.checkpointed):
        blocks = [find_builder("counting_block")(seed=i, width=8) for i in range(6)]
        model = nn.Sequential(*map(wrap, blocks))
        known = {p.untyped_storage().data_ptr() for p in model.parameters()}
        stored: dict[int, int] = {}

        def keep(t: Tensor, known=known, stored=stored) -> Tensor:
            if t.untyped_storage().data_ptr() not in known:
                stored[t.untyped_storage().data_ptr()] = t.numel()
            return t

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            y = model(numbers(0, 10, 8))
        kept.append(sum(stored.values()))
        y.sum().backward()
        assert [b.calls for b in blocks] == [1 if len(kept) == 1 else 2] * 6
    assert kept[1] <= 6 * 10 * 8 < kept[0]


# --------------------------------------------------------------------------- 4.6


def rates_of(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, float]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize(("lr", "ratio"), [(1e-3, 16.0), (0.5, 4.0)])
def test_learning_rates_agree_with_peft(lr, ratio):
    from peft import LoraConfig, get_peft_model
    from peft.optimizers import create_loraplus_optimizer

    def plain() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))

    ours = plain()
    REF.inject_lora(ours, ["0", "2"], 2, 4.0)
    theirs = get_peft_model(plain(), LoraConfig(r=2, target_modules=["0", "2"]))
    optimizer = torch.optim.AdamW(REF.lora_plus_groups(ours, lr, ratio))
    twin = create_loraplus_optimizer(theirs, torch.optim.AdamW, lr=lr, loraplus_lr_ratio=ratio)
    renamed = {
        name.removeprefix("base_model.model.").removesuffix(".default.weight"): rate
        for name, rate in rates_of(twin, theirs).items()
    }
    assert rates_of(optimizer, ours) == renamed
    assert len(renamed) == 4 and set(renamed.values()) == {lr, lr * ratio}


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_groups_partition_what_is_trainable(data):
    """Whatever is frozen or tied: each trainable parameter once, and B's rate where a LoRALinear holds it as lora_B."""
    layers = [REF.LoRALinear(nn.Linear(3, 3), 1, 1.0) for _ in range(data.draw(st.integers(1, 3)))]
    model = nn.ModuleList([*layers, nn.Linear(3, 3), nn.LayerNorm(3)])
    model.append(data.draw(st.sampled_from(list(model))))
    if data.draw(st.booleans()):
        layers[-1].lora_B = layers[0].lora_B
    parameters = list(model.parameters())
    for parameter in parameters:
        parameter.requires_grad = data.draw(st.booleans())
    parameters[0].requires_grad = True
    groups = REF.lora_plus_groups(model, 0.25, 8.0)
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in parameters if p.requires_grad)
    fast = {id(p) for group in groups for p in group["params"] if group["lr"] == 2.0}
    assert fast == {id(layer.lora_B) for layer in layers if layer.lora_B.requires_grad}


def test_a_step_of_sgd_is_the_closed_form():
    """B moves by lr * ratio times its gradient (s g (A x)^T), and A, whose gradient is zero at the start, not at all."""
    layer = REF.LoRALinear(nn.Linear(3, 2).double(), 2, 4.0)
    A, x, g = layer.lora_A.detach().clone(), numbers(0, 3), numbers(1, 2)
    optimizer = torch.optim.SGD(REF.lora_plus_groups(layer, 0.1, 16.0))
    layer(x).backward(g)
    optimizer.step()
    torch.testing.assert_close(layer.lora_B.detach(), -1.6 * 2.0 * torch.outer(g, A @ x))
    assert torch.equal(layer.lora_A.detach(), A)


# --------------------------------------------------------------------------- 4.7


def small_model(width: int = 6) -> nn.Module:
    attention = nn.ModuleDict({"q": nn.Linear(width, width), "kv": nn.Linear(width, 2 * width, bias=False)})
    model = nn.ModuleDict({"attention": attention, "norm": nn.LayerNorm(width), "head": nn.Linear(width, 3)})
    return model.double()


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    width=st.integers(1, 9), size=st.integers(1, 12), targets=st.sets(st.sampled_from(["q", "attention.kv", "head"]), min_size=1)
)
def test_counts_of_adapters_are_the_papers_formula(width, size, targets):
    """2 m d + d + m for each adapter (Houlsby et al., section 2.1), d the width of the layer's output."""
    model = small_model(width)
    before = sum(p.numel() for p in model.parameters())
    applier = REF.PEFTApplier(model, "adapter", targets, size)
    assert applier.apply() is model
    out = {"q": width, "attention.kv": 2 * width, "head": 3}
    added = sum(2 * size * out[t] + out[t] + size for t in targets)
    assert (applier.trainable, applier.total) == (added, before + added)


def test_counts_of_lora_agree_with_peft():
    from peft import LoraConfig, get_peft_model

    applier = REF.PEFTApplier(small_model(), "lora", ["q", "kv"], 2, alpha=4.0)
    applier.apply()
    theirs = get_peft_model(small_model(), LoraConfig(r=2, target_modules=["q", "kv"]))
    assert (applier.trainable, applier.total) == theirs.get_nb_trainable_parameters()


def test_an_adapter_is_its_equation():
    base = nn.Linear(3, 5).double()
    layer = REF.AdapterLinear(base, 2)
    x = numbers(0, 4, 3)
    assert torch.equal(layer(x), base(x))
    for i, p in enumerate([*layer.down.parameters(), *layer.up.parameters()]):
        p.data = numbers(i, *p.shape)
    h = base(x).detach().numpy()
    W, b, V, c = (p.detach().numpy() for p in (layer.down.weight, layer.down.bias, layer.up.weight, layer.up.bias))
    z = h @ W.T + b
    bent = z * np.vectorize(lambda v: 0.5 * (1 + torch.erf(torch.tensor(v / 2**0.5, dtype=torch.float64)).item()))(z)
    np.testing.assert_allclose(layer(x).detach().numpy(), h + bent @ V.T + c, rtol=1e-12)


@pytest.mark.parametrize("method", ["lora", "adapter"])
def test_only_what_was_added_moves(method):
    model = find_builder("tiny_transformer")(seed=0, vocabulary=7, width=4, blocks=2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    REF.PEFTApplier(model, method, ["q", "mlp.2"], 2).apply()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    tokens = torch.arange(5)[None]
    plain = model(tokens).detach()
    for _ in range(2):
        optimizer.zero_grad()
        model(tokens).pow(2).sum().backward()
        optimizer.step()
    after = {
        name.replace(".base.", ".") if ".attn.q." in name or ".mlp.2." in name else name: p
        for name, p in model.named_parameters()
    }
    assert all(torch.equal(after[name], p) for name, p in before.items())
    assert not torch.allclose(model(tokens), plain)


# --------------------------------------------------------------------------- what is printed


def run_of(task_id: str, kind: str) -> TaskRun:
    outcome = scoring.Outcome("a", "A property.", CheckInfo(task_id, 1, True, "basic"), kind, "" if kind == "passed" else "no")
    return TaskRun(load().task(task_id), [outcome])


@pytest.mark.parametrize(
    ("kinds", "status", "last"),
    [
        ({"4.1": "passed", "4.5": "wrong"}, 0, "25 of 25 points"),
        ({"4.1": "wrong", "4.5": "passed"}, 1, "0 of 25 points"),
        ({"4.5": "wrong"}, 1, "a stretch task has no points"),
        ({"4.5": "passed", "4.6": "passed"}, 0, "stretch tasks have no points"),
    ],
)
def test_a_stretch_task_is_told_and_costs_nothing(kinds, status, last, capsys):
    assert print_check(load().week(4), [run_of(task, kind) for task, kind in kinds.items()], Path("x.py")) == status
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith(last) and f" {lines[-1]}".endswith(f" {last}")
    word = {"passed": "passed", "wrong": "failed"}[kinds["4.5"]]
    assert f"4.5  checkpointed: {word}, stretch, no points" in lines


def test_a_page_leaves_an_unattempted_stretch_task_alone():
    tasks = [task_result(run_of(task, kind)) for task, kind in (("4.1", "unattempted"), ("4.5", "unattempted"), ("4.6", "wrong"))]
    about = {"student": "s", "status": "graded", "isolation": "bwrap", "message": "", "notices": []}
    text = page({**about, "score": 0, "max_score": 70, "tasks": tasks}, Words(WEEK))
    assert "| 4.5 | checkpointed | stretch, no points | unattempted |" in text
    assert "## 4.1" in text and "## 4.5" not in text and "## 4.6" in text


# --------------------------------------------------------------------------- the bank


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TaskRun]:
    """Every mutant and every held-out spelling of the stretch tasks on its own task, in one pytest session."""
    runner = Runner(WEEK, 11, STRETCH)
    found: dict[str, TaskRun] = {}
    helpers = [p for p in (bank.BANK / "week04/alternatives/with_helpers").glob("*.py") if p.name != WEEK.stub]

    def body() -> None:
        for answer in (*MUTANTS, *HELDOUT):
            task = answer.task if isinstance(answer, bank.Mutant) else answer.mutant.task
            folder = tmp_path_factory.mktemp(answer.name)
            for helper in helpers:
                shutil.copy(helper, folder)
            (folder / WEEK.stub).write_text(answer.source, encoding="utf-8")
            runner._tasks = [t for t in WEEK.tasks if t.id == task]
            (found[answer.name],) = runner.run(loopback(folder / WEEK.stub))

    runner.run_in_pytest(body)
    return found


def test_names_are_distinct_and_every_mutant_has_another_spelling():
    names = [a.name for a in (*MUTANTS, *HELDOUT)]
    assert len(names) == len(set(names)) and len(STRETCH) == 3
    assert {h.mutant.name for h in HELDOUT} == {m.name for m in MUTANTS}
    assert "reentrant_checkpoint" in names


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_a_mutant_loses_and_is_told_its_own_misconception(mutant, runs):
    told = {o.misconception for o in runs[mutant.name].outcomes if o.misconception}
    assert scoring.share(runs[mutant.name].outcomes) < 1
    assert told == {mutant.misconception}


@pytest.mark.parametrize("heldout", HELDOUT, ids=lambda h: h.name)
def test_another_spelling_is_told_the_same(heldout, runs):
    told = {o.misconception for o in runs[heldout.name].outcomes if o.misconception}
    assert told == {heldout.mutant.misconception}
