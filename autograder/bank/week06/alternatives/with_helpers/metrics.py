"""Classes and a helper module; windows of equal length go into the model together."""

import contextlib
import json
from dataclasses import asdict, dataclass

import numpy as np
import torch
from scoring import Cleaner, Likelihood, overlap_f1, summed_loss


@dataclass
class MergeReport:
    lost: float
    relative_error: float
    max_error: float


def merge_error(base, delta, dtype):
    if base.size() != delta.size():
        raise ValueError("sizes differ")
    delta = delta.to(torch.double)
    if torch.count_nonzero(delta) == 0:
        raise ValueError("no change")
    weight = base.to(dtype)
    ideal = weight.to(torch.double) + delta
    new = ideal.to(dtype)
    where = torch.nonzero(delta, as_tuple=True)
    error = new.to(torch.double) - ideal
    report = MergeReport(
        lost=torch.eq(new[where], weight[where]).to(torch.double).mean().item(),
        relative_error=(torch.linalg.vector_norm(error) / torch.linalg.vector_norm(delta)).item(),
        max_error=max(error.max().item(), -error.min().item()),
    )
    return asdict(report)


def normalize_answer(text, lang="en"):
    return Cleaner(lang).clean(text)


def exact_match(prediction, references, lang="en"):
    cleaner = Cleaner(lang)
    if not len(references):
        raise ValueError("no reference")
    target = cleaner.clean(prediction)
    for reference in references:
        if cleaner.clean(reference) == target:
            return 1.0
    return 0.0


def token_f1(prediction, references, lang="en"):
    cleaner = Cleaner(lang)
    if not len(references):
        raise ValueError("no reference")
    return max(overlap_f1(cleaner.tokens(prediction), cleaner.tokens(reference)) for reference in references)


def perplexity(batches):
    likelihood = Likelihood()
    for logits, labels in batches:
        likelihood.add(logits, labels)
    return likelihood.perplexity()


def sliding_window_perplexity(model, input_ids, window, stride):
    if stride not in range(1, window):
        raise ValueError("stride must be positive and smaller than the window")
    n = input_ids.shape[0]
    if n < 2:
        raise ValueError("text too short")
    likelihood = Likelihood()
    with torch.inference_mode():
        full = input_ids.unfold(0, window, stride) if n >= window else input_ids[None]
        labels = full.clone()
        labels[1:, : window - stride] = -100
        likelihood.add(model(full), labels)
        done = (len(full) - 1) * stride + window
        if done < n:
            begin = len(full) * stride
            rest = input_ids[begin:].clone()
            rest[: done - begin] = -100
            likelihood.add(model(input_ids[None, begin:]), rest[None])
    return likelihood.perplexity()


class Row:
    def __init__(self, tokenizer):
        self.tokenizer, self.ids, self.learned = tokenizer, [], []

    def append(self, role, content):
        if role not in ("system", "user", "assistant"):
            raise ValueError(f"unknown role {role}")
        self._put(self.tokenizer.encode("<|%s|>\n" % role), False)
        self._put(self.tokenizer.encode(content), role == "assistant")
        self._put([self.tokenizer.eos_token_id], role == "assistant")
        return self

    def _put(self, ids, learned):
        self.ids += list(ids)
        self.learned += [learned] * len(ids)

    def cut(self, length):
        del self.ids[length:], self.learned[length:]


def sft_collate(dialogues, tokenizer, max_length=None):
    rows = []
    for dialogue in dialogues:
        row = Row(tokenizer)
        for message in dialogue:
            row.append(message["role"], message["content"])
        if not any(row.learned):
            raise ValueError("the assistant says nothing")
        if max_length is not None:
            row.cut(max_length)
        rows.append(row)
    width = max(len(row.ids) for row in rows)
    batch = {"input_ids": [], "attention_mask": [], "labels": []}
    for row in rows:
        gap = width - len(row.ids)
        batch["input_ids"].append(row.ids + [tokenizer.pad_token_id] * gap)
        batch["attention_mask"].append([1] * len(row.ids) + [0] * gap)
        batch["labels"].append([i if learned else -100 for i, learned in zip(row.ids, row.learned)] + [-100] * gap)
    return {name: torch.tensor(values, dtype=torch.int64) for name, values in batch.items()}


class NoScaler:
    """Does to a loss and an optimizer what a scaler of scale 1 would."""

    def scale(self, loss):
        return loss

    def unscale_(self, optimizer):
        pass

    def step(self, optimizer):
        optimizer.step()

    def update(self):
        pass


def train_step(model, batches, optimizer, autocast_dtype=None, scaler=None, max_grad_norm=None):
    scaler = NoScaler() if scaler is None else scaler
    shares = [int((batch["labels"][:, 1:] >= 0).sum()) for batch in batches]
    if sum(shares) == 0:
        raise ValueError("there is nothing to predict")
    optimizer.zero_grad(set_to_none=True)
    mean_loss = 0.0
    for batch, share in zip(batches, shares):
        if share == 0:
            continue
        with contextlib.ExitStack() as stack:
            if autocast_dtype is not None:
                stack.enter_context(torch.autocast(batch["input_ids"].device.type, dtype=autocast_dtype))
            logits = model(batch["input_ids"], batch["attention_mask"])
        mean = summed_loss(logits, batch["labels"])[0] / share
        part = mean * (share / sum(shares))
        scaler.scale(part).backward()
        mean_loss += part.item()
    if max_grad_norm is not None:
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], max_grad_norm)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return mean_loss


def bootstrap_ci(values, level=0.95, resamples=2000, seed=0):
    values = np.array(values, dtype=np.float64)
    if values.size == 0 or not (0.0 < level < 1.0):
        raise ValueError("bad arguments")
    rng = np.random.RandomState(seed)
    counts = rng.multinomial(len(values), [1 / len(values)] * len(values), size=resamples)
    means = np.sort(counts @ values / len(values))
    ends = np.percentile(means, [50 * (1 - level), 50 * (1 + level)], method="nearest")
    return tuple(ends.tolist())


@dataclass
class Tally:
    scores: list

    def report(self, settings):
        low, high = bootstrap_ci(self.scores, **settings)
        wins, losses = sum(s == 1 for s in self.scores), sum(s == 0 for s in self.scores)
        return {
            "n": len(self.scores),
            "wins": wins,
            "ties": len(self.scores) - wins - losses,
            "losses": losses,
            "win_rate": float(np.mean(self.scores)),
            "low": low,
            "high": high,
        }


class DialogueEvaluator:
    KEYS = ("category", "prompt", "reply_a", "reply_b")

    def __init__(self, judge, level=0.95, resamples=2000, seed=0):
        self.judge = judge
        self.settings = {"level": level, "resamples": resamples, "seed": seed}

    def evaluate(self, lines):
        dialogues = [self.parse(line) for line in lines if line.strip() != ""]
        if len(dialogues) == 0:
            raise ValueError("nothing to evaluate")
        scored = [(dialogue["category"], self.compare(dialogue)) for dialogue in dialogues]
        tallies = {category: Tally([s for c, s in scored if c == category]) for category, _ in scored}
        return {
            "overall": Tally([s for _, s in scored]).report(self.settings),
            "categories": {category: tally.report(self.settings) for category, tally in tallies.items()},
        }

    def parse(self, line):
        found = json.loads(line)
        if not hasattr(found, "keys") or any(not isinstance(found.get(key), str) for key in self.KEYS):
            raise ValueError("not a dialogue")
        return found

    def compare(self, dialogue):
        a, b = dialogue["reply_a"], dialogue["reply_b"]
        votes = [
            {"first": "a", "second": "b", "tie": "tie"}.get(self.judge(dialogue["prompt"], a, b)),
            {"first": "b", "second": "a", "tie": "tie"}.get(self.judge(dialogue["prompt"], b, a)),
        ]
        if None in votes:
            raise ValueError("the judge must say first, second or tie")
        if votes[0] != votes[1]:
            return 0.5
        return {"a": 1.0, "b": 0.0, "tie": 0.5}[votes[0]]
