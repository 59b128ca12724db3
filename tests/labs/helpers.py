"""What tests of the labs share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from course.labs import adapters
from tests.conftest import ROOT


def stops_without_a_hub(imports: str, calls: str, home: Path) -> list[str]:
    """What each call says in the full profile, on the CPU, without a hub: a line "NAME names-its-variable text".

    Args:
        imports: names to import from `course.labs`.
        calls: Python for a list of pairs: NAME, whose variable is LAB_NAME, and the call.
        home: an empty folder for the hub's cache.
    """
    code = f"""
from course.labs import LabStop, {imports}
for name, call in {calls}:
    try:
        call()
    except LabStop as stop:
        print(name, f"LAB_{{name}}" in str(stop), stop)
"""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("LAB_", "HF_"))}
    offline = {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(home),
        "LAB_PROFILE": "full",
        "LAB_DEVICE": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run([sys.executable, "-c", code], env=clean | offline, capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()


def blended(adapted: Any) -> dict[str, dict[str, Any]]:
    """The factors of a peft model's layers as week 9's `StyleBlender` takes them, in the dtype of the model's weights."""
    weights = dict(adapted.get_base_model().named_modules())
    found: dict[str, dict[str, Any]] = {}
    for name, factors in adapters.factors(adapted, dict).items():
        layer = name.removesuffix(".weight")
        dtype = weights[layer].weight.dtype
        found[layer] = {**factors, "lora_A": factors["lora_A"].to(dtype), "lora_B": factors["lora_B"].to(dtype)}
    return found
