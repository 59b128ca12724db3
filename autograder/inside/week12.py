"""Builders and probes of week 12: configurations whose parts draw random numbers and keep a log."""

from __future__ import annotations

import contextlib
import copy
import random
from typing import Any

import numpy as np
import torch

from autograder.inside.registry import builder, probe


class Boom(Exception):
    """What a part raises that was built to fail."""


class Halt(BaseException):
    """What a part raises that is interrupted, as by Ctrl-C: no Exception."""


def _draw(kind: str) -> float:
    if kind == "python":
        return random.gauss(0.0, 1.0)
    if kind == "numpy":
        return float(np.random.standard_normal())
    if kind == "torch":
        return float(torch.randn((), dtype=torch.float64))
    return _draw("python") + 2 * _draw("numpy") + 4 * _draw("torch")


class Parts:
    """Data, a model and metrics that draw from the generators of a kind, and log that they were called."""

    def __init__(self, kind: str, fails: str) -> None:
        self.kind, self.fails = kind, fails
        self.log: list[Any] = []

    def tell(self, part: str, what: Any) -> None:
        self.log.append([part, what])
        if part == self.fails.removesuffix("!"):
            raise (Halt if self.fails.endswith("!") else Boom)(part)

    def data(self) -> dict[str, Any]:
        self.tell("data", None)
        return {"x": _draw(self.kind)}

    def model(self, data: dict[str, Any], /, **options: Any) -> dict[str, Any]:
        self.tell("model", copy.deepcopy(options))
        layers = options.get("layers", [])
        model = {"data": data, "w": data["x"] + options.get("lr", 0.5) * _draw(self.kind) + len(layers)}
        layers.append("seen")
        return model

    def loss(self, model: dict[str, Any], data: dict[str, Any], /) -> float:
        self.tell("loss", model["data"] is data)
        return float(model["w"] + 0.5 * _draw(self.kind))

    def perplexity(self, model: dict[str, Any], data: dict[str, Any], /) -> float:
        """Far from zero, as it is seen from its spread."""
        self.tell("perplexity", model["data"] is data)
        return float(1e6 + model["w"])

    def accuracy(self, model: dict[str, Any], data: dict[str, Any], /) -> torch.Tensor:
        self.tell("accuracy", model["data"] is data)
        return torch.tensor([data["x"] - _draw(self.kind)], dtype=torch.float64)

    def steps(self, model: dict[str, Any], data: dict[str, Any], /) -> int:
        self.tell("steps", model["data"] is data)
        return 7


@builder
def config(seeds: list[int], metrics: list[str], kind: str = "all", fails: str = "", **changes: Any) -> dict[str, Any]:
    """A configuration of such parts; `changes` are put over it, and what is "left out" is taken away."""
    parts = Parts(kind, fails)
    whole = {
        "seeds": seeds,
        "data": parts.data,
        "model": parts.model,
        "options": {"lr": 0.1, "layers": ["q", "v"]},
        "metrics": {name: getattr(parts, name) for name in metrics},
    } | changes
    return {key: value for key, value in whole.items() if value != "left out"}


@builder
def held_metric(value: str) -> dict[str, Any]:
    """A configuration whose second metric is this number."""
    whole: dict[str, Any] = config(seeds=[1], metrics=["steps"])
    return whole | {"metrics": whole["metrics"] | {"broken": lambda model, data: float(value)}}


@probe
def given(value: Any) -> Any:
    """Whatever a call returned."""
    return value


@probe
def log(config: dict[str, Any]) -> list[Any]:
    """The calls of a configuration's parts so far."""
    calls: list[Any] = next(part for part in config.values() if callable(part)).__self__.log
    return calls


@probe
def plain(config: dict[str, Any]) -> dict[str, Any]:
    """What a configuration holds besides its parts."""
    return {"seeds": config["seeds"], "options": config["options"], "keys": sorted(config), "metrics": list(config["metrics"])}


def _states() -> dict[str, Any]:
    legacy: Any = np.random.get_state()
    return {
        "Python's random": random.getstate(),
        "NumPy's": (legacy[1].tolist(), *legacy[2:]),
        "torch's": torch.get_rng_state().tolist(),
    }


@probe
def disturbed(function: Any, config: dict[str, Any]) -> list[str]:
    """The generators that a call leaves in another state than it found them in."""
    for kind in ("python", "numpy", "torch"):
        _draw(kind)  # two of the three keep a second normal number for later
    before = _states()
    with contextlib.suppress(Boom, Halt):
        function(config)
    after = _states()
    return sorted(name for name, state in before.items() if after[name] != state)


@probe
def lines(text: Any) -> Any:
    """The lines of a text, and anything else as it is."""
    return text.split("\n") if isinstance(text, str) else text
