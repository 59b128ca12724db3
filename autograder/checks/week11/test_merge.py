"""Checks of week 11: merging several adapters, TIES, compression by SVD, export to ONNX."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from autograder.judge.check import CheckFailed, Handle, Session, at, check, close, demand, equal, tensor

HALF = float(np.finfo(np.float16).eps) / 2  # rounding to nearest errs by half a unit in the last place


class Adapter(NamedTuple):
    """A (rank, in), B (out, rank), alpha."""

    A: np.ndarray
    B: np.ndarray
    alpha: float

    def made(self, lib: Session, dtype: str = "float64") -> Handle:
        return lib.LoRA(tensor(self.A, dtype), tensor(self.B, dtype), self.alpha)


def draw(rng, in_features: int, out_features: int, rank: int, alpha: float, scale: float = 1.0) -> Adapter:
    return Adapter(rng.standard_normal((rank, in_features)), scale * rng.standard_normal((out_features, rank)), alpha)


# --- task 11.1 ---

Base = dict[str, np.ndarray]
Adapters = list[dict[str, Adapter]]

# out_features and in_features of each weight; then for each adapter its targets with rank and alpha
MODELS: tuple[tuple[dict[str, tuple[int, int]], tuple[dict[str, tuple[int, float]], ...]], ...] = (
    ({"q": (3, 2)}, ({"q": (1, 1.0)},)),
    ({"q": (3, 4)}, ({"q": (2, 3.0)},)),
    ({"q": (3, 4)}, ({"q": (2, 3.0)}, {"q": (3, 12.0)})),
    ({"q": (5, 4), "v": (2, 6), "o": (3, 7)}, ({"q": (2, 3.0)}, {"q": (3, 4.0), "v": (1, 2.0)}, {"v": (2, 5.0), "q": (1, 0.5)})),
)


def parts(adapter: dict[str, Adapter], dtype: str) -> dict[str, list[Any]]:
    return {name: [tensor(one.A, dtype), tensor(one.B, dtype), one.alpha] for name, one in adapter.items()}


def merged(
    lib: Session, base: Base, adapters: Adapters, weights: list[float], dtype: str | None, stored: str, factors: str
) -> Base:
    """The merged weights. `stored`, `factors`: the dtypes of the weights and the factors passed in; dtype None: the default."""
    given = {name: tensor(W, stored) if W.dtype.kind == "f" else tensor(W) for name, W in base.items()}
    made = lib.build("week11.adapters", cls=lib.LoRA, items=[parts(adapter, factors) for adapter in adapters])
    options = {} if dtype is None else {"dtype": lib.build("dtype", name=dtype)}
    result = lib.merge_loras(lib.build("week11.table", values=given), made, weights, **options)
    equal(lib.names_of("week11.keys", result), sorted(base), "the list of names in the result")
    # bfloat16 travels as float32; what is no floating-point number keeps its type
    return {
        name: lib.array(
            lib.probe("week11.entry", result, name),
            f'merged["{name}"]',
            W.shape,
            (dtype or "float16") if W.dtype.kind == "f" else W.dtype.name,
        )
        for name, W in base.items()
    }


def compare_merged(student, oracle, base, adapters, weights) -> None:
    """In float64 throughout."""
    args = (base, adapters, weights, "float64", "float64", "float64")
    got, want = merged(student, *args), oracle(merged, *args)
    for name in want:
        close(got[name], want[name], f'merged["{name}"]')


def a_model(rng, sizes, targets) -> tuple[Base, Adapters, list[float]]:
    base = {name: rng.standard_normal(shape) for name, shape in sizes.items()}
    adapters = [{n: draw(rng, sizes[n][1], sizes[n][0], *of) for n, of in adapter.items()} for adapter in targets]
    return base, adapters, [float(w) for w in rng.uniform(0.3, 1.7, len(targets))]


@check("11.1", weight=4, gate=True)
def test_merged(student, oracle, rng):
    """Each merged weight is W0 + sum_k weights[k] (alpha_k / rank_k) B_k A_k, over the adapters that name it."""
    for sizes, targets in MODELS:
        base, adapters, weights = a_model(rng, sizes, targets)
        said = "; ".join(", ".join(f"{n}: rank={r}, alpha={a}" for n, (r, a) in adapter.items()) for adapter in targets)
        with at(f"weights {', '.join(sizes)} and adapters ({said}), all in float64"):
            compare_merged(student, oracle, base, adapters, weights)
            compare_merged(student, oracle, base, adapters, [-w if k % 2 else w for k, w in enumerate(weights)])


def rounding(want: np.ndarray, size: np.ndarray, rank: int, adapters: int) -> np.ndarray:
    """How far a sum formed in float32 and rounded once to float16 may be from the exact one, elementwise.

    Half a unit in the last place of float16 (its spacing is 2^-24 near zero), and less than an eps of float32 for each
    of the operations behind an entry; `size` is the sum of the terms' magnitudes.
    """
    operations = adapters * (rank + 4) + 2
    return HALF * np.abs(want) + 2.0**-25 + 2 * operations * float(np.finfo(np.float32).eps) * size


def rounded(value: np.ndarray, dtype: str) -> np.ndarray:
    return value.astype(dtype).astype(np.float64)


@check("11.1", weight=4, gate=True)
def test_rounded_once(student, oracle, rng):
    """In float16, by default, updates too small to count one by one still count together: the sum is rounded once."""
    for stored, count in (("float32", 1), ("float32", 16), ("float16", 16), ("float16", 40)):
        shape, rank = (6, 5), 2
        base = {"q": rounded(rng.uniform(1.0, 1.9, shape), stored)}
        # All of one sign, and each below half the spacing 2^-10 of float16 at 1: about 2e-4 each.
        one = [Adapter(rng.uniform(0.5, 1.0, (rank, 5)), rng.uniform(1e-4, 2e-4, (6, rank)), 2.0) for _ in range(count)]
        adapters = [{"q": Adapter(rounded(a.A, stored), rounded(a.B, stored), a.alpha)} for a in one]
        weights = [1.0] * count
        with at(f"small updates of a weight near 1, {count} of them, passed in {stored}"):
            got = merged(student, base, adapters, weights, None, stored, stored)["q"]
            exact = oracle(merged, base, adapters, weights, "float64", "float64", "float64")["q"]
            # no term is negative, so the exact sum is the terms' size too
            close(got, exact, 'merged["q"]', rtol=0, atol=rounding(exact, exact, rank, count))


@check("11.1", weight=2)
def test_wide_sum(student, oracle, rng):
    """No step before the last is done in half precision, neither the product B A nor its scaling."""
    base, adapters, weights = a_model(rng, {"q": (5, 7)}, ({"q": (3, 4.0)}, {"q": (2, 3.0)}))
    # The base is small, so the rounding of the update decides.
    base = {"q": rounded(1e-2 * base["q"], "float16")}
    adapters = [{"q": Adapter(rounded(a["q"].A, "float16"), rounded(a["q"].B, "float16"), a["q"].alpha)} for a in adapters]
    exact = oracle(merged, base, adapters, weights, "float64", "float64", "float64")["q"]
    size = [np.abs(base["q"])] + [
        oracle(merged, {"q": 0 * base["q"]}, [{"q": Adapter(abs(a["q"].A), abs(a["q"].B), a["q"].alpha)}], [w], *["float64"] * 3)[
            "q"
        ]
        for a, w in zip(adapters, weights, strict=True)
    ]
    with at("factors and weights in float16, a result in float32"):
        got = merged(student, base, adapters, weights, "float32", "float16", "float16")["q"]
        eps = float(np.finfo(np.float32).eps)
        close(got, exact, 'merged["q"]', rtol=0, atol=30 * eps * sum(size))
    with at("factors and weights in float16, a result in float16"):
        got = merged(student, base, adapters, weights, "float16", "float16", "float16")["q"]
        close(got, exact, 'merged["q"]', rtol=0, atol=rounding(exact, sum(size), 3, 2))


@check("11.1", weight=1)
def test_dtypes(student, oracle, rng):
    """Every floating-point tensor gets the asked dtype, targeted or not, and indices stay as they are."""
    base, adapters, weights = a_model(rng, *MODELS[2])
    base |= {"norm": rng.standard_normal(4), "positions": np.arange(7)}
    base |= {"mask": np.array([True, False]), "counts": np.arange(3, dtype=np.int32)}
    for dtype in (None, "bfloat16", "float32"):
        with at(f"dtype={dtype}" if dtype else "no dtype"):
            args = (base, adapters, weights, dtype, "float32", "float32")
            got, want = merged(student, *args), oracle(merged, *args)
            for name in ("positions", "mask", "counts"):
                equal(got[name].tolist(), want[name].tolist(), f'merged["{name}"]')
            eps = {None: 2 * HALF, "bfloat16": 2.0**-7, "float32": 2.0**-23}[dtype]
            close(got["norm"], want["norm"], 'merged["norm"]', rtol=0)
            # two right roundings differ by a unit in the last place where the float32 sums differ
            close(got["q"], want["q"], 'merged["q"]', rtol=0, atol=eps * np.abs(want["q"]) + 64 * 2.0**-23)
    with at("no adapters"):
        compare_merged(student, oracle, base, [], [])
        for name, value in oracle(merged, base, [], [], "float16", "float32", "float32").items():
            got = merged(student, base, [], [], "float16", "float32", "float32")[name]
            close(got.astype(np.float64), value.astype(np.float64), f'merged["{name}"]', rtol=0)
    with at("an adapter that names no weight"):
        compare_merged(student, oracle, base, [*adapters, {}], [*weights, 2.0])


@check("11.1", weight=2)
def test_overflow(student, oracle, rng):
    """A number that `dtype` cannot hold is an OverflowError, never an infinity, whichever weight it stands in."""
    base, adapters, weights = a_model(rng, *MODELS[2])
    large = {"q": base["q"], "norm": np.array([1.0, -7e4, 2.0])}
    huge = {"q": base["q"], "norm": np.array([1.0, 1e39, 2.0])}
    cases = (
        ("an update that leads to more than float16 holds", base, [w * 1e7 for w in weights], None, "float32"),
        ("a weight without adapter that float16 cannot hold", large, weights, None, "float32"),
        ("a weight of 1e39 in float64, and dtype float32", huge, weights, "float32", "float64"),
        ("a weight of 1e39 in float64, and dtype bfloat16", huge, weights, "bfloat16", "float64"),
    )
    for name, *of in cases:
        with at(name):
            student.raises(
                "OverflowError",
                act=lambda of=of: merged(student, of[0], adapters, of[1], of[2], of[3], of[3]),
            )
    with at("a weight of 7e4 and dtype bfloat16, which holds it"):
        got = merged(student, large, adapters, weights, "bfloat16", "float32", "float32")["norm"]
        want = oracle(merged, large, adapters, weights, "bfloat16", "float32", "float32")["norm"]
        close(got, want, 'merged["norm"]', rtol=0)


@check("11.1", weight=1)
def test_merge_refuses(student, oracle, rng):
    """Weights and adapters of unequal number, or an adapter for a weight that is not there, are a ValueError."""
    base, adapters, weights = a_model(rng, *MODELS[2])
    stray = [*adapters[:1], {"k": adapters[1]["q"]}]
    cases = (
        ("two adapters and one weight", adapters, weights[:1]),
        ("two adapters and three weights", adapters, [*weights, 1.0]),
        ('an adapter for "k", and a base without it', stray, weights),
    )
    for name, now, factors in cases:
        with at(name):
            act = lambda now=now, factors=factors: merged(student, base, now, factors, None, "float32", "float32")  # noqa: E731
            student.raises("ValueError", act=act)


@check("11.1", weight=1)
def test_merge_leaves_the_base(student, oracle, rng):
    """The weights that were passed in are what they were, also where they have the asked dtype already."""
    base, adapters, weights = a_model(rng, *MODELS[2])
    for dtype in ("float32", "float64"):
        with at(f"weights, factors and result in {dtype}"):
            kept = student.build("week11.table", values={"q": tensor(base["q"], dtype)})
            made = student.build("week11.adapters", cls=student.LoRA, items=[parts(adapter, dtype) for adapter in adapters])
            student.keep(student.merge_loras(kept, made, weights, student.build("dtype", name=dtype)))
            found = student.array(student.probe("week11.entry", kept, "q"), 'base["q"] afterwards', base["q"].shape, dtype)
            close(found, base["q"].astype(dtype), 'base["q"] afterwards', rtol=0)


# --- task 11.2 ---


def ties(lib: Session, deltas: list[np.ndarray], density: float, scale: float, turned: bool = False) -> np.ndarray:
    return lib.read(lib.ties_merge(updates(lib, deltas, turned), density, scale), deltas[0].shape, deltas[0].dtype.name)


def updates(lib: Session, deltas: list[np.ndarray], turned: bool = False) -> Handle:
    table = lib.build("week11.table", values={str(k): tensor(delta) for k, delta in enumerate(deltas)})
    return lib.build("week11.updates", table=table, turned=turned)


def compare_ties(student, oracle, deltas, density: float, scale: float = 1.0, rtol: float = 1e-9) -> None:
    close(ties(student, deltas, density, scale), oracle(ties, deltas, density, scale), "the merged update", rtol)


@check("11.2", weight=3, gate=True)
def test_ties(student, oracle, rng):
    """Trim each update, elect a sign at each position, and take the mean of the entries that agree with it."""
    for tasks, shape, density in ((1, (2, 2), 0.5), (2, (2, 5), 1.0), (3, (4, 5), 0.5), (5, (6, 7), 0.25), (4, (3, 2, 5), 0.7)):
        with at(f"density {density}, number of updates {tasks}, shape {shape}"):
            compare_ties(student, oracle, [rng.standard_normal(shape) for _ in range(tasks)], density)


@check("11.2", weight=2, gate=True)
def test_elected_by_magnitude(student, oracle, rng):
    """The elected sign is that of the larger total magnitude, though more tasks may have the other sign."""
    for shape in ((1, 3), (4, 5)):
        large, small = rng.uniform(4, 5, shape), [rng.uniform(0.5, 1.5, shape) for _ in range(2)]
        sign = np.sign(rng.standard_normal(shape))
        with at(f"one large update against two small ones of the other sign, shape {shape}, density 1"):
            compare_ties(student, oracle, [sign * large, *(-sign * s for s in small)], 1.0)


@check("11.2", weight=1)
def test_trim_alone(student, oracle, rng):
    """With one update TIES is the trim: int(density * n) entries of largest magnitude stay, at least one."""
    for shape, density in (((2, 3), 0.5), ((4, 5), 0.28), ((4, 5), 0.2), ((3, 7), 1.0), ((3, 2), 0.01)):
        with at(f"one update of shape {shape}, density {density}"):
            compare_ties(student, oracle, [rng.standard_normal(shape)], density)
    deltas = [rng.standard_normal((4, 5)) for _ in range(3)]
    with at("updates that are not contiguous in memory, shape (4, 5), density 0.5"):
        close(ties(student, deltas, 0.5, 1.0, True), oracle(ties, deltas, 0.5, 1.0), "the merged update")


@check("11.2", weight=1)
def test_each_trimmed_alone(student, oracle, rng):
    """Each update is trimmed by its own magnitudes, however large another one is."""
    for shape in ((2, 5), (4, 5)):
        deltas = [size * rng.standard_normal(shape) for size in (0.01, 1.0, 30.0)]
        with at(f"three updates of shape {shape} and very different sizes, density 0.4"):
            compare_ties(student, oracle, deltas, 0.4)
        with at(f"three updates of shape {shape} whose entries are about 1e-9"):
            compare_ties(student, oracle, [1e-9 * rng.standard_normal(shape) for _ in range(3)], 0.6)


@check("11.2", weight=1)
def test_elected_after_the_trim(student, oracle, rng):
    """Only what the trim has left takes part in the election and in the mean."""
    for shape in ((3, 4), (4, 6)):
        # At the first half of the positions one task has a large entry, and the others, small ones of the other sign
        # that are trimmed, would together outweigh it.
        first = np.arange(np.prod(shape)).reshape(shape) < np.prod(shape) // 2
        sign = np.sign(rng.standard_normal(shape))
        one = sign * np.where(first, rng.uniform(2.0, 2.5, shape), 0.1 * rng.uniform(0.5, 1.0, shape))
        others = [-sign * np.where(first, rng.uniform(0.8, 0.9, shape), rng.uniform(3, 4, shape)) for _ in range(4)]
        with at(f"five updates of shape {shape}, density 0.5"):
            compare_ties(student, oracle, [one, *others], 0.5)


@check("11.2", weight=1)
def test_ties_balance(student, oracle, rng):
    """Where the trimmed entries cancel exactly, or all are trimmed, the result is zero."""
    delta = rng.standard_normal((3, 4))
    half = np.where(np.arange(12).reshape(3, 4) % 2, delta, -delta)
    for name, deltas, density in (
        ("an update and its negative", [delta, -delta], 1.0),
        ("half of it negative", [delta, half], 0.5),
    ):
        with at(name):
            compare_ties(student, oracle, deltas, density)


@check("11.2", weight=1)
def test_ties_scale(student, oracle, rng):
    """`scale` multiplies the merged update once."""
    deltas = [rng.standard_normal((3, 5)) for _ in range(3)]
    for scale in (0.3, 2.0, -1.0, 0.0):
        with at(f"scale={scale}"):
            compare_ties(student, oracle, deltas, 0.6, scale)


@check("11.2", weight=1)
def test_ties_refuses(student, oracle, rng):
    """A density outside (0, 1], no update, or updates of different shapes are a ValueError."""
    first, second = rng.standard_normal((2, 3)), rng.standard_normal((3, 2))
    cases = (("density=0", [first], 0.0), ("density=-0.5", [first], -0.5), ("density=1.1", [first], 1.1))
    cases += (("no update", [], 0.5), ("shapes (2, 3) and (3, 2)", [first, second], 0.5))
    for name, deltas, density in cases:
        with at(name):
            student.raises("ValueError", act=lambda d=deltas, k=density: student.ties_merge(updates(student, d), k))


@check("11.2", weight=1)
def test_ties_leaves_the_updates(student, oracle, rng):
    """The updates that were passed in are what they were, and the result has their dtype."""
    for dtype in ("float32", "float64"):
        deltas = {"a": rng.standard_normal((3, 4)).astype(dtype), "b": rng.standard_normal((3, 4)).astype(dtype)}
        with at(f"two updates in {dtype}"):
            kept = student.build("week11.table", values={name: tensor(d) for name, d in deltas.items()})
            listed = student.build("week11.updates", table=kept)
            student.read(student.ties_merge(listed, 0.5), (3, 4), dtype)
            for name, delta in deltas.items():
                found = student.array(student.probe("week11.entry", kept, name), "an update afterwards", (3, 4), dtype)
                close(found, delta, "an update afterwards", rtol=0)


# --- task 11.3 ---

# in_features, out_features, rank, alpha, new rank
COMPRESSIONS = ((3, 4, 2, 3.0, 1), (5, 4, 3, 12.0, 2), (6, 8, 4, 2.0, 1), (6, 8, 5, 8.0, 4), (7, 5, 3, 1.0, 3))


def product_of(lib: Session, new: Handle, like: Adapter, rank: int, dtype: str = "float64") -> tuple[np.ndarray, np.ndarray]:
    """B A of an adapter, whose alpha must be the old one's, and |B| |A|; the factors themselves are the student's."""
    lib.note(["alpha", lib.number(new.alpha)])
    A = lib.read(new.lora_A, (rank, like.A.shape[1]), dtype, free=True).astype(np.float64)
    B = lib.read(new.lora_B, (len(like.B), rank), dtype, free=True).astype(np.float64)
    lib.note(B @ A)
    return B @ A, np.abs(B) @ np.abs(A)


def compressed(lib: Session, lora: Adapter, rank: int, dtype: str = "float64") -> tuple[np.ndarray, np.ndarray]:
    return product_of(lib, lib.svd_compress(lora.made(lib, dtype), rank), lora, rank, dtype)


@check("11.3", weight=4, gate=True)
def test_compressed(student, oracle, rng):
    """The new dW, with the old alpha and the new rank, is the best approximation of the old one of that rank."""
    for *sizes, rank in COMPRESSIONS:
        lora = draw(rng, *sizes)
        with at(f"in_features={sizes[0]}, out_features={sizes[1]}, alpha={sizes[3]}, rank {sizes[2]} made {rank}"):
            close(compressed(student, lora, rank)[0], oracle(compressed, lora, rank)[0], "B A of the new factors")


def alpha_of(lib: Session, lora: Adapter, rank: int, energy: float) -> list[float]:
    made = lora.made(lib)
    return [lib.number(lib.svd_compress(made, rank).alpha), lib.number(lib.prune_by_energy(made, energy).alpha)]


@check("11.3", weight=1)
def test_alpha_stays(student, oracle, rng):
    """alpha of the new adapter is alpha of the old one."""
    for alpha in (12.0, 2.5):
        lora = with_spectrum(rng, 5, 6, [4.0, 2.0, 1.0], alpha)
        for name, got, want in zip(
            ("svd_compress", "prune_by_energy"), alpha_of(student, lora, 2, 0.9), oracle(alpha_of, lora, 2, 0.9), strict=True
        ):
            with at(f"{name} with alpha = {alpha}"):
                equal(got, want, "alpha of the new adapter")


def with_spectrum(rng, in_features: int, out_features: int, values: list[float], alpha: float) -> Adapter:
    """An adapter whose B A has the given singular values, of which its factors show nothing."""
    rank = len(values)
    U = np.linalg.qr(rng.standard_normal((out_features, rank)))[0]
    V = np.linalg.qr(rng.standard_normal((in_features, rank)))[0]
    mix = rng.standard_normal((rank, rank)) + 2 * np.eye(rank)
    return Adapter(np.linalg.solve(mix, V.T), U * np.array(values) @ mix, alpha)


def pruned(lib: Session, lora: Adapter, energy: float, dtype: str = "float64") -> tuple[int, np.ndarray]:
    new = lib.prune_by_energy(lora.made(lib, dtype), energy)
    shape = lib.probe("week11.shape", new.lora_A)
    demand(
        type(shape) is list and len(shape) == 2 and all(type(size) is int for size in shape),
        "lora_A of the new adapter is no matrix\n  expected: a tensor of shape (rank, in_features)",
    )
    # The size of the factors is what is asked about here, and only then what they hold.
    return shape[0], product_of(lib, new, lora, shape[0], dtype)[0]


# in_features and out_features, singular values, and energies well between the shares that 1, 2, ... of them hold. The
# squares of (4, 2, 1) hold 76, 95 and 100 %; unsquared they would hold 57, 86 and 100 %.
ENERGIES: tuple[tuple[tuple[int, int], tuple[float, ...], tuple[float, ...]], ...] = (
    ((3, 2), (3.0, 1.0), (0.85, 0.95)),
    ((7, 6), (4.0, 2.0, 1.0), (0.3, 0.7, 0.85, 0.97)),
    ((7, 6), (5.0, 4.9, 2.0, 1.5, 0.1), (0.4, 0.6, 0.9, 0.96, 0.999)),
    ((7, 6), (4e-3, 2e-3, 1e-3), (0.7, 0.85, 0.97)),
    ((7, 6), (3.0, 2.0, 0.01), (0.9999, 0.9999999)),
)


@check("11.3", weight=3, gate=True)
def test_pruned(student, oracle, rng):
    """The rank is the smallest whose singular values, squared, sum to the asked share of all; the result is its truncation."""
    for sizes, values, energies in ENERGIES:
        lora = with_spectrum(rng, *sizes, list(values), 3.0)
        for energy in energies:
            with at(f"singular values of B A {', '.join(map(str, values))}, energy={energy}"):
                (rank, product), (want_rank, want) = pruned(student, lora, energy), oracle(pruned, lora, energy)
                equal(rank, want_rank, "the rank of the new adapter")
                close(product, want, "B A of the new factors")


@check("11.3", weight=1)
def test_pruned_ends(student, oracle, rng):
    """At energy 1 the whole update stays, the least energy keeps rank 1, and a zero update gets rank 1."""
    lora = with_spectrum(rng, 7, 6, [3.0, 2.0, 1.0], 4.0)
    zero = Adapter(lora.A, 0 * lora.B, 4.0)
    faint = with_spectrum(rng, 7, 6, [3.0, 2.0, 0.01], 4.0)
    for name, now, energy in (
        ("energy=1, the smallest singular value 0.01", faint, 1.0),
        ("energy=1", lora, 1.0),
        ("energy=0.01", lora, 0.01),
        ("an update that is zero, energy=0.9", zero, 0.9),
        ("an update that is zero, energy=1", zero, 1.0),
    ):
        with at(name):
            (rank, product), (want_rank, want) = pruned(student, now, energy), oracle(pruned, now, energy)
            equal(rank, want_rank, "the rank of the new adapter")
            close(product, want, "B A of the new factors", atol=1e-12)


@check("11.3", weight=1)
def test_compressed_refuses(student, oracle, rng):
    """A rank below 1 or above the adapter's, or an energy outside (0, 1], is a ValueError."""
    lora = draw(rng, 5, 6, 3, 2.0)
    for rank in (0, -1, 4):
        with at(f"svd_compress of rank 3 to {rank}"):
            student.raises("ValueError", act=lambda r=rank: student.svd_compress(lora.made(student), r))
    for energy in (0.0, -0.5, 1.2):
        with at(f"prune_by_energy, energy={energy}"):
            student.raises("ValueError", act=lambda e=energy: student.prune_by_energy(lora.made(student), e))


@check("11.3", weight=1)
def test_compressed_dtypes(student, oracle, rng):
    """The new factors have the dtype of the old ones, half precision included."""
    lora = draw(rng, 5, 6, 3, 4.0)
    for dtype, eps in (("float32", 2.0**-23), ("float16", 2.0**-10), ("bfloat16", 2.0**-7)):
        stored = lora._replace(A=held(lora.A, dtype), B=held(lora.B, dtype))
        with at(f"factors in {dtype}"):
            want = oracle(compressed, stored, 2)[0]
            got, size = compressed(student, stored, 2, dtype)
            rank = pruned_rank(student, stored, 0.9999999, dtype)
            # both factors are rounded to the dtype; before that, the SVD errs by some eps of float32 of the largest value
            close(got, want, "B A of the new factors", rtol=100 * 2.0**-23, atol=2 * eps * size)
            equal(rank, 3, "the rank at an energy of nearly 1")


def pruned_rank(lib: Session, lora: Adapter, energy: float, dtype: str) -> int:
    return pruned(lib, lora, energy, dtype)[0]


def held(value: np.ndarray, dtype: str) -> np.ndarray:
    """Numbers that a dtype holds exactly."""
    if dtype == "bfloat16":
        return (value.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)
    return rounded(value, dtype)


# --- task 11.4 ---

WIDTH, ROWS = 4, 3
BATCHES = (ROWS, 1, 8)


def batches(seed: int) -> list[np.ndarray]:
    rng = np.random.Generator(np.random.PCG64(seed))
    return [rng.standard_normal((rows, WIDTH)).astype(np.float32) for rows in BATCHES]


def in_torch(lib: Session, seed: int) -> list[np.ndarray]:
    """What the network itself computes in evaluation mode."""
    model = lib.build("week11.network", cls=lib.LoRALinear, seed=seed, width=WIDTH)
    model.eval()
    return [lib.read(model(tensor(x)), (len(x), WIDTH + 1), "float32") for x in batches(seed)]


def before(lib: Session, seed: int) -> dict[str, Any]:
    """The network before it is exported."""
    return dict(lib.probe("week11.state", lib.build("week11.network", cls=lib.LoRALinear, seed=seed, width=WIDTH)))


def exported(student: Session, rng, fresh: bool = False) -> tuple[int, dict[str, Any]]:
    """A network's seed, and what its file gives and what became of it.

    An export takes a second, so the checks of a worker share one, unless a `fresh` one is asked for.
    """
    seed = int(rng.integers(2**31))
    if "exported" not in student.facts or (fresh and student.facts["exported"][0] != seed):
        with student.aside():
            model = student.build("week11.network", cls=student.LoRALinear, seed=seed, width=WIDTH)
            inputs = [tensor(x) for x in batches(seed)]
            found: Any
            try:
                found = student.probe("week11.exported", student.export_onnx, model, inputs[0], inputs)
            except CheckFailed as error:
                found = error
            student.facts["exported"] = seed, found
    seed, found = student.facts["exported"]
    if isinstance(found, CheckFailed):
        student.note(["no export", getattr(found, "type", "")])
        raise found
    demand(found["written"], "export_onnx wrote no file at the path that it was given")
    demand(found["runs"], "onnxruntime cannot load the file that export_onnx wrote")
    return seed, found


@check("11.4", weight=4, gate=True)
def test_exported(student, oracle, rng):
    """In onnxruntime the file computes what the model computes in evaluation mode."""
    seed, found = exported(student, rng, fresh=True)
    want = oracle(in_torch, seed)[0]
    student.note(found["given"][0])
    got = given(student, found, 0)
    # float32: some ten operations an entry, of terms that are a few times the largest result; see the contract for 1e-5
    close(got, want, f"the file's output for {ROWS} rows, as many as the example has", rtol=1e-5, atol=1e-5)


def given(student: Session, found: dict[str, Any], index: int) -> np.ndarray:
    output = found["given"][index]
    demand(
        output is not None,
        f"onnxruntime refuses an input of shape ({BATCHES[index]}, {WIDTH}); the example had shape ({ROWS}, {WIDTH})\n"
        "  expected: any number of rows",
    )
    return student.array(output, "the file's output", (BATCHES[index], WIDTH + 1), "float32")


@check("11.4", weight=2)
def test_any_number_of_rows(student, oracle, rng):
    """The file takes inputs with more or fewer rows than the example, one row included."""
    seed, found = exported(student, rng)
    student.note([None if output is None else list(output.shape) for output in found["given"]])
    want = oracle(in_torch, seed)
    for index in range(1, len(BATCHES)):
        with at(f"{BATCHES[index]} rows and an example of {ROWS}"):
            close(given(student, found, index), want[index], "the file's output", rtol=1e-5, atol=1e-5)


@check("11.4", weight=3)
def test_merged_in_the_file(student, oracle, rng):
    """Every linear layer, with LoRA or without, is one matrix product in the file."""
    _, found = exported(student, rng)
    student.note(found["products"])
    equal(found["products"], 3, "the number of Gemm and MatMul nodes in the file of a model with two LoRALinear and one Linear")


@check("11.4", weight=2)
def test_no_dropout_in_the_file(student, oracle, rng):
    """The file is that of evaluation mode: no Dropout node is in it, which some runtimes would obey."""
    _, found = exported(student, rng)
    student.note(found["dropouts"])
    equal(found["dropouts"], 0, "the number of Dropout nodes in the file of a model in training mode, with dropout")


@check("11.4", weight=1)
def test_exported_names(student, oracle, rng):
    """The file's input is called "x" and its output "y"."""
    _, found = exported(student, rng)
    for name, want in (("inputs", ["x"]), ("outputs", ["y"])):
        student.note(found[name])
        equal(found[name], want, f"the list of the file's {name}")


@check("11.4", weight=2)
def test_export_leaves_the_model(student, oracle, rng):
    """The exported model keeps its layers, its parameters and the mode of each module."""
    seed, found = exported(student, rng)
    want = oracle(before, seed)
    for name in ("layers", "modes", "trainable"):
        student.note(found[name])
    changed = []
    for name, value in want["parameters"].items():
        if name in found["parameters"]:
            got = student.array(found["parameters"][name], f"{name} after the export", value.data.shape, "float32")
            changed += [name] if not np.array_equal(got, value.data) else []
    student.note(changed)
    for name, said in (("layers", "the model's modules"), ("modes", "which modules are in training mode")):
        equal(found[name], want[name], f"{said} after the export")
    equal(found["trainable"], want["trainable"], "the list of trainable parameters after the export")
    equal(changed, [], "the list of parameters that the export has changed")
