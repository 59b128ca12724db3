"""Checks of week 11's stretch tasks: DARE, 8-bit compression, a penalty against forgetting, stacked adapters."""

from __future__ import annotations

import numpy as np

from autograder.checks.week11.test_merge import Adapter, draw
from autograder.judge.check import Handle, Session, at, check, close, demand, equal, tensor

# --- task 11.5 ---


def thinned(lib: Session, delta: np.ndarray, rate: float, source: Handle) -> np.ndarray:
    return lib.read(lib.dare(tensor(delta), rate, source), delta.shape, delta.dtype.name, free=True)


def factor(lib: Session, delta: np.ndarray, rate: float, seed: int) -> float:
    """What the entries that stay were multiplied by: the middle one of these factors."""
    new = thinned(lib, delta, rate, lib.build("week11.generator", seed=seed))
    ratios = (new / delta)[new != 0]
    lib.note(sorted({round(float(r), 6) for r in ratios})[:5])
    return float(np.median(ratios)) if ratios.size else 0.0


@check("11.5", weight=3, gate=True)
def test_dropped_and_rescaled(student, oracle, rng):
    """Each entry is zero, or its old value divided by 1 - drop_rate."""
    for shape, rate in (((4, 6), 0.5), ((5, 8), 0.2), ((300,), 0.9), ((2, 3, 20), 0.75)):
        delta, seed = rng.uniform(0.5, 2.0, shape) * np.sign(rng.standard_normal(shape)), int(rng.integers(2**31))
        with at(f"an update of shape {shape}, drop_rate={rate}"):
            want = oracle(factor, delta, rate, seed)
            got = factor(student, delta, rate, seed)
            close(np.array(got), np.array(want), "the factor of the entries that stay")
            new = thinned(student, delta, rate, student.build("week11.generator", seed=seed))
            close(new, np.where(new == 0, 0.0, delta * want), "the entries, zero or rescaled")


@check("11.5", weight=3, gate=True)
def test_drop_rate(student, oracle, rng):
    """The share that is dropped is drop_rate, so the mean over many draws is the update itself."""
    shape = (60, 50)
    count = shape[0] * shape[1]
    for rate in (0.1, 0.5, 0.9):
        delta = rng.uniform(0.5, 2.0, shape)
        with at(f"an update of shape {shape}, drop_rate={rate}"):
            new = thinned(student, delta, rate, student.build("week11.generator", seed=int(rng.integers(2**31))))
            share = float((new == 0).mean())
            student.note(round(share, 1))
            # binomial: beyond six standard deviations once in a billion
            room = 6 * (rate * (1 - rate) / count) ** 0.5
            demand(abs(share - rate) < room, f"a share of {share:.3f} was dropped\n  expected: {rate}, give or take {room:.3f}")


@check("11.5", weight=1)
def test_dropped_one_by_one(student, oracle, rng):
    """Entries are dropped independently: not by magnitude, not whole rows or columns, not a fixed number of them."""
    shape, rate = (40, 50), 0.5
    delta = rng.uniform(0.5, 2.0, shape)
    source = student.build("week11.generator", seed=int(rng.integers(2**31)))
    draws = [thinned(student, delta, rate, source) == 0 for _ in range(10)]
    dropped = draws[0]
    small = dropped[delta < np.median(delta)].mean()
    # 1 or 0 of the 40 or 50 places of a line is beyond any chance, and so are ten equal numbers among 2000
    whole = {f"a whole {name}": bool((abs(dropped.mean(axis) - rate) > 0.47).any()) for axis, name in ((1, "row"), (0, "column"))}
    counts = {int(draw.sum()) for draw in draws}
    student.note([*whole.values(), len(counts) > 1, round(float(small), 1)])
    for name, found in whole.items():
        demand(not found, f"{name} was dropped, or kept, as one\n  expected: a choice for each entry")
    # 1000 entries: 0.15 is nine standard deviations
    demand(
        abs(small - rate) < 0.15, f"of the smaller half {small:.2f} were dropped\n  expected: about {rate}, as of the larger half"
    )
    demand(
        len(counts) > 1,
        f"ten draws each dropped exactly {min(counts)} of 2000\n  expected: numbers that vary, as each entry is on its own",
    )


def draws(lib: Session, delta: np.ndarray, rate: float, seed: int) -> list[bool]:
    """Whether an equal state gives equal results, whatever torch's own generator does; whether the next draw differs."""
    source = lib.build("week11.generator", seed=seed)
    first, second = thinned(lib, delta, rate, source), thinned(lib, delta, rate, source)
    again = thinned(lib, delta, rate, lib.build("week11.generator", seed=seed))
    other = thinned(lib, delta, rate, lib.build("week11.generator", seed=seed + 1))
    found = [np.array_equal(first, again), not np.array_equal(first, second), not np.array_equal(first, other)]
    lib.note(found)
    return found


@check("11.5", weight=2)
def test_generator(student, oracle, rng):
    """From an equal state of the generator comes an equal result; the next call, or another seed, gives another one."""
    delta, seed = rng.uniform(0.5, 2.0, (7, 9)), int(rng.integers(2**30))
    got, want = draws(student, delta, 0.5, seed), oracle(draws, delta, 0.5, seed)
    for name, one, other in zip(
        (
            "whether two generators of one seed give one result",
            "whether a second call gives another",
            "whether another seed does",
        ),
        got,
        want,
        strict=True,
    ):
        equal(one, other, name)


@check("11.5", weight=1)
def test_dare_ends(student, oracle, rng):
    """At drop_rate 0 the update stays; below 0, at 1 and above a ValueError; what was passed in stays, and so does the dtype."""
    delta = rng.standard_normal((4, 5))
    source = student.build("week11.generator", seed=1)
    with at("drop_rate=0"):
        close(thinned(student, delta, 0.0, source), delta, "the result")
    for rate in (1.0, 1.5, -0.1):
        with at(f"drop_rate={rate}"):
            student.raises("ValueError", act=lambda r=rate: student.dare(tensor(delta), r, source))
    for dtype in ("float32", "float64"):
        with at(f"an update in {dtype}"):
            kept = student.build("week11.table", values={"delta": tensor(delta, dtype)})
            student.read(student.dare(student.build("week11.updates", table=kept)[0], 0.5, source), (4, 5), dtype, free=True)
            found = student.array(student.probe("week11.entry", kept, "delta"), "the update afterwards", (4, 5), dtype)
            close(found, delta.astype(dtype), "the update afterwards", rtol=0)


# --- task 11.6 ---


def codes_of(lib: Session, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    result = lib.compress_int8(tensor(weight))
    return lib.read(result[0], weight.shape, "int8"), lib.read(result[1], (len(weight), 1), weight.dtype.name)


@check("11.6", weight=3, gate=True)
def test_codes(student, oracle, rng):
    """The scale of a row is its largest magnitude over 127, and the codes are the entries over it, rounded to nearest."""
    for shape in ((2, 3), (3, 5), (6, 4), (5, 40)):
        weight = rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 3, (shape[0], 1))
        weight[:, -1] = -2.5 * np.abs(weight).max(axis=1)  # the largest magnitude of a row is negative
        if shape[0] > 2:
            weight[1] = -weight[1]
        with at(f"a weight of shape {shape}"):
            got, scale = codes_of(student, weight)
            want, want_scale = oracle(codes_of, weight)
            close(scale, want_scale, "the scales, one for each row", rtol=0, atol=1e-9 * want_scale)
            close(got, want, "the codes", rtol=0)
    # A row may be tiny, and a quotient a little below a half.
    weight = np.array([[127.0, 101.49, -63.49, 98.51], [1e-12, -4e-13, 7e-13, 2e-13], [-1e-20, 3e-21, 9e-21, 0.0]])
    with at("a weight with rows of about 100, 1e-12 and 1e-20"):
        got, scale = codes_of(student, weight)
        want, want_scale = oracle(codes_of, weight)
        close(scale, want_scale, "the scales, one for each row", rtol=0, atol=1e-9 * want_scale)
        close(got, want, "the codes", rtol=0)


def rebuilt(lib: Session, codes: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return lib.read(lib.decompress_int8(tensor(codes), tensor(scale)), codes.shape, scale.dtype.name)


@check("11.6", weight=2, gate=True)
def test_decompressed(student, oracle, rng):
    """Each entry is its code times its row's scale."""
    for shape in ((2, 3), (4, 4), (5, 3)):
        codes = rng.integers(-127, 128, shape).astype(np.int8)
        scale = rng.uniform(0.001, 2.0, (shape[0], 1))
        with at(f"codes of shape {shape}"):
            close(rebuilt(student, codes, scale), oracle(rebuilt, codes, scale), "the weight")


def round_trip(lib: Session, weight: np.ndarray) -> np.ndarray:
    result = lib.compress_int8(tensor(weight))
    return lib.read(lib.decompress_int8(result[0], result[1]), weight.shape, weight.dtype.name)


@check("11.6", weight=1)
def test_zero_rows(student, oracle, rng):
    """A row of zeros comes back as zeros, with a finite scale and the codes 0; so does a zero in any row."""
    weight = rng.standard_normal((4, 3))
    weight[1] = 0
    weight[2, 1] = 0
    with at("a weight whose second row is zero"):
        result = student.compress_int8(tensor(weight))
        got = student.read(result[0], weight.shape, "int8")
        scale = student.read(result[1], (4, 1), free=True)
        student.note(np.delete(scale, 1))  # that of the zero row is free
        close(got, oracle(codes_of, weight)[0], "the codes", rtol=0)
        close(round_trip(student, weight), oracle(round_trip, weight), "what comes back")


@check("11.6", weight=1)
def test_int8_dtypes(student, oracle, rng):
    """The scales and what comes back have the weight's dtype."""
    for dtype in ("float32", "float64"):
        weight = rng.standard_normal((3, 5)).astype(dtype)
        with at(f"a weight in {dtype}"):
            result = student.compress_int8(tensor(weight))
            student.read(result[0], weight.shape, "int8")
            student.read(result[1], (3, 1), dtype)
            # eps of float32 for the division and for the product, and one code where a quotient is that close to a half
            close(round_trip(student, weight), oracle(round_trip, weight), "what comes back", rtol=1.01 / 127)


@check("11.6", weight=1, tier="advanced")
def test_int8_leaves_its_arguments(student, oracle, rng):
    """Neither function changes what was passed in."""
    weight, codes = rng.standard_normal((3, 5)), rng.integers(-127, 128, (3, 5)).astype(np.int8)
    values = {"weight": weight, "codes": codes, "scale": rng.uniform(0.1, 2.0, (3, 1))}
    kept = student.build("week11.table", values={name: tensor(value) for name, value in values.items()})
    passed = student.build("week11.updates", table=kept)
    student.keep(student.compress_int8(passed[0]))
    student.keep(student.decompress_int8(passed[1], passed[2]))
    for name, value in values.items():
        found = student.array(student.probe("week11.entry", kept, name), f"{name} afterwards", value.shape, value.dtype.name)
        close(found, value, f"{name} afterwards", rtol=0)


# --- task 11.7 ---

Table = dict[str, np.ndarray]


def penalty(
    lib: Session, theta: Table, old: Table, fisher: Table, strength: float, dtype: str = "float64"
) -> tuple[float, list[str], list[np.ndarray]]:
    """The penalty, which tensors get a gradient, and those of theta."""
    tables = [{name: tensor(value, dtype) for name, value in table.items()} for table in (theta, old, fisher)]
    found = lib.probe("week11.penalised", lib.ewc_penalty, *tables, strength)
    value = lib.array(found["value"], "the penalty", (), dtype)
    names, slopes = sorted(found["gradients"]), found["gradients"]
    given = [lib.array(slopes.get(f"parameters.{n}"), f"the gradient of {n}", theta[n].shape, dtype) for n in sorted(old)]
    return float(value), names, given


@check("11.7", weight=3, gate=True)
def test_penalty(student, oracle, rng):
    """The penalty is strength / 2 times the sum of F (theta - theta*)^2, and its gradients are exact."""
    for shapes, strength in (({"w": (2,)}, 1.0), ({"w": (3, 2), "b": (4,)}, 5.0), ({"w": (2, 5), "b": (3,), "c": ()}, 0.3)):
        theta, old = ({n: np.array(rng.standard_normal(s)) for n, s in shapes.items()} for _ in range(2))
        fisher = {n: np.array(rng.uniform(0.1, 3.0, s)) for n, s in shapes.items()}
        with at(f"parameters of shapes {', '.join(map(str, shapes.values()))}, strength={strength}"):
            value, _, got = penalty(student, theta, old, fisher, strength)
            want_value, _, want = oracle(penalty, theta, old, fisher, strength)
            close(np.array(value), np.array(want_value), "the penalty")
            for name, one, other in zip(sorted(old), got, want, strict=True):
                close(one, other, f"the gradient of {name}")


@check("11.7", weight=1)
def test_penalty_constants(student, oracle, rng):
    """A parameter that is new costs nothing, and no gradient reaches the old values or the Fisher information."""
    theta, every = ({n: rng.uniform(0.1, 3.0, (2, 3)) for n in ("w", "new")} for _ in range(2))
    old = {"w": rng.standard_normal((2, 3))}
    for said, fisher in (("of w alone", {"w": every["w"]}), ("of the new parameter too", every)):
        with at(f"a new parameter, and the Fisher information {said}"):
            value, names, _ = penalty(student, theta, old, fisher, 2.0)
            want, want_names, _ = oracle(penalty, theta, old, fisher, 2.0)
            close(np.array(value), np.array(want), "the penalty with a new parameter")
            equal(names, want_names, "the list of what gets a gradient")
    with at("parameters in float32"):
        value, want = penalty(student, theta, old, every, 2.0, "float32")[0], oracle(penalty, theta, old, every, 2.0)[0]
        close(np.array(value), np.array(want), "the penalty with a new parameter", rtol=1e-5)  # a dozen roundings


def stacked(lib: Session, loras: list[Adapter]) -> tuple[np.ndarray, np.ndarray, float]:
    rank = sum(len(lora.A) for lora in loras)
    new = lib.stack_tasks([lora.made(lib) for lora in loras])
    A, B = lib.read(new.lora_A, (rank, loras[0].A.shape[1])), lib.read(new.lora_B, (len(loras[0].B), rank))
    with lib.aside():
        alpha = lib.number(new.alpha)
    lib.note(alpha)  # an int and a float are one number here
    return A, B, alpha


@check("11.7", weight=3, gate=True)
def test_stacked(student, oracle, rng):
    """The new A holds the tasks' rows in their order, the new B their columns, each with its own scaling; alpha is the rank."""
    for in_features, out_features, *of in ((3, 2, (1, 2.0)), (4, 3, (2, 3.0), (1, 4.0)), (6, 5, (2, 1.0), (3, 12.0), (2, 5.0))):
        loras = [draw(rng, in_features, out_features, rank, alpha) for rank, alpha in of]
        with at(f"adapters of rank and alpha {', '.join(map(str, of))}"):
            got, want = stacked(student, loras), oracle(stacked, loras)
            close(np.array(got[2]), np.array(want[2]), "the new alpha", rtol=0)
            close(got[0], want[0], "the new lora_A", rtol=0)
            close(got[1], want[1], "the new lora_B")


@check("11.7", weight=1)
def test_stacked_dtype(student, oracle, rng):
    """The factors keep their dtype."""
    for dtype in ("float32", "float16"):
        with at(f"adapters in {dtype}"):
            loras = [draw(rng, 4, 3, rank, 2.0).made(student, dtype) for rank in (1, 2)]
            new = student.stack_tasks(loras)
            student.read(new.lora_A, (3, 4), dtype)
            student.read(new.lora_B, (3, 3), dtype)


@check("11.7", weight=1, tier="advanced")
def test_stacked_leaves_the_tasks(student, oracle, rng):
    """The adapters that were passed in are what they were."""
    loras = [draw(rng, 4, 3, rank, 3.0) for rank in (1, 2)]
    made = [lora.made(student) for lora in loras]
    student.keep(student.stack_tasks(made))
    for k, (lora, kept) in enumerate(zip(loras, made, strict=True)):
        close(student.read(kept.lora_A, lora.A.shape), lora.A, f"lora_A of adapter {k} afterwards", rtol=0)
        close(student.read(kept.lora_B, lora.B.shape), lora.B, f"lora_B of adapter {k} afterwards", rtol=0)
