"""Checks of week 6: merge error, answers, perplexity, batches for fine-tuning and one training step.

Texts, ids, logits and the models' parameters are the checks' own, drawn anew for each; the models are toys that write down
how they are called (autograder/inside/week06.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from autograder.judge.check import CheckFailed, Handle, Session, at, check, close, demand, equal, tensor

Array = np.ndarray

# --- task 6.1 ---

SHAPES = ((9,), (4, 11), (3, 5, 8))
# Updates are multiples of 2^-22, at most as large as one step of the dtype at the weights' size, 2^-5 or so: some are lost
# and some are not. Every sum fits into 20 bits, so that it is exact in whatever precision it is made.
STEPS = {"bfloat16": 2**10, "float16": 2**7}
FIGURES = ("lost", "relative_error", "max_error")


def weights_and_update(rng, shape: tuple[int, ...], dtype: str) -> tuple[Array, Array]:
    base = rng.integers(-(2**14), 2**14, shape) * 2.0**-18
    delta = rng.integers(-STEPS[dtype], STEPS[dtype] + 1, shape) * 2.0**-22
    return base, np.where(rng.random(shape) < 0.2, 0, delta)


def merged(lib: Session, base: Array, delta: Array, dtype: str, kinds: tuple[str, str] = ("float64", "float64")) -> Any:
    tensors = (tensor(array, kind) for array, kind in zip((base, delta), kinds, strict=True))
    return lib.probe("week06.numbers", lib.merge_error(*tensors, lib.build("dtype", name=dtype)))


def figure(found: Any, name: str) -> Array:
    if type(found) is not dict or type(found.get(name)) is not float:
        raise CheckFailed(f"merge_error(...) is {found}\n  expected: a dict with {', '.join(FIGURES)}, each a float")
    return np.array(found[name])


def compare_figures(student, oracle, names: tuple[str, ...], rtol: float, *args: Any) -> None:
    got, want = merged(student, *args), oracle(merged, *args)
    for name in names:
        close(figure(got, name), figure(want, name), name, rtol=rtol)


# A student's sums and norms in float32 err by a few of its eps, 1.2e-7, times sqrt(120) entries at most.
LOOSE = 1e-5


def compare_ladder(student, oracle, rng, name: str) -> None:
    for shape in SHAPES:
        for dtype in STEPS:
            with at(f"weights of shape {shape}, dtype {dtype}"):
                compare_figures(student, oracle, (name,), LOOSE, *weights_and_update(rng, shape, dtype), dtype)


@check("6.1", weight=3, gate=True)
def test_lost(student, oracle, rng):
    """ "lost" is the share of the entries with a nonzero update that merging leaves at the stored weight."""
    compare_ladder(student, oracle, rng, "lost")


@check("6.1", weight=3, gate=True)
def test_relative_error(student, oracle, rng):
    """ "relative_error" compares the change that took place with the update that was meant, in Frobenius norms."""
    compare_ladder(student, oracle, rng, "relative_error")


@check("6.1", weight=2)
def test_max_error(student, oracle, rng):
    """ "max_error" is the largest difference of a merged weight from the exact sum of stored weight and update."""
    compare_ladder(student, oracle, rng, "max_error")


@check("6.1", weight=1, tier="advanced")
def test_float32_weights(student, oracle, rng):
    """The error of merging into float32 weights is measured too: in float64, which does not round as they do."""
    for shape in SHAPES:
        for size in (1e-7, 1.0):  # an update of the weights' size is itself rounded where the sum is made in float32
            base, delta = rng.standard_normal(shape), size * rng.standard_normal(shape)
            with at(f"weights of shape {shape}, dtype float32, an update of size {size:g}"):
                compare_figures(student, oracle, FIGURES, 1e-7, base, delta, "float32")


@check("6.1", weight=1, tier="advanced")
def test_dtypes_of_the_arguments(student, oracle, rng):
    """base and delta may have dtypes of their own: a stored weight stays as it is, and delta is not rounded to its dtype."""
    for kinds in (("bfloat16", "float32"), ("float32", "float16"), ("float32", "float64")):
        base, delta = weights_and_update(rng, (4, 11), "bfloat16")
        with at(f"base of dtype {kinds[0]}, delta of dtype {kinds[1]}, merged in bfloat16"):
            compare_figures(student, oracle, FIGURES, LOOSE, base, delta, "bfloat16", kinds)


@check("6.1", weight=1)
def test_arguments_are_left(student, oracle, rng):
    """Measuring changes neither base nor delta, whether base has the dtype already or has to be rounded to it."""
    for dtype, stored in (("float64", "float64"), ("bfloat16", "bfloat16"), ("float64", "bfloat16")):
        base, delta = weights_and_update(rng, (4, 11), "bfloat16")
        if dtype == stored:
            base = np.round(base * 2**8) / 2**8  # held by bfloat16 as it is
        with at(f"base and delta of dtype {dtype}, merged in {stored}"):
            weights, update = student.build("held", value=tensor(base, dtype)), tensor(delta, "float64")
            held = student.build("held", value=update)
            student.merge_error(weights, held, student.build("dtype", name=stored))
            close(student.read(weights, base.shape, dtype), base, "base after merge_error", rtol=0)
            close(student.read(held, delta.shape), delta, "delta after merge_error", rtol=0)


@check("6.1", weight=1, tier="advanced")
def test_plain_figures(student, oracle, rng):
    """The figures are plain numbers and no tensors."""
    base, delta = weights_and_update(rng, (4, 11), "bfloat16")
    found = student.merge_error(tensor(base), tensor(delta), student.build("dtype", name="bfloat16"))
    equal(student.names_of("week06.kinds", found), ["number"], "the list of kinds of the figures")


@check("6.1", weight=1, tier="advanced")
def test_merge_error_refuses(student, oracle, rng):
    """Shapes that differ are a ValueError, also where they could be broadcast; so is an update of zeros."""
    base, delta = weights_and_update(rng, (4, 11), "bfloat16")
    delta[0, 0] = 2.0**-12
    for name, wrong in (("(11,)", delta[0]), ("(1, 11)", delta[:1]), ("(11, 4)", delta.T), ("(4, 11), all zero", 0 * delta)):
        with at(f"base of shape (4, 11), delta of shape {name}"):
            dtype = student.build("dtype", name="bfloat16")
            student.raises("ValueError", act=lambda d=wrong, t=dtype: student.merge_error(tensor(base), tensor(d), t))


# --- task 6.2 ---

WORDS = ("Ann", "tea", "theory", "An", "a", "THE", "Cat", "the", "sat", "and", "Ada", "42", "x", "other")
MARKS = ("", "", ",", ".", "!", "-", "'", "_", "$", "(", "#", "+")
SIGNS = "模型低秩适配答案是三百万元权重"
FULL_WIDTH = (
    "ＬｏＲＡ",
    "ａ",
    "Ａ",
    "４２",
    "，",
    "。",
    "？",
    "《",
    "》",
    "“",
    "”",
    "、",
    "：",
    "　",
    " the ",
    " a ",
    "\n",
    "…",
    "￥",
)


def draw_english(rng, n: int) -> str:
    """Words with punctuation at and within them, and uneven whitespace."""
    pieces = [str(rng.choice(WORDS)) + str(rng.choice(MARKS)) for _ in range(n)]
    return "".join(piece + str(rng.choice([" ", " ", "  ", "\t", "\n", ""])) for piece in pieces)


def draw_chinese(rng, n: int) -> str:
    pieces = [str(rng.choice(list(SIGNS))) if rng.random() < 0.6 else str(rng.choice(FULL_WIDTH)) for _ in range(n)]
    return "".join(pieces)


def texts_of(lib: Session, texts: list[str], lang: str) -> list[str]:
    return lib.names_of("week06.each", lib.normalize_answer, [[text, lang] for text in texts])


def scores_of(lib: Session, function: str, calls: list[list[Any]]) -> list[float]:
    found = lib.probe("week06.each", getattr(lib, function), calls)
    if type(found) is not list or any(type(score) is not float for score in found):
        raise CheckFailed(f"{function}(...) is {found}\n  expected: a number")
    return found


def compare_texts(student, oracle, texts: list[str], lang: str) -> None:
    got, want = texts_of(student, texts, lang), oracle(texts_of, texts, lang)
    for text, mine, right in zip(texts, got, want, strict=True):
        equal(mine, right, f'normalize_answer({text!r}, "{lang}")')


def compare_scores(student, oracle, function: str, calls: list[list[Any]]) -> None:
    got, want = scores_of(student, function, calls), oracle(scores_of, function, calls)
    for call, mine, right in zip(calls, got, want, strict=True):
        close(np.array(mine), np.array(right), f"{function}({', '.join(map(repr, call))})", atol=1e-12)


@check("6.2", weight=3, gate=True)
def test_normalize_english(student, oracle, rng):
    """In English, case, punctuation, articles and the amount of whitespace make no difference."""
    fixed = ["Cat", "a cat.", "The  cat", "state-of-the-art", "theory of an anthem", " Ann's tea,\tthe\nend ", "A.", "U.S.A."]
    compare_texts(student, oracle, [*fixed, *(draw_english(rng, n) for n in (1, 2, 4, 8, 8, 8))], "en")


@check("6.2", weight=2)
def test_normalize_chinese(student, oracle, rng):
    """In Chinese, full-width forms, punctuation and all whitespace make no difference, and no word is deleted."""
    fixed = ["模型", "《模型》。", "低 秩　适配", "ＬｏＲＡ，是 a 模型！", "the 答案"]
    compare_texts(student, oracle, [*fixed, *(draw_chinese(rng, n) for n in (2, 4, 8, 16, 16))], "zh")


@check("6.2", weight=1, tier="advanced")
def test_order_of_the_steps(student, oracle, rng):
    """NFKC, lower case, punctuation, articles: in this order, in both languages."""
    compare_texts(
        student, oracle, ["ＴＨＥ cat", "A-n apple", "(the) cat", "“The” cat—sat", "5 ㎏ of Ｔ", "20℃", "+1 £3 a"], "en"
    )
    compare_texts(student, oracle, ["３㎏", "２０℃ ①", "Ａ　Ｂ＋Ｃ", "A-n ＴＨＥ"], "zh")


@check("6.2", weight=1, tier="advanced")
def test_all_of_unicode(student, oracle, rng):
    """Letters and symbols of all of Unicode are treated by the same rules, and nothing but whitespace ends a word."""
    # Accents are composed, an sharp s stays, a soft hyphen is no whitespace, and some symbols lie beyond 0xFFFF.
    texts = ["Caf\u00e9", "Cafe\u0301", "Stra\u00dfe", "the\u00adory", "tea \U0001f600", "\U0001d41a cat", "\ud55c\uad6d"]
    for lang in ("en", "zh"):
        compare_texts(student, oracle, texts, lang)


@check("6.2", weight=3, gate=True)
def test_exact_match(student, oracle, rng):
    """exact_match is 1 where the normalised prediction is a normalised reference, and 0 otherwise."""
    calls: list[list[Any]] = [
        ["cat", ["cat"]],
        ["cat", ["dog"]],
        ["The cat!", ["a  cat"]],
        ["cat", ["cat sat"]],
        ["cats", ["cat"]],
    ]
    for n in (2, 4, 6):
        words = [str(word) for word in rng.choice(WORDS, n)]
        calls += [[" ".join(words), [f"The {'  '.join(words).upper()}."]], [" ".join(words), [" ".join([*words, "tea"])]]]
    compare_scores(student, oracle, "exact_match", calls)


@check("6.2", weight=3, gate=True)
def test_token_f1(student, oracle, rng):
    """token_f1 is the harmonic mean of precision and recall of shared words, each counted as often as both have it."""
    calls: list[list[Any]] = [
        ["cat", ["cat"]], ["cat", ["dog"]], ["cat sat", ["cat"]], ["cat", ["the cat sat there"]], ["x x x", ["x"]],
        ["x x y", ["x y y y"]], ["sat cat", ["cat, sat"]], ["cats", ["cat"]],
    ]  # fmt: skip
    for n, m in ((3, 5), (6, 4), (9, 9)):
        few = rng.choice(WORDS, 4, replace=False)  # so that there are repetitions
        calls.append([" ".join(rng.choice(few, n)), [" ".join(rng.choice(few, m))]])
    compare_scores(student, oracle, "token_f1", calls)


@check("6.2", weight=2)
def test_chinese_scores(student, oracle, rng):
    """In Chinese each character of the normalised answer is a token, for F1, and exact_match normalises as Chinese too."""
    calls: list[list[Any]] = [
        ["模型", ["模型。"], "zh"],
        ["低秩模型", ["低秩适配"], "zh"],
        ["a 模型", ["模型"], "zh"],
        ["ＡＢ 型", ["ab型"], "zh"],
        ["低秩适配", ["低 秩\n适配"], "zh"],
        ["a模型", ["a 模型"], "zh"],
    ]
    calls += [[draw_chinese(rng, n), [draw_chinese(rng, m)], "zh"] for n, m in ((4, 6), (12, 9))]
    compare_scores(student, oracle, "token_f1", calls)
    compare_scores(student, oracle, "exact_match", calls)


@check("6.2", weight=2)
def test_best_reference(student, oracle, rng):
    """Among several references the best one counts."""
    answers = ["the red cat", "a cat", "cat that sat", "dog"]
    calls: list[list[Any]] = [["cat", answers], ["dog", answers], ["red cat sat", answers], ["red dog", [*answers, "fish"]]]
    compare_scores(student, oracle, "exact_match", calls)
    compare_scores(student, oracle, "token_f1", calls)


@check("6.2", weight=1, tier="advanced")
def test_empty_answers(student, oracle, rng):
    """Answers without tokens match each other and nothing else."""
    compare_texts(student, oracle, ["", " ", "The", "...", "a an the"], "en")
    for lang in ("en", "zh"):
        calls: list[list[Any]] = [["", ["cat"], lang], ["cat", [""], lang], ["?!", ["..."], lang], ["", ["cat", "!"], lang]]
        compare_scores(student, oracle, "exact_match", calls)
        compare_scores(student, oracle, "token_f1", calls)


@check("6.2", weight=1, tier="advanced")
def test_answers_refuse(student, oracle, rng):
    """An unknown language, or no reference at all, is a ValueError."""
    for lang in ("fr", "EN", "", "en-US"):
        with at(f"lang={lang!r}"):
            student.raises("ValueError", act=lambda name=lang: student.normalize_answer("cat", name))
            student.raises("ValueError", act=lambda name=lang: student.normalize_answer("", name))
            student.raises("ValueError", act=lambda name=lang: student.exact_match("cat", ["cat"], name))
            student.raises("ValueError", act=lambda name=lang: student.token_f1("cat", ["cat"], name))
    with at("no reference"):
        student.raises("ValueError", act=lambda: student.exact_match("cat", []))
        student.raises("ValueError", act=lambda: student.token_f1("cat", []))


# --- task 6.3 ---

Pair = tuple[Array, Array]


def draw_pair(rng, rows: int, length: int, vocabulary: int, keep: float = 0.6, scale: float = 1.0) -> Pair:
    """Logits and labels, of which a share `keep` is to be predicted and the last of each row is; also at position 0."""
    labels = rng.integers(0, vocabulary, (rows, length))
    masked = rng.random((rows, length)) >= keep
    masked[:, -1] = False
    return scale * rng.standard_normal((rows, length, vocabulary)), np.where(masked, -100, labels)


def perplexed(lib: Session, pairs: list[Pair], dtype: str = "float64", once: bool = False) -> float:
    batches = [(tensor(logits, dtype), tensor(labels)) for logits, labels in pairs]
    return lib.number(lib.perplexity(lib.build("week06.once" if once else "week06.batches", items=batches)))


def compare_perplexity(student, oracle, pairs: list[Pair], rtol: float = 1e-9, **how: Any) -> None:
    want = oracle(perplexed, pairs, *([how["dtype"]] if "dtype" in how else []))
    close(np.array(perplexed(student, pairs, **how)), np.array(want), "the perplexity", rtol=rtol)


@check("6.3", weight=4, gate=True)
def test_perplexity(student, oracle, rng):
    """It is exp of the mean negative log-likelihood of the labelled tokens, each predicted by the logits before it."""
    for rows, length, vocabulary in ((1, 2, 3), (1, 5, 4), (2, 7, 5), (4, 6, 9)):
        with at(f"one batch, logits of shape {(rows, length, vocabulary)}"):
            compare_perplexity(student, oracle, [draw_pair(rng, rows, length, vocabulary)])


@check("6.3", weight=3)
def test_batching(student, oracle, rng):
    """Tokens count equally, however they are put into batches and padded: three batches are worth the one of all."""
    logits, labels = draw_pair(rng, 6, 8, 5, scale=3.0)
    lengths = (3, 8, 5, 4, 2, 7)
    for row, length in enumerate(lengths):
        labels[row, length:] = -100
    labels[0, 1:3] = 1, 2
    want = oracle(perplexed, [(logits, labels)])
    for cuts in ((1, 3), (4, 5), (1, 2)):
        parts = [slice(0, cuts[0]), slice(*cuts), slice(cuts[1], 6)]
        pairs = [(logits[p, : max(lengths[p])], labels[p, : max(lengths[p])]) for p in parts]
        with at(f"six texts of {lengths} tokens in batches of {[len(pair[1]) for pair in pairs]}"):
            close(np.array(perplexed(student, pairs)), np.array(want), "the perplexity")


@check("6.3", weight=1)
def test_ignorance(student, oracle, rng):
    """A model whose predictions are all alike has the perplexity of its vocabulary's size."""
    for vocabulary in (2, 3, 11):
        _, labels = draw_pair(rng, 3, 6, vocabulary)
        with at(f"equal logits for each of {vocabulary} tokens"):
            compare_perplexity(student, oracle, [(np.full((*labels.shape, vocabulary), 0.5), labels)])


@check("6.3", weight=1)
def test_nothing_in_a_batch(student, oracle, rng):
    """A batch, or a row, without anything to predict adds nothing; a label at position 0 is none."""
    logits, labels = draw_pair(rng, 3, 4, 5)
    labels[1] = -100
    pairs = [
        (logits, labels),
        (logits[:2], np.full((2, 4), -100)),
        (logits[1:, :1], np.array([[3], [2]])),
        draw_pair(rng, 2, 3, 5),
    ]
    with at("four batches, the second and the third without a label behind position 0"):
        compare_perplexity(student, oracle, pairs)


@check("6.3", weight=1, tier="advanced")
def test_large_logits(student, oracle, rng):
    """Logits of any size work: the exponential of one alone would overflow."""
    for shift in (1e3, -1e3):
        logits, labels = draw_pair(rng, 2, 5, 4)
        with at(f"logits around {shift:g}"):
            compare_perplexity(student, oracle, [(logits + shift, labels)])
    logits, labels = draw_pair(rng, 2, 8, 4, keep=1.0)
    logits[0, 2, labels[0, 3]] -= 1e3  # of probability 0 in any precision, but its logarithm is finite
    with at("a label whose logit is 1000 below the others"):
        compare_perplexity(student, oracle, [(logits, labels)])


def strided(lib: Session, logits: Array, labels: Array) -> float:
    return lib.number(lib.perplexity([tuple(lib.build("column_major", value=tensor(array)) for array in (logits, labels))]))


@check("6.3", weight=1, tier="advanced")
def test_strided_logits(student, oracle, rng):
    """Logits and labels may be views whose elements do not lie row after row in memory."""
    pair = draw_pair(rng, 3, 6, 5)
    with at("transposed views of logits of shape (3, 6, 5) and of their labels"):
        close(np.array(strided(student, *pair)), np.array(oracle(strided, *pair)), "the perplexity")


@check("6.3", weight=1, tier="advanced")
def test_plain_perplexities(student, oracle, rng):
    """Both perplexities are plain numbers and no tensors."""
    pairs = [tuple(tensor(array) for array in draw_pair(rng, 2, 4, 5))]
    model = student.build("week06.language_model", seed=0, vocabulary=7, width=3, memory=2)
    with student.aside():
        found = [student.perplexity(pairs), student.sliding_window_perplexity(model, tensor(rng.integers(0, 7, 9)), 4, 2)]
        kinds = [student.names_of("week06.kinds", value) for value in found]
    student.note(kinds)
    equal(kinds, [["number"], ["number"]], "the kinds of the two results")


@check("6.3", weight=1, tier="advanced")
def test_half_precision(student, oracle, rng):
    """Logits in half precision are converted to float32 first."""
    for dtype in ("bfloat16", "float16"):
        logits, labels = draw_pair(rng, 3, 6, 7, scale=2.0)
        with at(f"logits of dtype {dtype}"):
            # float32: a few eps, 1.2e-7, on log-likelihoods of about 10; half precision would err by 1e-3.
            compare_perplexity(student, oracle, [(np.round(8 * logits) / 8, labels)], rtol=1e-5, dtype=dtype)


@check("6.3", weight=1, tier="advanced")
def test_batches_read_once(student, oracle, rng):
    """The batches may come from an iterator, which can be read only once."""
    pairs = [draw_pair(rng, 2, 4, 5), draw_pair(rng, 3, 6, 5)]
    compare_perplexity(student, oracle, pairs, once=True)


def slid(lib: Session, seed: int, memory: int, ids: Array, window: int, stride: int) -> tuple[float, Any]:
    """The perplexity with a sliding window, and how the model was called."""
    model = lib.build("week06.language_model", seed=seed, vocabulary=7, width=3, memory=memory)
    result = lib.number(lib.sliding_window_perplexity(model, tensor(ids), window, stride))
    return result, lib.probe("week06.watched", model)["seen"]


def compare_windows(student, oracle, rng, memory: int, cases: tuple[tuple[int, int, int], ...]) -> None:
    for n, window, stride in cases:
        seed, ids = int(rng.integers(2**31)), rng.integers(0, 7, n)
        with at(f"a text of {n} tokens, window={window}, stride={stride}"):
            with student.aside():
                got, _ = slid(student, seed, memory, ids, window, stride)
            student.note(got)
            close(np.array(got), np.array(oracle(slid, seed, memory, ids, window, stride)[0]), "the perplexity")


@check("6.3", weight=4, gate=True)
def test_sliding_window(student, oracle, rng):
    """Windows begin every `stride` tokens, and each token is scored once, in the first window that contains it."""
    compare_windows(student, oracle, rng, 8, ((5, 3, 1), (7, 4, 2), (9, 5, 4), (12, 6, 4), (23, 8, 3)))


@check("6.3", weight=2)
def test_ends_of_the_text(student, oracle, rng):
    """A text shorter than the window is one window, and the last window ends where the text ends."""
    compare_windows(student, oracle, rng, 8, ((2, 5, 3), (4, 5, 1), (5, 5, 2), (6, 5, 3), (7, 4, 3), (10, 4, 3), (11, 6, 5)))


@check("6.3", weight=1)
def test_bounded_context(student, oracle, rng):
    """For a model that looks at the last two tokens only, any two strides agree whose windows overlap by two or more."""
    seed, ids = int(rng.integers(2**31)), rng.integers(0, 7, 17)
    want = oracle(slid, seed, 2, ids, 20, 1)[0]
    for window, stride in ((5, 1), (5, 3), (8, 5), (8, 6)):
        with at(f"17 tokens, window={window}, stride={stride}, a context of two tokens"):
            close(np.array(slid(student, seed, 2, ids, window, stride)[0]), np.array(want), "the perplexity")


@check("6.3", weight=1)
def test_calls_of_the_model(student, oracle, rng):
    """The model gets at most `window` tokens at once, in its own mode, and records no gradients; others do afterwards."""
    with at("a text of 11 tokens, window=5, stride=3"), student.aside():
        _, seen = slid(student, 3, 4, rng.integers(0, 7, 11), 5, 3)
        enabled = student.probe("week06.grad_enabled")
    longest, grads = max(call["length"] for call in seen), any(call["grad"] for call in seen)
    evaluating = not all(call["training"] for call in seen)
    student.note([longest, grads, evaluating, enabled])
    demand(longest <= 5, f"the model got {longest} tokens at once\n  expected: 5 at most, the window")
    demand(not grads, "the model was called with gradients recorded\n  expected: under torch.no_grad()")
    demand(not evaluating, "the model was put into evaluation mode\n  expected: the mode that the caller set")
    demand(enabled, "gradients are switched off after the call\n  expected: enabled again, as they were before")


@check("6.3", weight=1)
def test_texts_are_left(student, oracle, rng):
    """Neither logits nor labels nor the text are changed."""
    logits, labels = draw_pair(rng, 2, 6, 5)
    ids = rng.integers(0, 7, 9)
    held = [student.build("held", value=tensor(array)) for array in (logits, labels, ids)]
    student.perplexity([(held[0], held[1])])
    model = student.build("week06.language_model", seed=0, vocabulary=7, width=3, memory=2)
    student.sliding_window_perplexity(model, held[2], 4, 2)
    for handle, array, name in zip(held, (logits, labels, ids), ("the logits", "the labels", "input_ids"), strict=True):
        close(student.read(handle, array.shape, array.dtype.name), array, f"{name} afterwards", rtol=0)


@check("6.3", weight=1, tier="advanced")
def test_perplexity_refuses(student, oracle, rng):
    """Nothing to predict, also in a text of fewer than 2 tokens, is a ValueError."""
    logits, labels = draw_pair(rng, 2, 3, 5)
    labels[:, 1:] = -100
    labels[:, 0] = 1
    for pairs in ([(logits, labels)], []):
        with at(f"{len(pairs)} batches, in which nothing is to be predicted"):
            batches = student.build("week06.batches", items=[(tensor(x), tensor(y)) for x, y in pairs])
            student.raises("ValueError", act=lambda b=batches: student.perplexity(b))
    for n in (1, 0):
        refuses_windows(student, n, 4, 2)


@check("6.3", weight=1, tier="advanced")
def test_overlap_refuses(student, oracle, rng):
    """A stride as long as the window, or longer, is a ValueError."""
    for stride in (4, 5):
        refuses_windows(student, 9, 4, stride)


@check("6.3", weight=1, tier="advanced")
def test_stride_refuses(student, oracle, rng):
    """A stride of less than 1 is a ValueError."""
    for stride in (-1, 0):
        refuses_windows(student, 9, 4, stride)


def refuses_windows(student: Session, n: int, window: int, stride: int) -> None:
    with at(f"a text of {n} tokens, window={window}, stride={stride}"):
        model = student.build("week06.language_model", seed=0, vocabulary=7, width=3)
        ids = tensor(np.arange(n) % 7)
        student.raises("ValueError", act=lambda: student.sliding_window_perplexity(model, ids, window, stride))


# --- task 6.4 ---

Dialogue = list[dict[str, str]]
EOS, PAD = 3, 5


def draw_dialogue(rng, roles: str) -> Dialogue:
    """Messages of drawn words; the roles by their first letters."""
    names = {"s": "system", "u": "user", "a": "assistant"}
    lines = [[" ".join(rng.choice(WORDS, rng.integers(1, 4))) for _ in range(rng.integers(1, 3))] for _ in roles]
    return [{"role": names[role], "content": "\n".join(line)} for role, line in zip(roles, lines, strict=True)]


def collated(lib: Session, dialogues: list[Dialogue], eos: int = EOS, pad: int = PAD, max_length: int | None = None) -> Any:
    tokenizer = lib.build("week06.tokenizer", eos=eos, pad=pad)
    # Without a limit the argument is left out, as it may be.
    limit = {} if max_length is None else {"max_length": max_length}
    return lib.probe("week06.batch", lib.sft_collate(dialogues, tokenizer, **limit))


def compare_batches(student, oracle, names: tuple[str, ...], *args: Any) -> None:
    got, want = collated(student, *args), oracle(collated, *args)
    for name in names:
        right = want[name].data
        close(student.array(got[name], f'batch["{name}"]', right.shape, "int64"), right, f'batch["{name}"]', rtol=0)


def rung(dialogues: list[Dialogue]) -> str:
    return f"dialogues with the roles {[[message['role'] for message in dialogue] for dialogue in dialogues]}"


TURNS = (("a",), ("aua",), ("sua", "a"), ("ua", "suaua", "uaa"), ("auau", "su" + "ua" * 3))


@check("6.4", weight=3, gate=True)
def test_ids_and_mask(student, oracle, rng):
    """Rows hold the chat template's ids with an end-of-sequence token after each message, and are filled up at the right."""
    for turns in TURNS:
        dialogues = [draw_dialogue(rng, roles) for roles in turns]
        with at(rung(dialogues)):
            compare_batches(student, oracle, ("input_ids", "attention_mask"), dialogues)


@check("6.4", weight=3, gate=True)
def test_labels(student, oracle, rng):
    """Labels are the assistant's contents, in every turn, with the end-of-sequence token behind each; all else is -100."""
    for turns in TURNS:
        dialogues = [draw_dialogue(rng, roles) for roles in turns]
        with at(rung(dialogues)):
            compare_batches(student, oracle, ("labels",), dialogues)


@check("6.4", weight=2)
def test_padding_with_eos(student, oracle, rng):
    """Where the padding token is the end-of-sequence token, the true one is still attended to and learned, the padding not."""
    for turns in TURNS[1:]:
        dialogues = [draw_dialogue(rng, roles) for roles in turns]
        with at(f"pad_token_id = eos_token_id, {rung(dialogues)}"):
            compare_batches(student, oracle, ("input_ids", "attention_mask", "labels"), dialogues, EOS, EOS)


@check("6.4", weight=1)
def test_contents_as_they_are(student, oracle, rng):
    """A content is encoded by itself and as it is: with its whitespace, line breaks at its ends, and also when it is empty."""
    for content in ("\n\nhi", " hi \n", "", "\n", "一二\n三"):
        dialogues = [[{"role": "user", "content": content}, {"role": "assistant", "content": content}]]
        with at(f"both contents {content!r}"):
            compare_batches(student, oracle, ("input_ids", "labels"), dialogues)


@check("6.4", weight=1)
def test_max_length(student, oracle, rng):
    """A row that is too long is cut at its end, labels and all, with nothing put behind the cut."""
    for limit in (1, 13, 30, 10_000):
        dialogues = [draw_dialogue(rng, roles) for roles in ("ua", "suaua", "a")]
        with at(f"max_length={limit}, {rung(dialogues)}"):
            compare_batches(student, oracle, ("input_ids", "attention_mask", "labels"), dialogues, EOS, PAD, limit)
    dialogues = [draw_dialogue(rng, roles) for roles in ("ua", "suaua")]
    longest = oracle(collated, dialogues)["input_ids"].data.shape[1]
    for limit in (longest - 1, longest):
        with at(f"max_length={limit}, {rung(dialogues)}"):
            compare_batches(student, oracle, ("input_ids", "attention_mask", "labels"), dialogues, EOS, PAD, limit)


@check("6.4", weight=1)
def test_roles_in_any_order(student, oracle, rng):
    """The roles come in any order: a system message in the middle, an answer first, two questions in a row."""
    for roles in ("usa", "asu", "uuaa", "aasau"):
        dialogues = [draw_dialogue(rng, roles)]
        with at(rung(dialogues)):
            compare_batches(student, oracle, ("input_ids", "attention_mask", "labels"), dialogues)


@check("6.4", weight=1, tier="advanced")
def test_collate_refuses(student, oracle, rng):
    """An unknown role, or a dialogue without an assistant message, is a ValueError."""
    for roles in (("user", "Assistant"), ("tool", "assistant"), ("user",), ("system", "user")):
        with at(f"a right dialogue, and one with the roles {list(roles)}"):
            tokenizer = student.build("week06.tokenizer", eos=EOS, pad=PAD)
            dialogues = [draw_dialogue(rng, "ua"), [{"role": role, "content": "hi"} for role in roles]]
            student.raises("ValueError", act=lambda d=dialogues, t=tokenizer: student.sft_collate(d, t))


VOCABULARY, WIDTH, MEMORY = 7, 3, 2


def draw_batch(rng, rows: int, length: int, keep: float = 0.6, left: int = 0) -> dict[str, Array]:
    """A micro-batch; `left` positions of its last row are padding."""
    ids, mask = rng.integers(0, VOCABULARY, (rows, length)), np.ones((rows, length), np.int64)
    _, labels = draw_pair(rng, rows, length, VOCABULARY, keep)
    labels[labels != -100] = ids[labels != -100]
    mask[-1, :left] = 0
    labels[-1, :left] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def one_batch(batches: list[dict[str, Array]]) -> dict[str, Array]:
    """The rows of all micro-batches in one, filled up at the right."""
    width = max(batch["labels"].shape[1] for batch in batches)
    filling = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    return {
        name: np.concatenate([np.pad(b[name], ((0, 0), (0, width - b[name].shape[1])), constant_values=fill) for b in batches])
        for name, fill in filling.items()
    }


def given(lib: Session, batches: list[dict[str, Array]]) -> Handle:
    return lib.build("week06.batches", items=[{name: tensor(array) for name, array in batch.items()} for batch in batches])


def trained(lib: Session, seed: int, batches: list[dict[str, Array]], **how: Any) -> dict[str, Any]:
    """A step of gradient descent: the loss, the parameters after it, how the model was called, and the scaler's scale.

    Of `how`: dtype of the model, autocast, scale (the scaler's first), norm (the largest allowed), stale (a value that all
    gradients have before), overflow (a gradient is infinite), evaluating (the model's mode), groups (of the optimizer).
    """
    options = {"vocabulary": VOCABULARY, "width": WIDTH, "memory": MEMORY, "dtype": how.get("dtype", "float64")}
    model = lib.build("week06.language_model", seed=seed, overflow=how.get("overflow", False), **options)
    if how.get("evaluating"):
        model.eval()
    # With momentum an optimizer remembers what a second step, or one on other gradients, would show.
    optimizer = lib.build("week06.optimizer", model=model, lr=0.5, momentum=0.9, groups=how.get("groups", 1))
    arguments: dict[str, Any] = {}
    if "autocast" in how:
        arguments["autocast_dtype"] = lib.build("dtype", name=how["autocast"])
    if "scale" in how:
        arguments["scaler"] = lib.build("week06.scaler", init_scale=how["scale"])
    if "norm" in how:
        arguments["max_grad_norm"] = how["norm"]
    if "stale" in how:
        lib.build("week06.stale", model=model, value=how["stale"])
    inputs = given(lib, batches)
    loss = lib.number(lib.train_step(model, inputs, optimizer, **arguments))
    after = lib.probe("week06.parameters", model)
    shapes = {f"embed.{i}.weight": (VOCABULARY, WIDTH) for i in range(MEMORY)}
    shapes |= {"head.weight": (VOCABULARY, WIDTH), "head.bias": (VOCABULARY,)}
    arrays = {n: lib.array(after.get(n), f"{n} after the step", s, options["dtype"]) for n, s in shapes.items()}
    scale = lib.probe("week06.scale_of", arguments["scaler"]) if "scale" in how else 1.0
    return {"loss": loss, "parameters": arrays, "watched": lib.probe("week06.watched", model), "scale": scale}


def same_step(got: dict[str, Any], want: dict[str, Any], rtol: float = 1e-9) -> None:
    close(np.array(got["loss"]), np.array(want["loss"]), "the loss that train_step returns", rtol=rtol)
    for name, right in want["parameters"].items():
        close(got["parameters"][name], right, f"{name} after the step", rtol=rtol)


def step(student: Session, *args: Any, **how: Any) -> dict[str, Any]:
    """As `trained`, with the loss and the parameters as the only evidence: how often a model is called may be the student's."""
    with student.aside():
        result = trained(student, *args, **how)
    student.note([result["loss"], result["parameters"], result["scale"]])
    return result


def told(oracle, seed: int, batches: list[dict[str, Array]], how: dict[str, Any]) -> dict[str, Any]:
    return dict(oracle(trained_with, seed, batches, how))


def trained_with(lib: Session, seed: int, batches: list[dict[str, Array]], how: dict[str, Any]) -> dict[str, Any]:
    return trained(lib, seed, batches, **how)


@check("6.4", weight=3, gate=True)
def test_step(student, oracle, rng):
    """A step on one micro-batch returns its mean loss per predicted token and moves the parameters by its gradient."""
    for rows, length in ((1, 2), (1, 6), (3, 5)):
        seed, batches = int(rng.integers(2**31)), [draw_batch(rng, rows, length)]
        with at(f"a micro-batch of {rows} rows of {length} tokens"):
            same_step(step(student, seed, batches), told(oracle, seed, batches, {}))


def uneven(rng) -> list[dict[str, Array]]:
    """Three micro-batches with very different numbers of labels."""
    return [draw_batch(rng, 1, 4, keep=0.1), draw_batch(rng, 4, 7, keep=1.0), draw_batch(rng, 2, 5, keep=0.3)]


def even(rng, left: int = 0) -> list[dict[str, Array]]:
    """Three micro-batches of four tokens to predict each, so that wrong weights show in the check of accumulation alone."""
    batches = [draw_batch(rng, rows, length, keep=0.0, left=left) for rows, length in ((1, 6), (4, 7), (2, 5))]
    for batch in batches:
        ids, labels = batch["input_ids"], batch["labels"]
        labels[:] = -100
        places = np.argwhere(np.arange(labels.size).reshape(labels.shape) % labels.shape[1] >= 1 + left)
        rows, columns = places[rng.permutation(len(places))[:4]].T
        labels[rows, columns] = ids[rows, columns]
    return batches


@check("6.4", weight=3, gate=True)
def test_accumulation(student, oracle, rng):
    """A step on several micro-batches is the step on the one large batch: every token counts equally."""
    seed, batches = int(rng.integers(2**31)), uneven(rng)
    for some in (batches[:2], batches):
        with at(f"micro-batches of {[int((b['labels'][:, 1:] != -100).sum()) for b in some]} tokens to predict"):
            same_step(step(student, seed, some), told(oracle, seed, [one_batch(some)], {}))


@check("6.4", weight=1)
def test_one_graph_at_a_time(student, oracle, rng):
    """Each micro-batch is back-propagated, and its graph freed, before the next one is computed."""
    with student.aside():
        watched = trained(student, 1, even(rng))["watched"]
    events, graphs = watched["events"], max(call["graphs"] for call in watched["seen"])
    student.note([events, graphs])
    equal(events, ["forward", "backward"] * 3, "the list of the model's passes, with three micro-batches,")
    demand(graphs == 0, f"{graphs} earlier graphs were in memory still when the model was called\n  expected: 0")


@check("6.4", weight=1)
def test_old_gradients(student, oracle, rng):
    """Gradients from before the step do not count."""
    seed, batches = int(rng.integers(2**31)), even(rng)
    with at("gradients of 3 left on all parameters"):
        same_step(step(student, seed, batches, stale=3.0), told(oracle, seed, batches, {}))


@check("6.4", weight=1)
def test_attention_mask(student, oracle, rng):
    """The model gets the attention mask: padding at the left is not looked at."""
    seed, batches = int(rng.integers(2**31)), even(rng, left=1)
    for batch in batches:  # right behind the padding, which the model would see
        batch["labels"][-1] = np.where(np.arange(batch["labels"].shape[1]) == 2, batch["input_ids"][-1], batch["labels"][-1])
    with at("rows that begin with padding"):
        same_step(step(student, seed, batches[1:2]), told(oracle, seed, batches[1:2], {}))


@check("6.4", weight=1)
def test_nothing_in_a_micro_batch(student, oracle, rng):
    """A micro-batch without anything to predict adds nothing, and a label at position 0 is none."""
    seed, batches = int(rng.integers(2**31)), even(rng)
    batches[1]["labels"][:, 1:] = -100
    batches[1]["labels"][:, 0] = batches[1]["input_ids"][:, 0]
    with at("three micro-batches, the second with labels at position 0 only"):
        same_step(step(student, seed, batches), told(oracle, seed, batches, {}))


@check("6.4", weight=2)
def test_autocast(student, oracle, rng):
    """The forward runs under autocast with the dtype that was given; loss and parameters stay in float32."""
    for dtype in ("bfloat16", "float16"):
        seed, batches = int(rng.integers(2**31)), even(rng)
        how = {"dtype": "float32", "autocast": dtype}
        with at(f"a float32 model, autocast_dtype={dtype}"):
            with student.aside():
                got = trained(student, seed, batches, **how)
            used = sorted({call["autocast"] for call in got["watched"]["seen"]})
            student.note([used, got["loss"]])
            equal(used, [dtype], "the list of dtypes under autocast in the model's forward")
            # The logits are exact in half precision. In float32 the loss errs by a few eps, 1.2e-7; in half by 1e-3.
            want = told(oracle, seed, batches, how)
            close(np.array(got["loss"]), np.array(want["loss"]), "the loss that train_step returns", rtol=1e-5)
            # Gradients pass through half precision: each of some 30 terms errs by 2^-8, and momentum is not used yet.
            for name, right in want["parameters"].items():
                close(got["parameters"][name], right, f"{name} after the step", rtol=0.02)


@check("6.4", weight=1)
def test_no_autocast(student, oracle, rng):
    """Without autocast_dtype there is no autocast, and the model's mode stays as it was."""
    for evaluating in (False, True):
        with at("a model in evaluation mode" if evaluating else "a model in training mode"):
            with student.aside():
                seen = trained(student, 1, even(rng), dtype="float32", evaluating=evaluating)["watched"]["seen"]
            modes = sorted({f"autocast={call['autocast']}; training={call['training']}" for call in seen})
            student.note(modes)
            equal(modes, [f"autocast=off; training={not evaluating}"], "the list of modes of the model's forward")


@check("6.4", weight=2)
def test_scaler(student, oracle, rng):
    """With a scaler the step is the same, the returned loss too, and the scale is updated once."""
    for scale in (8.0, 2.0**16):
        seed, batches = int(rng.integers(2**31)), even(rng)
        with at(f"a scaler that begins with {scale:g} and doubles at each update"):
            got, want = step(student, seed, batches, scale=scale), told(oracle, seed, batches, {"scale": scale})
            same_step(got, want)
            equal(got["scale"], want["scale"], "the scale after the step")


@check("6.4", weight=1)
def test_overflow(student, oracle, rng):
    """If a gradient is not finite, the scaler leaves the step out and lowers its scale."""
    seed, batches = int(rng.integers(2**31)), even(rng)
    for how in ({"scale": 8.0, "overflow": True}, {"scale": 8.0, "overflow": True, "norm": 0.01}):
        with at(f"an infinite gradient, {'clipping' if 'norm' in how else 'no clipping'}"):
            got, want = step(student, seed, batches, **how), told(oracle, seed, batches, how)
            same_step(got, want)
            equal(got["scale"], want["scale"], "the scale after the step")


@check("6.4", weight=2)
def test_clipping(student, oracle, rng):
    """The gradients of all micro-batches together are clipped once, after they were unscaled."""
    seed, batches = int(rng.integers(2**31)), even(rng)
    for how in ({"norm": 0.01}, {"norm": 1e3}, {"norm": 0.01, "scale": 2.0**10}, {"norm": 0.01, "groups": 2}, {"norm": 0.0}):
        scaled = f", a scaler that begins with {how['scale']:g}" if "scale" in how else ""
        grouped = ", an optimizer with two groups of parameters" if "groups" in how else ""
        with at(f"max_grad_norm={how['norm']:g}{scaled}{grouped}"):
            got, want = step(student, seed, batches, **how), told(oracle, seed, batches, how)
            # clip_grad_norm_ adds 1e-6 to the norm before it divides, others do not: 1e-6 of a gradient of about 1.
            same_step(got, want, rtol=1e-5 if how["norm"] < 1 else 1e-9)


@check("6.4", weight=1)
def test_dialogues_and_batches_are_left(student, oracle, rng):
    """Neither the dialogues nor the micro-batches are changed, and train_step returns a number, no tensor."""
    dialogues = [draw_dialogue(rng, roles) for roles in ("ua", "suaua")]
    held = student.build("held", value=dialogues)
    student.sft_collate(held, student.build("week06.tokenizer", eos=EOS, pad=PAD), 9)
    equal(student.probe("week06.plain", held), dialogues, "the dialogues after sft_collate")
    batch = draw_batch(rng, 3, 5)
    held = student.build("held", value={name: tensor(array) for name, array in batch.items()})
    model = student.build("week06.language_model", seed=0, vocabulary=VOCABULARY, width=WIDTH, memory=MEMORY)
    loss = student.train_step(model, [held], student.build("week06.optimizer", model=model, lr=0.5))
    equal(student.names_of("week06.kinds", loss), ["number"], "the list of kinds of what train_step returns")
    left = student.probe("week06.plain", held)
    equal(sorted(left), sorted(batch), "the list of names in the micro-batch after train_step")
    for name, array in batch.items():
        close(student.array(left[name], f'batch["{name}"]', array.shape, "int64"), array, f'batch["{name}"] after it', rtol=0)


@check("6.4", weight=1, tier="advanced")
def test_step_refuses(student, oracle, rng):
    """Nothing to predict in all micro-batches is a ValueError, and no parameter or gradient has changed."""
    batches = uneven(rng)
    for batch in batches:
        batch["labels"][:, 1:] = -100
    for some in (batches[:1], batches):
        with at(f"{len(some)} micro-batches without a label behind position 0"):
            model = student.build("week06.language_model", seed=0, vocabulary=VOCABULARY, width=WIDTH, memory=MEMORY)
            optimizer = student.build("week06.optimizer", model=model, lr=0.5)
            before = student.read(model.head.weight, (VOCABULARY, WIDTH))
            student.build("week06.stale", model=model, value=3.0)
            gradient = student.read(model.head.weight.grad, (VOCABULARY, WIDTH))
            inputs = given(student, some)
            student.raises("ValueError", act=lambda a=(model, inputs, optimizer): student.train_step(*a))
            close(student.read(model.head.weight, (VOCABULARY, WIDTH)), before, "head.weight after the error", rtol=0)
            left = student.read(model.head.weight.grad, (VOCABULARY, WIDTH))
            close(left, gradient, "head.weight.grad after the error", rtol=0)
