"""Stacked tensors and einsum; softmax over masked logits; a list of pieces for the prompt."""

import random
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn


class Adapter(NamedTuple):
    lora_A: torch.Tensor
    lora_B: torch.Tensor
    alpha: float


def shares(adapters, samples, like=True):
    if len(adapters) == 0:
        raise ValueError("no clients")
    if len(adapters) != len(samples):
        raise ValueError("lengths")
    counts = torch.tensor(samples, dtype=torch.float64)
    if counts.sum() <= 0:
        raise ValueError("no samples")
    if like:
        for a in adapters:
            if a.lora_A.shape != adapters[0].lora_A.shape or a.alpha != adapters[0].alpha:
                raise ValueError("clients differ")
    return counts / counts.sum()


def fedavg_factors(adapters, samples):
    w = shares(adapters, samples)
    A = torch.stack([a.lora_A for a in adapters])
    B = torch.stack([a.lora_B for a in adapters])
    mean_A = torch.einsum("k,kri->ri", w, A.double())
    mean_B = torch.einsum("k,kor->or", w, B.double())
    return Adapter(mean_A.to(A.dtype), mean_B.to(B.dtype), adapters[0].alpha)


def fedavg_exact(adapters, samples):
    w = shares(adapters, samples)
    A = torch.stack([a.lora_A for a in adapters])
    B = torch.stack([a.lora_B for a in adapters])
    mean_A = torch.einsum("k,kri->ri", w, A.double())
    mean_B = torch.einsum("k,kor->or", w, B.double())
    products = torch.einsum("k,kor,kri->oi", w, B.double(), A.double())
    alpha = adapters[0].alpha
    scale = alpha / A.shape[1]
    residual = scale * products - scale * torch.einsum("or,ri->oi", mean_B, mean_A)
    return Adapter(mean_A.to(A.dtype), mean_B.to(B.dtype), alpha), residual.to(A.dtype)


def stack_adapters(adapters, samples):
    w = shares(adapters, samples, like=False)
    rows, columns = [], []
    for weight, (A, B, alpha) in zip(w.tolist(), adapters, strict=True):
        factor = weight * alpha / A.shape[0]
        rows.append(A * factor)
        columns.append(B)
    total = sum(len(r) for r in rows)
    return Adapter(torch.vstack(rows), torch.hstack(columns), total * 1.0)


class LoRAGenerator(nn.Module):
    def __init__(self, task_dim, num_layers, num_experts, in_features, out_features, rank, alpha, top_k):
        super().__init__()
        if top_k < 1 or top_k > num_experts:
            raise ValueError("top_k")
        self.alpha = alpha
        self.top_k = top_k
        self.gate = nn.Parameter(torch.empty(num_layers, num_experts, task_dim).uniform_(-1, 1))
        self.bank_A = nn.Parameter(torch.empty(num_experts, rank, in_features).normal_(std=0.1))
        self.bank_B = nn.Parameter(torch.zeros(num_experts, out_features, rank))

    def route(self, task):
        logits = torch.einsum("let,t->le", self.gate, task)
        limit = logits.detach().sort(dim=1, descending=True).values[:, self.top_k - 1 : self.top_k]
        masked = logits.masked_fill(logits < limit, float("-inf"))
        return F.softmax(masked, dim=1)

    def forward(self, task):
        weights = self.route(task)
        A = torch.tensordot(weights, self.bank_A, dims=1)
        B = torch.tensordot(weights, self.bank_B, dims=1)
        return A, B

    def reparameterize(self, task, weights):
        if len(weights) != self.gate.shape[0]:
            raise ValueError("number of layers")
        A, B = self.forward(task)
        scale = self.alpha / self.bank_A.shape[1]
        updates = scale * torch.einsum("lor,lri->loi", B, A)
        return [weight + update for weight, update in zip(weights, updates, strict=True)]


def generate_reply(
    model, tokenizer, template, message, max_new_tokens, history=(), top_p=None, temperature=1.0, uniform=random.random
):
    if top_p is not None and (top_p <= 0 or top_p > 1):
        raise ValueError("top_p")
    if not temperature > 0:
        raise ValueError("temperature")
    prompt = []
    for user, bot in history:
        prompt.extend(tokenizer.encode(template.replace("{message}", user)))
        prompt.extend(tokenizer.encode(bot))
        prompt.append(tokenizer.eos_id)
    prompt.extend(tokenizer.encode(template.replace("{message}", message)))
    was_training = getattr(model, "training", None)
    if isinstance(model, nn.Module):
        model.eval()
    reply = []
    with torch.inference_mode():
        while len(reply) < max_new_tokens:
            logits = model(torch.tensor(prompt + reply).unsqueeze(0))[0, -1, :]
            if top_p is None:
                token = torch.argmax(logits).item()
            else:
                token = pick(F.softmax(logits / temperature, dim=0), top_p, uniform())
            if token == tokenizer.eos_id:
                break
            reply.append(token)
    if isinstance(model, nn.Module):
        model.train(was_training)
    return tokenizer.decode(reply)


def pick(probabilities, top_p, u):
    order = torch.argsort(probabilities, descending=True).tolist()
    nucleus, mass = [], 0.0
    for token in order:
        nucleus.append(token)
        mass += float(probabilities[token])
        if mass >= top_p:
            break
    reached = 0.0
    for token in nucleus:
        reached += float(probabilities[token])
        if reached > u * mass:
            return token
    return nucleus[-1]


def clip_and_noise(updates, clip, noise_multiplier, noise):
    if len(updates) == 0:
        raise ValueError("no updates")
    if not clip > 0:
        raise ValueError("clip")
    if noise_multiplier < 0:
        raise ValueError("noise_multiplier")
    total = {name: torch.zeros_like(value) for name, value in updates[0].items()}
    for update in updates:
        norm = sum((value.double() ** 2).sum() for value in update.values()) ** 0.5
        factor = 1.0 if norm <= clip else float(clip / norm)
        for name, value in update.items():
            total[name] = total[name] + factor * value
    sigma = noise_multiplier * clip
    return {name: (value + sigma * noise[name]) / len(updates) for name, value in total.items()}


class NewTokenRows(nn.Module):
    def __init__(self, base, num_new):
        super().__init__()
        base.weight.requires_grad = False
        self.base = base
        mean = base.weight.data.mean(0, keepdim=True)
        self.new_rows = nn.Parameter(mean.expand(num_new, -1).clone())

    def forward(self, ids):
        old = self.base.num_embeddings
        is_new = (ids >= old).unsqueeze(-1)
        known = self.base(ids.clamp(max=old - 1))
        fresh = F.embedding((ids - old).clamp(min=0), self.new_rows)
        return torch.where(is_new, fresh, known)

    def logits(self, hidden):
        old = F.linear(hidden, self.base.weight)
        return torch.cat([old, F.linear(hidden, self.new_rows)], dim=-1)

    def state_to_save(self):
        return {"new_rows": self.new_rows.data.clone()}
