"""Checks of week 7's core tasks: HydraLoRALinear, multi_adapter_forward, DoRALinear, RandLoRALinear.

Every check writes the base's weight and every parameter itself, so no initialisation decides it; the random bases of
RandLoRA are passed in. No task needs another one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from autograder.judge.check import Handle, Session, at, check, close, demand, equal, tensor


def linear(lib: Session, weight: np.ndarray, bias: np.ndarray | None, dtype: str = "float64") -> Handle:
    return lib.build("linear", weight=tensor(weight, dtype), bias=None if bias is None else tensor(bias, dtype))


def in_dtype(lib: Session, layer: Handle, dtype: str = "float64") -> Handle:
    """A parameter of another dtype than the base's is a check of its own, and must not decide the others."""
    layer.to(lib.build("dtype", name=dtype))
    return layer


def numbers(lib: Session, layer: Handle, names: tuple[str, ...]) -> dict[str, float]:
    return {name: lib.number(getattr(layer, name)) for name in names}


def compare_numbers(got: dict[str, float], want: dict[str, float]) -> None:
    for name in want:
        close(np.array(got[name]), np.array(want[name]), name, rtol=1e-12)


def vjp(lib: Session, layer: Handle, x: np.ndarray, g: np.ndarray, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The gradients of x and of the named parameters."""
    found = lib.probe("vjp", layer, tensor(x), tensor(g))
    result = {n: lib.array(found["parameters"].get(n), f"the gradient of {n}", shape) for n, shape in shapes.items()}
    return result | {"x": lib.array(found["x"], "the gradient of x", x.shape)}


def compare_gradients(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    for name in want:
        close(got[name], want[name], f"the gradient of {name}")


def independent_rows(student: Session, A: np.ndarray, name: str) -> None:
    rows = int(np.linalg.matrix_rank(A))
    student.note(rows)
    demand(rows == len(A), f"{name} of a new layer has {rows} linearly independent rows\n  expected: {len(A)}")


DTYPES = ("float32", "float64", "bfloat16")

# --- task 7.1 ---


class Hydra(NamedTuple):
    """A layer's whole state: base.weight (out, in), base.bias (out) or None, A (rank, in), B (branches, out, rank),
    router (branches, in), alpha."""

    weight: np.ndarray
    bias: np.ndarray | None
    A: np.ndarray
    B: np.ndarray
    router: np.ndarray
    alpha: float

    @property
    def rung(self) -> str:
        sizes = f"in_features={self.A.shape[1]}, out_features={len(self.weight)}, rank={len(self.A)}"
        text = f"{sizes}, num_branches={len(self.B)}, alpha={self.alpha}"
        return text if self.bias is not None else f"{text}, no bias"


# in_features, out_features, rank, num_branches, alpha, bias; smallest first. The first is LoRA, with one branch.
HYDRAS = ((2, 3, 1, 1, 1.5, False), (3, 5, 2, 4, 3.0, True), (6, 4, 3, 2, 12.0, True), (5, 6, 4, 3, 2.0, False))


def draw_hydra(rng, in_features, out_features, rank, branches, alpha, bias) -> Hydra:
    shapes = ((out_features, in_features), (rank, in_features), (branches, out_features, rank), (branches, in_features))
    weight, A, B, router = (rng.standard_normal(s) for s in shapes)
    return Hydra(weight, rng.standard_normal(out_features) if bias else None, A, B, router, alpha)


def hydra(lib: Session, case: Hydra) -> Handle:
    layer = lib.HydraLoRALinear(linear(lib, case.weight, case.bias), rank=len(case.A), num_branches=len(case.B), alpha=case.alpha)
    in_dtype(lib, layer)
    for handle, value in ((layer.lora_A, case.A), (layer.lora_B, case.B), (layer.router.weight, case.router)):
        lib.write(handle, value)
    return layer


def hydra_output(lib: Session, case: Hydra, x: np.ndarray, *routes: int | None) -> np.ndarray:
    """layer(x) after some calls of set_route."""
    layer = hydra(lib, case)
    for route in routes:
        layer.set_route(route)
    return lib.read(layer(tensor(x)), (*x.shape[:-1], len(case.weight)))


def tokens_for(rng, in_features: int) -> list[np.ndarray]:
    """Inputs with one, two and no leading dimensions, of sizes that no layer of the ladder has."""
    return [rng.standard_normal((*leading, in_features)) for leading in ((7,), (9, 8), ())]


@check("7.1", weight=4, gate=True)
def test_hydra_forward(student, oracle, rng):
    """The output is W0 x + b + (alpha / rank) sum_i w_i B_i A x, each token with the weights that the router gives it."""
    for shape in HYDRAS:
        case = draw_hydra(rng, *shape)
        for x in tokens_for(rng, shape[0]):
            frozen = oracle(hydra_output, case._replace(B=0 * case.B), x)
            with at(f"{case.rung}, x of shape {x.shape}"):
                close(hydra_output(student, case, x), oracle(hydra_output, case, x), "layer(x)", known=frozen)


@check("7.1", weight=3, gate=True)
def test_hydra_set_route(student, oracle, rng):
    """While a branch is set, every token goes through that branch alone; after set_route(None) the router decides again."""
    for shape in HYDRAS[1:]:
        case = draw_hydra(rng, *shape)
        x = rng.standard_normal((9, 8, shape[0]))
        for routes in ((0,), (1,), (0, 1), (1, 0), (1, None), (None,)):
            with at(f"{case.rung}, set_route called with {', '.join(map(str, routes))}"):
                got, want = hydra_output(student, case, x, *routes), oracle(hydra_output, case, x, *routes)
                close(got, want, "layer(x)")


def hydra_weights(lib: Session, case: Hydra, x: np.ndarray, *routes: int | None) -> np.ndarray:
    layer = hydra(lib, case)
    for route in routes:
        layer.set_route(route)
    return lib.read(layer.route_weights(tensor(x)), (*x.shape[:-1], len(case.B)))


@check("7.1", weight=2)
def test_hydra_route_weights(student, oracle, rng):
    """route_weights(x) holds one weight for each token and branch; over the branches they sum to 1."""
    for shape in HYDRAS:
        case = draw_hydra(rng, *shape)
        for x in tokens_for(rng, shape[0]):
            with at(f"{case.rung}, x of shape {x.shape}"):
                got = hydra_weights(student, case, x)
                close(got.sum(axis=-1), np.ones(x.shape[:-1]), "the sum of route_weights(x) over the branches")
                close(got, oracle(hydra_weights, case, x), "route_weights(x)")


@check("7.1", weight=1)
def test_hydra_fixed_weights(student, oracle, rng):
    """While a branch is set, route_weights(x) is 1 for it and 0 for the others."""
    case = draw_hydra(rng, *HYDRAS[1])
    for x in tokens_for(rng, 3):
        for routes in ((2,), (0, 3), (3, None)):
            with at(f"{case.rung}, x of shape {x.shape}, set_route called with {', '.join(map(str, routes))}"):
                got, want = hydra_weights(student, case, x, *routes), oracle(hydra_weights, case, x, *routes)
                close(got, want, "route_weights(x)", rtol=1e-9 if routes[-1] is None else 0)


@check("7.1", weight=1, tier="advanced")
def test_hydra_large_logits(student, oracle, rng):
    """Where the router's outputs are in the thousands, the weights are still finite and sum to 1."""
    case = draw_hydra(rng, *HYDRAS[2])
    case = case._replace(router=1000 * case.router)
    x = rng.standard_normal((7, 6))
    with at(f"{case.rung}, a router with large weights"):
        # The logits are thousands, so their rounding, thousands of eps, is the relative error of a weight.
        close(hydra_weights(student, case, x), oracle(hydra_weights, case, x), "route_weights(x)")
        close(hydra_output(student, case, x), oracle(hydra_output, case, x), "layer(x)")


def hydra_gradients(lib: Session, case: Hydra, x: np.ndarray, g: np.ndarray, route: int | None) -> dict[str, np.ndarray]:
    layer = hydra(lib, case)
    layer.set_route(route)
    shapes = {"lora_A": case.A.shape, "lora_B": case.B.shape}
    if route is None:
        shapes["router.weight"] = case.router.shape
    return vjp(lib, layer, x, g, shapes)


@check("7.1", weight=2)
def test_hydra_gradients(student, oracle, rng):
    """Back-propagation gives lora_A, lora_B, the router and x their exact gradients."""
    for shape in HYDRAS[1:]:
        case = draw_hydra(rng, *shape)
        x, g = rng.standard_normal((9, 8, shape[0])), rng.standard_normal((9, 8, shape[1]))
        with at(case.rung):
            compare_gradients(hydra_gradients(student, case, x, g, None), oracle(hydra_gradients, case, x, g, None))


@check("7.1", weight=1)
def test_hydra_gradients_with_a_route(student, oracle, rng):
    """While a branch is set, only that branch, lora_A and x get a gradient."""
    case = draw_hydra(rng, *HYDRAS[1])
    x, g = rng.standard_normal((7, 3)), rng.standard_normal((7, 5))
    for route in (0, 3):
        with at(f"{case.rung}, set_route({route})"):
            compare_gradients(hydra_gradients(student, case, x, g, route), oracle(hydra_gradients, case, x, g, route))


def hydra_start(lib: Session, case: Hydra, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    layer = lib.HydraLoRALinear(linear(lib, case.weight, case.bias), len(case.A), len(case.B), case.alpha)
    in_dtype(lib, layer)
    A, router = (lib.read(h, v.shape, free=True) for h, v in ((layer.lora_A, case.A), (layer.router.weight, case.router)))
    B = lib.read(layer.lora_B, case.B.shape, free=True)
    return A, B, router, lib.read(layer(tensor(x)), (len(x), len(case.weight)), free=True)


@check("7.1", weight=2)
def test_hydra_start(student, oracle, rng):
    """A new layer computes what its base does: lora_B is zero, lora_A random, and no two rows of the router are equal."""
    for shape in HYDRAS:
        case = draw_hydra(rng, *shape)
        x = rng.standard_normal((7, shape[0]))
        with at(case.rung):
            A, B, router, y = hydra_start(student, case, x)
            rows = len(np.unique(router, axis=0))
            student.note([bool(B.any()), rows])
            _, zero, _, base_only = oracle(hydra_start, case, x)
            close(B, zero, "lora_B of a new layer", rtol=0)
            independent_rows(student, A, "lora_A")
            wanted = f"{len(router)}, or the branches that are weighted equally stay equal"
            demand(rows == len(router), f"router.weight of a new layer has {rows} different rows\n  expected: {wanted}")
            close(y, base_only, "layer(x) of a new layer")


@check("7.1", weight=1)
def test_hydra_trains(student, oracle, rng):
    """lora_A, lora_B and router.weight are the trainable parameters; the base is frozen."""
    layer = hydra(student, draw_hydra(rng, *HYDRAS[1]))
    names = student.names_of("trainable_names", layer)
    equal(names, ["lora_A", "lora_B", "router.weight"], "the list of trainable parameters")


HYDRA_NUMBERS = ("rank", "num_branches", "alpha", "scaling")


def hydra_numbers(lib: Session, case: Hydra) -> dict[str, float]:
    return numbers(lib, hydra(lib, case), HYDRA_NUMBERS)


@check("7.1", weight=1)
def test_hydra_attributes(student, oracle, rng):
    """rank, num_branches, alpha and scaling = alpha / rank say what the layer was made with."""
    for shape in HYDRAS[:3]:
        case = draw_hydra(rng, *shape)
        with at(case.rung):
            compare_numbers(hydra_numbers(student, case), oracle(hydra_numbers, case))


@check("7.1", weight=1, tier="advanced")
def test_hydra_base_is_kept(student, oracle, rng):
    """`base` is the very layer that was passed in: a change of its weight changes the output."""
    case = draw_hydra(rng, *HYDRAS[1])
    x, other = rng.standard_normal((7, 3)), rng.standard_normal((5, 3))
    with at(case.rung):
        base = linear(student, case.weight, case.bias)
        layer = student.HydraLoRALinear(base, 2, 4, 3.0)
        in_dtype(student, layer)
        for handle, value in ((layer.lora_A, case.A), (layer.lora_B, case.B), (layer.router.weight, case.router)):
            student.write(handle, value)
        student.write(base.weight, other)
        want = oracle(hydra_output, case._replace(weight=other), x)
        close(student.read(layer(tensor(x)), (7, 5)), want, "layer(x) after base.weight was changed")
        equal(student.probe("same", layer.base, base), True, "layer.base is the layer that was passed in")


def calls(
    lib: Session, layer: Handle, x: np.ndarray, changes: list[tuple[Handle, np.ndarray]], out_features: int
) -> list[np.ndarray]:
    """layer(x) in both modes, after every parameter has changed, and base.weight after that: what an earlier call kept shows."""
    shape = (*x.shape[:-1], out_features)
    wired = lib.build("column_major", value=tensor(x))
    found = []
    for training in (True, False):
        layer.train(training)
        found.append(lib.read(layer(wired), shape))
    for handle, value in changes:
        lib.write(handle, value)
    found.append(lib.read(layer(wired), shape))
    return [*found, lib.read(layer.base.weight, (out_features, x.shape[-1]))]


CALLS = ("layer(x) in training", "layer(x) in evaluation mode", "layer(x) after its parameters changed", "base.weight afterwards")


def compare_calls(got: list[np.ndarray], want: list[np.ndarray]) -> None:
    for mine, right, name in zip(got, want, CALLS, strict=True):
        close(mine, right, name)


def hydra_calls(lib: Session, case: Hydra, other: Hydra, x: np.ndarray) -> list[np.ndarray]:
    layer = hydra(lib, case)
    changes = [(layer.lora_A, other.A), (layer.lora_B, other.B), (layer.router.weight, other.router)]
    return calls(lib, layer, x, [*changes, (layer.base.weight, other.weight)], len(case.weight))


@check("7.1", weight=1, tier="advanced")
def test_hydra_called_again(student, oracle, rng):
    """Every call computes with what the parameters are then, in training and in evaluation mode alike, and changes none."""
    case, other = (draw_hydra(rng, *HYDRAS[1]) for _ in range(2))
    x = rng.standard_normal((9, 8, 3))
    with at(f"{case.rung}, x of shape {x.shape}, not contiguous"):
        compare_calls(hydra_calls(student, case, other, x), oracle(hydra_calls, case, other, x))


@check("7.1", weight=1, tier="advanced")
def test_hydra_dtype(student, oracle, rng):
    """Parameters, route weights and output have the dtype of the base layer, with a route and without."""
    case = draw_hydra(rng, *HYDRAS[1])
    x = rng.standard_normal((7, 3))
    for dtype in DTYPES:
        with at(f"a base layer of dtype {dtype}"):
            layer = student.HydraLoRALinear(linear(student, case.weight, case.bias, dtype), 2, 4, 3.0)
            student.read(layer.lora_A, case.A.shape, dtype, free=True)
            student.read(layer.lora_B, case.B.shape, dtype, free=True)
            student.read(layer.router.weight, case.router.shape, dtype, free=True)
            for route in (None, 2):
                layer.set_route(route)
                student.read(layer.route_weights(tensor(x, dtype)), (7, 4), dtype, free=True)
                student.read(layer(tensor(x, dtype)), (7, 5), dtype, free=True)


@check("7.1", weight=1, tier="advanced")
def test_hydra_refuses(student, oracle, rng):
    """A rank, a number of branches or a branch that is out of range is a ValueError, and leaves the route as it was."""
    # Too large a rank first: unchecked it raises nothing.
    for (in_features, out_features), rank, branches in (
        ((5, 3), 4, 2), ((3, 5), 4, 2), ((5, 3), 0, 2), ((5, 3), -2, 2), ((5, 3), 2, 0), ((5, 3), 2, -1)
    ):  # fmt: skip
        with at(f"in_features={in_features}, out_features={out_features}, rank={rank}, num_branches={branches}"):
            base = linear(student, rng.standard_normal((out_features, in_features)), None)
            student.raises("ValueError", act=lambda b=base, r=rank, n=branches: student.HydraLoRALinear(b, r, n, 1.0))
    for sizes in ((3, 5), (5, 3)):
        with at(f"in_features={sizes[0]}, out_features={sizes[1]}, rank=3, the largest"):
            base = linear(student, rng.standard_normal(sizes[::-1]), None)
            student.read(student.HydraLoRALinear(base, 3, 1, 1.0).lora_A, (3, sizes[0]), free=True)
    case = draw_hydra(rng, *HYDRAS[1])
    x = rng.standard_normal((7, 3))
    for branch in (4, -1, 7):
        with at(f"num_branches=4, set_route(1), then set_route({branch})"):
            layer = hydra(student, case)
            layer.set_route(1)
            student.raises("ValueError", act=lambda layer=layer, b=branch: layer.set_route(b))
            close(student.read(layer(tensor(x)), (7, 5)), oracle(hydra_output, case, x, 1), "layer(x) after the refusal")


# --- task 7.2 ---


class Batch(NamedTuple):
    """base.weight (out, in), base.bias (out) or None, the adapters' (A, B, alpha), and each sample's adapter."""

    weight: np.ndarray
    bias: np.ndarray | None
    adapters: list[tuple[np.ndarray, np.ndarray, float]]
    ids: list[int]

    @property
    def rung(self) -> str:
        ranks = [len(A) for A, _, _ in self.adapters]
        alphas = [alpha for _, _, alpha in self.adapters]
        return f"in_features={self.weight.shape[1]}, adapters of ranks {ranks} and alphas {alphas}, adapter_ids={self.ids}"


# in_features, out_features, bias, ranks and alphas of the adapters, adapter_ids; smallest first
BATCHES = (
    (2, 3, False, [(1, 1.5)], [0]),
    (3, 5, True, [(2, 3.0), (1, 4.0)], [1, 0, 1, 1]),
    (6, 4, True, [(3, 12.0), (1, 0.5), (2, 3.0), (4, 1.0)], [2, 0, 3, 2, 0, 3, 3]),
)
WITH_NONE = (
    (2, 3, False, [(1, 1.5)], [-1]),
    (3, 5, True, [(2, 3.0), (1, 4.0)], [1, -1, 0, -1]),
    (6, 4, False, [(3, 12.0), (1, 0.5), (2, 3.0)], [-1, 2, 2, -1, 0, -1, 2]),
)


def draw_batch(rng, in_features, out_features, bias, adapters, ids) -> Batch:
    factors = [(rng.standard_normal((r, in_features)), rng.standard_normal((out_features, r)), a) for r, a in adapters]
    weight = rng.standard_normal((out_features, in_features))
    return Batch(weight, rng.standard_normal(out_features) if bias else None, factors, ids)


def samples_for(rng, case: Batch) -> list[np.ndarray]:
    """Inputs whose first dimension counts samples, with none, one and two dimensions between it and the last."""
    batch, width = len(case.ids), case.weight.shape[1]
    return [rng.standard_normal((batch, *between, width)) for between in ((), (8,), (9, 8))]


def to_wire(case: Batch, dtype: str = "float64") -> list[tuple]:
    return [(tensor(A, dtype), tensor(B, dtype), alpha) for A, B, alpha in case.adapters]


def batch_output(lib: Session, case: Batch, x: np.ndarray) -> np.ndarray:
    base, ids = linear(lib, case.weight, case.bias), tensor(np.array(case.ids, np.int64))
    return lib.read(lib.multi_adapter_forward(base, to_wire(case), tensor(x), ids), (*x.shape[:-1], len(case.weight)))


def compare_batches(student, oracle, rng, shapes) -> None:
    for shape in shapes:
        case = draw_batch(rng, *shape)
        for x in samples_for(rng, case):
            with at(f"{case.rung}, x of shape {x.shape}"):
                close(batch_output(student, case, x), oracle(batch_output, case, x), "multi_adapter_forward(...)")


@check("7.2", weight=4, gate=True)
def test_mixed_batch(student, oracle, rng):
    """Row i of the result is what a LoRA layer with the adapter of sample i alone gives, with its own rank and alpha."""
    compare_batches(student, oracle, rng, BATCHES)


@check("7.2", weight=3)
def test_mixed_batch_without_adapter(student, oracle, rng):
    """A sample whose id is -1 gets the base's output alone."""
    compare_batches(student, oracle, rng, WITH_NONE)


@check("7.2", weight=1)
def test_mixed_batch_of_one(student, oracle, rng):
    """A batch whose samples all use one adapter, whichever it is, gives what that adapter gives."""
    for ids in ([1, 1, 1, 1], [0, 0, 0, 0]):
        compare_batches(student, oracle, rng, [(3, 5, True, [(2, 3.0), (1, 4.0)], ids)])


@check("7.2", weight=1, tier="advanced")
def test_mixed_batch_no_adapters(student, oracle, rng):
    """With no adapters at all, every id is -1 and the result is the base's."""
    compare_batches(student, oracle, rng, [(3, 5, True, [], [-1, -1, -1, -1])])


def strided_batch(lib: Session, case: Batch, x: np.ndarray) -> np.ndarray:
    base, ids = linear(lib, case.weight, case.bias), tensor(np.array(case.ids, np.int64))
    wired = lib.build("column_major", value=tensor(x))
    return lib.read(lib.multi_adapter_forward(base, to_wire(case), wired, ids), (*x.shape[:-1], len(case.weight)))


@check("7.2", weight=1, tier="advanced")
def test_mixed_batch_strides(student, oracle, rng):
    """x may be a view that is not contiguous, as a transposed tensor is."""
    case = draw_batch(rng, *WITH_NONE[1])
    for x in samples_for(rng, case):
        with at(f"{case.rung}, x of shape {x.shape}, not contiguous"):
            close(strided_batch(student, case, x), oracle(batch_output, case, x), "multi_adapter_forward(...)")


def batch_gradients(lib: Session, case: Batch, x: np.ndarray, g: np.ndarray) -> dict[str, np.ndarray]:
    """By what they are; the factors of an adapter that serves no sample are left out."""
    base, ids = linear(lib, case.weight, case.bias), tensor(np.array(case.ids, np.int64))
    function = lib.multi_adapter_forward
    found = lib.probe("week07.batch_gradients", function, base, to_wire(case), tensor(x), ids, tensor(g))
    result = {"x": lib.array(found["x"], "the gradient of x", x.shape)}
    for k, (A, B, _) in enumerate(case.adapters):
        if k in case.ids:
            for name, factor, gradient in (("A", A, found["factors"][2 * k]), ("B", B, found["factors"][2 * k + 1])):
                name = f"{name} of adapter {k}"
                result[name] = lib.array(gradient, f"the gradient of {name}", factor.shape)
    return result


@check("7.2", weight=3)
def test_mixed_batch_gradients(student, oracle, rng):
    """Every adapter's factors get the gradient of their own samples, and x gets its own."""
    for shape in (*BATCHES[1:], WITH_NONE[2]):
        case = draw_batch(rng, *shape)
        x = samples_for(rng, case)[1]
        g = rng.standard_normal((*x.shape[:-1], shape[1]))
        with at(f"{case.rung}, x of shape {x.shape}"):
            compare_gradients(batch_gradients(student, case, x, g), oracle(batch_gradients, case, x, g))


@check("7.2", weight=1, tier="advanced")
def test_mixed_batch_dtype(student, oracle, rng):
    """The result has the dtype of x, and the base is left as it was."""
    case = draw_batch(rng, *WITH_NONE[1])
    x = samples_for(rng, case)[1]
    for dtype in DTYPES:
        with at(f"dtype {dtype}"):
            base, ids = linear(student, case.weight, case.bias, dtype), tensor(np.array(case.ids, np.int64))
            y = student.multi_adapter_forward(base, to_wire(case, dtype), tensor(x, dtype), ids)
            student.read(y, (*x.shape[:-1], 5), dtype, free=True)
            equal(student.flag(base.weight.requires_grad), True, "base.weight.requires_grad, which was True before")
            if dtype == "float64":
                close(student.read(base.weight, (5, 3)), case.weight, "base.weight after the call", rtol=0)


@check("7.2", weight=1)
def test_mixed_batch_refuses(student, oracle, rng):
    """An id that is no adapter's, or another number of ids than samples, is a ValueError."""
    case = draw_batch(rng, *BATCHES[1])
    x = rng.standard_normal((4, 8, 3))
    for ids in ([0, 1, 0, 2], [0, -2, 1, 0], [0, 1, 0], [0, 1, 0, 1, 0], [[0], [1], [0], [1]]):
        with at(f"two adapters, four samples, adapter_ids={ids}"):
            base, wired = linear(student, case.weight, case.bias), tensor(np.array(ids, np.int64))
            student.raises(
                "ValueError", act=lambda b=base, i=wired: student.multi_adapter_forward(b, to_wire(case), tensor(x), i)
            )
    with at("no adapters, four samples, adapter_ids=[-1, 0, -1, -1]"):
        base, wired = linear(student, case.weight, case.bias), tensor(np.array([-1, 0, -1, -1], np.int64))
        student.raises("ValueError", act=lambda: student.multi_adapter_forward(base, [], tensor(x), wired))


# --- task 7.3 ---


class Dora(NamedTuple):
    """base.weight (out, in), base.bias (out) or None, A (rank, in), B (out, rank), magnitude (out), alpha."""

    weight: np.ndarray
    bias: np.ndarray | None
    A: np.ndarray
    B: np.ndarray
    magnitude: np.ndarray
    alpha: float

    @property
    def rung(self) -> str:
        sizes = f"in_features={self.A.shape[1]}, out_features={len(self.B)}, rank={len(self.A)}, alpha={self.alpha}"
        return sizes if self.bias is not None else f"{sizes}, no bias"


# in_features, out_features, rank, alpha, bias
DORAS = ((2, 3, 1, 1.5, False), (3, 5, 2, 3.0, True), (6, 4, 3, 12.0, True))


def draw_dora(rng, in_features, out_features, rank, alpha, bias) -> Dora:
    weight, A, B = (rng.standard_normal(s) for s in ((out_features, in_features), (rank, in_features), (out_features, rank)))
    magnitude = rng.uniform(0.5, 3, out_features) * rng.choice([-1, 1], out_features)
    return Dora(weight, rng.standard_normal(out_features) if bias else None, A, B, magnitude, alpha)


def dora(lib: Session, case: Dora, base: Handle | None = None) -> Handle:
    base = linear(lib, case.weight, case.bias) if base is None else base
    layer = lib.DoRALinear(base, rank=len(case.A), alpha=case.alpha)
    in_dtype(lib, layer)
    for handle, value in ((layer.lora_A, case.A), (layer.lora_B, case.B), (layer.magnitude, case.magnitude)):
        lib.write(handle, value)
    return layer


def dora_output(lib: Session, case: Dora, x: np.ndarray) -> np.ndarray:
    return lib.read(dora(lib, case)(tensor(x)), (*x.shape[:-1], len(case.weight)))


@check("7.3", weight=4, gate=True)
def test_dora_forward(student, oracle, rng):
    """The output is W' x + b, where row i of W' is magnitude_i times row i of W0 + (alpha / rank) B A, made a unit vector."""
    for shape in DORAS:
        case = draw_dora(rng, *shape)
        for x in tokens_for(rng, shape[0]):
            with at(f"{case.rung}, x of shape {x.shape}"):
                close(dora_output(student, case, x), oracle(dora_output, case, x), "layer(x)")


def dora_start(lib: Session, case: Dora, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    layer = lib.DoRALinear(linear(lib, case.weight, case.bias), len(case.A), case.alpha)
    in_dtype(lib, layer)
    A, B = lib.read(layer.lora_A, case.A.shape, free=True), lib.read(layer.lora_B, case.B.shape, free=True)
    lib.note(bool(B.any()))
    magnitude = lib.read(layer.magnitude, case.magnitude.shape)
    return A, B, magnitude, lib.read(layer(tensor(x)), (len(x), len(case.weight)), free=True)


@check("7.3", weight=3, gate=True)
def test_dora_start(student, oracle, rng):
    """In a new layer magnitude holds the norms of the base weight's rows and lora_B is zero: it computes what its base does."""
    for shape in DORAS:
        case = draw_dora(rng, *shape)
        x = rng.standard_normal((7, shape[0]))
        with at(case.rung):
            A, B, magnitude, y = dora_start(student, case, x)
            _, zero, norms, base_only = oracle(dora_start, case, x)
            close(B, zero, "lora_B of a new layer", rtol=0)
            close(magnitude, norms, "magnitude of a new layer")
            independent_rows(student, A, "lora_A")
            close(y, base_only, "layer(x) of a new layer")


def dora_gradients(lib: Session, case: Dora, x: np.ndarray, g: np.ndarray) -> dict[str, np.ndarray]:
    shapes = {"lora_A": case.A.shape, "lora_B": case.B.shape, "magnitude": case.magnitude.shape}
    return vjp(lib, dora(lib, case), x, g, shapes)


@check("7.3", weight=3)
def test_dora_gradients(student, oracle, rng):
    """Gradients count the row norms as constants: none reaches the factors through them; x and magnitude get theirs exactly."""
    for shape in DORAS:
        case = draw_dora(rng, *shape)
        x, g = rng.standard_normal((9, 8, shape[0])), rng.standard_normal((9, 8, shape[1]))
        with at(case.rung):
            compare_gradients(dora_gradients(student, case, x, g), oracle(dora_gradients, case, x, g))


@check("7.3", weight=1)
def test_dora_trains(student, oracle, rng):
    """lora_A, lora_B and magnitude are the trainable parameters; the base is frozen."""
    names = student.names_of("trainable_names", dora(student, draw_dora(rng, *DORAS[1])))
    equal(names, ["lora_A", "lora_B", "magnitude"], "the list of trainable parameters")


def dora_numbers(lib: Session, case: Dora) -> dict[str, float]:
    return numbers(lib, dora(lib, case), ("rank", "alpha", "scaling"))


@check("7.3", weight=1)
def test_dora_attributes(student, oracle, rng):
    """rank, alpha and scaling = alpha / rank say what the layer was made with."""
    for shape in DORAS:
        case = draw_dora(rng, *shape)
        with at(case.rung):
            compare_numbers(dora_numbers(student, case), oracle(dora_numbers, case))


@check("7.3", weight=1, tier="advanced")
def test_dora_base_is_kept(student, oracle, rng):
    """`base` is the very layer that was passed in: a change of its weight changes direction and norms."""
    case = draw_dora(rng, *DORAS[1])
    x, other = rng.standard_normal((7, 3)), rng.standard_normal((5, 3))
    with at(case.rung):
        base = linear(student, case.weight, case.bias)
        layer = dora(student, case, base)
        student.write(base.weight, other)
        want = oracle(dora_output, case._replace(weight=other), x)
        close(student.read(layer(tensor(x)), (7, 5)), want, "layer(x) after base.weight was changed")
        equal(student.probe("same", layer.base, base), True, "layer.base is the layer that was passed in")


def dora_calls(lib: Session, case: Dora, other: Dora, x: np.ndarray) -> list[np.ndarray]:
    layer = dora(lib, case)
    changes = [(layer.lora_A, other.A), (layer.lora_B, other.B), (layer.magnitude, other.magnitude)]
    return calls(lib, layer, x, [*changes, (layer.base.weight, other.weight)], len(case.weight))


@check("7.3", weight=1, tier="advanced")
def test_dora_called_again(student, oracle, rng):
    """Every call computes with what the parameters are then, in training and in evaluation mode alike, and changes none."""
    case, other = (draw_dora(rng, *DORAS[1]) for _ in range(2))
    x = rng.standard_normal((9, 8, 3))
    with at(f"{case.rung}, x of shape {x.shape}, not contiguous"):
        compare_calls(dora_calls(student, case, other, x), oracle(dora_calls, case, other, x))


@check("7.3", weight=1, tier="advanced")
def test_dora_small_rows(student, oracle, rng):
    """Rows of V are divided by their norms as they are, however small: nothing is added and nothing is cut off."""
    for size in (1e-6, 1e-20):
        case = draw_dora(rng, *DORAS[1])
        # Without a bias, which would swallow such an output where it is added and taken off again.
        case = case._replace(weight=size * case.weight, B=size * case.B, bias=None)
        x = rng.standard_normal((7, 3))
        with at(f"{case.rung}, rows with norms of the order of {size:g}"):
            close(dora_output(student, case, x), oracle(dora_output, case, x), "layer(x)")


@check("7.3", weight=1, tier="advanced")
def test_dora_dtype(student, oracle, rng):
    """Parameters and output have the dtype of the base layer."""
    case = draw_dora(rng, *DORAS[1])
    x = rng.standard_normal((7, 3))
    for dtype in DTYPES:
        with at(f"a base layer of dtype {dtype}"):
            layer = student.DoRALinear(linear(student, case.weight, case.bias, dtype), 2, 3.0)
            student.read(layer.lora_A, case.A.shape, dtype, free=True)
            student.read(layer.lora_B, case.B.shape, dtype, free=True)
            student.read(layer.magnitude, (5,), dtype, free=True)
            student.read(layer(tensor(x, dtype)), (7, 5), dtype, free=True)


@check("7.3", weight=1, tier="advanced")
def test_dora_refuses(student, oracle, rng):
    """A rank outside 1 ... min(in_features, out_features) is a ValueError."""
    for sizes, rank in (((5, 3), 4), ((3, 5), 4), ((5, 3), 0), ((5, 3), -2)):  # too large first: unchecked it raises nothing
        with at(f"in_features={sizes[0]}, out_features={sizes[1]}, rank={rank}"):
            base = linear(student, rng.standard_normal(sizes[::-1]), None)
            student.raises("ValueError", act=lambda b=base, r=rank: student.DoRALinear(b, r, 1.0))
    for sizes in ((3, 5), (5, 3)):
        with at(f"in_features={sizes[0]}, out_features={sizes[1]}, rank=3, the largest"):
            base = linear(student, rng.standard_normal(sizes[::-1]), None)
            student.read(student.DoRALinear(base, 3, 1.0).lora_A, (3, sizes[0]), free=True)


# --- task 7.4 ---


class Rand(NamedTuple):
    """base.weight (out, in), base.bias (out) or None, basis_A (rank, d), basis_B (n, D, rank), diag_lambda (n, rank),
    diag_gamma (n, d), alpha; d is the smaller and D the larger of in and out."""

    weight: np.ndarray
    bias: np.ndarray | None
    A: np.ndarray
    B: np.ndarray
    diag_lambda: np.ndarray
    diag_gamma: np.ndarray
    alpha: float

    @property
    def rung(self) -> str:
        out_features, in_features = self.weight.shape
        sizes = f"in_features={in_features}, out_features={out_features}, {len(self.B)} bases of rank {len(self.A)}"
        return f"{sizes}, alpha={self.alpha}" if self.bias is not None else f"{sizes}, alpha={self.alpha}, no bias"


# in_features, out_features, rank, n, alpha, bias: out larger, in larger, both equal
RANDS = ((2, 3, 1, 4, 1.5, False), (3, 5, 2, 2, 3.0, True), (7, 4, 3, 2, 12.0, True), (6, 6, 2, 3, 0.5, True))


def draw_rand(rng, in_features, out_features, rank, n, alpha, bias) -> Rand:
    small, large = min(in_features, out_features), max(in_features, out_features)
    shapes = ((out_features, in_features), (rank, small), (n, large, rank), (n, rank), (n, small))
    weight, A, B, diag_lambda, diag_gamma = (rng.standard_normal(s) for s in shapes)
    return Rand(weight, rng.standard_normal(out_features) if bias else None, A, B, diag_lambda, diag_gamma, alpha)


def rand_layer(lib: Session, case: Rand, base: Handle | None = None) -> Handle:
    base = linear(lib, case.weight, case.bias) if base is None else base
    layer = lib.RandLoRALinear(base, basis_A=tensor(case.A), basis_B=tensor(case.B), alpha=case.alpha)
    in_dtype(lib, layer)
    lib.write(layer.diag_lambda, case.diag_lambda)
    lib.write(layer.diag_gamma, case.diag_gamma)
    return layer


def rand_output(lib: Session, case: Rand, x: np.ndarray) -> np.ndarray:
    return lib.read(rand_layer(lib, case)(tensor(x)), (*x.shape[:-1], len(case.weight)))


@check("7.4", weight=4, gate=True)
def test_rand_forward(student, oracle, rng):
    """The output is W0 x + b + dW x, with dW the sum over the bases, each with its own two diagonals."""
    for shape in RANDS:
        case = draw_rand(rng, *shape)
        for x in tokens_for(rng, shape[0]):
            with at(f"{case.rung}, x of shape {x.shape}"):
                close(rand_output(student, case, x), oracle(rand_output, case, x), "layer(x)")


def rand_start(lib: Session, case: Rand, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    layer = lib.RandLoRALinear(linear(lib, case.weight, case.bias), tensor(case.A), tensor(case.B), case.alpha)
    in_dtype(lib, layer)
    diag_lambda = lib.read(layer.diag_lambda, case.diag_lambda.shape, free=True)
    diag_gamma = lib.read(layer.diag_gamma, case.diag_gamma.shape, free=True)
    lib.note([bool(diag_lambda.any()), bool(diag_gamma.any()), bool(diag_gamma.all())])
    return diag_lambda, diag_gamma, lib.read(layer(tensor(x)), (len(x), len(case.weight)), free=True)


@check("7.4", weight=3)
def test_rand_start(student, oracle, rng):
    """A new layer computes what its base does: diag_lambda is zero, while no entry of diag_gamma is, or nothing could learn."""
    for shape in RANDS:
        case = draw_rand(rng, *shape)
        x = rng.standard_normal((9, shape[0]))
        with at(case.rung):
            diag_lambda, diag_gamma, y = rand_start(student, case, x)
            zero, _, base_only = oracle(rand_start, case, x)
            close(diag_lambda, zero, "diag_lambda of a new layer", rtol=0)
            zeros = int((diag_gamma == 0).sum())
            demand(not zeros, f"diag_gamma of a new layer has {zeros} zeros\n  expected: none")
            close(y, base_only, "layer(x) of a new layer")


def rand_gradients(lib: Session, case: Rand, x: np.ndarray, g: np.ndarray) -> dict[str, np.ndarray]:
    shapes = {"diag_lambda": case.diag_lambda.shape, "diag_gamma": case.diag_gamma.shape}
    return vjp(lib, rand_layer(lib, case), x, g, shapes)


@check("7.4", weight=2)
def test_rand_gradients(student, oracle, rng):
    """Back-propagation gives both diagonals and x their exact gradients."""
    for shape in RANDS:
        case = draw_rand(rng, *shape)
        x, g = rng.standard_normal((9, 8, shape[0])), rng.standard_normal((9, 8, shape[1]))
        with at(case.rung):
            compare_gradients(rand_gradients(student, case, x, g), oracle(rand_gradients, case, x, g))


def rand_names(lib: Session, case: Rand) -> tuple[list[str], list[str], list[str]]:
    layer = rand_layer(lib, case)
    trainable = lib.names_of("trainable_names", layer)
    buffers = lib.names_of("week07.buffers", layer)
    bases = [name for name in buffers if name.startswith("basis_")]
    return trainable, lib.names_of("week07.parameters", layer), bases


@check("7.4", weight=3)
def test_rand_trains(student, oracle, rng):
    """Only the two diagonals train: the bases are buffers and no parameters, and the base is frozen."""
    case = draw_rand(rng, *RANDS[1])
    found = zip(rand_names(student, case), oracle(rand_names, case), strict=True)
    for what, (got, want) in zip(("trainable parameters", "parameters", "buffers that hold a basis"), found, strict=True):
        equal(got, want, f"the list of {what}")


@check("7.4", weight=1)
def test_rand_shares_the_bases(student, oracle, rng):
    """Two layers that are given the same bases hold these very tensors, and no copies."""
    case = draw_rand(rng, *RANDS[1])
    bases = {name: student.build("week07.shared", value=tensor(v)) for name, v in (("basis_A", case.A), ("basis_B", case.B))}
    layers = [student.RandLoRALinear(linear(student, case.weight, case.bias), alpha=3.0, **bases) for _ in range(2)]
    for name, basis in bases.items():
        for layer in layers:
            close(student.read(getattr(layer, name), getattr(case, name[-1]).shape), getattr(case, name[-1]), name, rtol=0)
            equal(student.probe("week07.same_memory", getattr(layer, name), basis), True, f"{name} is the tensor passed in")


def rand_numbers(lib: Session, case: Rand) -> dict[str, float]:
    return numbers(lib, rand_layer(lib, case), ("rank", "alpha", "scaling"))


@check("7.4", weight=1)
def test_rand_attributes(student, oracle, rng):
    """rank, alpha and scaling = alpha / rank say what the layer was made with."""
    for shape in RANDS[:3]:
        case = draw_rand(rng, *shape)
        with at(case.rung):
            compare_numbers(rand_numbers(student, case), oracle(rand_numbers, case))


@check("7.4", weight=1, tier="advanced")
def test_rand_base_is_kept(student, oracle, rng):
    """`base` is the very layer that was passed in: a change of its weight changes the output."""
    case = draw_rand(rng, *RANDS[1])
    x, other = rng.standard_normal((7, 3)), rng.standard_normal((5, 3))
    with at(case.rung):
        base = linear(student, case.weight, case.bias)
        layer = rand_layer(student, case, base)
        student.write(base.weight, other)
        want = oracle(rand_output, case._replace(weight=other), x)
        close(student.read(layer(tensor(x)), (7, 5)), want, "layer(x) after base.weight was changed")
        equal(student.probe("same", layer.base, base), True, "layer.base is the layer that was passed in")


def rand_calls(lib: Session, case: Rand, other: Rand, x: np.ndarray) -> list[np.ndarray]:
    layer = rand_layer(lib, case)
    changes = [(layer.diag_lambda, other.diag_lambda), (layer.diag_gamma, other.diag_gamma)]
    return calls(lib, layer, x, [*changes, (layer.base.weight, other.weight)], len(case.weight))


@check("7.4", weight=1, tier="advanced")
def test_rand_called_again(student, oracle, rng):
    """Every call computes with what the parameters are then, in training and in evaluation mode alike, and changes none."""
    case, other = (draw_rand(rng, *RANDS[1]) for _ in range(2))
    x = rng.standard_normal((9, 8, 3))
    with at(f"{case.rung}, x of shape {x.shape}, not contiguous"):
        compare_calls(rand_calls(student, case, other, x), oracle(rand_calls, case, other, x))


@check("7.4", weight=1, tier="advanced")
def test_rand_dtype(student, oracle, rng):
    """Diagonals and output have the dtype of the base layer."""
    case = draw_rand(rng, *RANDS[2])
    x = rng.standard_normal((9, 7))
    for dtype in DTYPES:
        with at(f"a base layer of dtype {dtype}"):
            base = linear(student, case.weight, case.bias, dtype)
            layer = student.RandLoRALinear(base, tensor(case.A, dtype), tensor(case.B, dtype), 12.0)
            student.read(layer.diag_lambda, case.diag_lambda.shape, dtype, free=True)
            student.read(layer.diag_gamma, case.diag_gamma.shape, dtype, free=True)
            student.read(layer(tensor(x, dtype)), (9, 4), dtype, free=True)


@check("7.4", weight=1, tier="advanced")
def test_rand_refuses(student, oracle, rng):
    """Bases that do not fit the layer, or too few of them for the full rank, are a ValueError."""
    for in_features, out_features, A, B in (
        (5, 3, (1, 3), (2, 5, 1)),  # too few: unchecked it raises nothing
        (3, 5, (2, 3), (1, 5, 2)),
        (5, 3, (2, 5), (2, 3, 2)),  # the sides exchanged
        (5, 3, (2, 3), (2, 5, 3)),  # another rank
        (5, 3, (2, 3), (2, 6, 2)),
        (5, 3, (2, 4), (2, 5, 2)),
        (5, 3, (2, 5), (2, 5, 2)),  # basis_A on the larger side
    ):
        with at(f"in_features={in_features}, out_features={out_features}, basis_A of shape {A}, basis_B of shape {B}"):
            base = linear(student, rng.standard_normal((out_features, in_features)), None)
            bases = [tensor(rng.standard_normal(shape)) for shape in (A, B)]
            student.raises("ValueError", act=lambda b=base, t=bases: student.RandLoRALinear(b, *t, 1.0))
