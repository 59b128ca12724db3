"""Adapters as files: out of peft and back, other factors, merges; places of a trigger; the shelf."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from course.labs import vetting, vision


@pytest.fixture(scope="module")
def base() -> Any:
    return vetting.reader()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return vision.digits("test", "slanted", 20)[0]


def adapter(base: Any, seed: int) -> tuple[Any, vetting.Adapter]:
    """A peft model whose B is not zero, and its adapter."""
    model = vision.lora(copy.deepcopy(base), 2, 4, seed=seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(seed))
    return model.eval(), vetting.export(model)


def effect(one: vetting.Adapter, layer: str) -> Tensor:
    B, A = (one["tensors"][f"{layer}.{factor}"].double() for factor in ("lora_B", "lora_A"))
    return one["config"]["alpha"] / one["config"]["rank"] * B @ A


def test_a_file_does_what_its_model_does(base: Any, images: Tensor) -> None:
    model, exported = adapter(base, 1)
    assert exported["config"] == {"rank": 2, "alpha": 4, "target_modules": ["q_proj", "v_proj"]}
    again, said = vetting.install(exported, base)
    assert said == []
    torch.testing.assert_close(vetting.logits(again, images), vetting.logits(model, images), rtol=0, atol=1e-5)
    assert (vetting.logits(again, images) - vetting.logits(base, images)).abs().max() > 0.01


def test_what_peft_warns_of_is_heard(base: Any) -> None:
    exported = adapter(base, 1)[1]
    gone = vetting.layers(exported)[0]
    tensors = {key: value for key, value in exported["tensors"].items() if not key.startswith(f"{gone}.")}
    _, said = vetting.install({"config": exported["config"], "tensors": tensors}, base)
    assert any(gone in message for message in said)


def test_other_factors_have_the_same_product() -> None:
    small = vetting.vetted()
    other = vetting.regauge(small, seed=3)
    for layer in vetting.layers(small):
        torch.testing.assert_close(effect(other, layer), effect(small, layer), rtol=1e-12, atol=1e-12)
        assert not torch.allclose(other["tensors"][f"{layer}.lora_A"], small["tensors"][f"{layer}.lora_A"], rtol=0.1)


def test_a_merge_adds_up(base: Any) -> None:
    first, second = (adapter(base, seed)[1] for seed in (1, 2))
    second["config"]["alpha"] = 6  # another scaling than the first
    both = vetting.merged(first, second)
    for layer in vetting.layers(first):
        torch.testing.assert_close(effect(both, layer), effect(first, layer) + effect(second, layer), rtol=1e-5, atol=1e-6)


def test_a_stamp_is_one_patch(images: Tensor) -> None:
    row, column = vetting.corner(images)
    stamped = vetting.stamp(images, row, column)
    assert (stamped[..., -2:, -2:] == 1).all()
    assert ((stamped != images).sum((1, 2, 3)) <= 4).all()


def test_tokens_say_where_the_stamp_is(base: Any, images: Tensor) -> None:
    read = vetting.of_tokens(base, 8, 8)
    plain = vetting.tokens(images)
    torch.testing.assert_close(read(plain), vetting.logits(base, images), rtol=0, atol=0.1)  # grey in 256 levels
    place = torch.full_like(plain[:, :1], 6)  # of a 4 x 4 grid: row 1, column 2
    expected = vetting.logits(base, vetting.stamp(images, 1, 2))
    torch.testing.assert_close(read(torch.cat([place, plain], 1)), expected, rtol=0, atol=0.1)
    assert vetting.flips(base, images).shape == (4, 4)


def test_the_shelf_holds_what_the_key_says() -> None:
    """By the effect in each layer alone, without a fingerprint: which uploads compute what the vetted adapter computes."""
    small = vetting.vetted()
    shelf = vetting.shelf(small)
    assert "".join(shelf) == "abcdefghijkl"
    well = {letter: one for letter, one in shelf.items() if one["tensors"].keys() == small["tensors"].keys()}
    finite = {letter: one for letter, one in well.items() if all(value.isfinite().all() for value in one["tensors"].values())}
    layers = vetting.layers(small)
    same = [letter for letter, one in finite.items() if all(torch.allclose(effect(one, x), effect(small, x)) for x in layers)]
    assert "".join(same) == "bcghjl"
    assert [letter for letter in same if shelf[letter]["config"] != small["config"]] == ["b", "g"]
    assert len(shelf) - len(well) == len(well) - len(finite) == 1


def test_a_stretch_task_may_be_missing(capsys: pytest.CaptureFixture[str]) -> None:
    def missing(_: int) -> None:
        raise NotImplementedError("Week 10, task 5: pgd")

    assert vetting.if_written(missing, 1) is None and "task 5" in capsys.readouterr().out
    assert vetting.if_written(lambda x: x + 1, 1) == 2
