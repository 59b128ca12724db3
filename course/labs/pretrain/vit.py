"""The vision transformer of 8 x 8 digits: its training and its quality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from course.labs import vision
from course.labs.files import FOLDER, write_hashes
from course.labs.training import fit

STEPS = 600
LEARNING_RATE = 2e-3
SHAPE: dict[str, Any] = {
    "image_size": 8,
    "patch_size": 2,
    "num_channels": 1,
    "num_labels": 10,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def main(out: Path) -> None:
    """Train the model on plain digits and write it in the hub's format: weights in float16, configuration, image processor."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    torch.manual_seed(0)
    model: Any = ViTForImageClassification(ViTConfig(**SHAPE))
    model.config.image_mean = model.config.image_std = [0.5]
    schedule: Any = {"schedule": "cosine", "warmup": 50, "weight_decay": 0.05, "loss": vision.classification_loss}
    fit(model, vision.batches(*vision.digits("train"), 64), STEPS, LEARNING_RATE, name="vit", log=False, **schedule)
    model.half().save_pretrained(out)
    ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.5]).save_pretrained(out)
    if out == FOLDER / "digits_vit":
        write_hashes("digits_vit")


def quality() -> dict[str, float]:
    """Of the shipped model: parameters, and the accuracy on the test pictures in each style."""
    model = vision.classifier()
    scores = {style: vision.accuracy(model, *vision.digits("test", style)) for style in vision.STYLES}
    return {"parameters": float(model.num_parameters())} | scores
