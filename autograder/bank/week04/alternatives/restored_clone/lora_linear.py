"""Keeps W0 while merged and restores it bit for bit; dropout by hand; SVD of the small core of two QRs."""

import math
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn


class LoRALinear(nn.Module):
    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        limit = min(base.in_features, base.out_features)
        if rank not in range(1, limit + 1):
            raise ValueError(f"rank: 1 to {limit}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError("dropout: at least 0 and less than 1")
        self.base = base
        self.base.weight.requires_grad_(False)
        if self.base.bias is not None:
            self.base.bias.requires_grad_(False)
        self.rank, self.alpha, self.scaling = rank, alpha, alpha / rank
        self.p = dropout
        self.merged, self.enabled = False, True
        self._clean_weight: Tensor | None = None
        self.lora_A = nn.Parameter(torch.empty_like(base.weight[:1]).repeat(rank, 1))
        self.lora_B = nn.Parameter(torch.zeros_like(base.weight[:, :1]).repeat(1, rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def _drop(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        keep = torch.bernoulli(torch.full_like(x, 1 - self.p))
        return x * keep / (1 - self.p)

    def forward(self, x: Tensor) -> Tensor:
        if self.merged:
            return self.base(x)
        if not self.enabled:
            return self.base(x)
        branch = (self._drop(x) @ self.lora_A.T) @ self.lora_B.T
        return torch.add(self.base(x), branch, alpha=self.scaling)

    def _delta(self) -> Tensor:
        return self.lora_B.detach().matmul(self.lora_A.detach()).mul(self.scaling)

    def merge(self) -> None:
        if not self.merged:
            weight = self.base.weight.detach()
            self._clean_weight = weight.clone()
            weight.add_(self._delta())
        self.merged = True

    def unmerge(self) -> None:
        if self.merged:
            weight = self.base.weight.detach()
            if self._clean_weight is None:  # `merged` was set from outside, so there is no clone
                weight.sub_(self._delta())
            else:
                weight.copy_(self._clean_weight)
                self._clean_weight = None
        self.merged = False

    def set_rank(self, new_rank: int) -> None:
        limit = min(self.base.in_features, self.base.out_features)
        if new_rank not in range(1, limit + 1):
            raise ValueError(f"rank: 1 to {limit}")
        if self.merged:
            raise RuntimeError("merged")
        A, B, old = self.lora_A.detach(), self.lora_B.detach(), self.rank
        if new_rank > old:
            share = math.sqrt(new_rank / old)
            fresh = A.new_empty(new_rank - old, A.shape[1])
            nn.init.kaiming_uniform_(fresh, a=math.sqrt(5))
            A = torch.cat((share * A, fresh))
            B = torch.cat((share * B, torch.zeros_like(B[:, :1]).repeat(1, new_rank - old)), dim=1)
        elif new_rank < old:
            work = torch.float64
            Qb, Rb = torch.linalg.qr(B.to(work))
            Qa, Ra = torch.linalg.qr(A.to(work).T)
            U, S, Vh = torch.linalg.svd(Rb @ Ra.T * (new_rank / old))  # rank x rank, not out x in
            split = S[:new_rank].sqrt()
            B = (Qb @ (U[:, :new_rank] * split)).to(B.dtype)
            A = ((split.unsqueeze(1) * Vh[:new_rank]) @ Qa.T).to(A.dtype)
        self.lora_A = nn.Parameter(A.clone())
        self.lora_B = nn.Parameter(B.clone())
        self.rank = new_rank
        self.scaling = self.alpha / self.rank


def _sites(module: nn.Module, prefix: str) -> Iterator[tuple[nn.Module, str, str, nn.Module]]:
    """Parent, child name, full name and child, without entering a LoRALinear."""
    if isinstance(module, LoRALinear):
        return
    for name, child in module._modules.items():  # named_children would list a tied child once
        if child is not None:
            full = f"{prefix}.{name}" if prefix else name
            yield module, name, full, child
            yield from _sites(child, full)


def _best(full: str, targets: list[str]) -> str | None:
    parts = full.split(".")
    for start in range(len(parts)):  # from the whole name to its last part: the longest first
        tail = ".".join(parts[start:])
        if tail in targets:
            return tail
    return None


def inject_lora(
    model: nn.Module,
    target_modules: Iterable[str],
    rank: int | Mapping[str, int],
    alpha: float,
    dropout: float = 0.0,
) -> list[str]:
    targets = list(target_modules)
    memo: dict[nn.Linear, LoRALinear] = {m.base: m for m in model.modules() if isinstance(m, LoRALinear)}
    sites = [s for s in _sites(model, "") if isinstance(s[3], (nn.Linear, LoRALinear))]
    for target in targets:
        if not any(full == target or full.endswith("." + target) for _, _, full, _ in sites):
            raise ValueError(f"{target!r} matches no linear layer")

    for parameter in model.parameters():
        parameter.requires_grad_(False)
    replaced = set()
    for parent, name, full, child in sites:
        target = _best(full, targets)
        if target is None or isinstance(child, LoRALinear):
            continue
        if child not in memo:
            memo[child] = LoRALinear(
                child, rank[target] if isinstance(rank, Mapping) else rank, alpha, dropout
            )
        parent._modules[name] = memo[child]
        replaced.add(full)
    for layer in memo.values():
        layer.lora_A.requires_grad_()
        layer.lora_B.requires_grad_()
    return sorted(replaced)


class _OnTheWayBack(nn.Module):
    """Keeps what autograd would save as numbers only, and runs the block again to find it."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, *args: object, **kwargs: object) -> Tensor:
        if not torch.is_grad_enabled():
            return self.block(*args, **kwargs)
        state = torch.get_rng_state()
        count = 0
        found: list[Tensor] = []

        def pack(_: Tensor) -> int:
            nonlocal count
            count += 1
            return count - 1

        def unpack(index: int) -> Tensor:
            if not found:
                later = torch.get_rng_state()
                torch.set_rng_state(state)
                with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(found.append, found.__getitem__):
                    self.block(*args, **kwargs)
                torch.set_rng_state(later)
            return found[index].detach()

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            return self.block(*args, **kwargs)


def checkpointed(block: nn.Module) -> nn.Module:
    return _OnTheWayBack(block)


def lora_plus_groups(model: nn.Module, lr: float, ratio: float = 16.0) -> list[dict]:
    if lr <= 0 or ratio <= 0:
        raise ValueError("lr, ratio: greater than 0")
    layers = {name for name, m in model.named_modules(remove_duplicate=False) if isinstance(m, LoRALinear)}
    factors = {f"{name}.lora_B" if name else "lora_B" for name in layers}
    names: dict[nn.Parameter, set[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        if p.requires_grad:
            names.setdefault(p, set()).add(name)
    if len(names) == 0:
        raise ValueError("model: no trainable parameter")
    fast = [p for p, known in names.items() if known & factors]
    slow = [p for p, known in names.items() if not known & factors]
    return [{"params": fast, "lr": lr * ratio}, {"params": slow, "lr": lr}]


class AdapterLinear(nn.Module):
    def __init__(self, base: nn.Linear, size: int) -> None:
        super().__init__()
        self.base = base
        self.base.weight.requires_grad_(False)
        if self.base.bias is not None:
            self.base.bias.requires_grad_(False)
        self.down = nn.Linear(base.out_features, size, device=base.weight.device, dtype=base.weight.dtype)
        self.up = nn.Linear(size, base.out_features, device=base.weight.device, dtype=base.weight.dtype)
        for p in self.up.parameters():
            nn.init.constant_(p, 0.0)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.base(x)
        residual = x
        x = nn.functional.gelu(self.down(x), approximate="none")
        return residual + self.up(x)


class PEFTApplier:
    _METHODS = ("lora", "adapter")

    def __init__(self, model: nn.Module, method: str, target_modules: Iterable[str], size: int, alpha: float = 16.0) -> None:
        if method not in self._METHODS or int(size) < 1:
            raise ValueError(f"method: one of {self._METHODS}; size: at least 1")
        self._model, self._method, self._size, self._alpha = model, method, size, alpha
        self._targets = list(target_modules)

    def apply(self) -> nn.Module:
        getattr(self, f"_{self._method}")()
        distinct = {p.data_ptr(): p for p in self._model.parameters() if p.numel()}
        self.total = sum(math.prod(p.shape) for p in distinct.values())
        self.trainable = sum(math.prod(p.shape) for p in distinct.values() if p.requires_grad)
        return self._model

    def _lora(self) -> None:
        inject_lora(self._model, iter(self._targets), self._size, self._alpha)

    def _adapter(self) -> None:
        sites = [s for s in _adapter_sites(self._model, "") if isinstance(s[3], (nn.Linear, AdapterLinear))]
        chosen = [s for s in sites if _best(s[2], self._targets) is not None]
        for target in self._targets:
            if not any(full == target or full.endswith("." + target) for _, _, full, _ in chosen):
                raise ValueError(f"{target!r} matches no linear layer")
        for p in self._model.parameters():
            p.requires_grad_(False)
        memo: dict[nn.Module, AdapterLinear] = {m.base: m for m in self._model.modules() if isinstance(m, AdapterLinear)}
        for parent, name, _, child in chosen:
            if not isinstance(child, AdapterLinear):
                memo.setdefault(child, AdapterLinear(child, self._size))
                setattr(parent, name, memo[child])
        for layer in memo.values():
            for p in (*layer.down.parameters(), *layer.up.parameters()):
                p.requires_grad_(True)


def _adapter_sites(module: nn.Module, prefix: str) -> Iterator[tuple[nn.Module, str, str, nn.Module]]:
    """As _sites, without entering an AdapterLinear."""
    if isinstance(module, AdapterLinear):
        return
    for name, child in module._modules.items():
        if child is not None:
            full = f"{prefix}.{name}" if prefix else name
            yield module, name, full, child
            yield from _adapter_sites(child, full)
