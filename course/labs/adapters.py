"""The factors of a peft LoRA as plain tensors, and back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch

Kind = TypeVar("Kind")
Batch = TypeVar("Batch")


def factors(model: Any, kind: Callable[..., Kind], adapter: str = "default") -> dict[str, Kind]:
    """Copies of the factors of each layer that an adapter wraps.

    Args:
        model: a peft model, as `text.lora` gives it.
        kind: what holds a layer's factors, made by keyword: lora_A (rank, in_features), lora_B (out_features, rank), alpha.

    Returns:
        By the name of the weight in the base model's state dict, such as "model.layers.0.self_attn.q_proj.weight".
    """
    return {
        f"{name}.weight": kind(
            lora_A=layer.lora_A[adapter].weight.detach().clone(),
            lora_B=layer.lora_B[adapter].weight.detach().clone(),
            alpha=float(layer.lora_alpha[adapter]),
        )
        for name, layer in _layers(model, adapter)
    }


def set_factors(model: Any, values: Mapping[str, Any], adapter: str = "default") -> None:
    """Copy factors of the same ranks into an adapter of a peft model; the inverse of `factors`."""
    with torch.no_grad():
        for name, layer in _layers(model, adapter):
            value = values[f"{name}.weight"]
            layer.lora_A[adapter].weight.copy_(value.lora_A)
            layer.lora_B[adapter].weight.copy_(value.lora_B)


def gather(model: Any, loras: Mapping[str, Mapping[str, Any]]) -> Any:
    """A peft model with several adapters over one base, by their names.

    Args:
        model: of transformers, without adapters; its layers are wrapped.
        loras: by the adapter's name, its factors by the weight's name; all of one rank and alpha.
    """
    from peft import LoraConfig, get_peft_model

    some = next(iter(next(iter(loras.values())).values()))
    targets = [name.removesuffix(".weight") for name in next(iter(loras.values()))]
    config = LoraConfig(r=len(some.lora_A), lora_alpha=some.alpha, target_modules=targets)
    first, *others = loras
    gathered = get_peft_model(model, config, adapter_name=first)
    for name in others:
        gathered.add_adapter(name, config)
    for name, values in loras.items():
        set_factors(gathered, values, name)
    return gathered


def with_branches(model: Any, loras: Mapping[str, Any], layer: Callable[..., Any]) -> Any:
    """A copy of a model in which linear layers are replaced.

    Args:
        loras: by the weight's name, its factors.
        layer: makes a layer from (linear, rank, alpha), with parameters lora_A and lora_B; the factors are copied into it.
    """
    copied = copy.deepcopy(model)
    for name, lora in loras.items():
        place = name.removesuffix(".weight")
        branch = layer(copied.get_submodule(place), len(lora.lora_A), lora.alpha)
        with torch.no_grad():
            branch.lora_A.copy_(lora.lora_A)
            branch.lora_B.copy_(lora.lora_B)
        copied.set_submodule(place, branch)
    return copied


def update(lora: Any) -> torch.Tensor:
    """dW = (alpha / rank) B A of one layer's factors, shape (out_features, in_features)."""
    dW: torch.Tensor = lora.alpha / len(lora.lora_A) * (lora.lora_B @ lora.lora_A)
    return dW


def added(model: Any, updates: Mapping[str, torch.Tensor]) -> Any:
    """A copy of a model with updates added to its weights, by their names; what holds a merged model needs."""
    copied = copy.deepcopy(model)
    weights = dict(copied.named_parameters())
    with torch.no_grad():
        for name, dW in updates.items():
            weights[name] += dW.to(weights[name])
    return copied


def snapshots(batches: Iterable[Batch], at: Sequence[int], take: Callable[[], Kind], out: dict[int, Kind]) -> Iterator[Batch]:
    """The batches as they are; before batch number s of `at` is handed on, `out[s] = take()`: the state after s steps."""
    for step, batch in enumerate(batches):
        if step in at:
            out[step] = take()
        yield batch


def _layers(model: Any, adapter: str) -> list[tuple[str, Any]]:
    base = model.get_base_model()
    return [(name, m) for name, m in base.named_modules() if hasattr(m, "lora_A") and adapter in m.lora_A]
