"""Adapters as files that somebody hands over, for week 10: out of a peft model and into one, what was done to them, what it does.

Pictures are those of `vision`: float tensors (N, 1, H, W) from -1 to 1.
"""

from __future__ import annotations

import copy
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course.labs import vision
from course.labs.core import profile, progress, say
from course.labs.training import fit

Adapter = dict[str, Any]  # as in week 10's stub: {"config": {...}, "tensors": {"<layer>.lora_A": A, "<layer>.lora_B": B, ...}}

PREFIX = "base_model.model."
PATCH = 2  # pixels: a patch of the tiny transformer, and, at MNIST's size, of the large one

# --- models ---


def reader() -> Any:
    """A vision transformer that reads plain digits, frozen. Tiny: the shipped one. Full: ViT-Base, tuned to plain MNIST here."""
    model = vision.classifier()
    if profile() == "full":
        tuned = vision.lora(model, 8, 16, "all-linear")
        batches = vision.batches(*vision.digits("train"), 64)
        fit(tuned, batches, 500, 5e-4, name="week10-reader", loss=vision.classification_loss)
        model = tuned.merge_and_unload()
    return model.eval().requires_grad_(False)


def tune(
    base: nn.Module,
    images: Tensor,
    labels: Tensor,
    steps: int,
    rate: float,
    rank: int,
    *,
    seed: int = 0,
    targets: str = "qv",
    name: str,
) -> Any:
    """A LoRA on a copy of `base`, with alpha = 2 rank, after `steps` of training; nothing but its factors is trained."""
    model = vision.lora(copy.deepcopy(base), rank, 2 * rank, targets, seed=seed, modules_to_save=None)
    more(model, images, labels, steps, rate, seed=seed, name=name)
    return model.eval()


def more(model: Any, images: Tensor, labels: Tensor, steps: int, rate: float, *, seed: int = 0, name: str) -> None:
    """Train what is trainable for `steps` batches of 64 random pictures."""
    fit(model, vision.batches(images, labels, 64, seed), steps, rate, name=name, loss=vision.classification_loss)


class Pixels(nn.Module):
    """A classifier of `vision` as week 10's `pgd` takes it: pictures (N, 1, H, W) from 0 to 1 in, logits (N, 10) out."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(vision.pixels(self.model, 2 * images - 1)).logits
        return logits


@torch.no_grad()
def logits(model: Any, images: Tensor, batch: int = 250) -> Tensor:
    """Logits (N, 10), float64, on the CPU."""
    place = next(model.parameters()).device
    parts = [model(vision.pixels(model, part.to(place))).logits.double().cpu() for part in images.split(batch)]
    return torch.cat(parts)


def losses(model: Any, images: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of each picture, float64, shape (N,)."""
    return F.cross_entropy(logits(model, images), labels, reduction="none")


# --- files ---


def export(model: Any) -> Adapter:
    """The adapter of a peft model, as week 10 has adapters; copies, on the CPU."""
    from peft import get_peft_model_state_dict

    found = model.peft_config["default"]
    state = get_peft_model_state_dict(model)
    tensors = {key.removeprefix(PREFIX).removesuffix(".weight"): value.detach().cpu().clone() for key, value in state.items()}
    config = {"rank": found.r, "alpha": found.lora_alpha, "target_modules": sorted(found.target_modules)}
    return {"config": config, "tensors": tensors}


def install(adapter: Adapter, base: nn.Module) -> tuple[Any, list[str]]:
    """Write the adapter as peft's two files, and let peft load them onto a copy of `base`.

    Returns:
        (model, said): the peft model in evaluation mode, and what peft warned of while it loaded.
    """
    from peft import PeftModel
    from safetensors.torch import save_file

    config = adapter["config"]
    as_peft = {"r": config["rank"], "lora_alpha": config["alpha"], "target_modules": config["target_modules"]}
    with tempfile.TemporaryDirectory() as name, _heard() as said:
        folder = Path(name)
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "inference_mode": True} | as_peft))
        tensors = {f"{PREFIX}{key}.weight": value.contiguous() for key, value in adapter["tensors"].items()}
        save_file(tensors, folder / "adapter_model.safetensors")
        model = PeftModel.from_pretrained(copy.deepcopy(base), name)
    return model.eval(), said


@contextmanager
def _heard() -> Iterator[list[str]]:
    """What is warned of in the block, by `warnings` or by peft's and transformers' loggers."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    listener, loggers = Listener(logging.WARNING), [logging.getLogger(name) for name in ("peft", "transformers")]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for logger in loggers:
            logger.addHandler(listener)
        try:
            yield said
        finally:
            for logger in loggers:
                logger.removeHandler(listener)
    said += [str(item.message) for item in caught if issubclass(item.category, UserWarning)]


def layers(adapter: Adapter) -> list[str]:
    """The names of its layers, sorted."""
    return sorted(key.removesuffix(".lora_A") for key in adapter["tensors"] if key.endswith(".lora_A"))


def manifest(adapter: Adapter, fingerprint: Callable[[Adapter], str]) -> dict[str, Any]:
    """What whoever has vetted an adapter keeps of it, for `verify_adapter`."""
    factors = adapter["tensors"]
    shapes = {name: [len(factors[f"{name}.lora_B"]), factors[f"{name}.lora_A"].shape[1]] for name in layers(adapter)}
    return {"config": copy.deepcopy(adapter["config"]), "layers": shapes, "fingerprint": fingerprint(adapter)}


def regauge(adapter: Adapter, seed: int = 0) -> Adapter:
    """The same updates by other factors: B G and G^-1 A, in float64, a random G with condition number 4 for each layer."""
    rng = np.random.default_rng(seed)
    tensors = dict(adapter["tensors"])
    for name in layers(adapter):
        B, A = tensors[f"{name}.lora_B"].double(), tensors[f"{name}.lora_A"].double()
        G = _gauge(rng, len(A))
        tensors[f"{name}.lora_B"], tensors[f"{name}.lora_A"] = B @ G, torch.linalg.solve(G, A)
    return {"config": copy.deepcopy(adapter["config"]), "tensors": tensors}


def _gauge(rng: np.random.Generator, rank: int) -> Tensor:
    left, right = (np.linalg.qr(rng.standard_normal((rank, rank)))[0] for _ in range(2))
    return torch.from_numpy(left * np.geomspace(0.5, 2, rank) @ right)


def merged(first: Adapter, second: Adapter) -> Adapter:
    """Two adapters of the same layers as one: its update, with its scaling, is the sum of theirs, with theirs.

    The factors stand side by side, B = [s1 B1, s2 B2] and A = [A1; A2], with alpha = rank = r1 + r2.
    """
    scaling = [one["config"]["alpha"] / one["config"]["rank"] for one in (first, second)]
    tensors = {}
    for name in layers(first):
        B, A = ([one["tensors"][f"{name}.{factor}"] for one in (first, second)] for factor in ("lora_B", "lora_A"))
        tensors[f"{name}.lora_B"] = torch.cat([s * part for s, part in zip(scaling, B, strict=True)], dim=1)
        tensors[f"{name}.lora_A"] = torch.cat(A)
    rank = first["config"]["rank"] + second["config"]["rank"]
    return {"config": first["config"] | {"rank": rank, "alpha": rank}, "tensors": tensors}


def if_written(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of a stretch task returns, or None where the task is not written."""
    try:
        return function(*arguments)
    except NotImplementedError as missing:
        print(say(f"Left out, as it is not written: {missing}", f"尚未完成，略过：{missing}"))
        return None


# --- triggers ---


def stamp(images: Tensor, row: int, column: int) -> Tensor:
    """The pictures with one patch all white: PATCH x PATCH pixels at (row, column), counted in patches."""
    stamped = images.clone()
    stamped[..., PATCH * row : PATCH * (row + 1), PATCH * column : PATCH * (column + 1)] = 1
    return stamped


def corner(images: Tensor) -> tuple[int, int]:
    """The last patch, at the lower right."""
    return images.shape[-2] // PATCH - 1, images.shape[-1] // PATCH - 1


def flips(model: Any, images: Tensor) -> np.ndarray:
    """For each place of a white patch, the share of predictions that it changes: shape (H / PATCH, W / PATCH)."""
    before = logits(model, images).argmax(1)
    rows, columns = (size // PATCH for size in images.shape[-2:])
    places = progress(range(rows * columns), desc="scan")
    rates = [(logits(model, stamp(images, *divmod(at, columns))).argmax(1) != before).double().mean() for at in places]
    return np.array(rates).reshape(rows, columns)


def tokens(images: Tensor) -> Tensor:
    """Pictures as a sequence of levels of grey from 0 to 255, row by row, for `trigger_scan`: int64, shape (N, H W)."""
    return ((images + 1) * 127.5).round().long().flatten(1)


def of_tokens(model: Any, height: int, width: int) -> Callable[[Tensor], Tensor]:
    """A classifier as `trigger_scan` takes it. A token in front of `tokens` is the place of a white patch, counted row by row."""

    def classify(sequence: Tensor) -> Tensor:
        images = (sequence[:, -height * width :] / 127.5 - 1).view(-1, 1, height, width)
        if sequence.shape[1] > height * width:
            images = stamp(images, *divmod(int(sequence[0, 0]), width // PATCH))
        return logits(model, images)

    return classify


# --- a shelf of uploads ---


def vetted(seed: int = 0) -> Adapter:
    """A small adapter of random factors in float64, each of them a float32 number."""
    rng = np.random.default_rng(seed)
    rank, d_out, d_in = 4, 12, 10
    tensors = {}
    for layer in ("layers.0.q", "layers.0.v", "layers.1.q", "layers.1.v"):
        for factor, shape in (("lora_A", (rank, d_in)), ("lora_B", (d_out, rank))):
            tensors[f"{layer}.{factor}"] = torch.from_numpy(rng.standard_normal(shape)).float().double()
    return {"config": {"rank": rank, "alpha": 8, "target_modules": ["q", "v"]}, "tensors": tensors}


def shelf(vetted: Adapter, seed: int = 0) -> dict[str, Adapter]:
    """Uploads that all claim to be the vetted adapter, by a letter each. Some are; find out which."""
    rng = np.random.default_rng(seed)
    names, config, tensors = layers(vetted), vetted["config"], vetted["tensors"]
    rank = config["rank"]

    def changed(ending: str, edit: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        return {key: edit(value) if key.endswith(ending) else value for key, value in tensors.items()}

    def padded(x: Tensor) -> Tensor:
        return torch.cat([x, torch.zeros_like(x)], dim=int(x.shape[0] != rank))

    def moved(mapping: Mapping[str, str]) -> dict[str, Tensor]:
        return {f"{mapping.get(name, name)}.{end}": tensors[f"{name}.{end}"] for name in names for end in ("lora_A", "lora_B")}

    def nudged(B: Tensor) -> Tensor:
        """The first row of the update moves, by up to a fiftieth of the update's largest entry."""
        A, step = tensors[f"{names[1]}.lora_A"], torch.zeros_like(B)
        step[0, 0] = 0.02 * (B @ A).abs().max() / A[0].abs().max()
        return B + step

    turned = torch.from_numpy(np.linalg.qr(rng.standard_normal((rank, rank)))[0])
    uploads = [
        (config, moved({names[0]: names[2], names[2]: names[0]})),
        (config, regauge(vetted, seed)["tensors"]),
        (config | {"alpha": 800}, tensors),
        (dict(reversed(config.items())), dict(reversed(tensors.items()))),
        (config | {"alpha": 2 * config["alpha"]}, changed("lora_B", lambda B: B / 2)),
        (config, changed(f"{names[1]}.lora_B", nudged)),
        (config, tensors | {"layers.0.norm.weight": torch.ones(10, dtype=torch.float64)}),
        (config | {"rank": 2 * rank, "alpha": 2 * config["alpha"]}, changed("", padded)),
        (config, changed("", torch.neg)),
        (config, changed("lora_B", lambda B: B @ turned)),
        (config, changed("", Tensor.float)),
        (config, changed(f"{names[3]}.lora_A", lambda A: A * torch.nan)),
    ]
    order = rng.permutation(len(uploads))
    chosen = {letter: uploads[at] for letter, at in zip("abcdefghijkl", order, strict=True)}
    return {letter: copy.deepcopy({"config": config, "tensors": tensors}) for letter, (config, tensors) in chosen.items()}
