"""Week 6: the reference and the alternatives against transformers, torch, scipy, NumPy's half precision and closed forms."""

from __future__ import annotations

import copy
import itertools
import json
import math
import re
import string
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.loading import load

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "solutions/week06/metrics.py"
ALTERNATIVES = sorted((ROOT / "autograder/bank/week06").glob("alternatives/*/metrics.py"))

REF = load(REFERENCE)
SOLUTIONS = {"reference": REF} | {path.parent.name: load(path) for path in ALTERNATIVES}
everywhere = pytest.mark.parametrize("metrics", SOLUTIONS.values(), ids=SOLUTIONS.keys())


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


# --------------------------------------------------------------------------- task 6.1


@pytest.mark.parametrize(
    ("dtype", "size", "share"),
    [(torch.bfloat16, 1e-4, 0.32), (torch.float16, 1e-4, 0.045), (torch.bfloat16, 1e-5, 0.88), (torch.float16, 1e-5, 0.39)],
)
def test_shares_that_merging_loses(dtype, size, share):
    """Updates N(0, size^2) merged into weights N(0, 0.02^2): the shares as the curriculum has them, in two digits."""
    rng = generator()
    base, delta = (torch.from_numpy(s * rng.standard_normal(1_000_000)) for s in (0.02, size))
    # Standard error of a share of a million is at most 0.0005.
    assert REF.merge_error(base, delta, dtype)["lost"] == pytest.approx(share, abs=0.007)


@everywhere
@pytest.mark.parametrize("shape", [(5,), (3, 7), (2, 3, 4)])
def test_merging_is_that_of_numpy_in_half_precision(metrics, shape):
    """NumPy has a float16 of its own, and a float32 for which float64 is wider too."""
    for kind, dtype in ((np.float16, torch.float16), (np.float32, torch.float32)):
        rng = generator(3)
        base = 0.05 * rng.standard_normal(shape)
        delta = np.where(rng.random(shape) < 0.3, 0, np.finfo(kind).eps * 0.05 * rng.standard_normal(shape))
        delta.flat[0] = 1e-3
        stored = base.astype(kind).astype(float)
        after = (stored + delta).astype(kind).astype(float)
        want = {
            "lost": np.mean((after == stored)[delta != 0]),
            "relative_error": np.linalg.norm((after - stored - delta).ravel()) / np.linalg.norm(delta.ravel()),
            "max_error": np.max(np.abs(after - stored - delta)),
        }
        got = metrics.merge_error(torch.from_numpy(base), torch.from_numpy(delta), dtype)
        # W + dW is rounded in float64 too, to 1e-16 of W, which is up to 1e-8 of a float32's rounding error.
        assert got == pytest.approx(want, rel=1e-7)


@given(st.integers(0, 10_000), st.sampled_from([torch.bfloat16, torch.float16, torch.float32]), st.floats(1e-6, 1e-1))
@settings(max_examples=40, deadline=None)
def test_no_entry_errs_by_more_than_half_a_step(seed, dtype, size):
    rng = generator(seed)
    base, delta = torch.from_numpy(rng.uniform(-1, 1, 50)), torch.from_numpy(size * rng.standard_normal(50))
    found = REF.merge_error(base, delta, dtype)
    largest = float((base.to(dtype).double() + delta).abs().max())
    # Rounding to nearest errs by at most eps / 2 of the power of two below. torch goes from float64 by float32, which adds
    # 2^-24 of it.
    step = torch.finfo(dtype).eps * 2.0 ** math.floor(math.log2(largest))
    assert found["max_error"] <= step / 2 + 2.0**-24 * largest
    assert 0 <= found["lost"] <= 1


def test_an_update_is_lost_below_half_a_step():
    """1 + d: in bfloat16 the next number above 1 is 1 + 2^-7, and half of that step is a tie, which goes to the even 1."""
    for d, lost in ((2.0**-8, 1.0), (2.0**-8 + 2.0**-12, 0.0), (2.0**-9, 1.0), (-(2.0**-9) - 2.0**-12, 0.0)):
        assert REF.merge_error(torch.ones(1), torch.tensor([d]), torch.bfloat16)["lost"] == lost


def test_an_exact_merge_errs_by_nothing():
    found = REF.merge_error(torch.ones(3), torch.full((3,), 0.5), torch.float16)
    assert found == {"lost": 0.0, "relative_error": 0.0, "max_error": 0.0}


@everywhere
def test_merge_error_refuses_and_leaves(metrics):
    base = torch.ones(4, dtype=torch.bfloat16)
    for delta in (torch.ones(1), torch.ones(1, 4), torch.zeros(4)):
        with pytest.raises(ValueError):
            metrics.merge_error(base, delta, torch.bfloat16)
    metrics.merge_error(base, torch.ones(4), torch.bfloat16)
    assert base.tolist() == [1.0] * 4


# --------------------------------------------------------------------------- task 6.2


def squad(text: str) -> str:
    """The paper's rule for ASCII text, by regular expressions: punctuation and articles do not count."""
    text = re.sub(f"[{re.escape(string.punctuation)}]", "", text.lower())
    return re.sub(r"\s+", " ", re.sub(r"\b(a|an|the)\b", " ", text)).strip()


printable = st.text(st.sampled_from(string.printable), max_size=30)
wordy = st.lists(st.sampled_from(["a", "An", "THE", "the.", "cat", "ca-t", "then", "_the_", " ", "42"]), max_size=8).map(" ".join)


@everywhere
@given(printable | wordy)
@settings(max_examples=60, deadline=None)
def test_normalisation_of_ascii_is_that_of_squad(metrics, text):
    assert metrics.normalize_answer(text) == squad(text)


@everywhere
@pytest.mark.parametrize(
    ("text", "lang", "want"),
    [
        ("《红楼梦》。", "zh", "红楼梦"),
        ("低秩 适配　（ＬｏＲＡ）", "zh", "低秩适配lora"),
        ("ａ 班 the", "zh", "a班the"),
        ("３㎏，２０℃", "zh", "3kg20c"),
        ("￥３．５", "zh", "35"),
        ("“The” café—au lait…", "en", "caféau lait"),
        ("ＴＨＥ Ｃａｔ", "en", "cat"),
        ("", "en", ""),
    ],
)
def test_normalisation_of_chinese_and_other_text(metrics, text, lang, want):
    assert metrics.normalize_answer(text, lang) == want


@given(st.text(max_size=20), st.sampled_from(["en", "zh"]))
@settings(max_examples=100, deadline=None)
def test_all_right_answers_normalise_alike(text, lang):
    assert len({metrics.normalize_answer(text, lang) for metrics in SOLUTIONS.values()}) == 1


few_words = st.lists(st.sampled_from("xyzw"), max_size=6)


@everywhere
@given(few_words, few_words)
@settings(max_examples=60, deadline=None)
def test_f1_is_that_of_the_best_pairing(metrics, got, right):
    """Shared tokens are pairs of equal tokens, each token in one pair: the largest number of them, found by trying."""
    shared = 0
    shorter, longer = sorted((got, right), key=len)
    for order in set(itertools.permutations(longer, len(shorter))):
        shared = max(shared, sum(x == y for x, y in zip(shorter, order, strict=True)))
    if got and right:
        precision, recall = shared / len(got), shared / len(right)
        want = scipy.stats.hmean([precision, recall]) if shared else 0.0
    else:
        want = float(got == right)
    assert metrics.token_f1(" ".join(got), [" ".join(right)]) == pytest.approx(want)
    assert metrics.token_f1("".join(got), ["".join(right)], "zh") == pytest.approx(want)
    assert metrics.exact_match(" ".join(got), [" ".join(right)]) == float(got == right)


@everywhere
def test_the_best_reference_counts(metrics):
    references = ["Denver Broncos", "The Denver Broncos!", "Broncos"]
    assert metrics.exact_match("denver broncos", references) == 1
    assert metrics.exact_match("denver", references) == 0
    assert metrics.token_f1("denver", references) == pytest.approx(2 / 3)
    assert metrics.token_f1("big broncos", references) == pytest.approx(2 / 3)
    for function in (metrics.exact_match, metrics.token_f1):
        with pytest.raises(ValueError):
            function("denver", [])
        with pytest.raises(ValueError):
            function("denver", ["denver"], "de")


# --------------------------------------------------------------------------- task 6.3


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=13, max_position_embeddings=64, **sizes)).double().eval()


def draw_labels(rng: np.random.Generator, rows: int, length: int, vocabulary: int = 13) -> tuple[Tensor, Tensor]:
    ids = rng.integers(0, vocabulary, (rows, length))
    labels = np.where(rng.random((rows, length)) < 0.4, -100, ids)
    labels[:, -1] = ids[:, -1]
    return torch.from_numpy(ids), torch.from_numpy(labels)


@everywhere
def test_perplexity_is_exp_of_transformers_loss(metrics, llama):
    """Labels unshifted with -100, as transformers takes them."""
    for rows, length in ((1, 2), (3, 8), (5, 6)):
        ids, labels = draw_labels(generator(rows), rows, length)
        with torch.no_grad():
            out = llama(input_ids=ids, labels=labels)
        # transformers computes its loss in float32, whatever the model's dtype.
        assert metrics.perplexity([(out.logits, labels)]) == pytest.approx(math.exp(out.loss), rel=1e-6)


@everywhere
@given(st.integers(0, 1000), st.permutations(range(6)), st.sets(st.integers(1, 5)))
@settings(max_examples=15, deadline=None)
def test_perplexity_is_invariant_to_batching_and_padding(metrics, seed, order, cuts):
    rng = generator(seed)
    lengths = rng.integers(2, 9, 6)
    logits, (_, labels) = torch.from_numpy(rng.standard_normal((6, 8, 5))), draw_labels(rng, 6, 8, 5)
    for row, length in enumerate(lengths):
        labels[row, length:] = -100
        labels[row, length - 1] = 1
    whole = REF.perplexity([(logits, labels)])
    edges = [0, *sorted(cuts), 6]
    parts = [list(order[a:b]) for a, b in itertools.pairwise(edges)]
    widths = [max(lengths[part]) for part in parts]
    batches = ((logits[part][:, :width], labels[part][:, :width]) for part, width in zip(parts, widths, strict=True))
    assert metrics.perplexity(batches) == pytest.approx(whole, rel=1e-9)


@everywhere
@pytest.mark.parametrize("vocabulary", [2, 7, 100])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_uniform_model_has_the_vocabularys_size(metrics, vocabulary, dtype):
    _, labels = draw_labels(generator(), 3, 5, vocabulary)
    rel = 1e-9 if dtype == torch.float64 else 1e-5
    assert metrics.perplexity([(torch.zeros(3, 5, vocabulary, dtype=dtype), labels)]) == pytest.approx(vocabulary, rel=rel)


def by_definition(model: LlamaForCausalLM, ids: Tensor, window: int, stride: int) -> float:
    """For each token the first window that contains it, and one call of the model for it alone."""
    n, total = len(ids), 0.0
    for position in range(1, n):
        begin = next(b for b in range(0, n, stride) if position < b + window)
        with torch.no_grad():
            logits = model(ids[None, begin:position]).logits[0, -1]
        total -= float(torch.distributions.Categorical(logits=logits).log_prob(ids[position]))
    return math.exp(total / (n - 1))


WINDOWS = [(2, 2, 1), (5, 9, 4), (9, 9, 3), (10, 9, 3), (17, 6, 1), (17, 6, 4), (17, 6, 5), (20, 7, 3)]


@everywhere
@pytest.mark.parametrize(("n", "window", "stride"), WINDOWS)
def test_sliding_windows_by_their_definition(metrics, llama, n, window, stride):
    """The model is causal, so that the tokens behind a position in its window play no part."""
    ids = torch.from_numpy(generator(n).integers(0, 13, n))
    got = metrics.sliding_window_perplexity(lambda x: llama(x).logits, ids, window, stride)
    assert got == pytest.approx(by_definition(llama, ids, window, stride), rel=1e-9)


@given(st.integers(2, 25), st.integers(2, 9), st.data())
@settings(max_examples=40, deadline=None)
def test_each_token_is_scored_once(n, window, data):
    """A model that gives every token its own probability, whatever is before it: each log-probability occurs once."""
    stride = data.draw(st.integers(1, window - 1))
    ids = torch.arange(n)
    logits = torch.from_numpy(generator(n).standard_normal(n))
    whole = math.exp(-float(logits.log_softmax(0)[1:].mean()))
    for metrics in SOLUTIONS.values():
        got = metrics.sliding_window_perplexity(lambda x: logits.expand(*x.shape, n), ids, window, stride)
        assert got == pytest.approx(whole, rel=1e-9)


def test_strides_agree_for_a_bounded_context_only(llama):
    ids = torch.from_numpy(generator(5).integers(0, 13, 30))
    unbounded = {REF.sliding_window_perplexity(lambda x: llama(x).logits, ids, 8, s) for s in (1, 3, 6)}
    assert max(unbounded) - min(unbounded) > 1e-3
    table = torch.from_numpy(generator(6).standard_normal((13, 13)))
    bounded = [REF.sliding_window_perplexity(lambda x: table[x], ids, 8, s) for s in (1, 3, 7)]
    assert bounded == pytest.approx([bounded[0]] * 3, rel=1e-12)


@everywhere
def test_perplexities_refuse(metrics):
    ids = torch.arange(9)
    for n, window, stride in ((9, 4, 4), (9, 4, 0), (9, 4, -1), (1, 4, 2), (0, 4, 2)):
        with pytest.raises(ValueError):
            metrics.sliding_window_perplexity(lambda x: torch.zeros(*x.shape, 9), ids[:n], window, stride)
    with pytest.raises(ValueError):
        metrics.perplexity([(torch.zeros(1, 2, 3), torch.tensor([[1, -100]]))])


# --------------------------------------------------------------------------- task 6.4

CHARACTERS = sorted(set(string.printable))
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}\x00{% endgeneration %}{% else %}{{ m.content }}\x00{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def characters() -> PreTrainedTokenizerFast:
    """A real tokenizer of characters, for which pieces and whole texts have the same ids; its padding is its end."""
    vocabulary = {c: i for i, c in enumerate([*CHARACTERS, "\x00"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="\x00", pad_token="\x00", chat_template=TEMPLATE)


messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text(st.sampled_from("ab \n"), max_size=4)}
    ),
    min_size=1,
    max_size=4,
).filter(lambda dialogue: any(message["role"] == "assistant" for message in dialogue))


@everywhere
@given(st.lists(messages, min_size=1, max_size=3))
@settings(max_examples=20, deadline=None)
def test_labels_are_the_assistant_mask_of_transformers(metrics, characters, dialogues):
    want = characters.apply_chat_template(
        dialogues, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, padding=True, padding_side="right"
    )
    ids, mask = np.array(want["input_ids"]), np.array(want["assistant_masks"])
    got = metrics.sft_collate(dialogues, characters)
    np.testing.assert_array_equal(got["input_ids"].numpy(), ids)
    np.testing.assert_array_equal(got["attention_mask"].numpy(), np.array(want["attention_mask"]))
    np.testing.assert_array_equal(got["labels"].numpy(), np.where(mask == 1, ids, -100))
    assert {tensor.dtype for tensor in got.values()} == {torch.int64}


@everywhere
def test_collation_by_hand(metrics, characters):
    """Two turns and a cut."""
    dialogue = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}, {"role": "assistant", "content": ""}]
    whole = "<|user|>\nhi\x00<|assistant|>\nyo\x00<|assistant|>\n\x00"
    learned = "~" * (len("<|user|>\nhi\x00") + len("<|assistant|>\n")) + "yo\x00" + "~" * len("<|assistant|>\n") + "\x00"
    for limit in (None, len(whole) + 1, len(whole) - 1, 27, 1):
        batch = metrics.sft_collate([dialogue], characters, limit)
        cut = len(whole) if limit is None else limit
        assert characters.decode(batch["input_ids"][0]).replace(" ", "") == whole[:cut].replace(" ", "")
        labels = batch["labels"][0].tolist()
        assert labels == [-100 if c == "~" else characters.encode(c)[0] for c in learned[:cut]]


@everywhere
def test_pieces_are_encoded_by_themselves(metrics):
    class Joining:
        """A token is a whole text."""

        eos_token_id, pad_token_id = 0, 1

        def encode(self, text: str) -> list[int]:
            return [1000 + sum(text.encode())] if text else []

    dialogue = [{"role": "system", "content": "x"}, {"role": "assistant", "content": "y"}]
    t = Joining()
    header = [t.encode("<|system|>\n")[0], t.encode("<|assistant|>\n")[0]]
    batch = metrics.sft_collate([dialogue, dialogue[1:]], t)
    x, y = t.encode("x")[0], t.encode("y")[0]
    assert batch["input_ids"].tolist() == [[header[0], x, 0, header[1], y, 0], [header[1], y, 0, 1, 1, 1]]
    assert batch["labels"].tolist() == [[-100, -100, -100, -100, y, 0], [-100, y, 0, -100, -100, -100]]
    for roles in (["user"], ["assistant", "Assistant"]):
        with pytest.raises(ValueError):
            metrics.sft_collate([[{"role": role, "content": "x"} for role in roles]], t)


class Logits(nn.Module):
    """A transformers model as the contract wants one."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        result: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return result


def draw_batches(seed: int) -> list[dict[str, Tensor]]:
    rng = generator(seed)
    batches = []
    for rows, length in ((1, 4), (4, 7), (2, 5)):
        ids, labels = draw_labels(rng, rows, length)
        batches.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    return batches


def large(batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    fill = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    return {
        name: torch.cat([nn.functional.pad(b[name], (0, 7 - b[name].shape[1]), value=value) for b in batches])
        for name, value in fill.items()
    }


def parameters(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@everywhere
@pytest.mark.parametrize("norm", [None, 0.05, 100.0])
@pytest.mark.parametrize("scale", [None, 2.0**12])
def test_accumulation_is_a_step_on_the_large_batch(metrics, llama, norm, scale):
    """With the mean cross-entropy of torch in float64, and with transformers' own loss, which is in float32."""
    batches, whole = draw_batches(1), large(draw_batches(1))
    # Llama's norms are computed in float32 in any dtype.
    for own_loss, rtol in ((False, 1e-7), (True, 1e-5)):
        ours, theirs = Logits(llama), copy.deepcopy(llama)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale) if scale else None
        loss = metrics.train_step(ours, batches, torch.optim.SGD(ours.parameters(), 0.1), None, scaler, norm)
        out = theirs(**whole)
        logits, labels = out.logits[:, :-1].flatten(0, 1), whole["labels"][:, 1:].flatten()
        want = out.loss if own_loss else nn.functional.cross_entropy(logits, labels)
        want.backward()
        if norm:
            nn.utils.clip_grad_norm_(theirs.parameters(), norm)
        torch.optim.SGD(theirs.parameters(), 0.1).step()
        assert loss == pytest.approx(want.item(), rel=rtol)
        # The way of clipping is free, and torch's adds 1e-6 to the norm.
        torch.testing.assert_close(parameters(ours), parameters(theirs), rtol=rtol, atol=rtol)


@everywhere
def test_autocast_is_torchs(metrics, llama):
    """In bfloat16 the loss is that of torch's autocast around the model alone, and parameters stay float32."""
    batch = draw_batches(2)[1]
    ours, theirs = Logits(llama).float(), copy.deepcopy(llama).float()
    with torch.autocast("cpu", torch.bfloat16):
        logits = theirs(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert logits.dtype == torch.bfloat16
    want = nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), batch["labels"][:, 1:].flatten())
    got = metrics.train_step(ours, [batch], torch.optim.SGD(ours.parameters(), 0.1), torch.bfloat16)
    assert got == pytest.approx(want.item(), rel=1e-5)
    assert {p.dtype for p in ours.parameters()} == {torch.float32}


class Faint(nn.Module):
    """Logits with a gradient below 1e-8 in float16, which rounds it to zero: its smallest number is 6e-8."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(13, 4)
        self.head = nn.Linear(4, 13, bias=False)
        nn.init.constant_(self.head.weight, 1e-3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        result: Tensor = 2.0**-27 * self.head(self.embed(input_ids))
        return result


@everywhere
def test_scaling_saves_gradients_that_float16_loses(metrics):
    batches = draw_batches(3)

    def moved(dtype, scaler) -> Tensor:
        torch.manual_seed(0)
        model = Faint()
        before = model.head.weight.detach().clone()
        metrics.train_step(model, batches, torch.optim.SGD(model.parameters(), 2.0**27), dtype, scaler)
        return model.head.weight.detach() - before

    exact = moved(None, None)
    assert not moved(torch.float16, None).any()
    saved = moved(torch.float16, torch.amp.GradScaler("cpu", init_scale=2.0**15))
    # float16 products of a few terms: eps is 1e-3.
    torch.testing.assert_close(saved, exact, rtol=0.02, atol=0.02 * float(exact.abs().max()))


@everywhere
def test_an_overflow_skips_the_step(metrics):
    torch.manual_seed(0)
    model = Faint()
    model.head.weight.register_hook(lambda gradient: gradient * torch.inf)
    before = parameters(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    metrics.train_step(model, draw_batches(4), torch.optim.SGD(model.parameters(), 1.0), None, scaler, 1.0)
    assert torch.equal(parameters(model), before)
    assert scaler.get_scale() == 512.0


@everywhere
def test_steps_refuse_and_forget(metrics, llama):
    model = Logits(llama)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    empty = [batch | {"labels": torch.full_like(batch["labels"], -100)} for batch in draw_batches(5)]
    before = parameters(model)
    with pytest.raises(ValueError):
        metrics.train_step(model, empty, optimizer)
    assert torch.equal(parameters(model), before)
    other = Logits(llama)
    for p in other.parameters():
        p.grad = torch.ones_like(p)
    batches = draw_batches(6)
    metrics.train_step(model, batches, optimizer)
    metrics.train_step(other, [empty[0], *batches], torch.optim.SGD(other.parameters(), 0.1))
    torch.testing.assert_close(parameters(model), parameters(other), rtol=1e-9, atol=1e-12)


# --------------------------------------------------------------------------- tasks 6.5 and 6.6


@everywhere
@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
def test_the_interval_is_scipys(metrics, level):
    values = generator(8).exponential(size=60)
    got = metrics.bootstrap_ci(values.tolist(), level, 8000, 1)
    want = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=8000, confidence_level=level, method="percentile", rng=generator(9)
    ).confidence_interval
    # sqrt(q (1 - q) / 8000) over the density of a normal: at most 0.03 standard deviations of the mean at the 2.5 % quantile;
    # five times sqrt(2) of it.
    assert got == pytest.approx(tuple(want), abs=0.22 * values.std() / 60**0.5)


@everywhere
def test_the_interval_of_coin_flips_is_binomial(metrics):
    """The mean of resampled zeros and ones is binomial, so its quantiles are known."""
    for n, ones, level in ((8, 4, 0.8), (7, 5, 0.7), (5, 1, 0.95)):
        want = [scipy.stats.binom.ppf(q, n, ones / n) / n for q in ((1 - level) / 2, (1 + level) / 2)]
        assert metrics.bootstrap_ci([1.0] * ones + [0.0] * (n - ones), level, 4000, 3) == pytest.approx(want)


@everywhere
def test_the_interval_depends_on_its_arguments_alone(metrics):
    values = generator().standard_normal(20).tolist()
    first = metrics.bootstrap_ci(values, 0.9, 60, 7)
    np.random.seed(1)
    torch.manual_seed(1)
    assert metrics.bootstrap_ci(values, 0.9, 60, 7) == first
    assert metrics.bootstrap_ci(values, 0.9, 60, 8) != first
    for wrong in (([], 0.9), (values, 0.0), (values, 1.0), (values, 95)):
        with pytest.raises(ValueError):
            metrics.bootstrap_ci(*wrong)


def dialogue(category: str, a: int, b: int) -> str:
    return json.dumps({"category": category, "prompt": "p", "reply_a": "x" * a, "reply_b": "y" * b})


def longer(prompt: str, first: str, second: str) -> str:
    """Prefers the longer reply, but the first if they differ by less than three."""
    return "first" if len(first) > len(second) - 3 else "second"


@everywhere
def test_evaluation_by_hand(metrics):
    lines = [dialogue("m", 9, 1), "", dialogue("m", 4, 5), dialogue("w", 1, 9) + "\n", dialogue("m", 5, 4), dialogue("w", 2, 8)]
    report = metrics.DialogueEvaluator(longer, 0.8, 500, 2).evaluate(iter(lines))
    scores = {"m": [1.0, 0.5, 0.5], "w": [0.0, 0.0]}
    everything = [1.0, 0.5, 0.0, 0.5, 0.0]
    assert set(report) == {"overall", "categories"} and set(report["categories"]) == {"m", "w"}
    for figures, some in ((report["overall"], everything), *((report["categories"][c], s) for c, s in scores.items())):
        low, high = metrics.bootstrap_ci(some, 0.8, 500, 2)
        counts = {"wins": some.count(1.0), "ties": some.count(0.5), "losses": some.count(0.0)}
        assert figures == pytest.approx(counts | {"n": len(some), "win_rate": np.mean(some), "low": low, "high": high})


@everywhere
@given(st.sampled_from(["first", "second", "tie"]), st.sampled_from(["first", "second", "tie"]))
def test_all_pairs_of_verdicts(metrics, one, two):
    """Exchanging A and B exchanges wins and losses, and only two verdicts for the same reply decide."""

    def judge(prompt: str, first: str, second: str) -> str:
        return one if first == "x" else two

    def rate(judge) -> float:
        return metrics.DialogueEvaluator(judge, 0.9, 10, 0).evaluate([dialogue("c", 1, 1)])["overall"]["win_rate"]

    def exchanged(prompt: str, first: str, second: str) -> str:
        return judge(prompt, {"x": "y", "y": "x"}[first], first)

    assert rate(judge) == {("first", "second"): 1.0, ("second", "first"): 0.0}.get((one, two), 0.5)
    assert rate(judge) + rate(exchanged) == 1.0


@everywhere
def test_evaluation_refuses(metrics):
    right = dialogue("c", 9, 1)
    for lines in ([right, "{"], [right, "[]"], [right, '{"category": "c"}'], [], [" \n"]):
        with pytest.raises(ValueError):
            metrics.DialogueEvaluator(longer).evaluate(lines)
    with pytest.raises(ValueError):
        metrics.DialogueEvaluator(lambda *_: "A").evaluate([right])
