"""Checks of week 3: the update, freezing, the configuration, saving and loading an adapter.

Models and their parameters are ours, so no task needs another; where the submission's LoRAConfig does not work yet,
task 3.4 gets one of ours in its place. What save_adapter wrote is opened here, from its bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from safetensors.numpy import save

from autograder.judge.check import CheckFailed, Handle, Session, at, check, close, demand, equal, tensor
from autograder.judge.files import open_json, open_tensors

# --- task 3.1 ---

# in_features, out_features, rank, alpha; smallest first, so the first that fails is the smallest that fails
LADDER = ((2, 3, 1, 1.5), (3, 5, 2, 3.0), (7, 4, 3, 5.0), (5, 6, 4, -2.0), (4, 3, 2, 0.0))


def draw_factors(rng, in_features: int, out_features: int, rank: int) -> tuple[np.ndarray, np.ndarray]:
    return rng.standard_normal((rank, in_features)), rng.standard_normal((out_features, rank))


def delta(
    lib: Session, A: np.ndarray, B: np.ndarray, alpha: float, rslora: bool | None = None, dtype: str = "float64"
) -> np.ndarray:
    """The update; rslora None: as the default says."""
    result = lib.lora_delta(tensor(A, dtype), tensor(B, dtype), alpha, *([] if rslora is None else [rslora]))
    return lib.read(result, (len(B), A.shape[1]), dtype)


def compare_deltas(student, oracle, rng, rslora: bool | None = None) -> None:
    for in_features, out_features, rank, alpha in LADDER:
        A, B = draw_factors(rng, in_features, out_features, rank)
        with at(f"A of shape {A.shape}, B of shape {B.shape}, alpha={alpha}" + ("" if rslora is None else f", rslora={rslora}")):
            close(delta(student, A, B, alpha, rslora), oracle(delta, A, B, alpha, rslora), "lora_delta(A, B, alpha)")


@check("3.1", weight=3, gate=True)
def test_delta(student, oracle, rng):
    """The update is (alpha / r) B A, with r the number of rows of A."""
    compare_deltas(student, oracle, rng)


@check("3.1", weight=2)
def test_delta_rank_stabilised(student, oracle, rng):
    """With rslora=True the update is (alpha / sqrt(r)) B A, and with rslora=False it is (alpha / r) B A."""
    for rslora in (True, False):
        compare_deltas(student, oracle, rng, rslora)


def flow(lib: Session, A: np.ndarray, B: np.ndarray, g: np.ndarray, rslora: bool) -> list[np.ndarray]:
    found = lib.probe("week03.products", lib.lora_delta, tensor(A), tensor(B), tensor(g), alpha=3.0, rslora=rslora)
    after = [lib.array(found["factors"][i], f"{'AB'[i]} afterwards", like.shape) for i, like in enumerate((A, B))]
    gradients = [lib.array(found[name], f"the gradient of {name}", like.shape) for name, like in (("A", A), ("B", B))]
    return [*gradients, *after]


@check("3.1", weight=1)
def test_delta_gradients(student, oracle, rng):
    """Gradients flow through the update to A and B, and neither of the two is changed."""
    for rslora in (False, True):
        A, B = draw_factors(rng, 3, 5, 2)
        g = rng.standard_normal((5, 3))
        with at(f"A of shape {A.shape}, B of shape {B.shape}, alpha=3.0, rslora={rslora}"):
            got, want = flow(student, A, B, g, rslora), oracle(flow, A, B, g, rslora)
            for name, mine, right in zip(("the gradient of A", "the gradient of B"), got, want, strict=False):
                close(mine, right, name)
            for name, mine, right in zip("AB", got[2:], (A, B), strict=True):
                close(mine, right, f"{name} afterwards", rtol=0)


@check("3.1", weight=1, tier="advanced")
def test_delta_dtype(student, oracle, rng):
    """The update has the dtype of the factors, and its accuracy."""
    A, B = (np.round(M * 2**5) / 2**5 for M in draw_factors(rng, 7, 4, 3))  # so few bits that every dtype holds them
    for dtype, eps in (("float32", 2.0**-23), ("bfloat16", 2.0**-7), ("float16", 2.0**-10)):
        with at(f"factors of dtype {dtype}"):
            # Inner products of 3 terms, the scaling, and a rounding of each result or factor: 3 + 3 roundings of sum |b| |a|.
            bound = 6 * eps * oracle(delta, np.abs(A), np.abs(B), 5.0)
            close(
                delta(student, A, B, 5.0, None, dtype).astype(np.float64),
                oracle(delta, A, B, 5.0),
                "lora_delta",
                rtol=0,
                atol=bound,
            )


def place_of_delta(lib: Session, dtype: str, rslora: bool) -> list[str]:
    A, B = (lib.build("week03.on_meta", shape=shape, dtype=dtype) for shape in ((2, 3), (5, 2)))
    return lib.names_of("week03.kind_of", lib.lora_delta(A, B, 3.0, rslora))


@check("3.1", weight=1, tier="advanced")
def test_delta_device(student, oracle, rng):
    """The update is made on the device of the factors, here the meta device, where a tensor has a shape and no data."""
    for dtype, rslora in (("float32", False), ("bfloat16", True)):
        with at(f"factors of dtype {dtype} on the device 'meta', rslora={rslora}"):
            got, want = place_of_delta(student, dtype, rslora), oracle(place_of_delta, dtype, rslora)
            equal(got, want, "device, dtype and shape of lora_delta(A, B, alpha)")


@check("3.1", weight=1, tier="advanced")
def test_delta_refuses(student, oracle, rng):
    """Factors that do not fit together, or that are no matrices, are a ValueError."""
    for a, b in (((2, 3), (5, 3)), ((3,), (5, 3)), ((2, 3), (2,)), ((2, 2, 3), (5, 2)), ((2, 3), (5, 1)), ((1, 3), (5, 2))):
        with at(f"A of shape {a}, B of shape {b}"):
            A, B = tensor(rng.standard_normal(a)), tensor(rng.standard_normal(b))
            student.raises("ValueError", act=lambda A=A, B=B: student.lora_delta(A, B, 2.0))


# --- task 3.2 ---

VOCABULARY, WIDTH = 5, 4
TOKENS = np.arange(8).reshape(2, 4) % VOCABULARY
KINDS = ("one block", "two blocks")


def marked(lib: Session, seed: int, kind: str, target: np.ndarray | None = None) -> tuple[Handle, Handle]:
    """A model of a kind after mark_only_lora_trainable, and what it returned; with gradients from before, if a target."""
    model = lib.build("week03.net", seed=seed, kind=kind)
    if target is not None:
        lib.probe("week03.backward", model, tensor(TOKENS), tensor(target))
    return model, lib.mark_only_lora_trainable(model)


def learnt(lib: Session, seed: int, kind: str, target: np.ndarray, steps: int) -> dict[str, Any]:
    model, _ = marked(lib, seed, kind, target if not steps else None)
    return dict(lib.probe("week03.learn", model, tensor(TOKENS), tensor(target), steps=steps))


def compare_learning(student, oracle, rng, kind: str, steps: int) -> None:
    target, seed = rng.standard_normal((*TOKENS.shape, VOCABULARY)), int(rng.integers(2**31))
    got, want = learnt(student, seed, kind, target, steps), oracle(learnt, seed, kind, target, steps)
    start = oracle(untrained, seed, kind)
    for name in sorted(want, key=lambda name: (not np.array_equal(want[name].data, start[name].data), name)):  # the frozen first
        frozen = np.array_equal(want[name].data, start[name].data)
        mine = student.array(got.get(name), name, want[name].data.shape)
        close(mine, want[name].data, f"{name} after training", rtol=0 if frozen else 1e-8)


def untrained(lib: Session, seed: int, kind: str) -> dict[str, Any]:
    return dict(lib.probe("week03.learn", lib.build("week03.net", seed=seed, kind=kind), None, None, steps=0))


@check("3.2", weight=4, gate=True)
def test_training_moves_the_factors_only(student, oracle, rng):
    """Steps of an optimizer that holds every parameter move the factors as they should, and nothing else by a bit."""
    for kind in KINDS:
        with at(f"a model of {kind}"):
            compare_learning(student, oracle, rng, kind, 3)


def trainable(lib: Session, seed: int, kind: str) -> list[str]:
    model, _ = marked(lib, seed, kind)
    return lib.names_of("trainable_names", model)


@check("3.2", weight=2)
def test_names(student, oracle, rng):
    """A factor is a parameter with a part of its name that is exactly lora_A or lora_B, at the end or not."""
    for kind in ("one block", "names of peft", "similar names"):
        with at(f"a model with {kind}"):
            equal(trainable(student, 1, kind), oracle(trainable, 1, kind), "the list of trainable parameters")


@check("3.2", weight=2)
def test_frozen_factors_are_thawed(student, oracle, rng):
    """Factors become trainable also where everything was frozen before."""
    with at("a model that was frozen"):
        equal(trainable(student, 1, "frozen"), oracle(trainable, 1, "frozen"), "the list of trainable parameters")


def count(lib: Session, kind: str) -> float:
    return lib.number(marked(lib, 1, kind)[1])


@check("3.2", weight=2)
def test_count(student, oracle, rng):
    """The returned number is that of all trainable elements, those of a shared parameter counted once."""
    for kind in (*KINDS, "shared"):
        with at(f"a model of {kind}" if kind in KINDS else "a model with a layer that stands at two names"):
            equal(count(student, kind), oracle(count, kind), "what is returned")


@check("3.2", weight=2)
def test_old_gradients(student, oracle, rng):
    """A gradient from before is dropped where a parameter is frozen, and stays at the factors."""
    with at("a model with the gradients of an earlier backward pass, and one step of an optimizer"):
        compare_learning(student, oracle, rng, "one block", 0)
    with at("a model with the gradients of an earlier backward pass"):
        got, want = graded(student), oracle(graded)
        equal(got, want, "the list of parameters that have a gradient, be it zero")


def graded(lib: Session) -> list[str]:
    model, _ = marked(lib, 1, "one block", np.zeros((*TOKENS.shape, VOCABULARY)))
    return lib.names_of("week03.with_gradient", model)


# Factors at the root, deep inside, of one and of four dimensions; names that only resemble them; and Parameters of two
# names, of which named_parameters() gives the first. All in the order in which a model has them: its own ones come first.
PLACES = {
    "lora_A": (2, 3), "lora_A_scale": (2,), "q.lora_B.default.0.inner.weight": (4, 2), "q.lora_b.weight": (4, 3),
    "q.Lora_A.weight": (2, 4), "conv.lora_A.default": (2, 3, 1, 2), "ia3.lora_B.scale": (5,), "first.lora_B": (3, 2),
    "first.weight": (3, 2), "second.weight": (2, 4), "second.lora_A": (2, 4),
}  # fmt: skip
TIED_PLACES = {"first.weight": "first.lora_B", "second.lora_A": "second.weight"}


def placed(lib: Session) -> tuple[list[str], float]:
    model = lib.build("week03.places", shapes=PLACES, tied=TIED_PLACES)
    count = lib.number(lib.mark_only_lora_trainable(model))
    return lib.names_of("trainable_names", model), count


@check("3.2", weight=1, tier="advanced")
def test_places(student, oracle, rng):
    """A factor may stand anywhere and have any shape; of a shared one, the name in named_parameters() decides."""
    with at(f"a model with {', '.join(f'{name} {shape}' for name, shape in PLACES.items())}"):
        (names, number), (want_names, want) = placed(student), oracle(placed)
        equal(names, want_names, "the list of trainable parameters")
        equal(number, want, "what is returned")


@check("3.2", weight=1, tier="advanced")
def test_mode_is_kept(student, oracle, rng):
    """The model stays in the mode, training or evaluation, that it was in."""
    for training in (True, False):
        model = student.build("week03.net", seed=1, kind="one block")
        model.train(training)
        student.mark_only_lora_trainable(model)
        with at(f"a model with training={training}"):
            equal(student.flag(model.training), training, "training")
            equal(student.flag(model.norm.training), training, "training of a layer inside")


@check("3.2", weight=1, tier="advanced")
def test_nothing_to_train(student, oracle, rng):
    """A model without a factor is a ValueError, and its parameters stay as they were."""
    model = student.build("week03.net", seed=1, kind="no factors")
    names = student.names_of("trainable_names", model)
    student.raises("ValueError", act=lambda: student.mark_only_lora_trainable(model))
    equal(student.names_of("trainable_names", model), names, "the list of trainable parameters after the error")


# --- task 3.3 ---

SETTINGS = (
    {"rank": 3, "alpha": 7.5, "dropout": 0.1, "target_modules": ["q"], "rslora": False},
    {"rank": 6, "alpha": 12, "dropout": 0.0, "target_modules": ["v", "down_proj", "q"], "rslora": True},
)


def fields(lib: Session, config: Handle) -> dict[str, Any]:
    """The attributes of a configuration."""
    numbers = {}
    for name in ("rank", "alpha", "dropout", "scaling"):
        numbers[name] = lib.trace[-1] = lib.number(getattr(config, name))  # 8 or 8.0 is no evidence
    return {**numbers, "target_modules": lib.names(config.target_modules), "rslora": lib.flag(config.rslora)}


def made(lib: Session, settings: dict[str, Any]) -> dict[str, Any]:
    return fields(lib, lib.LoRAConfig(**settings))


def compare_fields(got: dict[str, Any], want: dict[str, Any]) -> None:
    for name, right in want.items():
        if isinstance(right, float):
            close(np.array(got[name]), np.array(right), name, rtol=1e-12)
        else:
            equal(got[name], right, name)


@check("3.3", weight=3, gate=True)
def test_fields_and_scaling(student, oracle, rng):
    """The fields are what was passed in, and scaling is alpha / rank, or alpha / sqrt(rank) with rslora."""
    # Drawn ones too: a table of the others' answers, which students have on file, must not pass.
    drawn = [
        {"rank": int(rng.integers(7, 60)), "alpha": int(rng.integers(1, 900)) / 16, "rslora": rslora} for rslora in (False, True)
    ]
    for settings in (*SETTINGS, {"rank": 1, "alpha": 0.25}, {"rank": 5, "alpha": 3.0}, {}, *drawn):
        with at(f"LoRAConfig({', '.join(f'{k}={v!r}' for k, v in settings.items())})"):
            compare_fields(made(student, settings), oracle(made, settings))


@check("3.3", weight=1)
def test_target_modules(student, oracle, rng):
    """target_modules may be any iterable, and is kept as a sorted list without repetitions."""
    for names in (["v", "q", "v"], ("o_proj", "k_proj"), {"b": 1, "a": 2}):
        with at(f"target_modules={names!r}"):
            settings = {"target_modules": names}
            equal(made(student, settings)["target_modules"], oracle(made, settings)["target_modules"], "target_modules")


def made_of_iterator(lib: Session, names: list[str]) -> list[str]:
    return lib.names(lib.LoRAConfig(target_modules=lib.build("generator", items=names)).target_modules)


@check("3.3", weight=1, tier="advanced")
def test_target_modules_once(student, oracle, rng):
    """target_modules may be an iterator, which can be gone through only once."""
    names = ["v", "q", "v"]
    with at(f"target_modules of {names!r}, given as an iterator"):
        equal(made_of_iterator(student, names), oracle(made_of_iterator, names), "target_modules")


BAD = (
    {"rank": 0}, {"rank": -2}, {"rank": 2.5}, {"rank": 2.0}, {"alpha": 0}, {"alpha": -1.0}, {"alpha": float("inf")},
    {"alpha": float("nan")}, {"dropout": 1.0}, {"dropout": -0.1}, {"dropout": float("nan")}, {"target_modules": []},
    {"target_modules": ["q", ""]}, {"target_modules": "q_proj"},
)  # fmt: skip


def all_refused(student: Session, cases: list[tuple[str, Callable[[], Any]]]) -> None:
    """Demand a ValueError in every case; all are tried, since which of them are refused tells mistakes apart."""
    failures = []
    for rung, act in cases:
        try:
            with at(rung):
                student.raises("ValueError", act=act)
        except CheckFailed as failure:
            if failure.kind == "unattempted":
                raise
            failures.append(failure)
    if failures:
        raise failures[0]


def refuse(student: Session, *bad: dict[str, Any]) -> None:
    named = [(", ".join(f"{k}={v!r}" for k, v in settings.items()), settings) for settings in bad]
    all_refused(student, [(rung, lambda s=settings: student.LoRAConfig(**s)) for rung, settings in named])


@check("3.3", weight=1)
def test_refuses_ranks(student, oracle, rng):
    """A rank that is not an int of at least 1 is a ValueError."""
    refuse(student, *BAD[:4])


@check("3.3", weight=1)
def test_refuses_alphas(student, oracle, rng):
    """An alpha that is not a finite number greater than 0 is a ValueError."""
    refuse(student, *BAD[4:8])


@check("3.3", weight=1)
def test_refuses_dropouts(student, oracle, rng):
    """A dropout outside [0, 1) is a ValueError, and 0 and all below 1 are none."""
    refuse(student, *BAD[8:11])
    for settings in ({"dropout": 0}, {"dropout": 0.96875}):
        with at(f"dropout={settings['dropout']}"):
            compare_fields(made(student, settings), oracle(made, settings))


@check("3.3", weight=1)
def test_refuses_target_modules(student, oracle, rng):
    """target_modules that name nothing, hold an empty name, or are a plain str are a ValueError."""
    refuse(student, *BAD[11:])


def preset(lib: Session, name: str) -> dict[str, Any]:
    return fields(lib, lib.LoRAConfig.preset(name))


@check("3.3", weight=2)
def test_presets(student, oracle, rng):
    """The four presets are those of the table, a new object at every call, and any other name is a ValueError."""
    for name in ("tiny", "small", "default", "large"):
        with at(f"preset({name!r})"):
            compare_fields(preset(student, name), oracle(preset, name))
            first, second = student.LoRAConfig.preset(name), student.LoRAConfig.preset(name)
            same = student.probe("same", first, second)
            demand(same is False, "two calls of preset() return one object\n  expected: a new object at every call")
            same = student.probe("same", first.target_modules, second.target_modules)
            demand(same is False, "two calls of preset() share one list of target_modules\n  expected: a new list at every call")
    for name in ("huge", "", "Tiny"):
        with at(f"preset({name!r})"):
            student.raises("ValueError", act=lambda name=name: student.LoRAConfig.preset(name))


def compare_values(got: dict[str, Any], want: dict[str, Any], name: str) -> None:
    """Demand that plain values are equal, 8 and 8.0 among them."""
    for key, right in want.items():
        mine = float(got[key]) if type(got[key]) is int else got[key]
        equal(mine, float(right) if type(right) is int else right, f"{key} in {name}")


def to_peft(lib: Session, settings: dict[str, Any]) -> Any:
    return lib.probe("week03.plain", lib.LoRAConfig(**settings).to_peft())


@check("3.3", weight=3)
def test_to_peft(student, oracle, rng):
    """to_peft gives exactly the seven keys that the contract names, in peft's words, with values that JSON has."""
    for settings in SETTINGS:
        with at(f"rank={settings['rank']}, alpha={settings['alpha']}, rslora={settings['rslora']}"):
            got, want = to_peft(student, settings), oracle(to_peft, settings)
            demand(isinstance(got, dict), "to_peft() is not a dict\n  expected: a dict")
            equal(sorted(got), sorted(want), "the list of keys of to_peft()")
            compare_values(got, want, "to_peft()")


def from_peft(lib: Session, data: dict[str, Any]) -> dict[str, Any]:
    return fields(lib, lib.LoRAConfig.from_peft(data))


# As peft writes it: more keys than the class has fields, in an order of peft's own.
FULL = {
    "alpha_pattern": {}, "auto_mapping": None, "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
    "lora_alpha": 9, "lora_dropout": 0.25, "modules_to_save": None, "peft_type": "LORA", "peft_version": "0.21.2", "r": 4,
    "rank_pattern": {}, "target_modules": ["v", "q"], "task_type": None, "use_dora": False, "use_rslora": True,
}  # fmt: skip


@check("3.3", weight=3)
def test_from_peft(student, oracle, rng):
    """from_peft reads what peft writes; a missing key stands for peft's default, which is not always this class's."""
    for what, data in (
        ("all keys", FULL),
        ("rank 6 and no alpha", {"peft_type": "LORA", "r": 6, "target_modules": ["q", "k"], "use_rslora": True}),
        ("peft_type and target_modules alone", {"peft_type": "LORA", "target_modules": ["q"]}),
    ):
        with at(f"a file with {what}"):
            compare_fields(from_peft(student, data), oracle(from_peft, data))


@check("3.3", weight=1, tier="advanced")
def test_from_peft_argument(student, oracle, rng):
    """from_peft does not change the dict that it reads."""
    given = {key: value for key, value in FULL.items() if key not in ("r", "lora_dropout")}
    data = student.build("held", value=given)
    student.LoRAConfig.from_peft(data)
    after = student.probe("week03.plain", data)
    demand(isinstance(after, dict), "data is not a dict afterwards\n  expected: a dict")
    equal(sorted(after), sorted(given), "the list of keys of data afterwards")
    for key, value in given.items():
        equal(after[key], value, f"{key} in data afterwards")


@check("3.3", weight=2)
def test_round_trip(student, oracle, rng):
    """from_peft(config.to_peft()) equals config, for every field; configurations of other fields are not equal."""
    for settings in SETTINGS:
        with at(f"rank={settings['rank']}, alpha={settings['alpha']}, rslora={settings['rslora']}"):
            config = student.LoRAConfig(**settings)
            again = student.LoRAConfig.from_peft(config.to_peft())
            compare_fields(fields(student, again), oracle(made, settings))
            equal(student.probe("week03.equal", config, again), True, "from_peft(config.to_peft()) == config")
            for change in (
                {"alpha": 1.25}, {"dropout": 0.5}, {"target_modules": ["k"]}, {"rslora": not settings["rslora"]},
                {"rank": 2 * settings["rank"], "alpha": 2 * settings["alpha"]},
            ):  # fmt: skip
                other = student.LoRAConfig(**(settings | change))
                what = f"equality with a configuration of another {' and '.join(change)}"
                equal(student.probe("week03.equal", config, other), False, what)


@check("3.3", weight=2, tier="advanced")
def test_from_peft_refuses(student, oracle, rng):
    """A file that is no LoRA adapter's, or asks for more than the class can express, is a ValueError."""
    changes = (
        {"peft_type": "IA3"}, {"target_modules": "all-linear"}, {"target_modules": None}, {"bias": "all"},
        {"bias": "lora_only"}, {"use_dora": True},
        {"rank_pattern": {"q": 2}}, {"alpha_pattern": {"q": 2}}, {"modules_to_save": ["head"]}, {"r": 0}, {"lora_alpha": -1},
    )  # fmt: skip
    files = [(f"a file with {json.dumps(change)}", FULL | change) for change in changes]
    for key in ("peft_type", "target_modules"):
        files.append((f"a file without {key}", {k: v for k, v in FULL.items() if k != key}))
    all_refused(student, [(rung, lambda data=data: student.LoRAConfig.from_peft(data)) for rung, data in files])


# --- task 3.4 ---

RANK, ALPHA = 2, 3.0
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
TARGETS = ["q", "v"]


def own_config(student: Session, oracle) -> bool:
    """Whether the submission's LoRAConfig works, so that task 3.4 can be checked with it; asked once for each worker."""
    if "config" not in student.facts:
        with student.aside():
            try:
                for settings in SETTINGS:
                    equal(to_peft(student, settings), oracle(to_peft, settings), "to_peft()")
                    compare_fields(made(student, settings), oracle(made, settings))
                    data = oracle(to_peft, settings)
                    compare_fields(from_peft(student, data), oracle(from_peft, data))
                student.facts["config"] = True
            except CheckFailed:
                student.facts["config"] = False
    return bool(student.facts["config"])


def use_config(lib: Session, own: bool) -> None:
    if not own:
        lib.supply("LoRAConfig", lib.build("week03.config_class"))


def saved(
    lib: Session, own: bool, seed: int, kind: str, settings: dict[str, Any], dtype: str = "float64", form: str = "str"
) -> tuple[list[str], dict[str, Any], Any]:
    """What save_adapter writes of a model: the names of the files, the tensors, and the configuration.

    form: "str" or "Path", how the folder is passed; "again": a model was saved there before; "beside": the folder holds
    another file; "transposed": the factors lie in memory column by column.
    """
    use_config(lib, own)
    model = lib.build("week03.net", seed=seed, kind=kind, rank=RANK, alpha=ALPHA)
    model.to(lib.build("dtype", name=dtype))
    if form == "transposed":
        layer = model.get_submodule("block.1.q")
        A = np.arange(RANK * WIDTH, dtype=np.float64).reshape(RANK, WIDTH) / (seed % 7 + 1)
        layer.lora_A = lib.build("week03.transposed", factor=tensor(A))
    config = lib.LoRAConfig(**settings)
    folder = lib.build("week03.folder", files={"notes.txt": np.arange(9, dtype=np.uint8)} if form == "beside" else {})
    place: Any = folder.path if form == "beside" else folder.below
    if form == "again":
        lib.save_adapter(lib.build("week03.net", seed=seed + 1, kind=kind), lib.LoRAConfig(rank=RANK), place)
    lib.save_adapter(model, config, lib.build("week03.folder_path", folder=place) if form == "Path" else place)
    lib.flush()
    with lib.aside():  # bytes are no evidence: the order of tensors and the metadata are free
        files = lib.probe("week03.written", place)
    names = [name for name, data in sorted(files.items()) if name != "notes.txt" or data.tobytes() == bytes(range(9))]
    lib.note(names)
    tensors = open_tensors(files.get(WEIGHTS), WEIGHTS)
    lib.note(tensors)
    described = open_json(files.get(CONFIG), CONFIG)
    lib.note(described)
    return names, tensors, described


SAVED = {"rank": RANK, "alpha": ALPHA, "dropout": 0.125, "target_modules": TARGETS}


def both_saved(student, oracle, form: str) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    args = (own_config(student, oracle), 1, "one block", SAVED, "float64", form)
    return saved(student, *args), oracle(saved, *args)


def compare_tensors(student, oracle, rng, kind: str, dtype: str = "float64", form: str = "str") -> None:
    own, seed = own_config(student, oracle), int(rng.integers(2**31))
    _, got, _ = saved(student, own, seed, kind, SAVED, dtype, form)
    _, want, _ = oracle(saved, own, seed, kind, SAVED, dtype, form)
    equal(sorted(got), sorted(want), f"the list of tensors in {WEIGHTS}")
    for key, right in want.items():
        mine = student.array(got[key], f"{key} in the file", right.data.shape, dtype)
        close(mine, right.data, f"{key} in the file", rtol=0)


@check("3.4", weight=3, gate=True)
def test_saved_tensors(student, oracle, rng):
    """The file holds the factors of every LoRA layer under peft's names, bit for bit, and nothing of the base."""
    for kind in KINDS:
        with at(f"a model of {kind}"):
            compare_tensors(student, oracle, rng, kind)


@check("3.4", weight=2)
def test_saved_config(student, oracle, rng):
    """adapter_config.json holds config.to_peft(), and there is no third file."""
    own = own_config(student, oracle)
    for settings in (SAVED, {"rank": RANK, "alpha": 8, "target_modules": ["v"], "rslora": True}):
        with at(f"alpha={settings['alpha']}, target_modules={settings['target_modules']}"):
            names, _, got = saved(student, own, 1, "one block", settings)
            want_names, _, want = oracle(saved, own, 1, "one block", settings)
            equal(names, want_names, "the list of files in the folder")
            demand(isinstance(got, dict), f"{CONFIG} holds no JSON object\n  expected: an object")
            equal(sorted(got), sorted(want), f"the list of keys in {CONFIG}")
            compare_values(got, want, CONFIG)


@check("3.4", weight=1)
def test_saved_again(student, oracle, rng):
    """The folder may be a str or a Path, and a second adapter replaces the first."""
    for form in ("Path", "again"):
        with at(f"the folder as a {form}" if form == "Path" else "a folder in which an adapter was saved before"):
            compare_tensors(student, oracle, rng, "one block", form=form)
    with at("a folder in which an adapter was saved before"):
        got, want = (described[2] for described in both_saved(student, oracle, "again"))
        demand(isinstance(got, dict), f"{CONFIG} holds no JSON object\n  expected: an object")
        equal(sorted(got), sorted(want), f"the list of keys in {CONFIG}")
        compare_values(got, want, CONFIG)
    with at("a folder that holds notes.txt"):
        got, want = (described[0] for described in both_saved(student, oracle, "beside"))
        equal(got, want, "the list of files in the folder")


@check("3.4", weight=1, tier="advanced")
def test_saved_dtype(student, oracle, rng):
    """Every factor is written with its dtype."""
    for dtype in ("float32", "bfloat16", "float16"):
        with at(f"a model of dtype {dtype}"):
            compare_tensors(student, oracle, rng, "one block", dtype)


@check("3.4", weight=1, tier="advanced")
def test_saved_memory(student, oracle, rng):
    """A factor that is a transposed view is written as it reads, and a shared layer at each of its names."""
    with at("a lora_A that lies in memory column by column"):
        compare_tensors(student, oracle, rng, "one block", form="transposed")
    with at("a layer that stands at two names"):
        compare_tensors(student, oracle, rng, "shared")


@check("3.4", weight=1, tier="advanced")
def test_any_layer(student, oracle, rng):
    """Every module with the two factors as Parameters of its own is a LoRA layer, frozen or not, and no other is."""
    for kind in ("frozen", "other classes", "modules of these names"):
        with at("a model that is frozen" if kind == "frozen" else f"a model with {kind}"):
            compare_tensors(student, oracle, rng, kind)
    own = own_config(student, oracle)
    for kind in ("other classes", "modules of these names"):
        files = adapter_files(*draw_adapter(student, oracle, rng, kind))
        with at(f"a model with {kind}"):
            args = (own, int(rng.integers(2**31)), kind, files)
            close(loaded(student, *args)[0], oracle(loaded, *args)[0], "model(tokens) after load_adapter")


def kept_states(lib: Session, own: bool, training: bool, files: dict[str, np.ndarray] | None) -> tuple[list[str], list[str]]:
    """What a half-frozen model with gradients is before and after it is saved, or has loaded these files."""
    use_config(lib, own)
    model = lib.build("week03.net", seed=1, kind="one block", rank=RANK, alpha=ALPHA)
    lib.probe("week03.backward", model, tensor(TOKENS), tensor(np.ones((*TOKENS.shape, VOCABULARY))))
    model.head.requires_grad_(False)
    model.train(training)
    before = lib.names_of("week03.states", model, files is None)
    if files is None:
        lib.save_adapter(model, lib.LoRAConfig(**SAVED), lib.build("week03.folder", files={}).path)
    else:
        lib.load_adapter(model, lib.build("week03.folder", files=files).path)
    return before, lib.names_of("week03.states", model, files is None)


def compare_states(student, oracle, files: dict[str, np.ndarray] | None) -> None:
    for training in (True, False):
        with at(f"a model with training={training}, gradients, and a frozen head"):
            before, after = kept_states(student, own_config(student, oracle), training, files)
            changed = [f"{old} -> {new}" for old, new in zip(before, after, strict=False) if old != new]
            equal(changed, [], "the list of what has changed in the model")
            equal(len(after), len(before), "the number of modules and parameters")


@check("3.4", weight=1, tier="advanced")
def test_saving_changes_nothing(student, oracle, rng):
    """Saving leaves the model as it was: modes, flags, gradients, dtypes and values."""
    compare_states(student, oracle, None)


@check("3.4", weight=1, tier="advanced")
def test_loading_changes_nothing_else(student, oracle, rng):
    """Loading changes the factors' values, alpha and scaling, and nothing else: no mode, flag, gradient, dtype or base weight."""
    compare_states(student, oracle, adapter_files(*draw_adapter(student, oracle, rng, "one block")))


@check("3.4", weight=1, tier="advanced")
def test_save_refuses(student, oracle, rng):
    """A model without LoRA layers, or a configuration of another rank, is a ValueError, and nothing is written."""
    own = own_config(student, oracle)
    for kind, rank in (("one block", 3), ("no factors", RANK), ("two ranks", RANK), ("two ranks", RANK + 1)):
        ranks = f"{RANK} and {RANK + 1}" if kind == "two ranks" else RANK
        with at(f"a model with {kind}, config.rank={rank}, rank of the layers {ranks}"):
            use_config(student, own)
            model = student.build("week03.net", seed=1, kind=kind, rank=RANK)
            folder = student.build("week03.folder", files={})
            config = student.LoRAConfig(rank=rank, target_modules=TARGETS)
            try:
                student.raises("ValueError", act=lambda m=model, c=config, f=folder: student.save_adapter(m, c, f.below))
            finally:
                with student.aside():
                    files = student.probe("week03.written", folder.path)
                student.note([[name, len(data) > 500] for name, data in sorted(files.items())])  # 500: a file of no tensors
            equal(sorted(files), [], "the list of files in the folder after the error")


def adapter_files(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, np.ndarray]:
    """An adapter's two files as bytes."""
    texts = {WEIGHTS: save(tensors, {"format": "pt"}), CONFIG: json.dumps(config).encode()}
    return {name: np.frombuffer(data, np.uint8) for name, data in texts.items()}


def draw_adapter(student, oracle, rng, kind: str, dtype: str = "float64") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors of the names and shapes that an adapter of such a model has, and peft's configuration of it."""
    shapes = {key: t.data.shape for key, t in oracle(saved, True, 1, kind, SAVED)[1].items()}
    tensors = {key: rng.standard_normal(shape).astype(dtype) for key, shape in shapes.items()}
    return tensors, FULL | {"r": RANK, "lora_alpha": 5.5, "use_rslora": False, "target_modules": TARGETS}


def loaded(
    lib: Session, own: bool, seed: int, kind: str, files: dict[str, np.ndarray], dtype: str = "float64"
) -> tuple[np.ndarray, dict[str, Any], list[np.ndarray], list[float]]:
    """After load_adapter: the model's output, the configuration returned, the factors of a layer as they were held before
    the call, and alpha and scaling of the layer."""
    use_config(lib, own)
    model = lib.build("week03.net", seed=seed, kind=kind, rank=RANK, alpha=ALPHA)
    model.to(lib.build("dtype", name=dtype))
    layer = model.get_submodule("block.1.v")
    held = [lib.keep(layer.lora_A), lib.keep(layer.lora_B)]
    config = lib.load_adapter(model, lib.build("week03.folder", files=files).path)
    y = lib.read(model(tensor(TOKENS)), (*TOKENS.shape, VOCABULARY), dtype)
    factors = [lib.read(held[0], (RANK, WIDTH), dtype), lib.read(held[1], (WIDTH + 1, RANK), dtype)]
    return y, fields(lib, config), factors, [lib.number(layer.alpha), lib.number(layer.scaling)]


@check("3.4", weight=3, gate=True)
def test_loaded_function(student, oracle, rng):
    """A model that has loaded an adapter computes with the file's factors and with its alpha."""
    own = own_config(student, oracle)
    for kind, rslora in (("one block", False), ("two blocks", False), ("two blocks", True)):
        tensors, config = draw_adapter(student, oracle, rng, kind)
        files = adapter_files(tensors, config | {"use_rslora": rslora})
        with at(f"a model of {kind} with alpha={ALPHA}, a file with lora_alpha={config['lora_alpha']}, use_rslora={rslora}"):
            args = (own, int(rng.integers(2**31)), kind, files)
            got, want = loaded(student, *args), oracle(loaded, *args)
            for name, mine, right in zip(("alpha", "scaling"), got[3], want[3], strict=True):
                close(np.array(mine), np.array(right), f"{name} of a layer", rtol=1e-12)
            close(got[0], want[0], "model(tokens) after load_adapter")


@check("3.4", weight=1)
def test_returned_config(student, oracle, rng):
    """load_adapter returns the configuration of the file."""
    own = own_config(student, oracle)
    tensors, config = draw_adapter(student, oracle, rng, "one block")
    files = adapter_files(tensors, config)
    compare_fields(loaded(student, own, 1, "one block", files)[1], oracle(loaded, own, 1, "one block", files)[1])


@check("3.4", weight=1)
def test_loaded_in_place(student, oracle, rng):
    """The factors stay the Parameters that they were, with their dtype, and are trainable or frozen as before."""
    own = own_config(student, oracle)
    for dtype, file_dtype in (("float64", "float32"), ("float32", "float64"), ("bfloat16", "float32")):
        tensors, config = draw_adapter(student, oracle, rng, "one block", file_dtype)
        files = adapter_files(tensors, config)
        with at(f"a model of dtype {dtype}, a file of dtype {file_dtype}"):
            got = loaded(student, own, 1, "one block", files, dtype)[2]
            want = oracle(loaded, own, 1, "one block", files, dtype)[2]
            for name, mine, right in zip(("lora_A", "lora_B"), got, want, strict=True):
                close(mine, right, f"the {name} that was there before load_adapter", rtol=0)
    for frozen in (False, True):
        with at("a model that is frozen" if frozen else "a model that is trainable"):
            got, want = trainable_after(student, own, frozen, files), oracle(trainable_after, own, frozen, files)
            equal(got, want, "the list of trainable parameters")


def trainable_after(lib: Session, own: bool, frozen: bool, files: dict[str, np.ndarray]) -> list[str]:
    use_config(lib, own)
    model = lib.build("week03.net", seed=1, kind="one block", rank=RANK)
    model.requires_grad_(not frozen)
    lib.load_adapter(model, lib.build("week03.folder", files=files).path)
    return lib.names_of("trainable_names", model)


def refused(student: Session, oracle, files: dict[str, np.ndarray], kind: str = "one block") -> None:
    """Demand that load_adapter raises a ValueError and leaves the model as it was."""
    use_config(student, own_config(student, oracle))
    model = student.build("week03.net", seed=1, kind=kind, rank=RANK, alpha=ALPHA)
    folder = student.build("week03.folder", files=files)
    student.raises("ValueError", act=lambda: student.load_adapter(model, folder.path))
    y = student.read(model(tensor(TOKENS)), (*TOKENS.shape, VOCABULARY))
    close(y, oracle(unloaded, kind), "model(tokens) after the error", rtol=0)


def unloaded(lib: Session, kind: str) -> np.ndarray:
    model = lib.build("week03.net", seed=1, kind=kind, rank=RANK, alpha=ALPHA)
    return lib.read(model(tensor(TOKENS)), (*TOKENS.shape, VOCABULARY))


@check("3.4", weight=2)
def test_other_layers_are_refused(student, oracle, rng):
    """A file that lacks a factor of the model, or holds a tensor that is none of its factors, is a ValueError."""
    tensors, config = draw_adapter(student, oracle, rng, "two blocks")
    keys = sorted(tensors)
    missing = {key: tensors[key] for key in keys[:-1]}
    with at(f"a file without {keys[-1]}"):
        refused(student, oracle, adapter_files(missing, config), "two blocks")
    with at("a file with a factor of block.7, which the model has not"):
        more = {keys[0].replace("block.0", "block.7"): tensors[keys[0]]}
        refused(student, oracle, adapter_files(tensors | more, config), "two blocks")
    with at("a file whose block.0 is called layer.0"):
        renamed = {key.replace("block.0", "layer.0"): value for key, value in tensors.items()}
        refused(student, oracle, adapter_files(renamed, config), "two blocks")
    with at("a file that holds a weight of the base too"):
        base = {"base_model.model.norm.weight": np.ones(WIDTH)}
        refused(student, oracle, adapter_files(tensors | base, config), "two blocks")


@check("3.4", weight=1)
def test_other_shapes_are_refused(student, oracle, rng):
    """A tensor of another shape than the factor is a ValueError, also one that would broadcast."""
    tensors, config = draw_adapter(student, oracle, rng, "one block")
    last = max(key for key in tensors if "lora_B" in key)
    for shape in ((1, RANK), tensors[last].shape[::-1], (len(tensors[last]), RANK + 1)):
        with at(f"{last} of shape {shape} for a factor of shape {tensors[last].shape}"):
            refused(student, oracle, adapter_files(tensors | {last: rng.standard_normal(shape)}, config))


@check("3.4", weight=1, tier="advanced")
def test_other_configs_are_refused(student, oracle, rng):
    """A configuration of another rank than the layers', or of another method, is a ValueError."""
    tensors, config = draw_adapter(student, oracle, rng, "one block")
    for change in ({"r": RANK + 1}, {"peft_type": "IA3"}):
        ((key, value),) = change.items()
        with at(f"a file with {key}: {json.dumps(value)}"):
            refused(student, oracle, adapter_files(tensors, config | change))
    rows = {key: value.shape[-2:] for key, value in draw_adapter(student, oracle, rng, "two blocks")[0].items()}
    for key in rows:  # v has one rank more than q
        m, n = rows[key]
        rows[key] = (m, n) if ".q." in key else (m + 1, n) if "lora_A" in key else (m, n + 1)
    mixed = {key: rng.standard_normal(shape) for key, shape in rows.items()}
    for rank in (RANK, RANK + 1):
        with at(f"a model with two ranks, {RANK} and {RANK + 1}, a file of its shapes with r={rank}"):
            refused(student, oracle, adapter_files(mixed, config | {"r": rank}), "two ranks")
