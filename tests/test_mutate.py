"""Generated mutants: every operator makes its changes, in solution regions only, each of them once."""

from __future__ import annotations

import ast

import pytest

from autograder.judge.runner import reference_stub
from autograder.manifest import load
from autograder.proof.mutate import Generated, generate

AROUND = "def f({0}):\n    ### BEGIN SOLUTION 1.1\n{1}\n    ### END SOLUTION\n"


def of(body: str, parameters: str = "a, b, c") -> list[Generated]:
    return generate(AROUND.format(parameters, "\n".join(f"    {line}" for line in body.splitlines())), "f.py")


@pytest.mark.parametrize(
    ("statement", "wanted"),
    [
        ("return a @ b", {"return b @ a"}),
        ("return a + b", {"return a - b"}),
        ("return a / b", {"return a * b"}),
        ("return a | b", {"return a", "return b"}),
        ("a *= b", {"a /= b"}),
        ("return -a", {"return a"}),
        ("return a and b", {"return a or b", "return a", "return b"}),
        ("return a < b", {"return a <= b"}),
        ("return a in b", {"return a not in b"}),
        ("return True", {"return False"}),
        ("return 3", {"return 4", "return 2"}),
        ("return 0.5", {"return 1.0"}),
        ("return 0.0", {"return 1.0"}),
        ("return a.T", {"return a"}),
        ("return a[:b]", {"return a[b:]"}),
        ("return a[b:]", {"return a[:b]"}),
        ("return a(b, c)", {"return b", "return a(c, b)"}),
        ("return a.g(b=c)", {"return a", "return a.g()"}),
        ("a.g()", {"a", ""}),
        ("return b if a else c", {"return b if not a else c"}),
        ("if a:\n    return b", {"if not a:"}),
        ("if a:\n    raise ValueError(b)", {"if not a:", ""}),
        ("return a", set()),
    ],
)
def test_an_operator_makes_its_changes(statement: str, wanted: set[str]) -> None:
    assert {m.after for m in of(statement)} == wanted


def test_a_mutant_says_where_it_is() -> None:
    source = "class C:\n    def g(self):\n        ### BEGIN SOLUTION 7.2\n        return 1 + self.h\n        ### END SOLUTION\n"
    found = generate(source, "f.py")
    assert {(m.task, m.where, m.line, m.before) for m in found} == {("7.2", "C.g", 4, "return 1 + self.h")}
    assert {m.after for m in found} == {"return 1 - self.h", "return 2 + self.h", "return 0 + self.h"}
    for m in found:
        assert m.after in m.source


def test_nothing_outside_a_region_changes() -> None:
    around = 'X = 1 + 2\n\n\ndef f(a=1):\n    """A text."""\n    b = 3\n'
    assert generate(around + "    ### BEGIN SOLUTION 1.1\n    return b\n    ### END SOLUTION\n", "f.py") == []


@pytest.mark.parametrize("week", [w for w in load().weeks if w.tasks], ids=lambda w: w.folder)
def test_the_mutants_of_a_reference(week) -> None:
    """Each is a program, differs from the reference and from every other, and every task has some."""
    source = reference_stub(week).read_text(encoding="utf-8")
    found = generate(source, week.stub)
    trees = {ast.unparse(ast.parse(m.source)) for m in found}
    assert len(trees) == len(found) and ast.unparse(ast.parse(source)) not in trees
    assert {m.task for m in found} == {t.id for t in week.tasks}
