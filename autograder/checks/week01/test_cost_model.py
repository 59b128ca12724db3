"""Checks of week 1: counting parameters, what LoRA adds, memory, energy, and what a selective method trains.

Every number is drawn or computed here or by the reference; no task needs another one. Numbers are compared as floats: a
count may be an int or a float.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from autograder.judge.check import CheckFailed, Handle, Session, at, check, close, equal, show, tensor


def in_dict(lib: Session, result: Handle, keys: tuple[str, ...], name: str) -> dict[str, float]:
    """The numbers that a dict of the submission has at these keys."""
    found = lib.probe("week01.numbers", result, list(keys))
    if type(found) is not dict:
        what = f"of type {found}" if type(found) is str else show(found)
        raise CheckFailed(f"{name} is {what}\n  expected: a dict")
    return {key: finite(found.get(key), f'{name}["{key}"]') for key in keys}


def finite(value: Any, name: str) -> float:
    if value is None:
        raise CheckFailed(f"{name} is missing\n  expected: a number")
    if type(value) is not float:
        raise CheckFailed(f"{name} is {show(value)}\n  expected: a number")
    if not math.isfinite(value):
        raise CheckFailed(f"{name} is {value}\n  expected: a finite number")
    return value


def whole(value: float) -> float:
    """A whole number is shown without a point."""
    return int(value) if value.is_integer() else value


def exact(got: dict[str, float], want: dict[str, float], name: str) -> None:
    for key in want:
        equal(whole(got[key]), whole(want[key]), f'{name}["{key}"]')


def near(got: dict[str, float], want: dict[str, float], name: str, rtol: float = 1e-9) -> None:
    # A few operations on float64 err by some 1e-16.
    for key in want:
        close(np.array(got[key]), np.array(want[key]), f'{name}["{key}"]', rtol)


# --- task 1.1 ---

COUNTS = ("total", "trainable", "frozen")


def spec(shapes: dict, frozen=(), tied: dict | None = None, buffers: dict | None = None, **like: Any) -> dict[str, Any]:
    return {"shapes": shapes, "frozen": list(frozen), "tied": tied or {}, "buffers": buffers or {}, **like}


def sizes(rng, count: int) -> list[int]:
    """Sizes that differ, so that no product of some is that of others by their order."""
    return [int(size) for size in rng.permutation(np.arange(2, 14))[:count]]


def counts(lib: Session, model: dict, keys: tuple[str, ...] = COUNTS) -> dict[str, float]:
    return in_dict(lib, lib.count_parameters(lib.build("week01.network", **model)), keys, "count_parameters(model)")


@check("1.1", weight=4, gate=True)
def test_counts(student, oracle, rng):
    """Total, trainable and frozen are numbers of elements, over all submodules."""
    a, b, c, d, e = sizes(rng, 5)
    nested = {"embed.weight": (a, b), "layers.0.q.weight": (c, b), "layers.0.q.bias": (c,), "layers.1.q.weight": (c, b)}
    models = {
        "one weight": spec({"weight": (a, b)}),
        "a frozen weight and a bias": spec({"weight": (a, b), "bias": (a,)}, frozen=["weight"]),
        "weights in submodules, two of them of one shape, one frozen": spec(nested, frozen=["layers.0.q.weight"]),
        "parameters of no, three and four dimensions, some frozen": spec(
            {"scale": (), "conv.weight": (c, d, 1, 2), "prefix": (2, e, b), "conv.bias": (c,), "gate": ()},
            frozen=["prefix", "gate"],
        ),
    }
    for name, model in models.items():
        with at(f"{name}, shapes {', '.join(str(s) for s in model['shapes'].values())}"):
            exact(counts(student, model), oracle(counts, model), "count_parameters(model)")


@check("1.1", weight=3)
def test_tied(student, oracle, rng):
    """A Parameter that stands at several names, by itself or inside a layer that is used twice, counts once."""
    a, b, c, d = sizes(rng, 4)
    shapes = {"embed.weight": (a, b), "layers.0.weight": (c, b), "layers.0.bias": (c,), "head.bias": (d,)}
    models = {
        "head.weight tied to embed.weight": spec(shapes, tied={"head.weight": "embed.weight"}),
        "head.weight tied to a frozen embed.weight": spec(shapes, ["embed.weight"], {"head.weight": "embed.weight"}),
        "one layer at two names": spec(shapes, ["layers.0.bias"], {"layers.1": "layers.0", "again": "layers.0"}),
    }
    for name, model in models.items():
        with at(name):
            exact(counts(student, model), oracle(counts, model), "count_parameters(model)")
    with at("a small transformer with a tied head and a layer that two blocks share"):
        exact(transformer_counts(student), oracle(transformer_counts), "count_parameters(model)")


def transformer_counts(lib: Session) -> dict[str, float]:
    model = lib.build("tiny_transformer", seed=0, vocabulary=7, width=4, blocks=2, share=True)
    model.embed.requires_grad_(False)
    return in_dict(lib, lib.count_parameters(model), COUNTS, "count_parameters(model)")


@check("1.1", weight=2)
def test_percent(student, oracle, rng):
    """percent is the trainable share of the total, times 100."""
    a, b, c, d = sizes(rng, 4)
    shapes = {"base.weight": (4 * a, b), "lora_A": (c, b), "lora_B": (a, c), "head.bias": (d,)}
    models = {
        "a frozen base": spec(shapes, ["base.weight"]),
        "a frozen and tied base": spec(shapes, ["base.weight"], {"again.weight": "base.weight"}),
        "nothing frozen": spec(shapes),
        "everything frozen": spec(shapes, shapes),
    }
    for name, model in models.items():
        with at(name):
            near(counts(student, model, ("percent",)), oracle(counts, model, ("percent",)), "count_parameters(model)")


def key_names(lib: Session, model: dict) -> list[str]:
    return lib.names_of("week01.keys", lib.count_parameters(lib.build("week01.network", **model)))


@check("1.1", weight=1)
def test_count_keys(student, oracle, rng):
    """The dict has the keys of the contract and no others."""
    model = spec({"weight": (2, 3)})
    equal(key_names(student, model), oracle(key_names, model), "the list of keys of count_parameters(model)")


@check("1.1", weight=1)
def test_buffers(student, oracle, rng):
    """Buffers, such as a norm's running mean or a mask, are no parameters."""
    a, b, c = sizes(rng, 3)
    buffers = {"mask": (c, c), "norm.running_mean": (a,)}
    model = spec({"layer.weight": (a, b), "norm.weight": (a,)}, ["norm.weight"], buffers=buffers)
    with at(f"buffers of shapes {', '.join(map(str, buffers.values()))}"):
        exact(counts(student, model), oracle(counts, model), "count_parameters(model)")


def counted_twice(lib: Session, model: dict) -> tuple[dict[str, float], list[str]]:
    built = lib.build("week01.network", **model)
    lib.count_parameters(built)
    again = in_dict(lib, lib.count_parameters(built), COUNTS, "the second count_parameters(model)")
    return again, lib.names_of("trainable_names", built)


def counted_then_frozen(lib: Session, model: dict) -> dict[str, float]:
    built = lib.build("week01.network", **model)
    lib.count_parameters(built)
    built.requires_grad_(False)
    return in_dict(lib, lib.count_parameters(built), COUNTS, "count_parameters(model)")


def states(lib: Session, model: dict, training: bool) -> tuple[list[str], list[str]]:
    """What a count finds of a model after a backward pass, and what it leaves."""
    built = lib.build("week01.network", **model, training=training, gradients=True)
    before = lib.names_of("week01.states", built)
    lib.count_parameters(built)
    return before, lib.names_of("week01.states", built)


@check("1.1", weight=1)
def test_counting_changes_nothing(student, oracle, rng):
    """The model is not changed, so a second count gives the same."""
    a, b, c = sizes(rng, 3)
    model = spec({"q.weight": (a, b), "q.bias": (a,), "v.weight": (c, b)}, ["q.weight"], {"k.weight": "v.weight"})
    got, names = counted_twice(student, model)
    want, want_names = oracle(counted_twice, model)
    exact(got, want, "the second count_parameters(model)")
    equal(names, want_names, "the list of trainable parameters afterwards")


@check("1.1", weight=1, tier="advanced")
def test_counting_leaves_states(student, oracle, rng):
    """Training mode, dtypes and gradients are after a count what they were before it."""
    a, b, c = sizes(rng, 3)
    model = spec({"q.weight": (a, b), "q.bias": (a,), "v.weight": (c, b)}, ["v.weight"], dtype="bfloat16")
    for training in (True, False):
        with at("a model in training mode" if training else "a model in evaluation mode"):
            before, after = states(student, model, training)
            equal(after, before, "the list of training modes, dtypes and gradients")


@check("1.1", weight=1, tier="advanced")
def test_counted_anew(student, oracle, rng):
    """Every call counts the model as it is then: one that was counted and is frozen afterwards has nothing that trains."""
    a, b, c = sizes(rng, 3)
    model = spec({"q.weight": (a, b), "q.bias": (a,), "v.weight": (c, b)})
    with at("a model that is counted, frozen and counted again"):
        exact(counted_then_frozen(student, model), oracle(counted_then_frozen, model), "count_parameters(model)")


@check("1.1", weight=1, tier="advanced")
def test_meta(student, oracle, rng):
    """The dtype and the device make no difference: on the meta device a tensor has a shape and no data."""
    a, b, c, d = sizes(rng, 4)
    shapes = {"embed.weight": (100 * a, 10 * b), "q.weight": (c, 10 * b), "k.weight": (c, 10 * b), "lora_A": (d, 10 * b)}
    tied, frozen = {"head.weight": "embed.weight"}, ["q.weight", "k.weight"]
    large = {"embed.weight": (10**5 + a, 10**5 + b), "q.weight": (c, 10**5 + b), "k.weight": (c, 10**5 + b), "lora_A": (d,)}
    for device, dtype, sized in (
        ("cpu", "float64", shapes), ("cpu", "bfloat16", shapes), ("meta", "float16", shapes), ("meta", "float32", large)
    ):  # fmt: skip
        with at(f"a model of {dtype} on the device {device!r}, embed.weight of shape {sized['embed.weight']}"):
            model = spec(sized, frozen, tied, device=device, dtype=dtype)
            exact(counts(student, model), oracle(counts, model), "count_parameters(model)")


@check("1.1", weight=1, tier="advanced")
def test_kinds_of_tensors(student, oracle, rng):
    """Frozen integers, as a quantised layer has, are counted, and of a slice of a larger tensor only what it shows."""
    a, b, c = sizes(rng, 3)
    shapes = {"q.weight": (a, b), "k.weight": (c, b), "k.bias": (c,)}
    for name, model in (
        ("all parameters int8, none trains", spec(shapes, shapes, dtype="int8")),
        ("q.weight and k.bias show every second row of a larger tensor", spec(shapes, sliced=["q.weight", "k.bias"])),
    ):
        with at(name):
            exact(counts(student, model), oracle(counts, model), "count_parameters(model)")


@check("1.1", weight=1, tier="advanced")
def test_no_parameters(student, oracle, rng):
    """Where the total is 0, percent is 0."""
    for name, model in (("no parameters", spec({})), ("a parameter of shape (0, 3)", spec({"weight": (0, 3)}))):
        with at(f"a model with {name}"):
            keys = (*COUNTS, "percent")
            exact(counts(student, model, keys), oracle(counts, model, keys), "count_parameters(model)")


# --- task 1.2 ---

Shapes = list[tuple[int, int]]


def added(lib: Session, shapes: Shapes, rank: int, once: bool = False) -> float:
    given = lib.build("week01.only_once", items=shapes) if once else shapes
    name = "lora_parameter_count(shapes, rank)"
    found = lib.probe("week01.numbers", lib.lora_parameter_count(given, rank))
    if type(found) is str:
        raise CheckFailed(f"{name} is of type {found}\n  expected: a number")
    return finite(found, name)


def compare_added(student, oracle, shapes: Shapes, rank: int, once: bool = False) -> None:
    rung = f"{len(shapes)} shapes {shapes}, rank={rank}"
    if len(shapes) >= 8:
        rung = f"{len(shapes)} shapes, {len(set(shapes))} different ones, rank={rank}"
    with at(f"{rung}, given as an iterator" if once else rung):
        got, want = added(student, shapes, rank, once), oracle(added, shapes, rank, once)
        equal(whole(got), whole(want), "lora_parameter_count(shapes, rank)")


def drawn_shapes(rng, count: int) -> Shapes:
    """Shapes of sides that are all different."""
    sides = [int(side) for side in rng.permutation(np.arange(8, 60))[: 2 * count]]
    return list(zip(sides[::2], sides[1::2], strict=True))


@check("1.2", weight=4, gate=True)
def test_added(student, oracle, rng):
    """A matrix (d_out, d_in) gets rank (d_out + d_in) parameters, and several matrices get the sum."""
    for count, rank in ((1, 1), (1, 3), (2, 2), (3, 8)):
        compare_added(student, oracle, drawn_shapes(rng, count), rank)


@check("1.2", weight=2)
def test_each_matrix(student, oracle, rng):
    """Every matrix counts, also where many have the same shape: layers times matrices in a layer."""
    for layers, rank in ((2, 1), (5, 4)):
        compare_added(student, oracle, drawn_shapes(rng, 2) * layers, rank)
    compare_added(student, oracle, [(12288, 12288)] * 192, 4)  # q and v of GPT-3


@check("1.2", weight=2)
def test_grouped_query(student, oracle, rng):
    """With grouped-query attention k and v have fewer rows than q, and each matrix counts by its own shape."""
    head = 2 * int(rng.integers(4, 9))
    for heads, groups in ((4, 2), (8, 1)):
        width = heads * head
        layer = [(width, width), (groups * head, width), (groups * head, width), (width, width)]
        compare_added(student, oracle, layer, 4)
        compare_added(student, oracle, layer * 3, 8)


@check("1.2", weight=1)
def test_rank_range(student, oracle, rng):
    """A rank below 1, or above the smaller side of any matrix, is a ValueError; the smaller side itself is allowed."""
    compare_added(student, oracle, [(6, 9), (7, 6)], 6)
    for shapes, rank in (
        ([(6, 9)], 0),
        ([(6, 9)], -2),
        ([(6, 9)], 10),
        ([(6, 9)], 7),
        ([(20, 30), (9, 6), (30, 20)], 7),
        ([], 0),
    ):
        with at(f"shapes {shapes}, rank={rank}"):
            student.raises("ValueError", act=lambda s=shapes, r=rank: student.lora_parameter_count(s, r))


@check("1.2", weight=1)
def test_no_matrices(student, oracle, rng):
    """Without matrices there are 0 parameters."""
    compare_added(student, oracle, [], 2)


@check("1.2", weight=1, tier="advanced")
def test_large(student, oracle, rng):
    """A count is exact, however large it is."""
    # Odd, above 2**32 and below 2**53: no sum of 32 bits, neither of integers nor of floats, holds it, and a float does.
    sides = [2 * int(side) + 1 for side in rng.integers(8000, 16000, 8)]
    shapes = list(zip(sides[::2], [side + 1 for side in sides[1::2]], strict=True)) * 25
    compare_added(student, oracle, shapes, 4095)


@check("1.2", weight=1, tier="advanced")
def test_iterator(student, oracle, rng):
    """shapes may be an iterator, which can be gone through only once."""
    compare_added(student, oracle, drawn_shapes(rng, 3), 5, once=True)


# --- task 1.3 ---

PARTS = ("weights", "lora", "gradients", "optimizer")
Call = tuple[Any, ...]


def memory(lib: Session, call: Call, keys: tuple[str, ...] = PARTS) -> dict[str, float]:
    return in_dict(lib, lib.training_memory(*call), keys, said(call))


def said(call: Call) -> str:
    return f"training_memory({', '.join(map(repr, call))})"


def compare_memory(student, oracle, *call: Any, keys: tuple[str, ...] = PARTS, tight: bool = False) -> None:
    # 4.127 in the place of NF4_BITS is 1.2e-5 too much: test_exact_bits finds it, and it spoils no other check.
    rtol = 1e-9 if tight or call[2] != "qlora" else 2e-5
    near(memory(student, call, keys), oracle(memory, call, keys), said(call), rtol)


def drawn_counts(rng) -> list[tuple[int, int, int]]:
    """Numbers of base, trainable and quantised parameters, small first: trainable < base, quantised < base."""
    found = []
    for size in (10, 10**4, 10**10):
        base, part, few = (int(rng.integers(low * size, 2 * low * size)) for low in (20, 5, 1))
        found.append((base, few, base - part))
    return found


@check("1.3", weight=3, gate=True)
def test_full(student, oracle, rng):
    """Full fine-tuning: the bytes of weights, gradients and optimizer, in fp32 and in mixed precision."""
    for recipe in ("full_fp32", "full_mixed"):
        for base, *_ in drawn_counts(rng):
            compare_memory(student, oracle, base, base, recipe)


@check("1.3", weight=3, gate=True)
def test_lora(student, oracle, rng):
    """LoRA: a frozen base at 2 bytes, and factors in fp32 that alone have gradients and optimizer states."""
    for base, few, _ in drawn_counts(rng):
        compare_memory(student, oracle, base, few, "lora")


@check("1.3", weight=3, gate=True)
def test_qlora(student, oracle, rng):
    """QLoRA: n_quantised parameters of the base at NF4_BITS bits, the rest of the base at 2 bytes, and the factors."""
    for base, few, quantised in drawn_counts(rng):
        for count in (base, quantised):
            compare_memory(student, oracle, base, few, "qlora", count)


@check("1.3", weight=2)
def test_part_trains(student, oracle, rng):
    """Where a part of the base trains, all of it has weights, and only that part has gradients and optimizer states."""
    for recipe in ("full_fp32", "full_mixed"):
        for base, few, _ in drawn_counts(rng):
            compare_memory(student, oracle, base, few, recipe)


@check("1.3", weight=2)
def test_total(student, oracle, rng):
    """total is the sum of the four parts."""
    for base, few, quantised in drawn_counts(rng)[1:]:
        for call in (
            (base, base, "full_fp32"), (base, few, "full_mixed"), (base, few, "lora"), (base, few, "qlora", quantised)
        ):  # fmt: skip
            compare_memory(student, oracle, *call, keys=("total",))


@check("1.3", weight=2)
def test_units(student, oracle, rng):
    """GB are 10^9 bytes and GiB 2^30 bytes, for every number that is returned."""
    for unit in ("B", "GB", "GiB"):
        for base, few, quantised in drawn_counts(rng)[2:]:
            compare_memory(student, oracle, base, base, "full_fp32", 0, unit, keys=(*PARTS, "total"))
            compare_memory(student, oracle, base, few, "qlora", quantised, unit, keys=(*PARTS, "total"))


@check("1.3", weight=1, tier="advanced")
def test_exact_bits(student, oracle, rng):
    """A quantised parameter takes NF4_BITS bits exactly, and nothing is rounded."""
    base, few, quantised = drawn_counts(rng)[-1]
    for count in (64 * 256, 63):
        compare_memory(student, oracle, count, 0, "qlora", count, tight=True)
    compare_memory(student, oracle, base, few, "qlora", quantised, tight=True)


def memory_keys(lib: Session, call: Call) -> list[str]:
    return lib.names_of("week01.keys", lib.training_memory(*call))


@check("1.3", weight=1)
def test_memory_keys(student, oracle, rng):
    """The dict has the keys of the contract and no others, in every recipe."""
    for recipe in ("full_fp32", "full_mixed", "lora", "qlora"):
        call = (1000, 100, recipe)
        equal(memory_keys(student, call), oracle(memory_keys, call), f"the list of keys of {said(call)}")


@check("1.3", weight=1, tier="advanced")
def test_edges(student, oracle, rng):
    """Nothing that trains, nothing that is quantised, and more LoRA parameters than the base has are all allowed."""
    base = int(rng.integers(100, 200))
    keys = (*PARTS, "total")
    for recipe in ("full_fp32", "full_mixed", "lora", "qlora"):
        compare_memory(student, oracle, base, 0, recipe, keys=keys)
    for call in ((base, 3 * base, "lora"), (base, 3 * base, "qlora", base), (base, 7, "qlora", 0), (base, 7, "lora", 0)):
        compare_memory(student, oracle, *call, keys=keys)


@check("1.3", weight=1)
def test_memory_refuses(student, oracle, rng):
    """An unknown recipe or unit, or a count out of its range, is a ValueError."""
    for call in (
        (100, 10, "full"), (100, 10, "LoRA"), (100, 10, "lora", 0, "MB"), (100, 10, "lora", 0, "gb"),
        (100, -1, "full_fp32"), (100, 101, "full_fp32"), (100, 101, "full_mixed"), (100, -1, "lora"), (100, -1, "qlora"),
        (100, 10, "qlora", 101), (100, 10, "qlora", -1),
        (100, 10, "lora", 50), (100, 10, "full_mixed", 1), (100, 100, "full_fp32", 100), (100, 10, "lora", -1),
    ):  # fmt: skip
        with at(said(call)):
            student.raises("ValueError", act=lambda call=call: student.training_memory(*call))


# --- task 1.4 ---

RESULTS = ("energy", "emissions")


def energy(lib: Session, call: Call) -> dict[str, float]:
    found = lib.probe("week01.numbers", lib.training_energy(*call))
    name = f"training_energy({', '.join(map(str, call))})"
    if type(found) is not list or len(found) != len(RESULTS):
        what = f"of type {found}" if type(found) is str else show(found)
        raise CheckFailed(f"{name} is {what}\n  expected: two numbers, (energy, emissions)")
    return {key: finite(value, f"the {key} of {name}") for key, value in zip(RESULTS, found, strict=True)}


def compare_energy(student, oracle, call: Call, *keys: str) -> None:
    got, want = energy(student, call), oracle(energy, call)
    for key in keys:
        close(np.array(got[key]), np.array(want[key]), f"the {key} of training_energy({', '.join(map(str, call))})")


def drawn_runs(rng) -> list[Call]:
    """gpu_hours, watts, pue, intensity; the first without an overhead."""
    runs = []
    for hours, pue in ((10, 1.0), (100, 1.1), (10**5, 1.5)):
        overhead = float(pue + (pue > 1) * rng.uniform(0, 0.4))
        drawn = float(rng.uniform(hours, 2 * hours)), float(rng.uniform(200, 700)), overhead, float(rng.uniform(20, 900))
        runs.append(tuple(round(value, 3) for value in drawn))
    return runs


@check("1.4", weight=3, gate=True)
def test_energy(student, oracle, rng):
    """The energy is what the GPUs draw over their hours, in kWh, times what the data centre draws for it."""
    for call in drawn_runs(rng):
        compare_energy(student, oracle, call, "energy")


@check("1.4", weight=3)
def test_emissions(student, oracle, rng):
    """The emissions are those of that energy, overhead included, in kilograms."""
    for call in drawn_runs(rng):
        compare_energy(student, oracle, call, "emissions")


@check("1.4", weight=1)
def test_nothing_drawn(student, oracle, rng):
    """No hours, no power or a grid without emissions give 0, and no error."""
    for call in ((0.0, 400.0, 1.2, 300.0), (24.0, 0.0, 1.2, 300.0), (24.0, 400.0, 1.2, 0.0)):
        compare_energy(student, oracle, call, *RESULTS)


@check("1.4", weight=1)
def test_energy_refuses(student, oracle, rng):
    """Negative hours, power or intensity, or a pue below 1, is a ValueError."""
    for call in (
        (-1.0, 400.0, 1.2, 300.0), (24.0, -400.0, 1.2, 300.0), (24.0, 400.0, 0.99, 300.0), (24.0, 400.0, 1.2, -300.0),
        (-1.0, -400.0, 1.2, 300.0), (-1.0, 0.0, 1.2, 300.0), (24.0, 400.0, 0.0, 300.0),
    ):  # fmt: skip
        with at(f"training_energy({', '.join(map(str, call))})"):
            student.raises("ValueError", act=lambda call=call: student.training_energy(*call))


# --- task 1.5 ---

WIDTH, BLOCKS = 3, 3


def stepped(lib: Session, model: dict, call: Call, x: np.ndarray) -> tuple[list[str], dict[str, Any]]:
    """The names that train, and every parameter after a step over them."""
    built = lib.build("week01.stack", width=WIDTH, blocks=BLOCKS, **model)
    lib.select_trainable(built, *call)
    found = lib.probe("week01.after_a_step", built, tensor(x))
    names = found["trainable"]
    if type(names) is not list or any(type(name) is not str for name in names):
        raise CheckFailed("the names of the trainable parameters cannot be read")
    return names, found["parameters"]


def compare_selected(student, oracle, rng, *call: Any, **model: Any) -> None:
    model["seed"], x = int(rng.integers(2**31)), rng.standard_normal((4, WIDTH))
    arguments = ", ".join(map(repr, call))
    kind = model.get("kind", "plain")
    kind = {"all": f"{kind}, all of it frozen", "half": f"{kind}, half of it frozen"}.get(model.get("frozen", ""), kind)
    with at(f"a model of {BLOCKS} blocks ({kind}) and select_trainable(model, {arguments})"):
        names, got = stepped(student, model, call, x)
        want_names, want = oracle(stepped, model, call, x)
        equal(names, want_names, "the list of trainable parameters")
        for name, value in want.items():
            value = student.array(value, name, value.data.shape)
            close(student.array(got.get(name), name, value.shape), value, f"{name} after a step of gradient descent")


@check("1.5", weight=3, gate=True)
def test_bias(student, oracle, rng):
    """With "bias" the bias terms train, those of norms included, and everything else is frozen."""
    compare_selected(student, oracle, rng, "bias")
    compare_selected(student, oracle, rng, "bias", kind="nested")


@check("1.5", weight=3, gate=True)
def test_last_n(student, oracle, rng):
    """With "last_n" the last n blocks train, and nothing outside of them."""
    compare_selected(student, oracle, rng, "last_n")
    for n in (2, BLOCKS):
        compare_selected(student, oracle, rng, "last_n", n)
    compare_selected(student, oracle, rng, "last_n", 2, kind="odd names")  # blocks that have parameters of their own


@check("1.5", weight=2)
def test_frozen_before(student, oracle, rng):
    """Whether a parameter was frozen before makes no difference."""
    for frozen in ("all", "half"):
        compare_selected(student, oracle, rng, "bias", frozen=frozen)
        compare_selected(student, oracle, rng, "last_n", 2, frozen=frozen)


@check("1.5", weight=1)
def test_names_of_biases(student, oracle, rng):
    """The last part of a name decides: it is "bias" or ends with "_bias"."""
    compare_selected(student, oracle, rng, "bias", kind="odd names")


@check("1.5", weight=1)
def test_other_place(student, oracle, rng):
    """`blocks` says where the blocks stand, by a dotted name."""
    for n in (1, 2):
        compare_selected(student, oracle, rng, "last_n", n, "body.h", kind="nested")
    compare_selected(student, oracle, rng, "last_n", 1, kind="nested")


@check("1.5", weight=1)
def test_not_used(student, oracle, rng):
    """With "bias", n and blocks are not used, so any will do."""
    for n, blocks in ((BLOCKS + 97, "layers"), (-1, "layers"), (1, "encoder.h")):
        compare_selected(student, oracle, rng, "bias", n, blocks)


@check("1.5", weight=1, tier="advanced")
def test_shared_parameters(student, oracle, rng):
    """A Parameter that stands at several names trains if one of its names is chosen."""
    compare_selected(student, oracle, rng, "bias", kind="shared")
    compare_selected(student, oracle, rng, "last_n", 1, kind="shared")


@check("1.5", weight=1, tier="advanced")
def test_no_blocks(student, oracle, rng):
    """With n = 0 nothing trains."""
    compare_selected(student, oracle, rng, "last_n", 0)


@check("1.5", weight=1)
def test_selection_refuses(student, oracle, rng):
    """An unknown method, an n out of its range, or a model without biases is a ValueError, before anything is changed."""
    for kind, call in (
        ("plain", ("bitfit",)), ("plain", ("last_n", -1)), ("plain", ("last_n", BLOCKS + 1)), ("no bias", ("bias",))
    ):  # fmt: skip
        with at(f"a model of {BLOCKS} blocks ({kind}) and select_trainable(model, {', '.join(map(repr, call))})"):
            model = student.build("week01.stack", seed=0, width=WIDTH, blocks=BLOCKS, kind=kind, frozen="half")
            before = student.names_of("trainable_names", model)
            student.raises("ValueError", act=lambda model=model, call=call: student.select_trainable(model, *call))
            equal(student.names_of("trainable_names", model), before, "the list of trainable parameters after the error")
