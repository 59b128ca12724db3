"""Plain Python, one thing after the other."""

import copy
import itertools
import json
import math
import random
import statistics

import numpy as np
import torch

CAVEAT = "Inconclusive does not mean equal."
MISSING = "[More Information Needed]"


def run_experiment(config):
    for key in ("seeds", "data", "model", "options", "metrics"):
        if key not in config:
            raise ValueError("missing " + key)
    if len(config) != 5:
        raise ValueError("a key too many")
    seeds = config["seeds"]
    if len(seeds) == 0:
        raise ValueError("no seeds")
    for i in range(len(seeds)):
        if seeds[i] in seeds[:i]:
            raise ValueError("a seed twice")
    if len(config["metrics"]) == 0:
        raise ValueError("no metrics")
    python_state = random.getstate()
    numpy_state = np.random.get_state()
    torch_state = torch.random.get_rng_state()
    try:
        runs = []
        for seed in seeds:
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            options = copy.deepcopy(config["options"])
            data = config["data"]()
            model = config["model"](data, **options)
            found = {}
            for name in config["metrics"]:
                value = config["metrics"][name](model, data)
                value = float(value)
                if value != value or value in (math.inf, -math.inf):
                    raise ValueError(name + " is not finite")
                found[name] = value
            runs.append({"seed": seed, "metrics": found})
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.random.set_rng_state(torch_state)
    summary = {}
    for name in config["metrics"]:
        column = []
        for run in runs:
            column.append(run["metrics"][name])
        spread = None
        if len(column) > 1:
            spread = statistics.stdev(column)
        summary[name] = {"n": len(column), "mean": statistics.fmean(column), "std": spread}
    return {"runs": runs, "summary": summary, "options": copy.deepcopy(config["options"])}


def paired_test(a, b, signs=None):
    if a.ndim != 1 or b.ndim != 1:
        raise ValueError("not vectors")
    if len(a) != len(b) or len(a) == 0:
        raise ValueError("no pairs")
    d = []
    for x, y in zip(a.tolist(), b.tolist(), strict=True):
        if not (math.isfinite(x) and math.isfinite(y)):
            raise ValueError("not finite")
        d.append(x - y)
    n = len(d)
    seen = abs(math.fsum(d))
    slack = 1e-9 * math.fsum(abs(x) for x in d)
    if signs is None:
        if n > 16:
            raise ValueError("too many")
        vectors = itertools.product((1, -1), repeat=n)
    else:
        if signs.ndim != 2 or signs.shape[1] != n:
            raise ValueError("other signs")
        vectors = signs.tolist()
    count = 0
    total = 0
    for vector in vectors:
        total += 1
        s = abs(sum(sign * x for sign, x in zip(vector, d, strict=True)))
        if s >= seen - slack:
            count += 1
    if signs is not None:
        count += 1
        total += 1
    return {"p": count / total, "n": n, "difference": math.fsum(d) / n}


def bootstrap_ci(values, indices, level=0.95):
    if len(values) < 1:
        raise ValueError("no values")
    if level <= 0 or level >= 1:
        raise ValueError("bad level")
    if len(indices.shape) != 2 or indices.shape[1] != len(values):
        raise ValueError("bad indices")
    means = []
    for row in indices.tolist():
        total = 0.0
        for i in row:
            total += float(values[i])
        means.append(total / len(row))
    means.sort()
    ends = []
    for q in ((1 - level) / 2, (1 + level) / 2):
        place = q * (len(means) - 1)
        below = int(place)
        above = min(below + 1, len(means) - 1)
        ends.append(means[below] + (place - below) * (means[above] - means[below]))
    return ends[0], ends[1]


def render_report(report):
    if len(report["results"]) == 0:
        raise ValueError("no results")
    if len(report["limitations"]) == 0:
        raise ValueError("no limitations")
    for key in ("title", "question", "cost"):
        if report[key].strip() == "":
            raise ValueError("no " + key)
    out = "# " + " ".join(report["title"].split()) + "\n"
    out += "\n## Question\n\n" + " ".join(report["question"].split()) + "\n"
    out += "\n## Results\n\nConfidence level: " + format(100 * report["level"], "g") + " %\n\n"
    out += "|system|metric|mean|interval|n|\n|:--|:--|--:|:-:|--:|\n"
    for row in report["results"]:
        if row["low"] is None and row["high"] is None:
            interval = "unknown"
        elif row["low"] is None or row["high"] is None:
            raise ValueError("half an interval")
        else:
            interval = "[" + format(row["low"], ".3f") + ", " + format(row["high"], ".3f") + "]"
        system = " ".join(row["system"].split()).replace("|", "\\|")
        metric = " ".join(row["metric"].split()).replace("|", "\\|")
        out += "|" + system + "|" + metric + "|" + format(row["mean"], ".3f") + "|" + interval + "|" + str(row["n"]) + "|\n"
    out += "\n## Comparisons\n\n"
    caveat = False
    if len(report["comparisons"]) > 0:
        out += "|first|second|metric|difference|interval|p|n|verdict|\n|-|-|-|-|-|-|-|-|\n"
    for row in report["comparisons"]:
        if row["low"] is None and row["high"] is None:
            interval = "unknown"
            verdict = "inconclusive"
        elif row["low"] is None or row["high"] is None:
            raise ValueError("half an interval")
        else:
            interval = "[" + format(row["low"], ".3f") + ", " + format(row["high"], ".3f") + "]"
            verdict = "inconclusive"
            if row["low"] > 0:
                verdict = "first higher"
            if row["high"] < 0:
                verdict = "second higher"
        if verdict == "inconclusive":
            caveat = True
        p = format(row["p"], ".3f")
        if row["p"] < 0.001:
            p = "<0.001"
        for key in ("first", "second", "metric"):
            out += "|" + " ".join(row[key].split()).replace("|", "\\|")
        out += "|" + format(row["difference"], ".3f") + "|" + interval + "|" + p + "|" + str(row["n"]) + "|" + verdict + "|\n"
    if caveat:
        out += "\n" + CAVEAT + "\n"
    out += "\n## Limitations\n\n"
    for limitation in report["limitations"]:
        if limitation.strip() == "":
            raise ValueError("an empty limitation")
        out += "- " + " ".join(limitation.split()) + "\n"
    out += "\n## Cost\n\n" + " ".join(report["cost"].split()) + "\n"
    return out


def model_card(facts):
    allowed = ["name", "license", "base_model", "library_name", "limitations", "tags", "metrics"]
    for key in allowed:
        if facts.get(key) is None or len(facts[key]) == 0:
            raise ValueError("missing " + key)
        if isinstance(facts[key], str) and facts[key].strip() == "":
            raise ValueError("empty " + key)
    for key in facts:
        if key not in allowed + ["datasets", "language", "intended_use", "training_data"]:
            raise ValueError("unknown " + key)
    for value in facts["metrics"].values():
        if not math.isfinite(value):
            raise ValueError("not finite")
    out = "---\n"
    tags = []
    for tag in facts["tags"]:
        if tag not in tags:
            tags.append(tag)
    out += "tags: " + json.dumps(tags) + "\n"
    out += "license: " + json.dumps(facts["license"]) + "\n"
    out += "library_name: " + json.dumps(facts["library_name"]) + "\n"
    out += "base_model: " + json.dumps(facts["base_model"]) + "\n"
    for key in ("language", "datasets"):
        if facts.get(key):
            out += key + ": " + json.dumps(facts[key], ensure_ascii=False) + "\n"
    out += "metrics: " + json.dumps(list(facts["metrics"].keys())) + "\n"
    out += "---\n# " + facts["name"] + "\n## Intended use\n"
    use = (facts.get("intended_use") or "").strip()
    if use == "":
        use = MISSING
    out += use + "\n## Training data\n"
    training = (facts.get("training_data") or "").strip()
    if training == "":
        training = MISSING
    out += training + "\n## Evaluation\n\n|metric|value|\n|-|-|\n"
    for name, value in facts["metrics"].items():
        out += "|" + name.replace("|", "\\|") + "|" + format(value, ".3f") + "|\n"
    out += "\n## Limitations\n" + facts["limitations"].strip()
    return out


def holm(p_values):
    m = len(p_values)
    for p in p_values:
        if not (p >= 0 and p <= 1):
            raise ValueError("no probability")
    result = []
    for p in p_values:
        best = 0.0
        for q in p_values:
            if q <= p:
                smaller = sum(1 for other in p_values if other < q)
                best = max(best, min(1.0, (m - smaller) * q))
        result.append(best)
    return result
