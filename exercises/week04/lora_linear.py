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
        raise NotImplementedError("Week 4, task 1: LoRALinear.__init__")

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
        raise NotImplementedError("Week 4, task 1: LoRALinear.forward")

    def merge(self) -> None:
        """Task 4.2: add dW = (alpha / rank) B A to base.weight, in place, and set `merged`.

        base.weight stays the same Parameter (another module may share it) and stays frozen; the bias, lora_A and
        lora_B do not change. Training mode and dropout make no difference. Merging a merged layer does nothing.
        """
        raise NotImplementedError("Week 4, task 2: LoRALinear.merge")

    def unmerge(self) -> None:
        """Task 4.2: take dW out of base.weight again, in place, and clear `merged`.

        Afterwards each weight is back within 4 eps (|W0| + |dW|), eps being that of base.weight's dtype.
        Unmerging a layer that is not merged does nothing.
        """
        raise NotImplementedError("Week 4, task 2: LoRALinear.unmerge")

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
        raise NotImplementedError("Week 4, task 3: LoRALinear.set_rank")


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
    raise NotImplementedError("Week 4, task 4: inject_lora")

# stub 81fb64f71251bdb5
