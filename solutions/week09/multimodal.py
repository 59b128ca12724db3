"""Week 9: LoRA for convolutions, fused projections and diffusion models.

Complete tasks 9.1 to 9.4 below, in any order. `autograder check 9` tells how far you are and `autograder check 9.2`
checks one task alone. Each docstring is the contract: the checks use the names, shapes and errors that stand there
and nothing else, so everything else is yours to choose. Helper functions, private attributes and helper modules
beside this file are welcome.

Convention: y = W0 x + b + (alpha / rank) B A x, with A (rank x in_features) and B (out_features x rank),
so the weight update is dW = (alpha / rank) B A. Source: Hu et al., "LoRA: Low-Rank Adaptation of Large
Language Models", arXiv:2106.09685, section 4.1.
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
        ### BEGIN SOLUTION 9.1
        out_channels, *kernel = base.weight.shape
        if base.groups != 1 or base.padding_mode != "zeros":
            raise ValueError("grouped convolutions and other paddings than zeros are not supported")
        if not 1 <= rank <= min(math.prod(kernel), out_channels):
            raise ValueError(f"rank must be between 1 and {min(math.prod(kernel), out_channels)}, not {rank}")
        self.base = base.requires_grad_(False)
        self.rank, self.alpha, self.scaling = rank, alpha, alpha / rank
        self.lora_A = nn.Parameter(torch.randn(rank, *kernel).to(base.weight))
        self.lora_B = nn.Parameter(base.weight.new_zeros(out_channels, rank, 1, 1))
        self.merged = False
        ### END SOLUTION

    def forward(self, x: Tensor) -> Tensor:
        """Task 9.1: base(x) + (alpha / rank) lora_B * (lora_A * x), where * is the convolution.

        While the layer is `merged` the result is `base(x)`: a merged kernel holds the update already.

        Args:
            x: shape (batch, in_channels, height, width).

        Returns:
            Shape (batch, out_channels, new height, new width) as `base` gives it, dtype of x.
        """
        ### BEGIN SOLUTION 9.1
        y = self.base(x)
        if self.merged:
            return y
        inner = F.conv2d(x, self.lora_A, None, self.base.stride, self.base.padding, self.base.dilation)
        return y + self.scaling * F.conv2d(inner, self.lora_B)
        ### END SOLUTION

    def merge(self) -> None:
        """Task 9.1: add the update to base.weight, in place, and set `merged`.

        dW[o, i, h, w] = (alpha / rank) sum_r lora_B[o, r, 0, 0] lora_A[r, i, h, w], so that base(x) becomes what the
        layer computed before. base.weight stays the same Parameter and stays frozen; the bias, lora_A and lora_B do not
        change. Merging a merged layer does nothing.
        """
        ### BEGIN SOLUTION 9.1
        if not self.merged:
            self.base.weight.data += self._update()
            self.merged = True
        ### END SOLUTION

    def unmerge(self) -> None:
        """Task 9.1: take the update out of base.weight again, in place, and clear `merged`.

        Afterwards each weight is back within 4 eps (|W0| + |dW|), eps being that of base.weight's dtype. Unmerging a
        layer that is not merged does nothing.
        """
        ### BEGIN SOLUTION 9.1
        if self.merged:
            self.base.weight.data -= self._update()
            self.merged = False
        ### END SOLUTION

    ### BEGIN SOLUTION 9.1
    def _update(self) -> Tensor:
        flat = self.lora_B.data.flatten(1) @ self.lora_A.data.flatten(1)
        return self.scaling * flat.view_as(self.base.weight)

    ### END SOLUTION


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
    ### BEGIN SOLUTION 9.2
    if noise.shape != x0.shape or timesteps.shape != x0.shape[:1]:
        raise ValueError(f"x0 {tuple(x0.shape)}, noise {tuple(noise.shape)}, timesteps {tuple(timesteps.shape)} do not fit")
    if ((timesteps < 0) | (timesteps >= len(alphas_cumprod))).any():
        raise ValueError(f"timesteps must be between 0 and {len(alphas_cumprod) - 1}")
    abar = alphas_cumprod[timesteps].to(x0.dtype).view(-1, *[1] * (x0.dim() - 1))
    x_t = abar.sqrt() * x0 + (1 - abar).sqrt() * noise  # equation (4)
    return F.mse_loss(model(x_t, timesteps), noise)  # equation (14)
    ### END SOLUTION


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
    ### BEGIN SOLUTION 9.2
    if not -1 <= t_prev < t < len(alphas_cumprod):
        raise ValueError(f"there is no step from {t} to {t_prev} in {len(alphas_cumprod)} timesteps")
    if not 0 <= eta <= 1 or (eta > 0 and noise is None):
        raise ValueError("eta must be between 0 and 1, and needs noise where it is not 0")
    abar, abar_prev = float(alphas_cumprod[t]), float(alphas_cumprod[t_prev]) if t_prev >= 0 else 1.0
    sigma = eta * math.sqrt((1 - abar_prev) / (1 - abar)) * math.sqrt(1 - abar / abar_prev)  # equation (16)
    x0 = (x_t - math.sqrt(1 - abar) * eps) / math.sqrt(abar)
    x_prev = math.sqrt(abar_prev) * x0 + math.sqrt(1 - abar_prev - sigma**2) * eps  # equation (12)
    return x_prev if noise is None else x_prev + sigma * noise
    ### END SOLUTION


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
        ### BEGIN SOLUTION 9.3
        modules = dict(model.named_modules())
        self._layers: dict[str, tuple[nn.Linear, Tensor]] = {}
        for style in styles.values():
            for name, adapter in style.items():
                layer, A, B = modules.get(name), adapter["lora_A"], adapter["lora_B"]
                if not isinstance(layer, nn.Linear):
                    raise ValueError(f"the model has no Linear {name!r}")
                rank = len(A)
                if A.shape != (rank, layer.in_features) or B.shape != (layer.out_features, rank):
                    raise ValueError(f"factors of {tuple(A.shape)} and {tuple(B.shape)} do not fit {name!r}")
                self._layers[name] = layer, layer.weight.detach().clone()
        self._styles = styles
        ### END SOLUTION

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
        ### BEGIN SOLUTION 9.3
        if unknown := set(scales) - set(self._styles):
            raise ValueError(f"there is no style {sorted(unknown)}")
        for name, (layer, W0) in self._layers.items():
            wide = torch.promote_types(W0.dtype, torch.float32)
            total = W0.to(wide)
            for style, scale in scales.items():
                if name in self._styles[style]:
                    adapter = self._styles[style][name]
                    A, B = adapter["lora_A"].to(wide), adapter["lora_B"].to(wide)
                    total = total + scale * (adapter["alpha"] / len(A)) * (B @ A)
            layer.weight.data.copy_(total)
        ### END SOLUTION


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
        ### BEGIN SOLUTION 9.4
        named = set(slices)
        if not named or not named <= set("qkv"):
            raise ValueError(f"slices must be some of q, k and v, not {sorted(named)}")
        if sizes is None:
            sizes = (base.out_features // 3,) * 3
        if len(sizes) != 3 or min(sizes) < 1 or sum(sizes) != base.out_features:
            raise ValueError(f"sizes {sizes} are no partition of {base.out_features} output features")
        size = dict(zip("qkv", sizes, strict=True))
        end = dict(zip("qkv", accumulate(sizes), strict=True))
        if not 1 <= rank <= min(base.in_features, *(size[name] for name in named)):
            raise ValueError(f"rank {rank} is too large for the layer, or less than 1")
        self.base = base.requires_grad_(False)
        self.rank, self.alpha, self.scaling, self.merged = rank, alpha, alpha / rank, False
        self.lora_A, self.lora_B = nn.ParameterDict(), nn.ParameterDict()
        self._rows: dict[str, slice] = {}
        for name in sorted(named):
            self._rows[name] = slice(end[name] - size[name], end[name])
            self.lora_A[name] = nn.Parameter(torch.randn(rank, base.in_features).to(base.weight))
            self.lora_B[name] = nn.Parameter(base.weight.new_zeros(size[name], rank))
        ### END SOLUTION

    def forward(self, x: Tensor) -> Tensor:
        """Task 9.4: base(x), plus (alpha / rank) B_s A_s x in the output features of each named slice s.

        The output features of the other slices are those of base(x). While the layer is `merged` the result is base(x).

        Args:
            x: shape (..., in_features).

        Returns:
            Shape (..., out_features), dtype of x.
        """
        ### BEGIN SOLUTION 9.4
        y = self.base(x)
        if self.merged:
            return y
        for name, rows in self._rows.items():
            y[..., rows] += self.scaling * F.linear(F.linear(x, self.lora_A[name]), self.lora_B[name])
        return y
        ### END SOLUTION

    def merge(self) -> None:
        """Task 9.4: add (alpha / rank) B_s A_s to the rows of base.weight of each named slice s, in place, and set `merged`.

        The rows of the other slices stay as they are, bit for bit. base.weight stays the same Parameter and stays frozen;
        the bias and the factors do not change. Merging a merged layer does nothing.
        """
        ### BEGIN SOLUTION 9.4
        if not self.merged:
            for name, rows in self._rows.items():
                self.base.weight.data[rows] += self.scaling * (self.lora_B[name].data @ self.lora_A[name].data)
            self.merged = True
        ### END SOLUTION


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
    ### BEGIN SOLUTION 9.4
    targets, named = list(target_modules), list(slices)
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    hits = {t: [name for name in linears if f".{name}".endswith(f".{t}")] for t in targets}
    if missing := [t for t in targets if not hits[t]]:
        raise ValueError(f"no Linear matches {missing}")
    model.requires_grad_(False)
    found = sorted({name for names in hits.values() for name in names})
    for name in found:
        model.set_submodule(name, LoRAFusedQKV(model.get_submodule(name), named, rank, alpha, sizes))
    return found
    ### END SOLUTION
