"""Accumulators and text helpers that metrics.py uses."""

import unicodedata

import torch
import torch.nn.functional as F


class Likelihood:
    """Adds up negative log-likelihoods, one batch after the other."""

    def __init__(self):
        self.nats, self.tokens = 0.0, 0

    def add(self, logits, labels):
        loss, number = summed_loss(logits, labels)
        self.nats += float(loss)
        self.tokens += number

    def perplexity(self):
        if not self.tokens:
            raise ValueError("there is nothing to predict")
        return float(torch.tensor(self.nats / self.tokens, dtype=torch.float64).exp())


def summed_loss(logits, labels):
    """Moves the labels one to the left, so that they stand beside the logits that predict them."""
    moved = torch.full_like(labels, -100)
    moved[:, :-1] = labels[:, 1:]
    if logits.element_size() < 4:
        logits = logits.to(torch.float32)
    losses = F.cross_entropy(logits.transpose(1, 2), moved, ignore_index=-100, reduction="none")
    return losses.sum(), int(torch.count_nonzero(moved != -100))


DROPPED = {category + kind for category in "PS" for kind in "cdsefiomk"}


class Cleaner:
    def __init__(self, lang):
        if lang not in ("en", "zh"):
            raise ValueError(f"no rules for {lang!r}")
        self.lang = lang

    def clean(self, text):
        folded = unicodedata.normalize("NFKC", text).lower()
        table = {ord(c): None for c in set(folded) if unicodedata.category(c) in DROPPED}
        return self.join(folded.translate(table).split())

    def join(self, words):
        if self.lang == "zh":
            return "".join(words)
        return " ".join(filter(lambda word: word not in {"the", "an", "a"}, words))

    def tokens(self, text):
        cleaned = self.clean(text)
        return list(cleaned) if self.lang == "zh" else cleaned.split()


def overlap_f1(p, g):
    p, g = sorted(p), sorted(g)
    if not p and not g:
        return 1.0
    i = j = both = 0
    while i < len(p) and j < len(g):
        if p[i] == g[j]:
            both, i, j = both + 1, i + 1, j + 1
        elif p[i] < g[j]:
            i += 1
        else:
            j += 1
    if not both:
        return 0.0
    return 2 / (len(p) / both + len(g) / both)
