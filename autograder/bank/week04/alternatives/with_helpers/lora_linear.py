"""The matrix work and the matching of names live in two modules beside this one."""

from collections.abc import Iterable, Mapping
from functools import partial

import torch
from low_rank import extend_rows, orthogonal_rows, truncate
from matching import Targets
from torch import Tensor, nn
from torch.nn.functional import dropout as drop
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint


class LoRALinear(nn.Module):
    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.base = base
        self.alpha = alpha
        self.dropout = dropout
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout}")
        self._set_sizes(rank)
        base.weight.requires_grad = False
        if base.bias is not None:
            base.bias.requires_grad = False
        self._flags = {"merged": False, "enabled": True}
        self._install(
            orthogonal_rows(rank, base.in_features, base.weight),
            torch.zeros_like(base.weight[:, :rank]),
        )

    def _set_sizes(self, rank: int) -> None:
        if not 0 < rank <= min(self.base.in_features, self.base.out_features):
            raise ValueError(f"rank={rank}")
        self.rank, self.scaling = rank, self.alpha / rank

    def _install(self, A: Tensor, B: Tensor) -> None:
        self.register_parameter("lora_A", nn.Parameter(A))
        self.register_parameter("lora_B", nn.Parameter(B))

    @property
    def merged(self) -> bool:
        return self._flags["merged"]

    @merged.setter
    def merged(self, value: bool) -> None:
        self._flags["merged"] = value

    @property
    def enabled(self) -> bool:
        return self._flags["enabled"]

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self._flags["enabled"] = value

    @property
    def delta(self) -> Tensor:
        return self.scaling * (self.lora_B @ self.lora_A).detach()

    def forward(self, x: Tensor) -> Tensor:
        match self.enabled and not self.merged:
            case True:
                hidden = linear(drop(x, self.dropout, self.training), self.scaling * self.lora_A)
                return linear(hidden, self.lora_B) + self.base(x)
            case _:
                return self.base(x)

    def merge(self) -> None:
        with torch.no_grad():
            self.base.weight += 0 if self.merged else self.delta
        self.merged = True

    def unmerge(self) -> None:
        with torch.no_grad():
            self.base.weight -= self.delta if self.merged else 0
        self.merged = False

    def set_rank(self, new_rank: int) -> None:
        if self.merged:
            raise RuntimeError("unmerge() before set_rank()")
        old_rank, A, B = self.rank, self.lora_A.detach(), self.lora_B.detach()
        self._set_sizes(new_rank)
        if new_rank < old_rank:
            B64, A64 = truncate((new_rank / old_rank) * B.double() @ A.double(), new_rank)
            A, B = A64.to(A), B64.to(B)
        if new_rank > old_rank:
            A = extend_rows(A, new_rank - old_rank)
            B = nn.functional.pad(B * new_rank / old_rank, (0, new_rank - old_rank))
        self._install(A, B)


def inject_lora(
    model: nn.Module,
    target_modules: Iterable[str],
    rank: int | Mapping[str, int],
    alpha: float,
    dropout: float = 0.0,
) -> list[str]:
    targets = Targets(list(target_modules))
    make = partial(LoRALinear, alpha=alpha, dropout=dropout)
    rank_of = rank.__getitem__ if isinstance(rank, Mapping) else lambda _: rank
    names = dict(model.named_modules(remove_duplicate=False))
    layer_of = {id(m.base): m for m in names.values() if isinstance(m, LoRALinear)}

    todo = {}
    for name, module in names.items():
        parent = name[: name.rfind(".")] if "." in name else ""
        inside = name and isinstance(names[parent], LoRALinear)
        if isinstance(module, nn.Linear | LoRALinear) and not inside:
            target = targets.longest(name)
            if target and isinstance(module, nn.Linear):
                todo[name] = target
    if targets.unused:
        raise ValueError(", ".join(sorted(targets.unused)))

    model.requires_grad_(False)
    for name, target in todo.items():
        module = names[name]
        layer = layer_of.get(id(module)) or make(module, rank_of(target))
        layer_of[id(module)] = layer
        *path, last = name.split(".")
        setattr(names[".".join(path)], last, layer)
    for layer in layer_of.values():
        layer.requires_grad_(True)
        layer.base.requires_grad_(False)
    return sorted(todo)


class Segment(nn.Sequential):
    """A Sequential of one block, which is checkpointed as a whole."""

    def forward(self, *args, **kwargs):
        if not (self.training and torch.is_grad_enabled()):
            return self[0](*args, **kwargs)
        run = partial(self._again, **kwargs)
        return checkpoint(run, *args, use_reentrant=False)

    def _again(self, *args, **kwargs):
        return self[0](*args, **kwargs)


def checkpointed(block: nn.Module) -> nn.Module:
    segment = Segment(block)
    segment.training = block.training
    return segment


def lora_plus_groups(model: nn.Module, lr: float, ratio: float = 16.0) -> list[dict]:
    for value in (lr, ratio):
        if not value > 0:
            raise ValueError(f"{value} is not positive")
    fast, slow = [], []
    b_of_lora = {m.lora_B for m in model.modules() if isinstance(m, LoRALinear)}
    for p in filter(lambda p: p.requires_grad, model.parameters()):
        (fast if p in b_of_lora else slow).append(p)
    match fast, slow:
        case [], []:
            raise ValueError("all parameters are frozen")
        case _:
            return [{"params": ps, "lr": rate} for ps, rate in ((fast, lr * ratio), (slow, lr)) if ps]


class AdapterLinear(nn.Module):
    def __init__(self, base: nn.Linear, size: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        width = base.out_features
        self.down, self.up = nn.Linear(width, size), nn.Linear(size, width)
        self.down.weight.data = orthogonal_rows(min(size, width), width, base.weight).repeat(-(-size // width), 1)[:size]
        for tensor in (self.down.bias, self.up.weight, self.up.bias):
            tensor.data = torch.zeros_like(tensor, dtype=base.weight.dtype, device=base.weight.device)

    def forward(self, x: Tensor) -> Tensor:
        h = self.base(x)
        return h + linear(nn.functional.gelu(self.down(h)), self.up.weight, self.up.bias)


class PEFTApplier:
    def __init__(self, model: nn.Module, method: str, target_modules: Iterable[str], size: int, alpha: float = 16.0) -> None:
        match method:
            case "lora":
                self._insert = partial(inject_lora, model, rank=size, alpha=alpha)
            case "adapter":
                self._insert = partial(add_adapters, model, size=size)
            case _:
                raise ValueError(f"no method {method!r}")
        if size < 1:
            raise ValueError(f"size={size}")
        self.model, self.targets = model, list(target_modules)

    def apply(self) -> nn.Module:
        self._insert(target_modules=self.targets)
        return self.model

    @property
    def trainable(self) -> int:
        return self.total - sum(p.numel() for p in self.model.parameters() if not p.requires_grad)

    @property
    def total(self) -> int:
        return sum(map(Tensor.numel, self.model.parameters()))


def add_adapters(model: nn.Module, size: int, target_modules: list[str]) -> None:
    targets = Targets(target_modules)
    names = dict(model.named_modules(remove_duplicate=False))
    adapter_of = {m.base: m for m in names.values() if isinstance(m, AdapterLinear)}
    inside = {f"{n}.{part}" for n, m in names.items() if isinstance(m, AdapterLinear) for part in ("base", "down", "up")}
    todo = [
        name
        for name, module in names.items()
        if name and name not in inside and isinstance(module, nn.Linear | AdapterLinear) and targets.longest(name)
    ]
    if targets.unused:
        raise ValueError(", ".join(sorted(targets.unused)))
    model.requires_grad_(False)
    for name in todo:
        if isinstance(names[name], nn.Linear):
            adapter = adapter_of.get(names[name]) or AdapterLinear(names[name], size)
            adapter_of[names[name]] = adapter
            model.set_submodule(name, adapter)
    for adapter in adapter_of.values():
        adapter.down.requires_grad_(True), adapter.up.requires_grad_(True)
