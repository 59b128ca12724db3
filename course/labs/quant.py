"""What week 5's lab needs beside the student's file: other 4-bit types, layers put into a model, what a step keeps in memory."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from course.labs.live import LiveTensors
from course.labs.training import device, moved

Make = Callable[[nn.Linear], nn.Module]
KINDS = ("float32", "yours", "yours, checkpointed", "bitsandbytes")
_MMAP_THRESHOLD = -3  # of malloc.h


# --- other types ---


def bitsandbytes_codes(x: Tensor, block_size: int = 64) -> Tensor:
    """The NF4 codes that bitsandbytes gives: uint8 from 0 to 15, shape of x, whose number of elements is even."""
    from bitsandbytes import functional

    packed, _ = functional.quantize_4bit(x, blocksize=block_size, quant_type="nf4")
    halves = [torch.bitwise_right_shift(packed.flatten(), 4), packed.flatten() % 16]  # the high half is the first code
    return torch.dstack(halves).view(x.shape)


def fp4(x: Tensor, block_size: int = 64) -> Tensor:
    """x as the 4-bit floats of bitsandbytes stand for it; its last dimension is a multiple of block_size."""
    from bitsandbytes import functional

    back: Tensor = functional.dequantize_4bit(*functional.quantize_4bit(x, blocksize=block_size, quant_type="fp4"))
    return back


def int4(x: Tensor, block_size: int = 64, zero_point: bool = False) -> Tensor:
    """x as 4-bit integers stand for it, by PyTorch's fake quantisation; its size is a multiple of block_size.

    Symmetric: the integers -7 to 7, in steps of absmax / 7, one constant for a block. With a zero point: 0 to 15 over the block's
    range, made to include zero, and the zero point is a second constant.
    """
    rows = x.float().reshape(-1, block_size)
    if zero_point:
        bottom, top = nn.functional.pad(rows, (0, 1)).aminmax(dim=1)
        step, limits = (top - bottom).clamp_min(1e-30) / 15, (0, 15)
        zero = torch.round(bottom / step).neg().int()
    else:
        step, limits = rows.abs().amax(1).clamp_min(1e-30) / 7, (-7, 7)
        zero = torch.zeros_like(step, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(rows, step, zero, 0, *limits).view(x.shape)


# --- layers in models ---


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of a model's blocks by name, without the output layer, which keeps its precision."""
    get = getattr(model, "get_output_embeddings", None)
    output = get() if callable(get) else None
    return {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear) and part is not output}


def wrap(model: nn.Module, make: Make, recompute: bool = False) -> list[nn.Module]:
    """Freeze a model and put `make(linear)` in the place of each of its `linears`; what they have trainable stays so.

    Args:
        recompute: gradient checkpointing by layer: each keeps its input only and is computed again in the backward pass.

    Returns:
        The new layers, in the model's order.
    """
    model.requires_grad_(False)
    made = []
    for name in list(linears(model)):  # by name, so that each layer is freed when its turn is over
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        place = linear.weight.device
        with place:
            layer = make(linear).to(place)
        made.append(layer)
        model.set_submodule(name, _There(layer, place, recompute))
    return made


class _There(nn.Module):
    """A layer whose new tensors are made on the device where it stands, so that a student's file need not know of GPUs."""

    def __init__(self, layer: nn.Module, place: torch.device, recompute: bool) -> None:
        super().__init__()
        self.layer, self.place, self.recompute = layer, place, recompute

    def forward(self, x: Tensor) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            out: Tensor = checkpoint(self._here, x, use_reentrant=False)
            return out
        return self._here(x)

    def _here(self, x: Tensor) -> Tensor:
        with self.place:
            out: Tensor = self.layer(x)
        return out


def stack(kind: str, width: int, layers: int, rank: int, make: Make) -> nn.Module:
    """Frozen square layers with LoRA and a GELU behind each, wide enough for their memory to be seen.

    Args:
        kind: one of KINDS: "float32" and "bitsandbytes" have LoRA by peft; "yours" has the layers that `make(linear)` makes,
            checkpointed as in `wrap`.
    """
    torch.manual_seed(0)
    blocks = []
    for _ in range(layers):
        linear: nn.Module = nn.Sequential(nn.Linear(width, width, bias=False, device=device()))
        if kind.startswith("yours"):
            wrap(linear, make, recompute=kind.endswith("checkpointed"))
        else:
            linear = _by_peft(linear, rank, four_bit=kind == "bitsandbytes")
        blocks.append(nn.Sequential(linear, nn.GELU()))
    return nn.Sequential(*blocks)


def _by_peft(layer: nn.Module, rank: int, four_bit: bool) -> nn.Module:
    from bitsandbytes.nn.modules import Linear4bit, Params4bit
    from peft import LoraConfig, inject_adapter_in_model

    if four_bit:
        weight: Any = layer.get_submodule("0").weight
        packed: Any = Linear4bit(weight.shape[1], weight.shape[0], bias=False, quant_type="nf4", compute_dtype=torch.float32)
        packed.weight = Params4bit(weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True)
        layer = nn.Sequential(packed.to(weight.device))
    return inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=["0"]), layer)


# --- starts ---


def principal(w: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """B (d_out, rank) and A (rank, d_in) of the best approximation B A of w, the roots of the leading singular values in each."""
    if min(w.shape) <= 1024:
        exact = torch.linalg.svd(w, full_matrices=False)
        u, s, v = exact.U, exact.S, exact.Vh.mT
    else:  # large weights by a randomised method, which is accurate where the singular values decay
        u, s, v = torch.svd_lowrank(w, q=2 * rank + 8, niter=4)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, (v[:, :rank] * root).mT


def linear(weight: Tensor) -> nn.Linear:
    """A linear layer of that weight, without a bias."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device=weight.device, dtype=weight.dtype)
    layer.weight.data.copy_(weight)
    return layer


# --- memory ---


class Tally(LiveTensors):
    """`LiveTensors` in MiB; what a kernel uses inside does not count."""

    @property
    def now(self) -> float:
        """MiB in use."""
        return super().now / 2**20

    @property
    def mib(self) -> list[float]:
        """MiB in use after each of PyTorch's operations."""
        return [count / 2**20 for count in self.bytes]


def train_stack(model: nn.Module, width: int, tokens: int, steps: int, tally: Tally | None = None) -> float:
    """A few steps of AdamW on random input of shape (tokens, width).

    Returns:
        MiB in use between forward and backward pass, by the tally; 0 without one.
    """
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    x = torch.randn(tokens, width, device=device())
    between = 0.0
    for _ in range(steps):
        loss = model(x).square().mean()
        between = tally.now if tally else 0.0
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return between


def tidy() -> None:
    """Give freed memory back to the system, so that the next curve begins low; large blocks then on at once."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt"):  # glibc, which otherwise keeps blocks of up to 32 MiB
            library.mallopt(_MMAP_THRESHOLD, 2**18)
            library.malloc_trim(0)


def optimizers() -> list[Any]:
    """AdamW with states in float32, in 8 bits, and in 8 bits and paged."""
    from bitsandbytes.optim.adamw import AdamW8bit, PagedAdamW8bit

    return [torch.optim.AdamW, AdamW8bit, PagedAdamW8bit]


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of an optimizer's states, its counters left out."""
    states = (value for state in optimizer.state.values() for value in state.values())
    return sum(value.nbytes for value in states if isinstance(value, Tensor) and value.numel() > 1)


# --- dtypes ---


class _Products(TorchDispatchMode):
    """The dtype in which matrix products run, by the layer in which they are called."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, torch.dtype] = {}
        self.inside: list[str] = []

    def watch(self, layer: nn.Module, name: str) -> None:
        layer.register_forward_pre_hook(lambda *_: self.inside.append(name))
        layer.register_forward_hook(lambda *_: self.inside.clear())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.inside and func.__name__.split(".")[0] in ("mm", "addmm", "gemm_4bit"):
            self.found.setdefault(self.inside[-1], args[0].dtype)
        return func(*args, **(kwargs or {}))


def dtypes(model: Any, batch: Mapping[str, Tensor], layer: str = "q_proj") -> dict[str, str]:
    """Which dtype is where in a step of AdamW that computes in bf16, in the first 4-bit layer of that name with LoRA by peft."""
    from peft.tuners.lora.bnb import Linear4bit

    four_bit: dict[str, Any] = {name: part for name, part in model.named_modules() if isinstance(part, Linear4bit)}
    for part in four_bit.values():
        part.get_base_layer().compute_dtype = torch.bfloat16
    found = next(part for name, part in four_bit.items() if name.endswith(layer))
    base, down = found.get_base_layer(), found.lora_A["default"]
    place, constants = base.weight.device, base.weight.quant_state
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    products = _Products()
    products.watch(base, "product W x")
    products.watch(down, "product A x")
    with torch.autocast(place.type, torch.bfloat16), products:
        loss = model(**moved(dict(batch), place)).loss
    loss.backward()
    optimizer.step()
    table = {
        "codes of W, two in a byte": base.weight.dtype,
        "constants of the blocks": constants.absmax.dtype,
        "constants of the constants": constants.state2.absmax.dtype,
        "factor A": down.weight.dtype,
        **products.found,
        "loss": loss.dtype,
        "gradient of A": down.weight.grad.dtype,
        "Adam's moments of A": optimizer.state[down.weight]["exp_avg"].dtype,
    }
    return {key: str(dtype).removeprefix("torch.") for key, dtype in table.items()}
