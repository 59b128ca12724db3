"""Plain loops over preallocated arrays, one thing at a time."""

import random
from collections import namedtuple

import numpy as np
import torch

Adapter = namedtuple("Adapter", ["lora_A", "lora_B", "alpha"])


def _checked_total(adapters, samples):
    total = 0
    for n in samples:
        total += n
    if total == 0 or len(adapters) == 0 or len(samples) != len(adapters):
        raise ValueError("bad clients")
    return total


def _same_kind(adapters):
    for other in adapters[1:]:
        if other.lora_A.shape[0] != adapters[0].lora_A.shape[0]:
            raise ValueError("ranks differ")
        if other.alpha != adapters[0].alpha:
            raise ValueError("alphas differ")


def fedavg_factors(adapters, samples):
    total = _checked_total(adapters, samples)
    _same_kind(adapters)
    A = torch.zeros_like(adapters[0].lora_A)
    B = torch.zeros_like(adapters[0].lora_B)
    for k in range(len(adapters)):
        A += adapters[k].lora_A * samples[k] / total
        B += adapters[k].lora_B * samples[k] / total
    return Adapter(A, B, adapters[0].alpha)


def fedavg_exact(adapters, samples):
    mean = fedavg_factors(adapters, samples)
    total = _checked_total(adapters, samples)
    residual = -(mean.lora_B @ mean.lora_A)
    for k in range(len(adapters)):
        residual += (samples[k] / total) * (adapters[k].lora_B @ adapters[k].lora_A)
    residual *= mean.alpha / mean.lora_A.shape[0]
    return mean, residual


def stack_adapters(adapters, samples):
    total = _checked_total(adapters, samples)
    ranks = [adapter.lora_A.shape[0] for adapter in adapters]
    A = adapters[0].lora_A.new_empty(sum(ranks), adapters[0].lora_A.shape[1])
    B = adapters[0].lora_B.new_empty(adapters[0].lora_B.shape[0], sum(ranks))
    at = sum(ranks)
    for adapter, n, r in zip(adapters, samples, ranks, strict=True):  # from the end to the beginning
        A[at - r : at] = adapter.lora_A
        B[:, at - r : at] = adapter.lora_B * (n / total * adapter.alpha / r * sum(ranks))
        at -= r
    return Adapter(A, B, 1.0)


class LoRAGenerator(torch.nn.Module):
    def __init__(self, task_dim, num_layers, num_experts, in_features, out_features, rank, alpha, top_k):
        super().__init__()
        if top_k not in range(1, num_experts + 1):
            raise ValueError("top_k")
        self.sizes = num_layers, num_experts
        self.alpha, self.rank, self.top_k = alpha, rank, top_k
        self.gate = torch.nn.Parameter(torch.randn(num_layers, num_experts, task_dim))
        self.bank_A = torch.nn.Parameter(torch.rand(num_experts, rank, in_features) - 0.5)
        self.bank_B = torch.nn.Parameter(torch.zeros(num_experts, out_features, rank))

    def route(self, task):
        rows = []
        for layer in range(self.sizes[0]):
            logits = self.gate[layer] @ task
            chosen = set(torch.argsort(logits)[-self.top_k :].tolist())
            highest = logits.max().detach()
            parts = [torch.exp(logits[e] - highest) if e in chosen else logits.new_zeros(()) for e in range(self.sizes[1])]
            total = torch.stack(parts).sum()
            rows.append(torch.stack([part / total for part in parts]))
        return torch.stack(rows)

    def forward(self, task):
        g = self.route(task)
        A, B = [], []
        for layer in range(self.sizes[0]):
            A.append(sum(g[layer, e] * self.bank_A[e] for e in range(self.sizes[1])))
            B.append(sum(g[layer, e] * self.bank_B[e] for e in range(self.sizes[1])))
        return torch.stack(A), torch.stack(B)

    def reparameterize(self, task, weights):
        if len(weights) != self.sizes[0]:
            raise ValueError("one weight for each layer")
        A, B = self(task)
        merged = []
        for layer in range(self.sizes[0]):
            merged.append(weights[layer] + (B[layer] @ A[layer]) * self.alpha / self.rank)
        return merged


def generate_reply(
    model, tokenizer, template, message, max_new_tokens, history=(), top_p=None, temperature=1.0, uniform=random.random
):
    if temperature <= 0:
        raise ValueError("temperature")
    if top_p is not None and not (0 < top_p <= 1):
        raise ValueError("top_p")
    before, after = template.split("{message}")
    ids = []
    for user, bot in history:
        ids = ids + tokenizer.encode(before + user + after + bot) + [tokenizer.eos_id]
    ids = ids + tokenizer.encode(before + message + after)
    count = len(ids)
    is_module = isinstance(model, torch.nn.Module)
    mode = is_module and model.training
    if is_module:
        model.train(False)
    for _ in range(max_new_tokens):
        with torch.no_grad():
            logits = model(torch.tensor([ids], dtype=torch.long))
        scores = logits[0, -1].numpy().astype(np.float64)
        if top_p is None:
            token = int(np.argmax(scores))
        else:
            scores = scores / temperature
            probabilities = np.exp(scores - scores.max())
            probabilities /= probabilities.sum()
            order = np.argsort(-probabilities)
            kept = order[: np.searchsorted(np.cumsum(probabilities[order]), top_p) + 1]
            inner = np.cumsum(probabilities[kept]) / probabilities[kept].sum()
            token = int(kept[min(np.searchsorted(inner, uniform(), side="right"), len(kept) - 1)])
        if token == tokenizer.eos_id:
            break
        ids = [*ids, token]
    if is_module:
        model.train(mode)
    return tokenizer.decode(ids[count:])


def clip_and_noise(updates, clip, noise_multiplier, noise):
    if not updates or clip <= 0 or noise_multiplier < 0:
        raise ValueError("bad arguments")
    clipped = []
    for update in updates:
        squares = 0.0
        for value in update.values():
            squares += float((value.double() * value.double()).sum())
        norm = np.sqrt(squares)
        if norm > clip:
            update = {name: value * (clip / norm) for name, value in update.items()}
        clipped.append(update)
    result = {}
    for name in noise:
        total = noise[name] * (noise_multiplier * clip)
        for update in clipped:
            total = total + update[name]
        result[name] = total / len(clipped)
    return result


class NewTokenRows(torch.nn.Module):
    def __init__(self, base, num_new):
        super().__init__()
        for parameter in base.parameters():
            parameter.requires_grad_(False)
        self.base = base
        start = base.weight.data.sum(0) / base.weight.shape[0]
        self.new_rows = torch.nn.Parameter(torch.stack([start] * num_new))

    def forward(self, ids):
        flat = ids.reshape(-1)
        V = self.base.weight.shape[0]
        rows = [self.base.weight[i] if i < V else self.new_rows[i - V] for i in flat.tolist()]
        return torch.stack(rows).reshape(*ids.shape, -1)

    def logits(self, hidden):
        whole = torch.vstack((self.base.weight, self.new_rows))
        return torch.matmul(hidden, whole.transpose(0, 1))

    def state_to_save(self):
        return dict(new_rows=torch.clone(self.new_rows).detach())
