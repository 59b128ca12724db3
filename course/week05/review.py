"""Find the bugs. This file runs, and it has five bugs: find each, explain what it does to a model, and say how to mend it.

It quantises a weight to four bits in blocks, squeezes the constants, and compares two data types. Do not run it first: read it.
"""

import torch

BELOW = (-1.0, -0.7230, -0.5626, -0.4407, -0.3379, -0.2461, -0.1609, -0.0796)
ABOVE = (0.0911, 0.1848, 0.2844, 0.3949, 0.5251, 0.6962, 1.0)
TABLE = torch.tensor([*BELOW, 0.0, *ABOVE])


def to_codes(weight: torch.Tensor, block: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """The codes of a weight and one constant for each block; the number of elements is a multiple of the block."""
    rows = weight.reshape(-1, block)
    largest = weight.abs().max()
    constants = largest.repeat(len(rows)).clamp_min(1e-30)
    codes = torch.searchsorted(TABLE, rows / constants.unsqueeze(1))
    return codes.to(torch.uint8), constants


def from_codes(codes: torch.Tensor, constants: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The weight that codes and constants stand for."""
    decoded = TABLE[codes.long()]
    return (decoded * constants.unsqueeze(1)).reshape(shape)


def squeeze_constants(constants: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Double quantisation: the constants in eight bits, to save memory."""
    span = constants.max()
    return torch.round(constants / span * 127).to(torch.int8), span


def int4(weight: torch.Tensor, block: int = 64) -> torch.Tensor:
    """The baseline: the weight after symmetric 4-bit integers."""
    rows = weight.reshape(-1, block)
    step = rows.abs().amax(dim=1, keepdim=True)
    return (torch.round(rows / step) * step).reshape(weight.shape)


def gain(weight: torch.Tensor) -> float:
    """By how much the error of NF4 is below that of INT4, in percent."""
    restored = from_codes(*to_codes(weight), weight.shape)
    error, baseline = ((restored - weight) ** 2).mean(), ((int4(weight) - weight) ** 2).mean()
    return float(100 * (1 - error / baseline))


if __name__ == "__main__":
    torch.manual_seed(0)
    print(f"NF4 improves on INT4 by {gain(torch.randn(512, 512)):.0f} %")
