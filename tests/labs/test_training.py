"""The training loop: it learns, it repeats by seed, and its logs say what happened."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from course.labs import LabStop, training
from course.labs.training import History, fit


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAB_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("LAB_WANDB", raising=False)
    return tmp_path / "runs"


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 1))


def points() -> Iterator[Tensor]:
    """From torch's global generator, which `fit` seeds."""
    while True:
        yield torch.randn(32, 3)


def error(model: nn.Module, x: Tensor) -> Tensor:
    return (model(x) - x.sum(1, keepdim=True)).square().mean()


def train(steps: int = 60, seed: int = 0, **options: object) -> tuple[nn.Module, History]:
    model = network()
    return model, fit(model, points(), steps, 1e-2, name="test", loss=error, seed=seed, **options)  # type: ignore[arg-type]


def test_the_loss_falls() -> None:
    _, history = train(200)
    assert history.final_loss < 0.2 * history.loss[0]
    assert len(history.loss) == len(history.lr) == len(history.grad_norm) == len(history.seconds_per_step) == 200


def test_the_seed_decides_and_the_generator_is_left_as_it_was() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    (first, a), (second, b), (_, other) = train(seed=3), train(seed=3), train(seed=4)
    assert torch.equal(before, torch.get_rng_state())
    assert a.loss == b.loss and a.loss != other.loss
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("mode", [True, False])
def test_the_mode_is_restored_also_after_an_error(mode: bool) -> None:
    model = network().train(mode)
    seen = []
    with pytest.raises(ValueError, match="ended after 2 of 3 steps"):
        fit(model, iter([torch.ones(2, 3)] * 2), 3, 1e-2, name="test", loss=lambda m, x: seen.append(m.training) or error(m, x))  # type: ignore[func-returns-value]
    assert seen == [True, True] and model.training is mode


def test_only_what_requires_a_gradient_is_trained() -> None:
    model = network()
    model[0].requires_grad_(False)  # type: ignore[operator]
    frozen, free = model[0].weight.clone(), model[3].weight.clone()
    fit(model, points(), 2, 1e-2, name="test", loss=error)
    assert torch.equal(model[0].weight, frozen) and not torch.equal(model[3].weight, free)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nothing to train"):
        fit(model.requires_grad_(False), points(), 2, 1e-2, name="test", loss=error)


def test_groups_have_rates_and_decay_of_their_own() -> None:
    model = nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(1.0), model.bias.fill_(1.0)
    groups = [{"params": [model.weight], "lr": 0.5, "weight_decay": 0.1}, {"params": [model.bias], "lr": 0.0}]
    history = fit(model, iter([torch.ones(1, 1)]), 1, 9.0, name="test", loss=lambda m, x: 0 * m(x).sum(), groups=groups)
    # No gradient, so what is left of AdamW is the decay, lr times weight_decay.
    assert model.weight.item() == pytest.approx(0.95) and model.bias.item() == 1.0 and history.lr == [0.5]


def test_batches_are_dicts_for_the_model_or_tuples_for_the_loss() -> None:
    class Model(nn.Linear):
        def forward(self, x: Tensor, y: Tensor) -> SimpleNamespace:  # type: ignore[override]
            return SimpleNamespace(loss=(super().forward(x) - y).square().mean())

    torch.manual_seed(0)
    model = Model(1, 1)
    x = torch.linspace(-1, 1, 8)[:, None]
    from_dict = fit(model, iter([{"x": x, "y": 2 * x}] * 3), 3, 1e-2, name="test")
    assert from_dict.loss[2] < from_dict.loss[0]
    fit(model, iter([(x, 2 * x)]), 1, 1e-2, name="test", loss=lambda m, batch: m(*batch).loss)


def test_large_gradients_are_clipped_together() -> None:
    model = nn.Linear(2, 2)
    x = 1e3 * torch.ones(1, 2)
    history = fit(model, iter([x]), 1, 1e-2, name="test", loss=lambda m, x: m(x).sum(), clip=0.5)
    assert history.grad_norm[0] > 1e3
    assert sum(p.grad.square().sum() for p in model.parameters()).sqrt().item() == pytest.approx(0.5, rel=1e-4)  # type: ignore[union-attr]


def test_warmup_then_constant_or_half_a_cosine() -> None:
    rates = [training.schedule_factor(step, 12, 4, "cosine") for step in range(12)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:] == pytest.approx([(1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)])
    assert [training.schedule_factor(step, 6, 2, "constant") for step in range(4)] == [0.5, 1.0, 1.0, 1.0]
    _, history = train(12, warmup=4, schedule="cosine")
    assert history.lr == pytest.approx([1e-2 * rate for rate in rates])
    with pytest.raises(ValueError, match="schedule must be"):
        train(2, schedule="linear")


def test_tensorboard_reads_what_history_has_and_a_second_run_replaces_the_first(runs: Path) -> None:
    train(30)
    _, history = train(20, seed=1)
    board = EventAccumulator(str(runs / "test")).Reload()
    for tag, values in (("loss", history.loss), ("lr", history.lr), ("grad_norm", history.grad_norm)):
        events = board.Scalars(tag)
        assert [event.step for event in events] == list(range(20))
        assert [event.value for event in events] == pytest.approx(values, rel=1e-6)


def test_log_false_writes_nothing_and_a_place_that_cannot_be_written_stops_nobody(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(2, log=False)
    assert not runs.exists()
    runs.write_text("a file where the folder should be")
    _, history = train(2)
    assert len(history.loss) == 2


def test_wandb_offline_gets_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, dict[str, float]]] = []
    settings: dict[str, object] = {}
    run = SimpleNamespace(log=lambda numbers, step: seen.append((step, numbers)), finish=lambda: settings.update(finished=True))
    fake = SimpleNamespace(init=lambda **given: settings.update(given) or run)  # type: ignore[func-returns-value]
    monkeypatch.setenv("LAB_WANDB", "1")
    monkeypatch.setitem(sys.modules, "wandb", fake)  # type: ignore[arg-type]
    _, history = train(3)
    assert settings["mode"] == "offline" and settings["name"] == "test" and settings["finished"]
    assert [(step, numbers["loss"]) for step, numbers in seen] == list(enumerate(history.loss))


def test_wandb_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_WANDB", "1")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(LabStop, match="pip install wandb") as stop:
        train(2)
    assert "\n" not in str(stop.value)


def test_the_full_profile_wants_a_gpu_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("LAB_DEVICE", raising=False)
    assert training.device() == torch.device("cpu")
    monkeypatch.setenv("LAB_PROFILE", "full")
    with pytest.raises(LabStop, match="needs a GPU") as stop:
        training.device()
    assert "\n" not in str(stop.value)
    monkeypatch.setenv("LAB_DEVICE", "cpu")
    assert training.device() == torch.device("cpu")
    monkeypatch.delenv("LAB_DEVICE")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert training.device() == torch.device("cuda")


def test_the_full_profile_trains_under_bf16_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    dtypes = []

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        y = model(x)
        dtypes.append(y.dtype)
        return y.float().square().mean()

    for profile in ("tiny", "full"):
        monkeypatch.setenv("LAB_PROFILE", profile)
        fit(nn.Linear(3, 2), points(), 1, 1e-2, name="test", loss=loss)
    assert dtypes == [torch.float32, torch.bfloat16]
