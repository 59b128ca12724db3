"""Runs every system of a configuration on every seed and writes results/metrics.json: `python src/run.py configs/main.toml`."""

from __future__ import annotations

import json
import random
import statistics
import sys
import tomllib
from pathlib import Path
from typing import Any


def score(seed: int, rank: int, rate: float) -> dict[str, float]:
    """Train one system with one seed and measure it on the test data; a number for each metric, by its name."""
    random.seed(seed)  # and numpy.random.seed(seed), torch.manual_seed(seed): before the first draw
    raise NotImplementedError("{{fill in: your experiment; week 12's run_experiment does it too / 你的实验}}")


def summary(values: list[float]) -> dict[str, Any]:
    """How many, their mean, and their standard deviation with n - 1, which one value has not."""
    return {"n": len(values), "mean": statistics.fmean(values), "std": statistics.stdev(values) if values[1:] else None}


def main(config: Path) -> None:
    """Write the metrics of a configuration beside it, in results/."""
    settings = tomllib.loads(config.read_text(encoding="utf-8"))
    found = {}
    for name, options in settings["system"].items():
        runs = [{"seed": seed, "metrics": score(seed, **options)} for seed in settings["seeds"]]
        metrics = {metric: summary([run["metrics"][metric] for run in runs]) for metric in runs[0]["metrics"]}
        found[name] = {"options": options, "runs": runs, "summary": metrics}
    text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False)
    (Path(__file__).parents[1] / "results" / "metrics.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
