"""The vision half in the full profile: the same calls on small local copies in the hub's formats, and without a hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from course.labs import LabStop, vision
from course.labs.training import fit
from tests.conftest import ROOT
from tests.labs.helpers import blended, stops_without_a_hub
from tests.loading import load


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vit: a head of 7 classes, 3 channels, 32 x 32; mnist: 28 x 28 pictures; sdxl: a pipeline with random weights."""
    import datasets
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    path = tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ViTForImageClassification(ViTConfig(image_size=32, patch_size=16, num_labels=7, **shape)).save_pretrained(path / "vit")
    ViTImageProcessorPil(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.25, 0.5]).save_pretrained(path / "vit")
    rng = np.random.default_rng(0)
    pictures = {"image": list(rng.integers(0, 256, (30, 28, 28), np.uint8)), "label": [i % 10 for i in range(30)]}
    kinds = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(10))
    saved = datasets.Dataset.from_dict(pictures, features=kinds)
    datasets.DatasetDict(train=saved.select(range(20)), test=saved.select(range(20, 30))).save_to_disk(str(path / "mnist"))
    sdxl().save_pretrained(path / "sdxl")
    return path


def sdxl() -> Any:
    """Stable Diffusion XL's parts and configuration at a hundred thousandth of its size."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    tokenizer = CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=77)
    small: Any = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CLIPTextConfig(vocab_size=len(words), bos_token_id=0, eos_token_id=1, projection_dim=32, **small)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=80,
        cross_attention_dim=64,
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        sample_size=16,
        scaling_factor=0.13025,
    )
    betas: Any = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(config),
        text_encoder_2=CLIPTextModelWithProjection(config),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(steps_offset=1, timestep_spacing="leading", **betas),
    )


@pytest.fixture(autouse=True)
def full(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_PROFILE", "full")
    monkeypatch.setenv("LAB_DEVICE", "cpu")
    for name in ("vit", "mnist", "sdxl"):
        monkeypatch.setenv(f"LAB_{name.upper()}", str(hub / name))


def test_mnist_has_the_digits_shapes_styles_and_order() -> None:
    images, labels = vision.digits("train")
    assert images.shape == (20, 1, 28, 28) and images.min() == -1 and images.max() == 1 and labels.dtype == torch.int64
    few, some = vision.digits("train", "inverted", 5)
    assert torch.equal(few, -images[:5]) and torch.equal(some, labels[:5])
    assert vision.digits("test", "slanted")[0].shape == (10, 1, 28, 28)


def test_pictures_are_resized_and_normalised_as_the_models_processor_says() -> None:
    model = vision.classifier()
    x = vision.pixels(model, torch.full((2, 1, 28, 28), 0.2))
    assert x.shape == (2, 3, 32, 32)
    assert torch.allclose(x[0, :, 5, 5], torch.tensor([(0.6 - 0.4) / 0.2, (0.6 - 0.5) / 0.25, 0]), atol=1e-5)


def test_a_vit_gets_a_head_of_ten_classes_that_lora_trains() -> None:
    model, images = vision.classifier(), vision.digits("train")
    assert model.classifier.out_features == vision.fresh().classifier.out_features == 10
    torch.testing.assert_close(model.classifier.weight, vision.classifier().classifier.weight)
    head = model.classifier.weight.clone()
    adapted = vision.lora(model, 2, 4)
    fit(adapted, vision.batches(*images, 8), 3, 1e-2, name="full", loss=vision.classification_loss, log=False)
    assert not torch.equal(adapted.merge_and_unload().classifier.weight, head)
    assert 0 <= vision.accuracy(model, *vision.digits("test")) <= 1
    fused = vision.fuse_qkv(vision.classifier())
    x = vision.pixels(fused, images[0])
    assert torch.allclose(fused(x).logits, vision.classifier()(x).logits, atol=1e-4)


def test_sdxl_trains_a_step_of_a_style_and_samples_by_the_same_calls() -> None:
    week9, studio = load(ROOT / "solutions" / "week09" / "multimodal.py"), vision.studio()
    assert studio.unet.dtype == torch.bfloat16 and len(studio.subjects) == 10 and studio.shape == (4, 8, 8)
    plain = studio.sample(studio.subjects[:3], 2, seed=1)
    assert plain.shape == (3, 3, 16, 16) and plain.abs().max() <= 1
    assert torch.equal(plain, studio.sample(studio.subjects[:3], 2, seed=1))
    ours = studio.sample(studio.subjects[:3], 2, seed=1, step=week9.ddim_step)
    assert torch.allclose(ours, plain, atol=0.01)
    adapted = vision.lora(studio.unet, 2, 4, "attention")
    history = studio.train_style("inverted", 1, 1e-2, count=2, batch=2, loss=week9.diffusion_loss, log=False)
    assert len(history.loss) == 1 and history.grad_norm[0] > 0
    taken = blended(adapted)
    assert any(factors["lora_B"].abs().max() > 0 for factors in taken.values())
    drawn = studio.sample(studio.subjects[:3], 2, seed=1)
    assert not torch.equal(drawn, plain)
    adapted.unload()
    assert torch.equal(studio.sample(studio.subjects[:3], 2, seed=1), plain)
    week9.StyleBlender(studio.unet, {"inverted": taken}).blend_styles({"inverted": 1.0})
    assert not torch.equal(studio.sample(studio.subjects[:3], 2, seed=1), plain)


def test_sdxls_noise_is_that_of_its_pipeline() -> None:
    """Guided noise predictions, against a sampling of diffusers' pipeline with the same scheduler."""
    from diffusers import DDIMScheduler

    studio = vision.studio()
    pipe: Any = studio.pipe  # type: ignore[attr-defined]
    pipe.scheduler = DDIMScheduler.from_config(studio.scheduler.config)
    prompt, start = studio.subjects[0], studio.noise(1, 5)
    with torch.no_grad():
        options: Any = {"negative_prompt": "", "guidance_scale": studio.guidance, "output_type": "pt"}
        image = pipe(prompt, num_inference_steps=2, latents=start.bfloat16(), **options).images
    assert torch.allclose(studio.sample([prompt], 2, seed=5), image.float() * 2 - 1, atol=0.03)


def test_a_style_of_sdxl_is_its_own_pictures_changed() -> None:
    studio = vision.studio()
    latents, subjects = studio.examples("inverted", 2)
    assert latents.shape == (2, 4, 8, 8) and subjects == [*studio.subjects[:2]]
    own = studio.sample(subjects)
    pipe: Any = studio.pipe  # type: ignore[attr-defined]
    with torch.no_grad():
        expected = pipe.vae.encode(-own.bfloat16()).latent_dist.mean.float() * 0.13025
    assert torch.allclose(latents, expected, atol=1e-2)


def test_without_a_gpu_it_stops_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAB_DEVICE")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for call in (vision.classifier, vision.fresh, vision.studio):
        with pytest.raises(LabStop, match="needs a GPU"):
            call()


def test_a_folder_that_holds_no_model_stops_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {"VIT": vision.classifier, "SDXL": vision.studio, "MNIST": lambda: vision.digits("train")}
    for name, call in calls.items():
        monkeypatch.setenv(f"LAB_{name}", str(tmp_path))
        with pytest.raises(LabStop, match=f"LAB_{name}") as stop:
            call()
        assert "\n" not in str(stop.value)


def test_without_a_hub_every_call_stops_with_one_line_that_says_what_to_set(tmp_path: Path) -> None:
    calls = (
        '[("VIT", vision.classifier), ("VIT", vision.fresh), ("SDXL", vision.studio), ("MNIST", lambda: vision.digits("train"))]'
    )
    lines = stops_without_a_hub("vision", calls, tmp_path)
    assert len(lines) == 4 and all(line.split()[1] == "True" for line in lines), lines
