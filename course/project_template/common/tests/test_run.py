"""{{fill in: a test for each part that you wrote, which fails when its equation is broken / 为自己编写的每一部分写测试}}"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import run


def test_the_spread_of_one_seed_is_not_known() -> None:
    assert run.summary([0.5]) == {"n": 1, "mean": 0.5, "std": None}
    assert run.summary([0.0, 1.0])["std"] == 0.5**0.5
