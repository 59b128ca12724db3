"""The diffusion model of 8 x 8 digits: its training and its quality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from course.labs import vision
from course.labs.files import FOLDER, write_hashes

STEPS = 1200
LEARNING_RATE = 2e-3
# 200 steps of noise; the last leaves 1.6 % of the picture's amplitude.
NOISE: dict[str, Any] = {"num_train_timesteps": 200, "beta_start": 5e-4, "beta_end": 0.08, "beta_schedule": "linear"}
SHAPE: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "num_class_embeds": 10,
    "block_out_channels": (32, 64),
    "down_block_types": ("AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 8,
}


def main(out: Path) -> None:
    """Train the model on plain digits and write it in the hub's format: weights in float16, configuration, noise schedule."""
    from diffusers import DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    unet: Any = UNet2DModel(**SHAPE)
    scheduler: Any = DDPMScheduler(clip_sample=False, **NOISE)
    studio = vision.Digits(unet, scheduler, torch.device("cpu"))
    unet.requires_grad_(True)
    schedule: Any = {"schedule": "cosine", "warmup": 100, "log": False, "name": "unet"}
    studio.train_style("plain", STEPS, LEARNING_RATE, count=None, batch=64, **schedule)
    unet.half().save_pretrained(out)
    scheduler.save_pretrained(out)
    if out == FOLDER / "digits_unet":
        write_hashes("digits_unet")


def quality() -> dict[str, float]:
    """Of the shipped model: parameters, and how many of 500 pictures that it draws in 25 steps the shipped ViT takes for the
    digit that was asked for."""
    studio, judge = vision.studio(), vision.classifier()
    labels = [digit for digit in studio.subjects for _ in range(50)]
    right = vision.accuracy(judge, studio.sample(labels), torch.tensor(labels))
    return {"parameters": float(studio.unet.num_parameters()), "judged right": right}
