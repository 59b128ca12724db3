"""Week 3: peft's LoRA as the tasks of that week know it, other ways to adapt the same model, short reviews."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from course.labs import text
from course.labs.training import seeded


class Factors(nn.Module):
    """A LoRA layer of peft, seen as week 3 has it: the factors are peft's own Parameters, alpha and scaling are peft's.

    Attributes:
        lora_A: shape (rank, in_features).
        lora_B: shape (out_features, rank).
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.lora_A, self.lora_B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        self._layer = [layer]  # in a list, or it would be a module of this one

    @property
    def alpha(self) -> float:
        return float(self._layer[0].lora_alpha["default"])

    @alpha.setter
    def alpha(self, value: float) -> None:
        self._layer[0].lora_alpha["default"] = value

    @property
    def scaling(self) -> float:
        return float(self._layer[0].scaling["default"])

    @scaling.setter
    def scaling(self, value: float) -> None:
        self._layer[0].scaling["default"] = value


def factors(tuned: Any) -> nn.Module:
    """The LoRA layers of a peft model and nothing else, each at the name that it has in the model without peft.

    What is changed here is changed in `tuned`: `load_adapter` of week 3 on the result loads into the peft model.
    """
    root = nn.Module()
    for name, layer in tuned.get_base_model().named_modules():
        if hasattr(layer, "lora_A"):
            *parents, leaf = name.split(".")
            place = root
            for parent in parents:
                if parent not in place._modules:
                    place.add_module(parent, nn.Module())
                place = place.get_submodule(parent)
            place.add_module(leaf, Factors(layer))
    return root


def bottleneck(model: Any, size: int, seed: int = 0) -> Any:
    """Freeze a causal model and put a bottleneck adapter behind the attention and the MLP of each of its blocks.

    Source: Houlsby et al., arXiv:1902.00751, section 2.1; the norms stay frozen here. Returns the model, with hooks in it.
    """
    model.requires_grad_(False)
    width = model.config.hidden_size
    with seeded(seed):
        for block in model.model.layers:
            for part in (block.self_attn, block.mlp):
                narrow, wide = nn.Linear(width, size), nn.Linear(size, width)
                nn.init.zeros_(wide.weight)
                nn.init.zeros_(wide.bias)
                part.adapter = nn.Sequential(narrow, nn.GELU(), wide).to(next(model.parameters()))
                part.register_forward_hook(_add_adapter)
    return model


def _add_adapter(part: Any, inputs: Any, out: Any) -> Any:
    if isinstance(out, tuple):  # attention gives its weights as well
        return (out[0] + part.adapter(out[0]), *out[1:])
    return out + part.adapter(out)


def opened_by_peft(folder: Path) -> Any:
    """The pretrained model with the adapter that peft finds in a folder."""
    from peft import PeftModel

    return PeftModel.from_pretrained(text.base_model()[0], str(folder))


def layer_inputs(model: Any, name: str, run: Callable[[], Any]) -> Tensor:
    """What the module called `name` in `model` is given while `run()` runs: shape (tokens, in_features)."""
    seen: list[Tensor] = []
    hook = model.get_submodule(name).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().flatten(0, -2)))
    try:
        with torch.no_grad():
            run()
    finally:
        hook.remove()
    return torch.cat(seen).float().cpu()


def reviews(split: str, count: int, longest: int, seed: int = 0) -> list[text.Review]:
    """Reviews of at most `longest` words, as `text.sst2` gives them; fewer than `count` where the data set has fewer."""
    pool = text.sst2(split, 4 * count, seed)
    return [review for review in pool if len(review.sentence.split()) <= longest][:count]
