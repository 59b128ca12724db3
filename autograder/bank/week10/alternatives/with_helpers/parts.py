"""An adapter taken apart."""

from dataclasses import dataclass
from typing import Any

import torch

SUFFIXES = (".lora_A", ".lora_B")


class Malformed(Exception):
    pass


@dataclass
class Layer:
    name: str
    B: torch.Tensor
    A: torch.Tensor

    @property
    def update(self):
        return torch.mm(self.B.to(torch.float64), self.A.to(torch.float64))

    @property
    def shape(self):
        return [self.B.shape[0], self.A.shape[1]]


def take_apart(adapter: dict[str, Any]) -> list[Layer]:
    """The layers in the order of their names."""
    halves: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in adapter["tensors"].items():
        if not key.endswith(SUFFIXES):
            raise Malformed(key)
        halves.setdefault(key[:-7], {})[key[-1]] = value
    layers = []
    for name, pair in sorted(halves.items()):
        if len(pair) != 2:
            raise Malformed(name)
        layers.append(Layer(name, pair["B"], pair["A"]))
    return layers


def put_together(config: dict[str, Any], layers: list[Layer]) -> dict[str, Any]:
    tensors = {}
    for layer in layers:
        tensors |= {f"{layer.name}.lora_A": layer.A, f"{layer.name}.lora_B": layer.B}
    return {"tensors": tensors, "config": config}


def best_of_rank(W, rank):
    U, s, V = torch.svd(W)
    return torch.einsum("ik,k,jk->ij", U[:, :rank], s[:rank], V[:, :rank])
