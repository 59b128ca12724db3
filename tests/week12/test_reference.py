"""Week 12: the reference and the alternatives against SciPy, huggingface_hub, a Markdown parser and closed forms."""

from __future__ import annotations

import copy
import itertools
import json
import math
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from scipy import stats

from tests.loading import load

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "solutions/week12/experiment.py"
ALTERNATIVES = sorted((ROOT / "autograder/bank/week12/alternatives").glob("*/experiment.py"))


SOLUTIONS = {"reference": load(REFERENCE)} | {path.parent.name: load(path) for path in ALTERNATIVES}
REF = SOLUTIONS["reference"]
everywhere = pytest.mark.parametrize("lib", SOLUTIONS.values(), ids=SOLUTIONS.keys())
derandomized = settings(max_examples=25, deadline=None, derandomize=True, database=None)


# --- 12.1 ---


def fit(data: tuple, lr: float, steps: int) -> torch.nn.Module:
    """A small regression, trained in a random order."""
    x, y = data
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(steps):
        i = random.randrange(len(x))
        optimizer.zero_grad()
        (model(x[i]) - y[i]).square().mean().backward()
        optimizer.step()
    return model


def make() -> tuple:
    x = torch.from_numpy(np.random.standard_normal((20, 3))).float()
    return x, x.sum(dim=1, keepdim=True) + 0.1 * torch.randn(20, 1)


def loss(model: torch.nn.Module, data: tuple) -> torch.Tensor:
    return (model(data[0]) - data[1]).square().mean().detach()


CONFIG = {"seeds": [3, 0, 8], "data": make, "model": fit, "options": {"lr": 0.05, "steps": 12}, "metrics": {"loss": loss}}


@everywhere
def test_a_training_run_is_reproduced(lib: ModuleType) -> None:
    first = lib.run_experiment(CONFIG)
    random.random(), np.random.random(), torch.rand(())
    assert lib.run_experiment(CONFIG) == first
    values = [run["metrics"]["loss"] for run in first["runs"]]
    assert len(set(values)) == 3 and [run["seed"] for run in first["runs"]] == CONFIG["seeds"]
    for seed, value in zip(CONFIG["seeds"], values, strict=True):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        data = make()
        assert float(loss(fit(data, 0.05, 12), data)) == value
    found = first["summary"]["loss"]
    assert found["n"] == 3 and math.isclose(found["mean"], np.mean(values)) and math.isclose(found["std"], stats.tstd(values))
    assert lib.run_experiment({**CONFIG, "seeds": [4]})["summary"]["loss"]["std"] is None


@everywhere
def test_the_generators_are_left_alone(lib: ModuleType) -> None:
    def broken(model: Any, data: Any) -> float:
        raise KeyError("no label")

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.random(), torch.rand(()).item()
    for metrics in ({"loss": loss}, {"loss": broken}):
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        try:
            lib.run_experiment({**CONFIG, "metrics": metrics})
        except KeyError:
            assert metrics["loss"] is broken
        assert (random.random(), np.random.random(), torch.rand(()).item()) == expected


@everywhere
@pytest.mark.parametrize(
    "change", [{"seeds": []}, {"seeds": [1, 1]}, {"metrics": {}}, {"epochs": 2}, {"metrics": {"x": lambda m, d: math.nan}}]
)
def test_bad_configurations_are_refused(lib: ModuleType, change: dict) -> None:
    with pytest.raises(ValueError):
        lib.run_experiment({**CONFIG, **change})
    with pytest.raises(ValueError):
        lib.run_experiment(
            {key: value for key, value in CONFIG.items() if key not in change} if change.keys() & CONFIG.keys() else {}
        )


# --- 12.2 ---


@everywhere
@pytest.mark.parametrize("n", [2, 5, 9])
def test_the_exact_test_is_scipys(lib: ModuleType, n: int) -> None:
    rng = np.random.default_rng(n)
    a, b = rng.standard_normal(n) + 0.5, rng.standard_normal(n)

    def mean(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.abs((x - y).mean(axis=axis))

    found = lib.paired_test(a, b)
    expected = stats.permutation_test((a, b), mean, permutation_type="samples", alternative="greater", n_resamples=np.inf).pvalue
    assert math.isclose(found["p"], expected, rel_tol=1e-12)
    assert found["n"] == n and math.isclose(found["difference"], np.mean(a) - np.mean(b), rel_tol=1e-9)


@everywhere
def test_equal_differences_are_the_sign_test(lib: ModuleType) -> None:
    """Where all |d| are equal the number of positive signs is binomial."""
    for wins, n in ((6, 7), (8, 8), (5, 10)):
        d = np.array([0.1] * wins + [-0.1] * (n - wins))
        assert math.isclose(lib.paired_test(d, np.zeros(n))["p"], stats.binomtest(wins, n).pvalue)


@everywhere
def test_drawn_signs_approach_the_exact_test(lib: ModuleType) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(8) + 0.6, rng.standard_normal(8)
    signs = np.array(list(itertools.product([1, -1], repeat=8)))
    exact, drawn = lib.paired_test(a, b)["p"], lib.paired_test(a, b, signs)["p"]
    assert math.isclose(drawn, (1 + 256 * exact) / 257)


@derandomized
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=8), st.floats(0.01, 100))
def test_the_test_is_symmetric_and_scale_free(d: list[float], scale: float) -> None:
    a, b = np.array(d), np.zeros(len(d))
    p = REF.paired_test(a, b)["p"]
    assert 2.0 ** (1 - len(d)) <= p <= 1 or len(d) == 1
    assert REF.paired_test(b, a)["p"] == p
    for lib in SOLUTIONS.values():
        assert math.isclose(lib.paired_test(a * 2.0 ** round(math.log2(scale)), b)["p"], p)


@everywhere
def test_the_interval_is_that_of_the_sorted_means(lib: ModuleType) -> None:
    rng = np.random.default_rng(0)
    values, indices = rng.standard_normal(7), rng.integers(0, 7, (101, 7))
    means = sorted(values[row].mean() for row in indices)
    assert np.allclose(lib.bootstrap_ci(values, indices, 0.9), (means[5], means[95]), rtol=1e-12)
    constant = lib.bootstrap_ci(np.full(3, 2.5), rng.integers(0, 3, (20, 3)))
    assert constant == (2.5, 2.5) and all(type(end) is float for end in constant)


def test_the_interval_is_scipys() -> None:
    """SciPy draws its resamples itself, so the two agree up to the noise of 20,000 of them."""
    rng = np.random.default_rng(0)
    values = rng.exponential(size=40)
    ours = REF.bootstrap_ci(values, rng.integers(0, 40, (20_000, 40)))
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=rng).confidence_interval
    assert np.allclose(ours, theirs, atol=0.03)


@everywhere
def test_what_is_no_comparison_is_refused(lib: ModuleType) -> None:
    a, b = np.ones(3), np.zeros(3)
    bad: list[tuple] = [(a, b[:1]), (a[:0], b[:0]), (a * math.nan, b), (np.ones(17), np.zeros(17)), (a, b, np.ones((2, 1)))]
    for args in bad:
        with pytest.raises(ValueError):
            lib.paired_test(*args)
    for args in ((a[:0], np.zeros((2, 0), int)), (a, np.zeros(3, int)), (a, np.zeros((2, 3), int), 1.0)):
        with pytest.raises(ValueError):
            lib.bootstrap_ci(*args)


# --- 12.3 ---

REPORT: dict[str, Any] = {
    "title": "Rank 8 | rank 16",
    "question": "Is 8 enough?",
    "cost": "2 kWh",
    "level": 0.9,
    "results": [
        {"system": "a|b", "metric": "f1\nmacro", "mean": 0.81251, "low": 0.7, "high": 0.9, "n": 5},
        {"system": "base", "metric": "f1", "mean": 0.5, "low": None, "high": None, "n": 1},
    ],
    "comparisons": [
        {"first": "a|b", "second": "base", "metric": "f1", "difference": 0.3, "low": 0.1, "high": 0.5, "p": 0.0001, "n": 5},
        {"first": "base", "second": "c", "metric": "f1", "difference": -0.1, "low": -0.2, "high": 0.0, "p": 0.04, "n": 5},
        {"first": "base", "second": "d", "metric": "f1", "difference": -0.1, "low": -0.2, "high": -0.01, "p": 0.2, "n": 5},
    ],
    "limitations": ["One seed", "One language"],
}


def cells(text: str) -> list[list[list[str]]]:
    """The tables of a page, by a Markdown parser of somebody else."""
    tables: list[list[list[str]]] = []
    for token in MarkdownIt().enable("table").parse(text):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type == "inline" and tables and token.level >= 4 and token.map is not None:
            tables[-1][-1].append(token.content)
    return tables


@everywhere
def test_a_parser_reads_the_report(lib: ModuleType) -> None:
    before = copy.deepcopy(REPORT)
    text = lib.render_report(REPORT)
    assert before == REPORT
    results, comparisons = cells(text)
    assert results[1:] == [["a|b", "f1 macro", "0.813", "[0.700, 0.900]", "5"], ["base", "f1", "0.500", "unknown", "1"]]
    assert [row[-1] for row in comparisons] == ["verdict", "first higher", "inconclusive", "second higher"]
    assert [row[5] for row in comparisons] == ["p", "<0.001", "0.040", "0.200"]
    assert text.count(lib.CAVEAT) == 1 and "90 %" in text
    sections = ["Question", "Results", "Comparisons", "Limitations", "Cost"]
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings == ["# Rank 8 | rank 16", *map("## {}".format, sections)]
    plain = lib.render_report({**REPORT, "comparisons": []})
    assert len(cells(plain)) == 1 and lib.CAVEAT not in plain


@everywhere
@pytest.mark.parametrize("change", [{"results": []}, {"limitations": []}, {"limitations": [" "]}, {"title": ""}, {"cost": "\n"}])
def test_incomplete_reports_are_refused(lib: ModuleType, change: dict) -> None:
    with pytest.raises(ValueError):
        lib.render_report({**REPORT, **change})


# --- 12.4 ---

FACTS: dict[str, Any] = {
    "name": "tiny-lora",
    "license": "no",
    "base_model": "example/base: 1",
    "library_name": "peft",
    "tags": ["lora", "on", "lora"],
    "metrics": {"f1": 0.5, "p(y|x)": 0.25},
    "limitations": "Toy data.",
    "language": ["zh"],
}


@everywhere
def test_the_hub_reads_the_card(lib: ModuleType) -> None:
    text = lib.model_card(FACTS)
    card = ModelCard(text, ignore_metadata_errors=False)
    expected = {"license": "no", "base_model": "example/base: 1", "library_name": "peft", "language": ["zh"]}
    expected |= {"tags": ["lora", "on"], "metrics": ["f1", "p(y|x)"]}
    assert yaml.safe_load(text.split("---\n")[1]) == expected
    assert card.data.to_dict() == expected
    (table,) = cells(card.text)
    assert table == [["metric", "value"], ["f1", "0.500"], ["p(y|x)", "0.250"]]
    assert text.count(lib.MISSING) == 2


@derandomized
@given(st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=("C", "Z")), min_size=1, max_size=12))
def test_json_in_the_front_matter_is_yaml(text: str) -> None:
    for lib in SOLUTIONS.values():
        front = lib.model_card({**FACTS, "base_model": text}).split("\n---\n")[0].removeprefix("---\n")
        line = next(line for line in front.splitlines() if line.startswith("base_model"))
        assert json.loads(line.partition(":")[2]) == text
    assert yaml.safe_load(json.dumps({"base_model": text}, ensure_ascii=True).strip("{}"))["base_model"] == text


@everywhere
def test_facts_are_not_invented(lib: ModuleType) -> None:
    for key in ("name", "license", "base_model", "library_name", "tags", "metrics", "limitations"):
        for facts in ({k: v for k, v in FACTS.items() if k != key}, {**FACTS, key: None}, {**FACTS, key: type(FACTS[key])()}):
            with pytest.raises(ValueError):
                lib.model_card(facts)
    for change in ({"licence": "mit"}, {"metrics": {"f1": math.inf}}):
        with pytest.raises(ValueError):
            lib.model_card({**FACTS, **change})


# --- 12.5 ---


@everywhere
def test_holm_by_hand(lib: ModuleType) -> None:
    assert np.allclose(lib.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert lib.holm([]) == [] and lib.holm([0.7, 0.8]) == [1.0, 1.0]
    for bad in ([1.5], [-0.1], [math.nan]):
        with pytest.raises(ValueError):
            lib.holm(bad)


@derandomized
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_rejects_step_by_step(p_values: list[float]) -> None:
    """Adjusted values of at most alpha are those of the step-down procedure, and all answers agree."""
    adjusted = REF.holm(p_values)
    for lib in SOLUTIONS.values():
        assert np.allclose(lib.holm(p_values), adjusted, rtol=1e-12)
    for alpha in (0.05, 0.3):
        order = sorted(range(len(p_values)), key=p_values.__getitem__)
        rejected = set(
            itertools.takewhile(lambda i: (len(p_values) - order.index(i)) * p_values[i] <= alpha, order)  # noqa: B023
        )
        assert rejected == {i for i, value in enumerate(adjusted) if value <= alpha}
