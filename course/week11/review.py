"""Week 11, code review: this file has five bugs. Find each one, say what goes wrong because of it, and how to mend it.

It merges the adapters of several teams into one half-precision model and exports that for serving. It runs without an
error, which is what makes it worth reading. Style is not the point here: look for what it computes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

Factors = tuple[Tensor, Tensor]  # down (rank x in), up (out x rank)


def thin_out(update: Tensor, rate: float) -> Tensor:
    """Drop a share `rate` of the entries at random, so that the updates of several teams collide less."""
    keep = torch.rand_like(update) > rate
    return update * keep


def team_update(factors: list[Factors]) -> Tensor:
    """What one team's adapters, trained one after the other on the same layer, add to it together."""
    down = torch.stack([down for down, _ in factors]).mean(dim=0)
    up = torch.stack([up for _, up in factors]).mean(dim=0)
    return up @ down


def into_one(weight: Tensor, teams: list[list[Factors]], alpha: float = 16.0, rate: float = 0.5) -> Tensor:
    """The weight of the merged model, in float16."""
    result = weight.half()
    for factors in teams:
        rank = factors[0][0].shape[0]
        result += (alpha / rank) * thin_out(team_update(factors), rate).half()
    return result


def settle(updates: list[Tensor]) -> Tensor:
    """Merge updates that disagree: at each entry only those of the winning sign count."""
    stacked = torch.stack(updates)
    mean = stacked.mean(dim=0)
    winners = torch.where(torch.sign(stacked) == torch.sign(mean), stacked, torch.zeros_like(stacked))
    return winners.sum(dim=0) / len(updates)


def serve(model: nn.Module, path: str, width: int) -> None:
    """Write the merged model for onnxruntime; the service sends batches of any size."""
    model.train(False)
    example = torch.zeros(8, width)
    torch.onnx.export(model, (example,), path, dynamo=True, input_names=["x"], output_names=["y"])
