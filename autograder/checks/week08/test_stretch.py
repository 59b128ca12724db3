"""Checks of week 8's stretch tasks: a private average, rows for new tokens."""

from __future__ import annotations

import numpy as np

from autograder.judge.check import Handle, Session, at, check, close, equal, tensor

# --- task 8.5 ---

Update = dict[str, np.ndarray]
SHAPES: dict[str, tuple[int, ...]] = {"lora_A": (2, 3), "lora_B": (4, 2), "bias": (5,)}


def draw_updates(rng, lengths: tuple[float, ...], names: tuple[str, ...] = tuple(SHAPES)) -> list[Update]:
    """Updates of the given Euclidean norms, over all their tensors together."""
    updates = []
    for length in lengths:
        drawn = {name: rng.standard_normal(SHAPES[name]) for name in names}
        size = np.linalg.norm(np.concatenate([part.ravel() for part in drawn.values()]))
        updates.append({name: part * (length / size) for name, part in drawn.items()})
    return updates


def draw_noise(rng, names: tuple[str, ...] = tuple(SHAPES)) -> Update:
    return {name: rng.standard_normal(SHAPES[name]) for name in names}


def hand_over(lib: Session, update: Update, dtype: str = "float64") -> Handle:
    return lib.build("week08.mapping", items={name: tensor(value, dtype) for name, value in update.items()})


def parts(lib: Session, mapping: Handle, like: Update, name: str, dtype: str = "float64") -> dict[str, np.ndarray]:
    """The tensors of a dict, of the names, shapes and dtype that they should have."""
    found = lib.probe("week08.parts", mapping)
    equal(sorted(found), sorted(like), f"the list of {name}'s names")
    return {part: lib.array(found[part], f"the tensor {part!r} of {name}", value.shape, dtype) for part, value in like.items()}


def private(
    lib: Session, updates: list[Update], clip: float, multiplier: float, noise: Update, dtype: str = "float64"
) -> dict[str, np.ndarray]:
    given = [hand_over(lib, u, dtype) for u in updates]
    return parts(lib, lib.clip_and_noise(given, clip, multiplier, hand_over(lib, noise, dtype)), noise, "the average", dtype)


def compare_private(student, oracle, updates, clip, multiplier, noise, dtype: str = "float64", rtol: float = 1e-5) -> None:
    # A guard against division by zero may be added to the norm, as torch does with 1e-6; norms here are 0.1 at least.
    args = updates, clip, multiplier, noise, dtype
    got, want = private(student, *args), oracle(private, *args)
    for name in want:
        close(got[name], want[name], f"the average of {name!r}", rtol=rtol)


@check("8.5", weight=4, gate=True)
def test_clip(student, oracle, rng):
    """An update longer than clip, all its tensors together, is scaled down to that norm; a shorter one stays."""
    for lengths, names in (((5.0,), ("bias",)), ((0.5, 4.0), ("lora_A", "lora_B")), ((7.0, 0.1, 1.5, 2.5), tuple(SHAPES))):
        updates, noise = draw_updates(rng, lengths, names), draw_noise(rng, names)
        with at(f"{len(lengths)} updates of norms {list(lengths)} over {list(names)}, clip=2.0, noise_multiplier=0"):
            compare_private(student, oracle, updates, 2.0, 0.0, noise)


@check("8.5", weight=4, gate=True)
def test_noise(student, oracle, rng):
    """Noise of standard deviation noise_multiplier * clip is added to the sum, before the division by K."""
    for lengths, clip, multiplier in (((5.0,), 2.0, 0.5), ((0.5, 4.0, 2.0), 3.0, 1.5), ((1.0, 2.0, 3.0, 4.0), 0.7, 0.3)):
        updates, noise = draw_updates(rng, lengths), draw_noise(rng)
        with at(f"{len(lengths)} updates of norms {list(lengths)}, clip={clip}, noise_multiplier={multiplier}"):
            compare_private(student, oracle, updates, clip, multiplier, noise)


@check("8.5", weight=1)
def test_zero_update(student, oracle, rng):
    """An update of zeros counts as one of the K and does no harm."""
    updates, noise = [*draw_updates(rng, (3.0,)), {n: np.zeros(s) for n, s in SHAPES.items()}], draw_noise(rng)
    for multiplier in (0.0, 0.5):
        with at(f"one update of zeros, one of norm 3.0, clip=2.0, noise_multiplier={multiplier}"):
            compare_private(student, oracle, updates, 2.0, multiplier, noise)


@check("8.5", weight=1, tier="advanced")
def test_names_in_any_order(student, oracle, rng):
    """The tensors are found by their names: a client, or the noise, may list them in another order."""
    updates, noise = draw_updates(rng, (0.5, 4.0)), draw_noise(rng)
    turned = [updates[0], dict(reversed(updates[1].items()))]
    for case, args in {
        "the second client's names in another order": (turned, noise),
        "the noise's names in another order": (updates, dict(reversed(noise.items()))),
    }.items():
        with at(case):
            compare_private(student, oracle, args[0], 2.0, 0.7, args[1])


@check("8.5", weight=1, tier="advanced")
def test_private_dtype(student, oracle, rng):
    """The average has the updates' dtype."""
    updates, noise = draw_updates(rng, (0.5, 4.0)), draw_noise(rng)
    for dtype in ("float32", "bfloat16"):
        with at(f"updates of dtype {dtype}"):
            # A handful of roundings of numbers no larger than the result's largest, or a few times that.
            compare_private(student, oracle, updates, 2.0, 0.5, noise, dtype, 32 * (2**-23 if dtype == "float32" else 2**-8))


@check("8.5", weight=1, tier="advanced")
def test_updates_stay(student, oracle, rng):
    """The clients' updates and the noise do not change."""
    updates, noise = draw_updates(rng, (0.5, 4.0)), draw_noise(rng)
    handles = [hand_over(student, u) for u in (*updates, noise)]
    student.clip_and_noise(handles[:-1], 2.0, 0.7, handles[-1])
    for k, (handle, before) in enumerate(zip(handles, (*updates, noise), strict=True)):
        what = f"update {k}" if k < len(updates) else "the noise"
        for name, value in parts(student, handle, before, what).items():
            close(value, before[name], f"the tensor {name!r} of {what} afterwards", rtol=0)


@check("8.5", weight=1)
def test_private_refuses(student, oracle, rng):
    """No update, a clip that is not greater than 0 and a negative noise_multiplier are a ValueError."""
    update, noise = hand_over(student, draw_updates(rng, (3.0,))[0]), hand_over(student, draw_noise(rng))
    for case, args in {
        "no update": ([], 2.0, 0.5, noise),
        "clip=0.0": ([update], 0.0, 0.5, noise),
        "clip=-1.0": ([update], -1.0, 0.5, noise),
        "noise_multiplier=-0.5": ([update], 2.0, -0.5, noise),
    }.items():
        with at(case):
            student.raises("ValueError", act=lambda args=args: student.clip_and_noise(*args))


# --- task 8.6 ---

# V, embedding_dim, num_new, ids: old and new ones, some of them twice
TOKENS = (
    (3, 2, 1, [[0, 3, 2, 3]]),
    (4, 5, 3, [[0, 4, 1], [6, 3, 5]]),
    (6, 3, 2, [[7, 7, 6, 0, 5]]),
)


def layer(lib: Session, weight: np.ndarray, rows: np.ndarray, dtype: str = "float64") -> Handle:
    made = lib.NewTokenRows(lib.build("week08.embedding", weight=tensor(weight, dtype)), len(rows))
    lib.write(made.new_rows, rows, dtype)
    return made


def looked_up(lib: Session, weight: np.ndarray, rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
    return lib.read(layer(lib, weight, rows)(tensor(ids)), (*ids.shape, weight.shape[1]))


def scored(lib: Session, weight: np.ndarray, rows: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    return lib.read(layer(lib, weight, rows).logits(tensor(hidden)), (*hidden.shape[:-1], len(weight) + len(rows)))


def draw_rows(rng, tokens, width, new, ids) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return rng.standard_normal((tokens, width)), rng.standard_normal((new, width)), np.array(ids)


@check("8.6", weight=3, gate=True)
def test_lookup(student, oracle, rng):
    """An id below V gives base's row, id V + j gives row j of new_rows, for ids of any shape."""
    for tokens, width, new, ids in TOKENS:
        weight, rows, found = draw_rows(rng, tokens, width, new, ids)
        for shaped in (found, found[0], found[:, :, None]):
            with at(f"V={tokens}, embedding_dim={width}, num_new={new}, ids={shaped.tolist()}"):
                close(looked_up(student, weight, rows, shaped), oracle(looked_up, weight, rows, shaped), "layer(ids)")


@check("8.6", weight=3, gate=True)
def test_logits(student, oracle, rng):
    """logits are the inner products with the rows of base and, behind them, with the new rows."""
    for tokens, width, new, ids in TOKENS:
        weight, rows, _ = draw_rows(rng, tokens, width, new, ids)
        for leading in ((), (7,), (2, 3)):
            hidden = rng.standard_normal((*leading, width))
            with at(f"V={tokens}, embedding_dim={width}, num_new={new}, hidden of shape {hidden.shape}"):
                close(scored(student, weight, rows, hidden), oracle(scored, weight, rows, hidden), "layer.logits(hidden)")


def begin(lib: Session, weight: np.ndarray, new: int, dtype: str = "float64") -> tuple[dict, np.ndarray]:
    made = lib.NewTokenRows(lib.build("week08.embedding", weight=tensor(weight, dtype)), new)
    return lib.probe("week08.shapes", made), lib.read(made.new_rows, (new, weight.shape[1]), dtype)


@check("8.6", weight=2)
def test_rows_start(student, oracle, rng):
    """Only new_rows is trainable, and each new row starts as the mean of base's rows."""
    for tokens, width, new, _ in TOKENS:
        weight = rng.standard_normal((tokens, width))
        with at(f"V={tokens}, embedding_dim={width}, num_new={new}"):
            (got, rows), (want, want_rows) = begin(student, weight, new), oracle(begin, weight, new)
            equal(got, want, "the shapes of the trainable parameters")
            close(rows, want_rows, "new_rows of a new layer")


def row_gradients(lib: Session, weight, rows, ids, hidden, cotangents) -> dict[str, np.ndarray]:
    made = layer(lib, weight, rows)
    found = lib.probe("week08.row_gradients", made, tensor(ids), tensor(hidden), [tensor(c) for c in cotangents])
    gradients = {
        "new_rows by layer(ids)": lib.array(found["rows"].get("new_rows"), "the gradient of new_rows by layer(ids)", rows.shape),
        "new_rows by logits": lib.array(found["logits"].get("new_rows"), "the gradient of new_rows by logits", rows.shape),
        "hidden by logits": lib.array(found["hidden"], "the gradient of hidden", hidden.shape),
    }
    return gradients | {"others": np.array([len(found["rows"]) - 1, len(found["logits"]) - 1])}


@check("8.6", weight=2)
def test_rows_learn(student, oracle, rng):
    """Gradients reach new_rows from both sides, and hidden; the base gets none."""
    for tokens, width, new, ids in TOKENS:
        weight, rows, found = draw_rows(rng, tokens, width, new, ids)
        hidden = rng.standard_normal((4, width))
        cotangents = rng.standard_normal((*found.shape, width)), rng.standard_normal((4, tokens + new))
        with at(f"V={tokens}, embedding_dim={width}, num_new={new}, ids={ids}"):
            args = weight, rows, found, hidden, cotangents
            got, want = row_gradients(student, *args), oracle(row_gradients, *args)
            for name in want:
                what = "how many other parameters got a gradient" if name == "others" else f"the gradient of {name}"
                close(got[name], want[name], what, atol=1e-12)


@check("8.6", weight=2)
def test_state(student, oracle, rng):
    """state_to_save() holds a copy of the new rows and nothing else."""
    for tokens, width, new, ids in TOKENS[:2]:
        weight, rows, _ = draw_rows(rng, tokens, width, new, ids)
        with at(f"V={tokens}, embedding_dim={width}, num_new={new}"):
            found = student.probe("week08.saved", layer(student, weight, rows), 1.0)
            equal(found["names"], ["new_rows"], "the list of names in state_to_save()")
            state = student.array(found["state"].get("new_rows"), "what is saved as new_rows", rows.shape)
            close(state, rows, "what is saved as new_rows, after a later change of the layer", rtol=0)
            equal(found["learns"], False, "whether what is saved requires a gradient")


@check("8.6", weight=1, tier="advanced")
def test_base_stays(student, oracle, rng):
    """base is the very embedding that was passed in, and its rows are not changed."""
    weight = rng.standard_normal((4, 3))
    base = student.build("week08.embedding", weight=tensor(weight))
    made = student.NewTokenRows(base, 2)
    equal(student.probe("same", made.base, base), True, "layer.base is the embedding that was passed in")
    close(student.read(base.weight, weight.shape), weight, "base.weight", rtol=0)
    changed = rng.standard_normal(weight.shape)
    student.write(base.weight, changed)
    rows = student.read(made(tensor(np.array([1, 3]))), (2, 3))
    close(rows, changed[[1, 3]], "layer([1, 3]) after base.weight was changed", rtol=0)
    hidden, written = rng.standard_normal((7, 3)), rng.standard_normal((2, 3))
    student.write(made.new_rows, written)
    got = student.read(made.logits(tensor(hidden)), (7, 6))
    close(got, oracle(scored, changed, written, hidden), "layer.logits(hidden) after base.weight was changed")


@check("8.6", weight=1, tier="advanced")
def test_rows_dtype(student, oracle, rng):
    """new_rows and what is computed have base's dtype."""
    weight = rng.standard_normal((4, 3))
    for dtype in ("float32", "bfloat16"):
        with at(f"an embedding of dtype {dtype}"):
            made = student.NewTokenRows(student.build("week08.embedding", weight=tensor(weight, dtype)), 2)
            student.read(made.new_rows, (2, 3), dtype, free=True)
            student.read(made(tensor(np.array([1, 5]))), (2, 3), dtype, free=True)
            student.read(made.logits(tensor(weight, dtype)), (4, 6), dtype, free=True)
