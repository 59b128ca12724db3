"""Checks of week 2: the truncated SVD, a rank-1 LoRA layer by hand, a Kronecker product, subspaces.

The worker has NumPy alone, so arrays travel as they are. Where the submission's task 2.2 does not work yet, task 2.3
gets functions of ours in its place.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from autograder.judge.check import CheckFailed, Session, at, check, close, demand, equal

# What is zero in exact arithmetic may be rounding noise; everything here has a scale of about one.
NOISE = 1e-12


def graded(rng, rows: int, columns: int, rank: int | None = None) -> np.ndarray:
    """A matrix of full rank, or of the given one, with singular values well apart: they fall by about a half each."""
    inner = min(rows, columns) if rank is None else rank
    left, right = np.linalg.qr(rng.standard_normal((rows, inner)))[0], np.linalg.qr(rng.standard_normal((columns, inner)))[0]
    spectrum = rng.uniform(2.0, 3.0) * rng.uniform(0.4, 0.6, inner).cumprod()
    return (left * rng.permutation(spectrum)) @ right.T


def unchanged(student: Session, function: str, **arguments: Any) -> None:
    """Demand that a call leaves the arrays among its arguments, passed in this order, as they were."""
    arrays = {name: value for name, value in arguments.items() if isinstance(value, np.ndarray)}
    kept = {name: student.build("week02.array", value=value) for name, value in arrays.items()}
    getattr(student, function)(*(arguments | kept).values())
    for name, value in arrays.items():
        with at(f"a call of {function}"):
            close(student.read(kept[name], value.shape), value, f"{name} after the call", rtol=0)


# --- task 2.1 ---

# m, n, rank of W (None: full), rank asked for; smallest first
TRUNCATIONS = ((3, 2, None, 1), (5, 4, None, 2), (4, 7, None, 3), (6, 5, None, 5))
DEFICIENT = ((4, 3, 1, 2), (3, 6, 2, 3), (5, 4, 0, 2))


def product(lib: Session, W: np.ndarray, rank: int) -> np.ndarray:
    """B A, on which all right answers agree."""
    pair = lib.truncated_svd(W, rank)
    B, A = (lib.read(pair[k], shape, free=True) for k, shape in enumerate(((len(W), rank), (rank, W.shape[1]))))
    lib.note(B @ A)
    return B @ A


def compare_products(student, oracle, rng, ladder) -> None:
    for rows, columns, own_rank, rank in ladder:
        W = graded(rng, rows, columns, own_rank)
        shape = f"W of shape {W.shape}" if own_rank is None else f"W of shape {W.shape} and rank {own_rank}"
        with at(f"{shape}, rank={rank}"):
            close(product(student, W, rank), oracle(product, W, rank), "the product B A", atol=NOISE)


@check("2.1", weight=5, gate=True)
def test_product(student, oracle, rng):
    """B A is the best approximation of W of the given rank; with the full rank it is W itself."""
    compare_products(student, oracle, rng, TRUNCATIONS)


@check("2.1", weight=2)
def test_deficient(student, oracle, rng):
    """Where W itself has a lower rank than was asked for, B A is W, and nothing is infinite or NaN."""
    compare_products(student, oracle, rng, DEFICIENT)


@check("2.1", weight=1)
def test_small_values(student, oracle, rng):
    """No singular value is left out for being small: neither beside larger ones, nor where all of W is small."""
    left, right = (np.linalg.qr(rng.standard_normal((side, 3)))[0] for side in (4, 3))
    # A Gram matrix, by which a right answer may go, squares the range to 10**12, which float64 still resolves.
    W = (left * [1.0, 1e-3, 1e-6]) @ right.T
    with at(f"W of shape {W.shape} with the singular values 1, 1e-3 and 1e-6, rank=3"):
        close(product(student, W, 3), oracle(product, W, 3), "the product B A")
    W = graded(rng, 5, 4) * 2.0**-40
    with at(f"W of shape {W.shape}, all of it around 1e-12, rank=2"):
        close(product(student, W, 2), oracle(product, W, 2), "the product B A")


@check("2.1", weight=2)
def test_ranks(student, oracle, rng):
    """A rank below 1 or above min(m, n) is a ValueError."""
    # Too large a rank comes first: unchecked, a slice takes it in silence.
    for shape, rank in (((3, 5), 4), ((5, 3), 4), ((3, 5), 6), ((4, 3), 0), ((4, 3), -1)):
        W = rng.standard_normal(shape)
        with at(f"W of shape {shape}, rank={rank}"):
            student.raises("ValueError", act=lambda W=W, rank=rank: student.truncated_svd(W, rank))


@check("2.1", weight=1, tier="advanced")
def test_svd_arguments(student, oracle, rng):
    """truncated_svd does not change W."""
    unchanged(student, "truncated_svd", W=graded(rng, 5, 4), rank=2)


# --- task 2.2 ---


class Layer(NamedTuple):
    """A rank-1 layer, W0 (out, in), b (out), a (in), and data: X (n, in), Y (n, out)."""

    W0: np.ndarray
    b: np.ndarray
    a: np.ndarray
    alpha: float
    X: np.ndarray
    Y: np.ndarray

    @property
    def rung(self) -> str:
        sizes = f"W0 of shape {self.W0.shape}, X of shape {self.X.shape}, alpha={self.alpha}"
        return sizes if self.b.any() else f"{sizes}, b = 0"


# d_out, d_in, n, alpha; smallest first. The first is square on purpose: there a transposed matrix gives wrong numbers,
# which tell what was mistaken, and not NumPy's error, which could have any cause.
LAYERS = ((2, 2, 3, 1.5), (3, 2, 4, 0.5), (4, 5, 1, 3.0), (5, 3, 7, 2.5))


def draw(rng, d_out: int, d_in: int, n: int, alpha: float) -> Layer:
    W0, b, a, X, Y = (rng.standard_normal(s) for s in ((d_out, d_in), d_out, d_in, (n, d_in), (n, d_out)))
    return Layer(W0, b, a, alpha, X, Y)


def output(lib: Session, layer: Layer) -> np.ndarray:
    return lib.read(lib.rank1_forward(*layer[:5]), layer.Y.shape)


def gradients(lib: Session, layer: Layer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    result = lib.rank1_gradients(*layer)
    return np.array(lib.number(result[0])), lib.read(result[1], layer.b.shape), lib.read(result[2], layer.a.shape)


def works(student: Session, oracle, compare) -> bool:
    """Whether a comparison on a fixed layer, with b as drawn and with b = 0, succeeds; asked once for each worker."""
    name = compare.__name__
    if name not in student.facts:
        layer = draw(np.random.Generator(np.random.PCG64(0)), *LAYERS[1])
        with student.aside():
            try:
                compare(student, oracle, layer)
                compare(student, oracle, layer._replace(b=np.zeros_like(layer.b)))
                student.facts[name] = True
            except CheckFailed:
                student.facts[name] = False
    return bool(student.facts[name])


def lend(student: Session, *names: str) -> None:
    """Put functions of ours in the place of the submission's, so that what calls them can be checked by itself."""
    stand_ins = student.build("week02.rank1_stand_ins")
    for name in names:
        student.supply(name, getattr(stand_ins, name))


def compare_outputs(student, oracle, layer: Layer) -> None:
    with at(layer.rung):
        frozen = oracle(output, layer._replace(b=np.zeros_like(layer.b)))
        close(output(student, layer), oracle(output, layer), "rank1_forward(...)", known=frozen)


def lend_forward(student: Session, oracle) -> None:
    """Let the gradients be checked by themselves, though they may call a rank1_forward that does not work yet."""
    if not works(student, oracle, compare_outputs):
        lend(student, "rank1_forward")


def compare_gradients(student, oracle, layer: Layer) -> None:
    with at(layer.rung):
        got, want = gradients(student, layer), oracle(gradients, layer)
        for name, mine, right in zip(("the loss L", "dL/db", "dL/da"), got, want, strict=True):
            close(mine, right, name, atol=NOISE)


def compare_arguments(student, oracle, layer: Layer) -> None:
    arguments = layer._asdict()
    unchanged(student, "rank1_gradients", **arguments)
    del arguments["Y"]
    unchanged(student, "rank1_forward", **arguments)


@check("2.2", weight=3, gate=True)
def test_forward(student, oracle, rng):
    """The output is Y = X (W0 + alpha b a^T)^T, one row for each row of X."""
    for sizes in LAYERS:
        compare_outputs(student, oracle, draw(rng, *sizes))


@check("2.2", weight=5, gate=True)
def test_gradients(student, oracle, rng):
    """The loss is 1 / (2 n) times the sum of squares, and dL/db and dL/da are its exact gradients."""
    lend_forward(student, oracle)
    for sizes in LAYERS:
        compare_gradients(student, oracle, draw(rng, *sizes))


@check("2.2", weight=1)
def test_gradients_at_the_start(student, oracle, rng):
    """At LoRA's start, b = 0, the gradient of a is zero and that of b is not."""
    lend_forward(student, oracle)
    layer = draw(rng, *LAYERS[1])
    compare_gradients(student, oracle, layer._replace(b=np.zeros_like(layer.b)))


@check("2.2", weight=1, tier="advanced")
def test_any_alpha(student, oracle, rng):
    """alpha may be any number, also one that is negative or 0."""
    for alpha in (-1.5, 0.0):
        compare_outputs(student, oracle, draw(rng, *LAYERS[1][:3], alpha))
    lend_forward(student, oracle)
    for alpha in (-1.5, 0.0):
        compare_gradients(student, oracle, draw(rng, *LAYERS[1][:3], alpha))


@check("2.2", weight=1, tier="advanced")
def test_forward_arguments(student, oracle, rng):
    """rank1_forward does not change its arguments."""
    layer = draw(rng, *LAYERS[1])._asdict()
    unchanged(student, "rank1_forward", **{name: value for name, value in layer.items() if name != "Y"})


@check("2.2", weight=1, tier="advanced")
def test_gradient_arguments(student, oracle, rng):
    """rank1_gradients does not change its arguments."""
    lend_forward(student, oracle)
    unchanged(student, "rank1_gradients", **draw(rng, *LAYERS[1])._asdict())


# --- task 2.3 ---

LR = 0.05
STEPS = (1, 2, 6, 25)


def gentle(rng, d_out: int, d_in: int, n: int, alpha: float) -> Layer:
    """A layer of short a, and of inputs of length 1 on average: the loss falls smoothly, so rounding does not grow."""
    layer = draw(rng, d_out, d_in, n, alpha)
    return layer._replace(a=1.25 * layer.a / np.linalg.norm(layer.a), X=layer.X * n**0.5 / np.linalg.norm(layer.X))


def prepare(student: Session, oracle) -> None:
    """Let task 2.3 be checked whether or not task 2.2 is done."""
    comparisons = compare_outputs, compare_gradients, compare_arguments
    if not all([works(student, oracle, compare) for compare in comparisons]):
        lend(student, "rank1_forward", "rank1_gradients")


def trained(lib: Session, layer: Layer, lr: float, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    result = lib.train_rank1(layer.W0, layer.X, layer.Y, layer.alpha, lr, steps, layer.a)
    b, a = lib.read(result[0], layer.b.shape), lib.read(result[1], layer.a.shape)
    found = lib.probe("week02.sequence", result[2])
    equal(len(found) if isinstance(found, np.ndarray) else 0, steps + 1, "the number of losses")
    return b, a, lib.array(found, "the losses", (steps + 1,))


def compare_training(student, oracle, layer: Layer, steps: int, lr: float = LR, what: str = "") -> None:
    rung = f"{layer.rung}, lr={lr}, steps={steps}"
    with at(f"{rung}, {what}" if what else rung):
        got, want = trained(student, layer, lr, steps), oracle(trained, layer, lr, steps)
        for name, mine, right in zip(("b", "a", "the list of losses"), got, want, strict=True):
            close(mine, right, name, atol=NOISE)


@check("2.3", weight=6, gate=True)
def test_training(student, oracle, rng):
    """From b = 0 and a = a0, each step moves both by -lr times their gradients at the point where the step begins."""
    prepare(student, oracle)
    for sizes, steps in zip(LAYERS, STEPS, strict=True):
        compare_training(student, oracle, gentle(rng, *sizes), steps)


@check("2.3", weight=2)
def test_no_step(student, oracle, rng):
    """With steps = 0, b is zero, a is a0, and there is one loss, that of W0 alone."""
    prepare(student, oracle)
    compare_training(student, oracle, gentle(rng, *LAYERS[1]), 0)


@check("2.3", weight=1)
def test_every_step(student, oracle, rng):
    """All steps are taken and the last point is returned, also where the base fits already or the loss rises."""
    prepare(student, oracle)
    layer = gentle(rng, *LAYERS[1])
    compare_training(student, oracle, layer, 2, lr=1000.0, what="a rate that is too large")
    fitted = layer._replace(Y=layer.X @ layer.W0.T)
    compare_training(student, oracle, fitted, 12, what="targets that W0 gives by itself")


@check("2.3", weight=1)
def test_training_arguments(student, oracle, rng):
    """train_rank1 changes neither W0, X and Y nor a0."""
    prepare(student, oracle)
    layer = draw(rng, *LAYERS[1])
    unchanged(student, "train_rank1", W0=layer.W0, X=layer.X, Y=layer.Y, alpha=layer.alpha, lr=LR, steps=3, a0=layer.a)


@check("2.3", weight=1)
def test_training_refuses(student, oracle, rng):
    """A learning rate that is not above 0, or a negative number of steps, is a ValueError."""
    prepare(student, oracle)
    layer = draw(rng, *LAYERS[1])
    for lr, steps in ((-0.1, 3), (LR, -1), (0.0, 3)):
        with at(f"lr={lr}, steps={steps}"):
            student.raises("ValueError", act=lambda lr=lr, steps=steps: trained_with(student, layer, lr, steps))


def trained_with(student: Session, layer: Layer, lr: float, steps: int) -> None:
    student.train_rank1(layer.W0, layer.X, layer.Y, layer.alpha, lr, steps, layer.a)


# --- task 2.4 ---

# m, n, p, q; smallest first, and the first square as above
FACTORS = ((3, 3, 2, 2), (5, 2, 3, 4), (4, 6, 3, 5))
LEAST = (16, 16, 16, 16)  # from where on the contract bounds the memory
LARGE = (34, 30, 32, 36)
HUGE = (140, 139, 138, 141)  # 3 GB as a Kronecker product, more than the sandbox gives


def factors(rng, m: int, n: int, p: int, q: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return rng.standard_normal((m, n)), rng.standard_normal((p, q)), rng.standard_normal(n * q)


def kron_product(lib: Session, A: np.ndarray, B: np.ndarray, x: np.ndarray) -> np.ndarray:
    return lib.read(lib.kron_matvec(A, B, x), (len(A) * len(B),))


@check("2.4", weight=5, gate=True)
def test_kron(student, oracle, rng):
    """The result is np.kron(A, B) @ x, in that order of its elements."""
    for sizes in FACTORS:
        A, B, x = factors(rng, *sizes)
        with at(f"A of shape {A.shape}, B of shape {B.shape}"):
            close(kron_product(student, A, B, x), oracle(kron_product, A, B, x), "kron_matvec(A, B, x)")


@check("2.4", weight=3, gate=True)
def test_kron_memory(student, oracle, rng):
    """The Kronecker product is never formed: what a call allocates stays below a quarter of its size."""
    found = []
    for sizes in (LEAST, LARGE):
        A, B, x = factors(rng, *sizes)
        with at(f"A of shape {A.shape}, B of shape {B.shape}"):
            kron_product(student, A, B, x)
            with student.aside():  # the exact number is no evidence, only whether it is small
                peak = student.probe("week02.allocated", student.kron_matvec, A, B, x)
        bound = 2 * int(np.prod(sizes))
        found.append((A.shape, B.shape, peak, bound))
        student.note(type(peak) is int and peak < bound)
    for shape, other, peak, bound in found:
        with at(f"A of shape {shape}, B of shape {other}"):
            small = type(peak) is int and peak < bound
            demand(small, f"a call allocates {peak} bytes\n  expected: less than {bound}, a quarter of A kron B")
    A, B, x = factors(rng, *HUGE)  # whoever has formed the product has failed by now, unless the measurement was deceived
    with at(f"A of shape {A.shape}, B of shape {B.shape}"):
        close(kron_product(student, A, B, x), oracle(kron_product, A, B, x), "kron_matvec(A, B, x)")


@check("2.4", weight=1)
def test_kron_length(student, oracle, rng):
    """An x that has not n q elements is a ValueError."""
    A, B, _ = factors(rng, *FACTORS[1])
    right = A.shape[1] * B.shape[1]
    for length in (right + 1, right + B.shape[1], right - 1, 2 * right, A.shape[0] * B.shape[0]):
        with at(f"A of shape {A.shape}, B of shape {B.shape}, x of shape ({length},)"):
            x = rng.standard_normal(length)
            student.raises("ValueError", act=lambda x=x: student.kron_matvec(A, B, x))


@check("2.4", weight=1, tier="advanced")
def test_kron_arguments(student, oracle, rng):
    """kron_matvec changes neither A, B nor x."""
    A, B, x = factors(rng, *FACTORS[1])
    unchanged(student, "kron_matvec", A=A, B=B, x=x)


# --- task 2.5 ---

# r1, r2, d, i, j; smallest first. In the first r1 = r2, so that left singular vectors give a number and no error of NumPy's.
SUBSPACES = ((3, 3, 4, 1, 2), (3, 2, 5, 3, 1), (4, 5, 7, 3, 3), (6, 4, 3, 2, 3))


def similarity(lib: Session, A1: np.ndarray, A2: np.ndarray, i: int, j: int) -> np.ndarray:
    return np.array(lib.number(lib.grassmann_similarity(A1, A2, i, j)))


def compare_similarities(student, oracle, A1: np.ndarray, A2: np.ndarray, i: int, j: int) -> None:
    with at(f"A1 of shape {A1.shape}, A2 of shape {A2.shape}, i={i}, j={j}"):
        got, want = similarity(student, A1, A2, i, j), oracle(similarity, A1, A2, i, j)
        close(got, want, "grassmann_similarity(...)", atol=NOISE)


@check("2.5", weight=5, gate=True)
def test_similarity(student, oracle, rng):
    """phi compares the spans of the top right singular vectors, and is relative to the smaller of i and j."""
    for r1, r2, d, i, j in SUBSPACES:
        compare_similarities(student, oracle, graded(rng, r1, d), graded(rng, r2, d), i, j)


@check("2.5", weight=3)
def test_similarity_extremes(student, oracle, rng):
    """phi is 1 where the smaller span lies in the larger one, and 0 where the two are orthogonal."""
    A = graded(rng, 5, 6)
    directions = np.linalg.qr(rng.standard_normal((6, 6)))[0].T
    apart = graded(rng, 3, 3) @ directions[:3], graded(rng, 2, 2) @ directions[3:5]
    for A1, A2, i, j in ((A, A, 2, 2), (A, A, 2, 4), (A, A, 3, 1), (*apart, 3, 2)):
        compare_similarities(student, oracle, A1, A2, i, j)


@check("2.5", weight=1)
def test_similarity_refuses(student, oracle, rng):
    """An i outside 1 ... min(r1, d) or a j outside 1 ... min(r2, d) is a ValueError."""
    for r1, r2, d, i, j in ((2, 3, 4, 3, 1), (2, 3, 4, 1, 4), (5, 2, 3, 4, 1), (2, 5, 3, 1, 4), (2, 3, 4, 0, 1), (2, 3, 4, 1, 0)):
        A1, A2 = rng.standard_normal((r1, d)), rng.standard_normal((r2, d))
        with at(f"A1 of shape {A1.shape}, A2 of shape {A2.shape}, i={i}, j={j}"):
            act = student.grassmann_similarity
            student.raises("ValueError", act=lambda act=act, a=(A1, A2, i, j): act(*a))


@check("2.5", weight=1, tier="advanced")
def test_similarity_arguments(student, oracle, rng):
    """grassmann_similarity changes neither A1 nor A2."""
    unchanged(student, "grassmann_similarity", A1=graded(rng, 3, 5), A2=graded(rng, 2, 5), i=2, j=1)


# --- task 2.6 ---

# m, n, rank of dW (None: full), rank asked for; smallest first
UPDATES = ((3, 2, 1, 1), (5, 4, None, 2), (4, 6, 3, 3), (7, 5, None, 5))


def factor(lib: Session, W: np.ndarray, dW: np.ndarray, rank: int) -> np.ndarray:
    return np.array(lib.number(lib.amplification_factor(W, dW, rank)))


@check("2.6", weight=5, gate=True)
def test_amplification(student, oracle, rng):
    """The factor is ||dW||_F over the norm of W projected onto the top singular directions of dW, on both sides."""
    for rows, columns, own_rank, rank in UPDATES:
        W, dW = graded(rng, rows, columns), graded(rng, rows, columns, own_rank)
        with at(f"W of shape {W.shape}, dW of {f'rank {own_rank}' if own_rank else 'full rank'}, rank={rank}"):
            close(factor(student, W, dW, rank), oracle(factor, W, dW, rank), "amplification_factor(...)")


@check("2.6", weight=2)
def test_amplification_of_itself(student, oracle, rng):
    """An update that is a multiple of a W of rank r amplifies by that multiple."""
    W = graded(rng, 5, 4, 2)
    for multiple in (3.0, 0.5):
        with at(f"W of shape {W.shape} and rank 2, dW = {multiple} W, rank=2"):
            close(factor(student, W, multiple * W, 2), oracle(factor, W, multiple * W, 2), "amplification_factor(...)")


@check("2.6", weight=1)
def test_amplification_refuses(student, oracle, rng):
    """A rank outside 1 ... min(m, n), or matrices of different shapes, are a ValueError."""
    for shape, other, rank in (
        ((4, 3), (4, 3), 4),
        ((3, 5), (3, 5), 4),
        ((4, 3), (4, 3), 0),
        ((4, 3), (3, 4), 2),
        ((5, 1), (5, 4), 1),
    ):
        W, dW = rng.standard_normal(shape), rng.standard_normal(other)
        with at(f"W of shape {shape}, dW of shape {other}, rank={rank}"):
            student.raises("ValueError", act=lambda a=(W, dW, rank): student.amplification_factor(*a))


@check("2.6", weight=1, tier="advanced")
def test_amplification_arguments(student, oracle, rng):
    """amplification_factor changes neither W nor dW."""
    unchanged(student, "amplification_factor", W=graded(rng, 5, 4), dW=graded(rng, 5, 4), rank=2)
