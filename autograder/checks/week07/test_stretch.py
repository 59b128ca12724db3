"""Checks of week 7's stretch tasks: AdaLoRA's importance and budget, QRLoRALinear, the DPO loss."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from autograder.checks.week07.test_branches import DTYPES, in_dtype, linear, numbers, tokens_for, vjp
from autograder.judge.check import Handle, Session, at, check, close, demand, equal, tensor

# --- task 7.5 ---

# out_features, in_features, rank
TRIPLETS = ((2, 3, 1), (5, 4, 3), (3, 6, 2))
Factors = tuple[np.ndarray, np.ndarray, np.ndarray]


def draw_steps(rng, out_features: int, in_features: int, rank: int, steps: int) -> list[tuple[Factors, Factors]]:
    """For every step the factors P, E, Q and their gradients."""
    shapes = ((out_features, rank), (rank,), (rank, in_features))
    return [tuple(tuple(rng.standard_normal(s) for s in shapes) for _ in range(2)) for _ in range(steps)]  # type: ignore[misc]


def scores_after(lib: Session, steps: list[tuple[Factors, Factors]], *betas: float) -> np.ndarray:
    """The scores of the last step."""
    state: Any = None
    for factors, gradients in steps:
        factors, gradients = (tuple(map(tensor, arrays)) for arrays in (factors, gradients))
        result = lib.adalora_importance(factors, gradients, state, *betas)
        state = result[1]
    return lib.read(result[0], (len(steps[0][0][1]),))


def compare_scores(student, oracle, rng, steps: int, *betas: float) -> None:
    for shape in TRIPLETS:
        drawn = draw_steps(rng, *shape, steps)
        with at(f"{steps} step(s), betas {betas}, P of shape {drawn[0][0][0].shape}, Q of shape {drawn[0][0][2].shape}"):
            close(scores_after(student, drawn, *betas), oracle(scores_after, drawn, *betas), "the vector of scores")


@check("7.5", weight=3, gate=True)
def test_importance_first_step(student, oracle, rng):
    """The first step starts from zero means: each triplet's score joins its E and the means of its column and its row."""
    compare_scores(student, oracle, rng, 1, 0.7, 0.4)


@check("7.5", weight=4, gate=True)
def test_importance_steps(student, oracle, rng):
    """Over several steps the smoothed sensitivity and the uncertainty follow (9) and (10), each with its own beta."""
    for steps in (2, 4):
        compare_scores(student, oracle, rng, steps, 0.7, 0.4)


@check("7.5", weight=1)
def test_importance_defaults(student, oracle, rng):
    """beta1 and beta2 are 0.85 where they are not given."""
    compare_scores(student, oracle, rng, 2)


@check("7.5", weight=1, tier="advanced")
def test_importance_two_matrices(student, oracle, rng):
    """The state of one matrix is its own: steps of two matrices may alternate."""
    first, second = (draw_steps(rng, *shape, 3) for shape in TRIPLETS[1:])
    states: list[Any] = [None, None]
    last: list[Any] = [None, None]
    for pair in zip(first, second, strict=True):
        for k, (factors, gradients) in enumerate(pair):
            result = student.adalora_importance(tuple(map(tensor, factors)), tuple(map(tensor, gradients)), states[k])
            last[k], states[k] = result[0], result[1]
    for k, steps in enumerate((first, second)):
        with at(f"two matrices in turn, matrix {k}"):
            close(student.read(last[k], (len(steps[0][0][1]),)), oracle(scores_after, steps), "the vector of scores")


@check("7.5", weight=1, tier="advanced")
def test_importance_leaves_no_graph(student, oracle, rng):
    """Factors that require gradients are not changed, and the scores have no graph behind them."""
    factors, gradients = draw_steps(rng, *TRIPLETS[1], 1)[0]
    leaves = tuple(student.build("week07.leaf", value=tensor(a)) for a in factors)
    scores = student.adalora_importance(leaves, tuple(map(tensor, gradients)), None, 0.7, 0.4)[0]
    close(student.read(scores, (3,)), oracle(scores_after, [(factors, gradients)], 0.7, 0.4), "the vector of scores")
    equal(student.flag(scores.requires_grad), False, "requires_grad of the scores")
    for name, leaf, value in zip("PEQ", leaves, factors, strict=True):
        close(student.read(leaf, value.shape), value, f"{name} after the call", rtol=0)


@check("7.5", weight=1, tier="advanced")
def test_importance_dtype(student, oracle, rng):
    """The scores have the dtype of E."""
    factors, gradients = draw_steps(rng, *TRIPLETS[1], 1)[0]
    for dtype in DTYPES:
        with at(f"dtype {dtype}"):
            wired = [tuple(tensor(a, dtype) for a in arrays) for arrays in (factors, gradients)]
            student.read(student.adalora_importance(*wired)[0], (3,), dtype, free=True)


@check("7.5", weight=1, tier="advanced")
def test_importance_refuses(student, oracle, rng):
    """A beta1 or beta2 that is not between 0 and 1 is a ValueError."""
    factors, gradients = (tuple(map(tensor, arrays)) for arrays in draw_steps(rng, *TRIPLETS[1], 1)[0])
    for betas in ((1.0, 0.5), (0.0, 0.5), (0.5, 1.0), (0.5, 0.0), (-0.1, 0.5), (0.5, 1.5)):
        with at(f"beta1={betas[0]}, beta2={betas[1]}"):
            student.raises("ValueError", act=lambda b=betas: student.adalora_importance(factors, gradients, None, *b))


# --- task 7.6 ---


def masks(lib: Session, scores: dict[str, np.ndarray], budget: int, dtype: str = "float64") -> dict[str, np.ndarray]:
    found = lib.probe("week07.dict_of", lib.allocate_ranks({name: tensor(s, dtype) for name, s in scores.items()}, budget))
    demand(isinstance(found, dict), f"the result is of type {found}\n  expected: a dict")
    equal(sorted(found), sorted(scores), "the list of names in the result")
    return {name: lib.array(found[name], f"the mask of {name}", s.shape, "bool") for name, s in scores.items()}


def draw_scores(rng, *ranks: int) -> dict[str, np.ndarray]:
    """Scores of matrices q, k, v, ..., on different scales, as different layers have them."""
    return {name: scale * rng.uniform(1, 2, rank) for name, rank, scale in zip("qkvo", ranks, (1, 1.3, 0.8, 5), strict=False)}


def compare_masks(student, oracle, cases: list[tuple[dict[str, np.ndarray], int]]) -> None:
    """All masks are asked for before the first is compared: a few bits would match too many known mistakes."""
    rungs = [f"matrices with { ({name: len(s) for name, s in scores.items()}) } triplets, budget={b}" for scores, b in cases]
    found = []
    for rung, case in zip(rungs, cases, strict=True):
        with at(rung):
            found.append(masks(student, *case))
    for rung, case, got in zip(rungs, cases, found, strict=True):
        with at(rung):
            want = oracle(masks, *case)
            for name in want:
                equal(got[name].tolist(), want[name].tolist(), f"the mask of {name}")


@check("7.6", weight=4, gate=True)
def test_budget(student, oracle, rng):
    """The triplets with the highest scores of the whole model are kept, whichever matrices they belong to."""
    ladder = (((3,), (1, 2)), ((2, 3), (1, 2, 4)), ((4, 2, 5, 3), (3, 7, 11)))
    drawn = [(draw_scores(rng, *ranks), budgets) for ranks, budgets in ladder]
    compare_masks(student, oracle, [(scores, budget) for scores, budgets in drawn for budget in budgets])


@check("7.6", weight=2)
def test_budget_ends(student, oracle, rng):
    """A budget of nothing keeps nothing, one of everything keeps everything."""
    drawn = [(draw_scores(rng, *ranks), sum(ranks)) for ranks in ((3,), (2, 3))]
    compare_masks(student, oracle, [(scores, budget) for scores, everything in drawn for budget in (0, everything)])


@check("7.6", weight=2)
def test_budget_is_exact(student, oracle, rng):
    """With equal scores at the edge no more and no fewer triplets are kept than the budget, and none below the edge."""
    edge = float(rng.uniform(1, 2))
    for low, budget in ((0.5, 3), (0.5, 4), (0.0, 2), (0.0, 6)):
        scores = {"q": edge * np.array([1.0, low, 1.0]), "k": edge * np.array([1.0, 2.0]), "v": edge * np.array([low, 1.0, low])}
        with at(f"scores { ({name: s.tolist() for name, s in scores.items()}) }, budget={budget}"):
            got, want = masks(student, scores, budget), oracle(masks, scores, budget)
            kept = [np.concatenate([scores[name][m[name]] for name in scores]) for m in (got, want)]
            demand(len(kept[0]) == budget, f"{len(kept[0])} triplets are kept\n  expected: {budget}")
            close(np.sort(kept[0]), np.sort(kept[1]), "the sorted list of the scores that are kept")


@check("7.6", weight=1, tier="advanced")
def test_budget_compares_as_they_are(student, oracle, rng):
    """Scores are compared as they are: differences below float32's precision count, and so does the sign."""
    values = 1 + 1e-12 * np.sort(rng.uniform(1, 2, 7))  # equal in float32, where a tie's place then decides: rising and falling
    tiny = {name: 1e-30 * s for name, s in draw_scores(rng, 3, 4).items()}
    negative = {name: -s for name, s in draw_scores(rng, 4, 2).items()}
    cases = {
        "scores that rise by about 1e-12, budget=3": {"q": values[:4], "k": values[4:]},
        "scores that fall by about 1e-12, budget=3": {"q": values[:2:-1], "k": values[2::-1]},
        "scores of the order of 1e-30, budget=3": tiny,
        "scores that are negative, budget=3": negative,
    }
    found = []
    for rung, scores in cases.items():
        with at(rung):
            found.append(masks(student, scores, 3))
    for (rung, scores), got in zip(cases.items(), found, strict=True):
        with at(rung):
            want = oracle(masks, scores, 3)
            for name in want:
                equal(got[name].tolist(), want[name].tolist(), f"the mask of {name}")


@check("7.6", weight=1, tier="advanced")
def test_budget_dtype(student, oracle, rng):
    """Scores of any floating type give masks of dtype bool."""
    scores = draw_scores(rng, 2, 3)
    for dtype in ("float32", "float64"):
        with at(f"scores of dtype {dtype}"):
            got, want = masks(student, scores, 3, dtype), oracle(masks, scores, 3)
            for name in scores:
                equal(got[name].tolist(), want[name].tolist(), f"the mask of {name}")


@check("7.6", weight=1, tier="advanced")
def test_budget_refuses(student, oracle, rng):
    """A budget below 0 or above the number of triplets is a ValueError."""
    for budget in (6, -1):
        with at(f"two matrices with 2 and 3 triplets, budget={budget}"):
            scores = {name: tensor(s) for name, s in draw_scores(rng, 2, 3).items()}
            student.raises("ValueError", act=lambda s=scores, b=budget: student.allocate_ranks(s, b))


# --- task 7.7 ---


class Pivoted(NamedTuple):
    """base.weight (out, in), base.bias (out) or None, lora_lambda (rank)."""

    weight: np.ndarray
    bias: np.ndarray | None
    scalars: np.ndarray

    @property
    def rung(self) -> str:
        out_features, in_features = self.weight.shape
        text = f"in_features={in_features}, out_features={out_features}, rank={len(self.scalars)}"
        return text if self.bias is not None else f"{text}, no bias"


# in_features, out_features, rank, bias: tall, wide, and the largest rank
PIVOTED = ((2, 3, 1, False), (3, 5, 2, True), (7, 4, 3, True), (4, 6, 4, False), (5, 3, 3, True))


def draw_pivoted(rng, in_features, out_features, rank, bias) -> Pivoted:
    # Columns of falling and mixed sizes, so that pivoting changes their order.
    weight = rng.standard_normal((out_features, in_features)) * rng.permutation(1.5 ** np.arange(in_features))
    return Pivoted(weight, rng.standard_normal(out_features) if bias else None, rng.standard_normal(rank))


def pivoted_layer(lib: Session, case: Pivoted, base: Handle | None = None) -> Handle:
    base = linear(lib, case.weight, case.bias) if base is None else base
    layer = lib.QRLoRALinear(base, rank=len(case.scalars))
    lib.write(in_dtype(lib, layer).lora_lambda, case.scalars)
    return layer


def pivoted_output(lib: Session, case: Pivoted, x: np.ndarray) -> np.ndarray:
    return lib.read(pivoted_layer(lib, case)(tensor(x)), (*x.shape[:-1], len(case.weight)))


@check("7.7", weight=4, gate=True)
def test_qr_forward(student, oracle, rng):
    """The output is W0 x + b + sum_k lora_lambda[k] basis_Q[:, k] (basis_R[k] x), in the basis of the pivoted QR."""
    for shape in PIVOTED:
        case = draw_pivoted(rng, *shape)
        for x in tokens_for(rng, shape[0]):
            with at(f"{case.rung}, x of shape {x.shape}"):
                close(pivoted_output(student, case, x), oracle(pivoted_output, case, x), "layer(x)")


def bases(lib: Session, case: Pivoted) -> tuple[np.ndarray, np.ndarray]:
    """QᵀQ, and the products of each column of Q and row of R, (rank, out, in): neither depends on the signs."""
    layer = pivoted_layer(lib, case)
    (out_features, in_features), rank = case.weight.shape, len(case.scalars)
    Q = lib.read(layer.basis_Q, (out_features, rank), free=True)
    R = lib.read(layer.basis_R, (rank, in_features), free=True)
    seen = Q.T @ Q, np.einsum("ok,ki->koi", Q, R)
    lib.note([np.abs(seen[0]), seen[1]])
    return seen


@check("7.7", weight=2)
def test_qr_bases(student, oracle, rng):
    """The columns of basis_Q are orthonormal, and basis_R has its columns in the order of the weight's."""
    for shape in PIVOTED:
        case = draw_pivoted(rng, *shape)
        with at(case.rung):
            (gram, products), (eye, want) = bases(student, case), oracle(bases, case)
            close(gram, eye, "basis_Q.T @ basis_Q", atol=1e-12)
            close(products, want, "the product of each column of basis_Q and row of basis_R")


def pivoted_gradients(lib: Session, case: Pivoted, x: np.ndarray, g: np.ndarray) -> dict[str, np.ndarray]:
    return vjp(lib, pivoted_layer(lib, case), x, g, {"lora_lambda": case.scalars.shape})


@check("7.7", weight=2)
def test_qr_gradients(student, oracle, rng):
    """Back-propagation gives lora_lambda and x their exact gradients."""
    for shape in PIVOTED[1:3]:
        case = draw_pivoted(rng, *shape)
        x, g = rng.standard_normal((9, 8, shape[0])), rng.standard_normal((9, 8, shape[1]))
        with at(case.rung):
            got, want = pivoted_gradients(student, case, x, g), oracle(pivoted_gradients, case, x, g)
            for name in want:
                close(got[name], want[name], f"the gradient of {name}")


def pivoted_start(lib: Session, case: Pivoted, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    layer = lib.QRLoRALinear(linear(lib, case.weight, case.bias), len(case.scalars))
    scalars = lib.read(layer.lora_lambda, case.scalars.shape)
    return scalars, lib.read(layer(tensor(x)), (len(x), len(case.weight)))


@check("7.7", weight=2)
def test_qr_start(student, oracle, rng):
    """A new layer computes what its base does: lora_lambda is zero."""
    for shape in PIVOTED:
        case = draw_pivoted(rng, *shape)
        x = rng.standard_normal((9, shape[0]))
        with at(case.rung):
            (scalars, y), (zero, base_only) = pivoted_start(student, case, x), oracle(pivoted_start, case, x)
            close(scalars, zero, "lora_lambda of a new layer", rtol=0)
            close(y, base_only, "layer(x) of a new layer")


def pivoted_names(lib: Session, case: Pivoted) -> tuple[list[str], list[str], list[str], dict[str, float]]:
    layer = pivoted_layer(lib, case)
    trainable, parameters = lib.names_of("trainable_names", layer), lib.names_of("week07.parameters", layer)
    held = [name for name in lib.names_of("week07.buffers", layer) if name.startswith("basis_")]
    return trainable, parameters, held, numbers(lib, layer, ("rank",))


@check("7.7", weight=2)
def test_qr_trains(student, oracle, rng):
    """Only the scalars train: the bases are buffers and no parameters, and the base is frozen."""
    case = draw_pivoted(rng, *PIVOTED[1])
    *got, found = pivoted_names(student, case)
    *want, expected = oracle(pivoted_names, case)
    what = ("trainable parameters", "parameters", "buffers that hold a basis")
    for name, mine, right in zip(what, got, want, strict=True):
        equal(mine, right, f"the list of {name}")
    equal(found["rank"], expected["rank"], "rank")


def moved_output(lib: Session, case: Pivoted, other: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, bool]:
    base = linear(lib, case.weight, case.bias)
    layer = pivoted_layer(lib, case, base)
    lib.write(base.weight, other)
    return lib.read(layer(tensor(x)), (len(x), len(case.weight))), lib.probe("same", layer.base, base)


@check("7.7", weight=1, tier="advanced")
def test_qr_base_is_kept(student, oracle, rng):
    """`base` is the very layer that was passed in; if its weight changes later, the bases do not."""
    case = draw_pivoted(rng, *PIVOTED[1])
    x, other = rng.standard_normal((7, 3)), rng.standard_normal((5, 3))
    with at(case.rung):
        (got, same), (want, _) = moved_output(student, case, other, x), oracle(moved_output, case, other, x)
        close(got, want, "layer(x) after base.weight was changed")
        equal(same, True, "layer.base is the layer that was passed in")


@check("7.7", weight=1, tier="advanced")
def test_qr_dtype(student, oracle, rng):
    """Scalars, bases and output have the dtype of the base layer, half precision included."""
    case = draw_pivoted(rng, *PIVOTED[1])
    x = rng.standard_normal((7, 3))
    for dtype in (*DTYPES, "float16"):
        with at(f"a base layer of dtype {dtype}"):
            layer = student.QRLoRALinear(linear(student, case.weight, case.bias, dtype), 2)
            student.read(layer.lora_lambda, (2,), dtype, free=True)
            student.read(layer.basis_Q, (5, 2), dtype, free=True)
            student.read(layer.basis_R, (2, 3), dtype, free=True)
            student.read(layer(tensor(x, dtype)), (7, 5), dtype, free=True)


@check("7.7", weight=1, tier="advanced")
def test_qr_refuses(student, oracle, rng):
    """A rank outside 1 ... min(in_features, out_features) is a ValueError."""
    for rank in (4, 0, -2):  # too large first: unchecked it raises nothing
        with at(f"in_features=5, out_features=3, rank={rank}"):
            base = linear(student, rng.standard_normal((3, 5)), None)
            student.raises("ValueError", act=lambda b=base, r=rank: student.QRLoRALinear(b, r))


# --- task 7.8 ---

VOCABULARY, WIDTH = 7, 4
IGNORED = -100


class Pairs(NamedTuple):
    """Token ids and labels, (batch, length) each, of the preferred sequences and of the others."""

    chosen: np.ndarray
    chosen_labels: np.ndarray
    rejected: np.ndarray
    rejected_labels: np.ndarray

    @property
    def rung(self) -> str:
        shares = [f"{int((labels != IGNORED).sum())} labels" for labels in (self.chosen_labels, self.rejected_labels)]
        return f"chosen of shape {self.chosen.shape} with {shares[0]}, rejected of shape {self.rejected.shape} with {shares[1]}"


def draw_pairs(rng, batch: int, lengths: tuple[int, int], prompts: int, padding: int) -> Pairs:
    """Random sequences; the labels of the prompt are left out, and of as many tokens at the end as a row's number allows."""
    arrays = []
    for length in lengths:
        tokens = rng.integers(0, VOCABULARY, (batch, length))
        labels = tokens.copy()
        labels[:, :prompts] = IGNORED
        for row in range(min(batch, padding + 1)):
            labels[row, length - row :] = IGNORED
        arrays += [tokens, labels]
    return Pairs(*arrays)


class Model(NamedTuple):
    """What the builder `policy` is told."""

    seed: int
    disabled: list[str]
    sharpness: float = 1.0
    itself: bool = False

    def build(self, lib: Session, **more: object) -> Handle:
        return lib.build("week07.policy", vocabulary=VOCABULARY, width=WIDTH, **self._asdict(), **more)


def new_model(rng, disabled: tuple[str, ...] = (), sharpness: float = 1.0) -> Model:
    return Model(int(rng.integers(2**31)), list(disabled), sharpness)


def preference(lib: Session, model: Model, pairs: Pairs, beta: float) -> np.ndarray:
    return lib.read(lib.dpo_loss(model.build(lib), *map(tensor, pairs), beta=beta), ())


@check("7.8", weight=4, gate=True)
def test_dpo_loss(student, oracle, rng):
    """The loss is the mean of -log sigmoid(beta (margin of the model - margin of the model without its adapters))."""
    for batch, lengths, beta in ((1, (2, 2), 1.0), (3, (5, 5), 0.3), (2, (4, 6), 2.0)):
        model, pairs = new_model(rng), draw_pairs(rng, batch, lengths, 0, 0)
        with at(f"beta={beta}, {pairs.rung}"):
            close(preference(student, model, pairs, beta), oracle(preference, model, pairs, beta), "the loss")


@check("7.8", weight=3)
def test_dpo_scores_labels_only(student, oracle, rng):
    """Tokens whose label is -100 are not scored, and the sum over the others is not divided by their number."""
    for batch, lengths, prompts, padding in ((1, (4, 4), 2, 0), (3, (6, 5), 2, 2), (4, (5, 8), 1, 3)):
        model, pairs = new_model(rng), draw_pairs(rng, batch, lengths, prompts, padding)
        with at(pairs.rung):
            close(preference(student, model, pairs, 0.5), oracle(preference, model, pairs, 0.5), "the loss")


def gradients_of(lib: Session, model: Model, pairs: Pairs, beta: float) -> tuple[np.ndarray, dict[str, np.ndarray], bool]:
    arguments = list(map(tensor, pairs))
    found = lib.probe("week07.loss_gradients", lib.dpo_loss, model.build(lib), arguments, beta)
    names = ("scale", "first.gain", "inner.second.gain", "inner.third.gain")
    names = tuple(name for name in names if name.removesuffix(".gain") not in model.disabled)
    wanted = {name: lib.array(found["gradients"].get(name), f"the gradient of {name}", (WIDTH,)) for name in names}
    return lib.array(found["loss"], "the loss", ()), wanted, found["training"]


@check("7.8", weight=3)
def test_dpo_gradients(student, oracle, rng):
    """The adapters get the gradient of the loss, and no gradient flows through the reference, whatever is trainable in it."""
    for disabled in ((), ("first",)):
        model, pairs = new_model(rng, disabled), draw_pairs(rng, 3, (5, 6), 2, 1)
        with at(f"{pairs.rung}, {len(disabled)} of 3 adapter layers disabled by the caller"):
            _, got, training = gradients_of(student, model, pairs, 0.5)
            _, want, mode = oracle(gradients_of, model, pairs, 0.5)
            for name in want:
                close(got[name], want[name], f"the gradient of {name}")
            equal(training, mode, "model.training after the call")


def switches(lib: Session, model: Model, pairs: Pairs) -> tuple[np.ndarray, dict[str, Any]]:
    built = model.build(lib)
    loss = lib.read(lib.dpo_loss(built, *map(tensor, pairs), beta=0.5), ())
    return loss, lib.probe("week07.enabled", built)


@check("7.8", weight=2)
def test_dpo_restores_the_adapters(student, oracle, rng):
    """After the call every adapter layer is enabled or disabled as it was before."""
    for disabled in ((), ("inner.second",), ("first", "inner.third")):
        model, pairs = new_model(rng, disabled), draw_pairs(rng, 2, (4, 5), 1, 1)
        with at(f"the caller has disabled {list(disabled) or 'no adapter layer'}"):
            (loss, found), (want, before) = switches(student, model, pairs), oracle(switches, model, pairs)
            close(loss, want, "the loss")
            equal(found, before, "`enabled` of the adapter layers after the call")


@check("7.8", weight=1, tier="advanced")
def test_dpo_model_is_an_adapter(student, oracle, rng):
    """`model.modules()` holds the model itself: where it is an adapter layer, it is disabled in the reference as well."""
    model, pairs = new_model(rng)._replace(itself=True), draw_pairs(rng, 2, (4, 5), 1, 1)
    with at("a model that is an adapter layer itself"):
        (loss, found), (want, before) = switches(student, model, pairs), oracle(switches, model, pairs)
        close(loss, want, "the loss")
        equal(found, before, "`enabled` of the adapter layers after the call")


@check("7.8", weight=1, tier="advanced")
def test_dpo_restores_after_an_error(student, oracle, rng):
    """If the model raises without its adapters, the error comes through, and every adapter layer is as it was."""
    for disabled in ((), ("inner.second",)):
        model, pairs = new_model(rng, disabled), draw_pairs(rng, 2, (4, 5), 1, 1)
        with at(f"a model that raises without adapters, {len(disabled)} of 3 adapter layers disabled by the caller"):
            preference(student, model, pairs, 0.1)  # which mistake it is shows where nothing raises
            built = model.build(student, needs_adapters=True)
            student.raises("RuntimeError", act=lambda b=built, p=pairs: student.dpo_loss(b, *map(tensor, p)))
            _, before = oracle(switches, model, pairs)
            equal(student.probe("week07.enabled", built), before, "`enabled` of the adapter layers after the error")


@check("7.8", weight=1, tier="advanced")
def test_dpo_large_margins(student, oracle, rng):
    """The loss and its gradients stay finite where the model is very sure of the wrong sequence."""
    pairs = draw_pairs(rng, 3, (5, 6), 1, 1)
    swapped = Pairs(pairs.rejected, pairs.rejected_labels, pairs.chosen, pairs.chosen_labels)
    model = new_model(rng, (), 1e4)
    for ordered in (pairs, swapped):
        with at(f"{ordered.rung}, logits in the tens of thousands"):
            loss, got, _ = gradients_of(student, model, ordered, 2.0)
            want_loss, want, _ = oracle(gradients_of, model, ordered, 2.0)
            close(loss, want_loss, "the loss")
            for name in want:
                # Sums of terms of the size of the logits, 1e4, which may cancel: 1e4 eps per unit of sharpness.
                close(got[name], want[name], f"the gradient of {name}", atol=1e-6)


@check("7.8", weight=1)
def test_dpo_default_beta(student, oracle, rng):
    """beta is 0.1 where it is not given."""
    model, pairs = new_model(rng), draw_pairs(rng, 3, (5, 6), 1, 1)
    got = student.read(student.dpo_loss(model.build(student), *map(tensor, pairs)), ())
    close(got, oracle(preference, model, pairs, 0.1), "the loss")


@check("7.8", weight=1, tier="advanced")
def test_dpo_dtype(student, oracle, rng):
    """The loss is one number, of the dtype of the logits."""
    pairs = draw_pairs(rng, 3, (5, 6), 1, 1)
    for dtype in ("float32", "float64"):
        with at(f"a model of dtype {dtype}"):
            built = new_model(rng).build(student)
            built.to(student.build("dtype", name=dtype))
            student.read(student.dpo_loss(built, *map(tensor, pairs)), (), dtype, free=True)


@check("7.8", weight=1, tier="advanced")
def test_dpo_refuses(student, oracle, rng):
    """A beta that is not greater than 0 is a ValueError."""
    pairs = draw_pairs(rng, 2, (4, 5), 1, 1)
    for beta in (0.0, -0.1):
        with at(f"beta={beta}"):
            built = new_model(rng).build(student)
            student.raises("ValueError", act=lambda m=built, b=beta: student.dpo_loss(m, *map(tensor, pairs), beta=b))
