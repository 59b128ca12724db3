"""Week 11: adapters made ready to be served: merged, compressed, exported.

Complete tasks 11.1 to 11.4 below, in any order; 11.5 to 11.7 are stretch tasks, checked but without marks.
`autograder check 11` tells how far you are and `autograder check 11.2` checks one task alone. Each docstring is
the contract: the checks use the names, shapes and errors that stand there and nothing else, so everything else
is yours to choose. Helper functions and helper modules beside this file are welcome. `LoRA` and `LoRALinear` are
given: leave them as they are. No function changes the tensors that are passed to it.

Convention: y = W0 x + b + (alpha / rank) B A x, with A (rank x in_features) and B (out_features x rank),
so the weight update is dW = (alpha / rank) B A. Source: Hu et al., "LoRA: Low-Rank Adaptation of Large
Language Models", arXiv:2106.09685, section 4.1.

Task   points  minutes  difficulty  importance (both from 1 to 5)
11.1       20       35           2           5
11.2       15       35           3           3
11.3       20       40           3           4
11.4       15       40           3           4
11.5  stretch       15           2           2
11.6  stretch       25           2           3
11.7  stretch       30           2           2
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class LoRA(NamedTuple):
    """The adapter of one weight.

    Attributes:
        lora_A: shape (rank, in_features).
        lora_B: shape (out_features, rank), of lora_A's dtype.
        alpha: numerator of the scaling; the rank is the number of lora_A's rows.
    """

    lora_A: Tensor
    lora_B: Tensor
    alpha: float


class LoRALinear(nn.Module):
    """A frozen `nn.Linear` with a LoRA branch beside it.

    Attributes:
        base: the `nn.Linear`.
        lora_A, lora_B, alpha: as in LoRA, but parameters.
        dropout: an `nn.Dropout`, on the branch's input.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.base, self.alpha = base.requires_grad_(False), alpha
        self.lora_A = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.dropout(x) @ self.lora_A.T @ self.lora_B.T
        result: Tensor = self.base(x) + branch * (self.alpha / len(self.lora_A))
        return result


def merge_loras(
    base: Mapping[str, Tensor],
    adapters: Sequence[Mapping[str, LoRA]],
    weights: Sequence[float],
    dtype: torch.dtype = torch.float16,
) -> dict[str, Tensor]:
    """Task 11.1: add several adapters to the weights of a model: W = W0 + sum_k weights[k] dW_k.

    Each adapter has its own targets, ranks and alphas; one that does not name a weight adds nothing to it. The sum is
    formed in float32 or wider, in float64 if `dtype` is float64, and rounded once, at the end, to `dtype`: in half
    precision every small update that is added by itself would be rounded away. With no adapters the weights are only
    converted.

    Args:
        base: names and finite tensors, as in a model's state dict.
        adapters: for each, the names of the weights that it changes, and their LoRA.
        weights: one number for each adapter, of any sign; they need not sum to 1.
        dtype: a floating-point type.

    Returns:
        A tensor for each name of `base`, of dtype `dtype`; tensors that are not floating-point (indices, say) stay as
        they are.

    Raises:
        ValueError: if there are not as many weights as adapters, or an adapter names a weight that `base` lacks.
        OverflowError: if a number is too large for `dtype`, and so became infinite, in a weight of any name. Whether one
            is raised for a number that would be rounded down to the largest of `dtype` is yours.
    """
    raise NotImplementedError("Week 11, task 1: merge_loras")


def ties_merge(deltas: Sequence[Tensor], density: float, scale: float = 1.0) -> Tensor:
    """Task 11.2: TIES: merge the updates of several tasks, and let none cancel another (Yadav et al. 2023, algorithm 1).

    1. Trim: of each update the int(density * n) entries of largest magnitude stay, of its n, at least one; the others
       become zero.
    2. Elect: at each position the sign is that of the sum of the trimmed entries, so the larger total magnitude wins, not
       the larger number of tasks.
    3. Merge: the result is the mean of those trimmed entries whose sign is the elected one; trimmed zeros and the other
       sign do not count, neither in the sum nor in the number. Where the sum in step 2 is zero, the result is zero.

    Which of several entries of equal magnitude stay, where the trim has to choose, is yours, and so is whether all do.

    Args:
        deltas: one tensor for each task, all of one shape and floating-point dtype.
        density: share that is kept, 0 < density <= 1.
        scale: the result's factor, lambda in the paper.

    Returns:
        `scale` times the merged update, of the shape and dtype of the updates.

    Raises:
        ValueError: if density is out of its range, there is no update, or the shapes differ.
    """
    raise NotImplementedError("Week 11, task 2: ties_merge")


def svd_compress(lora: LoRA, rank: int) -> LoRA:
    """Task 11.3: the adapter of a smaller rank whose dW is nearest to this one's (Eckart and Young, 1936).

    alpha stays what it is, so the scaling becomes alpha / rank, and the factors have to make up for that. How a factor is
    shared between B and A, and the signs of the SVD, are yours.

    Args:
        lora: float64, float32 or a half-precision type, for which there is no SVD: compute in float32 then.
        rank: 1 <= rank <= that of `lora`.

    Returns:
        A LoRA of that rank, with the dtype and alpha of `lora`.

    Raises:
        ValueError: if rank is out of its range.
    """
    raise NotImplementedError("Week 11, task 3: svd_compress")


def prune_by_energy(lora: LoRA, energy: float) -> LoRA:
    """Task 11.3: compress to the smallest rank that keeps a share of the update's energy.

    The energy of dW is its squared Frobenius norm, the sum of the squared singular values. The rank is the smallest k for
    which the k largest hold at least `energy` of it; the result is that of `svd_compress` at this rank. At energy 1 the
    update is kept whole. An update that is zero has rank 1 afterwards.

    Args:
        lora: as in `svd_compress`.
        energy: 0 < energy <= 1.

    Returns:
        A LoRA with the dtype and alpha of `lora`.

    Raises:
        ValueError: if energy is out of its range.
    """
    raise NotImplementedError("Week 11, task 3: prune_by_energy")




def export_onnx(model: nn.Module, example: Tensor, path: str | os.PathLike[str]) -> None:
    """Task 11.4: write a model with LoRA layers as an ONNX file that needs neither PyTorch nor LoRA any more.

    - The file computes what `model` computes in evaluation mode, within float32 rounding (1e-5), whatever mode `model`
      is in; there is no Dropout node in it.
    - Its input is called "x" and its output "y", and x may have any number of rows, 1 included.
    - Every LoRALinear is merged: in the file it is one matrix product (a Gemm or MatMul node) like any nn.Linear, and
      takes no more time.
    - `model` itself stays as it was: its layers, its parameters and the mode of each of its modules.

    Use `torch.onnx.export(..., dynamo=True)`. The weights may stand in the file or in a second one beside it. The opset
    is yours.

    Args:
        model: a float32 module that takes one tensor; LoRALinear layers stand anywhere inside it, and it is not one itself.
        example: an input, shape (rows, features), with at least two rows.
        path: of the file to write; its folder exists.
    """
    raise NotImplementedError("Week 11, task 4: export_onnx")


def dare(delta: Tensor, drop_rate: float, generator: torch.Generator) -> Tensor:
    """Task 11.5 (stretch): DARE: drop entries of an update at random and rescale the rest (Yu et al. 2024).

    Each entry becomes zero with probability `drop_rate`, independently of all others; those that stay are divided by
    1 - drop_rate, so each entry's expectation is what it was. Which entries are dropped depends on `generator` alone: from
    an equal state come the same ones. How numbers are drawn from it is yours.

    Args:
        delta: float32 or float64, any shape.
        drop_rate: 0 <= drop_rate < 1.
        generator: of random numbers, on delta's device.

    Returns:
        A tensor of delta's shape and dtype.

    Raises:
        ValueError: if drop_rate is out of its range.
    """
    raise NotImplementedError("Week 11, task 5: dare")


def compress_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Task 11.6 (stretch): symmetric 8-bit quantisation of a weight, one scale for each row.

    The scale of a row is its largest magnitude divided by 127; an entry is divided by its row's scale and rounded to the
    nearest whole number, so zero stays zero and -128 is never used. A row of zeros has a finite scale, which is yours, and
    the codes 0. Which way a number exactly between two codes is rounded is yours.

    Args:
        weight: shape (out_features, in_features), float32 or float64.

    Returns:
        The codes, int8, of weight's shape, and the scales, shape (out_features, 1), of weight's dtype.
    """
    raise NotImplementedError("Week 11, task 6: compress_int8")


def decompress_int8(codes: Tensor, scale: Tensor) -> Tensor:
    """Task 11.6 (stretch): the weight that the codes and scales of `compress_int8` stand for.

    Returns:
        The shape of `codes`, the dtype of `scale`.
    """
    raise NotImplementedError("Week 11, task 6: decompress_int8")


def ewc_penalty(
    parameters: Mapping[str, Tensor], old: Mapping[str, Tensor], fisher: Mapping[str, Tensor], strength: float
) -> Tensor:
    """Task 11.7 (stretch): elastic weight consolidation (Kirkpatrick et al. 2017, equation 3), without the new task's loss.

    The penalty is strength / 2 times the sum of F_i (theta_i - theta*_i)^2 over all entries of the parameters that `old`
    names; those that only `parameters` has are new and cost nothing. It can be back-propagated to `parameters`, and to
    nothing else: `old` and `fisher` are constants, whether or not they require a gradient.

    Args:
        parameters: theta, by name.
        old: theta*, the values after the earlier task; every name stands in `parameters` and in `fisher`.
        fisher: F, the diagonal of the Fisher information, of the shape of the parameter.
        strength: lambda, how much the earlier task counts.

    Returns:
        A scalar, shape (), of the parameters' dtype.
    """
    raise NotImplementedError("Week 11, task 7: ewc_penalty")


def stack_tasks(loras: Sequence[LoRA]) -> LoRA:
    """Task 11.7 (stretch): one adapter for several tasks, whose dW is the sum of theirs, exactly.

    The ranks add up. The rows of the lora_A are those of all tasks, unchanged, in the order of the tasks, so an earlier
    task's rows can be frozen while a later one learns. The new alpha is the new rank, so the scaling is 1, and each task's
    own scaling goes into its columns of lora_B.

    Args:
        loras: of one weight, at least one, of one dtype; their ranks and alphas may differ.

    Returns:
        A LoRA of the same dtype.
    """
    raise NotImplementedError("Week 11, task 7: stack_tasks")

# stub ac9fcb9d6d9559ed
