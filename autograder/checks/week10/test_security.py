"""Checks of week 10: relocated adapters, canonical factors, fingerprints and manifests, calibrated membership inference."""

from __future__ import annotations

import copy
import math
import re
from typing import Any, NamedTuple

import numpy as np

from autograder.judge.check import CheckFailed, Session, at, check, close, demand, equal, tensor

# What is zero in exact arithmetic may be rounding noise; everything here has a scale of about one.
NOISE = 1e-12

# --- adapters ---

CONFIG = {
    "rank": 2,
    "alpha": 16.0,
    "target_modules": ["q", "v"],
    "use_bias": False,
    "base": {"name": "toy-base", "revision": [3, 1], "dtype": None},
}


class Adapter(NamedTuple):
    """An adapter in the judge: a configuration, and the factors by their keys."""

    config: dict[str, Any]
    factors: dict[str, np.ndarray]

    def sent(self, dtype: str | None = None) -> dict[str, Any]:
        """As the student's code gets it."""
        tensors = {key: tensor(np.asarray(value), dtype) for key, value in self.factors.items()}
        return {"config": copy.deepcopy(self.config), "tensors": tensors}

    def update(self, layer: str) -> np.ndarray:
        return self.factors[f"{layer}.lora_B"] @ self.factors[f"{layer}.lora_A"]

    def put(self, **factors: np.ndarray) -> Adapter:
        """With some factors replaced; a double underscore stands for a dot."""
        return self._replace(factors=self.factors | {key.replace("__", "."): value for key, value in factors.items()})

    def configured(self, **values: Any) -> Adapter:
        return self._replace(config={**copy.deepcopy(self.config), **values})

    def renamed(self, mapping: dict[str, str]) -> Adapter:
        """The same factors under other keys, for checks of what must notice it."""
        factors = {}
        for key, value in self.factors.items():
            old = [layer for layer in mapping if key in (f"{layer}.lora_A", f"{layer}.lora_B")]
            factors[mapping[old[0]] + key[len(old[0]) :] if old else key] = value
        return self._replace(factors=factors)

    def without(self, *keys: str) -> Adapter:
        return self._replace(factors={key: value for key, value in self.factors.items() if key not in keys})


def draw_adapter(rng, layers: dict[str, tuple[int, int]], rank: int = 2) -> Adapter:
    """Random factors for layers of the given (d_out, d_in)."""
    factors = {}
    for layer, (d_out, d_in) in layers.items():
        factors[f"{layer}.lora_A"] = rng.standard_normal((rank, d_in))
        factors[f"{layer}.lora_B"] = rng.standard_normal((d_out, rank))
    return Adapter({**copy.deepcopy(CONFIG), "rank": rank}, factors)


def invertible(rng, size: int) -> np.ndarray:
    """A matrix with a condition number of 6, so that it is far from the identity and from rounding trouble."""
    left, right = (np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(2))
    return left * np.geomspace(0.5, 3.0, size) @ right


def regauged(rng, adapter: Adapter) -> Adapter:
    """Other factors of the same updates."""
    factors = dict(adapter.factors)
    for key in adapter.factors:
        if key.endswith(".lora_A"):
            layer = key.removesuffix(".lora_A")
            G = invertible(rng, len(adapter.factors[key]))
            factors[f"{layer}.lora_B"] = adapter.factors[f"{layer}.lora_B"] @ G
            factors[key] = np.linalg.solve(G, adapter.factors[key])
    return adapter._replace(factors=factors)


# --- task 10.1 ---

# Two of the names end in letters of ".lora_A", or hold ".lora_": only the last dot tells where a name ends.
LAYERS = {"layers.1": (3, 4), "layers.10": (3, 4), "layers.1.q": (5, 2), "v": (2, 3), "attn.o": (2, 4), "net.lora_v": (4, 2)}
# layers, mapping; smallest first
MOVES = (
    (("v",), {"v": "w"}),
    (("v",), {}),
    (("layers.1", "layers.10"), {"layers.1": "layers.7"}),
    (("layers.1", "layers.10"), {"layers.10": "head", "layers.1": "layers.10"}),
    (("v", "layers.1"), {"v": "layers.1", "layers.1": "v"}),
    (("layers.1", "layers.10", "v"), {"layers.1": "layers.10", "layers.10": "blocks.2.q"}),
    (("layers.10", "layers.1", "layers.1.q", "v"), {"layers.1": "head", "v": "v", "layers.1.q": "layers.1"}),
    (("attn.o", "v"), {"attn.o": "attn.out"}),
    (("net.lora_v", "v"), {"net.lora_v": "net.v"}),
)


def relocated(lib: Session, adapter: Adapter, mapping: dict[str, str], dtype: str) -> dict[str, Any]:
    """What relocate returned, a dict with "config" and "tensors"."""
    found = lib.probe("week10.contents", lib.relocate(adapter.sent(dtype), mapping))
    if not isinstance(found, dict) or sorted(found) != ["config", "tensors"] or not isinstance(found["tensors"], dict):
        raise CheckFailed('relocate(...) is no dict with the keys "config" and "tensors" and dicts behind them')
    return found


@check("10.1", weight=4, gate=True)
def test_moved(student, oracle, rng):
    """Both factors of every layer in the mapping stand under its new name, all moves at once, the others where they were."""
    dtypes = ("float64", "float64", "float32", "float64", "float64", "bfloat16", "float64", "float64", "float64")
    for (names, mapping), dtype in zip(MOVES, dtypes, strict=True):
        adapter = draw_adapter(rng, {name: LAYERS[name] for name in names})
        with at(f"the layers {list(names)}, mapping={mapping}"):
            got, want = (
                run["tensors"]
                for run in (relocated(student, adapter, mapping, dtype), oracle(relocated, adapter, mapping, dtype))
            )
            equal(sorted(got), sorted(want), "the list of keys")
            for key in want:
                close(student.array(got[key], key, want[key].data.shape, dtype), want[key].data, key, rtol=0)


@check("10.1", weight=1)
def test_config_untouched(student, oracle, rng):
    """The configuration of the result equals that of the adapter."""
    adapter = draw_adapter(rng, {"layers.1": (3, 4), "v": (2, 3)})
    got, want = (
        run(adapter)
        for run in (lambda a: relocated(student, a, {"v": "w"}, "float64"), lambda a: oracle(relocated, a, {"v": "w"}, "float64"))
    )
    equal(got["config"], want["config"], 'result["config"]')


@check("10.1", weight=2)
def test_collisions(student, oracle, rng):
    """Two layers that would get the same name are a ValueError."""
    adapter = draw_adapter(rng, LAYERS)
    for mapping in ({"v": "head", "layers.1": "head"}, {"v": "layers.1"}, {"layers.1": "layers.10", "layers.10": "v"}):
        with at(f"the layers {list(LAYERS)}, mapping={mapping}"):
            student.raises("ValueError", act=lambda m=mapping: student.relocate(adapter.sent(), m))


@check("10.1", weight=2)
def test_unknown_layers(student, oracle, rng):
    """A mapping that names a layer that the adapter has not is a ValueError."""
    adapter = draw_adapter(rng, LAYERS)
    for mapping in (
        {"layers.2": "layers.3"},
        {"v": "w", "layers": "blocks"},
        {"layers.2": "layers.2"},
        {"v.lora_A": "w.lora_A"},
        {"q": "w"},
    ):
        with at(f"the layers {list(LAYERS)}, mapping={mapping}"):
            student.raises("ValueError", act=lambda m=mapping: student.relocate(adapter.sent(), m))


@check("10.1", weight=2)
def test_result_is_new(student, oracle, rng):
    """No dict and no list of the result is one of the adapter's, and the adapter and the mapping stay as they were."""
    adapter = draw_adapter(rng, {"v": (2, 3), "layers.1": (3, 4)})
    adapter = adapter.configured(stages=[{"rank": 2, "layers": [1, 10]}, [["v"]]])  # dicts in lists, lists in lists
    for moves in ({"v": "w"}, {}):
        kept = student.build("held", value=adapter.sent())
        mapping = student.build("held", value=moves)
        with at(f"mapping={moves}"):
            result = student.keep(student.relocate(kept, mapping))
            equal(
                student.names_of("week10.shared", result, kept),
                [],
                "the list of dicts and lists that the result shares with the adapter",
            )
            left = student.probe("week10.contents", kept)
            equal(left["config"], adapter.config, 'adapter["config"] after the call')
            equal(sorted(left["tensors"]), sorted(adapter.factors), 'the keys of adapter["tensors"] after the call')
            for key, value in adapter.factors.items():
                close(
                    student.array(left["tensors"][key], key, value.shape), value, f"{key} of the adapter after the call", rtol=0
                )
            equal(student.probe("week10.contents", mapping), moves, "the mapping after the call")


# --- task 10.2 ---

# d_out, rank of the factors, d_in; smallest first. The first is square: there V in the place of V^T gives numbers, not an error.
FACTORS = ((3, 2, 3), (4, 1, 3), (5, 3, 4), (3, 2, 6), (4, 4, 7))


def product(rng, d_out: int, values: np.ndarray, d_in: int) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal U and V^T with these singular values in between; the largest entry of each column of U is clear."""
    k = len(values)
    while True:
        U, V = np.linalg.qr(rng.standard_normal((d_out, k)))[0], np.linalg.qr(rng.standard_normal((d_in, k)))[0]
        top = np.sort(np.abs(U), axis=0)[-2:]
        if (top[0] < 0.95 * top[1]).all():
            return U * values, V.T


def spectrum(rng, rank: int) -> np.ndarray:
    """Singular values well apart: they fall by about a half each."""
    return rng.uniform(2.0, 3.0) * rng.uniform(0.4, 0.6, rank).cumprod()


def draw_factors(rng, d_out: int, rank: int, d_in: int) -> tuple[np.ndarray, np.ndarray]:
    """Factors that are not canonical, of an update whose canonical pair is well determined."""
    B, A = product(rng, d_out, spectrum(rng, rank), d_in)
    G = invertible(rng, rank)
    return B @ G, np.linalg.solve(G, A)


def canonical(lib: Session, B: np.ndarray, A: np.ndarray, k: int, rtol: float | None = None, dtype: str = "float64"):
    """The canonical pair, which has to be of rank k."""
    options = {} if rtol is None else {"rtol": rtol}
    pair = lib.canonicalize(tensor(B, dtype), tensor(A, dtype), **options)
    return lib.read(pair[0], (len(B), k), dtype), lib.read(pair[1], (k, A.shape[1]), dtype)


def compare_pairs(student, oracle, B, A, k: int, cut: float | None = None, dtype: str = "float64", bound: float = 1e-9) -> None:
    case = B, A, k, cut, dtype
    for name, mine, right in zip(("B'", "A'"), canonical(student, *case), oracle(canonical, *case), strict=True):
        close(mine, right, name, rtol=bound, atol=NOISE)


@check("10.2", weight=4, gate=True)
def test_pair(student, oracle, rng):
    """B' = U diag(sqrt(s)) and A' = diag(sqrt(s)) V^T, s descending, the largest entry of each column of B' positive."""
    for d_out, rank, d_in in FACTORS:
        B, A = draw_factors(rng, d_out, rank, d_in)
        with at(f"B of shape {B.shape}, A of shape {A.shape}"):
            compare_pairs(student, oracle, B, A, rank)


@check("10.2", weight=3, gate=True)
def test_gauge_free(student, oracle, rng):
    """B G and G^-1 A give the same pair as B and A."""
    for d_out, rank, d_in in FACTORS:
        B, A = draw_factors(rng, d_out, rank, d_in)
        want = oracle(canonical, B, A, rank)
        for G in (-np.eye(rank), 3.0 * np.eye(rank)[::-1], invertible(rng, rank)):
            with at(f"B of shape {B.shape}, A of shape {A.shape}, both changed by G = {G.tolist() if rank == 1 else 'a matrix'}"):
                for name, mine, right in zip(
                    ("B'", "A'"), canonical(student, B @ G, np.linalg.solve(G, A), rank), want, strict=True
                ):
                    close(mine, right, name, atol=NOISE)


@check("10.2", weight=2)
def test_rank_kept(student, oracle, rng):
    """Only singular values above rtol * s[0] are kept: their number is the rank of the update, and 0 for a zero update."""
    for d_out, rank, d_in, own in ((4, 2, 3, 1), (3, 4, 5, 3), (6, 3, 4, 2), (3, 2, 4, 0)):
        with at(f"factors of rank {rank}, an update of shape ({d_out}, {d_in}) and rank {own}"):
            B, A = product(rng, d_out, spectrum(rng, own), d_in)
            mix = np.linalg.qr(rng.standard_normal((rank, rank)))[0][:own]
            compare_pairs(student, oracle, B @ mix, mix.T @ A, own)
    # Far from the cut, 1e-5 by default; relative to s[0], which is not one here.
    for values, cut, kept in (
        ([30.0, 0.3, 0.01], None, 3),
        ([30.0, 3e-2, 1e-6], None, 2),
        ([0.02, 0.01, 0.0001], 0.1, 2),
        ([7.0, 2.0, 0.5], 0.12, 2),
        ([2.0, 1.5, 0.2], 0.09, 3),  # of the sum of all values, or of their norm, 0.09 is more than the last
    ):
        with at(f"singular values {values}, rtol={'left out' if cut is None else cut}"):
            B, A = product(rng, 5, np.array(values), 4)
            # A small value is known to eps * (s[0] / s[k])^2 of itself where it is taken from B A A^T B^T.
            compare_pairs(student, oracle, B, A, kept, cut, bound=1e-7)


@check("10.2", weight=2)
def test_dtypes(student, oracle, rng):
    """B' and A' have the dtype of the factors, and the arithmetic is float64 whatever that is."""
    # One rounding of the result is 2^-24 or 2^-9 of an entry; the bounds leave room for a second one on the way.
    for dtype, bound in (("float32", 3e-7), ("bfloat16", 1e-2), ("float16", 2e-3)):
        with at(f"factors of dtype {dtype}"):
            B, A = draw_factors(rng, 5, 2, 4)
            compare_pairs(student, oracle, B, A, 2, dtype=dtype, bound=bound)


@check("10.2", weight=1)
def test_no_factors(student, oracle, rng):
    """Shapes that are no pair of factors are a ValueError."""
    for shape_B, shape_A in (
        ((4, 2), (3, 5)),
        ((4, 3), (2, 5)),
        ((4, 1), (2, 5)),
        ((2, 4), (2, 5)),
        ((4,), (4, 5)),
        ((2, 3, 2), (2, 4)),
        ((4, 3), (3,)),
    ):
        B, A = tensor(rng.standard_normal(shape_B)), tensor(rng.standard_normal(shape_A))
        with at(f"B of shape {shape_B}, A of shape {shape_A}"):
            student.raises("ValueError", act=lambda B=B, A=A: student.canonicalize(B, A))


@check("10.2", weight=1, tier="advanced")
def test_factors_untouched(student, oracle, rng):
    """canonicalize changes neither B nor A."""
    B, A = draw_factors(rng, 4, 2, 3)
    kept = {name: student.build("held", value=tensor(value)) for name, value in (("B", B), ("A", A))}
    student.canonicalize(kept["B"], kept["A"])
    for name, value in (("B", B), ("A", A)):
        close(student.read(kept[name], value.shape), value, f"{name} after the call", rtol=0)


# --- task 10.3 ---

SIZES = {"layers.0.q": (4, 3), "layers.0.v": (4, 3), "layers.1.up": (5, 2)}
HEX = re.compile(r"[0-9a-f]{64}")


def prepare(student: Session, oracle) -> None:
    """Let task 10.3 be checked whether or not task 10.2 is done."""
    if "canonicalize" not in student.facts:
        rng = np.random.Generator(np.random.PCG64(0))
        with student.aside():
            try:
                for sizes in FACTORS[:3]:
                    compare_pairs(student, oracle, *draw_factors(rng, *sizes), sizes[1])
                compare_pairs(student, oracle, np.zeros((4, 2)), np.ones((2, 3)), 0)
                compare_pairs(student, oracle, *draw_factors(rng, 5, 2, 4), 2, dtype="float32", bound=3e-7)
                student.facts["canonicalize"] = True
            except CheckFailed:
                student.facts["canonicalize"] = False
    if not student.facts["canonicalize"]:
        student.supply("canonicalize", student.build("week10.stand_ins").canonicalize)


def digests(student: Session, adapters: list[dict[str, Any]]) -> list[str]:
    """The fingerprints, digests all of them. Their text is the student's own, so it is no evidence; what follows from it is."""
    with student.aside():
        calls = [student.fingerprint(student.build("week10.adapter", **adapter)) for adapter in adapters]
        found = [student.probe("week10.given", call) for call in calls]
    bad = [text for text in found if not (type(text) is str and HEX.fullmatch(text))]
    student.note(not bad)
    if bad:
        raise CheckFailed(
            f"fingerprint(adapter) is {bad[0]!r:.200}\n  expected: a SHA-256 digest, 64 lower-case hexadecimal digits"
        )
    return list(found)


def same(student: Session, adapter: Adapter, others: list[tuple[str, dict[str, Any]]]) -> None:
    """Demand that the fingerprint of an adapter stays what it is."""
    compare_digests(student, adapter, others, changes=False)


def differs(student: Session, adapter: Adapter, others: list[tuple[str, dict[str, Any]]]) -> None:
    """Demand that the fingerprint of an adapter changes."""
    compare_digests(student, adapter, others, changes=True)


def compare_digests(student: Session, adapter: Adapter, others: list[tuple[str, dict[str, Any]]], changes: bool) -> None:
    first, *rest = digests(student, [adapter.sent(), *(other for _, other in others)])
    found = [text != first for text in rest]
    student.note(found)
    for (what, _), changed in zip(others, found, strict=True):
        if changed:
            demand(changes, f"the fingerprint changes: {what}\n  expected: it stays the same")
        else:
            demand(not changes, f"the fingerprint stays the same: {what}\n  expected: it changes")


@check("10.3", weight=3, gate=True)
def test_gauge(student, oracle, rng):
    """Other factors of the same updates, B G and G^-1 A, have the same fingerprint."""
    prepare(student, oracle)
    for layers, rank in (({"q": (3, 2)}, 1), (SIZES, 2), (SIZES, 3)):
        adapter = draw_adapter(rng, layers, rank)
        with at(f"{len(layers)} layers, rank {rank}"):
            others = [("a sign moved from A to B", adapter._replace(factors={k: -v for k, v in adapter.factors.items()}).sent())]
            same(
                student,
                adapter,
                others + [("B G in the place of B, G^-1 A in that of A", regauged(rng, adapter).sent()) for _ in range(2)],
            )
    flat = Adapter(CONFIG, {"q.lora_B": np.array([[1.0, 0], [0, 1], [0.5, 0.5], [2, -1]]), "q.lora_A": np.ones((2, 3))})
    with at("an update whose entries are all equal"):
        same(student, flat, [("B G in the place of B, G^-1 A in that of A", regauged(rng, flat).sent()) for _ in range(2)])


@check("10.3", weight=3, gate=True)
def test_values(student, oracle, rng):
    """An entry of an update that changes by 1e-3 of the largest one, or an update times a number, changes the fingerprint."""
    prepare(student, oracle)
    for scale in (1.0, 1e-8, 1e4):
        adapter = draw_adapter(rng, SIZES)
        adapter = adapter._replace(factors={k: math.sqrt(scale) * v for k, v in adapter.factors.items()})
        others = []
        for layer, (d_out, _) in SIZES.items():
            B, A = adapter.factors[f"{layer}.lora_B"].copy(), adapter.factors[f"{layer}.lora_A"]
            row = int(rng.integers(d_out))
            B[row, 1] += 2e-3 * np.abs(B @ A).max() / np.abs(A[1]).max()
            others.append(
                (
                    f"row {row} of the update of {layer} by 0.2 % of its largest entry",
                    adapter.put(**{f"{layer}.lora_B": B}).sent(),
                )
            )
            for factor in (1.002, 2.0, -1.0):
                text = f"the update of {layer} multiplied by {factor}"
                others.append((text, adapter.put(**{f"{layer}.lora_B": factor * adapter.factors[f"{layer}.lora_B"]}).sent()))
        B = adapter.update("layers.1.up").copy()
        A = np.eye(2)  # of rank 2 and two columns, any update can be had
        B[[0, 1], [0, 1]] = B[[1, 0], [1, 0]]
        others.append(
            (
                "two entries of the update of layers.1.up exchanged",
                adapter.put(layers__1__up__lora_B=B, layers__1__up__lora_A=A).sent(),
            )
        )
        turned = adapter.factors["layers.1.up.lora_B"][::-1]
        others.append(("the rows of the update of layers.1.up in reverse", adapter.put(layers__1__up__lora_B=turned).sent()))
        with at(f"updates of size {scale:g}"):
            differs(student, adapter, others)
    sizes = dict(zip(SIZES, (1e-8, 1.0, 1e4), strict=True))
    adapter = draw_adapter(rng, SIZES)
    adapter = adapter._replace(factors={k: math.sqrt(sizes[k.rpartition(".")[0]]) * v for k, v in adapter.factors.items()})
    B, A = adapter.factors["layers.0.q.lora_B"].copy(), adapter.factors["layers.0.q.lora_A"]
    B[2, 1] += 2e-3 * np.abs(B @ A).max() / np.abs(A[1]).max()
    with at("updates of sizes 1e-8, 1 and 1e4"):
        differs(
            student,
            adapter,
            [("row 2 of the smallest by 0.2 % of its largest entry", adapter.put(layers__0__q__lora_B=B).sent())],
        )
    # More than a thousand entries, of which NumPy and torch print the corners only. The last column is 1 in all rows.
    rows, columns = 36, 33
    A = np.vstack([rng.uniform(0.5, 1.0, columns), np.ones(columns)])
    large = Adapter(CONFIG, {"q.lora_B": np.outer(rng.uniform(0.5, 1.0, rows), [1.0, 0.5]), "q.lora_A": A})
    middle = large.factors["q.lora_B"].copy()
    middle[rows // 2] *= 1.01
    # Rows and columns keep their sums.
    turn = np.zeros(rows), np.zeros(columns)
    for line, at_two in zip(turn, ((11, 17), (9, 20)), strict=True):
        line[list(at_two)] = 0.05, -0.05
    wide = [np.column_stack([large.factors["q.lora_B"], by * turn[0]]) for by in (0.0, 1.0)]
    taller = np.vstack([A, turn[1]])
    with at(f"an update of shape ({rows}, {columns})"):
        differs(student, large, [("a row in the middle by 1 %", large.put(q__lora_B=middle).sent())])
        still, moved = (Adapter({**CONFIG, "rank": 3}, {"q.lora_B": B, "q.lora_A": taller}) for B in wide)
        differs(student, still, [("four entries, and no sum of a row or a column", moved.sent())])


@check("10.3", weight=2, gate=True)
def test_places(student, oracle, rng):
    """A layer that is renamed, left out or added, an exchange of two layers, or another shape changes the fingerprint."""
    prepare(student, oracle)
    adapter = draw_adapter(rng, SIZES)
    extra = draw_adapter(rng, {"layers.2.up": (2, 3)}).factors
    others = [
        ("a layer renamed", adapter.renamed({"layers.0.q": "layers.0.k"})),
        ("a layer renamed behind all others", adapter.renamed({"layers.0.q": "layers.9.q"})),
        ("a layer renamed at its front, its place kept", adapter.renamed({"layers.1.up": "layers.2.up"})),
        ("two layers of one shape exchanged", adapter.renamed({"layers.0.q": "layers.0.v", "layers.0.v": "layers.0.q"})),
        ("two layers of different shapes exchanged", adapter.renamed({"layers.0.q": "layers.1.up", "layers.1.up": "layers.0.q"})),
        ("a layer left out", adapter.without("layers.0.v.lora_A", "layers.0.v.lora_B")),
        ("a layer added", adapter._replace(factors=adapter.factors | extra)),
    ]
    differs(student, adapter, [(what, other.sent()) for what, other in others])
    flat = Adapter(CONFIG, {"q.lora_B": np.full((4, 2), 0.5), "q.lora_A": np.full((2, 2), 0.5)})
    for d_out, d_in in ((2, 4), (8, 1)):
        other = Adapter(CONFIG, {"q.lora_B": np.full((d_out, 2), 0.5), "q.lora_A": np.full((2, d_in), 0.5)})
        differs(
            student,
            flat,
            [(f"an update of shape ({d_out}, {d_in}) in the place of one of shape (4, 2), all entries the same", other.sent())],
        )


@check("10.3", weight=2)
def test_configuration(student, oracle, rng):
    """Every change of the configuration, at any depth, changes the fingerprint."""
    prepare(student, oracle)
    adapter = draw_adapter(rng, SIZES).configured(epsilon=1e-8)
    base = adapter.config["base"]
    left_out = {key: value for key, value in adapter.config.items() if key != "use_bias"}
    inner = {key: value for key, value in base.items() if key != "dtype"}
    others = [
        ("alpha", adapter.configured(alpha=800.0)),
        ("alpha by little", adapter.configured(alpha=16.5)),
        ("alpha by a millionth of a millionth", adapter.configured(alpha=16.0 + 2**-36)),
        ("2e-8 for 1e-8", adapter.configured(epsilon=2e-8)),
        ("a target more", adapter.configured(target_modules=["q", "v", "up"])),
        ("another target", adapter.configured(target_modules=["q", "k"])),
        ("a target with a capital letter", adapter.configured(target_modules=["Q", "v"])),
        ("one target, q,v, for two", adapter.configured(target_modules=["q,v"])),
        ("one target, qv, for two", adapter.configured(target_modules=["qv"])),
        ("the text q,v for a list", adapter.configured(target_modules="q,v")),
        ("the text 1 for the number", adapter.configured(base={**base, "revision": [3, "1"]})),
        ("True for False", adapter.configured(use_bias=True)),
        ("a string two levels down", adapter.configured(base={**base, "name": "other-base"})),
        ("a number three levels down", adapter.configured(base={**base, "revision": [3, 2]})),
        ("a string for None", adapter.configured(base={**base, "dtype": "float16"})),
        ("False for None", adapter.configured(base={**base, "dtype": False})),
        ("the string None for None", adapter.configured(base={**base, "dtype": "None"})),
        ("letters that are not ASCII", adapter.configured(base={**base, "name": "toy-base\u57fa"})),
        ("a key more", adapter.configured(rslora=True)),
        ("a key more, its value None", adapter.configured(revision=None)),
        ("a key less, two levels down, its value None", adapter.configured(base=inner)),
        ("a key moved out of a dict", adapter.configured(base=inner, dtype=None)),
        ("a key less", adapter._replace(config=left_out)),
    ]
    differs(student, adapter, [(f"in the configuration, {what}", other.sent()) for what, other in others])


@check("10.3", weight=1)
def test_order(student, oracle, rng):
    """The order of the keys, of the tensors and of the configuration at any depth, does not count."""
    prepare(student, oracle)
    adapter = draw_adapter(rng, SIZES)
    tensors = adapter._replace(factors=dict(reversed(adapter.factors.items())))
    config = adapter._replace(config=dict(reversed(adapter.config.items())))
    inner = adapter.configured(base=dict(reversed(adapter.config["base"].items())))
    keys = sorted(adapter.factors, key=lambda key: key[::-1])
    others = [("the tensors", tensors), ("the configuration", config), ("a dict in the configuration", inner)]
    others.append(("the tensors (all B first)", adapter._replace(factors={key: adapter.factors[key] for key in reversed(keys)})))
    many = draw_adapter(rng, {f"layers.{i}.q": (2, 1) for i in range(40)}, rank=1)
    shuffled = [
        many._replace(factors={key: many.factors[key] for key in map(str, rng.permutation(list(many.factors)))}) for _ in range(2)
    ]
    same(student, many, [("the tensors of 40 layers in another order", other.sent()) for other in shuffled])
    same(student, adapter, [(f"{what} in another order", other.sent()) for what, other in others])


@check("10.3", weight=1)
def test_wider_dtypes(student, oracle, rng):
    """The same numbers have the same fingerprint in a wider dtype."""
    prepare(student, oracle)
    small = draw_adapter(rng, {"q": (4, 3)})
    small = small._replace(factors={k: rng.integers(-2, 3, v.shape) + np.eye(*v.shape) for k, v in small.factors.items()})
    same(student, small, [(f"small whole numbers stored as {name}", small.sent(name)) for name in ("float32", "bfloat16")])
    for stored, wider in (("float32", ("float64",)), ("bfloat16", ("float32", "float64"))):
        adapter = draw_adapter(rng, {"q": (7, 6), "v": (5, 8)}, rank=3)
        # bfloat16 has 8 significant bits: sixteenths below 8 are exact in it, and everything is in what is wider.
        rounded = {
            k: v.astype(np.float32).astype(float) if stored == "float32" else np.round(16 * v) / 16
            for k, v in adapter.factors.items()
        }
        exact = adapter._replace(factors=rounded)
        same(student, exact, [(f"{stored} values stored as {name}", exact.sent(name)) for name in (stored, *wider)])


@check("10.3", weight=1)
def test_zeros(student, oracle, rng):
    """Entries that are zero but for rounding do not disturb the fingerprint, and an update may be zero."""
    prepare(student, oracle)
    adapter = draw_adapter(rng, {"q": (7, 6), "v": (3, 4), "up": (2, 2)}, rank=3)
    # The update [[0, -2], [-3, -5]]: nothing is above zero but rounding.
    adapter = adapter.put(up__lora_B=np.array([[1.0, -1, 0], [-2, -1, 0]]), up__lora_A=np.array([[1.0, 1], [1, 3], [0, 0]]))
    B, A = adapter.factors["q.lora_B"].copy(), adapter.factors["q.lora_A"].copy()
    B[1:3], A[:, :4] = [[1, -2, 1], [2, 1, -1]], np.outer([1, 3, 5], [1, -2, 3, 0.5])  # exactly orthogonal
    B[3] *= 1e-11  # a row that is nearly nothing beside the others
    adapter = adapter.put(q__lora_B=B, q__lora_A=A)
    thin = adapter.put(v__lora_B=np.zeros((3, 3)))
    others = [regauged(rng, thin) for _ in range(3)]
    same(student, thin, [("entries that are zero but for rounding", other.sent()) for other in others])
    left_out = thin.without("v.lora_A", "v.lora_B")
    differs(
        student,
        thin,
        [
            ("an update that was zero", adapter.sent()),
            ("a layer left out, its update zero", left_out.sent()),
            ("a layer renamed, its update zero", thin.renamed({"v": "w"}).sent()),
        ],
    )


@check("10.3", weight=1)
def test_processes(student, oracle, rng):
    """The fingerprint is the same in every process: hash() of a text is not."""
    prepare(student, oracle)
    adapter = student.build("week10.adapter", **draw_adapter(rng, SIZES).sent())
    with student.aside():
        kept = student.probe("week10.elsewhere", student.fingerprint, adapter)
    student.note(kept)
    demand(kept is True, "the fingerprint changes where hash() gives other numbers\n  expected: it stays the same")


def verified(lib: Session, vetted: Adapter, adapter: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What verify_adapter says of an adapter, with the manifest of a vetted one, of which some entries may be `other`."""
    layers = {key.removesuffix(".lora_B"): key for key in vetted.factors if key.endswith(".lora_B")}
    shapes = {name: list(vetted.update(name).shape) for name in layers}
    manifest = {"config": vetted.config, "layers": shapes, "fingerprint": lib.fingerprint(vetted.sent())}
    return lib.names(lib.verify_adapter(adapter, manifest | other))


def compare_verdicts(student, oracle, vetted: Adapter, cases: list[tuple[str, Adapter]], **other: Any) -> None:
    for what, adapter in cases:
        with at(what):
            got, want = verified(student, vetted, adapter.sent(), other), oracle(verified, vetted, adapter.sent(), other)
            equal(got, want, "the list of what is wrong")


@check("10.3", weight=3)
def test_verify(student, oracle, rng):
    """verify_adapter names what differs from the manifest: the configuration, the layers, the fingerprint, or nothing."""
    prepare(student, oracle)
    vetted = draw_adapter(rng, SIZES)
    small, turned = (draw_adapter(rng, {"layers.0.q": shape}).factors for shape in ((4, 2), (3, 4)))
    plain, plain_bias = ({k: v for k, v in vetted.config.items() if k != key} for key in ("alpha", "use_bias"))
    hidden = regauged(rng, vetted)
    moved = vetted.renamed({"layers.0.q": "layers.0.k"})
    cases = [
        ("the vetted adapter itself", vetted),
        ("the same updates in other factors", hidden),
        ("one update multiplied by 2", vetted.put(layers__0__q__lora_A=2 * vetted.factors["layers.0.q.lora_A"])),
        ("alpha = 800", vetted.configured(alpha=800.0)),
        ("a renamed layer", moved),
        ("a key more in the configuration", vetted.configured(rslora=True)),
        ("a change three levels down in the configuration", vetted.configured(base={**CONFIG["base"], "revision": [3, 2]})),
        ("two layers of one shape exchanged", vetted.renamed({"layers.0.q": "layers.0.v", "layers.0.v": "layers.0.q"})),
        ("a layer left out", vetted.without("layers.0.q.lora_A", "layers.0.q.lora_B")),
        ("a layer added", vetted._replace(factors=vetted.factors | draw_adapter(rng, {"layers.1.q": (4, 3)}).factors)),
        ("a layer of another shape", vetted._replace(factors=vetted.factors | small)),
        ("a key less in the configuration", vetted._replace(config=plain_bias)),
        ("a layer of shape (3, 4) for one of (4, 3)", vetted._replace(factors=vetted.factors | turned)),
        ("no alpha in the configuration", vetted._replace(config=plain)),
        ("no tensors", vetted._replace(factors={})),
        ("a renamed layer and alpha = 800", moved.configured(alpha=800.0)),
        ("the keys in another order", Adapter(dict(reversed(vetted.config.items())), dict(reversed(vetted.factors.items())))),
    ]
    compare_verdicts(student, oracle, vetted, cases)
    # A manifest's entries are compared each by itself, also where they do not fit together.
    compare_verdicts(student, oracle, vetted, [("a manifest with another alpha", vetted)], config=vetted.config | {"alpha": 1})
    shapes = {name: list(shape) for name, shape in SIZES.items()}
    compare_verdicts(student, oracle, vetted, [("a manifest with a layer more", vetted)], layers=shapes | {"k": [2, 3]})
    with at("alpha = 16, and 16.0 in the manifest"):
        with student.aside():  # whether the fingerprint differs is the student's
            found = "config" in verified(student, vetted, vetted.configured(alpha=16).sent(), {})
        student.note(found)
        demand(not found, '"config" is in the list of what is wrong\n  expected: it is not, since the two are equal')
    wide = draw_adapter(rng, {"attn.o": (3, 4), "net.lora_v": (2, 3)}, rank=5)
    compare_verdicts(student, oracle, wide, [("rank 5, more than the sizes of the updates", wide)])


@check("10.3", weight=2)
def test_malformed(student, oracle, rng):
    """Of tensors that are no adapter's, verify_adapter says ["tensors"], and nothing else."""
    prepare(student, oracle)
    vetted = draw_adapter(rng, SIZES)
    B, A = vetted.factors["layers.0.q.lora_B"], vetted.factors["layers.0.q.lora_A"]
    broken_B, broken_A = B.copy(), A.copy()
    broken_B[2, 1], broken_A[1, 2] = np.nan, -np.inf
    unranked = {key: value for key, value in vetted.config.items() if key != "rank"}
    wide = {"layers__0__q__lora_B": rng.standard_normal((4, 3)), "layers__0__q__lora_A": rng.standard_normal((3, 3))}
    cases = [
        ("a further tensor that is no factor", vetted.put(embed__weight=rng.standard_normal((3, 2)))),
        ("a further tensor of a layer that has both factors", vetted.put(layers__0__q__bias=rng.standard_normal(4))),
        ("a key without a dot", vetted.put(lora_A=rng.standard_normal((2, 3)))),
        ("a key with something behind lora_A", vetted.put(layers__0__q__lora_A__weight=A)),
        ("a B without its A", vetted.without("layers.0.q.lora_A")),
        ("an A without its B", vetted.without("layers.0.v.lora_B")),
        ("a B with a NaN", vetted.put(layers__0__q__lora_B=broken_B)),
        ("an A with an infinity", vetted.put(layers__0__q__lora_A=broken_A)),
        ("a B that is a vector", vetted.put(layers__0__q__lora_B=B[:, 0])),
        ("an A that is a vector", vetted.put(layers__0__q__lora_A=A[:, 0])),
        ("a B with three dimensions", vetted.put(layers__0__q__lora_B=B[:, :, None])),
        ("an A with three dimensions", vetted.put(layers__0__q__lora_A=A[:, :, None])),
        ("a B that does not fit its A", vetted.put(layers__0__q__lora_B=wide["layers__0__q__lora_B"])),
        ("an A that does not fit its B", vetted.put(layers__0__q__lora_A=wide["layers__0__q__lora_A"])),
        ("one layer of rank 3, where the configuration says 2", vetted.put(**wide)),
        ("another rank in the configuration", vetted.configured(rank=4)),
        ("no rank in the configuration", vetted._replace(config=unranked)),
        ("a NaN and alpha = 800", vetted.configured(alpha=800.0).put(layers__0__q__lora_B=broken_B)),
    ]
    compare_verdicts(student, oracle, vetted, cases)


@check("10.3", weight=1, tier="advanced")
def test_adapter_untouched(student, oracle, rng):
    """Neither fingerprint nor verify_adapter changes the adapter or the manifest."""
    prepare(student, oracle)
    vetted = draw_adapter(rng, SIZES)
    config = {"config": vetted.config, "layers": {name: list(shape) for name, shape in SIZES.items()}}
    kept = student.build("held", value=vetted.sent())
    manifest = student.build("held", value={**copy.deepcopy(config), "fingerprint": "0" * 64})
    student.fingerprint(kept)
    student.verify_adapter(kept, manifest)
    equal(student.probe("week10.contents", manifest), {**config, "fingerprint": "0" * 64}, "the manifest after the call")
    left = student.probe("week10.contents", kept)
    equal(left["config"], vetted.config, 'adapter["config"] after the call')
    equal(sorted(left["tensors"]), sorted(vetted.factors), 'the keys of adapter["tensors"] after the call')
    for key, value in vetted.factors.items():
        close(student.array(left["tensors"][key], key, value.shape), value, f"{key} after the call", rtol=0)


# --- task 10.4 ---


class Losses(NamedTuple):
    """Losses of members and others, by the model and by the reference model."""

    members: np.ndarray
    others: np.ndarray
    reference_members: np.ndarray
    reference_others: np.ndarray

    @property
    def rung(self) -> str:
        return f"{len(self.members)} members and {len(self.others)} others"


def draw_losses(rng, n: int, m: int, lead: float = 0.4) -> Losses:
    """Examples of very different difficulty, members among the harder ones, with a little less loss than they should have."""
    hard, easy = rng.uniform(1.0, 6.0, n), rng.uniform(0.2, 4.0, m)
    return Losses(hard - rng.normal(lead, 0.5, n), easy + rng.normal(0, 0.5, m), hard, easy)


def auc(lib: Session, losses: Losses) -> np.ndarray:
    return np.array(lib.number(lib.membership_auc(*map(tensor, losses))))


def compare_aucs(student, oracle, losses: Losses, what: str = "") -> None:
    """The AUC is a number of halves over n m pairs, so values that differ do so by 1 / (2 n m), here more than 1e-4.

    A share of a count may be formed in float32, as torch does with a mean of booleans: some roundings of 2^-24.
    """
    with at(losses.rung + what):
        close(auc(student, losses), oracle(auc, losses), "membership_auc(...)", rtol=0, atol=2.0**-20)


@check("10.4", weight=4, gate=True)
def test_auc(student, oracle, rng):
    """The AUC is the share of pairs in which the member's loss lies further below the reference model's than the other's."""
    for n, m in ((1, 2), (3, 2), (5, 9), (40, 23)):
        compare_aucs(student, oracle, draw_losses(rng, n, m))


@check("10.4", weight=2)
def test_ties(student, oracle, rng):
    """Pairs with equal scores count one half."""
    for n, m in ((2, 3), (7, 4), (20, 31)):
        # Multiples of 1/4, which float64 subtracts exactly: equal scores are equal bits, from unequal losses too.
        draws = [rng.integers(0, 5, size) / 4 for size in (n, m, n, m)]
        compare_aucs(student, oracle, Losses(*draws), ", losses that are multiples of 1/4")
    flat = rng.integers(1, 9, 5) / 4
    compare_aucs(student, oracle, Losses(flat - 1, flat[:3] - 1, flat, flat[:3]), ", all scores equal")
    # Scores that differ by 2^-40, exact in float64, are not equal; in float32 they would be.
    near = [2.0 + rng.permutation(9)[:size] * 2.0**-40 for size in (4, 5)]
    compare_aucs(student, oracle, Losses(*near, np.full(4, 3.0), np.full(5, 3.0)), ", losses that differ by 2^-40")


@check("10.4", weight=2)
def test_extremes(student, oracle, rng):
    """The AUC is 1 if every member scores above every other, 0 the other way round: it has a direction."""
    n, m = 6, 4
    base_n, base_m = rng.uniform(1, 5, n), rng.uniform(1, 5, m)
    for lead, what in ((1.0, "members lead"), (-1.0, "members trail")):
        shifts = lead + rng.uniform(-0.3, 0.3, n), rng.uniform(-0.3, 0.3, m)
        compare_aucs(student, oracle, Losses(base_n - shifts[0], base_m - shifts[1], base_n, base_m), f", all {what}")
    # Members are the harder examples, so that without the reference the sign comes out wrong.
    hard, easy = rng.uniform(5, 6, n), rng.uniform(1, 2, m)
    compare_aucs(
        student, oracle, Losses(hard - rng.uniform(0.5, 1, n), easy - rng.uniform(0, 0.4, m), hard, easy), ", members harder"
    )


@check("10.4", weight=1)
def test_losses_refused(student, oracle, rng):
    """An empty group, a reference of another length, or a loss that is NaN or infinite is a ValueError."""
    good = draw_losses(rng, 4, 3)
    none = np.zeros(0)
    cases = [
        ("no members", good._replace(members=none, reference_members=none)),
        ("no others", good._replace(others=none, reference_others=none)),
        ("one loss for 4 members by the reference", good._replace(reference_members=good.reference_members[:1])),
        ("one loss for 3 others by the reference", good._replace(reference_others=good.reference_others[:1])),
        ("5 losses for 4 members by the reference", good._replace(reference_members=np.append(good.reference_members, 1.0))),
    ]
    for name in good._fields:
        for value in (np.nan, np.inf):
            broken = getattr(good, name).copy()
            broken[1] = value
            cases.append((f"a loss of {value} in {name}", good._replace(**{name: broken})))
    for what, losses in cases:
        with at(what):
            student.raises("ValueError", act=lambda losses=losses: student.membership_auc(*map(tensor, losses)))


@check("10.4", weight=1, tier="advanced")
def test_losses_untouched(student, oracle, rng):
    """membership_auc does not change its arguments."""
    losses = draw_losses(rng, 5, 3)
    kept = {name: student.build("held", value=tensor(value)) for name, value in losses._asdict().items()}
    student.membership_auc(*kept.values())
    for name, value in losses._asdict().items():
        close(student.read(kept[name], value.shape), value, f"{name} after the call", rtol=0)
