"""Checks of week 4's stretch tasks: checkpointing, the learning rates of LoRA+, applying a method to a model.

Where the submission's own layer or injection does not work yet, tasks 4.6 and 4.7 get stand-ins of ours.
"""

from __future__ import annotations

import numpy as np

from autograder.checks.week04.test_lora_linear import BLOCKS, FEATURES, TOKENS, VOCABULARY, WIDTH, own_layer
from autograder.judge.check import CheckFailed, Handle, Session, at, check, close, demand, equal, tensor

# --- task 4.5 ---

ROWS = 3
BLOCK_SHAPES = {"lora_A": (2, None), "lora_B": (None, 2), "out.weight": (None, None), "out.bias": (None,)}


def run(lib: Session, tell: list[str], seed: int, arguments: list, cotangents: list[np.ndarray], leaf: bool, dropout: float):
    """What the probe `passes` tells of a checkpointed block.

    Args:
        arguments: for each call the positional and the keyword arguments.
        leaf: whether the tensors among them require a gradient.
    """
    block = lib.build("counting_block", seed=seed, width=cotangents[0].shape[-1], dropout=dropout)
    module = lib.checkpointed(block)
    calls = [
        [[to_wire(a) for a in positional], {k: to_wire(a) for k, a in keywords.items()}] for positional, keywords in arguments
    ]
    return lib.probe("passes", module, block, calls, [tensor(g) for g in cotangents], leaf=leaf, seed=seed, tell=tell)


def to_wire(value: object) -> object:
    return tensor(value) if isinstance(value, np.ndarray) else value


def results_of(
    lib: Session, seed: int, arguments: list, cotangents: list[np.ndarray], leaf: bool, dropout: float = 0.0
) -> dict[str, np.ndarray]:
    """Outputs and gradients, by what they are."""
    found = run(lib, ["outputs", "parameters", "inputs"], seed, arguments, cotangents, leaf, dropout)
    pairs = zip(found["outputs"], cotangents, strict=True)
    result = {f"output {i}": lib.array(y, "its output", g.shape) for i, (y, g) in enumerate(pairs, start=1)}
    for name, shape in BLOCK_SHAPES.items():
        full = tuple(cotangents[0].shape[-1] if n is None else n for n in shape)
        result[f"the gradient of {name}"] = lib.array(found["parameters"].get(name), f"the gradient of {name}", full)
    given = [a for positional, keywords in arguments for a in (*positional, *keywords.values()) if isinstance(a, np.ndarray)]
    for i, (gradient, x) in enumerate(zip(found["inputs"], given, strict=True), start=1):
        if leaf:
            name = f"the gradient of tensor {i} of the arguments"
            result[name] = lib.array(gradient, name, x.shape)
    return result


def compare_results(student: Session, oracle, *args: object) -> None:
    """Hold outputs and gradients against the reference's."""
    got, want = results_of(student, *args), oracle(results_of, *args)
    for name in want:
        close(got[name], want[name], name)


@check("4.5", weight=4, gate=True)
def test_checkpointed_gradients(student, oracle, rng):
    """The output and every gradient are those of the block, also where the input requires no gradient."""
    for width in (2, 4):
        for leaf in (True, False):
            x, g = rng.standard_normal((2, ROWS, width))
            seed = int(rng.integers(2**31))
            with at(f"x of shape {x.shape} that {'requires a' if leaf else 'requires no'} gradient"):
                compare_results(student, oracle, seed, [[[x], {}]], [g], leaf)


@check("4.5", weight=3, gate=True)
def test_checkpointed_recomputes(student, oracle, rng):
    """Nothing from inside the block is kept for the backward pass, which calls the block's forward a second time."""
    x, g = rng.standard_normal((2, ROWS, 4))
    for leaf in (True, False):
        with at(f"x of shape {x.shape} that {'requires a' if leaf else 'requires no'} gradient"):
            args = (["calls", "kept"], int(rng.integers(2**31)), [[[x], {}]], [g], leaf, 0.0)
            got, want = run(student, *args), oracle(run, *args)
            equal(got["calls"], want["calls"], "the number of calls of the block's forward, before and after the backward pass")
            equal(got["kept"], want["kept"], "how many numbers from inside the block autograd keeps")


def next_number(lib: Session, *args: object) -> np.ndarray:
    return lib.array(run(lib, ["next"], *args)["next"], "a random number", ())


@check("4.5", weight=2)
def test_checkpointed_dropout(student, oracle, rng):
    """The second call draws the dropout masks of the first, and leaves torch's generator where one call leaves it."""
    for width in (4, 8):
        x, g = rng.standard_normal((2, ROWS, width))
        args = (int(rng.integers(2**31)), [[[x], {}]], [g], True, 0.5)
        with at(f"a block with dropout=0.5, x of shape {x.shape}"):
            compare_results(student, oracle, *args)
            close(next_number(student, *args), oracle(next_number, *args), "the next random number after the backward pass")


@check("4.5", weight=2)
def test_checkpointed_arguments(student, oracle, rng):
    """Positional and keyword arguments reach the block, and tensors among them get their gradients."""
    x, context, g = rng.standard_normal((3, ROWS, 4))
    seed = int(rng.integers(2**31))
    for rung, arguments in (
        ("module(x, context)", [[x, context], {}]),
        ("module(x, None)", [[x, None], {}]),
        ("module(x, scale=0.25)", [[x], {"scale": 0.25}]),
        ("module(x, context=context, scale=-2.0)", [[x], {"context": context, "scale": -2.0}]),
    ):
        with at(rung):
            compare_results(student, oracle, seed, [arguments], [g], True)


def moved(lib: Session, seed: int, x: np.ndarray, target: np.ndarray) -> tuple[list[str], dict[str, np.ndarray]]:
    block = lib.build("counting_block", seed=seed, width=x.shape[-1])
    module = lib.checkpointed(block)
    names = lib.names_of("names_in", module, block)
    lib.probe("train", module, tensor(x), tensor(target), lr=0.05, steps=2)
    shapes = {n: tuple(x.shape[-1] if k is None else k for k in shape) for n, shape in BLOCK_SHAPES.items()}
    return names, {n: lib.read(block.get_parameter(n), shape) for n, shape in shapes.items()}


@check("4.5", weight=2)
def test_checkpointed_parameters(student, oracle, rng):
    """The result's parameters are the block's own, so an optimizer that is given them trains the block."""
    seed, (x, target) = int(rng.integers(2**31)), rng.standard_normal((2, ROWS, 4))
    names, got = moved(student, seed, x, target)
    want_names, want = oracle(moved, seed, x, target)
    equal(names, want_names, "the list of the result's parameters, by their names in the block,")
    for name in want:
        close(got[name], want[name], f"{name} after two steps")


def in_mode(lib: Session, seed: int, x: np.ndarray, training: bool, grad: bool) -> tuple[np.ndarray, bool, int | None]:
    block = lib.build("counting_block", seed=seed, width=x.shape[-1], dropout=0.5)
    found = lib.probe("computes", lib.checkpointed(block), block, tensor(x), training=training, grad=grad, seed=seed)
    return lib.array(found["y"], "its output", x.shape), found["training"], found["calls"] if not grad else None


@check("4.5", weight=1, tier="advanced")
def test_checkpointed_modes(student, oracle, rng):
    """Training and evaluation mode reach the block; under no_grad it is called once and computes the same."""
    x = rng.standard_normal((ROWS, 4))
    seed = int(rng.integers(2**31))
    for training, grad in ((True, True), (False, True), (False, False), (True, False)):
        with at(f"a block with dropout=0.5, training={training}, gradients {'enabled' if grad else 'disabled'}"):
            y, mode, calls = in_mode(student, seed, x, training, grad)
            want, want_mode, want_calls = oracle(in_mode, seed, x, training, grad)
            close(y, want, "its output")
            equal(mode, want_mode, "the block's training mode")
            equal(calls, want_calls, "the number of calls of the block's forward")


@check("4.5", weight=1, tier="advanced")
def test_checkpointed_called_twice(student, oracle, rng):
    """Two calls before the first backward pass do not disturb each other."""
    first, second, g, h = rng.standard_normal((4, ROWS, 4))
    arguments = [[[first], {"scale": 2.0}], [[second], {}]]
    compare_results(student, oracle, int(rng.integers(2**31)), arguments, [g, h], True)


# --- task 4.6 ---

RATES = ((0.001, 16.0), (0.5, 4.0), (0.02, 0.5))


def model_of(lib: Session, own: bool, seed: int, kind: str) -> Handle:
    """The builder's model of the submission's layers, or of ours where its own do not work."""
    if not own:
        lib.supply("LoRALinear", lib.build("wrapper_class"))
    return lib.build("adapted", cls=lib.LoRALinear, seed=seed, kind=kind)


def group_rates(lib: Session, own: bool, seed: int, kind: str, lr: float, ratio: float) -> tuple[dict, dict[str, np.ndarray]]:
    model = model_of(lib, own, seed, kind)
    found = lib.probe("rates", model, lib.lora_plus_groups(model, lr, ratio))
    for name, rate in found["rate"].items():
        if type(rate) not in (int, float):
            raise CheckFailed(f"the learning rate of {name} is {rate!r}\n  expected: a number")
    return found, {name: np.array(float(rate)) for name, rate in found["rate"].items()}


def compare_rates(student: Session, oracle, rng, *kinds: str) -> None:
    """Hold which parameters are listed, and their rates, against the reference."""
    own = own_layer(student, oracle)
    seed = int(rng.integers(2**31))
    for kind in kinds:
        for lr, ratio in RATES:
            with at(f"a model of {MODELS[kind]}, lr={lr}, ratio={ratio}"):
                found, got = group_rates(student, own, seed, kind, lr, ratio)
                like, want = oracle(group_rates, own, seed, kind, lr, ratio)
                equal(found["listed"], like["listed"], "the list of all parameters in the groups")
                for name in want:
                    close(got[name], want[name], f"the learning rate of {name}", rtol=1e-12)


MODELS = {
    "one layer": "one LoRALinear",
    "a head": "three LoRALinear and a trainable head",
    "a norm": "a trainable norm named lora_B_norm",
    "shared": "a layer at two names, two layers with one lora_B, a tied weight",
    "frozen": "a layer whose factors are frozen",
}


@check("4.6", weight=4, gate=True)
def test_plus_rates(student, oracle, rng):
    """The lora_B of every LoRALinear has the learning rate lr * ratio, everything else that is trainable lr."""
    compare_rates(student, oracle, rng, "one layer", "a head")


def steps_after(lib: Session, own: bool, seed: int, kind: str, optimizer: str, x: np.ndarray, target: np.ndarray) -> dict:
    model = model_of(lib, own, seed, kind)
    groups = lib.lora_plus_groups(model, 0.01, 4.0)
    after = lib.probe("descend", model, groups, optimizer, tensor(x), tensor(target))
    names = [f"layers.{i}.{n}" for i in range(3) for n in ("lora_A", "lora_B", "base.weight")]
    shapes = {"lora_A": (2, 4), "lora_B": (4, 2)}
    result = {n: lib.array(after.get(n), n, shapes.get(n.rpartition(".")[2], (4, 4))) for n in names}
    return result | {"head.bias": lib.array(after.get("head.bias"), "head.bias", (4,))}


@check("4.6", weight=3, gate=True)
def test_plus_steps(student, oracle, rng):
    """Optimizers of torch take the groups, and three steps lead where these rates lead."""
    own = own_layer(student, oracle)
    seed, (x, target) = int(rng.integers(2**31)), rng.standard_normal((2, 5, 4))
    for optimizer in ("SGD", "AdamW"):
        with at(f"torch.optim.{optimizer}, lr=0.01, ratio=4.0"):
            got = steps_after(student, own, seed, "a head", optimizer, x, target)
            want = oracle(steps_after, own, seed, "a head", optimizer, x, target)
            for name in want:
                close(got[name], want[name], f"{name} after three steps")


@check("4.6", weight=2)
def test_plus_leaves_frozen_out(student, oracle, rng):
    """A frozen parameter stands in no group, the factors of a frozen layer included."""
    compare_rates(student, oracle, rng, "frozen")


@check("4.6", weight=2)
def test_plus_shared(student, oracle, rng):
    """A shared parameter stands in one group, once: optimizers would refuse it, or move it twice."""
    compare_rates(student, oracle, rng, "shared")


@check("4.6", weight=1, tier="advanced")
def test_plus_by_layer(student, oracle, rng):
    """The layer that holds a parameter decides, not its name."""
    compare_rates(student, oracle, rng, "a norm")


@check("4.6", weight=1, tier="advanced")
def test_plus_options(student, oracle, rng):
    """A group says its parameters and its rate and nothing else: weight decay stays what the optimizer is given."""
    own = own_layer(student, oracle)
    found, _ = group_rates(student, own, 0, "a head", 0.1, 2.0)
    equal(found["options"], oracle(group_rates, own, 0, "a head", 0.1, 2.0)[0]["options"], "the list of keys of the groups")


def rates_of(lib: Session, own: bool, seed: int, part: str) -> dict:
    """What the groups with the default ratio list, and the rates, for a small model."""
    model = model_of(lib, own, seed, "a head" if part == "a Linear alone" else "one layer")
    if part == "a Linear alone":
        model = lib.keep(model.head)
    if part == "a LoRALinear with a frozen lora_A":
        model.requires_grad_(False)
        model.layers[0].lora_B.requires_grad_(True)
    return dict(lib.probe("rates", model, lib.lora_plus_groups(model, 0.25)))


@check("4.6", weight=1, tier="advanced")
def test_plus_edges(student, oracle, rng):
    """The ratio is 16 unless it is given, and a model without LoRALinear, or of which only lora_B learns, has groups too."""
    own = own_layer(student, oracle)
    seed = int(rng.integers(2**31))
    for part in ("one LoRALinear", "a Linear alone", "a LoRALinear with a frozen lora_A"):
        with at(f"a model of {part}, lr=0.25, no ratio"):
            got, want = rates_of(student, own, seed, part), oracle(rates_of, own, seed, part)
            equal(got["listed"], want["listed"], "the list of all parameters in the groups")
            equal(got["rate"], want["rate"], "the learning rates")


@check("4.6", weight=1, tier="advanced")
def test_plus_refuses(student, oracle, rng):
    """A rate or a ratio that is not positive, or a model with nothing to train, is a ValueError."""
    own = own_layer(student, oracle)
    for lr, ratio in ((0.0, 16.0), (-0.1, 16.0), (0.1, 0.0), (0.1, -2.0)):
        with at(f"lr={lr}, ratio={ratio}"):
            model = model_of(student, own, 0, "one layer")
            student.raises("ValueError", act=lambda m=model, lr=lr, r=ratio: student.lora_plus_groups(m, lr, r))
    with at("a model without a trainable parameter"):
        model = model_of(student, own, 0, "one layer")
        model.requires_grad_(False)
        student.raises("ValueError", act=lambda: student.lora_plus_groups(model, 0.1, 16.0))


# --- task 4.7 ---

SIZE = 2
# For each target the layers that it names in the builder's tiny_transformer.
PLACES = {
    "q": ["block.0.attn.q", "block.1.attn.q"],
    "v": ["block.0.attn.v", "block.1.attn.v"],
    "mlp.0": ["block.0.mlp.0", "block.1.mlp.0"],
    "base": ["block.0.base", "block.1.base"],
    "block.1.attn.o": ["block.1.attn.o"],
}
CLASSES = {"lora": "LoRALinear", "adapter": "AdapterLinear"}
METHODS = tuple(CLASSES)


def applied(lib: Session, own: bool, seed: int, method: str, targets: list[str], share: bool = False, times: int = 1) -> tuple:
    """The tiny transformer after apply(), the applier, and what apply() returned; float64."""
    if method == "lora" and not own:
        lib.supply("LoRALinear", lib.build("wrapper_class"))
        lib.supply("inject_lora", lib.build("injector", cls=lib.LoRALinear, places=PLACES))
    model = lib.build("tiny_transformer", seed=seed, vocabulary=VOCABULARY, width=WIDTH, blocks=BLOCKS, share=share)
    applier = lib.PEFTApplier(model, method, targets, SIZE, alpha=3.0)
    returned = [applier.apply() for _ in range(times)]
    model.double()
    return model, applier, returned[-1]


def own_injection(student: Session, oracle) -> bool:
    """Whether the submission's layer and injection work, so that task 4.7 can be checked with them."""
    if not own_layer(student, oracle):
        return False
    if "inject_lora" not in student.facts:
        with student.aside():
            try:
                for targets in (["q"], ["v", "base"]):
                    for share in (False, True):
                        equal(injected_names(student, targets, share), oracle(injected_names, targets, share), "the names")
                student.facts["inject_lora"] = True
            except CheckFailed:
                student.facts["inject_lora"] = False
    return bool(student.facts["inject_lora"])


def injected_names(lib: Session, targets: list[str], share: bool) -> list[list[str]]:
    model = lib.build("tiny_transformer", seed=0, vocabulary=VOCABULARY, width=WIDTH, blocks=BLOCKS, share=share)
    lib.inject_lora(model, targets, rank=SIZE, alpha=3.0)
    lib.inject_lora(model, targets, rank=SIZE, alpha=3.0)
    return [lib.names_of("modules_of_type", model, lib.LoRALinear), lib.names_of("trainable_names", model)]


def owns(student: Session, oracle, method: str) -> bool:
    return method == "adapter" or own_injection(student, oracle)


def where(lib: Session, own: bool, seed: int, method: str, targets: list[str], share: bool, times: int) -> list[str]:
    model, *_ = applied(lib, own, seed, method, targets, share, times)
    return lib.names_of("modules_of_type", model, getattr(lib, CLASSES[method]))


def parts_of(method: str, name: str) -> dict[str, tuple[int, ...]]:
    """The parameters that a layer of a method adds at a place, and their shapes."""
    into, out = FEATURES[name.rpartition(".")[2]]
    if method == "lora":
        return {"lora_A": (SIZE, into), "lora_B": (out, SIZE)}
    return {"down.weight": (SIZE, out), "down.bias": (SIZE,), "up.weight": (out, SIZE), "up.bias": (out,)}


def model_output(
    lib: Session, own: bool, seed: int, method: str, targets: list[str], values: dict, share: bool, times: int
) -> tuple[list[str], np.ndarray | None]:
    """Where the method's layers stand, and the model's output once the parameters are written that `values` has.

    There is no output where the layers stand elsewhere.
    """
    model, *_ = applied(lib, own, seed, method, targets, share, times)
    names = lib.names_of("modules_of_type", model, getattr(lib, CLASSES[method]))
    if names != sorted(values):
        return names, None
    for name, parts in values.items():
        for part, value in parts.items():
            lib.write(model.get_submodule(name).get_parameter(part), value)
    return names, lib.read(model(tensor(TOKENS)), (*TOKENS.shape, VOCABULARY))


def compare_models(student, oracle, rng, method: str, targets: list[str], share: bool = False, times: int = 1) -> None:
    own = owns(student, oracle, method)
    seed = int(rng.integers(2**31))
    args = (own, seed, method, targets)
    want = oracle(where, *args, share, times)
    values = {n: {part: rng.standard_normal(shape) for part, shape in parts_of(method, n).items()} for n in want}
    names, got = model_output(student, *args, values, share, times)
    equal(names, want, f"the list of places where a {CLASSES[method]} stands")
    close(got, oracle(model_output, *args, values, share, times)[1], "model(tokens) with all that was added written")


@check("4.7", weight=4, gate=True)
def test_applier_adapters(student, oracle, rng):
    """With "adapter", each targeted layer's output h becomes h + up(gelu(down(h)))."""
    for targets in (["q"], ["mlp.0"], ["q", "v", "block.1.attn.o"]):
        with at(f'method="adapter", target_modules={targets}'):
            compare_models(student, oracle, rng, "adapter", targets)


@check("4.7", weight=3, gate=True)
def test_applier_lora(student, oracle, rng):
    """With "lora", each targeted layer becomes a LoRALinear of rank `size` with the given alpha."""
    for targets in (["q"], ["mlp.0"], ["q", "v", "block.1.attn.o"]):
        with at(f'method="lora", target_modules={targets}'):
            compare_models(student, oracle, rng, "lora", targets)


def learning(lib: Session, own: bool, seed: int, method: str, target: np.ndarray) -> tuple[list[str], dict[str, np.ndarray]]:
    model, *_ = applied(lib, own, seed, method, ["q", "base"])
    names = lib.names_of("trainable_names", model)
    after = lib.probe("train", model, tensor(TOKENS), tensor(target), lr=0.01, steps=1)
    frozen = {"embed.weight": (VOCABULARY, WIDTH), "block.0.norm.weight": (WIDTH,), "block.1.attn.v.bias": (WIDTH + 1,)}
    return names, {name: lib.array(after.get(name), f"{name} after a step", shape) for name, shape in frozen.items()}


@check("4.7", weight=3)
def test_applier_freezes(student, oracle, rng):
    """What was added is trainable, and everything else, embeddings, norms and untargeted layers included, is frozen."""
    target = rng.standard_normal((*TOKENS.shape, VOCABULARY))
    seed = int(rng.integers(2**31))
    for method in METHODS:
        with at(f'method="{method}"'):
            own = owns(student, oracle, method)
            names, got = learning(student, own, seed, method, target)
            want_names, want = oracle(learning, own, seed, method, target)
            equal(names, want_names, "the list of trainable parameters")
            for name in want:
                close(got[name], want[name], f"{name} after a step", rtol=0)


def counted(lib: Session, own: bool, seed: int, method: str, targets: list[str], share: bool) -> dict[str, float]:
    _, applier, _ = applied(lib, own, seed, method, targets, share)
    return {"trainable": lib.number(applier.trainable), "total": lib.number(applier.total)}


@check("4.7", weight=2)
def test_applier_counts(student, oracle, rng):
    """`trainable` and `total` count elements after apply(), what was added included, a shared parameter once."""
    seed = int(rng.integers(2**31))
    for method in METHODS:
        own = owns(student, oracle, method)
        for targets, share in ((["q"], False), (["v", "mlp.0"], False), (["base"], True)):
            rung = f'method="{method}", target_modules={targets}'
            with at(f"{rung}, a Linear shared by two blocks" if share else rung):
                got = counted(student, own, seed, method, targets, share)
                want = oracle(counted, own, seed, method, targets, share)
                for name in want:
                    equal(got[name], want[name], name)


def beginning(lib: Session, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    model, *_ = applied(lib, True, seed, "adapter", ["mlp.0"])
    layer = model.get_submodule("block.0.mlp.0")
    down = lib.read(layer.down.weight, (SIZE, 8), free=True)
    up, bias = lib.read(layer.up.weight, (8, SIZE), free=True), lib.read(layer.up.bias, (8,), free=True)
    return down, up, bias, lib.read(model(tensor(TOKENS)), (*TOKENS.shape, VOCABULARY), free=True)


def untouched(lib: Session, seed: int) -> np.ndarray:
    model = lib.build("tiny_transformer", seed=seed, vocabulary=VOCABULARY, width=WIDTH, blocks=BLOCKS)
    return lib.read(model(tensor(TOKENS)), (*TOKENS.shape, VOCABULARY))


@check("4.7", weight=2)
def test_applier_start(student, oracle, rng):
    """With new adapters the model computes what it did: up is zero, while down.weight is random."""
    seed = int(rng.integers(2**31))
    down, up, bias, y = beginning(student, seed)
    rows = int(np.linalg.matrix_rank(down))
    student.note([rows, bool(up.any()), bool(bias.any())])
    _, zero, zero_bias, _ = oracle(beginning, seed)
    close(up, zero, "up.weight of a new adapter", rtol=0)
    close(bias, zero_bias, "up.bias of a new adapter", rtol=0)
    demand(rows == SIZE, f"down.weight of a new adapter has {rows} linearly independent rows\n  expected: {SIZE}")
    close(y, oracle(untouched, seed), "model(tokens) with new adapters")


@check("4.7", weight=1)
def test_applier_names(student, oracle, rng):
    """A target is a whole name or what follows a dot at its end, and only nn.Linear layers are replaced."""
    for method in METHODS:
        for targets in (["v"], ["base"]):
            with at(f'method="{method}", target_modules={targets}'):
                compare_models(student, oracle, rng, method, targets)


@check("4.7", weight=1)
def test_applier_in_place(student, oracle, rng):
    """apply() returns the very model that was passed in, and a second call changes nothing."""
    for method in METHODS:
        own = owns(student, oracle, method)
        with at(f'method="{method}"'):
            model, _, returned = applied(student, own, 1, method, ["q"])
            same = student.probe("same", model, returned)
            demand(same is True, "apply() does not return the model that was passed in\n  expected: the same object")
        with at(f'method="{method}", apply() called twice'):
            compare_models(student, oracle, rng, method, ["q", "base"], times=2)
            names = student.names_of("trainable_names", applied(student, own, 1, method, ["base"], times=2)[0])
            equal(names, oracle(names_after, own, method), "the list of trainable parameters")


def names_after(lib: Session, own: bool, method: str) -> list[str]:
    return lib.names_of("trainable_names", applied(lib, own, 1, method, ["base"], times=2)[0])


@check("4.7", weight=1, tier="advanced")
def test_applier_shared_layer(student, oracle, rng):
    """A Linear that stands at several names gets one adapter, which stands at each name that matches."""
    with at('method="adapter", a Linear shared by two blocks, target_modules=["base", "q"]'):
        compare_models(student, oracle, rng, "adapter", ["base", "q"], share=True)
    with at('method="adapter", a Linear shared by two blocks, target_modules=["block.0.base"], then ["block.1.base"]'):
        model, *_ = applied(student, True, 1, "adapter", ["block.0.base"], share=True)
        student.PEFTApplier(model, "adapter", ["block.1.base"], SIZE).apply()
        first, second = model.get_submodule("block.0.base"), model.get_submodule("block.1.base")
        same = student.probe("same", first, second)
        demand(same is True, "another AdapterLinear stands in the second block\n  expected: the same object in both")


@check("4.7", weight=1, tier="advanced")
def test_adapter_layer(student, oracle, rng):
    """An AdapterLinear freezes its base by itself, whoever makes it: only down and up are trainable."""
    layer = student.AdapterLinear(student.build("linear", weight=tensor(np.eye(4)), bias=tensor(np.zeros(4))), SIZE)
    names = student.names_of("trainable_names", layer)
    equal(names, ["down.bias", "down.weight", "up.bias", "up.weight"], "the list of trainable parameters of an AdapterLinear")


def smallest(lib: Session, own: bool, method: str) -> list[str]:
    if method == "lora" and not own:
        lib.supply("LoRALinear", lib.build("wrapper_class"))
        lib.supply("inject_lora", lib.build("injector", cls=lib.LoRALinear, places=PLACES))
    model = lib.build("tiny_transformer", seed=0, vocabulary=VOCABULARY, width=WIDTH, blocks=BLOCKS)
    lib.PEFTApplier(model, method, ["q"], 1).apply()
    return lib.names_of("modules_of_type", model, getattr(lib, CLASSES[method]))


@check("4.7", weight=1, tier="advanced")
def test_applier_smallest(student, oracle, rng):
    """A size of 1 is allowed."""
    for method in METHODS:
        with at(f'method="{method}", size=1'):
            args = owns(student, oracle, method), method
            got = smallest(student, *args)
            equal(got, oracle(smallest, *args), f"the list of places where a {CLASSES[method]} stands")


@check("4.7", weight=1, tier="advanced")
def test_applier_dtype(student, oracle, rng):
    """Adapters have the dtype of the layer that they stand behind."""
    for dtype in ("float64", "float32", "bfloat16"):
        with at(f"a model of dtype {dtype}"):
            model = student.build("tiny_transformer", seed=0, vocabulary=VOCABULARY, width=WIDTH, blocks=BLOCKS)
            model.to(student.build("dtype", name=dtype))
            student.PEFTApplier(model, "adapter", ["v"], SIZE).apply()
            layer = model.get_submodule("block.0.attn.v")
            student.read(layer.up.weight, (WIDTH + 1, SIZE), dtype)
            student.read(layer.down.weight, (SIZE, WIDTH + 1), dtype, free=True)
            student.read(model(tensor(TOKENS)), (*TOKENS.shape, VOCABULARY), dtype, free=True)


@check("4.7", weight=1, tier="advanced")
def test_applier_refuses(student, oracle, rng):
    """An unknown method or a size below 1 is a ValueError at once; an unknown target one of apply(), with no change."""
    for method, size in (("prefix", 2), ("LoRA", 2), ("adapter", 0)):
        with at(f"method={method!r}, size={size}"):
            model = student.build("tiny_transformer", seed=0, vocabulary=VOCABULARY, width=WIDTH, blocks=BLOCKS)
            student.raises("ValueError", act=lambda m=model, a=method, s=size: student.PEFTApplier(m, a, ["q"], s))
    for targets in (["query"], ["q", "w"], ["conv"]):
        with at(f'method="adapter", target_modules={targets}'):
            model = student.build("tiny_transformer", seed=0, vocabulary=VOCABULARY, width=WIDTH, blocks=BLOCKS)
            before = student.names_of("trainable_names", model)
            applier = student.PEFTApplier(model, "adapter", targets, SIZE)
            student.raises("ValueError", act=lambda a=applier: a.apply())
            found = student.names_of("modules_of_type", model, student.AdapterLinear)
            equal(found, [], "the list of layers that were replaced all the same")
            equal(student.names_of("trainable_names", model), before, "the list of trainable parameters after the error")
