"""Builders and probes of week 3: models with factors to freeze and to store, folders, layers to adapt."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autograder.inside import probes
from autograder.inside.builders import _drawn
from autograder.inside.registry import builder, probe


class Adapted(nn.Module):
    """A Linear with two factors beside it. What it computes is no LoRA: it only depends on the factors and the scaling."""

    def __init__(self, into: int, out: int, rank: int, alpha: float, kind: str) -> None:
        super().__init__()
        self.base = nn.Linear(into, out)
        self.rank, self.alpha, self.scaling = rank, alpha, 1.0
        if kind == "names of peft":
            self.lora_A: nn.ModuleDict | nn.Parameter = nn.ModuleDict({"default": nn.Linear(into, rank, bias=False)})
            self.lora_B: nn.ModuleDict | nn.Parameter = nn.ModuleDict({"default": nn.Linear(rank, out, bias=False)})
        else:
            self.lora_A = nn.Parameter(torch.empty(rank, into))
            self.lora_B = nn.Parameter(torch.empty(out, rank))
        self.lora_bias: nn.Parameter | float = nn.Parameter(torch.empty(out)) if kind == "similar names" else 0.0

    def forward(self, x: Tensor) -> Tensor:
        down: Any = self.lora_A
        up: Any = self.lora_B
        if isinstance(down, nn.ModuleDict):
            inner = up["default"](torch.sin(down["default"](x)))
        else:
            inner = F.linear(torch.sin(F.linear(x, down)), up)
        result: Tensor = self.base(x) + torch.tanh(self.scaling * inner) + self.lora_bias
        return result


class Inherited(nn.Linear):
    """Factors in a Linear itself, not beside one."""

    def __init__(self, into: int, out: int, rank: int, alpha: float) -> None:
        super().__init__(into, out)
        self.alpha, self.scaling = alpha, 1.0
        self.lora_B, self.lora_A = nn.Parameter(torch.empty(out, rank)), nn.Parameter(torch.empty(rank, into))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.tanh(self.scaling * F.linear(torch.sin(F.linear(x, self.lora_A)), self.lora_B))


class Block(nn.Module):
    def __init__(self, width: int, layer: Callable[[int, int], nn.Module], kind: str) -> None:
        super().__init__()
        self.q, self.v = layer(width, width), layer(width, width + 1)
        self.out = nn.Linear(2 * width + 1, width)
        self.lora_B_norm = nn.LayerNorm(width) if kind == "similar names" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.lora_B_norm(x + self.out(torch.cat([self.q(x), self.v(x)], dim=-1)))
        return result


class Net(nn.Module):
    def __init__(self, kind: str, vocabulary: int, width: int, rank: int, alpha: float) -> None:
        super().__init__()

        def layer(into: int, out: int) -> nn.Module:
            if kind in ("other classes", "modules of these names"):
                return Inherited(into, out, rank, alpha)
            if kind == "no factors":
                return nn.Linear(into, out)
            return Adapted(into, out, rank + (kind == "two ranks" and out > into), alpha, kind)

        self.embed = nn.Embedding(vocabulary, width)
        # The names are not in the order of the alphabet.
        self.block = nn.ModuleDict({name: Block(width, layer, kind) for name in (["1"] if kind == "one block" else ["1", "0"])})
        if kind == "modules of these names":
            self.block["0"].out = Adapted(2 * width + 1, width, rank, alpha, "names of peft")  # no LoRA layer: it has modules
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)
        if kind == "shared":
            self.block["0"].q = self.block["1"].q  # one layer at two names
            self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.block.values():
            x = block(x)
        result: Tensor = self.head(self.norm(x))
        return result


@builder
def net(seed: int, kind: str, vocabulary: int = 5, width: int = 4, rank: int = 2, alpha: float = 3.0) -> nn.Module:
    """A float64 model in training mode, its parameters drawn by NumPy, all of them trainable.

    Args:
        kind: "one block" or "two blocks", of layers q and v with factors; "no factors"; "names of peft": the factors are the
            weights of modules; "similar names": there are parameters whose names begin like a factor's; "shared": a layer
            at two names, and tied embeddings; "frozen": nothing is trainable; "other classes": the layers are Linears
            with factors of their own; "modules of these names": one more module has factors that are modules, so that it is
            no such layer; "two ranks": v has one more than q.
    """
    model = _drawn(Net(kind, vocabulary, width, rank, alpha).double(), seed)
    return model.requires_grad_(kind != "frozen")


@builder
def places(shapes: dict[str, tuple[int, ...]], tied: dict[str, str]) -> nn.Module:
    """A model that computes nothing and has parameters at these dotted names, in this order, none of them trainable.

    Args:
        tied: names, among those of `shapes`, and the earlier name whose Parameter stands there.
    """
    root = nn.Module()
    made: dict[str, nn.Parameter] = {}
    for name, shape in shapes.items():
        *path, leaf = name.split(".")
        parent = root
        for step in path:
            if step not in parent._modules:
                parent.add_module(step, nn.Module())
            parent = parent.get_submodule(step)
        made[name] = made[tied[name]] if name in tied else nn.Parameter(torch.zeros(shape))
        parent.register_parameter(leaf, made[name])
    return root.requires_grad_(False)


@builder
def on_meta(shape: tuple[int, ...], dtype: str) -> Tensor:
    """A tensor on the meta device, which has a shape and no data."""
    return torch.empty(shape, dtype=getattr(torch, dtype), device="meta")


@probe
def kind_of(result: Tensor) -> list[str]:
    """A tensor's device, dtype and shape."""
    return [result.device.type, str(result.dtype), str(tuple(result.shape))]


@probe
def with_gradient(model: nn.Module) -> list[str]:
    """The names of the parameters that have a gradient, be it zero."""
    return sorted(name for name, parameter in model.named_parameters() if parameter.grad is not None)


@probe
def states(model: nn.Module, factors: bool) -> list[str]:
    """All that a model is, in lines: the modes of its modules, and each parameter's dtype, flag, gradient and values.

    Args:
        factors: whether the values of factors are told, and alpha and scaling of the layers that have some.
    """
    found = []
    for name, module in model.named_modules(remove_duplicate=False):
        found.append(f"{name or 'model'}: {'training' if module.training else 'evaluation'}")
        if factors and hasattr(module, "scaling"):
            found.append(f"{name}: alpha {module.alpha}, scaling {module.scaling}")
    for name, p in model.named_parameters(remove_duplicate=False):
        gradient = "no" if p.grad is None else f"{p.grad.double().sum():.15g}"
        found.append(f"{name}: {p.dtype}, {'trainable' if p.requires_grad else 'frozen'}, gradient {gradient}")
        if factors or "lora_" not in name:
            found.append(f"{name}: sum {p.detach().double().sum():.15g}")
    return found


@builder
def transposed(factor: Tensor) -> nn.Parameter:
    """A Parameter of these numbers that lies in memory column by column."""
    return nn.Parameter(factor.T.contiguous().T)


class Folder:
    """A temporary folder that goes when this object goes.

    Attributes:
        path: of the folder.
        below: of a folder inside it that does not exist yet.
    """

    def __init__(self, files: dict[str, np.ndarray]) -> None:
        self.path = tempfile.mkdtemp()
        self.below = str(Path(self.path) / "new" / "adapter")
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
        for name, data in files.items():
            (Path(self.path) / name).write_bytes(data.tobytes())


@builder
def folder(files: dict[str, np.ndarray]) -> Folder:
    """A temporary folder with files of these bytes."""
    return Folder(files)


@builder
def folder_path(folder: str) -> Path:
    """The pathlib.Path of a folder."""
    return Path(folder)


@probe
def written(folder: str) -> dict[str, np.ndarray]:
    """The bytes of every file in a folder, by its path from there; none if there is no such folder."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): np.frombuffer(path.read_bytes(), np.uint8) for path in files}


@probe
def plain(value: Any) -> Any:
    """An object of plain values as it is."""
    return value


@probe
def equal(first: Any, second: Any) -> bool:
    """Whether two objects are equal."""
    return bool(first == second)


@builder
def config_class() -> type:
    """Stands in for a LoRAConfig that does not work yet: it checks next to nothing."""
    return Settings


class Settings:
    KEYS = (
        ("rank", "r"),
        ("alpha", "lora_alpha"),
        ("dropout", "lora_dropout"),
        ("target_modules",) * 2,
        ("rslora", "use_rslora"),
    )

    def __init__(
        self, rank: int = 8, alpha: float = 16.0, dropout: float = 0.0, target_modules: Any = (), rslora: bool = False
    ) -> None:
        values = (rank, alpha, dropout, sorted(target_modules), rslora)
        self.__dict__.update(zip(dict(self.KEYS), values, strict=True))
        self.scaling = alpha * rank ** -(0.5 if rslora else 1.0)

    def to_peft(self) -> dict[str, Any]:
        return dict(bias="none", peft_type="LORA", **{theirs: getattr(self, ours) for ours, theirs in self.KEYS})

    @classmethod
    def from_peft(cls, data: dict[str, Any]) -> Settings:
        if "LORA" not in data.values():
            raise ValueError("no LoRA adapter")
        return cls(**{ours: data[theirs] for ours, theirs in cls.KEYS if theirs in data})


@probe
def backward(model: nn.Module, tokens: Tensor, target: Tensor) -> None:
    """Leave a gradient at every parameter that is trainable."""
    (0.5 * (model(tokens) - target) ** 2).sum().backward()


@probe
def learn(model: nn.Module, tokens: Tensor, target: Tensor, steps: int) -> dict[str, Tensor]:
    """Every parameter after steps of gradient descent over all of them.

    No steps: one step on the gradients that are there.
    """
    for _ in range(steps):
        model.zero_grad()
        backward(model, tokens, target)
        probes.step(model.parameters(), 0.01)
    if not steps:
        probes.step(model.parameters(), 0.01)
    return dict(model.named_parameters())


@probe
def products(function: Callable[..., Any], A: Tensor, B: Tensor, cotangent: Tensor, **kwargs: Any) -> dict[str, Any]:
    """What a function of two factors gives, the gradients of <result, cotangent>, and the factors afterwards."""
    A, B = A.clone().requires_grad_(), B.clone().requires_grad_()
    result = function(A, B, **kwargs)
    probes.backward(result, cotangent)
    return {"result": result, "A": A.grad, "B": B.grad, "factors": [A, B]}


@builder
def encoder_layer(
    seed: int, width: int, heads: int, hidden: int, norm_first: bool, activation: str, batch_first: bool = True
) -> nn.Module:
    """A float64 nn.TransformerEncoderLayer without dropout, its parameters drawn by NumPy."""
    layer = nn.TransformerEncoderLayer(
        width, heads, hidden, dropout=0.0, activation=activation, batch_first=batch_first, norm_first=norm_first
    )
    return _drawn(layer.double(), seed)


class Reader(nn.Module):
    """A frozen backbone: one attention over the real tokens, and positions that count."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Linear(width, width)
        self.place = nn.Parameter(torch.empty(16, width))

    def forward(self, embeds: Tensor, mask: Tensor) -> Tensor:
        x = embeds + self.place[: embeds.shape[1]]
        scores = self.mix(x) @ x.transpose(-1, -2)
        weights = scores.masked_fill(~mask[:, None], float("-inf")).softmax(-1)
        return torch.tanh(x + weights @ x)


@builder
def reader(seed: int, width: int) -> nn.Module:
    """A float64 backbone(embeds, mask) for at most 16 positions, its parameters drawn by NumPy."""
    return _drawn(Reader(width).double(), seed)


class Projections(nn.Module):
    """The layers of a self-attention; it computes nothing itself."""

    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.num_heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=bias) for _ in range(4))


@builder
def projections(seed: int, width: int, heads: int, bias: bool) -> nn.Module:
    """A float64 module with q, k, v, o and num_heads, its parameters drawn by NumPy."""
    return _drawn(Projections(width, heads, bias).double(), seed)


def _named(module: nn.Module, contract: list[str]) -> dict[str, nn.Parameter]:
    """Every parameter once, by its name in the contract where it has one: it may stand at others too."""
    found: dict[int, tuple[str, nn.Parameter]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if name in contract or id(parameter) not in found:
            found[id(parameter)] = name, parameter
    return dict(found.values())


@probe
def gradients(module: nn.Module, args: list[Tensor], cotangent: Tensor, contract: list[str]) -> dict[str, Tensor]:
    """The gradients of <module(*args), cotangent> by the parameters that got one."""
    probes.backward(module(*args), cotangent)
    return {name: p.grad for name, p in _named(module, contract).items() if p.grad is not None}


@probe
def trainable(module: nn.Module, contract: list[str]) -> list[str]:
    """The names of the trainable parameters, each of them once."""
    return sorted(name for name, p in _named(module, contract).items() if p.requires_grad)
