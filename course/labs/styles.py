"""What week 9's lab needs beside `vision`: styles that can be blended, and models of one function at different costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from course.labs.core import progress

Style = dict[str, dict[str, Any]]  # as week 9's StyleBlender takes one

# --- styles ---


class Matrix(nn.Module):
    """A convolution whose kernel is the weight of a Linear, shape (out, in kh kw): the map of one patch.

    Attributes:
        kernel: the Linear, with the convolution's bias. What is written into its weight is what the convolution uses.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.shape = conv.weight.shape
        self.stride, self.padding, self.dilation = conv.stride, conv.padding, conv.dilation
        self.kernel = nn.Linear(conv.weight[0].numel(), len(conv.weight), conv.bias is not None, device="meta")
        self.kernel.weight = nn.Parameter(conv.weight.detach().flatten(1), requires_grad=False)
        if conv.bias is not None:
            self.kernel.bias = nn.Parameter(conv.bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel.weight.view(self.shape)
        return F.conv2d(x, kernel, self.kernel.bias, self.stride, self.padding, self.dilation)


def wrap(unet: nn.Module, names: Iterable[str], layer: Callable[[nn.Conv2d], nn.Module]) -> None:
    """Replace the convolutions of these names by layer(convolution), in place."""
    for name in names:
        conv = unet.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        unet.set_submodule(name, layer(conv))
    redraw(unet)


@torch.no_grad()
def redraw(model: nn.Module, seed: int = 0) -> None:
    """Draw every lora_A anew, uniform within 1 / sqrt(inputs) as peft does: training begins alike, whatever the layers drew."""
    generator = torch.Generator().manual_seed(seed)
    for name, A in model.named_parameters():
        if "lora_A" in name.split("."):
            bound = A[0].numel() ** -0.5
            A.copy_((2 * torch.rand(A.shape, generator=generator) - 1) * bound)


def take_out(unet: nn.Module, names: Iterable[str]) -> Style:
    """Take LoRA convolutions out of a UNet, whose own come back, unmerged.

    Returns:
        Their factors as a style of `Matrix` layers: A flat, shape (rank, in kh kw), and B, shape (out, rank).
    """
    style: Style = {}
    for name in names:
        layer: Any = unet.get_submodule(name)
        A, B = layer.lora_A.detach().flatten(1).clone(), layer.lora_B.detach().flatten(1).clone()
        style[f"{name}.kernel"] = {"lora_A": A, "lora_B": B, "alpha": layer.alpha}
        unet.set_submodule(name, layer.base)
    return style


# --- costs ---


class Adapted(nn.Module):
    """A layer with a bottleneck behind it: x + up(gelu(down(x))) of its output x (Houlsby et al., arXiv:1902.00751)."""

    def __init__(self, layer: nn.Linear, width: int) -> None:
        super().__init__()
        self.layer = layer
        self.down = nn.Linear(layer.out_features, width).to(layer.weight)
        self.up = nn.Linear(width, layer.out_features).to(layer.weight)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        inner = F.gelu(self.down(out))
        return out.add(self.up(inner))


class Prefixed(nn.Module):
    """A `vision.FusedAttention` with `length` trained keys and values that every query sees (Li and Liang, arXiv:2101.00190)."""

    def __init__(self, attention: Any, length: int) -> None:
        super().__init__()
        self.inner = attention
        size = attention.qkv.out_features // 3 // attention.heads
        self.prefix = nn.Parameter(torch.zeros(2, 1, attention.heads, length, size).to(attention.qkv.weight))

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        parts = self.inner.qkv(hidden_states).unflatten(-1, (3, self.inner.heads, -1))
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        own = self.prefix.expand(-1, len(queries), -1, -1, -1)
        keys, values = (torch.cat(pair, dim=2) for pair in ((own[0], keys), (own[1], values)))
        mixed: Tensor = F.scaled_dot_product_attention(queries, keys, values)
        return self.inner.o_proj(mixed.transpose(1, 2).flatten(2)), None


def with_adapters(model: Any, width: int) -> Any:
    """The ViT with two bottlenecks a block, behind the attention and behind the MLP, in place."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name.endswith(("o_proj", "fc2")):
            model.set_submodule(name, Adapted(module, width))
    return model


def with_prefix(model: Any, length: int) -> Any:
    """The ViT, of `FusedAttention`, with a prefix in every attention, in place."""
    for name, module in list(model.named_modules()):
        if hasattr(module, "qkv"):
            model.set_submodule(name, Prefixed(module, length))
    return model


class _Calls(TorchDispatchMode):
    """Counts the calls of PyTorch's operators, without those that only look at the same memory in another shape."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def operations(model: nn.Module, x: Tensor) -> tuple[int, int]:
    """What one forward costs, counted: (calls of operators, multiply-adds in products of matrices and convolutions)."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with sdpa_kernel(SDPBackend.MATH):  # as products, which the counter knows
        with _Calls() as calls:
            model(x)
        with FlopCounterMode(display=False) as flops:
            model(x)
    return calls.count, flops.get_total_flops() // 2


@torch.no_grad()
def timed(models: Mapping[str, nn.Module], x: Tensor, rounds: int, repeats: int = 5) -> dict[str, list[float]]:
    """Seconds of one forward, `rounds` measurements a model, each the median of `repeats`.

    The models take turns within a round, so that what slows the machine for a while slows all of them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for model in models.values():
        model(x)
    for _ in progress(range(rounds), desc="timing"):
        for name, model in models.items():
            seconds[name].append(statistics.median(_once(model, x) for _ in range(repeats)))
    return seconds


def _once(model: nn.Module, x: Tensor) -> float:
    start = time.perf_counter()
    model(x)
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start
