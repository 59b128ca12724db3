"""Week 6's lab library."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch

from course.labs import dialogues, text
from tests.conftest import ROOT
from tests.loading import load

METRICS = load(ROOT / "solutions" / "week06" / "metrics.py")


def score(with_a_first: str, with_b_first: str) -> float:
    return {("first", "second"): 1.0, ("second", "first"): 0.0}.get((with_a_first, with_b_first), 0.5)


def test_marked_shows_what_has_a_label():
    _, tokenizer = text.base_model()
    messages = [{"role": "user", "content": "hello, i am Ann."}, {"role": "assistant", "content": "hello, Ann!"}]
    batch = METRICS.sft_collate([messages], text.Plain(tokenizer))
    assert dialogues.marked(batch, tokenizer).endswith("<|assistant|> \\n [hello] [,] [Ann] [!] [</s>]")
    assert dialogues.marked(batch, tokenizer).count("[") == 5


def test_the_graded_batch_covers_the_known_mistakes():
    """Each mistake that the key names gives another number."""
    batch = METRICS.sft_collate(dialogues.CONVERSATIONS, dialogues.Letters(), 80)
    ids, mask, labels = batch["input_ids"], batch["attention_mask"], batch["labels"]
    right = int((labels != -100).sum())
    uncut = METRICS.sft_collate(dialogues.CONVERSATIONS, dialogues.Letters())["labels"]
    found = [right, int((uncut != -100).sum()), int(((labels != -100) & (ids != 0)).sum()), int(mask.sum()), labels.numel()]
    assert found == [48, 55, 45, 187, 240]


def test_the_graded_verdicts_hold_every_case():
    pairs = dialogues.verdicts()
    assert pairs == dialogues.verdicts() and len(pairs) == 40
    scores = [score(*pair) for pair in pairs]
    assert (scores.count(1), scores.count(0.5), scores.count(0)) == (11, 26, 3)
    assert {("first", "first"), ("tie", "tie"), ("tie", "first")} <= set(pairs)


def test_interval_is_that_of_the_reference():
    values = [1.0] * 12 + [0.0] * 8
    low, high = dialogues.interval(values)
    assert (low, high) == pytest.approx(METRICS.bootstrap_ci(values), abs=0.051)
    assert 0.3 < low < 0.6 < high < 0.9
    assert dialogues.interval([0.5] * 9) == (0.5, 0.5)


def lines() -> list[str]:
    rows = [("x", "good", "bad"), ("x", "bad", "good"), ("y", "good", "good"), ("y", "good", "bad")]
    return [json.dumps({"category": c, "prompt": "?", "reply_a": a, "reply_b": b}) for c, a, b in rows]


def judge(prompt: str, first: str, second: str) -> str:
    return "second" if second == "good" != first else "first"


def test_report_counts_as_the_reference_does():
    found, theirs = dialogues.report(lines(), judge, score), METRICS.DialogueEvaluator(judge).evaluate(lines())
    assert found["overall"]["win_rate"] == theirs["overall"]["win_rate"] == 0.625
    assert found["x"]["win_rate"] == 0.5 and found["y"]["win_rate"] == 0.75
    assert found["overall"]["n"] == 4


def test_a_score_that_is_not_written_is_met_politely(capsys):
    assert dialogues.report(lines(), judge, lambda a, b: None) == {}
    assert "question 2" in capsys.readouterr().out


def test_tune_and_merge(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_RUNS", str(tmp_path))
    base, tokenizer = text.base_model()
    model = text.lora(base, 2, 4, "all-linear")

    def batches() -> Iterator[list[dict[str, torch.Tensor]]]:
        while True:
            data = [dialogues.conversation(example) for example in text.examples("stars", 8)]
            yield [METRICS.sft_collate(data[:4], text.Plain(tokenizer)), METRICS.sft_collate(data[4:], text.Plain(tokenizer))]

    losses = dialogues.tune(METRICS.train_step, model, batches(), 15, 1e-2, "test")
    assert losses[-1] < 0.7 * losses[0] and not model.training
    assert list((tmp_path / "test").iterdir())
    updates = dialogues.updates(model)
    before = [weight.clone() for weight, _ in updates]
    deltas = [delta for _, delta in updates]
    merged = model.merge_and_unload()
    weights = [dict(merged.named_modules())[name].weight for name, _ in merged.named_modules() if name.endswith("_proj")]
    assert len(weights) == len(deltas) == 14
    assert all(torch.allclose(w, b + d, atol=1e-6) for w, b, d in zip(weights, before, deltas, strict=True))


def test_predictions_are_what_perplexity_takes():
    model, tokenizer = text.base_model()
    pairs = list(dialogues.predictions(model, [text.collate(text.examples("capital", 3), tokenizer)]))
    assert METRICS.perplexity(pairs) < 1.5
    assert not pairs[0][0].requires_grad
