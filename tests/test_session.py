"""Handles are not values, observations are typed, and a student at home needs nothing that only Linux has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from autograder.inside.worker import Worker
from autograder.judge.check import close, demand, equal
from autograder.judge.session import CheckFailed, Loopback, Session, StudentError, at, show, tensor
from tests.conftest import ROOT

CODE = """
import enum, numpy as np, torch
from helper import answer

class Always:
    def __eq__(self, other): return True
    def __bool__(self): return True
    def __float__(self): return 1.0
    def __len__(self): return 3

class Level(enum.IntEnum):
    low = 1

whole, real, text, yes, names = 3, 2.5, "abc", True, ["a", "b"]
level, always, nothing = Level.low, Always(), None
nan, inf = float("nan"), torch.tensor([1.0, float("inf")])
tensor = torch.arange(6.0).reshape(2, 3)
half = torch.ones(2, dtype=torch.bfloat16)
parameter = torch.nn.Parameter(torch.ones(2))
array = np.eye(2)
scalar = torch.tensor(1.5)
noise = lambda: torch.rand(3)
def fail(): raise KeyError("no such")
def later(): raise NotImplementedError("Week 4, task 2: later")
def wide(): return torch.linalg.svd(half[None])
def leave(): raise SystemExit(3)
def add(a, b=1): return a + b
class Box:
    value = 1
box = Box()
"""


@pytest.fixture
def session(tmp_path: Path) -> Session:
    (tmp_path / "stub.py").write_text(CODE)
    (tmp_path / "helper.py").write_text("answer = 42\n")
    session = Session(Loopback(Worker(tmp_path / "stub.py")))
    session.reset(1)
    session.load()
    session.reset(1)
    return session


@pytest.mark.parametrize(
    "use",
    [
        bool, len, iter, float, int, list, lambda h: h == 1, lambda h: h != 1, lambda h: h < 1,
        lambda h: 1 in h, hash, np.asarray, lambda h: h + 1, lambda h: h @ h, lambda h: h * 2, lambda h: 1.0 + h,
    ],
)  # fmt: skip
def test_a_handle_is_not_a_value(session: Session, use) -> None:
    with pytest.raises(TypeError):
        use(session.whole)


def test_typed_observations(session: Session) -> None:
    assert session.number(session.whole) == 3.0
    assert session.number(session.real) == 2.5
    assert session.number(session.scalar) == 1.5
    assert session.number(session.level) == 1.0
    assert session.flag(session.yes) is True
    assert session.names(session.module.names) == ["a", "b"]
    assert session.number(session.answer) == 42
    np.testing.assert_array_equal(session.read(session.tensor, (2, 3), "float32"), np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(session.read(session.half, (2,), "bfloat16"), [1, 1])
    np.testing.assert_array_equal(session.read(session.parameter, (2,), "float32"), [1, 1])
    np.testing.assert_array_equal(session.read(session.module.array, (2, 2)), np.eye(2))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda s: s.number(s.yes), "yes is True\n  expected: a number"),
        (lambda s: s.number(s.text), "text is 'abc'\n  expected: a number"),
        (lambda s: s.number(s.always), "always is of type Always\n  expected: a number"),
        (lambda s: s.number(s.nan), "nan is nan\n  expected: a finite number"),
        (lambda s: s.flag(s.whole), "whole is 3\n  expected: True or False"),
        (lambda s: s.flag(s.always), "always is of type Always\n  expected: True or False"),
        (lambda s: s.names(s.text), "text is 'abc'\n  expected: a list of str"),
        (lambda s: s.read(s.nothing, (1,)), "nothing is None\n  expected: a tensor"),
        (lambda s: s.read(s.always, (1,)), "always is of type Always\n  expected: a tensor"),
        (lambda s: s.read(s.tensor, (3, 2), "float32"), "tensor has shape (2, 3)\n  expected: (3, 2)"),
        (lambda s: s.read(s.tensor, (2, 3), "float64"), "tensor has dtype float32\n  expected: float64"),
        (lambda s: s.read(s.inf, (2,), "float32"), "inf holds values that are not finite"),
        (lambda s: s.write(s.tensor, np.ones(4)) or s.flush(), "tensor raised TypeError: has shape (2, 3)"),
        (lambda s: s.number(s.box.missing), "AttributeError: 'Box' object has no attribute 'missing'"),
    ],
)  # fmt: skip
def test_a_wrong_observation_says_so(session: Session, act, message: str) -> None:
    with pytest.raises(CheckFailed) as caught:
        act(session)
    assert message in str(caught.value)
    assert caught.value.kind in ("wrong", "error")


def test_errors_surface_with_the_words_of_the_call(session: Session) -> None:
    session.fail()
    with pytest.raises(StudentError) as caught:
        session.number(session.whole)
    assert str(caught.value).startswith("fail() raised KeyError: 'no such' (stub.py:")
    with pytest.raises(StudentError, match=r"leave\(\) raised SystemExit"):
        session.leave(), session.flush()
    with pytest.raises(StudentError) as caught:
        session.later(), session.flush()
    assert caught.value.kind == "unattempted"
    assert str(caught.value) == "Week 4, task 2: later"
    with pytest.raises(StudentError, match="NotImplementedError") as caught:  # torch's own: it has no SVD in half precision
        session.wide(), session.flush()
    assert caught.value.kind == "error"


def test_raises(session: Session) -> None:
    session.raises("KeyError", act=session.fail)
    session.raises("LookupError", act=session.fail)
    with pytest.raises(CheckFailed, match="expected: ValueError"):
        session.raises("ValueError", act=session.fail)
    with pytest.raises(CheckFailed, match="raised nothing"):
        session.raises("ValueError", act=lambda: session.add(1))
    assert session.implemented(session.fail)
    assert not session.implemented(session.later)


def test_a_reset_forgets_and_reseeds(session: Session) -> None:
    first = session.read(session.noise(), (3,), "float32")
    session.reset(1)
    np.testing.assert_array_equal(session.read(session.noise(), (3,), "float32"), first)
    session.reset(2)
    assert not np.array_equal(session.read(session.noise(), (3,), "float32"), first)
    session.supply("whole", session.build("dtype", name="float32"))
    with pytest.raises(CheckFailed):
        session.number(session.whole)
    session.reset(1)
    assert session.number(session.whole) == 3


def test_kept_handles_and_writes(session: Session) -> None:
    kept = session.keep(session.parameter)
    session.write(session.parameter, np.array([5.0, 6.0]), "float32")
    np.testing.assert_array_equal(session.read(kept, (2,), "float32"), [5, 6])
    session.box.value = 7
    assert session.number(session.box.value) == 7


def test_traces_hold_what_was_seen(session: Session) -> None:
    session.number(session.whole)
    session.read(session.module.array, (2, 2), free=True)
    session.read(session.parameter, (2,), "float32", free=True)
    session.note("free")
    with session.aside():
        session.number(session.real)
    with pytest.raises(CheckFailed):
        session.fail(), session.flush()
    assert session.trace == [3, [[2, 2], "float64"], [[2], "float32"], "free", "KeyError"]


def test_comparisons() -> None:
    close(np.array([1.0, 2.0]), np.array([1.0, 2.0 + 1e-10]), "y")
    with pytest.raises(
        CheckFailed, match=r"y is wrong\n  expected: \[1\., 2\.\]\n  got:      \[1\., 3\.\]\n  1 of 2 values differ, most at \[1\]: 3, not 2"
    ):
        close(np.array([1.0, 3.0]), np.array([1.0, 2.0]), "y")
    with pytest.raises(CheckFailed):
        close(np.array(0.0), np.array(1e-12), "y", rtol=0)
    with pytest.raises(CheckFailed):
        equal(True, 1, "flag")
    with pytest.raises(CheckFailed, match="why"):
        demand(False, "why")
    with pytest.raises(CheckFailed, match=r"With rung 1:\nwhy"), at("rung 1"):
        demand(False, "why")
    for large in (np.arange(10_000), "x" * 1000, ["name"] * 5000, {str(i): i for i in range(5000)}):
        assert len(show(large)) < 400 and "..." in show(large)
    assert tensor(np.ones(2), "bfloat16").data.dtype == np.float32


def test_home_needs_nothing_of_linux(tmp_path: Path) -> None:
    """`autograder check` runs where `resource`, `fcntl` and `os.fork` do not exist."""
    program = """
import os, sys
for name in ("resource", "fcntl", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("fork", "pidfd_open", "wait4", "memfd_create"):
    if hasattr(os, name): delattr(os, name)
from autograder.cli import main
sys.exit(main(["check", "4.2", "--file", sys.argv[1]]))
"""
    result = subprocess.run(
        [sys.executable, "-c", program, str(ROOT / "solutions/week04/lora_linear.py")],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "15 of 15 points" in result.stdout
