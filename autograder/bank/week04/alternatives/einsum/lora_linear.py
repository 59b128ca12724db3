"""Einsum notation, scaling as a property, normal initialisation, SVD in float64."""

from collections.abc import Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class LoRALinear(nn.Module):
    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        self._validate(base, rank)
        if dropout < 0 or dropout >= 1:
            raise ValueError("dropout must lie in [0, 1)")
        for parameter in base.parameters():
            parameter.requires_grad = False
        self.base = base
        self.alpha = alpha
        self.rank = rank
        self.merged = False
        self.enabled = True
        like = {"dtype": base.weight.dtype, "device": base.weight.device}
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank, **like))
        self.lora_A = nn.Parameter(torch.randn(rank, base.in_features, **like) / rank)
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()

    @staticmethod
    def _validate(base: nn.Linear, rank: int) -> None:
        largest = min(base.weight.shape)
        if rank < 1 or rank > largest:
            raise ValueError(f"rank {rank} is not in 1..{largest}")

    @property
    def scaling(self) -> float:
        return self.alpha / self.rank

    def forward(self, x: Tensor) -> Tensor:
        out = self.base(x)
        if self.enabled and not self.merged:
            down = torch.einsum("...i,ri->...r", self.drop(x), self.lora_A)
            out = out + torch.einsum("...r,or->...o", down, self.scaling * self.lora_B)
        return out

    @torch.no_grad()
    def merge(self) -> None:
        if self.merged:
            return
        self.base.weight.add_(torch.einsum("or,ri->oi", self.lora_B, self.lora_A), alpha=self.scaling)
        self.merged = True

    @torch.no_grad()
    def unmerge(self) -> None:
        if not self.merged:
            return
        self.base.weight.sub_(torch.einsum("or,ri->oi", self.lora_B, self.lora_A), alpha=self.scaling)
        self.merged = False

    @torch.no_grad()
    def set_rank(self, new_rank: int) -> None:
        if self.merged:
            raise RuntimeError("cannot change the rank of a merged layer")
        self._validate(self.base, new_rank)
        old_rank, dtype = self.rank, self.base.weight.dtype
        delta = torch.einsum("or,ri->oi", self.lora_B.double(), self.lora_A.double()) * self.scaling
        self.rank = new_rank
        if new_rank > old_rank:
            extra = torch.randn(new_rank - old_rank, self.base.in_features).to(self.lora_A) / new_rank
            # The rescaling goes into B, so A keeps its old rows.
            padded = torch.zeros(self.base.out_features, new_rank).to(self.lora_B)
            padded[:, :old_rank] = self.lora_B * (new_rank / old_rank)
            self.lora_A = nn.Parameter(torch.vstack((self.lora_A, extra)))
            self.lora_B = nn.Parameter(padded)
        elif new_rank < old_rank:
            left, values, right = torch.linalg.svd(delta / self.scaling)
            values = torch.diag(values[:new_rank] ** 0.5)
            self.lora_A = nn.Parameter((values @ right[:new_rank]).to(dtype))
            self.lora_B = nn.Parameter((left[:, :new_rank] @ values).to(dtype))


def inject_lora(
    model: nn.Module,
    target_modules: Iterable[str],
    rank: int | Mapping[str, int],
    alpha: float,
    dropout: float = 0.0,
) -> list[str]:
    targets = sorted(target_modules, key=len, reverse=True)  # so the first hit is the longest
    everything = list(model.named_modules(remove_duplicate=False))
    adapted = {name for name, module in everything if isinstance(module, LoRALinear)}
    wrappers = {id(module.base): module for _, module in everything if isinstance(module, LoRALinear)}

    jobs, seen = [], set()
    for name, module in everything:
        parent_name = name.rpartition(".")[0]
        if not isinstance(module, (nn.Linear, LoRALinear)) or (name != "" and parent_name in adapted):
            continue
        matching = [t for t in targets if name == t or name.endswith("." + t)]
        seen |= set(matching)
        if matching and isinstance(module, nn.Linear):
            jobs.append((name, module, matching[0]))
    missing = [t for t in targets if t not in seen]
    if missing:
        raise ValueError(f"nothing to adapt for {missing}")

    for parameter in model.parameters():
        parameter.requires_grad = False
    for name, linear, target in jobs:
        if id(linear) not in wrappers:
            wrappers[id(linear)] = LoRALinear(
                linear, rank if isinstance(rank, int) else rank[target], alpha, dropout
            )
        parent_name, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent_name), leaf, wrappers[id(linear)])
    for wrapper in wrappers.values():
        wrapper.lora_A.requires_grad = wrapper.lora_B.requires_grad = True
    return sorted(name for name, _, _ in jobs)


class Again(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *given: object, **named: object) -> Tensor:
        return checkpoint(partial(self.inner, **named), *given, use_reentrant=False)


def checkpointed(block: nn.Module) -> nn.Module:
    return Again(block).train(block.training)


def lora_plus_groups(model: nn.Module, lr: float, ratio: float = 16.0) -> list[dict]:
    if min(lr, ratio) <= 0:
        raise ValueError("lr and ratio must be above zero")
    boosted = {id(m.lora_B) for m in model.modules() if isinstance(m, LoRALinear)}
    by_rate: dict[float, list[nn.Parameter]] = {}
    for _, p in model.named_parameters():
        if p.requires_grad:
            rate = lr * ratio if id(p) in boosted else lr
            by_rate.setdefault(rate, []).append(p)
    if by_rate == {}:
        raise ValueError("nothing to train")
    return [{"lr": rate, "params": parameters} for rate, parameters in by_rate.items()]


class AdapterLinear(nn.Module):
    def __init__(self, base: nn.Linear, size: int) -> None:
        super().__init__()
        for parameter in base.parameters():
            parameter.requires_grad = False
        self.base = base
        with torch.no_grad():
            self.up = nn.Linear(size, base.out_features)
            self.up.weight.mul_(0)
            self.up.bias.mul_(0)
            self.down = nn.Linear(base.out_features, size)
            nn.init.normal_(self.down.weight, std=0.01)
        self.up.to(base.weight.device, base.weight.dtype)
        self.down.to(base.weight.device, base.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        h = self.base(x)
        z = torch.einsum("...o,so->...s", h, self.down.weight) + self.down.bias
        z = 0.5 * z * (1 + torch.erf(z / 2**0.5))
        return h + torch.einsum("...s,os->...o", z, self.up.weight) + self.up.bias


class PEFTApplier:
    def __init__(self, model: nn.Module, method: str, target_modules: Iterable[str], size: int, alpha: float = 16.0) -> None:
        self.wrapper = {"lora": LoRALinear, "adapter": AdapterLinear}.get(method)
        if self.wrapper is None or size < 1:
            raise ValueError("method is lora or adapter, and size at least 1")
        self.arguments = (size, alpha) if method == "lora" else (size,)
        self.model = model
        self.targets = list(target_modules)
        self.trainable = self.total = 0

    def apply(self) -> nn.Module:
        everything = list(self.model.named_modules(remove_duplicate=False))
        wrapped = {name for name, module in everything if isinstance(module, self.wrapper)}
        candidates = [
            (name, module)
            for name, module in everything
            if name and isinstance(module, (nn.Linear, self.wrapper)) and name.rpartition(".")[0] not in wrapped
        ]
        for target in self.targets:
            if not any(("." + name).endswith("." + target) for name, _ in candidates):
                raise ValueError(f"nothing to adapt for {target}")

        self.model.requires_grad_(False)
        wrappers = {id(module.base): module for _, module in everything if isinstance(module, self.wrapper)}
        for name, module in candidates:
            if isinstance(module, nn.Linear) and any(("." + name).endswith("." + t) for t in self.targets):
                if id(module) not in wrappers:
                    wrappers[id(module)] = self.wrapper(module, *self.arguments)
                self.model.set_submodule(name, wrappers[id(module)])
        for wrapper in wrappers.values():
            wrapper.requires_grad_(True)
            wrapper.base.requires_grad_(False)
        sizes = {id(p): (p.numel(), p.requires_grad) for p in self.model.parameters()}
        self.total = sum(n for n, _ in sizes.values())
        self.trainable = sum(n for n, learns in sizes.values() if learns)
        return self.model
