"""The matrix work and the matching of names live in two modules beside this one."""

from collections.abc import Iterable, Mapping
from functools import partial

import torch
from low_rank import extend_rows, orthogonal_rows, truncate
from matching import Targets
from torch import Tensor, nn
from torch.nn.functional import dropout as drop
from torch.nn.functional import linear


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
