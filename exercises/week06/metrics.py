"""Week 6: what a model is trained on and how it is judged: masked batches, one training step, perplexity, answers, merge error.

Complete tasks 6.1 to 6.4 below, in any order; 6.5 and 6.6 are stretch tasks, checked but without marks.
`autograder check 6` tells how far you are and `autograder check 6.2` checks one task alone. Each docstring is the
contract: the checks use the names, shapes and errors that stand there and nothing else, so everything else is yours to
choose. Helper functions and helper modules beside this file are welcome. No function changes its arguments, but for
what a training step is there to change.

Conventions: token ids are int64. `labels` have the shape of the ids and are not shifted: labels[i, t] is the token at
position t of row i, or -100 where nothing is to be predicted. The logits at position t predict the token at position
t + 1, so the label at position 0 is never predicted and never counts, whatever it is.

Task   points  minutes  difficulty  importance (both from 1 to 5)
6.1        12       20           2           3
6.2        15       25           2           4
6.3        20       45           3           5
6.4        23       60           4           5
6.5   stretch       25           3           4
6.6   stretch       45           3           3
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

IGNORE = -100  # the label of a position that is not predicted

# --- task 6.1 ---


def merge_error(base: Tensor, delta: Tensor, dtype: torch.dtype) -> dict[str, float]:
    """Task 6.1: what is lost when an update is merged into weights that are stored in `dtype`.

    Three tensors, elementwise. The stored weight W is `base` rounded to `dtype`. The exact sum is W + delta, where
    `delta` itself is not rounded. The merged weight M is the exact sum rounded to `dtype`, once. So base's own rounding
    is no part of the error: it happened before, and would be there without a merge. Everything but these two roundings
    is computed in float64.

    - "lost": of the entries where delta is not zero, the share where M equals W, so that merging changed nothing.
    - "relative_error": ||(M - W) - delta|| / ||delta|| with Frobenius norms: how far the change that took place is from
      the change that was meant.
    - "max_error": the largest |M - (W + delta)|.

    Args:
        base: weights, any shape, a floating dtype.
        delta: the update dW = (alpha / rank) B A, same shape, a floating dtype, perhaps another one.
        dtype: a floating dtype in whose range all values are.

    Returns:
        A dict with these three names, each a float.

    Raises:
        ValueError: if the shapes differ, or no entry of delta differs from zero.
    """
    raise NotImplementedError("Week 6, task 1: merge_error")


# --- task 6.2 ---


def normalize_answer(text: str, lang: str = "en") -> str:
    """Task 6.2: an answer without what does not count when answers are compared.

    Step by step, in this order:

    1. Unicode's NFKC form (`unicodedata.normalize`): full-width letters and digits become ordinary ones.
    2. Lower case (`str.lower`).
    3. Every character whose Unicode general category (`unicodedata.category`) begins with P or S, punctuation and
       symbols, is deleted, with nothing in its place: "state-of-the-art" becomes "stateoftheart". In ASCII these are
       the characters of `string.punctuation`.
    4. lang="en": the words "a", "an" and "the" are deleted, and the others joined by one space each, with none at the
       ends. A word is what stands between whitespace, as `str.split` has it.
       lang="zh": all whitespace is deleted. Words are not: Chinese has no articles, and an English "a" stays.

    For ASCII text and lang="en" this is the normalisation of SQuAD. Source: Rajpurkar et al., "SQuAD: 100,000+ Questions
    for Machine Comprehension of Text", arXiv:1606.05250, section 6.1, which ignores punctuation and articles.

    Args:
        text: any string, also an empty one.
        lang: "en" or "zh".

    Raises:
        ValueError: if lang is neither of the two.
    """
    raise NotImplementedError("Week 6, task 2: normalize_answer")


def exact_match(prediction: str, references: Sequence[str], lang: str = "en") -> float:
    """Task 6.2: 1.0 if the prediction equals one of the references, all normalised by `normalize_answer`; else 0.0.

    Args:
        prediction: the model's answer.
        references: a list of right answers, at least one.
        lang: as in normalize_answer.

    Raises:
        ValueError: if there is no reference, or lang is unknown.
    """
    raise NotImplementedError("Week 6, task 2: exact_match")


def token_f1(prediction: str, references: Sequence[str], lang: str = "en") -> float:
    """Task 6.2: the F1 of the tokens that prediction and reference share, the best over the references.

    The tokens of an answer are, after `normalize_answer`, its words for lang="en", and its characters, each a token, for
    lang="zh". A token that occurs several times counts as often as it occurs in both: the overlap is that of multisets,
    and order does not matter. With `shared` such tokens,

        precision = shared / tokens of the prediction,  recall = shared / tokens of the reference,
        F1 = 2 precision recall / (precision + recall),  and 0.0 where nothing is shared.

    Where the prediction or the reference has no token, F1 is 1.0 if both have none, else 0.0. Source: as above, section
    6.1: the maximum over the references of a question.

    Args:
        prediction, references, lang: as in exact_match.

    Raises:
        ValueError: if there is no reference, or lang is unknown.
    """
    raise NotImplementedError("Week 6, task 2: token_f1")



# --- task 6.3 ---


def perplexity(batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Task 6.3: exp of the mean negative log-likelihood of all tokens that are to be predicted.

    The mean is over tokens, all batches and rows taken together: PPL = exp(-(1 / N) sum log p(token)), the sum over the
    N positions t >= 1 whose label is not -100, each predicted by the logits at t - 1. So how texts are put into batches
    and padded makes no difference, and a model that knows nothing has the perplexity of its vocabulary's size.

    Args:
        batches: pairs (logits, labels). logits: shape (batch, length, vocabulary), any floating dtype and any finite
            values; half precision is converted to float32 before the softmax. labels: shape (batch, length), as this
            file's head says. Shapes may differ from pair to pair. A pair, too, may have nothing to predict. The iterable
            may be one that can be read only once.

    Returns:
        The perplexity, a float.

    Raises:
        ValueError: if nothing at all is to be predicted.
    """
    raise NotImplementedError("Week 6, task 3: perplexity")




def sliding_window_perplexity(model: Callable[[Tensor], Tensor], input_ids: Tensor, window: int, stride: int) -> float:
    """Task 6.3: the perplexity of a text that is longer than what the model can read at once.

    The windows begin at positions 0, stride, 2 stride, ...; each has `window` tokens, but for the last: it is the first
    that reaches the end of the text, and ends there. Every token but the very first of the text is scored exactly once, in
    the first window that contains it, by the logits at the position before it in that window. So later windows score
    their new tokens only, and the tokens before these are context. The result is exp of the mean negative log-likelihood
    of the n - 1 scored tokens. No gradients are recorded: under `torch.no_grad()`.

    A small stride gives each token more context and costs more calls; strides agree only for a model whose predictions
    depend on no more tokens than the windows overlap in. How many windows, of equal length, go into one call is yours.

    Args:
        model: takes ids, shape (batch, m) with m <= window, and returns logits, shape (batch, m, vocabulary). A callable;
            its modes are the caller's business.
        input_ids: the text, shape (n,).
        window: most tokens that the model reads at once.
        stride: how far a window begins behind the one before it; less than window, so that two windows overlap and the
            first new token has something before it.

    Returns:
        The perplexity, a float.

    Raises:
        ValueError: if stride is not in 1 ... window - 1, or n is less than 2.
    """
    raise NotImplementedError("Week 6, task 3: sliding_window_perplexity")


# --- task 6.4 ---


class Tokenizer(Protocol):
    """What `sft_collate` may use of a tokenizer, and no more.

    Attributes:
        eos_token_id: the token that ends a message.
        pad_token_id: the token that fills a row up. With many models it is the same as eos_token_id.
    """

    eos_token_id: int
    pad_token_id: int

    def encode(self, text: str) -> list[int]:
        """The ids of a text, nothing added. What two texts give is not always what their concatenation gives."""
        ...


def sft_collate(
    dialogues: Sequence[Sequence[Mapping[str, str]]], tokenizer: Tokenizer, max_length: int | None = None
) -> dict[str, Tensor]:
    """Task 6.4: dialogues as one batch for supervised fine-tuning, with labels on the assistant's words only.

    The chat template: each message, whatever its role, gives the ids

        encode("<|" + role + "|>\\n")  followed by  encode(content)  followed by  eos_token_id

    The header and the content are encoded each by itself and the content is taken as it is: so at inference the model
    meets the same ids when its reply begins. Nothing else is added, neither at the front nor between messages.

    A row is the ids of a dialogue's messages one after the other, cut to the first max_length ids if it is longer (no
    end-of-sequence token is put behind a cut). All rows are filled up at the right to the longest row of the batch.

    The labels are the ids themselves at the content of every assistant message and at the end-of-sequence token behind it
    (that is how a model learns to stop), in every turn, not only the last. They are -100 everywhere else: at headers,
    at other roles' messages with their end-of-sequence tokens, and at the padding. Source of masking the prompt: Touvron
    et al., "Llama 2", arXiv:2307.09288, section 3.1.

    Args:
        dialogues: at least one; a dialogue is a list of messages {"role": ..., "content": ...}, the role "system", "user"
            or "assistant", in any order.
        tokenizer: see above. pad_token_id may be equal to eos_token_id, so an id does not tell what is padding.
        max_length: most ids in a row, at least 1, or None for no limit.

    Returns:
        "input_ids", "attention_mask" (1 at a dialogue's ids, 0 at the padding) and "labels", each int64 of shape
        (dialogues, longest row). At the padding input_ids are pad_token_id.

    Raises:
        ValueError: if a role is none of the three, or a dialogue has no assistant message.
    """
    raise NotImplementedError("Week 6, task 4: sft_collate")




def train_step(
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    optimizer: torch.optim.Optimizer,
    autocast_dtype: torch.dtype | None = None,
    scaler: torch.amp.GradScaler | None = None,
    max_grad_norm: float | None = None,
) -> float:
    """Task 6.4: one step of the optimizer on several micro-batches, equal to the step on the one large batch of them all.

    The loss is the mean negative log-likelihood over all N tokens that are to be predicted in all micro-batches together
    (labels and logits as this file's head says), not a mean of the micro-batches' means. Each micro-batch is back-propagated
    before the next one is computed, so that only one graph is in memory at a time; their gradients add up. Gradients
    that the parameters have from before do not count. optimizer.step() takes place once. A micro-batch may have nothing to
    predict: it adds nothing.

    - autocast_dtype: the model's forward runs under `torch.autocast` with this dtype, for the type of device that
      input_ids are on, the CPU too. None: without autocast. The loss is computed from the logits in float32 if they are in
      half precision, in their own dtype otherwise; the model's parameters keep their dtype.
    - scaler: a `torch.amp.GradScaler`, here one for the CPU, needed with float16, whose small gradients vanish otherwise.
      The losses are scaled before they are back-propagated; the gradients are unscaled before they are clipped; the step
      goes through the scaler, which leaves it out if a gradient is not finite; and the scaler is updated once, at the
      end. None: no scaling.
    - max_grad_norm: the gradients are scaled down together so that their 2-norm over all parameters is at most this, once,
      after the last micro-batch (`torch.nn.utils.clip_grad_norm_` does it). None: no clipping.

    Sources: Micikevicius et al., "Mixed Precision Training", arXiv:1710.03740, sections 3.1 and 3.2; the documentation
    of torch.amp.

    Args:
        model: called as model(input_ids, attention_mask), in that order; returns logits, shape (batch, length, vocabulary).
            Training or evaluation mode stays as the caller set it.
        batches: micro-batches as `sft_collate` returns them, at least one, in a list; their shapes may differ, and
            padding may also be at the left.
        optimizer: holds the model's trainable parameters, all of them and no others.

    Returns:
        The loss before the step, not scaled, a float.

    Raises:
        ValueError: if nothing is to be predicted in all of the micro-batches, before anything is changed.
    """
    raise NotImplementedError("Week 6, task 4: train_step")


# --- task 6.5 ---


def bootstrap_ci(values: Sequence[float], level: float = 0.95, resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Task 6.5 (stretch): a confidence interval for the mean of the values, by the percentile bootstrap.

    From the n values draw n with replacement, each equally likely, and take the mean; do so `resamples` times. The interval
    goes from the quantile (1 - level) / 2 of these means to the quantile (1 + level) / 2. How a quantile between two of
    the sorted means is interpolated is yours, and so is the random generator (of NumPy, torch or Python), but it is made
    from `seed`: equal arguments give equal intervals, whatever was drawn elsewhere, and another seed draws other samples.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3.

    Args:
        values: numbers, at least one.
        level: 0 < level < 1.
        resamples: at least 1.
        seed: an int from 0.

    Returns:
        The interval's lower and upper end, floats.

    Raises:
        ValueError: if there are no values, or level is out of its range.
    """
    raise NotImplementedError("Week 6, task 5: bootstrap_ci")


# --- task 6.6 ---


class DialogueEvaluator:
    """Compares the replies of two systems, A and B, to the same prompts, by a judge that may be biased by their order."""

    def __init__(self, judge: Callable[[str, str, str], str], level: float = 0.95, resamples: int = 2000, seed: int = 0) -> None:
        """Task 6.6 (stretch): take the settings.

        Args:
            judge: judge(prompt, first, second) says which of two replies is better: "first", "second" or "tie".
            level, resamples, seed: passed to `bootstrap_ci`.
        """
        raise NotImplementedError("Week 6, task 6: DialogueEvaluator.__init__")

    def evaluate(self, lines: Iterable[str]) -> dict[str, Any]:
        """Task 6.6 (stretch): judge each dialogue and report how often A wins, overall and in each category.

        A line is a JSON object with the strings "category", "prompt", "reply_a" and "reply_b"; other keys are ignored, and
        so are lines of nothing but whitespace. For each dialogue the judge is asked exactly twice, once with A's reply
        first and once with B's. A wins if A's reply is preferred both times, and loses if B's is; anything else is a tie.

        Where n dialogues have w wins, t ties and l losses, the win rate is (w + t / 2) / n, and its interval is
        `bootstrap_ci` of the n scores (1 for a win, 0.5 for a tie, 0 for a loss) in the order of the lines, with the
        evaluator's level, resamples and seed. The overall figures are those of all dialogues together, and not a mean
        over categories.

        Source: Zheng et al., "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena", arXiv:2306.05685, section 3.4.

        Args:
            lines: an open JSONL file, or any iterable of strings; it may be one that can be read only once.

        Returns:
            {"overall": figures, "categories": {category: figures, ...}}, where figures is a dict with "n", "wins", "ties",
            "losses", "win_rate", "low" and "high", all numbers.

        Raises:
            ValueError: if a line is not such an object, the judge answers something else, or there is no dialogue.
        """
        raise NotImplementedError("Week 6, task 6: DialogueEvaluator.evaluate")

# stub dc2575ee0672aee0
