"""Builders and probes by name.

General ones stand in builders.py and probes.py under their own names; those of one week stand in weekNN.py beside them and
are called `weekNN.name`. A module is imported when the first of its names is asked for, so a NumPy week needs no torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

Function = Callable[..., Any]
BUILDERS: dict[str, Function] = {}
PROBES: dict[str, Function] = {}


def builder(function: Function) -> Function:
    """Register what makes an object that a check asks for; the object stays in the worker."""
    BUILDERS[_name(function)] = function
    return function


def probe(function: Function) -> Function:
    """Register a small function of ours that works on a student's objects and returns data."""
    PROBES[_name(function)] = function
    return function


def find_builder(name: str) -> Function:
    return _find(BUILDERS, name, "builders")


def find_probe(name: str) -> Function:
    return _find(PROBES, name, "probes")


def _name(function: Function) -> str:
    module = function.__module__.rpartition(".")[2]
    return f"{module}.{function.__name__}" if module.startswith("week") else function.__name__


def _find(known: dict[str, Function], name: str, general: str) -> Function:
    if name not in known:
        importlib.import_module(f"autograder.inside.{name.rpartition('.')[0] or general}")
    return known[name]
