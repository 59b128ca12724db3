"""Week 3: the reference and the alternatives against peft, torch and closed forms; properties; errors."""

from __future__ import annotations

import copy
import json
import math
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from autograder import bank
from autograder.inside.week03 import Net, encoder_layer, projections, reader
from autograder.judge.runner import reference_stub
from autograder.manifest import load
from tests.loading import load as load_module

WEEK = load().week(3)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
quick = settings(max_examples=40, deadline=None, derandomize=True, database=None)

REF = load_module(reference_stub(WEEK))
SOLUTIONS = {"reference": REF} | {p.parent.name: load_module(p) for p in bank.alternatives(WEEK)}
everywhere = pytest.mark.parametrize("week3", SOLUTIONS.values(), ids=SOLUTIONS.keys())


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def fill(module: nn.Module, seed: int) -> nn.Module:
    with torch.no_grad():
        for i, p in enumerate(module.parameters()):
            p.copy_(numbers(seed + i, *p.shape))
    return module


# --------------------------------------------------------------------------- 3.1


@everywhere
@quick
@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 6), st.floats(-50, 50), st.booleans(), st.integers(0, 99))
def test_delta_is_its_equation(week3, into, out, rank, alpha, rslora, seed):
    A, B = numbers(seed, rank, into), numbers(seed + 1, out, rank)
    want = np.zeros((out, into))
    for k in range(rank):  # a sum of outer products
        want += np.outer(B[:, k], A[k])
    want *= alpha / (rank**0.5 if rslora else rank)
    np.testing.assert_allclose(week3.lora_delta(A, B, alpha, rslora).numpy(), want, rtol=1e-12, atol=1e-12 * abs(want).max())


@everywhere
@quick
@given(st.floats(-9, 9), st.floats(-9, 9), st.booleans(), st.integers(0, 99))
def test_delta_is_linear_in_alpha(week3, a, b, rslora, seed):
    A, B = numbers(seed, 3, 4), numbers(seed + 1, 5, 3)
    both = week3.lora_delta(A, B, a + b, rslora)
    torch.testing.assert_close(week3.lora_delta(A, B, a, rslora) + week3.lora_delta(A, B, b, rslora), both)
    torch.testing.assert_close(math.sqrt(3) * week3.lora_delta(A, B, a), week3.lora_delta(A, B, a, True))


@everywhere
@pytest.mark.parametrize("rslora", [False, True])
def test_delta_agrees_with_peft(week3, rslora):
    config = LoraConfig(r=3, lora_alpha=7, target_modules=["0"], use_rslora=rslora, init_lora_weights=False)
    layer = get_peft_model(nn.Sequential(nn.Linear(5, 4)), config).base_model.model[0]
    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.testing.assert_close(week3.lora_delta(A, B, 7, rslora), layer.get_delta_weight("default"))


@everywhere
def test_delta_gradients_and_dtypes(week3):
    A, B = (numbers(i, *s).requires_grad_() for i, s in enumerate(((2, 4), (3, 2))))
    for rslora in (False, True):
        assert torch.autograd.gradcheck(lambda A, B, r=rslora: week3.lora_delta(A, B, 5.0, r), (A, B))
    for dtype in DTYPES:
        a, b = A.detach().to(dtype), B.detach().to(dtype)
        got = week3.lora_delta(a, b, 5.0)
        want = 2.5 * b.double() @ a.double()
        bound = 5 * torch.finfo(dtype).eps * 2.5 * b.double().abs() @ a.double().abs()
        assert got.dtype == dtype and ((got.double() - want).abs() <= bound).all()
    for a, b in (((2, 3), (4, 3)), ((3,), (4, 3)), ((2, 3), (2,)), ((2, 3), (4, 1)), ((2, 3), (1, 4, 2))):
        with pytest.raises(ValueError):
            week3.lora_delta(torch.ones(a), torch.ones(b), 1.0)


# --------------------------------------------------------------------------- 3.2


def plain_model() -> nn.Module:
    parts = nn.ModuleDict({"q": nn.Linear(4, 6), "v": nn.Linear(6, 3)})
    return nn.Sequential(parts["q"], nn.LayerNorm(6), nn.Tanh(), parts["v"])


@everywhere
def test_freezing_agrees_with_peft(week3):
    model = get_peft_model(plain_model(), LoraConfig(r=2, target_modules=["0", "3"]))
    want = {name for name, p in model.named_parameters() if p.requires_grad}
    trainable, _ = model.get_nb_trainable_parameters()
    model.requires_grad_(True)
    assert week3.mark_only_lora_trainable(model) == trainable
    assert {name for name, p in model.named_parameters() if p.requires_grad} == want


@everywhere
@pytest.mark.parametrize("kind", ["one block", "two blocks", "names of peft", "similar names", "shared", "frozen"])
def test_nothing_but_the_factors_moves(week3, kind):
    model = fill(Net(kind, 5, 4, 2, 3.0).double(), 0)
    tokens = torch.arange(5)[None]
    model(tokens).square().sum().backward()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    week3.mark_only_lora_trainable(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(3):
        optimizer.step()
        optimizer.zero_grad()
        model(tokens).square().sum().backward()
    for name, p in model.named_parameters():
        factor = "lora_A" in name.split(".") or "lora_B" in name.split(".")
        assert p.requires_grad == factor and torch.equal(p, before[name]) != factor, name


@everywhere
def test_a_model_without_factors_is_refused(week3):
    model = plain_model()
    with pytest.raises(ValueError):
        week3.mark_only_lora_trainable(model)
    assert all(p.requires_grad for p in model.parameters())


# --------------------------------------------------------------------------- 3.3

configs = st.builds(
    dict,
    rank=st.integers(1, 300),
    alpha=st.one_of(st.integers(1, 999), st.floats(1e-6, 1e6)),
    dropout=st.floats(0, 0.999),
    target_modules=st.lists(st.text("qkv_proj.0", min_size=1, max_size=5), min_size=1, max_size=4),
    rslora=st.booleans(),
)


@everywhere
@quick
@given(configs)
def test_a_configuration_goes_through_peft_and_back(week3, values):
    config = week3.LoRAConfig(**values)
    assert week3.LoRAConfig.from_peft(json.loads(json.dumps(config.to_peft()))) == config
    theirs = LoraConfig(**config.to_peft())  # peft refuses keys that it does not know
    assert (theirs.r, theirs.lora_alpha, theirs.lora_dropout) == (config.rank, config.alpha, config.dropout)
    assert theirs.target_modules == set(config.target_modules) and theirs.use_rslora == config.rslora
    data = {k: sorted(v) if isinstance(v, set) else v for k, v in theirs.to_dict().items()}
    assert week3.LoRAConfig.from_peft(data) == config
    assert config.scaling == pytest.approx(values["alpha"] / values["rank"] ** (0.5 if values["rslora"] else 1), rel=1e-15)


@everywhere
def test_what_is_missing_is_the_default_of_peft(week3):
    theirs = LoraConfig(target_modules=["q"])
    found = week3.LoRAConfig.from_peft({"peft_type": "LORA", "target_modules": ["q"]})
    assert (found.rank, found.alpha, found.dropout, found.rslora) == (
        theirs.r, theirs.lora_alpha, theirs.lora_dropout, theirs.use_rslora,
    )  # fmt: skip
    assert theirs.bias == "none" and not (
        theirs.use_dora or theirs.rank_pattern or theirs.alpha_pattern or theirs.modules_to_save
    )


@everywhere
@pytest.mark.parametrize(
    "change",
    [
        {"peft_type": "IA3"}, {"bias": "all"}, {"bias": "lora_only"}, {"use_dora": True}, {"rank_pattern": {"q": 4}},
        {"alpha_pattern": {"q": 4}}, {"modules_to_save": ["head"]}, {"target_modules": "all-linear"}, {"target_modules": None},
        {"r": 0}, {"lora_dropout": 1.0}, {"target_modules": []},
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_expressed_is_refused(week3, change):
    with pytest.raises(ValueError):
        week3.LoRAConfig.from_peft({"peft_type": "LORA", "target_modules": ["q"]} | change)


@everywhere
def test_presets_and_refusals(week3):
    assert {week3.LoRAConfig.preset(name).scaling for name in ("tiny", "small", "default", "large")} == {2.0}
    assert week3.LoRAConfig(target_modules={"b", "a"}) == week3.LoRAConfig(target_modules=["a", "b", "a"])
    for bad in ({"rank": 0}, {"rank": 1.5}, {"alpha": 0}, {"alpha": math.inf}, {"alpha": math.nan}, {"dropout": 1},
                {"dropout": -1e-9}, {"target_modules": "q"}, {"target_modules": ()}, {"target_modules": [""]}):  # fmt: skip
        with pytest.raises(ValueError):
            week3.LoRAConfig(**bad)
    with pytest.raises(ValueError):
        week3.LoRAConfig.preset("enormous")


# --------------------------------------------------------------------------- 3.4


class Layer(nn.Module):
    """A LoRA layer as the contract describes it, with the function of the paper."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base, self.rank, self.alpha, self.scaling = base, rank, alpha, alpha / rank
        self.lora_A = nn.Parameter(torch.zeros(rank, base.in_features, dtype=base.weight.dtype))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank, dtype=base.weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scaling * (x @ self.lora_A.T @ self.lora_B.T)


def base_model(dtype: torch.dtype = torch.float32) -> nn.Module:
    inner = nn.Sequential(OrderedDict(middle=nn.Linear(6, 6), bend=nn.Tanh(), last=nn.Linear(6, 3)))
    return fill(nn.Sequential(OrderedDict(first=nn.Linear(4, 6), inner=inner)).to(dtype), 50)


TARGETS = ["first", "inner.last"]


def adapted(rank: int, alpha: float, seed: int | None, dtype: torch.dtype = torch.float32) -> nn.Module:
    """base_model with a Layer at the two targets."""
    model = base_model(dtype)
    model.first, model.inner.last = Layer(model.first, rank, alpha), Layer(model.inner.last, rank, alpha)
    if seed is not None:
        for i, layer in enumerate((model.first, model.inner.last)):
            layer.lora_A.data.copy_(numbers(seed + i, *layer.lora_A.shape))
            layer.lora_B.data.copy_(numbers(seed + 9 + i, *layer.lora_B.shape))
    return model


def of_peft(model: nn.Module, config: LoraConfig, seed: int) -> PeftModel:
    model = get_peft_model(model, config)
    for i, (name, p) in enumerate(model.named_parameters()):
        if "lora_" in name:
            p.data.copy_(numbers(seed + i, *p.shape))
    return model.eval()


@everywhere
@pytest.mark.parametrize("rslora", [False, True])
def test_peft_opens_what_is_saved(week3, tmp_path, rslora):
    """Keys, shapes and configuration are right for peft, and its model computes what ours did."""
    config = week3.LoRAConfig(rank=2, alpha=5.0, dropout=0.1, target_modules=TARGETS, rslora=rslora)
    model = adapted(2, 5.0, 1)
    for layer in (model.first, model.inner.last):
        layer.scaling = config.scaling
    week3.save_adapter(model, config, tmp_path / "a" / "b")
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    theirs = PeftModel.from_pretrained(base_model(), str(tmp_path / "a" / "b")).eval()
    assert theirs.peft_config["default"].use_rslora == rslora
    x = numbers(3, 7, 4).float()
    torch.testing.assert_close(theirs(x), model(x))
    merged = theirs.merge_and_unload()
    torch.testing.assert_close(merged(x), model(x))
    delta = week3.lora_delta(model.first.lora_A, model.first.lora_B, 5.0, rslora)
    torch.testing.assert_close(merged.first.weight - base_model().first.weight, delta)


@everywhere
@pytest.mark.parametrize("rslora", [False, True])
def test_what_peft_saved_is_loaded(week3, tmp_path, rslora):
    theirs = of_peft(
        base_model(), LoraConfig(r=3, lora_alpha=7, target_modules=["first", "last"], use_rslora=rslora, lora_dropout=0.25), 5
    )
    theirs.save_pretrained(str(tmp_path))
    model = adapted(3, 1.0, None)
    held = [model.first.lora_A, model.inner.last.lora_B]
    config = week3.load_adapter(model, str(tmp_path))
    assert (config.rank, config.alpha, config.dropout, config.rslora) == (3, 7, 0.25, rslora)
    assert config.target_modules == ["first", "last"]
    assert held[0] is model.first.lora_A and held[1] is model.inner.last.lora_B
    x = numbers(3, 7, 4).float()
    torch.testing.assert_close(model(x), theirs(x))


@everywhere
@quick
@given(rank=st.integers(1, 3), alpha=st.floats(0.5, 9), seed=st.integers(0, 99), dtype=st.sampled_from(DTYPES))
def test_round_trip(week3, tmp_path_factory, rank, alpha, seed, dtype):
    folder = tmp_path_factory.mktemp("adapter")
    model, fresh = adapted(rank, alpha, seed, dtype), adapted(rank, 1.0, None, dtype)
    config = week3.LoRAConfig(rank=rank, alpha=alpha, target_modules=TARGETS)
    before = {name: p.clone() for name, p in model.state_dict().items()}
    week3.save_adapter(model, config, folder)
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    assert {t.dtype for t in load_file(folder / "adapter_model.safetensors").values()} == {dtype}
    assert week3.load_adapter(fresh, folder) == config
    assert all(torch.equal(p, before[name]) for name, p in fresh.state_dict().items())
    assert fresh.first.scaling == pytest.approx(alpha / rank) and fresh.first.alpha == alpha


@everywhere
def test_a_layer_at_two_names_and_a_transposed_view(week3, tmp_path):
    model = adapted(2, 3.0, 1)
    model.again = model.first
    model.first.lora_A.data = model.first.lora_A.data.T.contiguous().T
    config = week3.LoRAConfig(rank=2, target_modules=[*TARGETS, "again"])
    week3.save_adapter(model, config, tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert len(saved) == 6 and torch.equal(saved["base_model.model.again.lora_A.weight"], model.first.lora_A)
    fresh = adapted(2, 3.0, None)
    fresh.again = fresh.first
    week3.load_adapter(fresh, tmp_path)
    assert torch.equal(fresh.again.lora_B, model.first.lora_B)


@everywhere
def test_a_wrong_file_changes_nothing(week3, tmp_path):
    config = week3.LoRAConfig(rank=2, target_modules=TARGETS)
    week3.save_adapter(adapted(2, 3.0, 1), config, tmp_path)
    path, settings_path = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    good, text = load_file(path), settings_path.read_text()
    key = "base_model.model.inner.last.lora_B.weight"
    assert key in good
    for wrong in (
        {k: v for k, v in good.items() if k != key},
        good | {"base_model.model.inner.middle.lora_B.weight": torch.ones(6, 2)},
        good | {key: torch.ones(1, 2)},
        good | {key: torch.ones(2, 3)},
        {k.replace("model.inner.", "model.outer."): v for k, v in good.items()},
    ):
        save_file(wrong, path)
        model = adapted(2, 3.0, 7)
        before = {name: p.clone() for name, p in model.state_dict().items()}
        with pytest.raises(ValueError):
            week3.load_adapter(model, tmp_path)
        assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items()) and model.first.alpha == 3.0
    save_file(good, path)
    settings_path.write_text(text.replace('"r": 2', '"r": 4'))
    with pytest.raises(ValueError):
        week3.load_adapter(adapted(2, 3.0, 7), tmp_path)
    for model, rank in ((base_model(), 2), (adapted(2, 3.0, 1), 3)):
        with pytest.raises(ValueError):
            week3.save_adapter(model, week3.LoRAConfig(rank=rank), tmp_path / "none")
    assert not (tmp_path / "none").exists()


# --------------------------------------------------------------------------- 3.5


@everywhere
def test_an_adapter_is_its_equation(week3):
    adapter = week3.Adapter(4, 3).double()
    u = numbers(0, 2, 5, 4)
    assert torch.equal(adapter(u), u)
    fill(adapter, 1)
    W, b, V, c = (p.detach().numpy() for p in (*adapter.down.parameters(), *adapter.up.parameters()))
    z = u.numpy() @ W.T + b
    bent = z * 0.5 * (1 + np.vectorize(math.erf)(z / 2**0.5))
    np.testing.assert_allclose(adapter(u).detach().numpy(), u.numpy() + bent @ V.T + c, rtol=1e-12)
    assert sum(p.numel() for p in adapter.parameters()) == 2 * 4 * 3 + 4 + 3


@everywhere
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_a_block_is_torchs_layer_with_its_parts_replaced(week3, norm_first, activation):
    """torch's own layer, whose private parts are wrapped by the adapters, is the oracle."""
    layer = encoder_layer(seed=1, width=6, heads=3, hidden=7, norm_first=norm_first, activation=activation)
    x = numbers(0, 2, 4, 6)
    want = layer(x).detach()
    block = week3.AdapterBlock(layer, 2)
    torch.testing.assert_close(block(x), want)
    assert not any(p.requires_grad for p in layer.parameters())
    fill(block.attention_adapter, 1), fill(block.feedforward_adapter, 30)
    padding = torch.tensor([[False, False, False, False], [False, False, True, True]])
    got = block(x, padding)
    twin = copy.deepcopy(layer).train()  # in evaluation mode torch may run fused code, which calls no part
    attend, feed = twin._sa_block, twin._ff_block
    twin._sa_block = lambda *a, **k: block.attention_adapter(attend(*a, **k))
    twin._ff_block = lambda h: block.feedforward_adapter(feed(h))
    torch.testing.assert_close(got[~padding], twin(x, src_key_padding_mask=padding)[~padding])
    other = x.masked_fill(padding[..., None], 7.0)
    torch.testing.assert_close(block(other, padding)[~padding], got[~padding])
    with pytest.raises(ValueError):
        week3.AdapterBlock(nn.TransformerEncoderLayer(6, 3), 2)


# --------------------------------------------------------------------------- 3.6


@everywhere
def test_a_prompt_is_read_and_not_averaged(week3):
    backbone, width = reader(seed=2, width=5), 5
    init = numbers(1, 3, width)
    tuning = week3.PromptTuning(backbone, init)
    assert torch.equal(tuning.prompt, init) and [n for n, p in tuning.named_parameters() if p.requires_grad] == ["prompt"]
    x, lengths = numbers(0, 4, 6, width), (6, 2, 1, 5)
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    got = tuning(x, mask)
    for i, n in enumerate(lengths):  # one example at a time, without padding
        alone = backbone(torch.cat([init, x[i, :n]])[None], torch.ones(1, 3 + n, dtype=torch.bool))[0, 3:]
        torch.testing.assert_close(got[i], alone.mean(0))
    got.sum().backward()
    assert tuning.prompt.grad.abs().sum() > 0


# --------------------------------------------------------------------------- 3.7


@everywhere
@pytest.mark.parametrize("heads", [1, 2, 3])
def test_a_prefix_is_more_keys_and_values(week3, heads):
    attention = projections(seed=1, width=6, heads=heads, bias=True)
    tuning = week3.PrefixTuning(attention, 4)
    assert sorted(n for n, p in tuning.named_parameters() if p.requires_grad) == ["prefix_k", "prefix_v"]
    x, lengths = numbers(0, 3, 5, 6), (5, 3, 1)
    got = tuning(x, torch.arange(5) < torch.tensor(lengths)[:, None]).detach().numpy()
    W = {name: p.detach().numpy() for name, p in tuning.named_parameters()}
    d = 6 // heads
    for i, n in enumerate(lengths):
        q, k, v = (x[i, :n].numpy() @ W[f"attention.{m}.weight"].T + W[f"attention.{m}.bias"] for m in "qkv")
        k, v = np.concatenate([W["prefix_k"], k]), np.concatenate([W["prefix_v"], v])
        parts = []
        for h in range(heads):
            s = slice(h * d, (h + 1) * d)
            e = np.exp(q[:, s] @ k[:, s].T / math.sqrt(d))
            parts.append(e / e.sum(1, keepdims=True) @ v[:, s])
        want = np.concatenate(parts, axis=1) @ W["attention.o.weight"].T + W["attention.o.bias"]
        np.testing.assert_allclose(got[i, :n], want, rtol=1e-10)
    with pytest.raises(ValueError):
        week3.PrefixTuning(attention, 0)


@everywhere
def test_a_prefix_agrees_with_multi_head_attention(week3):
    """nn.MultiheadAttention takes one more key and value (bias_k, bias_v), behind the others: a prefix of length 1."""
    attention = projections(seed=1, width=6, heads=2, bias=True)
    theirs = nn.MultiheadAttention(6, 2, add_bias_kv=True, batch_first=True, dtype=torch.float64)
    tuning = week3.PrefixTuning(attention, 1)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([attention.q.weight, attention.k.weight, attention.v.weight]))
        theirs.in_proj_bias.copy_(torch.cat([attention.q.bias, attention.k.bias, attention.v.bias]))
        theirs.out_proj.load_state_dict(attention.o.state_dict())
        theirs.bias_k.copy_(tuning.prefix_k[None]), theirs.bias_v.copy_(tuning.prefix_v[None])
    x = numbers(0, 3, 5, 6)
    torch.testing.assert_close(tuning(x), theirs(x, x, x)[0])


# --------------------------------------------------------------------------- 3.8


@everywhere
@pytest.mark.parametrize("on_input", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_ia3_agrees_with_peft(week3, on_input, bias):
    base = fill(nn.Sequential(nn.Linear(5, 4, bias=bias)).double(), 1)
    x, scale = numbers(0, 3, 5), numbers(7, 5 if on_input else 4)
    config = IA3Config(target_modules=["0"], feedforward_modules=["0"] if on_input else [])
    ours = week3.IA3(fill(nn.Linear(5, 4, bias=bias).double(), 1), on_input)
    torch.testing.assert_close(ours(x), base(x))
    theirs = get_peft_model(base, config)
    vector = theirs.base_model.model[0].ia3_l["default"]
    assert vector.numel() == ours.scale.numel()
    vector.data.copy_(scale.reshape(vector.shape))
    ours.scale.data.copy_(scale)
    want = theirs(x)
    torch.testing.assert_close(ours(x), want)
    weight = ours.base.weight
    ours.merge()
    ours.merge()
    assert ours.merged is True and ours.base.weight is weight and not weight.requires_grad
    torch.testing.assert_close(ours(x), want)
    torch.testing.assert_close(ours.base.weight, theirs.merge_and_unload()[0].weight)
    torch.testing.assert_close(ours.scale.detach(), scale)
