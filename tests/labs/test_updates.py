"""What week 7's tasks and targets are said to be."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from course.labs import updates


@pytest.mark.parametrize("overlap", [-1.0, -0.3, 0.0, 1.0])
def test_two_tasks_have_the_overlap_the_size_and_the_rank_that_was_asked_for(overlap: float) -> None:
    first, second = updates.two_tasks(overlap, 16, seed=3, rank=2).updates
    assert first.norm().item() == pytest.approx(4, rel=1e-4) and second.norm().item() == pytest.approx(4, rel=1e-4)
    assert ((first * second).sum() / 16).item() == pytest.approx(overlap, abs=1e-5)
    assert torch.linalg.matrix_rank(first) == torch.linalg.matrix_rank(second) == 2


def test_a_token_says_its_task_and_wants_its_update() -> None:
    tasks = updates.two_tasks(0.5, 8, seed=0)
    x, y, ids = tasks.draw(50)
    assert torch.equal(x[:, 8:].argmax(1), ids) and set(ids.tolist()) == {0, 1}
    for row in range(50):
        wanted = tasks.weight @ x[row] + tasks.updates[ids[row]] @ x[row, :8]
        torch.testing.assert_close(y[row], wanted, rtol=1e-4, atol=1e-4)
    unnamed, _, _ = updates.two_tasks(0.5, 8, seed=0, told=False).draw(50)
    assert not unnamed[:, 8:].any()


def test_shares_are_kept_and_one_task_can_be_drawn_alone() -> None:
    tasks = updates.two_tasks(-1.0, 8, seed=0, share=0.75)
    assert tasks.draw(4000)[2].float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert tasks.draw(20, task=1)[2].tolist() == [1] * 20


def test_separate_tasks_do_not_meet() -> None:
    tasks = updates.separate_tasks(16, seed=1)
    x, _, ids = tasks.draw(40)
    content = x[:, :16]
    for task in (0, 1):
        others = content[ids != task] @ tasks.updates[task].T
        own = content[ids == task] @ tasks.updates[task].T
        assert others.abs().max() < 1e-4 < 0.1 < own.abs().max()


def test_the_error_is_1_at_the_base_0_at_the_goal_and_4_at_its_opposite() -> None:
    tasks = updates.two_tasks(-1.0, 8, seed=0)
    assert updates.error(tasks.base(), tasks) == pytest.approx(1)
    wanted = torch.cat([tasks.updates[0], torch.zeros(8, 2)], dim=1)
    right = nn.Linear(10, 8, bias=False)
    right.weight.data = tasks.weight + wanted
    assert updates.error(right, tasks, task=0) == pytest.approx(0, abs=1e-6)
    assert updates.error(right, tasks, task=1) == pytest.approx(4, rel=1e-3)


@pytest.mark.parametrize(("kind", "energy"), [("flat", 4 / 24), ("low rank", 1.0), ("power", 0.885)])
def test_targets_have_their_spectrum(kind: str, energy: float) -> None:
    matrix = updates.target(kind, 24, seed=0)
    values = torch.linalg.svdvals(matrix)
    assert matrix.norm().item() == pytest.approx(24**0.5, rel=1e-4)
    assert (values[:4].square().sum() / values.square().sum()).item() == pytest.approx(energy, abs=0.005)


def test_a_layer_is_fitted_to_its_target_and_repeats() -> None:
    def missed() -> float:
        layer = nn.Linear(6, 6, bias=False)
        nn.init.eye_(layer.weight)
        return updates.fit_target(layer, updates.target("gaussian", 6, seed=0), steps=200)

    assert missed() == missed() < 0.05


def test_inject_replaces_the_named_layers_and_freezes_the_rest() -> None:
    model = nn.ModuleDict(
        {"q_proj": nn.Linear(2, 2), "k_proj": nn.Linear(2, 2), "deep": nn.ModuleDict({"q_proj": nn.Linear(2, 2)})}
    )
    before = model["k_proj"]
    updates.inject(model, ("q_proj",), lambda layer: nn.Sequential(layer, nn.Linear(2, 2)))
    assert isinstance(model["q_proj"], nn.Sequential) and isinstance(model["deep"]["q_proj"], nn.Sequential)
    assert model["k_proj"] is before and not before.weight.requires_grad
    assert not model["q_proj"][0].weight.requires_grad and model["q_proj"][1].weight.requires_grad


def test_customers_want_opposite_labels_of_the_same_sentences_and_no_sentence_is_in_both_splits() -> None:
    train, held_out = updates.two_customers("train", 100, seed=1), updates.two_customers("validation", 200)
    for ann, ben in zip(train[::2], train[1::2], strict=True):
        assert ann.sentence.removeprefix("Ann, ") == ben.sentence.removeprefix("Ben, ") and ann.label == 1 - ben.label
    assert len(train) == 100 and len({review.sentence for review in held_out}) == 200
    assert not {review.sentence for review in train} & {review.sentence for review in held_out}
