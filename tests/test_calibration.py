"""The calibration examples: full marks by the checks, three levels by the rubric, and pages that do not tell which is which."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from autograder import bank
from autograder.cli import main
from autograder.judge.runner import ROOT, Runner, TaskRun, loopback
from autograder.manifest import ManifestError, Week, load
from autograder.reports import calibration, review

WEEKS = [week for week in load().weeks if calibration.folder(week).is_dir()]
RANGES = {"strong": range(13, 16), "middling": range(8, 12), "weak": range(3, 6)}


def test_at_least_four_weeks_have_examples() -> None:
    assert {week.number for week in WEEKS} >= {2, 4, 5, 7}


CASES = [(week, seed) for week in WEEKS for seed in (0, 101)]


@pytest.mark.parametrize(("week", "seed"), CASES, ids=[f"{w.folder}-{seed}" for w, seed in CASES])
def test_the_examples_pass_every_check_and_are_told_nothing(week: Week, seed: int, tmp_path: Path) -> None:
    runner = Runner(week, seed)
    for level in calibration.LEVELS:
        stub = tmp_path / level / week.stub
        stub.parent.mkdir()
        shutil.copy(calibration.folder(week) / f"{level}.py", stub)
        runs: list[TaskRun] = []
        runner.run_in_pytest(lambda stub=stub, runs=runs: runs.extend(runner.run(loopback(stub))))
        assert [r.task.id for r in runs if r.outcomes] == [task.id for task in week.tasks]
        failures = [(o.name, o.message) for r in runs for o in r.outcomes if o.kind != "passed" or o.misconception]
        assert not failures, level


@pytest.mark.parametrize("week", WEEKS, ids=lambda w: w.folder)
def test_the_levels_are_apart_and_each_example_is_the_present_stub_filled_in(week: Week) -> None:
    examples = {one.level: one for one in calibration.of(week)}
    assert set(examples) == set(calibration.LEVELS)
    stub = (ROOT / "exercises" / week.folder / week.stub).read_text(encoding="utf-8")
    for level, example in examples.items():
        assert example.points in RANGES[level]
        lines = review.difference(stub, example.source, week).splitlines()[2:]
        gone = [line[1:].strip() for line in lines if line.startswith("-")]
        assert all(line.startswith(("raise NotImplementedError(", "from collections.abc import")) for line in gone), gone
    for one in week.review:
        points = [examples[level].scores[one.id].points for level in calibration.LEVELS]
        assert points == sorted(points, reverse=True), one.id


def test_the_first_example_is_not_always_of_the_same_level() -> None:
    assert len({tuple(one.level for one in calibration.of(week)) for week in WEEKS}) > 1


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_page_to_mark_tells_no_level_and_no_score(week: Week, lang: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "4", "--lang", lang]) == 0
    blind = capsys.readouterr().out
    assert main(["calibrate", "4", "--lang", lang, "--key"]) == 0
    key = capsys.readouterr().out
    stub = (ROOT / "exercises" / week.folder / week.stub).read_text(encoding="utf-8")
    for example in calibration.of(week):
        title = calibration._TITLES[example.level].of(lang)  # type: ignore[arg-type]
        assert title in key and title not in blind and f"{example.points} / 15" in key
        for score in example.scores.values():
            reason = score.of(lang)  # type: ignore[arg-type]
            assert reason in key and reason not in blind
        added = [line for line in review.difference(stub, example.source, week).splitlines() if line.startswith("+ ")]
        assert added and all(line in blind for line in added)
    assert blind.count("| --- | --: | --- |") == 4 and key.count("```") == 0


def test_a_week_without_examples_says_which_have_some(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "1"]) == 2
    assert "weeks 2, 4, 5, 7 do" in capsys.readouterr().err
    assert main(["calibrate", "99"]) == 2


FAULTS = [
    ("[strong.says]", "[strong.said]", "strong must score says, short, errors, comments, the week's criteria, and no others"),
    ("[weak.says]", "[feeble.says]", "the tables are strong, middling, weak, each with a table for every criterion"),
    ("points = 5", "points = 6", "strong, says: at most 5 points, not 6"),
    ("points = 5", "points = -1", "strong, says: points must be an integer of at least 0, not -1"),
    ("points = 5", "points = true", "strong, says: points must be an integer of at least 0, not true"),
    ("points = 5\n", "", "strong, says: points is missing; add it"),
    ("points = 5", "points = 5 5", "cannot be read"),
]


@pytest.mark.parametrize(("old", "new", "message"), FAULTS)
def test_a_score_that_does_not_fit_is_refused_in_one_line(
    week: Week, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, message: str
) -> None:
    copied = tmp_path / week.folder / "calibration"
    shutil.copytree(calibration.folder(week), copied)
    path = copied / "calibration.toml"
    path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    monkeypatch.setattr(bank, "BANK", tmp_path)
    with pytest.raises((calibration.CalibrationError, ManifestError)) as caught:
        calibration.of(week)
    assert message in str(caught.value) and len(str(caught.value).splitlines()) == 1
    (copied / "weak.py").unlink()
    with pytest.raises((calibration.CalibrationError, ManifestError)):
        calibration.of(week)
