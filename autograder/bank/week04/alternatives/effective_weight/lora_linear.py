"""Without dropout the layer is one product with W0 + dW; with dropout it is two."""

from collections import defaultdict

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


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
            # Eigenvectors of dW dW^T are the left singular vectors; the projection needs nothing else.
            delta = B.double() @ A.double()
            left = torch.linalg.svd(delta)[0][:, :new_rank]
            A = (left.T @ delta * (new_rank / self.rank)).to(A.dtype)
            B = left.to(B.dtype)
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


def checkpointed(block):
    """The block itself, with another forward."""
    inside = block.forward

    def forward(*args, **kwargs):
        if block.training and torch.is_grad_enabled():
            return checkpoint(inside, *args, use_reentrant=False, **kwargs)
        return inside(*args, **kwargs)

    block.forward = forward
    return block


def lora_plus_groups(model, lr, ratio=16.0):
    if lr <= 0:
        raise ValueError("lr")
    if ratio <= 0:
        raise ValueError("ratio")
    rate = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            rate[parameter] = lr
    for layer in model.modules():
        if isinstance(layer, LoRALinear) and layer.lora_B in rate:
            rate[layer.lora_B] = lr * ratio
    if not rate:
        raise ValueError("model")
    return [{"params": [parameter], "lr": value} for parameter, value in rate.items()]


class AdapterLinear(nn.Module):
    def __init__(self, base, size):
        super().__init__()
        self.base = base
        self.base.requires_grad_(False)
        weight = base.weight.detach()
        self.down = nn.Linear(base.out_features, size).type(weight.dtype)
        self.up = nn.Linear(size, base.out_features).type(weight.dtype)
        self.up.load_state_dict({k: torch.zeros_like(v) for k, v in self.up.state_dict().items()})
        self.activation = nn.GELU()

    def forward(self, x):
        out = self.base(x)
        return torch.add(out, self.up(self.activation(self.down(out))))


class PEFTApplier:
    """apply() decides everything in one list of (parent, attribute, linear)."""

    def __init__(self, model, method, target_modules, size, alpha=16.0):
        if method != "lora" and method != "adapter":
            raise ValueError(method)
        if not size >= 1:
            raise ValueError(size)
        self.__dict__.update(model=model, method=method, target_modules=set(target_modules), size=size, alpha=alpha)

    def apply(self):
        if self.method == "lora":
            inject_lora(model=self.model, target_modules=self.target_modules, rank=self.size, alpha=self.alpha)
        else:
            self.adapt()
        return self.model

    def adapt(self):
        modules = dict(self.model.named_modules(remove_duplicate=False))
        missing = set(self.target_modules)
        chosen = []
        for name, module in modules.items():
            parent, _, attribute = name.rpartition(".")
            suffixes = {name[i:] for i in range(len(name)) if i == 0 or name[i - 1] == "."}
            hits = suffixes & self.target_modules
            if hits and isinstance(module, (nn.Linear, AdapterLinear)) and not isinstance(modules[parent], AdapterLinear):
                missing -= hits
                if isinstance(module, nn.Linear):
                    chosen.append((modules[parent], attribute, module))
        if missing:
            raise ValueError(missing)
        for parameter in self.model.parameters():
            parameter.requires_grad = False
        adapters = {module.base: module for module in modules.values() if isinstance(module, AdapterLinear)}
        for parent, attribute, linear in chosen:
            if linear not in adapters:
                adapters[linear] = AdapterLinear(linear, self.size)
            setattr(parent, attribute, adapters[linear])
        for adapter in adapters.values():
            for part in (adapter.down, adapter.up):
                part.requires_grad_()

    @property
    def trainable(self):
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    @property
    def total(self):
        return sum(p.numel() for p in self.model.parameters())
