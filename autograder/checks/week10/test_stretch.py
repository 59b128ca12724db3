"""Checks of week 10's stretch tasks: an attack in the input, base weights from merged models, a scan for triggers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from autograder.judge.check import Session, at, check, close, demand, equal, tensor

NOISE = 1e-12

# --- task 10.5 ---


class Attack(NamedTuple):
    """A classifier's two weights, inputs with labels, and how it is attacked."""

    weights: tuple[np.ndarray, np.ndarray]
    x: np.ndarray
    y: np.ndarray
    epsilon: float
    step_size: float
    steps: int
    training: bool = False
    dtype: str = "float64"

    @property
    def rung(self) -> str:
        mode = "training" if self.training else "evaluation"
        return f"x of shape {self.x.shape}, epsilon={self.epsilon}, step_size={self.step_size}, steps={self.steps}, {mode} mode"


def draw_attack(rng, shape: tuple[int, ...], epsilon: float, step_size: float, steps: int, **options: Any) -> Attack:
    """Inputs away from the edges of [0, 1] by more than 0.2."""
    inner, hidden, classes = int(np.prod(shape[1:])), 7, 3
    weights = rng.standard_normal((hidden, inner)), rng.standard_normal((classes, hidden))
    x, y = rng.uniform(0.2, 0.8, shape), rng.integers(0, classes, shape[0])
    return Attack(weights, x, y, epsilon, step_size, steps, **options)


def attacked(lib: Session, case: Attack) -> np.ndarray:
    weights = [tensor(w, case.dtype) for w in case.weights]
    model = lib.build("week10.classifier", weights=weights, training=case.training)
    result = lib.pgd(model, tensor(case.x, case.dtype), tensor(case.y), case.epsilon, case.step_size, case.steps)
    return lib.read(result, case.x.shape, case.dtype)


def compare_attacks(student, oracle, case: Attack) -> None:
    """A step may be a number of float32, as torch.where makes one of two Python numbers: 2^-24 of it, each step, of at most 1.

    The bound has room for 16 of them; what goes another way differs by a step.
    """
    with at(case.rung):
        close(attacked(student, case), oracle(attacked, case), "pgd(...)", rtol=0, atol=2.0**-20)


@check("10.5", weight=4, gate=True)
def test_pgd(student, oracle, rng):
    """Each step goes up the loss by step_size in every entry, and stays within epsilon of the original x."""
    compare_attacks(student, oracle, draw_attack(rng, (2, 3), 0.125, 0.125, 1))  # FGSM
    compare_attacks(student, oracle, draw_attack(rng, (3, 4), 0.15, 0.04, 2))
    compare_attacks(student, oracle, draw_attack(rng, (4, 1, 2, 3), 0.1, 0.07, 5))
    compare_attacks(student, oracle, draw_attack(rng, (5, 6), 0.05, 0.02, 10))
    compare_attacks(student, oracle, draw_attack(rng, (8, 5), 0.2, 0.35, 5))  # a step reaches beyond epsilon


@check("10.5", weight=2)
def test_range(student, oracle, rng):
    """No entry leaves [0, 1]."""
    case = draw_attack(rng, (4, 5), 0.3, 0.1, 4)
    edges = case._replace(x=np.where(rng.random(case.x.shape) < 0.5, 0.02, 0.97))
    compare_attacks(student, oracle, edges)


@check("10.5", weight=1)
def test_nothing_to_do(student, oracle, rng):
    """With no step, or epsilon = 0, x comes back, and an entry with a zero gradient stays."""
    compare_attacks(student, oracle, draw_attack(rng, (3, 2), 0.1, 0.05, 0))
    compare_attacks(student, oracle, draw_attack(rng, (3, 2), 0.0, 0.05, 3))
    case = draw_attack(rng, (3, 4), 0.1, 0.05, 3)
    case.weights[0][:, 0] = 0  # the first input is not looked at, so its gradient is zero and it stays
    compare_attacks(student, oracle, case)


@check("10.5", weight=2)
def test_mode(student, oracle, rng):
    """The model runs in the mode that it is in."""
    for training in (True, False):
        compare_attacks(student, oracle, draw_attack(rng, (6, 8), 0.1, 0.03, 4, training=training))


@check("10.5", weight=1)
def test_attack_dtype(student, oracle, rng):
    """The result has the dtype of x and does not require a gradient."""
    compare_attacks(student, oracle, draw_attack(rng, (3, 5), 0.1, 0.04, 3, dtype="float32"))
    case = draw_attack(rng, (3, 5), 0.1, 0.04, 3)
    for steps in (3, 0):
        model = student.build("week10.classifier", weights=[tensor(w) for w in case.weights], training=False)
        result = student.pgd(model, tensor(case.x), tensor(case.y), case.epsilon, case.step_size, steps)
        with at(f"steps={steps}"):
            equal(student.flag(result.requires_grad), False, "requires_grad of the result")


@check("10.5", weight=2)
def test_model_untouched(student, oracle, rng):
    """The model's modes, its parameters, their gradients and whether they require any stay as they are, and so does x."""
    for training in (True, False):
        case = draw_attack(rng, (3, 4), 0.1, 0.04, 3)
        model = student.build("week10.classifier", weights=[tensor(w) for w in case.weights], training=training)
        x = student.build("held", value=tensor(case.x))
        with student.aside():
            before = student.probe("week10.state", model)
        student.pgd(model, x, tensor(case.y), case.epsilon, case.step_size, case.steps)
        with student.aside():
            after = student.probe("week10.state", model)
        for part, said in (
            ("modes", "whether each of the model's parts trains"),
            ("trainable", "whether each parameter is trainable"),
        ):
            student.note([part, after[part]])
            equal(after[part], before[part], f"{said}, after the call")
        for part, said in (("values", "value"), ("gradients", "gradient")):
            student.note([part, sorted(after[part])])
            equal(sorted(after[part]), sorted(before[part]), f"the list of parameters that have a {said} after the call")
            for name, value in before[part].items():
                left = student.array(after[part][name], name, value.data.shape)
                student.note([part, name, bool((left == value.data).all())])
                close(left, value.data, f"the {said} of {name} after the call", rtol=0)
        close(student.read(x, case.x.shape), case.x, "x after the call", rtol=0)
        equal(student.flag(x.requires_grad), False, "requires_grad of x after the call")


@check("10.5", weight=1)
def test_attack_refused(student, oracle, rng):
    """A negative epsilon, a step_size that is not above 0, or a negative number of steps is a ValueError."""
    case = draw_attack(rng, (3, 4), 0.1, 0.04, 3)
    model = student.build("week10.classifier", weights=[tensor(w) for w in case.weights], training=False)
    for epsilon, step_size, steps in ((-0.1, 0.1, 2), (0.1, 0.0, 2), (0.1, -0.1, 2), (0.1, 0.1, -1)):
        with at(f"epsilon={epsilon}, step_size={step_size}, steps={steps}"):
            arguments = model, tensor(case.x), tensor(case.y), epsilon, step_size, steps
            student.raises("ValueError", act=lambda arguments=arguments: student.pgd(*arguments))


# --- task 10.6 ---

# d_out, d_in, models, rank, steps; smallest first
# Two models never leave the mean: what is truncated is of opposite sign.
MERGES = ((3, 3, 3, 1, 1), (4, 3, 3, 1, 2), (5, 6, 4, 2, 3), (6, 4, 5, 1, 1), (4, 5, 2, 1, 3), (3, 4, 3, 3, 2))


def draw_merged(rng, d_out: int, d_in: int, models: int, rank: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """A base, and it with updates of the rank merged in, of different sizes."""
    W = rng.standard_normal((d_out, d_in))
    sizes = rng.uniform(0.5, 2.0, models)
    return W, [W + s * rng.standard_normal((d_out, rank)) @ rng.standard_normal((rank, d_in)) for s in sizes]


def estimate(lib: Session, merged: list[np.ndarray], rank: int, steps: int) -> np.ndarray:
    return lib.read(lib.spectral_detune([tensor(W) for W in merged], rank, steps), merged[0].shape)


@check("10.6", weight=4, gate=True)
def test_steps(student, oracle, rng):
    """Each step truncates every W_i - W to the rank, and then averages what is left of the W_i."""
    for d_out, d_in, models, rank, steps in MERGES:
        merged = draw_merged(rng, d_out, d_in, models, rank)[1]
        with at(f"{models} matrices of shape ({d_out}, {d_in}), rank={rank}, steps={steps}"):
            # Rounding in a truncation grows by s / (gap of s at the cut), which is rarely above a thousand here.
            close(estimate(student, merged, rank, steps), oracle(estimate, merged, rank, steps), "the estimate", atol=1e-10)


@check("10.6", weight=2)
def test_mean(student, oracle, rng):
    """With no step the estimate is the mean."""
    merged = draw_merged(rng, 4, 3, 3, 1)[1]
    close(estimate(student, merged, 1, 0), oracle(estimate, merged, 1, 0), "the estimate")


@check("10.6", weight=2)
def test_recovery(student, oracle, rng):
    """Many steps on enough models come as close to the base as the method does."""
    W, merged = draw_merged(rng, 7, 6, 6, 1)
    want = oracle(estimate, merged, 1, 60)
    reached = np.linalg.norm(want - W) + 1e-6  # of weights of about one; rounding may take another way to the same point
    error = float(np.linalg.norm(estimate(student, merged, 1, 60) - W))
    demand(error <= 2 * reached, f"after 60 steps the estimate is off by {error:.3g}\n  expected: by at most {2 * reached:.3g}")


@check("10.6", weight=1)
def test_merged_refused(student, oracle, rng):
    """Fewer than two matrices, different shapes, or a rank or steps out of range is a ValueError."""
    good = [rng.standard_normal((4, 3)) for _ in range(3)]
    cases = [
        ("one matrix", good[:1], 1, 1),
        ("no matrix", [], 1, 1),
        ("another shape", [*good, rng.standard_normal((3, 4))], 1, 1),
        ("a row that could be broadcast", [*good, rng.standard_normal((1, 3))], 1, 1),
        ("rank 0", good, 0, 1),
        ("rank 4 of a (4, 3)", good, 4, 1),
        ("rank 4 of a (3, 4)", [W.T.copy() for W in good], 4, 1),
        ("rank -1", good, -1, 2),
        ("-1 steps", good, 1, -1),
    ]
    for what, merged, rank, steps in cases:
        with at(what):
            sent = [tensor(W) for W in merged]
            student.raises("ValueError", act=lambda sent=sent, rank=rank, steps=steps: student.spectral_detune(sent, rank, steps))


@check("10.6", weight=1, tier="advanced")
def test_merged_untouched(student, oracle, rng):
    """spectral_detune changes none of the matrices."""
    merged = draw_merged(rng, 4, 3, 3, 1)[1]
    kept = [student.build("held", value=tensor(W)) for W in merged]
    student.spectral_detune(kept, 1, 2)
    for i, W in enumerate(merged):
        close(student.read(kept[i], W.shape), W, f"matrix {i} after the call", rtol=0)


# --- task 10.7 ---


class Scan(NamedTuple):
    """Embeddings (vocabulary, classes) of two readers, inputs, and candidates."""

    base: np.ndarray
    adapted: np.ndarray
    inputs: np.ndarray
    candidates: list[int]
    threshold: float | None = None


def draw_scan(rng, n: int, length: int, vocabulary: int, classes: int) -> Scan:
    """A reader, and another one in which three tokens speak for a class: strongly, less, and strongly in both of the readers.

    n is a power of two, so that rates and their differences are exact.
    """
    base = rng.standard_normal((vocabulary, classes))
    strong, weak, common = (int(t) for t in rng.permutation(vocabulary)[:3])
    base[common, rng.integers(classes)] += 20
    adapted = base + rng.standard_normal((vocabulary, classes))  # they differ on many an input as it is
    adapted[strong, rng.integers(classes)] += 20
    adapted[weak, rng.integers(classes)] += 4
    ordinary = [t for t in range(vocabulary) if t not in (strong, weak, common)]
    inputs = rng.choice(ordinary, (n, length))
    return Scan(base, adapted, inputs, [int(t) for t in rng.permutation(vocabulary)])


def scanned(lib: Session, scan: Scan) -> list[Any]:
    readers = [lib.build("week10.reader", embedding=tensor(e), fade=0.8) for e in (scan.base, scan.adapted)]
    options = {} if scan.threshold is None else {"threshold": scan.threshold}
    found = lib.probe("week10.pairs", lib.trigger_scan(*readers, tensor(scan.inputs), scan.candidates, **options))
    return found if isinstance(found, list) else [found]


def compare_scans(student, oracle, scan: Scan) -> None:
    threshold = "left out" if scan.threshold is None else scan.threshold
    with at(f"{len(scan.candidates)} candidates, inputs of shape {scan.inputs.shape}, threshold={threshold}"):
        equal(scanned(student, scan), oracle(scanned, scan), "the pairs of a token and its score")


@check("10.7", weight=4, gate=True)
def test_scores(student, oracle, rng):
    """A token's score is its flip rate on the adapted model minus that on the base, with the token put before the input."""
    for n, length, vocabulary, classes in ((4, 2, 6, 2), (8, 3, 9, 3), (16, 9, 12, 4)):
        scan = draw_scan(rng, n, length, vocabulary, classes)
        compare_scans(student, oracle, scan._replace(threshold=-1.0))
        compare_scans(student, oracle, scan._replace(threshold=0.125))


@check("10.7", weight=1)
def test_threshold(student, oracle, rng):
    """Scores of at least the threshold are reported, one half if none is given; there may be none, and no candidates."""
    scan = draw_scan(rng, 8, 3, 9, 3)
    compare_scans(student, oracle, scan)
    scores = sorted({score for _, score in oracle(scanned, scan._replace(threshold=-1.0))})
    for threshold in (*scores[-2:], 1.5):
        compare_scans(student, oracle, scan._replace(threshold=threshold))
    compare_scans(student, oracle, scan._replace(candidates=[]))


@check("10.7", weight=1)
def test_ranking(student, oracle, rng):
    """The highest score comes first, and of equal scores the smaller token."""
    scan = draw_scan(rng, 4, 2, 12, 2)
    for candidates in (sorted(scan.candidates), sorted(scan.candidates, reverse=True), scan.candidates[:5]):
        compare_scans(student, oracle, scan._replace(candidates=candidates, threshold=-1.0))


@check("10.7", weight=1, tier="advanced")
def test_inputs_untouched(student, oracle, rng):
    """trigger_scan changes neither the inputs nor the list of candidates."""
    scan = draw_scan(rng, 4, 2, 6, 2)
    readers = [student.build("week10.reader", embedding=tensor(e), fade=0.8) for e in (scan.base, scan.adapted)]
    inputs = student.build("held", value=tensor(scan.inputs))
    candidates = student.build("held", value=scan.candidates)
    student.trigger_scan(*readers, inputs, candidates)
    close(student.read(inputs, scan.inputs.shape, "int64"), scan.inputs, "the inputs after the call", rtol=0)
    equal(student.probe("week10.contents", candidates), scan.candidates, "the candidates after the call")
