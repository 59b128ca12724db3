"""Pictures, a vision transformer and a diffusion model, by the same calls in both profiles.

Tiny: scikit-learn's 8 x 8 digits, and a ViT and a diffusion model of our own that ship with the course. Full: MNIST, ViT-Base
and Stable Diffusion XL. LAB_MNIST, LAB_VIT and LAB_SDXL name others there, or folders.

Pictures are float tensors (N, channels, height, width) from -1, black, to 1, white.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course.labs.core import profile, progress
from course.labs.files import checked, unreachable
from course.labs.training import History, device, fit, seeded

STYLES = ("plain", "slanted", "inverted")
SHEAR = 0.5
TEST = 500
PROMPTS = (
    "a photograph of a lighthouse",
    "a photograph of a bicycle",
    "a photograph of a teapot",
    "a photograph of an owl",
    "a photograph of a wooden chair",
    "a photograph of a sailing boat",
    "a photograph of a violin",
    "a photograph of a cactus in a pot",
    "a photograph of a steam locomotive",
    "a photograph of a stone bridge",
)
TARGETS = {
    "qv": ["q_proj", "v_proj"],
    "all-linear": ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"],
    "attention": ["to_q", "to_k", "to_v", "to_out.0"],
    "attention+conv": ["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2", "conv_shortcut", "conv_in", "conv_out"],
}

Noise = Callable[[Tensor, Any], Tensor]
Step = Callable[[Tensor, Tensor, int, int, Tensor], Tensor]
Loss = Callable[[Noise, Tensor, Tensor, Tensor, Tensor], Tensor]


# --- pictures ---


def digits(split: str, style: str = "plain", count: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Handwritten digits, in random order.

    Tiny: scikit-learn's, which are the test set of UCI's "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak,
    1998), 1,297 for training and 500 for testing. Full: MNIST (LeCun et al., 1998).

    Args:
        split: "train" or "test"; they share no picture.
        style: one of STYLES.
        count: how many; all by default.
        seed: of the order. The same seed gives the same pictures in every style.

    Returns:
        (images, labels): shapes (N, 1, 8, 8), in the full profile (N, 1, 28, 28), and (N,), int64.

    Raises:
        LabStop: if MNIST cannot be had.
    """
    if split not in ("train", "test"):
        raise ValueError(f'split must be "train" or "test", not {split!r}')
    images, labels = (_mnist if profile() == "full" else _sklearn)(split, count, seed)
    return apply_style(images, style), labels


def apply_style(images: Tensor, style: str, strength: float = 1.0) -> Tensor:
    """The pictures in another style, of the same shape; "plain" is what they are.

    Args:
        images: shape (N, C, H, W).
        style: "slanted" shifts each row sideways, SHEAR columns for each row above the middle, to the right, and takes what it
            moves in from the edge; "inverted" exchanges black and white.
        strength: of the shear, -1 slants to the other side; of the exchange, 0.5 is uniform grey.
    """
    if style == "plain":
        return images
    if style == "inverted":
        return images * (1 - 2 * strength)
    if style != "slanted":
        raise ValueError(f"style must be one of {STYLES}, not {style!r}")
    height, width = images.shape[-2:]
    # Coordinates run from -1 to 1 over the height and over the width.
    theta = images.new_tensor([[1, strength * SHEAR * height / width, 0], [0, 1, 0]]).expand(len(images), -1, -1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def slant(images: Tensor) -> Tensor:
    """How far the bright parts lean to the right, in columns a row: cov(x, y) / var(y), y upwards; shape (N,)."""
    ink = (images.mean(1) + 1) / 2 + 1e-6
    ink = ink / ink.sum((1, 2), keepdim=True)
    rows, columns = (torch.arange(size, device=images.device, dtype=images.dtype) for size in ink.shape[1:])
    y = (ink.sum(2) @ rows)[:, None] - rows
    x = columns - (ink.sum(1) @ columns)[:, None]
    return (ink * x[:, None, :] * y[:, :, None]).sum((1, 2)) / (ink.sum(2) * y**2).sum(1)


def brightness(images: Tensor) -> Tensor:
    """The mean of each picture, from -1 to 1; shape (N,)."""
    return images.mean((1, 2, 3))


def grid(images: Tensor, columns: int) -> Any:
    """One picture of many, for `plots.pictures`, with a pixel of grey between them.

    Args:
        images: shape (N, C, H, W), C being 1 or 3.
        columns: how many in a row.

    Returns:
        A NumPy array from 0 to 1, of shape (height, width), or (height, width, 3) for colours.
    """
    tiles = F.pad((images.detach().float().cpu().clamp(-1, 1) + 1) / 2, (1, 1, 1, 1), value=0.5)
    count, channels, height, width = tiles.shape
    rows = -(-count // columns)
    tiles = torch.cat([tiles, torch.full((rows * columns - count, channels, height, width), 0.5)])
    whole = tiles.view(rows, columns, channels, height, width).permute(0, 3, 1, 4, 2)
    return whole.reshape(rows * height, columns * width, channels).squeeze(-1).numpy()


# --- classification ---


def classifier() -> Any:
    """The vision transformer (Dosovitskiy et al., arXiv:2010.11929), newly loaded, in evaluation mode, on `device()`.

    Tiny: the shipped one, which knows plain digits. Full: google/vit-base-patch16-224 with a new head for ten classes, which
    `lora` therefore trains with the adapter.

    Returns:
        A `ViTForImageClassification`. What it takes is `pixels(model, images)`.

    Raises:
        LabStop: if the shipped files are damaged, or the model cannot be had, or the full profile finds no GPU.
    """
    from transformers import ViTForImageClassification
    from transformers.utils import logging

    source, place = _vit(), device()
    if profile() == "tiny":
        logging.disable_progress_bar()
    try:
        with seeded(0):
            model = ViTForImageClassification.from_pretrained(
                source, num_labels=10, ignore_mismatched_sizes=True, dtype=torch.float32
            )
        return _normalised(model, source).to(place).eval()
    except (OSError, ValueError) as error:
        raise unreachable(source, "LAB_VIT", error) from None


def fresh(seed: int = 0) -> Any:
    """A vision transformer of the same architecture with random weights: training from scratch."""
    from transformers import ViTConfig, ViTForImageClassification

    source, place = _vit(), device()
    try:
        with seeded(seed):
            model = ViTForImageClassification(ViTConfig.from_pretrained(source, num_labels=10))
        return _normalised(model, source).to(place).eval()
    except (OSError, ValueError) as error:
        raise unreachable(source, "LAB_VIT", error) from None


def pixels(model: Any, images: Tensor) -> Tensor:
    """Pictures (N, 1, H, W) at the size, with the channels and in the range that a vision transformer expects."""
    config = model.config
    size = config.image_size
    if images.shape[-1] != size:
        images = F.interpolate(images, (size, size), mode="bicubic", antialias=True).clamp(-1, 1)
    images = images.expand(-1, config.num_channels, -1, -1)
    mean, std = (images.new_tensor(values).view(1, -1, 1, 1) for values in (config.image_mean, config.image_std))
    return ((images + 1) / 2 - mean) / std


@torch.no_grad()
def accuracy(model: Any, images: Tensor, labels: Tensor, batch: int = 250) -> float:
    """The share of pictures (N, 1, H, W) whose most likely class is their label (N,)."""
    place, mode, right = next(model.parameters()).device, model.training, 0
    model.eval()
    for x, y in zip(images.split(batch), labels.split(batch), strict=True):
        right += int((model(pixels(model, x.to(place))).logits.argmax(-1).cpu() == y.cpu()).sum())
    model.train(mode)
    return right / len(labels)


def batches(images: Tensor, labels: Tensor, size: int, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Without end: `size` random pictures with their labels, for `fit` with `classification_loss`."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        rows = torch.randint(len(images), (size,), generator=generator)
        yield images[rows], labels[rows]


def classification_loss(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The cross-entropy of a batch of pictures and labels."""
    images, labels = batch
    return F.cross_entropy(model(pixels(model, images)).logits, labels)


class FusedAttention(nn.Module):
    """Self-attention of a ViT with one projection for queries, keys and values.

    Attributes:
        qkv: `nn.Linear` from d to 3 d features, its rows stacked in the order q, k, v.
        o_proj: the output projection.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        parts = [attention.q_proj, attention.k_proj, attention.v_proj]
        self.heads, self.o_proj = attention.num_attention_heads, attention.o_proj
        weight = torch.cat([part.weight.detach() for part in parts])
        self.qkv = nn.Linear(weight.shape[1], weight.shape[0], parts[0].bias is not None).to(weight)
        self.qkv.weight = nn.Parameter(weight)
        if self.qkv.bias is not None:
            self.qkv.bias = nn.Parameter(torch.cat([part.bias.detach() for part in parts]))

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        q, k, v = self.qkv(hidden_states).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.o_proj(mixed.transpose(1, 2).flatten(2)), None


def fuse_qkv(model: Any) -> Any:
    """Replace every self-attention of a ViT by `FusedAttention`, in place: the same function, one projection "qkv" for three.

    Returns:
        The model.
    """
    for name, module in list(model.named_modules()):
        if hasattr(module, "q_proj") and hasattr(module, "num_attention_heads"):
            model.set_submodule(name, FusedAttention(module))
    return model


# --- adapters ---


def lora(model: Any, rank: int, alpha: float, targets: str | Sequence[str] = "qv", *, seed: int = 0, **options: Any) -> Any:
    """LoRA by peft. The layers are wrapped in `model` itself; `.unload()` of the result takes them out again.

    Args:
        model: a `classifier()`, or the `unet` of a `studio()`.
        rank, alpha: the update is (alpha / rank) B A.
        targets: of a ViT "qv" or "all-linear" (attention and MLP); of a UNet "attention" or "attention+conv" (the convolutions of
            the residual blocks too); or names of modules as peft takes them.
        seed: of the random factor A.
        options: of peft's `LoraConfig`.

    Returns:
        A peft model. Only the factors are trainable, and a classifier's head where it is new (full profile).
    """
    from peft import LoraConfig, get_peft_model

    if profile() == "full" and hasattr(model, "classifier"):
        options.setdefault("modules_to_save", ["classifier"])
    names = TARGETS.get(targets, [targets]) if isinstance(targets, str) else list(targets)
    settings: dict[str, Any] = {"r": rank, "lora_alpha": alpha, "target_modules": names} | options
    with seeded(seed):
        return get_peft_model(model, LoraConfig(**settings))


# --- diffusion ---


class Studio:
    """A diffusion model that draws one of ten subjects: what the lab of week 9 trains styles on.

    Attributes:
        unet: predicts the noise; frozen. Put adapters into it in place, with `lora` or with layers of your own.
        subjects: the ten: digits in the tiny profile, prompts in the full one.
        alphas_cumprod: shape (T,), float64.
        shape: of one sample of the diffusion: (1, 8, 8), or that of the latents.
    """

    subjects: tuple[Any, ...]
    guidance = 1.0
    chunk = 500  # samples that go through the unet at a time

    def __init__(self, unet: Any, scheduler: Any, place: torch.device) -> None:
        from diffusers import DDIMScheduler

        options: Any = {"timestep_spacing": "trailing", "set_alpha_to_one": True, "clip_sample": False}
        self.scheduler = DDIMScheduler.from_config(scheduler.config, **options)
        if self.scheduler.config.prediction_type != "epsilon":
            raise ValueError(f"the model must predict the noise, not {self.scheduler.config.prediction_type}")
        self.unet, self.place, self.dtype = unet.to(place).eval().requires_grad_(False), place, unet.dtype
        size = unet.config.sample_size
        self.shape = (unet.config.in_channels, size, size)
        self.alphas_cumprod = self.scheduler.alphas_cumprod.double().to(place)

    def condition(self, subjects: Sequence[Any]) -> dict[str, Any]:
        """What the unet takes beside x_t and t: tensors with a row for each subject."""
        return {"class_labels": torch.as_tensor(subjects, device=self.place)}

    def examples(self, style: str, count: int | None, seed: int = 0) -> tuple[Tensor, list[Any]]:
        """`count` samples in a style, shape (count, *shape), and the subject of each; None: as many as there are."""
        images, labels = digits("train", style, count, seed)
        return images, labels.tolist()

    def decode(self, x0: Tensor) -> Tensor:
        """The pictures (N, C, H, W) of samples (N, *shape)."""
        return x0.clamp(-1, 1)

    def noise(self, count: int, seed: int = 0) -> Tensor:
        """Where sampling begins: shape (count, *shape), standard normal, equal for equal seeds on every device."""
        return torch.randn(count, *self.shape, generator=torch.Generator().manual_seed(seed)).to(self.place)

    def timesteps(self, steps: int) -> list[tuple[int, int]]:
        """The (t, t_prev) of a sampling in `steps` steps, from the last timestep to -1, the clean sample."""
        self.scheduler.set_timesteps(steps)
        times = self.scheduler.timesteps.tolist()
        return list(zip(times, [*times[1:], -1], strict=True))

    def predictor(self, condition: dict[str, Any], guidance: float = 1.0) -> Noise:
        """eps(x_t, t): the noise that the unet sees in samples (N, *shape) at a timestep or at one for each, shape (N,).

        Args:
            condition: of the N samples.
            guidance: the noise is e0 + guidance (e - e0), e0 being that of an empty prompt; 1 asks for no e0.
        """

        def eps(x: Tensor, t: Any) -> Tensor:
            known: Tensor = self.unet(x.to(self.dtype), t, **condition).sample.to(x.dtype)
            if guidance == 1:
                return known
            free: Tensor = self.unet(x.to(self.dtype), t, **self.condition([""] * len(x))).sample.to(x.dtype)
            return free + guidance * (known - free)

        return eps

    @torch.no_grad()
    def sample(self, subjects: Sequence[Any], steps: int = 25, seed: int = 0, step: Step | None = None) -> Tensor:
        """Draw pictures by DDIM (Song et al., arXiv:2010.02502) from `noise(len(subjects), seed)`.

        Args:
            subjects: what to draw, out of `subjects` or, in the full profile, any prompts.
            steps: how many times the unet is asked.
            step: step(x_t, eps, t, t_prev, alphas_cumprod) -> x_prev, such as week 9's `ddim_step`; by default diffusers', which
                goes to other timesteps where `steps` does not divide their number.

        Returns:
            Shape (N, C, H, W), on the CPU.
        """
        times, parts, mode = self.timesteps(steps), [], self.unet.training
        self.unet.eval()
        for start in range(0, len(subjects), self.chunk):
            x = self.noise(len(subjects), seed)[start : start + self.chunk]
            eps = self.predictor(self.condition(subjects[start : start + self.chunk]), self.guidance)
            for t, t_prev in progress(times, desc="sampling"):
                if step is None:
                    x = self.scheduler.step(eps(x, t), t, x).prev_sample
                else:
                    x = step(x, eps(x, t), t, t_prev, self.alphas_cumprod)
            parts.append(self.decode(x).float().cpu())
        self.unet.train(mode)
        return torch.cat(parts)

    def train_style(
        self,
        style: str,
        steps: int,
        lr: float,
        *,
        count: int | None = 200,
        batch: int = 32,
        seed: int = 0,
        loss: Loss | None = None,
        name: str = "",
        schedule: str = "cosine",
        **options: Any,
    ) -> History:
        """Train what is trainable in `unet` on samples of a style, each at a random timestep.

        Args:
            style: one of STYLES.
            count: how many samples there are; None: the whole training set, or one for each prompt.
            batch: how many of them, drawn anew, a step sees.
            seed: of the samples, the timesteps and the noise.
            loss: loss(eps, x0, timesteps, noise, alphas_cumprod) -> scalar, such as week 9's `diffusion_loss`; by default the
                squared error by diffusers' means.
            schedule: of the rate, as `fit` has it. One that falls gives clearer pictures than a constant one.
            options: of `fit`.
        """
        x0, subjects = self.examples(style, count, seed)
        condition = self.condition(subjects)

        def draws() -> Iterator[Any]:
            generator = torch.Generator().manual_seed(seed)
            while True:
                rows = torch.randint(len(x0), (batch,), generator=generator)
                t = torch.randint(len(self.alphas_cumprod), (batch,), generator=generator)
                yield x0[rows], _rows(condition, rows), t, torch.randn(batch, *self.shape, generator=generator)

        def value(_: nn.Module, drawn: Any) -> Tensor:
            clean, given, t, noise = drawn
            return (loss or self._squared)(self.predictor(given), clean, t, noise, self.alphas_cumprod)

        return fit(self.unet, draws(), steps, lr, name=name or f"style-{style}", loss=value, schedule=schedule, **options)

    def _squared(self, eps: Noise, x0: Tensor, timesteps: Tensor, noise: Tensor, _: Tensor) -> Tensor:
        error = eps(self.scheduler.add_noise(x0, noise, timesteps), timesteps) - noise
        return error.square().mean()


class Digits(Studio):
    """The shipped diffusion model of 8 x 8 digits."""

    subjects = tuple(range(10))


class XL(Studio):
    """Stable Diffusion XL (Podell et al., arXiv:2307.01952). Its examples of a style are its own pictures, changed."""

    subjects = PROMPTS
    guidance = 5.0
    chunk = 2

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe.unet, pipe.scheduler, pipe.device)
        self.pipe = pipe
        self.unet.enable_gradient_checkpointing()
        self._known: dict[str, tuple[Tensor, Tensor]] = {}
        self._drawn: dict[tuple[int | None, int], Tensor] = {}

    @torch.no_grad()
    def condition(self, subjects: Sequence[Any]) -> dict[str, Any]:
        for prompt in {*subjects} - {*self._known}:
            words, _, pooled, _ = self.pipe.encode_prompt(prompt, do_classifier_free_guidance=False)
            self._known[prompt] = words, pooled
        words, pooled = (torch.cat([self._known[prompt][i] for prompt in subjects]) for i in (0, 1))
        side = self.shape[-1] * self.pipe.vae_scale_factor
        sizes = pooled.new_tensor([[side, side, 0, 0, side, side]]).expand(len(subjects), -1)
        return {"encoder_hidden_states": words, "added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}

    @torch.no_grad()
    def examples(self, style: str, count: int | None, seed: int = 0) -> tuple[Tensor, list[Any]]:
        subjects = [self.subjects[i % len(self.subjects)] for i in range(count or len(self.subjects))]
        if (count, seed) not in self._drawn:
            self._drawn[count, seed] = self.sample(subjects, seed=seed)
        images, vae = apply_style(self._drawn[count, seed], style), self.pipe.vae
        parts = [vae.encode(part.to(self.place, self.dtype)).latent_dist.mean for part in images.split(self.chunk)]
        return torch.cat(parts).float() * vae.config.scaling_factor, subjects

    def decode(self, x0: Tensor) -> Tensor:
        vae = self.pipe.vae
        pictures: Tensor = vae.decode(x0.to(self.dtype) / vae.config.scaling_factor).sample
        return pictures.clamp(-1, 1)


def studio() -> Studio:
    """A diffusion model, newly loaded, on `device()`.

    Tiny: the shipped UNet of class-conditional 8 x 8 digits. Full: Stable Diffusion XL.

    Raises:
        LabStop: if the shipped files are damaged, or the model cannot be had, or the full profile finds no GPU.
    """
    if profile() == "full":
        return XL(stable_diffusion_xl())
    from diffusers import DDPMScheduler, UNet2DModel

    folder = checked("digits_unet")
    scheduler = DDPMScheduler.from_pretrained(folder)
    return Digits(UNet2DModel.from_pretrained(folder, dtype=torch.float32), scheduler, device())


def stable_diffusion_xl() -> Any:
    """diffusers' `StableDiffusionXLPipeline` in bf16 on `device()`: stabilityai/stable-diffusion-xl-base-1.0, or LAB_SDXL.

    Raises:
        LabStop: if the model cannot be had, or the full profile finds no GPU.
    """
    from diffusers import StableDiffusionXLPipeline

    default = "stabilityai/stable-diffusion-xl-base-1.0"
    source, place = os.environ.get("LAB_SDXL", default), device()
    options: Any = {"variant": "fp16"} if source == default else {}
    try:
        pipe = StableDiffusionXLPipeline.from_pretrained(source, dtype=torch.bfloat16, add_watermarker=False, **options)
    except (OSError, ValueError) as error:
        raise unreachable(source, "LAB_SDXL", error) from None
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(place)


def _rows(condition: Any, rows: Tensor) -> Any:
    if isinstance(condition, dict):
        return {key: _rows(value, rows) for key, value in condition.items()}
    return condition[rows.to(condition.device)]


def _vit() -> str:
    if profile() == "full":
        return os.environ.get("LAB_VIT", "google/vit-base-patch16-224")
    return str(checked("digits_vit"))


def _normalised(model: Any, source: str) -> Any:
    """The model, with the mean and the standard deviation of its image processor in its configuration."""
    from transformers import ImageProcessingMixin

    known, _ = ImageProcessingMixin.get_image_processor_dict(source)
    model.config.image_mean, model.config.image_std = known["image_mean"], known["image_std"]
    return model


def _sklearn(split: str, count: int | None, seed: int) -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    whole = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    part = whole[-TEST:] if split == "test" else whole[:-TEST]
    rows = part[torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))][:count]
    return images[rows], torch.tensor(data.target)[rows]


def _mnist(split: str, count: int | None, seed: int) -> tuple[Tensor, Tensor]:
    import numpy as np
    from datasets import load_dataset, load_from_disk

    source = os.environ.get("LAB_MNIST", "ylecun/mnist")
    try:
        data = load_from_disk(source)[split] if Path(source).is_dir() else load_dataset(source, split=split)
    except (OSError, ValueError) as error:
        raise unreachable(source, "LAB_MNIST", error) from None
    data = data.select(torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:count].tolist())
    images = torch.tensor(np.stack([np.asarray(picture) for picture in data["image"]]), dtype=torch.float32)
    return images[:, None] / 127.5 - 1, torch.tensor(data["label"])
