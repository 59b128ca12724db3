"""The fuzz targets of tests/fuzz: seeds, what was found once, small changes of both; `scripts/fuzz.py` goes on from there."""

from __future__ import annotations

import importlib
import random
import subprocess
import sys
import tracemalloc

import pytest

from tests.conftest import ROOT
from tests.fuzz import FOUND, TARGETS

MOST = 96 << 20  # bytes for inputs of at most some KiB
ROUNDS = {"folder": 60, "results": 100, "archive": 200}


def inputs(target: str) -> list[bytes]:
    seeds = importlib.import_module(f"tests.fuzz.{target}").SEEDS
    return [*seeds, *(path.read_bytes() for path in sorted((FOUND / target).glob("*")))]


def changed(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """A copy with a few bytes changed, cut out, doubled, or taken from another."""
    made = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, size = rng.randint(0, len(made)), rng.randint(0, 16)
        match rng.randrange(5):
            case 0:
                made[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del made[at : at + size]
            case 2:
                made[at:at] = made[at : at + size] * rng.randint(1, 3)
            case 3:
                start = rng.randint(0, len(other))
                made[at:at] = other[start : start + size]
            case _:
                made[at : at + size] = rng.choice(
                    [b"[[[[", b"{}", b"null", b"-1", b"1e999", b'"', b"\\ud800", b"\xff\xfe", b"\n"]
                )
    return bytes(made)


@pytest.mark.parametrize("target", TARGETS)
def test_only_what_is_declared_happens(target: str) -> None:
    one = importlib.import_module(f"tests.fuzz.{target}").one
    known, rng = inputs(target), random.Random(0)
    tracemalloc.start()
    try:
        for data in known:
            one(data)
        for _ in range(ROUNDS.get(target, 500)):
            one(changed(rng, rng.choice(known), rng.choice(known)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MOST, f"{peak >> 20} MiB"


def test_the_command_teaches_and_names_the_targets() -> None:
    done = subprocess.run([sys.executable, "scripts/fuzz.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(target in done.stdout for target in TARGETS) and "scripts/fuzz.py --seconds 300 wire" in done.stdout
    assert (
        subprocess.run([sys.executable, "scripts/fuzz.py", "nothing"], cwd=ROOT, capture_output=True, check=False).returncode == 2
    )
