"""Week 4: a LoRA layer whose rank can be changed, and its injection into a model.

Complete tasks 4.1 to 4.4 below, in any order; 4.5 to 4.7 are stretch tasks, checked but without marks.
`autograder check 4` tells how far you are and `autograder check 4.2` checks one task alone. Each docstring is
the contract: the checks use the names, shapes and errors that stand there and nothing else, so everything else
is yours to choose. Helper functions, private attributes and helper modules beside this file are welcome.

Convention: y = W0 x + b + (alpha / rank) B A x, with A (rank x in_features) and B (out_features x rank),
so the weight update is dW = (alpha / rank) B A. Source: Hu et al., "LoRA: Low-Rank Adaptation of Large
Language Models", arXiv:2106.09685, section 4.1.

Task   points  minutes  difficulty  importance (both from 1 to 5)
4.1        25       50           2           5
4.2        15       25           2           4
4.3        15       40           4           3
4.4        15       35           3           5
4.5   stretch       30           3           3
4.6   stretch       20           2           2
4.7   stretch       45           3           3
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class LoRALinear(nn.Module):
    """A frozen `nn.Linear` with a trainable branch of low rank beside it.

    Attributes:
        base: the `nn.Linear` that was passed in, the same object, its weight and bias frozen.
        lora_A: `nn.Parameter`, shape (rank, in_features).
        lora_B: `nn.Parameter`, shape (out_features, rank).
        rank: int.
        alpha: float, as it was passed in.
        scaling: float, alpha / rank.
        merged: bool, whether base.weight contains the update now; False at first.
        enabled: bool, whether the branch is used; True at first.

    lora_A and lora_B are the only trainable parameters and have base.weight's dtype and device. `merged` and
    `enabled` are plain attributes: a caller may set them.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float = 0.0) -> None:
        """Task 4.1: freeze `base` and add the two factors.

        At the start A is random with linearly independent rows (how it is drawn is yours: the paper takes a
        Gaussian, peft a Kaiming uniform) and B is zero, so the layer begins as `base` exactly.

        Args:
            base: the layer to adapt, with or without a bias.
            rank: inner dimension, 1 <= rank <= min(in_features, out_features).
            alpha: numerator of the scaling.
            dropout: probability of dropout on the branch's input, 0 <= dropout < 1.

        Raises:
            ValueError: if rank or dropout is out of its range.
        """
        super().__init__()
        _check_rank(rank, base)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {dropout}")
        self.base = base.requires_grad_(False)
        self.rank, self.alpha, self.scaling = rank, alpha, alpha / rank
        self.merged, self.enabled = False, True
        self.dropout = nn.Dropout(dropout)
        self.lora_A = nn.Parameter(_gaussian_rows(rank, base.weight))
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """Task 4.1: y = W0 x + b + (alpha / rank) B A dropout(x).

        Dropout acts on the elements of the branch's input only, never on the input of `base`, in training mode only.
        While the layer is `merged` or not `enabled`, the result is `base(x)`: a merged weight holds the update
        already.

        Args:
            x: shape (..., in_features).

        Returns:
            Shape (..., out_features), dtype of x.
        """
        out = self.base(x)
        if self.enabled and not self.merged:
            out = out + self.scaling * F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B)
        return out

    def merge(self) -> None:
        """Task 4.2: add dW = (alpha / rank) B A to base.weight, in place, and set `merged`.

        base.weight stays the same Parameter (another module may share it) and stays frozen; the bias, lora_A and
        lora_B do not change. Training mode, dropout and `enabled` make no difference. Merging a merged layer does nothing.
        """
        if not self.merged:
            self._add_update(sign=1)
            self.merged = True

    def unmerge(self) -> None:
        """Task 4.2: take dW out of base.weight again, in place, and clear `merged`.

        Afterwards each weight is back within 4 eps (|W0| + |dW|), eps being that of base.weight's dtype.
        Unmerging a layer that is not merged does nothing.
        """
        if self.merged:
            self._add_update(sign=-1)
            self.merged = False

    @torch.no_grad()
    def _add_update(self, sign: int) -> None:
        """W0 += sign dW, in place: other modules may hold the same Parameter."""
        self.base.weight.add_(self.lora_B @ self.lora_A, alpha=sign * self.scaling)

    def set_rank(self, new_rank: int) -> None:
        """Task 4.3: change the rank; alpha stays, so scaling becomes alpha / new_rank.

        Growing keeps dW unchanged: B and A are rescaled for the new scaling, A gets fresh random rows (all rows
        linearly independent again) and B gets zero columns. Shrinking keeps the best approximation of dW of rank
        new_rank, the truncated SVD (Eckart and Young, 1936). An equal rank keeps dW. How a factor of two is
        shared between B and A, and the signs of the SVD, are yours.

        lora_A and lora_B are trainable `nn.Parameter`s of the new shapes, with base.weight's dtype and device;
        they may be new objects, so build the optimizer after this call.

        Args:
            new_rank: 1 <= new_rank <= min(in_features, out_features).

        Raises:
            ValueError: if new_rank is out of its range.
            RuntimeError: if the layer is merged.
        """
        _check_rank(new_rank, self.base)
        if self.merged:
            raise RuntimeError("call unmerge() before set_rank(): the weight holds the update of the old rank")
        with torch.no_grad():
            A, B = self._grown(new_rank) if new_rank >= self.rank else self._truncated(new_rank)
            # alpha / rank is about to become alpha / new_rank; B makes up for it.
            self.lora_A, self.lora_B = nn.Parameter(A), nn.Parameter(B * (new_rank / self.rank))
        self.rank, self.scaling = new_rank, self.alpha / new_rank

    def _grown(self, new_rank: int) -> tuple[Tensor, Tensor]:
        extra = new_rank - self.rank
        A = torch.cat([self.lora_A, _gaussian_rows(extra, self.base.weight)])
        return A, F.pad(self.lora_B, (0, extra))

    def _truncated(self, new_rank: int) -> tuple[Tensor, Tensor]:
        dtype = self.lora_A.dtype
        at_least_32 = torch.promote_types(dtype, torch.float32)  # torch has no SVD in half precision
        product = self.lora_B.to(at_least_32) @ self.lora_A.to(at_least_32)
        U, S, Vh = torch.linalg.svd(product, full_matrices=False)
        # The singular values go to B: A then has orthonormal rows, also where the update is zero.
        return Vh[:new_rank].to(dtype), (U[:, :new_rank] * S[:new_rank]).to(dtype)


def inject_lora(
    model: nn.Module,
    target_modules: Iterable[str],
    rank: int | Mapping[str, int],
    alpha: float,
    dropout: float = 0.0,
) -> list[str]:
    """Task 4.4: replace the targeted `nn.Linear` layers of `model` by `LoRALinear`, in place.

    A target t matches a module whose full dotted name is t or ends with "." + t: "q" matches "q" and "block.0.q",
    not "block.0.qkv" and not "seq". Only `nn.Linear` is replaced; other modules of a matching name are left. A
    Linear that stands at several names is wrapped once, and the one LoRALinear stands at each name that matches, also
    where only a later call's targets match it. Nothing inside a LoRALinear is ever wrapped, so a second call with the
    same targets changes nothing.

    When it returns, the factors of all LoRALinear layers in the model are trainable and nothing else is:
    embeddings, norms and layers that were not targeted are frozen too.

    Args:
        model: any module; it is not itself replaced.
        target_modules: names or dotted suffixes, in any iterable, a generator included.
        rank: one rank for all, or a rank for each target. Where several targets match a name, the longest counts.
        alpha: as in LoRALinear, the same for all.
        dropout: as in LoRALinear, the same for all.

    Returns:
        The full names of the modules that this call replaced, sorted.

    Raises:
        ValueError: if a target matches no Linear and no LoRALinear, before anything is changed.
    """
    targets = list(target_modules)
    places = _places(model, targets, LoRALinear)
    wrappers = {m.base: m for m in model.modules() if isinstance(m, LoRALinear)}

    model.requires_grad_(False)
    replaced = []
    for name, target in places.items():
        layer = model.get_submodule(name)
        if isinstance(layer, LoRALinear):
            continue
        if layer not in wrappers:
            own_rank = rank[target] if isinstance(rank, Mapping) else rank
            wrappers[layer] = LoRALinear(layer, own_rank, alpha, dropout)
        _replace(model, name, wrappers[layer])
        replaced.append(name)
    for wrapper in wrappers.values():
        wrapper.lora_A.requires_grad_(True)
        wrapper.lora_B.requires_grad_(True)
    return sorted(replaced)


def checkpointed(block: nn.Module) -> nn.Module:
    """Task 4.5 (stretch): a module that computes what `block` computes and keeps nothing from inside it.

    Called in training mode with gradients enabled, the result keeps the arguments and the parameters, and no tensor
    that arises inside `block`; back-propagation calls `block`'s forward a second time to get them again. So a pass
    forward and back calls it exactly twice: once when the result is called, once more during the backward pass.

    - The output and all gradients are those of `block`, also where no argument requires a gradient: behind a frozen
      embedding none does, and the parameters inside still have to learn.
    - The parameters of the result are those of `block`, the same objects, each of them once; how they are named is yours.
      Training and evaluation mode of the result reach `block`.
    - Random numbers too are those of `block`: from an equal state of torch's generator comes an equal output, the
      second call draws the same dropout masks, and afterwards the generator stands where one call of `block` leaves it.
    - Positional and keyword arguments of any kind are passed on, and tensors among them get their gradients.
    - The result may be called several times before the first backward pass.
    - Under `torch.no_grad()` it only computes: one call of `block`. Whether it recomputes in evaluation mode with
      gradients enabled is yours, and so is whether the result is a new module or `block` with another forward.

    Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174, section 3.
    `torch.utils.checkpoint` may be used.

    Args:
        block: any module that returns one tensor.

    Returns:
        The module described above.
    """
    return _Recomputed(block)




def lora_plus_groups(model: nn.Module, lr: float, ratio: float = 16.0) -> list[dict[str, Any]]:
    """Task 4.6 (stretch): parameter groups with the two learning rates of LoRA+.

    The lora_B of every LoRALinear layer gets lr * ratio; every other trainable parameter, lora_A included, gets lr.
    What decides is the layer that holds a factor, not how a parameter is named. Each trainable parameter stands in
    exactly one group, exactly once, also when it is shared or its layer stands at several names; frozen parameters,
    frozen factors included, stand in none.

    Source: Hayou et al., "LoRA+: Efficient Low Rank Adaptation of Large Models", arXiv:2402.12354, section 4, which
    finds a ratio of about 16 to do well.

    Args:
        model: any module, with or without LoRALinear layers.
        lr: rate of everything but the lora_B, greater than 0.
        ratio: how many times faster the lora_B learn, greater than 0.

    Returns:
        Groups as `torch.optim` takes them: dicts with "params", a list of Parameters, and "lr", and no other option.
        How many groups there are and in which order is yours; a group may be empty.

    Raises:
        ValueError: if lr or ratio is not greater than 0, or the model has no trainable parameter.
    """
    if lr <= 0 or ratio <= 0:
        raise ValueError(f"lr and ratio must be above 0, not {lr} and {ratio}")
    fast = {m.lora_B for m in model.modules() if isinstance(m, LoRALinear)}
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise ValueError("nothing in the model is trainable: inject the layers first")
    return [
        {"params": [p for p in trainable if p not in fast], "lr": lr},
        {"params": [p for p in trainable if p in fast], "lr": lr * ratio},
    ]


class AdapterLinear(nn.Module):
    """A frozen `nn.Linear` with a bottleneck adapter behind it: h + up(gelu(down(h))) with h = base(x).

    `PEFTApplier` puts it in place of a targeted layer. Source: Houlsby et al., "Parameter-Efficient Transfer Learning
    for NLP", arXiv:1902.00751, section 2.1, whose start near the identity is exact here.

    Attributes:
        base: the `nn.Linear` that was passed in, the same object, its weight and bias frozen.
        down: `nn.Linear` from out_features to size, with a bias.
        up: `nn.Linear` from size to out_features, with a bias.

    down and up are trainable and have base.weight's dtype and device.
    """

    def __init__(self, base: nn.Linear, size: int) -> None:
        """Task 4.7 (stretch): freeze `base` and add the adapter.

        At the start up.weight and up.bias are zero, so the layer begins as `base` exactly; down.weight is random (how it
        is drawn is yours): were both zero, neither would ever move.

        Args:
            base: the layer that the adapter stands behind.
            size: width of the bottleneck, at least 1.
        """
        super().__init__()
        self.base = base.requires_grad_(False)
        like_base = {"dtype": base.weight.dtype, "device": base.weight.device}
        self.down = nn.Linear(base.out_features, size, **like_base)
        self.up = nn.Linear(size, base.out_features, **like_base)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Task 4.7 (stretch): h + up(gelu(down(h))) with h = base(x), and gelu the exact one (not its tanh estimate).

        Args:
            x: shape (..., in_features).

        Returns:
            Shape (..., out_features), dtype of x.
        """
        h = self.base(x)
        return h + self.up(F.gelu(self.down(h)))


class PEFTApplier:
    """Freezes a model and adds one kind of trainable part to it: LoRA factors or bottleneck adapters.

    Attributes:
        trainable: int, elements of the model's trainable parameters after apply(), a shared parameter counted once.
        total: int, elements of all its parameters after apply(), a shared one counted once, what was added included.
    """

    def __init__(self, model: nn.Module, method: str, target_modules: Iterable[str], size: int, alpha: float = 16.0) -> None:
        """Task 4.7 (stretch): take the settings; the model is not changed yet.

        Args:
            model: the model to adapt.
            method: "lora" or "adapter".
            target_modules: names or dotted suffixes, matched as `inject_lora` matches them; only `nn.Linear` counts.
            size: rank of the factors, or width of the adapters' bottleneck; at least 1.
            alpha: as in LoRALinear; adapters do not use it.

        Raises:
            ValueError: if method is neither of the two, or size is less than 1.
        """
        if method not in ("lora", "adapter"):
            raise ValueError(f'method must be "lora" or "adapter", not "{method}"')
        if size < 1:
            raise ValueError(f"size must be at least 1, not {size}")
        self.model, self.method, self.targets = model, method, list(target_modules)
        self.size, self.alpha = size, alpha

    def apply(self) -> nn.Module:
        """Task 4.7 (stretch): freeze the model, put a trainable layer at each targeted place, and count.

        "lora" puts a LoRALinear there (call your `inject_lora`), "adapter" an AdapterLinear. A Linear that stands at
        several names is wrapped once, and the one wrapper stands at each name that matches, also where only the targets
        of a later PEFTApplier match it. Afterwards what was added is trainable and nothing else is. Nothing inside a
        wrapper is ever wrapped; a second call changes nothing.

        A model that was adapted by the other method already is outside of this contract.

        Returns:
            The model that was passed in, the same object.

        Raises:
            ValueError: if a target matches no layer, before anything is changed.
        """
        if self.method == "lora":
            inject_lora(self.model, self.targets, self.size, self.alpha)
        else:
            self._insert_adapters()
        parameters = list(self.model.parameters())  # each shared one once
        self.total = sum(p.numel() for p in parameters)
        self.trainable = sum(p.numel() for p in parameters if p.requires_grad)
        return self.model

    def _insert_adapters(self) -> None:
        places = _places(self.model, self.targets, AdapterLinear)
        adapters = {m.base: m for m in self.model.modules() if isinstance(m, AdapterLinear)}
        self.model.requires_grad_(False)
        for name in places:
            layer = self.model.get_submodule(name)
            if isinstance(layer, nn.Linear):
                if layer not in adapters:
                    adapters[layer] = AdapterLinear(layer, self.size)
                _replace(self.model, name, adapters[layer])
        for adapter in adapters.values():
            adapter.down.requires_grad_(True)
            adapter.up.requires_grad_(True)


class _Recomputed(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        # The reentrant variant gives no gradients to parameters behind inputs that need none.
        return checkpoint(self.block, *args, use_reentrant=False, **kwargs)


def _check_rank(rank: int, base: nn.Linear) -> None:
    most = min(base.in_features, base.out_features)
    if not 1 <= rank <= most:
        raise ValueError(f"rank must be from 1 to {most} for {base}, not {rank}")


def _gaussian_rows(count: int, like: Tensor) -> Tensor:
    """Shape (count, in_features), standard deviation 1 / sqrt(in_features)."""
    return torch.randn(count, like.shape[1], dtype=like.dtype, device=like.device) / math.sqrt(like.shape[1])


def _places(model: nn.Module, targets: list[str], wrapper: type[nn.Module]) -> dict[str, str]:
    """The longest matching target of every name whose layer is to be, or has been, wrapped.

    Raises:
        ValueError: if a target matches none.
    """
    found: dict[str, str] = {}
    unused = set(targets)
    for name, layer in model.named_modules(remove_duplicate=False):  # a tied layer at each of its names
        parent = model.get_submodule(name.rpartition(".")[0])
        matching = [t for t in targets if name == t or name.endswith("." + t)]
        if name and matching and isinstance(layer, nn.Linear | wrapper) and not isinstance(parent, wrapper):
            found[name] = max(matching, key=len)
            unused -= set(matching)
    if unused:
        raise ValueError(f"no linear layer is called {', '.join(sorted(unused))}")
    return found


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)

# stub 9229301ca302a331
