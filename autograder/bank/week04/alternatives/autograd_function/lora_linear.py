"""The branch as one autograd.Function with a backward written by hand; extra buffers; all of S in B."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class _LowRank(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, down, up, scale):
        flat = x.reshape(-1, x.shape[-1])
        hidden = flat @ down.t()
        ctx.save_for_backward(flat, down, up)
        ctx.scale, ctx.shape = scale, x.shape
        return (hidden @ up.t() * scale).reshape(*x.shape[:-1], up.shape[0])

    @staticmethod
    def backward(ctx, grad):
        flat, down, up = ctx.saved_tensors
        grad = grad.reshape(-1, up.shape[0]) * ctx.scale
        grad_hidden = grad @ up
        grad_x = (grad_hidden @ down).reshape(ctx.shape) if ctx.needs_input_grad[0] else None
        grad_down = grad_hidden.t() @ flat if ctx.needs_input_grad[1] else None
        grad_up = grad.t() @ (flat @ down.t()) if ctx.needs_input_grad[2] else None
        return grad_x, grad_down, grad_up, None


class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha, dropout=0.0):
        nn.Module.__init__(self)
        out_features, in_features = base.weight.size()
        self._limit = min(out_features, in_features)
        self._check(rank)
        if not (dropout >= 0 and dropout < 1):
            raise ValueError("the dropout probability is at least 0 and below 1")
        self.base = base
        for p in self.base.parameters():
            p.requires_grad_(False)
        self._p = float(dropout)
        self.register_buffer("_steps", torch.zeros(()), persistent=False)
        self.register_buffer("_rank_history", torch.tensor([rank]))
        factory = dict(device=base.weight.device, dtype=base.weight.dtype)
        self.lora_A = nn.Parameter(torch.empty(rank, in_features, **factory))
        self.lora_B = nn.Parameter(torch.empty(out_features, rank, **factory))
        nn.init.normal_(self.lora_A, std=in_features**-0.5)
        nn.init.zeros_(self.lora_B)
        self.alpha = alpha
        self.rank = rank
        self.scaling = alpha / rank
        self.merged = False
        self.enabled = True

    def _check(self, rank):
        if rank <= 0 or rank > self._limit:
            raise ValueError(f"the rank is from 1 to {self._limit}")

    def forward(self, x):
        frozen = F.linear(x, self.base.weight, self.base.bias)
        if self.merged or not self.enabled:
            return frozen
        dropped = F.dropout(x, p=self._p, training=self.training)
        return frozen + _LowRank.apply(dropped, self.lora_A, self.lora_B, self.scaling)

    def _add(self, sign):
        with torch.no_grad():
            update = self.lora_B.mm(self.lora_A)
            update *= self.scaling
            self.base.weight.add_(update, alpha=sign)

    def merge(self):
        if self.merged is False:
            self._add(+1)
            self.merged = True

    def unmerge(self):
        if self.merged is True:
            self._add(-1)
            self.merged = False

    def set_rank(self, new_rank):
        self._check(new_rank)
        if self.merged:
            raise RuntimeError("call unmerge first")
        keep = min(self.rank, new_rank)
        ratio = new_rank / self.rank
        A = nn.Parameter(self.lora_A.new_empty(new_rank, self.base.in_features))
        B = nn.Parameter(self.lora_B.new_zeros(self.base.out_features, new_rank))
        nn.init.normal_(A, std=self.base.in_features**-0.5)
        with torch.no_grad():
            if new_rank >= self.rank:
                A[:keep] = self.lora_A * ratio  # A takes the whole ratio
                B[:, :keep] = self.lora_B
            else:
                half = self.lora_A.dtype in (torch.float16, torch.bfloat16)
                wide = torch.float32 if half else self.lora_A.dtype
                product = (self.lora_B.to(wide) @ self.lora_A.to(wide)) * ratio
                U, S, Vh = torch.linalg.svd(product, full_matrices=False)
                A.copy_(Vh[:keep])
                B.copy_(U[:, :keep] * S[:keep])
        self.lora_A, self.lora_B = A, B
        self._rank_history = torch.cat([self._rank_history, self._rank_history.new_tensor([new_rank])])
        self.rank = new_rank
        self.scaling = self.alpha / new_rank


def _ends_with(name, target):
    name, target = name.split("."), target.split(".")
    return name[-len(target) :] == target


def inject_lora(model, target_modules, rank, alpha, dropout=0.0):
    wanted = dict.fromkeys(target_modules)
    old = [m for m in model.modules() if isinstance(m, LoRALinear)]
    plan = {}
    hit = set()
    stack = [] if isinstance(model, LoRALinear) else [("", model)]
    while stack:
        path, parent = stack.pop()
        for key, child in parent._modules.items():
            if child is None:
                continue
            full = key if not path else path + "." + key
            if isinstance(child, (nn.Linear, LoRALinear)):
                matches = [t for t in wanted if _ends_with(full, t)]
                hit.update(matches)
                if matches and isinstance(child, nn.Linear):
                    plan[full] = (parent, key, child, max(matches, key=lambda t: (t.count("."), len(t))))
            if not isinstance(child, LoRALinear):
                stack.append((full, child))
    for target in wanted:
        if target not in hit:
            raise ValueError(f"unknown target {target}")

    for p in model.parameters():
        p.requires_grad_(False)
    new = {layer.base: layer for layer in old}
    for full in sorted(plan):
        parent, key, linear, target = plan[full]
        if linear not in new:
            new[linear] = LoRALinear(linear, rank[target] if hasattr(rank, "keys") else rank, alpha, dropout)
        setattr(parent, key, new[linear])
    for layer in new.values():
        for factor in (layer.lora_A, layer.lora_B):
            factor.requires_grad_(True)
    return sorted(plan)


class _Recompute(torch.autograd.Function):
    """Runs a function without a graph, and once more with one when its gradient is asked for."""

    @staticmethod
    def forward(ctx, run, count, *tensors):
        ctx.run, ctx.count = run, count
        ctx.generator = torch.get_rng_state()
        ctx.save_for_backward(*tensors)
        with torch.no_grad():
            return run(*tensors[:count])

    @staticmethod
    def backward(ctx, grad):
        tensors = ctx.saved_tensors
        given = [t.detach().requires_grad_(t.requires_grad) for t in tensors[: ctx.count]]
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.set_rng_state(ctx.generator)
            y = ctx.run(*given)
        wanted = [t for t in (*given, *tensors[ctx.count :]) if t.requires_grad]
        found = iter(torch.autograd.grad(y, wanted, grad, allow_unused=True))
        return None, None, *(next(found) if needed else None for needed in ctx.needs_input_grad[2:])


class _Recomputed(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.add_module("block", block)

    def forward(self, *args, **kwargs):
        if not torch.is_grad_enabled():
            return self.block(*args, **kwargs)
        block, values = self.block, [*args, *kwargs.values()]
        given = [v for v in values if torch.is_tensor(v)]
        learning = [p for p in block.parameters() if p.requires_grad]

        def run(*tensors):
            source = iter(tensors)
            filled = [next(source) if torch.is_tensor(v) else v for v in values]
            places, names = filled[: len(args)], dict(zip(kwargs, filled[len(args) :], strict=True))
            return block(*places, **names)

        return _Recompute.apply(run, len(given), *given, *learning)


def checkpointed(block):
    return _Recomputed(block)


def lora_plus_groups(model, lr, ratio=16.0):
    if not (lr > 0 and ratio > 0):
        raise ValueError("lr and ratio are positive")
    groups, seen = [], set()
    for module in model.modules():
        factor = module.lora_B if isinstance(module, LoRALinear) else None
        if factor is not None and factor.requires_grad and factor not in seen:
            seen.add(factor)
            groups.append({"params": [factor], "lr": ratio * lr})
    rest = [p for p in model.parameters() if p.requires_grad and p not in seen]
    if rest:
        groups.append({"params": rest, "lr": lr})
    if not groups:
        raise ValueError("everything is frozen")
    return groups


class AdapterLinear(nn.Module):
    def __init__(self, base, size):
        super().__init__()
        for p in base.parameters():
            p.requires_grad_(False)
        self.base = base
        width = base.weight.shape[0]
        self.down = nn.Linear(width, size)
        self.up = nn.Linear(size, width)
        with torch.no_grad():
            for p in self.up.parameters():
                p.zero_()
        self.down.to(base.weight)
        self.up.to(base.weight)

    def forward(self, x):
        h = self.base(x)
        return F.linear(F.gelu(F.linear(h, self.down.weight, self.down.bias)), self.up.weight, self.up.bias) + h


class PEFTApplier:
    def __init__(self, model, method, target_modules, size, alpha=16.0):
        makers = {"lora": lambda linear: LoRALinear(linear, size, alpha), "adapter": lambda linear: AdapterLinear(linear, size)}
        if method not in makers:
            raise ValueError(f"known methods: {', '.join(makers)}")
        if size <= 0:
            raise ValueError("the size is positive")
        self.model, self.targets = model, tuple(target_modules)
        self.kind = LoRALinear if method == "lora" else AdapterLinear
        self.make = makers[method]

    def _walk(self, parent, path, found):
        for key, child in parent._modules.items():
            full = [*path, key]
            if isinstance(child, (nn.Linear, self.kind)):
                found.append((parent, key, child, ".".join(full)))
            if child is not None and not isinstance(child, self.kind):
                self._walk(child, full, found)
        return found

    def apply(self):
        sites = self._walk(self.model, [], [])
        hits = {t: [s for s in sites if _ends_with(s[3], t)] for t in self.targets}
        for target, there in hits.items():
            if not there:
                raise ValueError(f"unknown target {target}")
        for p in self.model.parameters():
            p.requires_grad = False
        layers = {m.base: m for m in self.model.modules() if isinstance(m, self.kind)}
        for there in hits.values():
            for parent, key, child, _ in there:
                if isinstance(child, nn.Linear):
                    if child not in layers:
                        layers[child] = self.make(child)
                    setattr(parent, key, layers[child])
        for layer in layers.values():
            for name, p in layer.named_parameters():
                p.requires_grad = not name.startswith("base.")
        self.trainable = sum(p.numel() for p in set(self.model.parameters()) if p.requires_grad)
        self.total = sum(p.numel() for p in set(self.model.parameters()))
        return self.model
