"""Week 8: what its notebook claims, on the numbers of a run."""

from __future__ import annotations

import pytest


def test_the_bot_learns_its_lessons(records: dict) -> None:
    assert records["chatbot"]["after"] > records["chatbot"]["before"] + 0.25


def test_the_template_is_part_of_the_model(records: dict) -> None:
    right = records["template"]
    assert right["as_trained"] > 2 * right["no_last_line_break"]
    assert right["none"] < 0.2 * right["as_trained"]


def test_engines_agree(records: dict) -> None:
    parity = records["parity"]
    assert parity["fp32"] < 1e-5 and parity["fp32_agree"] > 0.97
    assert parity["fp32"] < 1e-3 < parity["int8"] < 0.2 and parity["int8_agree"] > 0.8


def test_int8_shrinks_the_file_and_hardly_the_process(records: dict) -> None:
    measured = records["measured"]
    assert 0.2 < measured["file"]["int8"] / measured["file"]["fp32"] < 0.4
    assert 0.8 < measured["memory"]["int8"] / measured["memory"]["fp32"] < 1.1
    assert measured["memory"]["torch"] > 2 * measured["memory"]["fp32"]
    assert all(speed > 0 for speed in measured["speed"].values())


def test_http_gave_a_reply(records: dict) -> None:
    assert records["http"]["reply"]


def test_averaged_factors_of_strangers_are_off_by_the_formula(records: dict) -> None:
    assert records["strangers"]["measured"] == pytest.approx(records["strangers"]["theory"], abs=0.03)


def test_clients_drift_apart(records: dict) -> None:
    mix, one, own = (
        records["drift"][key] for key in ("one_mix_of_tasks_one_start", "own_tasks_one_start", "own_tasks_own_starts")
    )
    assert one == sorted(one) and mix == sorted(mix)  # rise with the local steps
    assert all(2 * a < b for a, b in zip(mix, one, strict=True))
    assert all(b + 0.1 < c for b, c in zip(one, own, strict=True)) and min(own) > 0.7


def test_the_exact_average_serves_the_clients_better(records: dict) -> None:
    losses = records["round"]
    assert losses["apart"] < 1e-5
    for base, averaged, exact in zip(losses["basebase"], losses["averagedfactors"], losses["exactresidual"], strict=True):
        assert exact < averaged - 0.5 < base


def test_noise_needs_many_clients(records: dict) -> None:
    both, alone = records["private"]["noise_in_A_and_B"], records["private"]["noise_in_B_alone"]
    assert both[0] > 10 and alone[0] > 2 and both[1] > 1  # 10 and 100 clients
    assert all(a > b for a, b in zip(both, alone, strict=True))
    assert both[-1] < 0.01


def test_a_description_makes_the_adapter_of_its_task(records: dict) -> None:
    base, *rows = records["generator"]["table"]
    for task, column in enumerate(zip(*rows, strict=True)):
        assert all(column[task] < other - 0.2 for place, other in enumerate(column) if place != task)
        assert column[task] < base[task] - 2
