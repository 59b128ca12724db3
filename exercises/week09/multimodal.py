"""Week 9: LoRA for convolutions, fused projections and diffusion models.

Complete tasks 9.1 to 9.4 below, in any order. `autograder check 9` tells how far you are and `autograder check 9.2`
checks one task alone. Each docstring is the contract: the checks use the names, shapes and errors that stand there
and nothing else, so everything else is yours to choose. Helper functions, private attributes and helper modules
beside this file are welcome.

Convention: y = W0 x + b + (alpha / rank) B A x, with A (rank x in_features) and B (out_features x rank),
so the weight update is dW = (alpha / rank) B A. Source: Hu et al., "LoRA: Low-Rank Adaptation of Large
Language Models", arXiv:2106.09685, section 4.1.

Task   points  minutes  difficulty  importance (both from 1 to 5)
9.1        20       40           2           4
9.2        20       40           3           4
9.3        15       25           2           4
9.4        15       45           4           5
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LoRAConv2d(nn.Module):
    """A frozen `nn.Conv2d` with a trainable branch of low rank beside it.

    The branch is a convolution to `rank` channels with the kernel size, stride, padding and dilation of `base`, and a
    1 x 1 convolution behind it; both are without bias. (peft does so too, but forgets the dilation.)

    Attributes:
        base: the `nn.Conv2d` that was passed in, the same object, its weight and bias frozen.
        lora_A: `nn.Parameter`, shape (rank, in_channels, kh, kw), where (kh, kw) is the kernel size of `base`.
        lora_B: `nn.Parameter`, shape (out_channels, rank, 1, 1).
        rank: int.
        alpha: float, as it was passed in.
        scaling: float, alpha / rank.
        merged: bool, whether base.weight contains the update now; False at first. Only merge and unmerge change it.

    lora_A and lora_B are the only trainable parameters and have base.weight's dtype and device.
    """

    def __init__(self, base: nn.Conv2d, rank: int, alpha: float) -> None:
        """Task 9.1: freeze `base` and add the two factors.

        At the start A is random, its rank kernels linearly independent (how it is drawn is yours), and B is zero, so
        the layer begins as `base` exactly.

        Args:
            base: the layer to adapt: any kernel size, stride, dilation and padding ("same" and "valid" too), with or
                without a bias, padded with zeros, its groups equal to 1.
            rank: channels in between, 1 <= rank <= min(in_channels * kh * kw, out_channels).
            alpha: numerator of the scaling.

        Raises:
            ValueError: if rank is out of its range, base.groups is not 1, or base.padding_mode is not "zeros".
        """
        super().__init__()
        raise NotImplementedError("Week 9, task 1: LoRAConv2d.__init__")

    def forward(self, x: Tensor) -> Tensor:
        """Task 9.1: base(x) + (alpha / rank) lora_B * (lora_A * x), where * is the convolution.

        While the layer is `merged` the result is `base(x)`: a merged kernel holds the update already.

        Args:
            x: shape (batch, in_channels, height, width).

        Returns:
            Shape (batch, out_channels, new height, new width) as `base` gives it, dtype of x.
        """
        raise NotImplementedError("Week 9, task 1: LoRAConv2d.forward")

    def merge(self) -> None:
        """Task 9.1: add the update to base.weight, in place, and set `merged`.

        dW[o, i, h, w] = (alpha / rank) sum_r lora_B[o, r, 0, 0] lora_A[r, i, h, w], so that base(x) becomes what the
        layer computed before. base.weight stays the same Parameter and stays frozen; the bias, lora_A and lora_B do not
        change. Merging a merged layer does nothing.
        """
        raise NotImplementedError("Week 9, task 1: LoRAConv2d.merge")

    def unmerge(self) -> None:
        """Task 9.1: take the update out of base.weight again, in place, and clear `merged`.

        Afterwards each weight is back within 4 eps (|W0| + |dW|), eps being that of base.weight's dtype. Unmerging a
        layer that is not merged does nothing.
        """
        raise NotImplementedError("Week 9, task 1: LoRAConv2d.unmerge")



def diffusion_loss(
    model: Callable[[Tensor, Tensor], Tensor], x0: Tensor, timesteps: Tensor, noise: Tensor, alphas_cumprod: Tensor
) -> Tensor:
    """Task 9.2: the loss with which a diffusion model learns to predict the noise.

    Every sample is noised to its own timestep,

        x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) noise,    abar_t = alphas_cumprod[t],

    and the loss is the mean, over all elements of the batch, of (noise - model(x_t, timesteps))^2. Ho et al., "Denoising
    Diffusion Probabilistic Models", arXiv:2006.11239, equations (4) and (14).

    Args:
        model: called once, as model(x_t, timesteps) with two positional arguments: x_t with the shape and the dtype of x0,
            and `timesteps` as they were given. Returns a tensor of that shape and dtype. Gradients flow into its parameters.
        x0: clean samples, shape (batch, ...) with one or more further dimensions, float32 or float64; not changed.
        timesteps: int64, shape (batch,), from 0 to len(alphas_cumprod) - 1.
        noise: shape and dtype of x0; not changed.
        alphas_cumprod: shape (T,), float64, each in (0, 1): the product of (1 - beta) up to and including each timestep.

    Returns:
        The loss, a tensor without dimensions and with the dtype of x0.

    Raises:
        ValueError: if the shape of noise is not that of x0, that of timesteps is not (batch,), or a timestep is out of its
            range (a negative one too). The model is not called then.
    """
    raise NotImplementedError("Week 9, task 2: diffusion_loss")


def ddim_step(
    x_t: Tensor,
    eps: Tensor,
    t: int,
    t_prev: int,
    alphas_cumprod: Tensor,
    eta: float = 0.0,
    noise: Tensor | None = None,
) -> Tensor:
    """Task 9.2: one step of DDIM sampling, from timestep t to the earlier timestep t_prev.

    Song et al., "Denoising Diffusion Implicit Models", arXiv:2010.02502, equations (12) and (16), whose alpha is abar here:

        x_prev = sqrt(abar_prev) (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t)
                 + sqrt(1 - abar_prev - sigma^2) eps + sigma noise
        sigma = eta sqrt((1 - abar_prev) / (1 - abar_t)) sqrt(1 - abar_t / abar_prev)

    with abar_t = alphas_cumprod[t] and abar_prev = alphas_cumprod[t_prev]. The step that ends the sampling has t_prev = -1,
    which stands for the clean sample: there abar_prev = 1, and not alphas_cumprod[-1]. Nothing is clipped.

    Args:
        x_t: noisy samples, any shape, float32 or float64; not changed.
        eps: the noise that the model predicted, shape and dtype of x_t; not changed.
        t: 0 <= t < len(alphas_cumprod).
        t_prev: -1 <= t_prev < t; steps between the two may be left out.
        alphas_cumprod: shape (T,), float64, each in (0, 1), falling.
        eta: 0 gives the deterministic sampler, 1 gives as much noise as DDPM; 0 <= eta <= 1.
        noise: shape and dtype of x_t, from a standard normal distribution; not changed. May be None if eta is 0 and has
            no influence then.

    Returns:
        x_prev, with the shape and dtype of x_t.

    Raises:
        ValueError: if t, t_prev or eta is out of its range, or eta is greater than 0 and noise is None.
    """
    raise NotImplementedError("Week 9, task 2: ddim_step")


class StyleBlender:
    """The Linear layers of a model, with any blend of several style adapters in their weights.

    A style is an adapter: {layer name: {"lora_A": A, "lora_B": B, "alpha": alpha}} with tensors A (rank, in_features) and
    B (out_features, rank). The ranks and alphas may differ between the styles and between the layers of one style, and each
    style may name other layers.
    """

    def __init__(self, model: nn.Module, styles: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
        """Task 9.3: remember the styles, and the weights W0 that the model has now.

        Nothing of the model is changed.

        Args:
            model: holds the layers at the dotted names that the styles use; a Linear stands at one name only.
            styles: a style by its name; the tensors have the dtype of the layer's weight. Neither they nor the mappings are
                ever changed.

        Raises:
            ValueError: if a style names a layer that the model does not have or that is no `nn.Linear`, or the shapes
                of the factors do not fit the layer and each other.
        """
        raise NotImplementedError("Week 9, task 3: StyleBlender.__init__")

    def blend_styles(self, scales: Mapping[str, float]) -> None:
        """Task 9.3: set each layer's weight to W0 + sum_i scale_i (alpha_i / rank_i) B_i A_i, in place.

        The sum is over the styles in `scales` that name the layer. Every call starts from W0, whatever was blended before;
        a style that is not in `scales` has scale 0. A layer that no style of `scales` names gets its W0 back, bit for bit,
        so blend_styles({}) restores the model. The same holds where all its scales are 0.

        The products and the sum are taken in float32 or wider, and rounded once, to the dtype of the weight. Each weight
        stays the same Parameter and keeps its requires_grad; layers that no style names and biases are left alone.

        Args:
            scales: a number for each style's name; it may be negative, zero or greater than one.

        Raises:
            ValueError: if a name is that of no style; nothing is changed then.
        """
        raise NotImplementedError("Week 9, task 3: StyleBlender.blend_styles")


class LoRAFusedQKV(nn.Module):
    """A frozen `nn.Linear` that computes queries, keys and values at once, with adapters for some of the three.

    The rows of base.weight are stacked in the order q, k, v: the first sizes[0] output features are the queries, the next
    sizes[1] the keys, the last sizes[2] the values. Each slice that is named has two factors of its own.

    Attributes:
        base: the `nn.Linear` that was passed in, the same object, its weight and bias frozen.
        lora_A: `nn.ParameterDict` with a parameter of shape (rank, in_features) for each named slice, "q", "k" or "v".
        lora_B: `nn.ParameterDict` with a parameter of shape (size of the slice, rank) for each named slice.
        rank: int.
        alpha: float, as it was passed in.
        scaling: float, alpha / rank.
        merged: bool, whether base.weight contains the updates now; False at first. Only merge changes it.

    The factors are the only trainable parameters and have base.weight's dtype and device. A slice that is not named has none.
    """

    def __init__(
        self, base: nn.Linear, slices: Iterable[str], rank: int, alpha: float, sizes: tuple[int, int, int] | None = None
    ) -> None:
        """Task 9.4: freeze `base` and add two factors for each named slice.

        At the start every A is random with linearly independent rows, drawn for each slice anew (how is yours), and every
        B is zero.

        Args:
            base: the fused projection, with or without a bias.
            slices: names among "q", "k" and "v", in any order and in any iterable, a generator included.
            rank: 1 <= rank <= min(in_features, size of the smallest named slice).
            alpha: numerator of the scaling, the same for all.
            sizes: how many output features q, k and v have; None for three equal parts. Under grouped-query
                attention k and v have fewer than q.

        Raises:
            ValueError: if slices is empty or holds another name; if sizes are not three positive numbers whose sum is
                base.out_features; if sizes is None and base.out_features is no multiple of three; if rank is out
                of its range.
        """
        super().__init__()
        raise NotImplementedError("Week 9, task 4: LoRAFusedQKV.__init__")

    def forward(self, x: Tensor) -> Tensor:
        """Task 9.4: base(x), plus (alpha / rank) B_s A_s x in the output features of each named slice s.

        The output features of the other slices are those of base(x). While the layer is `merged` the result is base(x).

        Args:
            x: shape (..., in_features).

        Returns:
            Shape (..., out_features), dtype of x.
        """
        raise NotImplementedError("Week 9, task 4: LoRAFusedQKV.forward")

    def merge(self) -> None:
        """Task 9.4: add (alpha / rank) B_s A_s to the rows of base.weight of each named slice s, in place, and set `merged`.

        The rows of the other slices stay as they are, bit for bit. base.weight stays the same Parameter and stays frozen;
        the bias and the factors do not change. Merging a merged layer does nothing.
        """
        raise NotImplementedError("Week 9, task 4: LoRAFusedQKV.merge")


def inject_fused_qkv(
    model: nn.Module,
    target_modules: Iterable[str],
    slices: Iterable[str],
    rank: int,
    alpha: float,
    sizes: tuple[int, int, int] | None = None,
) -> list[str]:
    """Task 9.4: replace the targeted `nn.Linear` layers of `model` by `LoRAFusedQKV`, in place.

    A target t matches a module whose full dotted name is t or ends with "." + t: "qkv" matches "qkv" and "blocks.0.qkv",
    not "blocks.0.proj_qkv". Only `nn.Linear` is replaced; other modules of a matching name are left.

    When it returns, the factors of the new layers are trainable and nothing else in the model is.

    Args:
        model: any module, itself no target, that holds no LoRAFusedQKV yet and each Linear at one name only.
        target_modules: names or dotted suffixes, in any iterable, a generator included.
        slices: as in LoRAFusedQKV, the same for all; a generator too.
        rank: as in LoRAFusedQKV, the same for all.
        alpha: as in LoRAFusedQKV, the same for all.
        sizes: as in LoRAFusedQKV, the same for all.

    Returns:
        The full names of the modules that were replaced, sorted.

    Raises:
        ValueError: if a target matches no Linear, before anything is changed; and as LoRAFusedQKV does.
    """
    raise NotImplementedError("Week 9, task 4: inject_fused_qkv")

# stub a03b0dc2ad7e0663
