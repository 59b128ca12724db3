"""NumPy and string templates."""

import copy
import json
import random
import re
from contextlib import ExitStack

import numpy as np
import torch

CAVEAT = "Inconclusive does not mean equal."
MISSING = "[More Information Needed]"


def run_experiment(config):
    if sorted(config) != ["data", "metrics", "model", "options", "seeds"]:
        raise ValueError("the keys")
    seeds, functions = list(config["seeds"]), dict(config["metrics"])
    if not seeds or np.unique(seeds).size != len(seeds) or not functions:
        raise ValueError("the seeds or the metrics")
    table = np.empty((len(seeds), len(functions)))
    with ExitStack() as stack:
        stack.callback(torch.set_rng_state, torch.get_rng_state())
        stack.callback(np.random.set_state, np.random.get_state())
        stack.callback(random.setstate, random.getstate())
        for i, seed in enumerate(seeds):
            for seeder in (random.seed, np.random.seed, torch.manual_seed):
                seeder(seed)
            data = config["data"]()
            model = config["model"](data, **copy.deepcopy(config["options"]))
            for j, function in enumerate(functions.values()):
                table[i, j] = function(model, data)
            if not np.isfinite(table[i]).all():
                raise ValueError("not finite")
    n, names = len(seeds), list(functions)
    means = table.mean(axis=0)
    spreads = np.sqrt(((table - means) ** 2).sum(axis=0) / (n - 1)).tolist() if n > 1 else [None] * len(names)
    return {
        "options": copy.deepcopy(config["options"]),
        "runs": [{"seed": s, "metrics": dict(zip(names, row, strict=True))} for s, row in zip(seeds, table.tolist(), strict=True)],
        "summary": {
            name: {"n": n, "mean": mean, "std": std} for name, mean, std in zip(names, means.tolist(), spreads, strict=True)
        },
    }


def paired_test(a, b, signs=None):
    a, b = np.asarray(a), np.asarray(b)
    if not (a.ndim == b.ndim == 1 and a.size == b.size > 0):
        raise ValueError("the shapes")
    d = np.subtract(a, b)
    if np.isnan(d).any() or np.isinf(d).any():
        raise ValueError("not finite")
    everything = signs is None
    if everything:
        if d.size > 16:
            raise ValueError("too many")
        signs = np.stack(np.meshgrid(*[[1.0, -1.0]] * d.size, indexing="ij")).reshape(d.size, -1).T
    if signs.shape[1:] != d.shape:
        raise ValueError("the signs")
    statistic = np.abs((signs * d).mean(axis=1))
    seen = abs(d.mean())
    count = np.count_nonzero(statistic >= seen - 1e-9 * np.abs(d).mean())
    p = count / len(signs) if everything else (count + 1) / (len(signs) + 1)
    return {"n": d.size, "difference": float(d.sum() / d.size), "p": float(p)}


def bootstrap_ci(values, indices, level=0.95):
    if not values.size or indices.shape[1:] != values.shape or not 0.0 < level < 1.0:
        raise ValueError("values, indices or level")
    counts = (indices[:, :, None] == np.arange(values.size)).sum(axis=1)
    means = counts @ values / values.size
    low, high = np.percentile(means, [50 - 50 * level, 50 + 50 * level])
    return low.item(), high.item()


def squeeze(text):
    return re.sub(r"\s+", " ", text).strip()


def bar(text):
    return re.sub(r"\|", r"\\|", squeeze(text))


def bounds(row):
    ends = [row["low"], row["high"]]
    if ends == [None, None]:
        return None
    if None in ends:
        raise ValueError("half an interval")
    return ends


def between(ends):
    return "unknown" if ends is None else "[%.3f, %.3f]" % tuple(ends)


def judged(ends):
    side = 0 if ends is None else int(np.sign(ends).sum() / 2)
    return {0: "inconclusive", 1: "first higher", -1: "second higher"}[side]


REPORT = """# {title}

## Question
{question}

## Results
| system | metric | mean | interval | n |
| --- | --- | --- | --- | --- |
{results}

(level: {level:g} %)

## Comparisons
{comparisons}

## Limitations
{limitations}

## Cost
{cost}
"""


def render_report(report):
    texts = {key: squeeze(report[key]) for key in ("title", "question", "cost")}
    points = [squeeze(point) for point in report["limitations"]]
    if "" in [*texts.values(), *points] or not points or not report["results"]:
        raise ValueError("incomplete")
    results = []
    for row in report["results"]:
        row = {**row, "system": bar(row["system"]), "metric": bar(row["metric"]), "interval": between(bounds(row))}
        results.append("| {system} | {metric} | {mean:.3f} | {interval} | {n:d} |".format(**row))
    compared = []
    for row in report["comparisons"]:
        ends = bounds(row)
        names = " | ".join(bar(row[key]) for key in ("first", "second", "metric"))
        p = "%.3f" % row["p"] if row["p"] >= 0.001 else "<0.001"
        compared.append(f"| {names} | {row['difference']:.3f} | {between(ends)} | {p} | {row['n']} | {judged(ends)} |")
    if compared:
        caveat = [CAVEAT, ""] if any("| inconclusive |" in line for line in compared) else []
        header = "| first | second | metric | difference | interval | p | n | verdict |"
        compared = [*caveat, header, "|" + 8 * " --- |", *compared]
    return REPORT.format(
        results="\n".join(results),
        level=100 * report["level"],
        comparisons="\n".join(compared),
        limitations="\n".join("- " + point for point in points),
        **texts,
    )


CARD = """---
{front}
---

# {name}

## Intended use

{use}

## Training data

{training}

## Evaluation

Measured by the authors.

| metric | value |
| ------ | ----: |
{rows}

## Limitations

{limitations}
"""

REQUIRED = {"name": str, "license": str, "base_model": str, "library_name": str, "limitations": str, "tags": list, "metrics": dict}
OPTIONAL = {"datasets": list, "language": list, "intended_use": str, "training_data": str}


def blank(fact):
    return not fact or (isinstance(fact, str) and not fact.strip())


def model_card(facts):
    if set(facts) - set(REQUIRED) - set(OPTIONAL):
        raise ValueError("a key that is not known")
    if any(blank(facts.get(key)) for key in REQUIRED):
        raise ValueError("a required fact")
    numbers = np.array(list(facts["metrics"].values()), dtype=float)
    if not np.isfinite(numbers).all():
        raise ValueError("a metric")
    tags = np.array(facts["tags"], dtype=object)
    first = np.unique(tags.astype(str), return_index=True)[1]
    front = {"metrics": list(facts["metrics"]), "tags": tags[np.sort(first)].tolist()}
    for key in ("license", "base_model", "library_name"):
        front[key] = facts[key].strip()
    for key in ("datasets", "language"):
        if not blank(facts.get(key)):
            front[key] = facts[key]
    return CARD.format(
        front="\n".join(key + ": " + json.dumps(value, ensure_ascii=False) for key, value in front.items()),
        name=facts["name"].strip(),
        use=MISSING if blank(facts.get("intended_use")) else facts["intended_use"].strip(),
        training=MISSING if blank(facts.get("training_data")) else facts["training_data"].strip(),
        rows="\n".join("| %s | %.3f |" % (re.sub(r"\|", r"\\|", key), value) for key, value in facts["metrics"].items()),
        limitations=facts["limitations"].strip(),
    )


def holm(p_values):
    p = np.asarray(p_values, dtype=np.float64)
    if np.isnan(p).any() or (p < 0).any() or (p > 1).any():
        raise ValueError("no probability")
    order = np.argsort(p, kind="stable")
    factors = len(p) - np.arange(len(p))
    running = np.maximum.accumulate((factors * p[order]).clip(max=1.0))
    return running[np.argsort(order, kind="stable")].tolist()
