"""Generated mutants: the reference with one small change inside a solution region.

Operators, constants, dropped calls and swapped arguments, as mutation testing has them (DeMillo, Lipton and Sayward, 1978).
A check suite that does not notice such a change would not notice it in a submission either.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from autograder.authoring.build import regions

_BINARY: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
}  # fmt: skip
_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
_HEADS = (ast.If, ast.While, ast.For, ast.With, ast.FunctionDef, ast.ClassDef, ast.Try)


@dataclass(frozen=True, slots=True)
class Generated:
    """A changed reference.

    Attributes:
        task: whose region was changed.
        where: qualified name of the function.
        line: of the change, from 1.
        before, after: the statement (of a compound one its first line) without and with the change.
        source: the whole file.
    """

    task: str
    where: str
    line: int
    before: str
    after: str
    source: str


def generate(source: str, name: str) -> list[Generated]:
    """All generated mutants of a reference, in the order of its lines, each once.

    Args:
        source: of the reference, with its solution markers.
        name: of the file, for error messages.
    """
    tree = ast.parse(source)
    task_of = {line: r.task for r in regions(source, name) for line in range(r.first + 1, r.last + 2)}
    seen = {ast.unparse(tree)}
    found = []
    for where, statement, parent, field, index, node in _places(tree):
        task = task_of.get(getattr(node, "lineno", 0))
        if task is None:
            continue
        before = _line(statement)
        for changed in _changes(node):
            _put(parent, field, index, changed)
            mutated = ast.unparse(ast.fix_missing_locations(tree))
            after = "" if isinstance(changed, ast.Pass) else _line(changed if node is statement else statement)
            _put(parent, field, index, node)
            if mutated not in seen:
                seen.add(mutated)
                found.append(Generated(task, where, node.lineno, before, after, mutated))  # type: ignore[attr-defined]
    return sorted(found, key=lambda m: m.line)


_Place = tuple[str, ast.stmt, ast.AST, str, int | None, ast.AST]


def _places(node: ast.AST, where: str = "", statement: ast.stmt | None = None) -> Iterator[_Place]:
    """Every node that may be changed: its function, its statement, and where it stands in the tree."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "type_params") or (field == "args" and isinstance(node, ast.FunctionDef)):
            continue
        children = list(enumerate(value)) if isinstance(value, list) else [(None, value)]
        for index, child in children:
            if not isinstance(child, ast.AST):
                continue
            inner = child if isinstance(child, ast.stmt) else statement
            if inner is not None:
                yield where, inner, node, field, index, child
            if isinstance(child, ast.Raise):  # the words of an error are no contract
                continue
            named = isinstance(child, ast.FunctionDef | ast.ClassDef)
            below = ".".join(filter(None, (where, child.name))) if named else where  # type: ignore[attr-defined]
            yield from _places(child, below, inner)


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.BinOp(left, ast.MatMult(), right):
            yield ast.BinOp(right, ast.MatMult(), left)
        case ast.BinOp(left, ast.BitOr(), right):
            yield from (left, right)
        case ast.BinOp(left, op, right) if type(op) in _BINARY:
            yield ast.BinOp(left, _BINARY[type(op)](), right)
        case ast.AugAssign(target, op, value) if type(op) in _BINARY:
            yield ast.AugAssign(target, _BINARY[type(op)](), value)
        case ast.UnaryOp(ast.USub() | ast.Not(), operand):
            yield operand
        case ast.BoolOp(op, values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
            for i in range(len(values)):
                rest = values[:i] + values[i + 1 :]
                yield ast.BoolOp(op, rest) if len(rest) > 1 else rest[0]
        case ast.Compare(left, ops, comparators):
            for i, compared in enumerate(ops):
                if type(compared) in _COMPARED:
                    yield ast.Compare(left, [*ops[:i], _COMPARED[type(compared)](), *ops[i + 1 :]], comparators)
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value)):
            yield from (ast.Constant(value + 1), ast.Constant(value - 1))
        case ast.Constant(float(value)):
            yield ast.Constant(2 * value or 1.0)
        case ast.Attribute(value, "T"):
            yield value
        case ast.Slice(None, ast.expr() as upper, step):
            yield ast.Slice(upper, None, step)
        case ast.Slice(ast.expr() as lower, None, step):
            yield ast.Slice(None, lower, step)
        case ast.Call(function, arguments, keywords):
            if isinstance(function, ast.Attribute):
                yield function.value
            yield from arguments[:1]
            for i in range(len(arguments) - 1):
                swapped = [*arguments[:i], arguments[i + 1], arguments[i], *arguments[i + 2 :]]
                yield ast.Call(function, swapped, keywords)
            for i in range(len(keywords)):
                yield ast.Call(function, arguments, keywords[:i] + keywords[i + 1 :])
        case ast.Raise() | ast.Expr(ast.Call()):
            yield ast.Pass()
        case ast.If(ast.Name() | ast.Attribute() | ast.Call() as test, body, orelse):
            yield ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.IfExp(ast.Name() | ast.Attribute() | ast.Call() as test, then, otherwise):
            yield ast.IfExp(ast.UnaryOp(ast.Not(), test), then, otherwise)


def _put(parent: ast.AST, field: str, index: int | None, node: ast.AST) -> None:
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node


def _line(statement: ast.AST) -> str:
    text = ast.unparse(ast.fix_missing_locations(statement))
    return text.partition("\n")[0] if isinstance(statement, _HEADS) else text
