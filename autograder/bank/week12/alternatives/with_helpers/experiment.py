"""Small helpers and dataclasses, some of them in a module of their own."""

import json
from copy import deepcopy
from dataclasses import asdict, dataclass

import numpy as np
import parts
import torch

CAVEAT = "Inconclusive does not mean equal."
MISSING = "[More Information Needed]"


@dataclass
class Summary:
    n: int
    mean: float
    std: float | None

    @classmethod
    def of(cls, values):
        mean = sum(values) / len(values)
        if len(values) < 2:
            return cls(len(values), mean, None)
        squares = sum((value - mean) ** 2 for value in values)
        return cls(len(values), mean, (squares / (len(values) - 1)) ** 0.5)


class Experiment:
    KEYS = frozenset(("seeds", "data", "model", "options", "metrics"))

    def __init__(self, config):
        if config.keys() ^ self.KEYS:
            raise ValueError("the keys are not those of a configuration")
        self.config = config
        counts = len(config["seeds"]), len(set(config["seeds"])), len(config["metrics"])
        if not all(counts) or counts[0] != counts[1]:
            raise ValueError("seeds or metrics")

    def once(self, seed):
        with parts.seeded(seed):
            data = self.config["data"]()
            model = self.config["model"](data, **deepcopy(self.config["options"]))
            values = {key: self.measure(key, model, data) for key in self.config["metrics"]}
        return {"seed": seed, "metrics": values}

    def measure(self, key, model, data):
        value = float(self.config["metrics"][key](model, data))
        if not np.isfinite(value):
            raise ValueError(key)
        return value

    def run(self):
        runs = [self.once(seed) for seed in self.config["seeds"]]
        columns = {key: [run["metrics"][key] for run in runs] for key in self.config["metrics"]}
        summary = {key: asdict(Summary.of(column)) for key, column in columns.items()}
        return dict(options=deepcopy(self.config["options"]), runs=runs, summary=summary)


def run_experiment(config):
    return Experiment(config).run()


def paired_test(a, b, signs=None):
    valid = a.shape == b.shape and a.ndim == 1 and a.size > 0
    if not valid or not np.isfinite(np.concatenate((a, b))).all():
        raise ValueError("scores")
    d = torch.from_numpy(a - b)
    exact = signs is None
    if exact:
        if d.numel() > 16:
            raise ValueError("too many items")
        bits = torch.arange(2 ** d.numel())[:, None] >> torch.arange(d.numel())
        flips = 1.0 - 2.0 * (bits % 2)
    else:
        flips = torch.from_numpy(signs)
        if flips.dim() != 2 or flips.size(1) != d.numel():
            raise ValueError("signs")
    sums = (flips.double() * d).sum(dim=1).abs()
    as_extreme = sums + 1e-9 * d.abs().sum() >= d.sum().abs()
    if exact:
        p = as_extreme.double().mean().item()
    else:
        p = as_extreme.sum().add(1).item() / (flips.size(0) + 1)
    return {"n": d.numel(), "difference": d.mean().item(), "p": p}


def bootstrap_ci(values, indices, level=0.95):
    if not (0 < level < 1 and values.size and indices.ndim == 2 and indices.shape[-1] == values.size):
        raise ValueError("values, indices or level")
    means = torch.from_numpy(np.take(values, indices)).mean(dim=1)
    tail = (1 - level) / 2
    low, high = (torch.quantile(means, q).item() for q in (tail, 1 - tail))
    return low, high


@dataclass
class Interval:
    low: float | None
    high: float | None

    def __post_init__(self):
        if [self.low, self.high].count(None) == 1:
            raise ValueError("half an interval")

    @property
    def known(self):
        return self.low is not None

    def __str__(self):
        return f"[{self.low:.3f}, {self.high:.3f}]" if self.known else "unknown"

    def verdict(self):
        if self.known and self.low > 0:
            return "first higher"
        if self.known and self.high < 0:
            return "second higher"
        return "inconclusive"


def show_p(p):
    return "<0.001" if p < 1e-3 else f"{p:.3f}"


def need(text):
    flat = parts.flat(text)
    if not flat:
        raise ValueError("an empty text")
    return flat


def render_report(report):
    if not (report["results"] and report["limitations"]):
        raise ValueError("results and limitations are needed")
    results = parts.Table("system", "metric", "mean", "interval", "n")
    for row in report["results"]:
        interval = Interval(row["low"], row["high"])
        results.add(parts.escaped(row["system"]), parts.escaped(row["metric"]), f"{row['mean']:.3f}", interval, row["n"])
    comparisons = parts.Table("first", "second", "metric", "difference", "interval", "p", "n", "verdict")
    verdicts = []
    for row in report["comparisons"]:
        interval = Interval(row["low"], row["high"])
        verdicts.append(interval.verdict())
        names = map(parts.escaped, (row["first"], row["second"], row["metric"]))
        comparisons.add(*names, f"{row['difference']:.3f}", interval, show_p(row["p"]), row["n"], verdicts[-1])
    blocks = [
        f"# {need(report['title'])}",
        "## Question",
        need(report["question"]),
        "## Results",
        str(results),
        f"All intervals: {100 * report['level']:g} % confidence.",
        "## Comparisons",
        str(comparisons) if verdicts else "There are none.",
        CAVEAT if "inconclusive" in verdicts else "",
        "## Limitations",
        "\n".join("- " + need(limitation) for limitation in report["limitations"]),
        "## Cost",
        "Spent: " + need(report["cost"]),
    ]
    return "\n\n".join(filter(None, blocks))


def model_card(facts):
    known = {}
    for key, fact in facts.items():
        fact = fact.strip() if isinstance(fact, str) else fact
        if fact is not None and len(fact):
            known[key] = fact
    needed = "name license base_model library_name limitations tags metrics".split()
    optional = "datasets language intended_use training_data".split()
    if any(key not in known for key in needed) or any(key not in needed + optional for key in facts):
        raise ValueError("facts")
    if not np.isfinite(list(known["metrics"].values())).all():
        raise ValueError("metrics")
    head = {key: known[key] for key in ("base_model", "library_name", "license")}
    head["metrics"] = [*known["metrics"]]
    head["tags"] = sorted(set(known["tags"]), key=known["tags"].index)
    head.update((key, known[key]) for key in ("datasets", "language") if key in known)
    table = parts.Table("metric", "value")
    for name, value in known["metrics"].items():
        table.add("\\|".join(name.split("|")), f"{value:.3f}")
    blocks = ["---\n" + "\n".join(f"{key}:  {json.dumps(head[key])}" for key in sorted(head)) + "\n---"]
    blocks += ["# " + known["name"], "## Intended use", known.get("intended_use", MISSING)]
    blocks += ["## Training data", known.get("training_data", MISSING), "## Evaluation", str(table)]
    blocks += ["## Limitations", known["limitations"], "Report others to the authors."]
    return "\n\n".join(blocks)


def holm(p_values):
    p = np.array(p_values, dtype=float)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("no probability")
    order = p.argsort()
    steps = np.minimum(1.0, p[order] * np.arange(len(p), 0, -1))
    result = np.empty_like(p)
    result[order] = np.maximum.accumulate(steps)
    return result.tolist()
