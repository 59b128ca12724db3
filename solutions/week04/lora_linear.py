"""Week 4: a LoRA layer whose rank can be changed, and its injection into a model.

Complete the four tasks below, in any order; `autograder check 4` tells how far you are and
`autograder check 4.2` checks one task alone. Each docstring is the contract: the checks use the names,
shapes and errors that stand there and nothing else, so everything else is yours to choose. Helper
functions, private attributes and helper modules beside this file are welcome.

Convention: y = W0 x + b + (alpha / rank) B A x, with A (rank x in_features) and B (out_features x rank),
so the weight update is dW = (alpha / rank) B A. Source: Hu et al., "LoRA: Low-Rank Adaptation of Large
Language Models", arXiv:2106.09685, section 4.1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
        ### BEGIN SOLUTION 4.1
        _check_rank(rank, base)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), not {dropout}")
        self.base = base.requires_grad_(False)
        self.rank, self.alpha, self.scaling = rank, alpha, alpha / rank
        self.lora_A = nn.Parameter(_random_rows(rank, base))
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        self.dropout = nn.Dropout(dropout)
        self.merged, self.enabled = False, True
        ### END SOLUTION

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
        ### BEGIN SOLUTION 4.1
        y = self.base(x)
        if self.merged or not self.enabled:
            return y
        return y + self.scaling * F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B)
        ### END SOLUTION

    def merge(self) -> None:
        """Task 4.2: add dW = (alpha / rank) B A to base.weight, in place, and set `merged`.

        base.weight stays the same Parameter (another module may share it) and stays frozen; the bias, lora_A and
        lora_B do not change. Training mode and dropout make no difference. Merging a merged layer does nothing.
        """
        ### BEGIN SOLUTION 4.2
        if not self.merged:
            self.base.weight.data += self.scaling * (self.lora_B.data @ self.lora_A.data)
            self.merged = True
        ### END SOLUTION

    def unmerge(self) -> None:
        """Task 4.2: take dW out of base.weight again, in place, and clear `merged`.

        Afterwards each weight is back within 4 eps (|W0| + |dW|), eps being that of base.weight's dtype.
        Unmerging a layer that is not merged does nothing.
        """
        ### BEGIN SOLUTION 4.2
        if self.merged:
            self.base.weight.data -= self.scaling * (self.lora_B.data @ self.lora_A.data)
            self.merged = False
        ### END SOLUTION

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
        ### BEGIN SOLUTION 4.3
        _check_rank(new_rank, self.base)
        if self.merged:
            raise RuntimeError("unmerge the layer before its rank is changed")
        A, B = self.lora_A.data, self.lora_B.data
        rescale = new_rank / self.rank  # makes up for alpha / rank turning into alpha / new_rank
        if new_rank >= self.rank:
            A = torch.cat([A, _random_rows(new_rank - self.rank, self.base)])
            B = torch.cat([rescale * B, B.new_zeros(len(B), new_rank - self.rank)], dim=1)
        else:
            wide = torch.promote_types(B.dtype, torch.float32)  # no SVD in half precision
            U, S, Vh = torch.linalg.svd(rescale * B.to(wide) @ A.to(wide), full_matrices=False)
            # All of S goes into B: A keeps independent rows, and can learn, even where dW is zero.
            A, B = Vh[:new_rank].to(A.dtype), (U[:, :new_rank] * S[:new_rank]).to(B.dtype)
        self.lora_A, self.lora_B = nn.Parameter(A), nn.Parameter(B)
        self.rank, self.scaling = new_rank, self.alpha / new_rank
        ### END SOLUTION


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
    Linear that stands at several names is wrapped once, and the one LoRALinear stands at each name that matches.
    Nothing inside a LoRALinear is ever wrapped, so a second call with the same targets changes nothing.

    When it returns, the factors of all LoRALinear layers in the model are trainable and nothing else is:
    embeddings, norms and layers that were not targeted are frozen too.

    Args:
        model: any module; it is not itself replaced.
        target_modules: names or dotted suffixes.
        rank: one rank for all, or a rank for each target. Where several targets match a name, the longest counts.
        alpha: as in LoRALinear, the same for all.
        dropout: as in LoRALinear, the same for all.

    Returns:
        The full names of the modules that this call replaced, sorted.

    Raises:
        ValueError: if a target matches no Linear and no LoRALinear, before anything is changed.
    """
    ### BEGIN SOLUTION 4.4
    targets = list(target_modules)
    wrapped = {id(m.base): m for m in model.modules() if isinstance(m, LoRALinear)}  # one for each Linear
    found: dict[str, tuple[nn.Module, str]] = {}
    unmatched = set(targets)
    for name, module in model.named_modules(remove_duplicate=False):
        hits = [t for t in targets if f".{name}".endswith(f".{t}")]
        inside = isinstance(model.get_submodule(name.rpartition(".")[0]), LoRALinear)
        if name and hits and isinstance(module, nn.Linear | LoRALinear) and not inside:
            found[name] = module, max(hits, key=len)
            unmatched.difference_update(hits)
    if unmatched:
        raise ValueError(f"no Linear matches {sorted(unmatched)}")

    model.requires_grad_(False)
    injected = []
    for name, (module, target) in found.items():
        if isinstance(module, nn.Linear):
            if id(module) not in wrapped:
                r = rank[target] if isinstance(rank, Mapping) else rank
                wrapped[id(module)] = LoRALinear(module, r, alpha, dropout)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, wrapped[id(module)])
            injected.append(name)
    for module in model.modules():
        if isinstance(module, LoRALinear):
            module.lora_A.requires_grad_(True)
            module.lora_B.requires_grad_(True)
    return sorted(injected)
    ### END SOLUTION


### BEGIN SOLUTION 4.1
def _check_rank(rank: int, base: nn.Linear) -> None:
    if not 1 <= rank <= min(base.in_features, base.out_features):
        raise ValueError(f"rank must be from 1 to {min(base.in_features, base.out_features)}, not {rank}")


def _random_rows(rows: int, base: nn.Linear) -> Tensor:
    """Kaiming uniform as in nn.Linear, shape (rows, in_features)."""
    bound = 1 / math.sqrt(base.in_features)
    return base.weight.detach().new_empty(rows, base.in_features).uniform_(-bound, bound)


### END SOLUTION
