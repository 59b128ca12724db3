"""Helpers beside the file; the residual as a covariance of the factors; stacking with square roots on both sides."""

import math
import random
from typing import NamedTuple

import decoding
import torch
from torch import Tensor, nn


class Adapter(NamedTuple):
    lora_A: Tensor
    lora_B: Tensor
    alpha: float

    @property
    def rank(self):
        return self.lora_A.shape[0]


class Federation:
    """The clients and their weights."""

    def __init__(self, adapters, samples):
        self.adapters = tuple(adapters)
        if not self.adapters or len(samples) != len(self.adapters) or not any(samples):
            raise ValueError("a federation needs clients with samples")
        self.weights = [n / math.fsum(samples) for n in samples]

    def require_equal(self):
        kinds = {(a.rank, float(a.alpha)) for a in self.adapters}
        if len(kinds) != 1:
            raise ValueError("ranks and alphas must agree")
        return self

    def mean(self, part):
        tensors = [part(a) * w for a, w in zip(self.adapters, self.weights, strict=True)]
        return torch.stack(tensors).sum(dim=0)

    def average(self):
        return Adapter(self.mean(lambda a: a.lora_A), self.mean(lambda a: a.lora_B), self.adapters[0].alpha)


def fedavg_factors(adapters, samples):
    return Federation(adapters, samples).require_equal().average()


def fedavg_exact(adapters, samples):
    federation = Federation(adapters, samples).require_equal()
    centre = federation.average()
    spread = federation.mean(lambda a: (a.lora_B - centre.lora_B) @ (a.lora_A - centre.lora_A))
    return centre, spread * (centre.alpha / centre.rank)


def stack_adapters(adapters, samples):
    federation = Federation(adapters, samples)
    below, beside = [], []
    for adapter, weight in zip(federation.adapters, federation.weights, strict=True):
        scale = weight * adapter.alpha / adapter.rank
        root = math.sqrt(abs(scale))
        below.insert(0, root * adapter.lora_A)
        beside.insert(0, math.copysign(root, scale) * adapter.lora_B)
    A = torch.cat(below)
    return Adapter(A, torch.cat(beside, dim=1), float(A.shape[0]))


class LoRAGenerator(nn.Module):
    def __init__(
        self, task_dim, num_layers, num_experts, in_features, out_features, rank, alpha, top_k
    ):
        if not (isinstance(top_k, int) and 0 < top_k <= num_experts):
            raise ValueError(f"{top_k} of {num_experts} experts")
        super().__init__()
        self.scale = alpha / rank
        self.keep = top_k
        gate = [nn.Linear(task_dim, num_experts).weight.detach() for _ in range(num_layers)]
        self.gate = nn.Parameter(torch.stack(gate))
        experts = torch.empty(num_experts, rank, in_features)
        for expert in experts:
            nn.init.kaiming_uniform_(expert, a=math.sqrt(5))
        self.register_parameter("bank_A", nn.Parameter(experts))
        self.register_parameter("bank_B", nn.Parameter(torch.zeros(num_experts, out_features, rank)))

    @property
    def num_layers(self):
        return len(self.gate)

    def route(self, task):
        whole = (self.gate @ task).softmax(dim=-1)
        best = whole.topk(self.keep, dim=-1).indices
        chosen = torch.zeros_like(whole).scatter_(-1, best, 1.0) * whole
        return chosen / chosen.sum(dim=-1, keepdim=True)  # the softmax over the chosen ones alone

    def forward(self, task):
        g = self.route(task)

        def mix(bank):
            return (g @ bank.flatten(1)).unflatten(1, bank.shape[1:])

        return mix(self.bank_A), mix(self.bank_B)

    def reparameterize(self, task, weights):
        if len(weights) != self.num_layers:
            raise ValueError(f"{self.num_layers} layers")
        A, B = self(task)
        return [torch.addmm(W, b, a, alpha=self.scale) for W, b, a in zip(weights, B, A, strict=True)]


def generate_reply(
    model, tokenizer, template, message, max_new_tokens, history=(), top_p=None, temperature=1.0, uniform=random.random
):
    if top_p is None:
        choose = decoding.Greedy()
    else:
        choose = decoding.Nucleus(top_p, temperature, uniform)
    if temperature <= 0:
        raise ValueError("temperature must be positive")
    turns = [(said, replied) for said, replied in history] + [(message, None)]
    with decoding.evaluation(model):
        new = decoding.decode(model, decoding.prompt(tokenizer, template, turns), choose, tokenizer.eos_id, max_new_tokens)
    return tokenizer.decode(new)


def clip_and_noise(updates, clip, noise_multiplier, noise):
    if clip <= 0 or noise_multiplier < 0:
        raise ValueError("clip and noise_multiplier")
    count = len(updates)
    if count == 0:
        raise ValueError("no updates")
    norms = [torch.stack([value.norm() for value in update.values()]).norm().item() for update in updates]
    factors = [min(1.0, clip / norm) if norm else 1.0 for norm in norms]
    average = {}
    for name, draw in noise.items():
        clipped = torch.stack([factor * update[name] for factor, update in zip(factors, updates, strict=True)])
        average[name] = clipped.mean(dim=0) + noise_multiplier * clip / count * draw
    return average


class NewTokenRows(nn.Module):
    def __init__(self, base, num_new):
        super().__init__()
        self.base = base
        self.base.weight.requires_grad_(False)
        self.new_rows = nn.Parameter(torch.empty(num_new, base.embedding_dim, dtype=base.weight.dtype))
        with torch.no_grad():
            self.new_rows.copy_(base.weight.mean(dim=0))

    @property
    def table(self):
        return torch.cat((self.base.weight, self.new_rows), dim=0)

    def forward(self, ids):
        return nn.functional.embedding(ids, self.table)

    def logits(self, hidden):
        return nn.functional.linear(hidden, self.table)

    def state_to_save(self):
        return {name: p.detach().clone() for name, p in self.named_parameters() if p.requires_grad}
