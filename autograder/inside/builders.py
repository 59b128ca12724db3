"""Models and objects that a check asks for by name; they exist in the worker only, never on the wire."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from autograder.inside.registry import builder

T = TypeVar("T", bound=nn.Module)
_COPIED = (dict, set, OrderedDict)


@builder
def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """An nn.Linear that holds `weight` (out_features, in_features) and `bias`, with the weight's dtype."""
    layer: nn.Linear = _copied(_blank(nn.Linear, *reversed(weight.shape), bias is not None))
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().to(weight.dtype).clone())
    return layer


@builder
def bare_module(cls: type[nn.Module], attributes: dict[str, Any], parameters: dict[str, Tensor]) -> nn.Module:
    """An object of a student's module class whose own `__init__` does not work yet.

    It has exactly the state that the contract names: `attributes` as they are (but for those that the class
    computes, as a property), `parameters` as nn.Parameter.
    """
    module = cls.__new__(cls)
    nn.Module.__init__(module)
    for name, value in attributes.items():
        if not isinstance(getattr(cls, name, None), property):
            setattr(module, name, value)
    for name, tensor in parameters.items():
        setattr(module, name, nn.Parameter(tensor))
    return module


@builder
def held(value: Any) -> Any:
    """A value that stays in the worker, for a check that needs it as an object or looks at it again after a call."""
    return value


@builder
def column_major(value: Tensor) -> Tensor:
    """A tensor of equal values that lie in memory as those of its transpose do: a view that is not contiguous."""
    return value.transpose(-1, -2).contiguous().transpose(-1, -2)


@builder
def generator(items: list[Any]) -> Iterator[Any]:
    """An iterable that can be gone through only once."""
    yield from items


@builder
def dtype(name: str) -> torch.dtype:
    """torch's dtype of that name."""
    result: torch.dtype = getattr(torch, name)
    return result


class Wrapper(nn.Module):
    """Stands in for an adapter layer that does not work yet.

    It is no adapter, but its output depends on its factors, so that a model shows where it really stands.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.rank, self.alpha, self.dropout, self.merged, self.enabled = rank, alpha, dropout, False, True
        self.lora_A = nn.Parameter(base.weight.new_zeros(rank, base.in_features))
        self.lora_B = nn.Parameter(torch.zeros(len(base.weight), rank, dtype=base.weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.base(x) + self.alpha * self.lora_A.mean() * self.lora_B.sum(dim=1)
        return result


@builder
def wrapper_class() -> type[nn.Module]:
    return Wrapper


class Attention(nn.Module):
    """Single-head attention with the projections q, k, v, o, and neighbours whose names only look like theirs."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width + 1)
        self.o = nn.Linear(width + 1, width)
        self.v_gate = nn.Linear(width, width + 1)
        self.kv = nn.Linear(width, width + 1)
        self.conv = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.q(x) @ self.k(x).transpose(-1, -2) / x.shape[-1] ** 0.5
        values = self.v(x) * torch.sigmoid(self.v_gate(x)) + self.kv(x)
        mixed: Tensor = self.o(scores.softmax(-1) @ values)
        convolved: Tensor = self.conv(x.transpose(-1, -2)).transpose(-1, -2)
        return mixed + convolved


class Block(nn.Module):
    def __init__(self, width: int, base: nn.Linear) -> None:
        super().__init__()
        self.attn = Attention(width)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.base = base  # a layer that happens to be called as an adapter calls its own

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm(x))
        x = x + self.mlp(x)
        result: Tensor = x + torch.tanh(self.base(x))
        return result


class TinyTransformer(nn.Module):
    def __init__(self, vocabulary: int, width: int, blocks: int, share: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        bases = [nn.Linear(width, width) for _ in range(blocks)]
        self.block = nn.ModuleList(Block(width, bases[0] if share else base) for base in bases)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight  # tied

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.block:
            x = block(x)
        result: Tensor = self.head(x)
        return result


@builder
def tiny_transformer(seed: int, vocabulary: int, width: int, blocks: int, share: bool = False) -> nn.Module:
    """A float64 transformer with normal parameters drawn by NumPy; `share`: one `base` layer for all blocks."""
    blank = _blank(_evaluated, vocabulary, width, blocks, share)
    model: nn.Module = _copied(blank, _normal(seed, list(blank.parameters())))
    return model


def _evaluated(*args: Any) -> TinyTransformer:
    return TinyTransformer(*args).eval()


class Lookalikes(nn.Module):
    """Layers and a parameter whose names only look as if they were targeted, or an adapter's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.ModuleDict({"q": nn.Linear(width, width), "k": nn.Linear(width, width)})
        self.attn_q = nn.Linear(width, width)
        self.lora_scale = nn.Parameter(torch.ones(width))


@builder
def lookalikes(width: int) -> nn.Module:
    model: nn.Module = _blank(Lookalikes, width)
    return _copied(model, {id(p): p.detach() for p in model.parameters()})


class CountingBlock(nn.Module):
    """A residual block with a frozen layer, two low-rank factors and dropout, that counts the calls of its forward."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.base = nn.Linear(width, width).requires_grad_(False)
        self.lora_A = nn.Parameter(torch.empty(2, width))
        self.lora_B = nn.Parameter(torch.empty(width, 2))
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, width)
        self.calls = 0

    def forward(self, x: Tensor, context: Tensor | None = None, *, scale: float = 1.0) -> Tensor:
        self.calls += 1
        inner = x if context is None else x * context
        inner = torch.tanh(self.base(inner) + inner @ self.lora_A.T @ self.lora_B.T)
        result: Tensor = x + scale * self.out(self.dropout(inner))
        return result


@builder
def counting_block(seed: int, width: int, dropout: float = 0.0) -> nn.Module:
    """A float64 CountingBlock in training mode, its parameters drawn by NumPy."""
    blank = _blank(CountingBlock, width, dropout)
    block: nn.Module = _copied(blank, _normal(seed, [p for _, p in sorted(blank.named_parameters())]))
    return block


class Adapted(nn.Module):
    """Layers of an adapter class in a row, and trainable neighbours that are none."""

    def __init__(self, cls: type[nn.Module], kind: str) -> None:
        super().__init__()
        layers = 1 if kind == "one layer" else 3
        self.layers = nn.ModuleList(cls(nn.Linear(4, 4), rank=2, alpha=3.0).double() for _ in range(layers))
        self.lora_B_norm = nn.LayerNorm(4) if kind == "a norm" else nn.Identity()
        self.head = nn.Linear(4, 4) if kind != "one layer" else nn.Identity()
        if kind == "shared":
            self.layers.append(self.layers[0])  # one layer at two names
            self.again = nn.Linear(4, 4, bias=False)
            self.again.weight = self.head.get_parameter("weight")
            self.layers[2].register_parameter("lora_B", self.layers[1].get_parameter("lora_B"))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        result: Tensor = self.head(self.lora_B_norm(x))
        return result


@builder
def adapted(cls: type[nn.Module], seed: int, kind: str) -> nn.Module:
    """A float64 model of `cls` layers whose bases are frozen, drawn by NumPy.

    Args:
        kind: "one layer"; "a head": three layers and a trainable Linear; "a norm": a trainable norm too, whose name only
            begins like a factor's; "shared": a layer at two names, a factor of two layers, two tied weights;
            "frozen": the first layer's factors and the head's bias are frozen.
    """
    model = Adapted(cls, kind).double()
    for layer in model.layers:
        layer.requires_grad_(False)
        layer.lora_A.requires_grad_(True)
        layer.lora_B.requires_grad_(True)
    if kind == "frozen":
        model.layers[0].requires_grad_(False)
        model.head.bias.requires_grad_(False)
    return _drawn(model, seed)


def _drawn(module: nn.Module, seed: int) -> nn.Module:
    """The module with normal parameters; the order is that of their names, which no class can choose."""
    parameters = [parameter for _, parameter in sorted(module.named_parameters())]
    with torch.no_grad():
        for parameter, value in zip(parameters, _normal(seed, parameters).values(), strict=True):
            parameter.copy_(value)
    return module


def _normal(seed: int, parameters: list[nn.Parameter]) -> dict[int, Tensor]:
    """For each of several parameters, by its id, a float64 tensor of normal numbers, drawn in this order."""
    rng = np.random.Generator(np.random.PCG64(seed))
    drawn = torch.from_numpy(0.5 * rng.standard_normal(sum(p.numel() for p in parameters)))
    parts = torch.split(drawn, [p.numel() for p in parameters])
    return {id(p): part.view(p.shape) for p, part in zip(parameters, parts, strict=True)}


@cache
def _blank(cls: Callable[..., T], *args: Any) -> T:
    """A float64 object of a module class of ours, kept to be copied: torch's own way to make one takes ten times as long.

    It takes nothing from torch's generator, so that what a student draws does not depend on which check ran before.
    """
    with torch.random.fork_rng(devices=[]):
        return cls(*args).double()


def _copied(blank: T, values: dict[int, Tensor] | None = None) -> T:
    """A new module of the same form; what is shared inside (tied weights, a layer at two names) is shared in it too.

    Args:
        values: of the parameters, by the id of those of `blank`; without them the copy has none of its own yet.
    """
    made: dict[int, Any] = {}

    def copy(module: nn.Module) -> nn.Module:
        if id(module) not in made:
            new = made[id(module)] = object.__new__(type(module))
            state = vars(new)
            for name, value in vars(module).items():  # among them the dictionaries of hooks, nearly all of them empty
                state[name] = (value.copy() if value else type(value)()) if type(value) in _COPIED else value
            if values is not None:
                for name, old in module._parameters.items():
                    state["_parameters"][name] = None if old is None else parameter(old)
            for name, child in module._modules.items():
                state["_modules"][name] = child and copy(child)
        result: nn.Module = made[id(module)]
        return result

    def parameter(old: nn.Parameter) -> nn.Parameter:
        if id(old) not in made:
            assert values is not None
            made[id(old)] = nn.Parameter(values[id(old)].clone(), old.requires_grad)
        result: nn.Parameter = made[id(old)]
        return result

    result: T = copy(blank)  # type: ignore[assignment]
    return result


@builder
def injector(cls: type[nn.Module], places: dict[str, list[str]]) -> Callable[..., list[str]]:
    """Stands in for an inject_lora that does not work yet: it is told where each target is, and finds nothing itself."""

    def inject_lora(model: nn.Module, target_modules: Any, rank: int, alpha: float, dropout: float = 0.0) -> list[str]:
        names = sorted(name for target in list(target_modules) for name in places.get(target, [""]))
        if "" in names:
            raise ValueError("a target matches no layer")
        wrapped: dict[nn.Module, nn.Module] = {}
        replaced = [name for name in names if type(model.get_submodule(name)) is nn.Linear]
        model.requires_grad_(False)
        for name in replaced:
            layer = model.get_submodule(name)
            model.set_submodule(name, wrapped.setdefault(layer, cls(layer, rank, alpha, dropout)))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("lora_" in name)
        return replaced

    return inject_lora
