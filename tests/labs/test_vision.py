"""The vision half of the labs, tiny profile: data, the shipped models, adapters, and the contracts of week 9's tasks."""

from __future__ import annotations

import functools
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from course.labs import LabStop, files, vision
from course.labs.pretrain import unet, vit
from course.labs.training import fit
from tests.conftest import ROOT
from tests.labs.helpers import blended
from tests.loading import load


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAB_PROFILE", raising=False)


@functools.cache
def week9() -> Any:
    return load(ROOT / "solutions" / "week09" / "multimodal.py")


def rows(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


# --- pictures ---


def test_the_splits_are_fixed_and_share_no_picture() -> None:
    (train, labels), (test, _) = vision.digits("train"), vision.digits("test")
    assert train.shape == (1297, 1, 8, 8) and test.shape == (500, 1, 8, 8) and labels.dtype == torch.int64
    assert train.min() == -1 and train.max() == 1
    assert not rows(train) & rows(test)
    assert rows(vision.digits("test", seed=3)[0]) == rows(test)
    assert sorted(set(labels.tolist())) == list(range(10))


def test_a_seed_gives_the_same_pictures_in_every_style_and_another_seed_others() -> None:
    few, labels = vision.digits("train", count=20, seed=1)
    again, same = vision.digits("train", "inverted", 20, seed=1)
    assert torch.equal(again, -few) and torch.equal(same, labels)
    assert torch.equal(few, vision.digits("train", seed=1)[0][:20])
    assert not torch.equal(few, vision.digits("train", count=20, seed=2)[0])


def test_a_slanted_picture_is_the_sheared_plain_one() -> None:
    plain, _ = vision.digits("test", count=30)
    slanted, _ = vision.digits("test", "slanted", 30)
    # ndimage takes output (y, x) from input (y, x + SHEAR (y - middle)).
    matrix, offset = np.array([[1, 0], [vision.SHEAR, 1]]), np.array([0, -vision.SHEAR * 3.5])
    for before, after in zip(plain[:, 0].numpy(), slanted[:, 0].numpy(), strict=True):
        expected = ndimage.affine_transform(before, matrix, offset, order=1, mode="nearest")
        assert np.allclose(after, expected, atol=1e-5)
    wide = torch.randn(2, 3, 6, 12)
    sheared = vision.apply_style(wide, "slanted")
    matrix, offset = np.array([[1, 0], [vision.SHEAR, 1]]), np.array([0, -vision.SHEAR * 2.5])
    expected = ndimage.affine_transform(wide[1, 2].numpy(), matrix, offset, order=1, mode="nearest")
    assert np.allclose(sheared[1, 2].numpy(), expected, atol=1e-5)


def test_slant_and_brightness_measure_the_styles() -> None:
    line = torch.full((1, 1, 8, 8), -1.0)
    line[0, 0, range(8), range(7, -1, -1)] = 1  # "/": one column a row to the right, upwards
    assert vision.slant(line).item() == pytest.approx(1, abs=1e-3)
    assert vision.slant(line.flip(-1)).item() == pytest.approx(-1, abs=1e-3)
    plain, slanted = (vision.slant(vision.digits("test", style)[0]) for style in ("plain", "slanted"))
    assert (slanted - plain).mean().item() == pytest.approx(vision.SHEAR, abs=0.1)
    assert vision.brightness(torch.tensor([[[[-1.0, 1.0], [1.0, 1.0]]]])).tolist() == [0.5]


def test_names_that_do_not_exist_are_refused() -> None:
    for bad in (lambda: vision.digits("dev"), lambda: vision.digits("test", "thick", 3)):
        with pytest.raises(ValueError):
            bad()


def test_a_grid_puts_pictures_in_rows() -> None:
    images = torch.arange(5.0).view(5, 1, 1, 1).expand(-1, 1, 2, 3) / 2 - 1
    whole = vision.grid(images, 2)
    assert whole.shape == (3 * 4, 2 * 5) and whole.min() == 0 and whole.max() == 1
    assert np.allclose(whole[1:3, 6:9], 0.25) and np.allclose(whole[9:11, 1:4], 1) and np.allclose(whole[8:, 5:], 0.5)
    assert vision.grid(images.expand(-1, 3, -1, -1), 2).shape == (12, 10, 3)


# --- shipped models ---


@pytest.mark.parametrize("name", ["digits_vit", "digits_unet"])
def test_a_damaged_file_stops_with_the_rebuild_command(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_model = vision.classifier if name == "digits_vit" else vision.studio
    shutil.copytree(files.FOLDER / name, tmp_path / name)
    monkeypatch.setattr(files, "FOLDER", tmp_path)
    load_model()
    (tmp_path / name / "config.json").write_text("{}")
    with pytest.raises(LabStop, match=f"python -m course.labs.pretrain {files.REBUILD[name]}") as stop:
        load_model()
    assert "\n" not in str(stop.value)
    assert sum(path.stat().st_size for path in (tmp_path / name).iterdir()) < 3e6


def test_the_shipped_vit_reads_plain_digits_but_not_slanted_ones() -> None:
    quality = vit.quality()
    assert 95_000 < quality["parameters"] < 110_000
    assert quality["plain"] > 0.93 and quality["slanted"] < 0.6


def test_the_shipped_unet_draws_what_was_asked_for() -> None:
    quality = unet.quality()
    assert 650_000 < quality["parameters"] < 800_000
    assert quality["judged right"] > 0.9


def test_accuracy_counts_and_restores_the_mode() -> None:
    model, (images, labels) = vision.classifier(), vision.digits("test", count=60)
    predicted = model(vision.pixels(model, images)).logits.argmax(-1)
    assert vision.accuracy(model.train(), images, predicted, batch=7) == 1 and model.training
    assert vision.accuracy(model, images, labels, batch=7) == pytest.approx((predicted == labels).float().mean().item())


def test_training_batches_are_pairs_and_repeat_with_the_seed() -> None:
    images, labels = vision.digits("train", count=40)
    by_image = {image.numpy().tobytes(): label for image, label in zip(images, labels.tolist(), strict=True)}
    first, again = (next(vision.batches(images, labels, 50, seed=4)) for _ in range(2))
    assert torch.equal(first[0], again[0]) and first[0].shape == (50, 1, 8, 8)
    assert [by_image[image.numpy().tobytes()] for image in first[0]] == first[1].tolist()


def test_fresh_has_the_same_shape_and_other_weights() -> None:
    known, first, again, other = vision.classifier(), vision.fresh(1), vision.fresh(1), vision.fresh(2)
    shapes = [{name: p.shape for name, p in model.named_parameters()} for model in (known, first)]
    assert shapes[0] == shapes[1]
    assert torch.equal(first.classifier.weight, again.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


# --- the vision transformer and its adapters ---


def tuned(model: Any, seed: int, lr: float) -> float:
    """Accuracy on slanted digits after 100 steps on 64 of them."""
    few = vision.digits("train", "slanted", 64, seed=seed)
    fit(model, vision.batches(*few, 32, seed), 100, lr, name="slanted", loss=vision.classification_loss, log=False)
    return vision.accuracy(model, *vision.digits("test", "slanted"))


def test_lora_reaches_full_fine_tuning_on_slanted_digits_where_scratch_and_the_base_do_not() -> None:
    low, high = (tuned(vision.lora(vision.classifier(), rank, 2 * rank), 0, 1e-2) for rank in (1, 8))
    scratch, full = tuned(vision.fresh(), 0, 3e-3), tuned(vision.classifier(), 0, 1e-3)
    base = vision.accuracy(vision.classifier(), *vision.digits("test", "slanted"))
    assert min(low, high) > max(scratch, base) + 0.1
    assert abs(high - full) < 0.1


def test_lora_trains_the_factors_of_its_targets_only_and_comes_off() -> None:
    model = vision.classifier()
    before = {name: p.clone() for name, p in model.named_parameters()}
    adapted = vision.lora(model, 2, 4, "qv")
    trainable = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert len(trainable) == 3 * 2 * 2 and all("q_proj.lora" in name or "v_proj.lora" in name for name in trainable)
    tuned(adapted, 0, 1e-2)
    back = dict(adapted.unload().named_parameters())
    assert set(back) == set(before) and all(torch.equal(back[name], before[name]) for name in before)
    wide = vision.lora(vision.classifier(), 2, 4, "all-linear")
    assert sum(p.requires_grad for p in wide.parameters()) == 3 * 6 * 2


def test_a_fused_vit_is_the_same_function_and_takes_week_9s_adapters() -> None:
    images, _ = vision.digits("test", count=20)
    model = vision.classifier()
    x = vision.pixels(model, images)
    plain = model(x).logits
    fused = vision.fuse_qkv(vision.classifier())
    assert torch.allclose(fused(x).logits, plain, atol=1e-4)
    names = week9().inject_fused_qkv(fused, ["qkv"], ["q", "v"], 4, 8)
    assert len(names) == 3 and torch.allclose(fused(x).logits, plain, atol=1e-4)
    assert tuned(fused, 0, 1e-2) > 0.65


# --- the studio ---


def test_sampling_repeats_with_the_seed_and_draws_in_chunks_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    studio = vision.studio()
    first = studio.sample(studio.subjects, 10, seed=1)
    assert first.shape == (10, 1, 8, 8) and first.min() >= -1 and first.max() <= 1
    assert torch.equal(first, studio.sample(studio.subjects, 10, seed=1))
    assert not torch.allclose(first, studio.sample(studio.subjects, 10, seed=2), atol=0.1)
    monkeypatch.setattr(vision.Digits, "chunk", 3)
    assert torch.allclose(first, studio.sample(studio.subjects, 10, seed=1), atol=1e-3)


def test_week_9s_step_and_loss_do_what_diffusers_does() -> None:
    studio = vision.studio()
    ours = studio.sample(studio.subjects, 25, step=week9().ddim_step)
    assert torch.allclose(ours, studio.sample(studio.subjects, 25), atol=1e-3)
    losses = []
    for loss in (None, week9().diffusion_loss):
        adapted = vision.lora(studio.unet, 2, 4, "attention")
        losses.append(studio.train_style("inverted", 3, 1e-3, count=50, loss=loss, log=False).loss)
        adapted.unload()
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_timesteps_end_at_the_clean_sample() -> None:
    steps = vision.studio().timesteps(25)
    assert len(steps) == 25 and steps[0][0] == 199 and steps[-1][1] == -1
    assert all(before[1] == after[0] for before, after in pairwise(steps))


def style(name: str, targets: str) -> tuple[Tensor, Any, Any]:
    """What a studio draws after a short training, 5 of each digit; the studio, and the peft model."""
    studio = vision.studio()
    adapted = vision.lora(studio.unet, 8, 16, targets)
    studio.train_style(name, 60, 1e-2, count=200, log=False)
    return studio.sample([*studio.subjects] * 5), studio, adapted


def test_a_style_changes_what_is_drawn_and_blends_by_week_9s_class() -> None:
    subjects = [*range(10)] * 5
    plain = vision.studio().sample(subjects)
    drawn, studio, adapted = style("inverted", "attention")
    assert vision.brightness(plain).mean() < 0 < vision.brightness(drawn).mean()
    taken = blended(adapted)
    adapted.unload()
    assert torch.equal(studio.sample(subjects), plain)
    blender = week9().StyleBlender(studio.unet, {"inverted": taken})
    blender.blend_styles({"inverted": 1.0})
    assert torch.allclose(studio.sample(subjects), drawn, atol=0.02)
    blender.blend_styles({})
    assert torch.equal(studio.sample(subjects), plain)


def test_a_slanted_style_over_attention_and_convolutions_leans() -> None:
    drawn, studio, _ = style("slanted", "attention+conv")
    lean = vision.slant(drawn).mean() - vision.slant(vision.studio().sample([*studio.subjects] * 5)).mean()
    assert lean > 0.5 * vision.SHEAR
    upright = vision.apply_style(drawn, "slanted", -1)
    assert vision.accuracy(vision.classifier(), upright, torch.tensor([*studio.subjects] * 5)) > 0.65


def test_convolutions_take_week_9s_layers() -> None:
    studio = vision.studio()
    plain = studio.sample([3], 5)
    convs = [name for name, module in studio.unet.named_modules() if isinstance(module, nn.Conv2d)]
    names = [name for name in convs if name.endswith((".conv1", ".conv2"))]
    for name in names:
        studio.unet.set_submodule(name, week9().LoRAConv2d(studio.unet.get_submodule(name), 4, 8))
    assert len(names) > 8 and torch.allclose(studio.sample([3], 5), plain, atol=1e-4)
    history = studio.train_style("inverted", 30, 1e-2, count=100, log=False)
    assert history.final_loss < history.loss[0]
