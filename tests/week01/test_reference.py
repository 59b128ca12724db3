"""Week 1: the reference against peft, transformers, torch's Adam, bitsandbytes and published figures; the alternatives too.

Every property is a function of a module, so that the reference and each alternative go through the same ones, independently
of the autograder's checks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.loading import load

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "solutions/week01/cost_model.py"
ALTERNATIVES = sorted(ROOT.glob("autograder/bank/week01/alternatives/*/cost_model.py"))
RECIPES = ("full_fp32", "full_mixed", "lora", "qlora")
PARTS = ("weights", "lora", "gradients", "optimizer")

REF = load(REFERENCE)
SOLUTIONS = {"reference": REF} | {path.parent.name: load(path) for path in ALTERNATIVES}
everywhere = pytest.mark.parametrize("costs", SOLUTIONS.values(), ids=SOLUTIONS.keys())
thorough = settings(max_examples=60, deadline=None, derandomize=True, database=None)


# --------------------------------------------------------------------------- known models


def on_meta(config) -> nn.Module:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def llama(**changes) -> nn.Module:
    """Llama-2-7B, or another with some numbers changed."""
    from transformers import LlamaConfig

    plain = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
    return on_meta(LlamaConfig(**plain | {"num_attention_heads": 32, "tie_word_embeddings": False} | changes))


LLAMA_3_8B = {"vocab_size": 128256, "intermediate_size": 14336, "num_key_value_heads": 8}
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
LINEARS = (*ATTENTION, "gate_proj", "up_proj", "down_proj")


def linear_shapes(model: nn.Module, names: tuple[str, ...]) -> list[tuple[int, int]]:
    return [tuple(m.weight.shape) for name, m in model.named_modules() if name.endswith(names)]


@pytest.fixture(scope="module")
def llama2() -> nn.Module:
    return llama()


@pytest.fixture(scope="module")
def llama3() -> nn.Module:
    return llama(**LLAMA_3_8B)


@everywhere
def test_known_models(costs, llama2, llama3):
    from transformers import GPT2Config

    assert costs.count_parameters(llama2)["total"] == 6_738_415_616
    assert costs.count_parameters(llama3)["total"] == 8_030_261_248
    gpt2 = on_meta(GPT2Config())  # its output head is tied to the embedding
    assert costs.count_parameters(gpt2)["total"] == 124_439_808
    assert sum(p.numel() for p in gpt2.state_dict().values()) > 124_439_808 + 38_000_000


@everywhere
def test_lora_on_known_models(costs, llama2, llama3):
    """GPT-3's are printed as 4.7 M and 37.7 M in Hu et al.'s table 4, 18 M in table 5; Llama's are peft's, see below."""
    gpt3 = [(12288, 12288)] * (96 * 2)
    assert [costs.lora_parameter_count(gpt3, r) for r in (1, 4, 8)] == [4_718_592, 18_874_368, 37_748_736]
    assert costs.lora_parameter_count(linear_shapes(llama2, LINEARS), 16) == 39_976_960
    assert costs.lora_parameter_count(linear_shapes(llama3, LINEARS), 8) == 20_971_520
    # k and v of Llama-3-8B are (1024, 4096): to take them for square counts too many.
    shapes = linear_shapes(llama3, ATTENTION)
    assert sorted(set(shapes)) == [(1024, 4096), (4096, 4096)]
    assert (
        costs.lora_parameter_count(shapes, 8)
        == 8 * 32 * (2 * 8192 + 2 * 5120)
        < costs.lora_parameter_count([(4096, 4096)] * len(shapes), 8)
    )


@pytest.mark.parametrize(
    ("name", "targets", "rank"),
    [("llama2", LINEARS, 16), ("llama2", ("q_proj", "v_proj"), 8), ("llama3", LINEARS, 8), ("llama3", ("k_proj",), 4)],
)
def test_peft_counts_the_same(name, targets, rank):
    from peft import LoraConfig, get_peft_model

    model = llama(**(LLAMA_3_8B if name == "llama3" else {}))
    shapes = linear_shapes(model, targets)
    with torch.device("meta"):
        adapted = get_peft_model(model, LoraConfig(r=rank, target_modules=list(targets)))
    trainable, total = adapted.get_nb_trainable_parameters()
    for costs in SOLUTIONS.values():
        found = costs.count_parameters(adapted)
        assert (found["trainable"], found["total"]) == (trainable, total)
        assert found["frozen"] == total - trainable
        assert found["percent"] == pytest.approx(100 * trainable / total, rel=1e-14)
        assert costs.lora_parameter_count(shapes, rank) == trainable
    if (name, rank) == ("llama2", 16):
        assert (trainable, total) == (39_976_960, 6_778_392_576) and round(found["percent"], 4) == 0.5898


# --------------------------------------------------------------------------- 1.1


@thorough
@given(st.data())
def test_counts_are_a_partition(data):
    """Whatever is tied and frozen: each Parameter object once, in one of two groups."""
    shapes = st.lists(st.integers(1, 5), max_size=3)
    owned = [nn.Parameter(torch.zeros(s)) for s in data.draw(st.lists(shapes, min_size=1, max_size=5))]
    for p in owned:
        p.requires_grad = data.draw(st.booleans())
    model = nn.ModuleList(nn.ParameterList([p]) for p in owned)
    for extra in data.draw(st.lists(st.integers(0, len(owned) - 1), max_size=3)):
        model.append(nn.ParameterList([owned[extra]]))
        model.append(model[extra])
    model.register_buffer("mask", torch.zeros(7, 7))
    total = sum(p.nelement() for p in owned)
    trainable = sum(p.nelement() for p in owned if p.requires_grad)
    for costs in SOLUTIONS.values():
        found = costs.count_parameters(model)
        assert set(found) == {"total", "trainable", "frozen", "percent"}
        assert [found[k] for k in ("total", "trainable", "frozen")] == [total, trainable, total - trainable]
        assert found["percent"] == pytest.approx(100 * trainable / total)


@everywhere
@pytest.mark.parametrize("model", [nn.Identity(), nn.Linear(0, 3, bias=False), nn.BatchNorm1d(4, affine=False)])
def test_nothing_to_count(costs, model):
    assert costs.count_parameters(model) == {"total": 0, "trainable": 0, "frozen": 0, "percent": 0}


# --------------------------------------------------------------------------- 1.2


@thorough
@given(st.lists(st.tuples(st.integers(8, 90), st.integers(8, 90)), max_size=6), st.integers(1, 8))
def test_lora_counts_are_those_of_the_factors(shapes, rank):
    factors = [t.numel() for out, into in shapes for t in (torch.empty(out, rank), torch.empty(rank, into))]
    for costs in SOLUTIONS.values():
        assert costs.lora_parameter_count(shapes, rank) == sum(factors)
        assert costs.lora_parameter_count(iter(shapes), rank) == sum(factors)
        assert costs.lora_parameter_count(shapes, rank) == rank * costs.lora_parameter_count(shapes, 1)


@everywhere
def test_ranks_out_of_range(costs):
    for shapes, rank in (([(4, 6)], 0), ([(4, 6)], 5), ([(6, 4)], 5), ([(9, 9), (4, 6)], 5), ([], 0), ([(4, 6)], -1)):
        with pytest.raises(ValueError):
            costs.lora_parameter_count(shapes, rank)
    assert costs.lora_parameter_count([(4, 6)], 4) == 40 and costs.lora_parameter_count([], 3) == 0


# --------------------------------------------------------------------------- 1.3


def nbytes(tensors) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def states(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    for state in optimizer.state.values():
        yield from (value for key, value in state.items() if key != "step")  # one number a tensor


def measured(model: nn.Module, x: torch.Tensor) -> dict[str, int]:
    """Bytes that really are held after a step of torch's Adam."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trainable)
    model(x).float().sum().backward()
    optimizer.step()
    return {"gradients": nbytes(p.grad for p in trainable), "optimizer": nbytes(states(optimizer))}


@everywhere
@pytest.mark.parametrize("part", [False, True])
def test_full_fp32_is_what_adam_holds(costs, part):
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))
    model[0].requires_grad_(not part)
    base = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    held = measured(model, torch.ones(2, 6)) | {"weights": nbytes(model.parameters()), "lora": 0}
    assert costs.training_memory(base, trainable, "full_fp32") == held | {"total": sum(held.values())}


@everywhere
def test_full_mixed_is_what_a_master_copy_holds(costs):
    """bf16 weights and gradients; Adam moves an fp32 copy, whose gradient is made from the bf16 one for the step."""
    model = nn.Linear(6, 5).bfloat16()
    masters = [p.detach().float().requires_grad_() for p in model.parameters()]
    optimizer = torch.optim.Adam(masters)
    model(torch.ones(2, 6, dtype=torch.bfloat16)).sum().backward()
    for master, p in zip(masters, model.parameters(), strict=True):
        master.grad = p.grad.float()
    optimizer.step()
    found = costs.training_memory(35, 35, "full_mixed")
    assert found["weights"] == nbytes(model.parameters()) and found["lora"] == 0
    assert found["gradients"] == nbytes(p.grad for p in model.parameters())
    assert found["optimizer"] == nbytes(states(optimizer)) + nbytes(masters)
    assert found["total"] == 16 * 35


@everywhere
def test_lora_is_what_peft_holds(costs):
    from peft import LoraConfig, get_peft_model

    base = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)).bfloat16()
    n_params = sum(p.numel() for p in base.parameters())
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["0", "1"]))  # makes fp32 factors
    factors = [p for p in model.parameters() if p.requires_grad]
    held = {"weights": nbytes(p for p in model.parameters() if not p.requires_grad), "lora": nbytes(factors)}
    held |= measured(model, torch.ones(2, 6, dtype=torch.bfloat16))
    found = costs.training_memory(n_params, sum(p.numel() for p in factors), "lora")
    assert found == held | {"total": sum(held.values())}


@everywhere
@pytest.mark.parametrize("blocks", [256, 512])
def test_qlora_is_what_bitsandbytes_holds(costs, blocks):
    """4-bit codes, an 8-bit constant for each block of 64 and an fp32 one for each 256 of those; tables are not counted."""
    from bitsandbytes.functional import quantize_4bit

    count = 64 * blocks
    weight = torch.linspace(-1, 1, count).reshape(64, blocks)
    codes, state = quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
    held = nbytes([codes, state.absmax, state.state2.absmax])
    assert costs.training_memory(count, 0, "qlora", count)["weights"] == held
    assert costs.training_memory(count + 10, 0, "qlora", count)["weights"] == held + 20
    assert pytest.approx(4.126953125, abs=0) == REF.NF4_BITS == 8 * held / count


@everywhere
def test_llama_2_7b(costs, llama2):
    n = costs.count_parameters(llama2)["total"]
    linears = sum(a * b for a, b in linear_shapes(llama2, LINEARS))
    full = costs.training_memory(n, n, "full_fp32", unit="GB")
    assert round(full["total"], 1) == 107.8
    assert round(costs.training_memory(n, n, "full_fp32", unit="GiB")["total"], 1) == 100.4
    assert costs.training_memory(n, n, "full_mixed")["total"] == costs.training_memory(n, n, "full_fp32")["total"]
    assert round(linears / n, 3) == 0.961
    assert round(costs.training_memory(n, 39_976_960, "qlora", linears, "GB")["weights"], 2) == 3.87
    assert round(costs.training_memory(n, 39_976_960, "qlora", n, "GB")["weights"], 2) == 3.48


@thorough
@given(st.data())
def test_memory_is_linear_and_adds_up(data):
    n = data.draw(st.integers(1, 10**11))
    recipe = data.draw(st.sampled_from(RECIPES))
    trainable = data.draw(st.integers(0, n))
    quantised = data.draw(st.integers(0, n)) if recipe == "qlora" else 0
    want = REF.training_memory(n, trainable, recipe, quantised)
    for costs in SOLUTIONS.values():
        found = costs.training_memory(n, trainable, recipe, quantised)
        assert set(found) == {*PARTS, "total"}
        assert found["total"] == pytest.approx(sum(found[p] for p in PARTS))
        assert found == pytest.approx(want, rel=1e-12)
        twice = costs.training_memory(2 * n, 2 * trainable, recipe, 2 * quantised)
        assert twice == pytest.approx({part: 2 * size for part, size in found.items()})
        for unit, size in (("GB", 1e9), ("GiB", 2.0**30)):
            scaled = costs.training_memory(n, trainable, recipe, quantised, unit)
            assert scaled == pytest.approx({part: value / size for part, value in found.items()})


@everywhere
def test_memory_refuses(costs):
    for call in (
        (9, 9, "full_bf16"), (9, 9, ""), (9, 9, "lora", 0, "MB"), (9, 9, "lora", 0, ""), (9, 10, "full_fp32"),
        (9, 10, "full_mixed"), (9, -1, "lora"), (9, -1, "full_mixed"), (9, 1, "qlora", 10), (9, 1, "qlora", -1),
        (9, 1, "lora", 9), (9, 1, "full_fp32", 1), (9, 9, "full_mixed", 9), (9, 1, "lora", -1),
    ):  # fmt: skip
        with pytest.raises(ValueError):
            costs.training_memory(*call)


# --------------------------------------------------------------------------- 1.4

# GPU hours, MWh, tCO2e of Touvron et al. (2023), table 15: 400 W, PUE 1.1 and 0.385 kg for each kWh.
LLAMA_RUNS = [(82_432, 36, 14), (135_168, 59, 23), (530_432, 233, 90), (1_022_362, 450, 173)]


@everywhere
@pytest.mark.parametrize(("hours", "mwh", "tonnes"), LLAMA_RUNS)
def test_published_runs(costs, hours, mwh, tonnes):
    """To the unit that the table prints; it cuts 449.8 MWh to 449."""
    kwh, kg = costs.training_energy(hours, 400, 1.1, 385)
    assert abs(kwh / 1000 - mwh) < 0.5 and abs(kg / 1000 - tonnes) < 0.5


@everywhere
def test_energy_by_hand(costs):
    # 8 GPUs for 3 hours at 250 W are 6 kWh; 9 with the overhead; at half a kilogram each, 4.5 kg.
    assert tuple(costs.training_energy(24, 250, 1.5, 500)) == pytest.approx((9, 4.5))
    assert tuple(costs.training_energy(0, 250, 1.5, 500)) == (0, 0)
    assert tuple(costs.training_energy(24, 250, 1, 0)) == pytest.approx((6, 0))
    for call in ((-1, 250, 1.5, 500), (24, -1, 1.5, 500), (24, 250, 0.99, 500), (24, 250, 1.5, -1)):
        with pytest.raises(ValueError):
            costs.training_energy(*call)


# --------------------------------------------------------------------------- 1.5


def trains(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


@everywhere
@pytest.mark.parametrize("frozen", [False, True])
def test_selection_in_a_torch_encoder(costs, frozen):
    """Its attention holds one bias for q, k and v, called in_proj_bias."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Sequential(nn.Linear(8, 8), nn.TransformerEncoder(layer, 3, norm=nn.LayerNorm(8)), nn.Linear(8, 2))
    model.requires_grad_(not frozen)
    costs.select_trainable(model, "bias")
    assert trains(model) == {n for n, p in model.named_parameters() if n.split(".")[-1] in ("bias", "in_proj_bias")}
    assert {p.ndim for n, p in model.named_parameters() if n in trains(model)} == {1}
    for n in (0, 1, 3):
        costs.select_trainable(model, "last_n", n, "1.layers")
        assert trains(model) == {name for name, _ in model.named_parameters() for i in range(3 - n, 3) if f"layers.{i}." in name}


@everywhere
def test_selection_on_llama(costs):
    model = llama(num_hidden_layers=4)
    with pytest.raises(ValueError):
        costs.select_trainable(model, "bias")  # Llama has none
    assert trains(model) == {name for name, _ in model.named_parameters()}
    costs.select_trainable(model, "last_n", 1, "model.layers")
    found = costs.count_parameters(model)
    assert found["trainable"] == 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096
    for call in (("last_n", 5, "model.layers"), ("last_n", -1, "model.layers"), ("head",)):
        with pytest.raises(ValueError):
            costs.select_trainable(model, *call)
        assert costs.count_parameters(model) == found


@everywhere
def test_selection_of_shared_parameters(costs):
    model = nn.ModuleDict({"embed": nn.Linear(4, 4), "layers": nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])})
    model["embed"].weight = model["layers"][1].weight
    model["layers"][0].scale = model["embed"].bias
    costs.select_trainable(model, "last_n", 1)
    assert trains(model) == {"embed.weight", "layers.1.bias"}
    model["layers"][0].bias = nn.Parameter(torch.zeros(4), requires_grad=False)
    model["embed"].register_parameter("offset", model["layers"][0].bias)
    costs.select_trainable(model, "bias")
    assert trains(model) == {"embed.bias", "embed.offset", "layers.1.bias"}


# --------------------------------------------------------------------------- find the bug


def test_the_answer_key_has_the_right_numbers(capsys):
    """What review.py prints is wrong where the key says so, and the key's numbers are the reference's."""
    review = load(ROOT / "course/week01/review.py")
    review.report()
    wrong = capsys.readouterr().out
    assert all(number in wrong for number in ("41.9 million", "0.347 %", "828 GB", "38 kg"))
    key = (ROOT / "solutions/week01/review.md").read_text(encoding="utf-8")
    linears = review.LAYERS * review.elements(review.ATTENTION | review.MLP)
    base = llama(
        hidden_size=8192, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8, intermediate_size=28672
    )  # fmt: skip
    n = REF.count_parameters(base)["total"]
    assert sum(a * b for a, b in linear_shapes(base, LINEARS)) == linears
    extra = REF.lora_parameter_count(linear_shapes(base, ("q_proj", "v_proj")), 16)
    right = [
        f"{n:,}",
        f"{extra:,}",
        f"{100 * extra / (n + extra):.4f} %",
        f"{REF.training_memory(n, n, 'full_mixed', unit='GB')['total']:,.0f} GB",
        f"{100 * linears / n:.1f} %",
        f"{REF.training_memory(n, extra, 'qlora', linears, 'GB')['total']:.1f} GB",
        f"{REF.training_energy(160, 350, 1.3, 400)[0]:.1f} kWh",
        f"{REF.training_energy(160, 350, 1.3, 400)[1]:.0f} kg",
    ]
    assert [number for number in right if number not in key] == []
