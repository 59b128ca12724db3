"""NumPy and plain loops wherever no gradient is needed; one position at a time."""

import json
import random
import string
import unicodedata

import numpy as np
import torch


def merge_error(base, delta, dtype):
    if base.ndim != delta.ndim or any(p != q for p, q in zip(base.shape, delta.shape)):
        raise ValueError("base and delta must have one shape")
    stored = base.detach().to(dtype).reshape(-1)
    update = delta.detach().double().numpy().reshape(-1)
    if not np.any(update):
        raise ValueError("delta must not be zero everywhere")
    before = stored.double().numpy()
    wanted = before + update
    after = torch.tensor(wanted).to(dtype).double().numpy()
    gone, touched, worst, missed, size = 0, 0, 0.0, 0.0, 0.0
    for w, u, m, s in zip(before, update, after, wanted):
        if u != 0:
            touched += 1
            gone += int(m == w)
        worst = max(worst, abs(m - s))
        missed += (m - w - u) ** 2
        size += u**2
    return {"lost": gone / touched, "relative_error": float((missed / size) ** 0.5), "max_error": float(worst)}


def normalize_answer(text, lang="en"):
    if lang not in {"en", "zh"}:
        raise ValueError(lang)
    kept = []
    for character in unicodedata.normalize("NFKC", text).lower():
        if character in string.punctuation or unicodedata.category(character)[:1] in ("P", "S"):
            continue
        kept.append(character)
    words = "".join(kept).split()
    if lang == "en":
        words = [word for word in words if word != "a" and word != "an" and word != "the"]
    glue = {"en": " ", "zh": ""}[lang]
    return glue.join(words)


def exact_match(prediction, references, lang="en"):
    scores = [normalize_answer(prediction, lang) == normalize_answer(reference, lang) for reference in references]
    if not scores:
        raise ValueError("references")
    return max(scores)


def token_f1(prediction, references, lang="en"):
    scores = []
    for reference in references:
        p = normalize_answer(prediction, lang)
        r = normalize_answer(reference, lang)
        p, r = (list(p), list(r)) if lang == "zh" else (p.split(), r.split())
        total = len(p) + len(r)
        if not p or not r:
            scores.append(1 if total == 0 else 0)
            continue
        shared = 0
        for token in p:
            if token in r:
                r.remove(token)
                shared += 1
        scores.append(2 * shared / total)
    if not scores:
        raise ValueError("references")
    return max(scores)


def _nll(row_logits, token):
    """-log softmax(row_logits)[token], with NumPy."""
    largest = row_logits.max()
    return float(np.log(np.exp(row_logits - largest).sum()) + largest - row_logits[token])


def perplexity(batches):
    losses = []
    for logits, labels in batches:
        for row, targets in zip(logits.detach().double().numpy(), labels.tolist()):
            for t in range(1, len(targets)):
                if targets[t] != -100:
                    losses.append(_nll(row[t - 1], targets[t]))
    if not losses:
        raise ValueError("no tokens")
    return float(np.exp(np.mean(losses)))


def sliding_window_perplexity(model, input_ids, window, stride):
    if not (0 < stride and stride < window):
        raise ValueError("the windows must overlap")
    tokens = input_ids.tolist()
    if len(tokens) <= 1:
        raise ValueError("nothing to predict")
    losses = {}
    for begin in range(0, len(tokens), stride):
        part = tokens[begin : begin + window]
        with torch.no_grad():
            logits = model(torch.tensor([part])).double().numpy()[0]
        for offset in range(1, len(part)):
            losses.setdefault(begin + offset, _nll(logits[offset - 1], part[offset]))
        if begin + window >= len(tokens):
            break
    return float(np.exp(sum(losses.values()) / (len(tokens) - 1)))


def sft_collate(dialogues, tokenizer, max_length=None):
    rows = []
    for messages in dialogues:
        pairs = []  # (id, label)
        learned = 0
        for message in messages:
            role, content = message["role"], message["content"]
            if role not in ("system", "user", "assistant"):
                raise ValueError(role)
            for i in tokenizer.encode(f"<|{role}|>\n"):
                pairs.append((i, -100))
            for i in list(tokenizer.encode(content)) + [tokenizer.eos_token_id]:
                pairs.append((i, i if role == "assistant" else -100))
            learned += role == "assistant"
        if learned == 0:
            raise ValueError("no assistant")
        rows.append(pairs if max_length is None else pairs[:max_length])
    longest = max(map(len, rows))
    ids = np.full((len(rows), longest), tokenizer.pad_token_id, dtype=np.int64)
    mask = np.zeros((len(rows), longest), dtype=np.int64)
    labels = np.full((len(rows), longest), -100, dtype=np.int64)
    for n, pairs in enumerate(rows):
        for t, (i, label) in enumerate(pairs):
            ids[n, t], labels[n, t], mask[n, t] = i, label, 1
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask), "labels": torch.from_numpy(labels)}


def train_step(model, batches, optimizer, autocast_dtype=None, scaler=None, max_grad_norm=None):
    optimizer_params = [p for group in optimizer.param_groups for p in group["params"]]
    n_tokens = 0
    for batch in batches:
        for row in batch["labels"].tolist():
            n_tokens += sum(label != -100 for label in row[1:])
    if not n_tokens:
        raise ValueError("no tokens")
    model.zero_grad()
    summed = 0.0
    for batch in batches:
        device = batch["input_ids"].device.type
        with torch.autocast(device, dtype=autocast_dtype or torch.bfloat16, enabled=autocast_dtype is not None):
            out = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        out = out if out.dtype == torch.float64 else out.float()
        loss = out.sum() * 0.0
        for row, targets in zip(out, batch["labels"]):
            for t in range(1, len(targets)):
                if targets[t] != -100:
                    loss = loss + torch.logsumexp(row[t - 1], 0) - row[t - 1, targets[t]]
        if scaler is not None:
            scaler.scale(loss).backward()
        else:
            loss.backward()
        summed += loss.item()
    if scaler is not None:
        scaler.unscale_(optimizer)
    for p in optimizer_params:  # from the gradient of a sum to that of a mean
        p.grad.div_(n_tokens)
    if max_grad_norm is not None:
        norm = torch.stack([p.grad.norm() for p in optimizer_params]).norm()
        if norm > max_grad_norm:
            for p in optimizer_params:
                p.grad.mul_(max_grad_norm / norm)
    if scaler is not None:
        scaler.step(optimizer)
        scaler.update()
    else:
        optimizer.step()
    return summed / n_tokens


def bootstrap_ci(values, level=0.95, resamples=2000, seed=0):
    values = list(values)
    if not values:
        raise ValueError("values")
    if level >= 1 or level <= 0:
        raise ValueError("level")
    rng = random.Random(seed)
    means = sorted(sum(rng.choices(values, k=len(values))) / len(values) for _ in range(resamples))
    below = int((1 - level) / 2 * resamples)
    return means[below], means[resamples - 1 - below]


class DialogueEvaluator:
    def __init__(self, judge, level=0.95, resamples=2000, seed=0):
        self.judge = judge
        self.level = level
        self.resamples = resamples
        self.seed = seed

    def evaluate(self, lines):
        points = {}
        order = []
        for text in lines:
            if text.isspace() or text == "":
                continue
            entry = json.loads(text)
            if not isinstance(entry, dict):
                raise ValueError("an object is needed")
            for key in ("category", "prompt", "reply_a", "reply_b"):
                if key not in entry or type(entry[key]) is not str:
                    raise ValueError(key)
            value = 0
            for first, second, sign in ((entry["reply_a"], entry["reply_b"], 1), (entry["reply_b"], entry["reply_a"], -1)):
                word = self.judge(entry["prompt"], first, second)
                if word == "first":
                    value += sign
                elif word == "second":
                    value -= sign
                elif word != "tie":
                    raise ValueError(word)
            point = 1.0 if value == 2 else 0.0 if value == -2 else 0.5
            order.append(point)
            points.setdefault(entry["category"], []).append(point)
        if order == []:
            raise ValueError("no dialogues")
        report = {"overall": None, "categories": {}}
        report["overall"] = self.figures(order)
        for name in sorted(points):
            report["categories"][name] = self.figures(points[name])
        return report

    def figures(self, points):
        low, high = bootstrap_ci(points, level=self.level, resamples=self.resamples, seed=self.seed)
        wins, ties, losses = points.count(1.0), points.count(0.5), points.count(0.0)
        n = wins + ties + losses
        rate = (wins + 0.5 * ties) / n
        return {"n": n, "wins": wins, "ties": ties, "losses": losses, "win_rate": rate, "low": low, "high": high}
