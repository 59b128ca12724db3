"""Right code gets its points however it is written: the references keep full marks after harmless rewrites.

A check that fails here asks for more than its contract says, unless the rewrite is not harmless after all.
"""

from __future__ import annotations

import ast
import os
import random
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autograder.inside.worker import Worker
from autograder.judge.runner import CHECKS, Runner, loopback, reference_stub
from autograder.manifest import Week, load
from autograder.proof.rewrites import REWRITES, Variant, applicable, apply, draw
from autograder.syntax import words
from tests.conftest import NIGHTLY

WEEKS = [week for week in load().weeks if list((CHECKS / week.folder).glob("test_*.py"))]
REFERENCES = sorted(path for path in map(reference_stub, load().weeks) if path.exists())
SEEDS = 50


def seeds(week: Week) -> range:
    """All 50 in the nightly run; otherwise four, other ones for each of twelve weeks: two halves of all rewrites, twice."""
    if NIGHTLY:
        return range(SEEDS)
    first = 4 * (week.number % (SEEDS // 4))
    return range(first, first + 4)


# --- the property ---


@pytest.mark.parametrize("week", WEEKS if NIGHTLY else WEEKS[1::2], ids=lambda week: week.folder)
def test_a_rewritten_reference_keeps_full_marks(week: Week, tmp_path: Path) -> None:
    source = reference_stub(week).read_text(encoding="utf-8")
    drawn: set[str] = set()
    for seed in seeds(week):
        variant = draw(week.stub, source, seed)
        drawn |= set(variant.rewrites)
        runner = Runner(week, seed)
        runner.run_in_pytest(
            lambda runner=runner, variant=variant, seed=seed: keeps_all(runner, variant, source, tmp_path / str(seed))
        )
    assert drawn == set(applicable(source))


def keeps_all(runner: Runner, variant: Variant, source: str, folder: Path) -> None:
    lost = losses(runner, variant, folder)
    if not lost:
        return
    alone = {n: losses(runner, apply(runner.week.stub, source, [n], runner.seed), folder / n) for n in variant.rewrites}
    guilty = [name for name, found in alone.items() if found] or "none"
    pytest.fail(
        f"{runner.week.folder}, seed {runner.seed}, rewritten by {', '.join(variant.rewrites)} "
        f"(of these alone lose points: {guilty}) in {folder}:\n" + "\n".join(lost)
    )


def losses(runner: Runner, variant: Variant, folder: Path) -> list[str]:
    folder.mkdir()
    runs = runner.run(loopback(written(variant, runner.week.stub, folder)))
    return [f"{r.task.id}, {o.name}: {o.message}" for r in runs for o in r.outcomes if o.kind != "passed"]


def test_a_check_that_asks_for_more_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The property sees a rewrite that is not harmless, and names it."""

    def wrong_result(tree: Any, rng: random.Random) -> None:
        tree.body += ast.parse("LoRALinear.forward = lambda self, x: 2 * self.base(x)").body

    monkeypatch.setitem(REWRITES, "wrong_result", wrong_result)
    week = next(w for w in WEEKS if w.number == 4)
    source = reference_stub(week).read_text(encoding="utf-8")
    runner = Runner(week, 1, ["4.1"])
    monkeypatch.setattr(runner.diagnoser, "name", lambda *_: {})  # it would run every mutant
    variant = apply(week.stub, source, ["renamed_locals", "wrong_result"], 1)
    with pytest.raises(BaseException, match=r"week04, seed 1, rewritten by renamed_locals, wrong_result .*\['wrong_result'\]"):
        runner.run_in_pytest(lambda: keeps_all(runner, variant, source, tmp_path / "x"))


# --- each rewrite by itself ---


def rewritten(name: str, source: str) -> str:
    return apply("stub.py", textwrap.dedent(source), [name]).files["stub.py"]


def untouched(name: str, source: str) -> bool:
    return not apply("stub.py", textwrap.dedent(source), [name]).rewrites


def names_in(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {"__name__": __name__}
    exec(compile(text, "stub.py", "exec"), found)
    return found


@pytest.mark.parametrize("path", REFERENCES, ids=lambda path: path.stem)
def test_references_still_load_after_all_rewrites(path: Path, tmp_path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    variant = apply(path.name, source, REWRITES)
    assert set(applicable(source)) <= set(variant.rewrites)  # one may make room for another
    public = {name for name in vars(imported(path)) if not name.startswith("_")}
    assert public <= set(vars(imported(written(variant, path.name, tmp_path))))


def written(variant: Variant, stub: str, folder: Path) -> Path:
    for name, text in variant.files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder / stub


def imported(path: Path) -> Any:
    """The module, imported as a worker imports it."""
    worker = Worker(path)
    worker.op_import()
    return worker.module


def test_two_seeds_share_the_rewrites_out() -> None:
    source = reference_stub(load().week(4)).read_text(encoding="utf-8")
    for k in range(2):
        first, second = (set(draw("stub.py", source, seed).rewrites) for seed in (2 * k, 2 * k + 1))
        assert first | second == set(applicable(source)) and not first & second
    assert draw("stub.py", source, 3) == draw("stub.py", source, 3)


def test_every_rewrite_says_what_it_does() -> None:
    assert all((function.__doc__ or "").strip() for function in REWRITES.values())


def test_renamed_locals() -> None:
    source = """
        total = 100
        def f(rows, width=2):
            global total
            total = 7
            found = []
            for index, row in enumerate(rows):
                def inside(row, width=width):
                    size = row + index
                    return size * width
                found += [inside(max) for max in [row]]
            with open(__file__ if False else "/dev/null") as handle:
                handle.read()
            return found, max(found), total
        def g(a):
            local = a
            return locals()["local"]
        def h(a):
            field = a
            class Inner:
                field = 1
            return field + Inner.field
    """
    text = rewritten("renamed_locals", source)
    assert not {"found", "index", "size", "handle"} & words(text)
    assert {"rows", "row", "width", "total", "max", "inside", "local", "field"} <= words(text)
    before, after = names_in(textwrap.dedent(source)), names_in(text)
    assert before["f"]([3, 4], width=5) == after["f"](rows=[3, 4], width=5)
    assert (after["g"](3), after["h"](3), after["total"]) == (3, 4, 7)


def test_renamed_privates() -> None:
    source = '''
        from torch import nn
        _limit, _shown = 3, 4
        def _helper(x):
            return x + _limit
        def _named(x):
            """`_shown` is part of the contract."""
            return getattr(x, "_by_string")
        class Layer(nn.Module):
            """A layer.

            Attributes:
                size: kept.
            """
            def __init__(self, size):
                super().__init__()
                self.size, self.width, self.training = size, 2, True
                self._hidden = self._twice(size)
                self._by_string = self.asked = 9
                self.inner = nn.Linear(2, 2)
            def _twice(self, x):
                return _helper(x) * 2
            def forward(self, x):
                return self.inner(x) * self._hidden * self.width
        class Public:
            def __init__(self):
                self.free, self._own = 1, 2
        class Error(ValueError):
            def __init__(self):
                self._kept = 1
        def ask(layer):
            return layer.asked
    '''
    text = rewritten("renamed_privates", source)
    gone = {"_limit", "_helper", "_named", "_hidden", "_twice", "_own", "width", "inner"}
    assert not gone & words(text)
    assert {"_shown", "_by_string", "asked", "size", "training", "free", "_kept"} <= words(text)
    found = names_in(text)
    assert found["Layer"](4).size == 4 and len(found["Layer"](4).state_dict()) == 2
    assert found["ask"](found["Layer"](4)) == 9


START = '''
    import torch
    from torch import nn
    def start(n, generator=None):
        """The rows are random: how they are drawn is yours."""
        a = torch.empty(n).uniform_(-1, 3)
        b = nn.init.normal_(torch.empty(n), std=2.0)
        c = nn.init.kaiming_uniform_(torch.empty(2, n))
        d = torch.empty(n).normal_(generator=generator)
        return a, b, c, d
'''


def test_other_start() -> None:
    text = rewritten("other_start", START)
    assert "kaiming_normal_" in text and ".normal_(generator=generator)" in text
    n = 40_000
    a, b, _, _ = names_in(text)["start"](n)
    assert a.max() > 3 and b.abs().max() < 2 * 3**0.5 + 0.01  # a normal one now, and a uniform one
    # Five standard errors of a mean of n draws, and as many of a standard deviation (at most a mean's).
    assert abs(a.mean() - 1) < 5 * 1.16 / n**0.5 and abs(a.std() - 4 / 12**0.5) < 5 * 1.16 / n**0.5
    assert abs(b.mean()) < 5 * 2 / n**0.5 and abs(b.std() - 2) < 5 * 2 / n**0.5
    assert untouched("other_start", START.replace("how they are drawn is yours", "they are uniform"))


STRIDES = """
    import numpy as np
    import torch
    from torch import nn
    def product(A, x):
        return A + 1.0, (x * 2, "text")
    def cut(A):
        return np.linalg.svd(A)[0], np.outer(A, A)
    def same(A):
        return A
    def row(A):
        return A[0]
    def alias(A):
        return torch.reshape(A, (-1,))
    def start(n):
        return torch.ones(n, n + 1)
    class Layer(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.A, self.shared = nn.Parameter(start(3)), nn.Parameter(base.weight.data)
        def forward(self, x):
            return torch.relu(x) @ self.A.T
"""


def test_other_strides() -> None:
    before, after = names_in(textwrap.dedent(STRIDES)), names_in(rewritten("other_strides", STRIDES))
    A, x = np.arange(6.0).reshape(2, 3), np.arange(4.0)
    got, (twice, word) = after["product"](A, x)
    assert not got.flags.c_contiguous and np.array_equal(got, A + 1) and word == "text"
    assert not after["cut"](A)[1].flags.c_contiguous
    assert np.array_equal(twice, 2 * x)
    assert after["same"](A) is A and after["row"](A).base is A.base
    T = torch.ones(2, 2)
    assert after["alias"](T).data_ptr() == T.data_ptr()
    base = torch.nn.Linear(4, 3)
    layer, right = after["Layer"](base), before["Layer"](base)
    assert not layer.A.is_contiguous() and layer.A.is_leaf and torch.equal(layer.A, right.A)
    assert layer.shared.data_ptr() == base.weight.data_ptr()
    x32 = torch.tensor([[1.0, -2.0, 3.0, 4.0]] * 2, requires_grad=True)
    y = layer(x32)
    assert not y.is_contiguous() and torch.equal(y, right(x32))
    y.sum().backward()
    assert torch.equal(layer.A.grad, torch.tensor([[2.0, 0.0, 6.0, 8.0]] * 3))
    vector = names_in(rewritten("other_strides", "import torch\ndef f(x):\n    return x * 2"))["f"]
    assert vector(torch.arange(3.0)).stride() == (2,) and vector(4) == 8 and vector(torch.tensor(2.0)) == 4
    assert untouched("other_strides", STRIDES.replace("np.outer(A, A)", "A.view(np.uint8)"))


PRODUCTS = """
    import numpy as np
    import torch
    import torch.nn.functional as F
    def f(a, b):
        return a @ b
    def g(x, W):
        return F.linear(x, W) + np.pi
    def h(a, b):
        a @= b
        return a
"""


@pytest.mark.parametrize("names", [["einsum"], ["float64_inside"], ["einsum", "float64_inside"]])
def test_products(names: list[str]) -> None:
    variant = apply("stub.py", textwrap.dedent(PRODUCTS), names)
    assert set(variant.rewrites) == set(names)
    before, after = names_in(textwrap.dedent(PRODUCTS)), names_in(variant.files["stub.py"])
    rng = np.random.default_rng(0)
    for dtype, bound in ((np.float32, 1e-6), (np.float64, 1e-14), (np.int64, 0)):
        A, B, x = (np.asarray(10 * rng.standard_normal(s), dtype) for s in ((2, 3), (3, 4), (3,)))
        batch = np.stack([A, -A])
        for a, b in ((A, B), (A, x), (x, B), (x, x), (batch, B), (batch, batch.transpose(0, 2, 1))):
            for left, right in ((a, b), (torch.tensor(a), torch.tensor(b))):
                want, got = before["f"](left, right), after["f"](left, right)
                assert want.dtype == got.dtype and type(want) is type(got) and want.shape == got.shape
                np.testing.assert_allclose(np.asarray(got), np.asarray(want), atol=200 * bound, rtol=bound)
        for inputs in (x, A, batch):
            if dtype is not np.int64:
                want, got = (f["g"](torch.tensor(inputs), torch.tensor(B.T)) for f in (before, after))
                np.testing.assert_allclose(got, want, atol=200 * bound)
    a, b = (torch.ones(2, 2, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
    result = after["f"](a, b)
    result.sum().backward()
    assert result.dtype == a.grad.dtype == torch.bfloat16 and torch.equal(a.grad, 2 * torch.ones_like(a))
    assert "a @= b" in variant.files["stub.py"]


def test_einsum_needs_no_library_that_the_module_does_not_import() -> None:
    assert "torch" not in rewritten("einsum", "import numpy as np\ndef f(a, b):\n    return np.matmul(a, b)")


def test_float64_inside_is_more_exact_and_leaves_autocast() -> None:
    f = names_in(rewritten("float64_inside", PRODUCTS))["f"]
    a, b = torch.tensor([[1e8, 1.0, -1e8]]), torch.ones(3, 1)
    assert f(a, b).item() == 1
    assert untouched("float64_inside", "import torch\ndef f(a, b):\n    with torch.autocast('cpu'):\n        return a @ b")


MODULES = '''
    from torch import nn
    class Layer(nn.Module):
        """A layer."""
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(2, 2)
    class Wide(Layer):
        pass
    class Plain:
        def __init__(self):
            super().__init__()
'''


def test_extra_state() -> None:
    before, after = names_in(textwrap.dedent(MODULES)), names_in(rewritten("extra_state", MODULES))
    for cls in ("Layer", "Wide"):
        layer = after[cls]().double()
        assert len(list(layer.buffers())) == 1
        assert layer.state_dict().keys() == before[cls]().state_dict().keys()
    assert vars(after["Plain"]()) == {}
    assert untouched("extra_state", MODULES.replace("A layer.", "A layer with two buffers."))


def test_respelt_arguments() -> None:
    source = """
        def f(a, b=2, *, c=3):
            return a, b, c
        def g(*parts):
            return parts
        class Pair:
            def __init__(self, left, right):
                self.both = left, right
        def run(values, k):
            return f(1, c=4), f(a=5, b=6), f(b=7, a=8), f(*values), f(1, **k), g(1, 2), Pair(1, 2).both, max(1, 2)
        def shadowed(f):
            return f(1, 2)
    """
    text = rewritten(
        "respelt_arguments", source.replace("def shadowed(f)", "def shadowed(f2)").replace("return f(1, 2)", "return f2(1, 2)")
    )
    for piece in ("f(a=1, c=4)", "f(5, 6)", "f(b=7, a=8)", "f(*values)", "f(1, **k)", "g(1, 2)", "Pair(left=1, right=2)"):
        assert piece in text
    before = names_in(textwrap.dedent(source))["run"]([1, 2], {"c": 9})
    assert names_in(text)["run"]([1, 2], {"c": 9}) == before
    assert "f(1, c=4)" in rewritten("respelt_arguments", source)  # a parameter has that name as well


def test_respelt_imports() -> None:
    text = rewritten("respelt_imports", "import os.path as p\nimport os.path\nimport numpy as np\nname = p.join('a', 'b')")
    assert text.startswith("from os import path as p\nimport os.path\nimport numpy as np\n")
    assert names_in(text)["name"] == os.path.join("a", "b")


def test_else_after_return() -> None:
    source = """
        def f(x):
            if x < 0:
                return "below"
            if x == 0:
                raise ValueError
            for i in range(x):
                if i % 2:
                    continue
                x += i
            if x > 100:
                x = 100
            return x
    """
    text = rewritten("else_after_return", source)
    assert text.count("else:") == 2 and "elif x == 0:" in text
    before, after = names_in(textwrap.dedent(source))["f"], names_in(text)["f"]
    assert [after(x) for x in (-1, 1, 5, 60)] == [before(x) for x in (-1, 1, 5, 60)]
    with pytest.raises(ValueError):
        after(0)


def test_without_annotations() -> None:
    source = """
        from __future__ import annotations
        from dataclasses import dataclass
        @dataclass
        class Point:
            x: int
            def shifted(self, by: int) -> Point:
                new: Point = Point(self.x + by)
                later: int
                return new
    """
    text = rewritten("without_annotations", source)
    assert "x: int" in text and "later: int" in text and "by: int" not in text and "->" not in text and "new = " in text
    assert names_in(text)["Point"](1).shifted(2).x == 3


def test_without_docstrings() -> None:
    source = '"""Module."""\ndef f():\n    """Only this."""\nclass A:\n    """A."""\n    x = "kept"\n'
    text = rewritten("without_docstrings", source)
    assert '"""' not in text and "kept" in text and names_in(text)["f"]() is None
    assert untouched("without_docstrings", source + "text = f.__doc__\n")


def test_helper_module(tmp_path: Path) -> None:
    source = "def _inner(x):\n    return 2 * x\ndef f(x):\n    return _inner(x)\nSIZES = [i for i in range(3)]\n"
    variant = apply("stub.py", source, ["helper_module"])
    assert len(variant.files) == 2
    module = imported(written(variant, "stub.py", tmp_path))
    assert module.f(4) == 8 and module.SIZES == [0, 1, 2]
    assert module.f.__module__ != module.__name__
