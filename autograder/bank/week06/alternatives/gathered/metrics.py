"""Gathered log-probabilities and boolean masks; regular expressions; explicit branches for the scaler."""

import json
import math
import re
import unicodedata
from collections import Counter, defaultdict

import torch
from torch.nn.utils.rnn import pad_sequence

ROLES = ["system", "user", "assistant"]


def merge_error(base, delta, dtype):
    if tuple(base.shape) != tuple(delta.shape):
        raise ValueError("shapes")
    d = delta.to(torch.float64)
    nonzero = d.ne(0)
    if nonzero.sum() == 0:
        raise ValueError("no update")
    w = base.to(dtype).to(torch.float64)
    m = (w + d).to(dtype).to(torch.float64)
    unchanged = torch.logical_and(m.eq(w), nonzero)
    residual = m - (w + d)
    return {
        "max_error": float(torch.linalg.vector_norm(residual, ord=math.inf)),
        "relative_error": float(torch.sqrt(residual.square().sum() / d.square().sum())),
        "lost": unchanged.sum().item() / nonzero.sum().item(),
    }


def normalize_answer(text, lang="en"):
    if lang != "en" and lang != "zh":
        raise ValueError("unknown language")
    out = unicodedata.normalize("NFKC", text)
    out = out.lower()
    out = "".join(ch for ch in out if not unicodedata.category(ch).startswith(("P", "S")))
    if lang == "zh":
        return re.sub(r"\s+", "", out)
    out = re.sub(r"(?<!\S)(?:a|an|the)(?!\S)", " ", out)
    return re.sub(r"\s+", " ", out).strip()


def exact_match(prediction, references, lang="en"):
    if len(references) < 1:
        raise ValueError("no references")
    wanted = {normalize_answer(r, lang) for r in references}
    return 1.0 if normalize_answer(prediction, lang) in wanted else 0.0


def token_f1(prediction, references, lang="en"):
    if len(references) < 1:
        raise ValueError("no references")
    best = 0.0
    predicted = _tokenise(prediction, lang)
    for r in references:
        gold = _tokenise(r, lang)
        if len(predicted) == 0 or len(gold) == 0:
            f1 = 1.0 if len(predicted) == len(gold) else 0.0
        else:
            left, right = Counter(predicted), Counter(gold)
            overlap = sum(min(left[word], right[word]) for word in left)
            if overlap == 0:
                f1 = 0.0
            else:
                precision = overlap / len(predicted)
                recall = overlap / len(gold)
                f1 = 2 * precision * recall / (precision + recall)
        best = max(best, f1)
    return best


def _tokenise(text, lang):
    clean = normalize_answer(text, lang)
    return [ch for ch in clean] if lang == "zh" else clean.split(" ") if clean else []


def _log_probs(logits, labels):
    """The log-probabilities of the labelled tokens, flat."""
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    logp = logits.log_softmax(dim=-1)
    target = labels[..., 1:]
    wanted = target != -100
    picked = logp[..., :-1, :].gather(-1, target.masked_fill(~wanted, 0).unsqueeze(-1)).squeeze(-1)
    return picked[wanted]


def perplexity(batches):
    everything = [_log_probs(logits, labels).double() for logits, labels in batches]
    n = sum(part.numel() for part in everything)
    if n == 0:
        raise ValueError("nothing to predict")
    return float(torch.exp(-sum(part.sum() for part in everything) / n))


@torch.no_grad()
def sliding_window_perplexity(model, input_ids, window, stride):
    if stride < 1 or stride >= window:
        raise ValueError("stride")
    length = input_ids.numel()
    if length < 2:
        raise ValueError("too short")
    scores = torch.zeros(length, dtype=torch.float64)
    start, previous_end = 0, 1
    while True:
        end = min(start + window, length)
        chunk = input_ids[start:end].unsqueeze(0)
        logp = model(chunk).log_softmax(-1)[0]
        for position in range(previous_end, end):
            scores[position] = logp[position - start - 1, input_ids[position]]
        previous_end = end
        if end == length:
            break
        start += stride
    return float(torch.exp(-scores.sum() / (length - 1)))


def sft_collate(dialogues, tokenizer, max_length=None):
    all_ids, all_learn = [], []
    for dialogue in dialogues:
        ids, learn = [], []
        if not any(m["role"] == "assistant" for m in dialogue):
            raise ValueError("nothing to learn")
        for m in dialogue:
            if m["role"] not in ROLES:
                raise ValueError("role")
            for piece, counts in (
                (tokenizer.encode("<|" + m["role"] + "|>\n"), False),
                (tokenizer.encode(m["content"]), m["role"] == "assistant"),
                ([tokenizer.eos_token_id], m["role"] == "assistant"),
            ):
                ids.extend(piece)
                learn.extend([counts] * len(piece))
        if max_length is not None:
            ids, learn = ids[:max_length], learn[:max_length]
        all_ids.append(torch.tensor(ids, dtype=torch.long))
        all_learn.append(torch.tensor(learn))
    lengths = torch.tensor([len(i) for i in all_ids])
    input_ids = pad_sequence(all_ids, batch_first=True, padding_value=tokenizer.pad_token_id)
    learn = pad_sequence(all_learn, batch_first=True, padding_value=False)
    attention_mask = (torch.arange(input_ids.shape[1])[None] < lengths[:, None]).long()
    labels = torch.where(learn, input_ids, -100)
    return dict(labels=labels, input_ids=input_ids, attention_mask=attention_mask)


def train_step(model, batches, optimizer, autocast_dtype=None, scaler=None, max_grad_norm=None):
    wanted = [b["labels"][:, 1:].ne(-100).sum().item() for b in batches]
    n = sum(wanted)
    if n < 1:
        raise ValueError("nothing to predict")
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = None
    losses = []
    for b in batches:
        if autocast_dtype is None:
            logits = model(b["input_ids"], b["attention_mask"])
        else:
            with torch.autocast(device_type=b["input_ids"].device.type, dtype=autocast_dtype):
                logits = model(b["input_ids"], b["attention_mask"])
        loss = -_log_probs(logits, b["labels"]).sum() / n
        losses.append(loss.detach())
        if scaler is None:
            loss.backward()
        else:
            scaler.scale(loss).backward()
    params = [p for group in optimizer.param_groups for p in group["params"]]
    if scaler is not None:
        scaler.unscale_(optimizer)
    if max_grad_norm is not None:
        torch.nn.utils.clip_grad_norm_(params, max_grad_norm)
    if scaler is not None:
        scaler.step(optimizer)
        scaler.update()
    else:
        optimizer.step()
    return float(sum(losses))


def bootstrap_ci(values, level=0.95, resamples=2000, seed=0):
    if not values or level <= 0 or level >= 1:
        raise ValueError("values or level")
    data = torch.tensor(values, dtype=torch.float64)
    g = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(data), (resamples, len(data)), generator=g)
    means = data[picks].mean(1)
    tail = (1 - level) / 2
    return torch.quantile(means, tail).item(), torch.quantile(means, 1 - tail).item()


class DialogueEvaluator:
    def __init__(self, judge, level=0.95, resamples=2000, seed=0):
        self._judge = judge
        self._settings = (level, resamples, seed)

    def evaluate(self, lines):
        groups = defaultdict(list)
        results = []
        for line in lines:
            line = line.strip()
            if not line:
                continue
            d = json.loads(line)
            try:
                fields = [d[k] for k in ("category", "prompt", "reply_a", "reply_b")]
            except (KeyError, TypeError):
                raise ValueError("not a dialogue") from None
            if not all(isinstance(f, str) for f in fields):
                raise ValueError("strings please")
            category, prompt, a, b = fields
            forwards = self._ask(prompt, a, b)
            backwards = self._ask(prompt, b, a)
            if forwards == "first" and backwards == "second":
                outcome = "win"
            elif forwards == "second" and backwards == "first":
                outcome = "loss"
            else:
                outcome = "tie"
            results.append(outcome)
            groups[category].append(outcome)
        if not results:
            raise ValueError("no dialogues")
        return {"overall": self._summary(results), "categories": {c: self._summary(r) for c, r in groups.items()}}

    def _ask(self, prompt, first, second):
        answer = self._judge(prompt, first, second)
        if answer not in ("first", "second", "tie"):
            raise ValueError("judge")
        return answer

    def _summary(self, results):
        count = Counter(results)
        points = [{"win": 1, "tie": 0.5, "loss": 0}[r] for r in results]
        low, high = bootstrap_ci(points, *self._settings)
        return {
            "n": len(results), "wins": count["win"], "ties": count["tie"], "losses": count["loss"],
            "win_rate": sum(points) / len(points), "low": low, "high": high,
        }  # fmt: skip
