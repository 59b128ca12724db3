"""What stands where in the syntax tree of a Python module, and how to put something else there."""

from __future__ import annotations

import ast
import copy
import random
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import count

Function = ast.FunctionDef | ast.AsyncFunctionDef
Named = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_OWN_SCOPE = Named | ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
_WORDS = ("value", "item", "part", "left", "right", "first", "second", "these", "other", "inner", "outer", "u", "v", "w")


def fresh_names(tree: ast.AST, rng: random.Random) -> Iterator[str]:
    """Names that occur nowhere in the file, with or without an underscore before them."""
    used = words(ast.unparse(tree))
    for i in count():
        name = f"{rng.choice(_WORDS)}_{i}"
        if not used & {name, f"_{name}"}:
            yield name


def words(*texts: str) -> set[str]:
    return {word for text in texts for word in re.findall(r"\w+", text)}


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def of_self(n: ast.Attribute) -> bool:
    return isinstance(n.value, ast.Name) and n.value.id == "self"


def docstring(n: ast.AST) -> str:
    return (ast.get_docstring(n, clean=False) or "") if isinstance(n, ast.Module | Named) else ""


def scope(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """The nodes of one scope; of a function, class or comprehension inside it the outermost node alone."""
    for n in body:
        yield n
        if not isinstance(n, _OWN_SCOPE):
            yield from scope(ast.iter_child_nodes(n))


def binds(n: ast.AST) -> Iterable[str]:
    """The names that this node itself binds."""
    match n:
        case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
            return [name]
        case ast.alias(name=name, asname=asname):
            return [asname or name.partition(".")[0]]
        case ast.Global(names=names) | ast.Nonlocal(names=names):
            return names
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            return [name]
        case ast.MatchMapping(rest=str(name)):
            return [name]
    return []


def outer_functions(n: ast.AST) -> Iterator[Function]:
    """Functions and methods that stand in no other function."""
    for child in ast.iter_child_nodes(n):
        if isinstance(child, Function):
            yield child
        else:
            yield from outer_functions(child)


def returns(function: Function) -> list[ast.Return]:
    return [n for n in scope(function.body) if isinstance(n, ast.Return)]


def bodies(tree: ast.AST) -> Iterator[list[ast.stmt]]:
    """The lists of statements in functions."""
    for function in (n for n in ast.walk(tree) if isinstance(n, Function)):
        for n in [function, *scope(function.body)]:
            if n is function or not isinstance(n, Named):
                found = [getattr(n, field, None) for field in ("body", "orelse", "finalbody")]
                yield from (body for body in found if isinstance(body, list))


def imports_of(tree: ast.Module) -> dict[str, str]:
    """What the imported names stand for, as {"F": "torch.nn.functional"}; without those that are also bound otherwise."""
    found = {}
    for n in tree.body:
        for a in n.names if isinstance(n, ast.Import | ast.ImportFrom) else ():
            if isinstance(n, ast.ImportFrom):
                found[a.asname or a.name] = f"{n.module}.{a.name}"
            else:
                found[a.asname or a.name.partition(".")[0]] = a.name if a.asname else a.name.partition(".")[0]
    others = {name for n in ast.walk(tree) if not isinstance(n, ast.alias) for name in binds(n)}
    return {name: meant for name, meant in found.items() if name not in others}


def qualified(n: ast.AST, imports: dict[str, str]) -> str:
    """The full name of something imported, as "torch.nn.Parameter"; "" of anything else."""
    name, dot, rest = ast.unparse(n).partition(".") if isinstance(n, ast.Name | ast.Attribute) else ("", "", "")
    return imports[name] + dot + rest if name in imports else ""


def rename(nodes: Iterable[ast.AST], new: dict[str, str]) -> None:
    for n in nodes:
        field = "id" if isinstance(n, ast.Name) else "attr" if isinstance(n, ast.Attribute) else "name"
        setattr(n, field, new.get(getattr(n, field), getattr(n, field)))


def call_of(name: str, *args: ast.AST) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), list(args), [])  # type: ignore[arg-type]


def filled(text: str, **nodes: ast.expr) -> ast.expr:
    """An expression whose names are replaced by nodes."""
    template = ast.parse(text, mode="eval")
    replace(template, lambda n: copy.deepcopy(nodes.get(n.id)) if isinstance(n, ast.Name) else None)
    return template.body


def replace(tree: ast.AST, change: Callable[[ast.AST], ast.AST | None], helper: ast.FunctionDef | None = None) -> None:
    """Put what `change` gives in the places of the nodes that it gives something for, and the helper that they call."""
    changed = False

    class Replacer(ast.NodeTransformer):
        def visit(self, n: ast.AST) -> ast.AST:
            nonlocal changed
            new = change(self.generic_visit(n))
            changed |= new is not None
            return new or n

    Replacer().visit(tree)
    if changed and helper is not None and isinstance(tree, ast.Module):
        insert(tree, helper)


def insert(tree: ast.Module, statement: ast.stmt) -> None:
    """Behind the imports at the module's beginning."""
    start = 1 if docstring(tree) else 0
    while start < len(tree.body) and isinstance(tree.body[start], ast.Import | ast.ImportFrom):
        start += 1
    tree.body.insert(start, statement)
