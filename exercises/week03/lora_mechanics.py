"""Week 3: what LoRA adds to a model, what it freezes, and how it is stored; four other ways to adapt a frozen model.

Complete tasks 3.1 to 3.4 below, in any order; 3.5 to 3.8 are stretch tasks, checked but without marks.
`autograder check 3` tells how far you are and `autograder check 3.2` checks one task alone. Each docstring is
the contract: the checks use the names, shapes and errors that stand there and nothing else, so everything else
is yours to choose. Helper functions, private attributes and helper modules beside this file are welcome.

Convention: y = W0 x + b + (alpha / rank) B A x, with A (rank x in_features) and B (out_features x rank),
so the weight update is dW = (alpha / rank) B A. Source: Hu et al., "LoRA: Low-Rank Adaptation of Large
Language Models", arXiv:2106.09685, section 4.1.

Task   points  minutes  difficulty  importance (both from 1 to 5)
3.1        10       15           1           5
3.2        15       20           2           5
3.3        20       45           2           4
3.4        25       60           3           5
3.5   stretch       40           3           3
3.6   stretch       25           2           3
3.7   stretch       35           3           3
3.8   stretch       20           2           2
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def lora_delta(A: Tensor, B: Tensor, alpha: float, rslora: bool = False) -> Tensor:
    """Task 3.1: the update of a layer's weight, dW = (alpha / r) B A, or (alpha / sqrt(r)) B A for rank-stabilised LoRA.

    r is the rank, the number of rows of A. Gradients flow through the result to A and B, and neither of the two is
    changed.

    Source: Hu et al., section 4.1; Kalajdzievski, "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA",
    arXiv:2312.03732, for the square root.

    Args:
        A: shape (r, in_features), of any floating dtype, r at least 1.
        B: shape (out_features, r), of A's dtype and device.
        alpha: any number.
        rslora: whether the root of the rank divides.

    Returns:
        Shape (out_features, in_features), with A's dtype and device, and as accurate as that dtype allows.

    Raises:
        ValueError: if A or B does not have two dimensions, or B has not as many columns as A has rows.
    """
    raise NotImplementedError("Week 3, task 1: lora_delta")


def mark_only_lora_trainable(model: nn.Module) -> int:
    """Task 3.2: make the LoRA factors of a model trainable and freeze everything else.

    A parameter is a factor if one part of its dotted name, in `model.named_parameters()`, is exactly "lora_A" or
    "lora_B": "block.0.q.lora_A" and peft's "q.lora_B.default.weight" name factors, "lora_B_norm.weight" and
    "q.lora_bias" do not. Factors become trainable also where they were frozen. Biases, norms and embeddings are frozen.

    A parameter that is frozen here also loses its gradient (`grad` is None afterwards): an optimizer that holds it
    would go on to apply what is left of an earlier backward pass. Gradients of factors stay, and so do all values and
    the training mode.

    Args:
        model: any module; it is changed in place.

    Returns:
        How many numbers are trainable now: the elements of all trainable parameters, a shared parameter counted once.

    Raises:
        ValueError: if the model has no factor; nothing has been changed then.
    """
    raise NotImplementedError("Week 3, task 2: mark_only_lora_trainable")


@dataclass
class LoRAConfig:
    """The settings of an adapter. Two configurations with equal fields are equal.

    Attributes:
        rank: inner dimension of the update.
        alpha: numerator of the scaling, as it was passed in.
        dropout: probability of dropout on the branch's input.
        target_modules: names of the layers to adapt: given as any iterable of str, kept as a sorted list of str
            in which each name stands once.
        rslora: whether the scaling divides by the root of the rank.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: Iterable[str] = ("q_proj", "v_proj")
    rslora: bool = False

    def __post_init__(self) -> None:
        """Task 3.3: check the fields, and put target_modules into the form described above.

        Raises:
            ValueError: if rank is not an int of at least 1, alpha is not a finite number greater than 0, or dropout is
                not in [0, 1); if target_modules is a plain str (whose letters would be taken for names), names
                nothing, or has an empty name in it.
        """
        raise NotImplementedError("Week 3, task 3: LoRAConfig.__post_init__")

    @property
    def scaling(self) -> float:
        """Task 3.3: what B A is multiplied by: alpha / rank, or alpha / sqrt(rank) with rslora."""
        raise NotImplementedError("Week 3, task 3: LoRAConfig.scaling")

    @classmethod
    def preset(cls, name: str) -> LoRAConfig:
        """Task 3.3: one of four starting points: at every call a new object, with a list of its own.

        | name | rank | alpha | dropout | target_modules | rslora |
        |---|---|---|---|---|---|
        | "tiny" | 1 | 2 | 0 | q_proj, v_proj | no |
        | "small" | 4 | 8 | 0 | q_proj, v_proj | no |
        | "default" | 8 | 16 | 0.05 | q_proj, k_proj, v_proj, o_proj | no |
        | "large" | 64 | 16 | 0.05 | q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj | yes |

        The scaling of all four is 2. The names are those of Llama's layers.

        Raises:
            ValueError: if there is no such preset.
        """
        raise NotImplementedError("Week 3, task 3: LoRAConfig.preset")

    def to_peft(self) -> dict[str, Any]:
        """Task 3.3: the settings as peft writes them into adapter_config.json.

        Returns:
            Values that JSON has, under exactly these keys: peft_type ("LORA"), r, lora_alpha, lora_dropout,
            target_modules (the list), use_rslora (a bool) and bias ("none").
        """
        raise NotImplementedError("Week 3, task 3: LoRAConfig.to_peft")

    @classmethod
    def from_peft(cls, data: Mapping[str, Any]) -> LoRAConfig:
        """Task 3.3: the configuration that an adapter_config.json describes; the inverse of to_peft.

        A key that is missing stands for peft's own default: r = 8, lora_alpha = 8, lora_dropout = 0, use_rslora =
        False; only peft_type and target_modules must be there. Keys that are not named here are ignored: peft writes
        many.

        Args:
            data: the parsed file; it is not changed.

        Raises:
            ValueError: if peft_type is missing or not "LORA"; if target_modules is missing or None; if the constructor
                refuses a value; or if the file asks for what this class cannot express, and leaving it out would
                silently be another adapter: a bias other than "none", a true use_dora, or a rank_pattern,
                alpha_pattern or modules_to_save that holds anything (None and empty ones hold nothing).
        """
        raise NotImplementedError("Week 3, task 3: LoRAConfig.from_peft")


def save_adapter(model: nn.Module, config: LoRAConfig, folder: str | Path) -> None:
    """Task 3.4: write the adapter of a model, and nothing of its base, in the format of peft.

    A LoRA layer is a module inside `model` that has the parameters lora_A (rank x in_features) and lora_B (out_features
    x rank) itself, and the plain attributes alpha and scaling. The folder gets two files, and nothing else:

    - adapter_model.safetensors: for the layer that stands at the dotted name n, the tensors
      "base_model.model.{n}.lora_A.weight" and "base_model.model.{n}.lora_B.weight", each with its dtype. A layer that
      stands at several names is written at each of them. A factor may lie in memory in any order (be a transposed
      view, say), which the format itself does not allow. Metadata is yours.
    - adapter_config.json: the JSON object that config.to_peft() gives.

    The model does not change.

    Args:
        model: has LoRA layers inside it; it is not itself one.
        config: its rank is that of every layer.
        folder: is made if it does not exist, its parents too; files of these names in it are replaced.

    Raises:
        ValueError: if the model has no LoRA layer, or a lora_A has not config.rank rows; nothing is written then.
    """
    raise NotImplementedError("Week 3, task 4: save_adapter")


def load_adapter(model: nn.Module, folder: str | Path) -> LoRAConfig:
    """Task 3.4: put an adapter that was saved so, or by peft, into a model that has the same LoRA layers.

    Each factor is overwritten in place: it stays the Parameter that it was (an optimizer may hold it), trainable or not
    as before, and the values are converted to its dtype. Every LoRA layer's alpha and scaling become those of the
    configuration, since dW depends on them. Nothing else in the model changes.

    Args:
        model: has LoRA layers, as described at save_adapter; one that stands at several names is the same at each in
            the file.
        folder: holds adapter_model.safetensors and adapter_config.json.

    Returns:
        The configuration, LoRAConfig.from_peft of the parsed file.

    Raises:
        ValueError: in each of these cases, and the model has not been changed then: the file lacks a factor of the
            model; it holds a tensor that is no factor of the model; a tensor has another shape than the factor; the
            configuration's rank is not the number of rows of every lora_A; or LoRAConfig.from_peft refuses it.
    """
    raise NotImplementedError("Week 3, task 4: load_adapter")




class Adapter(nn.Module):
    """A bottleneck with a residual connection: u + up(gelu(down(u))).

    Source: Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", arXiv:1902.00751, section 2.1, whose start
    near the identity is exact here.

    Attributes:
        down: `nn.Linear` from width to size, with a bias.
        up: `nn.Linear` from size to width, with a bias.
    """

    def __init__(self, width: int, size: int) -> None:
        """Task 3.5 (stretch): at the start up.weight and up.bias are zero, and down.weight is random (how is yours).

        Raises:
            ValueError: if size is less than 1.
        """
        super().__init__()
        raise NotImplementedError("Week 3, task 5: Adapter.__init__")

    def forward(self, u: Tensor) -> Tensor:
        """Task 3.5 (stretch): u + up(gelu(down(u))), with the exact gelu (not its tanh estimate).

        Args:
            u: shape (..., width).

        Returns:
            The shape and dtype of u.
        """
        raise NotImplementedError("Week 3, task 5: Adapter.forward")


class AdapterBlock(nn.Module):
    """A frozen transformer layer with two adapters inside it, where Houlsby et al. put them (their figure 2).

    Attributes:
        layer: the `nn.TransformerEncoderLayer` that was passed in, the same object, all of it frozen, its norms too.
        attention_adapter: Adapter behind the attention.
        feedforward_adapter: Adapter behind the feed-forward part.

    Only the adapters are trainable; they have the layer's width, dtype and device.
    """

    def __init__(self, layer: nn.TransformerEncoderLayer, size: int) -> None:
        """Task 3.5 (stretch): freeze `layer` and add the adapters.

        Args:
            layer: made with batch_first=True.
            size: width of both bottlenecks.

        Raises:
            ValueError: if the layer is not batch_first (its attention would then mix the examples of a batch), or size
                is less than 1.
        """
        super().__init__()
        raise NotImplementedError("Week 3, task 5: AdapterBlock.__init__")

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Task 3.5 (stretch): the layer's function, each adapter between its part and the residual connection.

        With the layer's own parts, attn (its self_attn, self-attention without dropout here) and ffn(h) =
        linear2(activation(linear1(h))), and a1, a2 for the two adapters:

        - where layer.norm_first is False, h = norm1(x + a1(attn(x))) and y = norm2(h + a2(ffn(h)));
        - where it is True, h = x + a1(attn(norm1(x))) and y = h + a2(ffn(norm2(h))).

        So a new block computes what its layer does. What becomes of the layer's dropout in training mode is yours.

        Args:
            x: shape (batch, sequence, width).
            padding_mask: bool, shape (batch, sequence), True where a position is padding: no query attends to it. What
                the result holds at padded positions is yours.

        Returns:
            The shape and dtype of x.
        """
        raise NotImplementedError("Week 3, task 5: AdapterBlock.forward")


class PromptTuning(nn.Module):
    """A frozen model that reads trainable vectors before its input, and a mean over what it makes of the input.

    Source: Lester et al., "The Power of Scale for Parameter-Efficient Prompt Tuning", arXiv:2104.08691, section 2.

    Attributes:
        backbone: the module that was passed in, the same object, frozen.
        prompt: `nn.Parameter`, shape (length, width), the only trainable parameter.
    """

    def __init__(self, backbone: nn.Module, init: Tensor) -> None:
        """Task 3.6 (stretch): freeze `backbone`, and let the prompt start as a copy of `init`.

        Args:
            backbone: called as backbone(embeds, mask), with embeds of shape (batch, sequence, width) and a bool mask of
                shape (batch, sequence), True where a token is real; it returns hidden states of the shape of embeds.
            init: shape (length, width), with the dtype and device of the embeddings, often rows of the embedding table;
                it is left alone, also when the prompt is trained.
        """
        super().__init__()
        raise NotImplementedError("Week 3, task 6: PromptTuning.__init__")

    def forward(self, embeds: Tensor, mask: Tensor) -> Tensor:
        """Task 3.6 (stretch): run the backbone on [prompt; embeds] and average over the real tokens of the input.

        The prompt stands before the tokens of every example, and the mask that the backbone gets covers it, with True.
        The mean is over the positions of `embeds` where `mask` is True: neither padding nor the prompt counts.

        Args:
            embeds: shape (batch, sequence, width).
            mask: bool, shape (batch, sequence), True where a token is real; at least one is in each example.

        Returns:
            Shape (batch, width), dtype of embeds.
        """
        raise NotImplementedError("Week 3, task 6: PromptTuning.forward")


class PrefixTuning(nn.Module):
    """A frozen self-attention whose queries also see trainable keys and values.

    Source: Li and Liang, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", arXiv:2101.00190, section 4,
    without their reparameterisation by an MLP.

    Attributes:
        attention: the module that was passed in, the same object, frozen.
        prefix_k: `nn.Parameter`, shape (length, width).
        prefix_v: `nn.Parameter`, shape (length, width).

    The two are the only trainable parameters and have the dtype and device of attention.k.weight.
    """

    def __init__(self, attention: nn.Module, length: int) -> None:
        """Task 3.7 (stretch): freeze `attention` and add a prefix, both parts random (how they are drawn is yours).

        Args:
            attention: has the `nn.Linear` layers q, k, v and o, all from width to width, and the int num_heads, which
                divides width. Head i has the features from i * d to (i + 1) * d of what q, k and v give, d being width /
                num_heads.
            length: how many rows the prefix has.

        Raises:
            ValueError: if length is less than 1.
        """
        super().__init__()
        raise NotImplementedError("Week 3, task 7: PrefixTuning.__init__")

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Task 3.7 (stretch): o(attention of q(x) over the keys [prefix_k; k(x)] and the values [prefix_v; v(x)]).

        prefix_k and prefix_v are keys and values as they are: k and v do not act on them. In each head, the weights are
        softmax(q k^T / sqrt(d)) over the prefix and the positions; the heads' results are put side by side before o.
        Every query sees the whole prefix; the queries are those of x alone, so the sequence does not get longer.

        Args:
            x: shape (batch, sequence, width).
            mask: bool, shape (batch, sequence), True where a token is real; the others are no keys. None means that
                all are real. What the result holds at positions that are not real is yours.

        Returns:
            The shape and dtype of x.
        """
        raise NotImplementedError("Week 3, task 7: PrefixTuning.forward")


class IA3(nn.Module):
    """A frozen `nn.Linear` with one trainable number for each feature of its output, or of its input.

    Liu et al. rescale the keys, the values and the hidden features of the feed-forward part, and the last are the input
    of its second layer (down_proj in Llama). Source: Liu et al., "Few-Shot Parameter-Efficient Fine-Tuning is Better
    and Cheaper than In-Context Learning", arXiv:2205.05638, section 3.3.

    Attributes:
        base: the `nn.Linear` that was passed in, the same object, its weight and bias frozen.
        on_input: bool, as it was passed in.
        scale: `nn.Parameter`, shape (in_features,) if on_input, else (out_features,), with the dtype and device of
            base.weight; the only trainable parameter.
        merged: bool, whether base computes with the scale already; False at first. A plain attribute: a caller may set it.
    """

    def __init__(self, base: nn.Linear, on_input: bool = False) -> None:
        """Task 3.8 (stretch): freeze `base`; the scale starts at ones, so the layer begins as `base` exactly."""
        super().__init__()
        raise NotImplementedError("Week 3, task 8: IA3.__init__")

    def forward(self, x: Tensor) -> Tensor:
        """Task 3.8 (stretch): base(scale * x) if on_input, else scale * base(x), the bias scaled too; while merged base(x).

        Args:
            x: shape (..., in_features).

        Returns:
            Shape (..., out_features), dtype of x.
        """
        raise NotImplementedError("Week 3, task 8: IA3.forward")

    def merge(self) -> None:
        """Task 3.8 (stretch): multiply the scale into base, in place, so that base(x) is what forward was; set `merged`.

        base.weight and base.bias stay the same Parameters and stay frozen, and scale does not change. Merging a merged
        layer does nothing.
        """
        raise NotImplementedError("Week 3, task 8: IA3.merge")

# stub a62baa085e0300b1
