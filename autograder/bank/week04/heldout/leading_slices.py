# mutant: shrink_slices_rows

from collections import defaultdict

import torch
from torch import nn
from torch.nn import functional as F


def checked_rank(rank, linear):
    if not isinstance(rank, int) or rank < 1 or rank > linear.in_features or rank > linear.out_features:
        raise ValueError(f"cannot use rank {rank} in a {linear.in_features} to {linear.out_features} layer")
    return rank


class LoRALinear(nn.Module):
    merged = False
    enabled = True

    def __init__(self, base, rank, alpha, dropout=0.0):
        super().__init__()
        if dropout < 0 or dropout >= 1:
            raise ValueError("dropout")
        self.rank = checked_rank(rank, base)
        self.alpha = alpha
        self.base = base.requires_grad_(False)
        self.branch_dropout = nn.Dropout(dropout)
        weight = base.weight.detach()
        self.lora_A = nn.Parameter(weight.new_empty(rank, base.in_features).uniform_(-0.1, 0.1))
        self.lora_B = nn.Parameter(weight.new_zeros(base.out_features, rank))
        self.scaling = alpha / rank

    def update(self):
        return torch.mm(self.lora_B, self.lora_A) * self.scaling

    def forward(self, x):
        if self.merged or not self.enabled:
            return self.base(x)
        if self.training and self.branch_dropout.p > 0:
            return self.base(x) + F.linear(self.branch_dropout(x), self.update())
        return F.linear(x, self.base.weight + self.update(), self.base.bias)

    def merge(self):
        if not self.merged:
            with torch.no_grad():
                self.base.weight.copy_(self.base.weight + self.update())
        self.merged = True

    def unmerge(self):
        if self.merged:
            with torch.no_grad():
                self.base.weight.copy_(self.base.weight - self.update())
        self.merged = False

    @torch.no_grad()
    def set_rank(self, new_rank):
        checked_rank(new_rank, self.base)
        if self.merged:
            raise RuntimeError("a merged layer keeps its rank")
        A, B = self.lora_A, self.lora_B
        if new_rank > self.rank:
            more = new_rank - self.rank
            A = torch.cat([A, A.new_empty(more, A.shape[1]).uniform_(-0.1, 0.1)])
            B = torch.cat([B, B.new_zeros(B.shape[0], more)], 1) * (new_rank / self.rank)
        elif new_rank < self.rank:
            A = A.narrow(0, 0, new_rank) * (new_rank / self.rank)
            B = B.narrow(1, 0, new_rank)
        self.lora_A = nn.Parameter(A.detach().clone())
        self.lora_B = nn.Parameter(B.detach().clone())
        self.rank, self.scaling = new_rank, self.alpha / new_rank


def inject_lora(model, target_modules, rank, alpha, dropout=0.0):
    targets = set(target_modules)
    before = [layer for layer in model.modules() if isinstance(layer, LoRALinear)]
    places = defaultdict(list)  # linear -> the (name, target) pairs where it stands
    found = set()
    inside = {
        f"{name}.base" if name else "base"
        for name, layer in model.named_modules(remove_duplicate=False)
        if isinstance(layer, LoRALinear)
    }
    for name, module in model.named_modules(remove_duplicate=False):
        suffixes = [name]
        while "." in suffixes[-1]:
            suffixes.append(suffixes[-1].split(".", 1)[1])
        hits = [s for s in suffixes if s in targets]
        if hits and name not in inside and isinstance(module, (nn.Linear, LoRALinear)):
            found.update(hits)
            if isinstance(module, nn.Linear):
                places[module].append((name, hits[0]))
    if found != targets:
        raise ValueError(f"no layer for {targets - found}")

    for parameter in model.parameters():
        parameter.requires_grad = False
    layers = {layer.base: layer for layer in before}
    names = []
    for linear, entries in places.items():
        if linear not in layers:
            r = rank if isinstance(rank, int) else rank[entries[0][1]]
            layers[linear] = LoRALinear(linear, r, alpha, dropout)
        for name, _ in entries:
            where, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(where), attribute, layers[linear])
            names.append(name)
    for layer in layers.values():
        layer.lora_A.requires_grad = True
        layer.lora_B.requires_grad = True
    return sorted(names)
