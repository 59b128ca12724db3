"""The experiment that the three example reports tell of: `python -m course.project_examples.measure` writes metrics.json.

LoRA on the query and value projections, LoRA on all linear layers with about as many parameters, and full fine-tuning adapt
digits_vit to slanted digits. Rates are chosen on seeds and pictures that the results do not use. About two minutes of one core.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from course.labs import meters, training, vision

SEEDS, PILOT = range(10), range(100, 103)
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
SYSTEMS = {"LoRA qv r=8": ("qv", 8), "LoRA all-linear r=2": ("all-linear", 2), "full fine-tuning": (None, 0)}
STEPS, BATCH, PICTURES = 60, 32, 200


def tuned(system: str, rate: float, seed: int) -> Any:
    """A model after training on the seed's pictures."""
    targets, rank = SYSTEMS[system]
    net = vision.classifier()
    if targets is not None:
        net = vision.lora(net, rank, 2 * rank, targets, seed=seed)
    images, labels = vision.digits("train", "slanted", seed=seed)
    drawn = vision.batches(images[:PICTURES], labels[:PICTURES], BATCH, seed)
    training.fit(net, drawn, STEPS, rate, name=f"examples/{system}, {seed}", loss=vision.classification_loss, seed=seed)
    return net


def held_out(system: str, rate: float) -> float:
    """Accuracy on training pictures that were not trained on, over the pilot's seeds."""

    def score(seed: int) -> float:
        images, labels = vision.digits("train", "slanted", seed=seed)
        return vision.accuracy(tuned(system, rate, seed), images[PICTURES:], labels[PICTURES:])

    return statistics.mean(map(score, PILOT))


def interval(values: np.ndarray) -> list[float]:
    """The 95 % percentile bootstrap of the mean, from 10,000 resamples."""
    rows = np.random.default_rng(12).integers(len(values), size=(10_000, len(values)))
    return [round(float(q), 3) for q in np.quantile(values[rows].mean(1), [0.025, 0.975])]


def main() -> None:
    tests = {style: vision.digits("test", style) for style in ("slanted", "plain")}
    found: dict[str, Any] = {}
    scores: dict[str, dict[str, np.ndarray]] = {}
    for system in SYSTEMS:
        pilot = {rate: held_out(system, rate) for rate in RATES}
        rate = max(pilot, key=pilot.__getitem__)
        runs = []
        with meters.stopwatch() as watch:
            for seed in SEEDS:
                net = tuned(system, rate, seed)
                runs.append({"seed": seed, "metrics": {style: vision.accuracy(net, *test) for style, test in tests.items()}})
        trainable = sum(p.numel() for p in net.parameters() if p.requires_grad)
        scores[system] = {style: np.array([run["metrics"][style] for run in runs]) for style in tests}
        summary = {
            style: {"n": len(x), "mean": float(x.mean()), "std": float(x.std(ddof=1))} for style, x in scores[system].items()
        }
        options = {"rate": rate, "trainable": trainable, "pilot": {str(r): round(v, 4) for r, v in pilot.items()}}
        found[system] = {"options": options, "runs": runs, "summary": summary}
        print(system, options, f"{watch.seconds:.0f} s", {s: (m, interval(scores[system][s])) for s, m in summary.items()})
    first, *others = SYSTEMS
    for other in others:
        for style in tests:
            d = scores[first][style] - scores[other][style]
            print(f"{first} - {other}, {style}: {d.mean():.3f} {interval(d)}; n = {len(d)}, d = {np.round(d, 3)}")
    Path(__file__).with_name("metrics.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
