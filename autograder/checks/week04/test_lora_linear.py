"""Checks of week 4: LoRALinear, merging, changing the rank, injection.

Every check writes the base weight and both factors itself, so neither the initialisation nor an earlier task decides
it: where the submission's own layer does not work yet, tasks 4.2 and 4.3 get an object of its class with the
contract's attributes, and task 4.4 a class of ours in its place.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from autograder.judge.check import CheckFailed, Handle, Session, at, check, close, demand, equal, tensor


class Case(NamedTuple):
    """A layer's whole state: base.weight (out, in), base.bias (out) or None, A (rank, in), B (out, rank), alpha."""

    weight: np.ndarray
    bias: np.ndarray | None
    A: np.ndarray
    B: np.ndarray
    alpha: float

    @property
    def rung(self) -> str:
        sizes = f"in_features={self.A.shape[1]}, out_features={len(self.B)}, rank={len(self.A)}, alpha={self.alpha}"
        return sizes if self.bias is not None else f"{sizes}, no bias"


# in_features, out_features, rank, alpha, bias; smallest first, so the first that fails is the smallest that fails
LADDER = ((2, 3, 1, 1.5, False), (3, 5, 2, 3.0, True), (6, 4, 3, 12.0, True), (8, 8, 4, 2.0, False))


def draw(rng, in_features, out_features, rank, alpha, bias, scale=1.0) -> Case:
    weight, A, B = (rng.standard_normal(s) for s in ((out_features, in_features), (rank, in_features), (out_features, rank)))
    return Case(weight, rng.standard_normal(out_features) if bias else None, A, scale * B, alpha)


def make(lib: Session, case: Case, own: bool = True, dropout: float = 0.0, dtype: str = "float64") -> Handle:
    """The submission's layer in the case's state, or (own=False) an object that has just that state."""
    bias = None if case.bias is None else tensor(case.bias, dtype)
    base = lib.build("linear", weight=tensor(case.weight, dtype), bias=bias)
    rank = len(case.A)
    if not own:
        base.requires_grad_(False)
        attributes = {"base": base, "rank": rank, "alpha": case.alpha, "scaling": case.alpha / rank}
        attributes |= {"merged": False, "enabled": True}
        factors = {"lora_A": tensor(case.A, dtype), "lora_B": tensor(case.B, dtype)}
        return lib.build("bare_module", cls=lib.LoRALinear, attributes=attributes, parameters=factors)
    layer = lib.LoRALinear(base, rank=rank, alpha=case.alpha, dropout=dropout)
    layer.to(lib.build("dtype", name=dtype))  # a factor of another dtype is a check of its own
    lib.write(layer.lora_A, case.A, dtype)
    lib.write(layer.lora_B, case.B, dtype)
    return layer


def ask_once(student: Session, oracle, program) -> bool:
    """Whether a program on a fixed case gives what it gives on the reference; asked once for each worker."""
    if program.__name__ not in student.facts:
        rng = np.random.Generator(np.random.PCG64(0))
        case, x = draw(rng, *LADDER[1]), rng.standard_normal((4, 3))
        with student.aside():
            try:
                close(program(student, case, x), oracle(program, case, x), "its result")
                student.facts[program.__name__] = True
            except CheckFailed:
                student.facts[program.__name__] = False
    return bool(student.facts[program.__name__])


def own_state(student: Session, oracle) -> bool:
    """Whether the submission's constructor works, so that tasks 4.2 and 4.3 can be checked on what it makes."""
    return ask_once(student, oracle, state)


def own_layer(student: Session, oracle) -> bool:
    """Whether the submission's layer works, so that task 4.4 can be checked with it."""
    return ask_once(student, oracle, output)


def state(lib: Session, case: Case, _: np.ndarray) -> np.ndarray:
    layer = make(lib, case)
    flags = [lib.flag(layer.merged), lib.flag(layer.enabled)]
    return np.array([lib.number(layer.rank), lib.number(layer.alpha), lib.number(layer.scaling), *flags])


# --- task 4.1 ---


def output(
    lib: Session, case: Case, x: np.ndarray, merged: bool = False, enabled: bool = True, training: bool = True
) -> np.ndarray:
    layer = make(lib, case)
    layer.train(training)
    if merged:
        layer.merged = True
    if not enabled:
        layer.enabled = False
    return lib.read(layer(tensor(x)), (*x.shape[:-1], len(case.weight)))


@check("4.1", weight=4, gate=True)
def test_forward(student, oracle, rng):
    """The output is W0 x + b + (alpha / rank) B A x, for inputs with any number of leading dimensions."""
    for shape in LADDER:
        case = draw(rng, *shape)
        for leading in ((4,), (2, 3), ()):
            x = rng.standard_normal((*leading, shape[0]))
            frozen = oracle(output, case._replace(B=0 * case.B), x)
            with at(f"{case.rung}, x of shape {x.shape}"):
                close(output(student, case, x), oracle(output, case, x), "layer(x)", known=frozen)


def strided_output(lib: Session, case: Case, x: np.ndarray) -> np.ndarray:
    view = lib.build("column_major", value=tensor(x))
    return lib.read(make(lib, case)(view), (*x.shape[:-1], len(case.weight)))


@check("4.1", weight=1, tier="advanced")
def test_strides(student, oracle, rng):
    """The input may be a view whose elements do not lie row after row in memory, as a transposed tensor is."""
    case = draw(rng, *LADDER[2])
    for leading in ((4,), (2, 3)):
        x = rng.standard_normal((*leading, 6))
        with at(f"{case.rung}, x a transposed view of shape {x.shape}"):
            close(strided_output(student, case, x), oracle(strided_output, case, x), "layer(x)")


def start(lib: Session, case: Case, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    bias = None if case.bias is None else tensor(case.bias)
    layer = lib.LoRALinear(lib.build("linear", weight=tensor(case.weight), bias=bias), len(case.A), case.alpha)
    layer.double()
    A, B = lib.read(layer.lora_A, case.A.shape, free=True), lib.read(layer.lora_B, case.B.shape, free=True)
    return A, B, lib.read(layer(tensor(x)), (*x.shape[:-1], len(case.weight)), free=True)


@check("4.1", weight=2)
def test_start(student, oracle, rng):
    """A new layer computes exactly what its base does: B is zero, while A is random with independent rows."""
    for shape in LADDER:
        case = draw(rng, *shape)
        x = rng.standard_normal((4, shape[0]))
        with at(case.rung):
            A, B, y = start(student, case, x)
            _, zero, base_only = oracle(start, case, x)
            student.note([bool(B.any()), int(np.linalg.matrix_rank(A))])
            close(B, zero, "lora_B of a new layer", rtol=0)
            found = int(np.linalg.matrix_rank(A))
            demand(
                found == len(case.A),
                f"lora_A of a new layer has {found} linearly independent rows\n"
                f"  expected: {len(case.A)}, or the gradient of B cannot reach every direction",
            )
            close(y, base_only, "layer(x) of a new layer")


@check("4.1", weight=1)
def test_each_layer_is_drawn(student, oracle, rng):
    """Two new layers have different A: it is drawn anew for each."""
    case = draw(rng, *LADDER[1])
    x = rng.standard_normal((4, 3))
    with at(case.rung):
        first, second = (start(student, case, x)[0] for _ in range(2))
        student.note([int(np.linalg.matrix_rank(first)), bool((first == second).all())])
        demand(
            bool((first != second).any()),
            "lora_A of two new layers holds the same numbers\n  expected: random ones, drawn anew for each layer",
        )


def attributes(lib: Session, case: Case) -> tuple[dict[str, float], list[bool], list[str]]:
    layer = make(lib, case)
    numbers = {name: lib.number(getattr(layer, name)) for name in ("rank", "alpha", "scaling")}
    names = lib.names_of("trainable_names", layer)
    lib.trace[-1] = [sorted({"lora_A", "lora_B"} & set(names)), len(names)]  # what else there is may have any name
    return numbers, [lib.flag(layer.merged), lib.flag(layer.enabled)], names


@check("4.1", weight=1)
def test_attributes(student, oracle, rng):
    """A new layer knows its rank, alpha and scaling, is enabled and not merged, and only its factors are trainable."""
    for shape in LADDER[:2]:
        case = draw(rng, *shape)
        with at(case.rung):
            (numbers, flags, names), (want, want_flags, want_names) = attributes(student, case), oracle(attributes, case)
            for name, right in want.items():
                close(np.array(numbers[name]), np.array(right), name, rtol=1e-12)
            equal(flags, want_flags, "merged and enabled of a new layer")
            equal(names, want_names, "the list of trainable parameters")


def gradients(lib: Session, case: Case, x: np.ndarray, g: np.ndarray, training: bool) -> tuple[list[str], list[np.ndarray]]:
    layer = make(lib, case)
    layer.train(training)
    result = lib.probe("vjp", layer, tensor(x), tensor(g))
    found = result["parameters"]
    arrays = [
        lib.array(found.get(name), f"the gradient of {name}", like.shape)
        for name, like in (("lora_A", case.A), ("lora_B", case.B))
    ]
    return sorted(found), [*arrays, lib.array(result["x"], "the gradient of x", x.shape)]


@check("4.1", weight=2)
def test_gradients(student, oracle, rng):
    """Back-propagation gives lora_A, lora_B and x their exact gradients, and the base none."""
    for shape in LADDER:
        case = draw(rng, *shape)
        for B, training in ((np.zeros_like(case.B), True), (case.B, True), (case.B, False)):  # at the start only B learns
            now = case._replace(B=B)
            x, g = rng.standard_normal((4, shape[0])), rng.standard_normal((4, shape[1]))
            with at(f"{now.rung}, B = 0" if not B.any() else now.rung if training else f"{now.rung}, evaluation mode"):
                names, got = gradients(student, now, x, g, training)
                want_names, want = oracle(gradients, now, x, g, training)
                for what, mine, right in zip(("lora_A", "lora_B", "x"), got, want, strict=True):
                    close(mine, right, f"the gradient of {what}")
                equal(names, want_names, "the list of parameters that got a gradient")


def trained(lib: Session, case: Case, x: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
    after = lib.probe("train", make(lib, case), tensor(x), tensor(target), lr=0.001, steps=3)
    shapes = {"base.weight": case.weight, "base.bias": case.bias, "lora_A": case.A, "lora_B": case.B}
    return {n: lib.array(after.get(n), f"{n} after three steps", s.shape) for n, s in shapes.items() if s is not None}


@check("4.1", weight=1)
def test_training_moves_the_factors_only(student, oracle, rng):
    """Three steps of gradient descent move lora_A and lora_B as they should and do not move the base by a bit."""
    case = draw(rng, *LADDER[1])
    x, target = rng.standard_normal((4, 3)), rng.standard_normal((4, 5))
    with at(case.rung):
        got, want = trained(student, case, x, target), oracle(trained, case, x, target)
        for name in want:
            close(got[name], want[name], f"{name} after three steps", rtol=0 if name.startswith("base") else 1e-8)


@check("4.1", weight=1)
def test_switches(student, oracle, rng):
    """While the layer is merged, or not enabled, its output is base(x): the branch is left out."""
    case = draw(rng, *LADDER[2])
    x = rng.standard_normal((2, 6))
    for training in (True, False):
        for merged, enabled in ((True, True), (False, False), (True, False)):
            with at(f"{case.rung}, merged={merged}, enabled={enabled}, {'training' if training else 'evaluation'} mode"):
                args = case, x, merged, enabled, training
                close(output(student, *args), oracle(output, *args), "layer(x)")


def dropped(lib: Session, case: Case, x: np.ndarray, p: float, training: bool) -> np.ndarray:
    layer = make(lib, case, dropout=p)
    layer.train(training)
    return lib.read(layer(tensor(x)), (len(x), len(case.weight)), free=True)


def mask_before(linear: np.ndarray, got: np.ndarray, undropped: np.ndarray) -> np.ndarray:
    """What the input of a linear map (out, in) was multiplied by, elementwise, if it gave `got` in place of `undropped`."""
    entered, right = (np.linalg.lstsq(linear, y.T, rcond=None)[0].T for y in (got, undropped))
    return entered / right


@check("4.1", weight=2, tier="advanced")
def test_dropout(student, oracle, rng):
    """Dropout acts on the input of the branch, elementwise, in training mode only, and never on the base."""
    p = 0.25
    case = draw(rng, 5, 9, 5, 2.5, True)  # A square and B tall: what entered the branch can be recovered
    x = rng.standard_normal((200, 5))
    with at(f"{case.rung}, dropout={p}"):
        still = oracle(dropped, case, x, p, False)
        kept, again, got = (dropped(student, case, x, p, training) for training in (False, False, True))
        # The branch is linear: its output under a mask is the branch applied to the masked input, so the oracle's
        # outputs on the unit vectors lead back from the output to the input.
        base_only = oracle(output, case, x, True)
        whole = oracle(output, case, np.eye(5)).T - case.bias[:, None]
        branch = whole - oracle(output, case, np.eye(5), True).T + case.bias[:, None]
        # Places where a mask may act: the linear map behind each, and what is added after it. Only at the true place are the
        # ratios those of a mask, of one or two values.
        places = {"x": (whole, case.bias), "A": (branch, base_only), "B": (case.B, base_only), "y": (np.eye(9), base_only)}
        masks = {place: mask_before(linear, got - rest, still - rest) for place, (linear, rest) in places.items()}
        values = {place: np.unique(mask.round(4)) for place, mask in masks.items()}
        student.note({place: found if len(found) <= 2 else "no mask" for place, found in values.items()})
        student.note(kept if np.array_equal(kept, again) else "random in eval mode")
        close(kept, still, "layer(x) in eval mode")
        ratio, change = masks["A"], got - base_only
        close(branch @ (x * ratio).T, change.T, "the branch's output in training mode, minus what its input explains", rtol=1e-7)
        survivors = np.abs(ratio - 1 / (1 - p)) < 1e-5
        demand(
            bool((survivors | (np.abs(ratio) < 1e-5)).all()),
            f"in training mode the branch's input is x times {np.unique(ratio.round(3))[:6]}\n"
            f"  expected: each element of x times 0 or 1 / (1 - p) = {1 / (1 - p):.3f}, at random",
        )
        # 1,000 independent elements: five standard deviations of a binomial share are 0.07.
        share = float(1 - survivors.mean())
        demand(abs(share - p) < 0.07, f"dropout removed {share:.1%} of the branch's input\n  expected: about {p:.0%}")
        both = (survivors.any(axis=1) & ~survivors.all(axis=1)).mean()
        demand(both > 0.5, "dropout removed whole rows of x\n  expected: each element by itself")
        layer, given = make(student, case, dropout=p), student.build("column_major", value=tensor(x))
        layer(given)
        seen = student.read(given, x.shape, free=True)
        student.note(bool((seen == x).all()))
        close(seen, x, "x after layer(x) in training mode", rtol=0)


@check("4.1", weight=1, tier="advanced")
def test_dtype(student, oracle, rng):
    """The factors and the output have the dtype of the base layer."""
    case = draw(rng, *LADDER[1])
    x = rng.standard_normal((4, 3))
    for dtype in ("float32", "float64", "bfloat16"):
        with at(f"a base layer of dtype {dtype}"):
            base = student.build("linear", weight=tensor(case.weight, dtype), bias=tensor(case.bias, dtype))
            layer = student.LoRALinear(base, 2, 3.0)
            student.read(layer.lora_A, case.A.shape, dtype, free=True)
            student.read(layer.lora_B, case.B.shape, dtype, free=True)
            student.read(layer(tensor(x, dtype)), (4, 5), dtype, free=True)


@check("4.1", weight=1, tier="advanced")
def test_base_is_kept(student, oracle, rng):
    """`base` is the very layer that was passed in: a change of its weight changes the output."""
    case = draw(rng, *LADDER[1])
    x = rng.standard_normal((4, 3))
    other = case._replace(weight=rng.standard_normal((5, 3)))
    with at(case.rung):
        base = student.build("linear", weight=tensor(case.weight), bias=tensor(case.bias))
        layer = student.LoRALinear(base, 2, 3.0)
        layer.double()
        student.write(layer.lora_A, case.A)
        student.write(layer.lora_B, case.B)
        student.write(base.weight, other.weight)
        close(student.read(layer(tensor(x)), (4, 5)), oracle(output, other, x), "layer(x) after base.weight was changed")
        same = student.probe("same", layer.base, base)
        demand(same is True, "layer.base is not the layer that was passed in\n  expected: the same object")


@check("4.1", weight=1, tier="advanced")
def test_refuses_bad_arguments(student, oracle, rng):
    """A rank outside 1 ... min(in_features, out_features), or a dropout outside [0, 1), is a ValueError."""
    # A rank that is too large comes first: unchecked it raises nothing, while a rank of 0 may divide by zero.
    wide, tall = (5, 3), (3, 5)
    for (n, m), rank, dropout in (
        (wide, 4, 0.0), (tall, 4, 0.0), (wide, 0, 0.0), (wide, -2, 0.0), (wide, 2, 1.0), (wide, 2, -0.1)
    ):  # fmt: skip
        with at(f"in_features={n}, out_features={m}, rank={rank}, dropout={dropout}"):
            base = student.build("linear", weight=tensor(rng.standard_normal((m, n))), bias=None)
            student.raises("ValueError", act=lambda b=base, r=rank, d=dropout: student.LoRALinear(b, r, 1.0, dropout=d))


# --- task 4.2 ---

DROPS_ALL = 1 - 1e-9  # so near 1 that an update that passes through dropout is zero, whatever the random numbers


def weight_after(
    lib: Session,
    own: bool,
    case: Case,
    *calls: str,
    training: bool = False,
    enabled: bool = True,
    dtype: str = "float64",
    earlier: Case | None = None,
) -> np.ndarray:
    """base.weight, the Parameter that it was at first, after some calls of merge and unmerge.

    Args:
        earlier: the layer was merged and unmerged with this case's factors before.
    """
    layer = make(lib, (earlier or case)._replace(weight=np.zeros_like(case.weight)), own, dropout=DROPS_ALL, dtype=dtype)
    layer.train(training)
    if not enabled:
        layer.enabled = False
    weight = lib.keep(layer.base.weight)
    if earlier is not None:
        layer.merge()
        layer.unmerge()
        lib.write(layer.lora_A, case.A, dtype)
        lib.write(layer.lora_B, case.B, dtype)
    lib.write(weight, case.weight, dtype)  # as a checkpoint that is loaded into a wrapped model would
    for call in calls:
        getattr(layer, call)()
    return lib.read(weight, case.weight.shape, dtype)


@check("4.2", weight=3, gate=True)
def test_merge(student, oracle, rng):
    """merge() adds (alpha / rank) B A to base.weight, in place."""
    own = own_state(student, oracle)
    for shape in LADDER:
        case = draw(rng, *shape)
        with at(case.rung):
            want = oracle(weight_after, True, case, "merge")
            close(weight_after(student, own, case, "merge"), want, "base.weight after merge()", known=case.weight)


@check("4.2", weight=3, gate=True)
def test_unmerge(student, oracle, rng):
    """merge() then unmerge() brings each weight back within 4 eps (|W0| + |dW|), in float32."""
    own = own_state(student, oracle)
    eps = float(np.finfo(np.float32).eps)
    for shape in LADDER:
        for scale in (1.0, 1e3):
            case = draw(rng, *shape, scale)
            # Of one sign: where terms of B A cancel, a correct fused product rounds by more than |dW| tells.
            case = case._replace(A=np.abs(case.A), B=np.abs(case.B))
            before = case.weight.astype(np.float32)
            merged = oracle(weight_after, True, case, "merge")
            with at(f"{case.rung}, B of size {scale:g}"):
                after = weight_after(student, own, case, "merge", "unmerge", dtype="float32")
                bound = 4 * eps * (np.abs(before) + np.abs(merged - case.weight))
                close(after, before, "base.weight after merge() and unmerge()", rtol=0, atol=bound)


@check("4.2", weight=2)
def test_twice_is_once(student, oracle, rng):
    """Merging a merged layer changes nothing, and neither does unmerging one that is not merged."""
    own = own_state(student, oracle)
    case = draw(rng, *LADDER[1])
    with at(case.rung):
        once = oracle(weight_after, True, case, "merge")
        close(weight_after(student, own, case, "merge", "merge"), once, "base.weight after merge() twice", known=case.weight)
        close(weight_after(student, own, case, "unmerge"), case.weight, "base.weight after unmerge() alone", rtol=0)
        calls = ("merge", "unmerge", "unmerge")
        close(weight_after(student, own, case, *calls), case.weight, "base.weight after merge() and unmerge() twice")
        calls = ("merge", "unmerge", "merge")
        close(weight_after(student, own, case, *calls), once, "base.weight after merge(), unmerge(), merge()")


@check("4.2", weight=1)
def test_merge_of_new_factors(student, oracle, rng):
    """A layer that was merged and unmerged before merges the factors that it has now."""
    own = own_state(student, oracle)
    case, earlier = draw(rng, *LADDER[1]), draw(rng, *LADDER[1])
    with at(f"{case.rung}, other factors merged and unmerged before"):
        got = weight_after(student, own, case, "merge", earlier=earlier)
        close(got, oracle(weight_after, True, case, "merge"), "base.weight after merge()", known=case.weight)


@check("4.2", weight=1)
def test_flag(student, oracle, rng):
    """`merged` says whether the weight holds the update."""
    own = own_state(student, oracle)
    layer = make(student, draw(rng, *LADDER[1]), own)
    equal(student.flag(layer.merged), False, "merged of a new layer")
    layer.merge()
    equal(student.flag(layer.merged), True, "merged after merge()")
    layer.unmerge()
    equal(student.flag(layer.merged), False, "merged after unmerge()")


@check("4.2", weight=1)
def test_merge_in_training_mode(student, oracle, rng):
    """Training mode, dropout and `enabled` make no difference to what is merged."""
    own = own_state(student, oracle)
    case = draw(rng, *LADDER[2])
    for enabled in (True, False):
        with at(f"{case.rung}, dropout={DROPS_ALL}, training mode, enabled={enabled}"):
            got = weight_after(student, own, case, "merge", training=True, enabled=enabled)
            close(got, oracle(weight_after, True, case, "merge"), "base.weight after merge()", known=case.weight)


@check("4.2", weight=1, tier="advanced")
def test_merge_leaves_the_rest(student, oracle, rng):
    """Merging and unmerging change neither the bias nor the factors, and the weight stays frozen."""
    own = own_state(student, oracle)
    case = draw(rng, *LADDER[2])
    with at(case.rung):
        layer = make(student, case, own)
        layer.base.weight.requires_grad_(False)
        for call in ("merge", "unmerge"):
            getattr(layer, call)()
            for name, handle, want in (
                ("base.bias", layer.base.bias, case.bias),
                ("lora_A", layer.lora_A, case.A),
                ("lora_B", layer.lora_B, case.B),
            ):
                close(student.read(handle, want.shape), want, f"{name} after {call}()", rtol=0)
            equal(student.flag(layer.base.weight.requires_grad), False, f"base.weight.requires_grad after {call}()")


# --- task 4.3 ---


def factors_after(lib: Session, own: bool, case: Case, new_rank: int) -> tuple[np.ndarray, np.ndarray]:
    layer = make(lib, case, own)
    layer.set_rank(new_rank)
    out_features, in_features = case.weight.shape
    A = lib.read(layer.lora_A, (new_rank, in_features), free=True)
    return A, lib.read(layer.lora_B, (out_features, new_rank), free=True)


def update(lib: Session, case: Case) -> np.ndarray:
    """dW transposed, as the layer's branch makes it of the unit vectors."""
    units = np.eye(case.weight.shape[1])
    return output(lib, case._replace(weight=np.zeros_like(case.weight), bias=None), units)


def update_of(oracle, case: Case, A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """dW transposed for factors that a submission made: linear in B A, and the oracle is asked what it makes of one entry."""
    one_A, one_B = np.zeros_like(A), np.zeros_like(B)
    one_A[0, 0] = one_B[0, 0] = 1.0
    one: np.ndarray = oracle(update, case._replace(A=one_A, B=one_B))
    return one[0, 0] * (B @ A).T


# rank -> new rank, on a layer of 7 x 5. The first dW to be shrunk has no singular value 0, whose vectors are arbitrary.
GROW, SHRINK = ((1, 2), (2, 3), (2, 5)), ((5, 3), (4, 2), (2, 1))


def spectral(rng, rank: int) -> Case:
    """A layer whose dW has well separated singular values, and factors that do not show them."""
    U, V = (np.linalg.qr(rng.standard_normal((n, rank)))[0] for n in (7, 5))
    mix = rng.standard_normal((rank, rank)) + 3 * np.eye(rank)
    B = U * 2.0 ** np.arange(rank) @ mix
    return Case(rng.standard_normal((7, 5)), None, np.linalg.solve(mix, V.T), B, 3.0)


@check("4.3", weight=3, gate=True)
def test_growing_keeps_the_function(student, oracle, rng):
    """Growing the rank leaves dW = (alpha / rank) B A as it was, although alpha / rank is smaller now."""
    own = own_state(student, oracle)
    for rank, new_rank in GROW:
        case = spectral(rng, rank)
        with at(f"rank {rank}, set_rank({new_rank})"):
            A, B = factors_after(student, own, case, new_rank)
            # The new rows are random, so what the old ones make, and which of the new entries are zero.
            student.note([B[:, :rank] @ A[:rank], bool(A[rank:].any()), bool(B[:, rank:].any())])
            close(update_of(oracle, case, A, B), oracle(update, case), "dW (transposed) after set_rank()")


@check("4.3", weight=3, gate=True)
def test_shrinking_is_the_best_truncation(student, oracle, rng):
    """Shrinking the rank keeps the best approximation of dW that the smaller rank allows: its truncated SVD."""
    own = own_state(student, oracle)
    for rank, new_rank in SHRINK:
        case = spectral(rng, rank)
        with at(f"rank {rank}, set_rank({new_rank})"):
            A, B = factors_after(student, own, case, new_rank)
            best_A, best_B = oracle(factors_after, True, case, new_rank)
            want = oracle(update, case._replace(A=best_A, B=best_B))
            got = update_of(oracle, case, A, B)
            # Not dW itself: put together wrongly, it depends on the signs that the SVD happened to take.
            student.note([spectrum(got), same_rows(got, want), same_rows(got.T, want.T)])
            close(got, want, "dW (transposed) after set_rank()", rtol=1e-7)


def spectrum(matrix: np.ndarray) -> np.ndarray:
    values: np.ndarray = np.linalg.svd(matrix, compute_uv=False)
    return values


def same_rows(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether the rows of two matrices span the same space."""
    return len({int(np.linalg.matrix_rank(m, tol=1e-6)) for m in (first, second, np.vstack([first, second]))}) == 1


@check("4.3", weight=2)
def test_rank_and_scaling(student, oracle, rng):
    """After set_rank(n): rank is n, alpha is what it was, scaling is alpha / n, and base.weight has not moved."""
    own = own_state(student, oracle)
    for rank, new_rank in ((2, 4), (4, 1), (3, 3)):
        case = spectral(rng, rank)
        with at(f"rank {rank}, set_rank({new_rank})"):
            layer, like = make(student, case, own), oracle(numbers_after, case, new_rank)
            layer.set_rank(new_rank)
            got = {name: student.number(getattr(layer, name)) for name in like}
            for name in like:
                close(np.array(got[name]), np.array(like[name]), f"{name} after set_rank()", rtol=1e-12)
            close(student.read(layer.base.weight, (7, 5)), case.weight, "base.weight after set_rank()", rtol=0)


def numbers_after(lib: Session, case: Case, new_rank: int) -> dict[str, float]:
    layer = make(lib, case)
    layer.set_rank(new_rank)
    return {name: lib.number(getattr(layer, name)) for name in ("rank", "alpha", "scaling")}


@check("4.3", weight=1)
def test_equal_rank(student, oracle, rng):
    """Setting the rank that the layer has keeps dW."""
    own = own_state(student, oracle)
    case = spectral(rng, 3)
    A, B = factors_after(student, own, case, 3)
    close(update_of(oracle, case, A, B), oracle(update, case), "dW (transposed) after set_rank(3) at rank 3", rtol=1e-7)


@check("4.3", weight=2)
def test_new_directions_can_learn(student, oracle, rng):
    """After growing, all rows of A are linearly independent, so the new columns of B get a gradient."""
    own = own_state(student, oracle)
    for rank, new_rank in GROW:
        with at(f"rank {rank}, set_rank({new_rank})"):
            A, _ = factors_after(student, own, spectral(rng, rank), new_rank)
            found = int(np.linalg.matrix_rank(A))
            student.note([found, bool(A[rank:].any())])
            demand(found == new_rank, f"lora_A has {found} linearly independent rows\n  expected: {new_rank}")


@check("4.3", weight=1, tier="advanced")
def test_new_factors_are_trainable(student, oracle, rng):
    """The new factors are trainable parameters under their names, with the dtype of the base."""
    own = own_state(student, oracle)
    for rank, new_rank in ((2, 4), (4, 2)):
        for dtype in ("float64", "float32", "bfloat16"):
            with at(f"rank {rank}, set_rank({new_rank}), {dtype}"):
                layer = make(student, spectral(rng, rank), own, dtype=dtype)
                layer.set_rank(new_rank)
                student.read(layer.lora_A, (new_rank, 5), dtype, free=True)
                student.read(layer.lora_B, (7, new_rank), dtype, free=True)
                names = student.names_of("trainable_names", layer)
                equal(names, ["lora_A", "lora_B"], "the list of trainable parameters after set_rank()")


@check("4.3", weight=1, tier="advanced")
def test_set_rank_refuses(student, oracle, rng):
    """A rank out of range is a ValueError; changing the rank of a merged layer is a RuntimeError."""
    own = own_state(student, oracle)
    for new_rank, wide in ((6, False), (6, True), (0, False), (-1, False)):  # first those that raise nothing if unchecked
        case = spectral(rng, 2)
        if wide:
            case = case._replace(weight=case.weight.T, A=case.B.T, B=case.A.T)
        out_features, in_features = case.weight.shape
        with at(f"in_features={in_features}, out_features={out_features}, set_rank({new_rank})"):
            layer = make(student, case, own)
            student.raises("ValueError", act=lambda layer=layer, n=new_rank: layer.set_rank(n))
    for new_rank in (3, 2):
        with at(f"a merged layer of rank 2, set_rank({new_rank})"):
            layer = make(student, spectral(rng, 2), own)
            layer.merged = True
            student.raises("RuntimeError", act=lambda layer=layer, n=new_rank: layer.set_rank(n))


# --- task 4.4 ---

WIDTH, VOCABULARY, BLOCKS = 4, 7, 2
TOKENS = np.arange(10).reshape(2, 5) % VOCABULARY
# in_features and out_features by the last part of a name, in the builder's tiny_transformer
FEATURES = {"q": (4, 4), "k": (4, 4), "v": (4, 5), "o": (5, 4), "0": (4, 8), "2": (8, 4), "base": (4, 4)}


def inject(lib: Session, own: bool, seed: int, share: bool, *calls: tuple[list[str], object]) -> tuple[Handle, list[Handle]]:
    """A tiny transformer after some calls of inject_lora(model, targets, rank, alpha=3), and what they returned."""
    if not own:
        lib.supply("LoRALinear", lib.build("wrapper_class"))
    model = lib.build("tiny_transformer", seed=seed, vocabulary=VOCABULARY, width=WIDTH, blocks=BLOCKS, share=share)
    returned = [lib.inject_lora(model, targets, rank=rank, alpha=3.0) for targets, rank in calls]
    model.double()
    return model, returned


def places(lib: Session, own: bool, seed: int, share: bool, *calls: tuple[list[str], object]) -> list[str]:
    model, _ = inject(lib, own, seed, share, *calls)
    return lib.names_of("modules_of_type", model, lib.LoRALinear)


def function(
    lib: Session, own: bool, seed: int, share: bool, factors: dict, *calls: tuple[list[str], object]
) -> tuple[list[str], np.ndarray | None]:
    """Where a LoRALinear stands, and the model's output once the factors are written that `factors` has by name.

    There is no output where other layers were injected than those.
    """
    model, _ = inject(lib, own, seed, share, *calls)
    names = lib.names_of("modules_of_type", model, lib.LoRALinear)
    if share:  # which block keeps a layer that was missed is not evidence
        lib.trace[-1] = sorted(name.removeprefix("block.").lstrip("0123456789") for name in names)
    if names != sorted(factors):
        return names, None
    for name, (A, B) in factors.items():
        layer = model.get_submodule(name)
        lib.write(layer.lora_A, A)
        lib.write(layer.lora_B, B)
    return names, lib.read(model(tensor(TOKENS)), (*TOKENS.shape, VOCABULARY))


def draw_factors(rng, names: list[str], rank: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    sizes = {name: FEATURES[name.rpartition(".")[2]] for name in names}
    return {n: (rng.standard_normal((rank, i)), rng.standard_normal((o, rank))) for n, (i, o) in sizes.items()}


def compare(student, oracle, rng, share: bool, *calls: tuple[list[str], object]) -> None:
    """Hold where LoRALinear stands, and what the model computes with given factors, against the reference."""
    own = own_layer(student, oracle)
    seed = int(rng.integers(2**31))
    want = oracle(places, own, seed, share, *calls)
    factors = draw_factors(rng, want, 2)
    names, got = function(student, own, seed, share, factors, *calls)
    equal(names, want, "the list of places where a LoRALinear stands")
    close(got, oracle(function, own, seed, share, factors, *calls)[1], "model(tokens) with the factors written")


@check("4.4", weight=4, gate=True)
def test_injection(student, oracle, rng):
    """Every Linear that a target names, and nothing else, becomes a LoRALinear that the model computes with."""
    for targets in (["q"], ["q", "v"], ["mlp.0"], ["block.1.attn.o", "base"], ["q", "k", "v", "o", "0", "2"]):
        with at(f"target_modules={targets}"):
            compare(student, oracle, rng, False, (targets, 2))


def trainable_after(lib: Session, own: bool, seed: int, target: np.ndarray) -> tuple[list[str], dict[str, np.ndarray]]:
    model, _ = inject(lib, own, seed, False, (["q", "base"], 2))
    names = lib.names_of("trainable_names", model)
    after = lib.probe("train", model, tensor(TOKENS), tensor(target), lr=0.01, steps=1)
    frozen = {"embed.weight": (VOCABULARY, WIDTH), "block.0.norm.weight": (WIDTH,), "block.1.attn.v.bias": (WIDTH + 1,)}
    return names, {name: lib.array(after.get(name), f"{name} after a step", shape) for name, shape in frozen.items()}


@check("4.4", weight=2)
def test_only_factors_are_trainable(student, oracle, rng):
    """Afterwards the factors are trainable, and everything else, embeddings and norms included, is frozen."""
    own = own_layer(student, oracle)
    seed, target = int(rng.integers(2**31)), rng.standard_normal((*TOKENS.shape, VOCABULARY))
    names, got = trainable_after(student, own, seed, target)
    want_names, want = oracle(trainable_after, own, seed, target)
    equal(names, want_names, "the list of trainable parameters")
    for name in want:
        close(got[name], want[name], f"{name} after a step", rtol=0)


def returned_names(lib: Session, own: bool, seed: int, *calls: tuple[list[str], object]) -> list[list[str]]:
    return [listed(lib, names) for names in inject(lib, own, seed, False, *calls)[1]]


def listed(lib: Session, handle: Handle) -> list[str]:
    """The names, of whose order only this is evidence: whether it is right."""
    names = lib.names(handle)
    lib.trace[-1] = [sorted(names), names == sorted(names)]
    return names


@check("4.4", weight=1)
def test_returns_the_names(student, oracle, rng):
    """The call returns the full names of the modules that it replaced, sorted."""
    own = own_layer(student, oracle)
    seed = int(rng.integers(2**31))
    for targets in (["block.1.attn.q"], ["v", "mlp.2", "q", "k"]):
        with at(f"target_modules={targets}"):
            got = returned_names(student, own, seed, (targets, 2))
            equal(got, oracle(returned_names, own, seed, (targets, 2)), "what inject_lora returned")


@check("4.4", weight=1)
def test_second_call(student, oracle, rng):
    """A second call with the same targets changes nothing; one with other targets adds to the first."""
    own = own_layer(student, oracle)
    for first, second in ((["q"], ["q"]), (["base"], ["base"]), (["q"], ["q", "v"])):
        with at(f"target_modules={first}, then {second}"):
            compare(student, oracle, rng, False, (first, 2), (second, 2))
            seed = int(rng.integers(2**31))
            factors = draw_factors(rng, oracle(places, own, seed, False, (first, 2)), 2)
            names, trainable, after = both_calls(student, own, seed, first, second, factors)
            want_names, want_trainable, _ = oracle(both_calls, own, seed, first, second, factors)
            equal(names, want_names, "what the two calls returned")
            equal(trainable, want_trainable, "the list of trainable parameters after both calls")
            for name, (A, B) in factors.items():
                close(after[name][0], A, f"{name}.lora_A, written before the second call", rtol=0)
                close(after[name][1], B, f"{name}.lora_B, written before the second call", rtol=0)


def both_calls(
    lib: Session, own: bool, seed: int, first: list[str], second: list[str], factors: dict
) -> tuple[list[list[str]], list[str], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """What the calls return, what is trainable in the end, and the first call's factors that were written between them."""
    model, returned = inject(lib, own, seed, False, (first, 2))
    for name, (A, B) in factors.items():
        lib.write(model.get_submodule(name).lora_A, A)
        lib.write(model.get_submodule(name).lora_B, B)
    returned.append(lib.inject_lora(model, second, rank=2, alpha=3.0))
    after = {}
    for name, (A, B) in factors.items():
        layer = model.get_submodule(name)
        after[name] = lib.read(layer.lora_A, A.shape, free=True), lib.read(layer.lora_B, B.shape, free=True)
        lib.note([bool((a == b).all()) for a, b in zip(after[name], (A, B), strict=True)])
    return [listed(lib, names) for names in returned], lib.names_of("trainable_names", model), after


def ranks(lib: Session, own: bool, seed: int, targets: list[str], rank: dict[str, int]) -> dict[str, float]:
    model, _ = inject(lib, own, seed, False, (targets, rank))
    return {n: lib.number(model.get_submodule(n).rank) for n in lib.names_of("modules_of_type", model, lib.LoRALinear)}


@check("4.4", weight=1, tier="advanced")
def test_rank_of_each_target(student, oracle, rng):
    """`rank` may give a rank to each target; where several match a name, the longest counts."""
    own = own_layer(student, oracle)
    seed = int(rng.integers(2**31))
    for rank in ({"q": 1, "o": 3}, {"1.attn.q": 2, "q": 1, "block.1.attn.q": 3, "mlp.0": 4}, {"block.0.attn.v": 2, "v": 1}):
        with at(f"target_modules={list(rank)}, rank={rank}"):
            equal(
                ranks(student, own, seed, list(rank), rank), oracle(ranks, own, seed, list(rank), rank), "the ranks of the layers"
            )


def in_training(lib: Session, own: bool, seed: int, dropout: float, factors: dict) -> np.ndarray:
    model = lib.build("tiny_transformer", seed=seed, vocabulary=VOCABULARY, width=WIDTH, blocks=BLOCKS)
    if not own:
        lib.supply("LoRALinear", lib.build("wrapper_class"))
    lib.inject_lora(model, ["q", "base"], rank=2, alpha=3.0, dropout=dropout)
    model.double()
    for name, (A, B) in factors.items():
        lib.write(model.get_submodule(name).lora_A, A)
        lib.write(model.get_submodule(name).lora_B, B)
    if not own:  # a stand-in keeps the number
        return np.array(lib.number(model.block[0].base.dropout))
    model.train()
    return lib.read(model(tensor(TOKENS)), (*TOKENS.shape, VOCABULARY))


@check("4.4", weight=1, tier="advanced")
def test_dropout_is_passed_on(student, oracle, rng):
    """`dropout` reaches the layers: with it, the model's output in training mode varies; with 0 it does not."""
    own = own_layer(student, oracle)
    seed = int(rng.integers(2**31))
    factors = draw_factors(rng, [f"block.{i}.{name}" for i in range(BLOCKS) for name in ("attn.q", "base")], 2)
    without = oracle(in_training, own, seed, 0.0, factors)
    close(in_training(student, own, seed, 0.0, factors), without, "model(tokens) in training mode, dropout=0.0")
    change = np.abs(in_training(student, own, seed, 0.5, factors) - without).max()
    demand(change > 1e-6, "dropout=0.5 makes no difference in training mode\n  expected: a random output")


@check("4.4", weight=1, tier="advanced")
def test_shared_layer(student, oracle, rng):
    """A Linear that stands at several names is wrapped once; one LoRALinear stands at all of them."""
    with at("a Linear shared by two blocks, target_modules=['base', 'k']"):
        compare(student, oracle, rng, True, (["base", "k"], 2))
    with at("a Linear shared by two blocks, target_modules=['block.0.base'], then ['block.1.base']"):
        compare(student, oracle, rng, True, (["block.0.base"], 2), (["block.1.base"], 2))


def among_lookalikes(lib: Session, own: bool) -> tuple[list[str], list[str]]:
    if not own:
        lib.supply("LoRALinear", lib.build("wrapper_class"))
    model = lib.build("lookalikes", width=WIDTH)
    lib.inject_lora(model, ["attn.q"], rank=2, alpha=3.0)
    return lib.names_of("modules_of_type", model, lib.LoRALinear), lib.names_of("trainable_names", model)


@check("4.4", weight=1, tier="advanced")
def test_lookalikes(student, oracle, rng):
    """A dot in a target is a dot, and a parameter of the model's own is frozen, also if its name begins with lora_."""
    own = own_layer(student, oracle)
    with at("Linear layers attn.q and attn_q, a parameter lora_scale, target_modules=['attn.q']"):
        (names, trainable), (want_names, want_trainable) = among_lookalikes(student, own), oracle(among_lookalikes, own)
        equal(names, want_names, "the list of places where a LoRALinear stands")
        equal(trainable, want_trainable, "the list of trainable parameters")


def places_by_generator(lib: Session, own: bool, seed: int) -> list[str]:
    model, _ = inject(lib, own, seed, False)
    lib.inject_lora(model, lib.build("generator", items=["q", "mlp.0"]), rank=2, alpha=3.0)
    return lib.names_of("modules_of_type", model, lib.LoRALinear)


@check("4.4", weight=1, tier="advanced")
def test_any_iterable(student, oracle, rng):
    """The targets may come in any iterable, one that can be gone through only once included."""
    args = own_layer(student, oracle), int(rng.integers(2**31))
    with at("target_modules is a generator of 'q' and 'mlp.0'"):
        got = places_by_generator(student, *args)
        equal(got, oracle(places_by_generator, *args), "the list of places where a LoRALinear stands")


@check("4.4", weight=1, tier="advanced")
def test_unknown_target(student, oracle, rng):
    """A target that matches no Linear is a ValueError, raised before anything is changed."""
    own = own_layer(student, oracle)
    seed = int(rng.integers(2**31))
    for targets in (["query"], ["q", "w"], ["conv"], ["norm", "q"]):
        with at(f"target_modules={targets}"):
            model, _ = inject(student, own, seed, False)
            before = student.names_of("trainable_names", model)
            student.raises("ValueError", act=lambda m=model, t=targets: student.inject_lora(m, t, rank=2, alpha=3.0))
            equal(
                student.names_of("modules_of_type", model, student.LoRALinear), [], "the layers that were replaced all the same"
            )
            equal(student.names_of("trainable_names", model), before, "the list of trainable parameters after the error")
