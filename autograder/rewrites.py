"""Harmless rewrites of a right answer: other names, other spellings, other arithmetic, the same contract.

Right code must get its points however it is written. Each rewrite turns a reference into another file that keeps the
contract of its docstrings; a check that takes points from such a file asks for more than the contract says. The
rewrites work on the syntax tree, so comments do not survive. Where a rewrite could change what a caller may rely on, it
leaves the place alone.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import random
import re
import symtable
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cache
from types import ModuleType
from typing import NamedTuple

# Changes the tree in place; further modules that the rewritten one imports are returned by their file names.
Rewrite = Callable[[ast.Module, random.Random], dict[str, ast.Module] | None]
REWRITES: dict[str, Rewrite] = {}

_LAST = "helper_module"  # the others know one file
_WORDS = ("value", "item", "part", "left", "right", "first", "second", "these", "other", "inner", "outer", "u", "v", "w")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Variant(NamedTuple):
    """A rewritten reference: the rewrites that were applied, in order, and its files by name."""

    rewrites: tuple[str, ...]
    files: dict[str, str]


def apply(stub: str, source: str, names: Iterable[str], rng: random.Random) -> Variant | None:
    """The source after the named rewrites in this order, `helper_module` last; None where they change nothing.

    Args:
        stub: the file's name in the result.
        source: of one Python module.
        names: keys of REWRITES.
        rng: chooses among the spellings that a rewrite has.
    """
    tree = ast.parse(source)
    files = {stub: tree}
    applied = []
    for name in sorted(names, key=_LAST.__eq__):
        before = ast.dump(tree)
        files.update(REWRITES[name](tree, rng) or {})
        if ast.dump(tree) != before:
            applied.append(name)
    if not applied:
        return None
    return Variant(tuple(applied), {name: ast.unparse(ast.fix_missing_locations(t)) + "\n" for name, t in files.items()})


def applicable(stub: str, source: str) -> list[str]:
    """The rewrites that change this source."""
    return [name for name in REWRITES if apply(stub, source, [name], random.Random(0))]


def draw(stub: str, source: str, seed: int) -> Variant:
    """The source after a random non-empty set of the rewrites that change it, in random order."""
    rng = random.Random(seed)
    names = applicable(stub, source)
    variant = apply(stub, source, rng.sample(names, rng.randint(1, len(names))), rng)
    assert variant is not None
    return variant


def rewrite(function: Rewrite) -> Rewrite:
    REWRITES[function.__name__] = function
    return function


# --- names ---


@rewrite
def renamed_locals(tree: ast.Module, rng: random.Random) -> None:
    """Other names for the variables of functions, loops and comprehensions; parameters keep theirs."""
    names = _Names(tree, rng)
    everywhere = _bound(tree.body) | set(dir(builtins))
    for function in _outer_functions(tree):
        nodes = list(ast.walk(function))
        if any(isinstance(n, ast.ClassDef) or _called(n) & {"locals", "vars", "dir", "eval", "exec"} for n in nodes):
            continue
        stored = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        kept = everywhere | {name for n in nodes if n is not function for name in _named_otherwise(n)}
        new = {name: names.fresh() for name in sorted(stored - kept)}
        for n in nodes:
            if isinstance(n, ast.Name):
                n.id = new.get(n.id, n.id)


@rewrite
def renamed_privates(tree: ast.Module, rng: random.Random) -> None:
    """Other names for what the contract does not name: `_helpers`, private attributes and methods, and attributes that
    are missing in a class's docstring under "Attributes:".
    """
    names = _Names(tree, rng)
    nodes = list(ast.walk(tree))
    texts = {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}  # getattr(x, "_name")
    inside = {name for function in _outer_functions(tree) for name in _local_names(function)}
    functions = {n.name: n for n in tree.body if isinstance(n, (*_FUNCTIONS, ast.ClassDef))}
    old = {name for name in _bound(n for n in tree.body if not isinstance(n, ast.Import | ast.ImportFrom)) if _private(name)}
    new = {name: names.fresh("_") for name in sorted(old - inside - texts)}
    for name, definition in functions.items():
        definition.name = new.get(name, name)
    for n in nodes:
        if isinstance(n, ast.Name):
            n.id = new.get(n.id, n.id)

    attributes = {name: names.fresh("_") for name in sorted(_own_attributes(tree) - texts)}
    for cls in (n for n in nodes if isinstance(n, ast.ClassDef)):
        for method in cls.body:
            if isinstance(method, _FUNCTIONS):
                method.name = attributes.get(method.name, method.name)
    for n in nodes:
        if isinstance(n, ast.Attribute) and _is_self(n.value):
            n.attr = attributes.get(n.attr, n.attr)


def _own_attributes(tree: ast.Module) -> set[str]:
    """Attributes and methods that only `self` is asked for and no contract names."""
    taken = _library_attributes()
    found: set[str] = set()
    documented: set[str] = set()
    for cls in (n for n in ast.walk(tree) if isinstance(n, ast.ClassDef)):
        section = (ast.get_docstring(cls) or "").partition("Attributes:\n")[2]
        listed = set(re.findall(r"^ +(\w+):", section, re.MULTILINE))
        documented |= listed | {s.target.id for s in cls.body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)}
        methods = {s.name for s in cls.body if isinstance(s, _FUNCTIONS) and not s.decorator_list}
        stored = {n.attr for n in ast.walk(cls) if _self_attribute(n) and isinstance(n.ctx, ast.Store)}
        plain = stored - _bound(cls.body)
        found |= {name for name in methods | plain if _private(name)} | (plain if listed else set())
    modules = _imports(tree)
    elsewhere = {
        n.attr for n in ast.walk(tree)
        if isinstance(n, ast.Attribute) and not _is_self(n.value) and not _qualified(n, modules)
    }  # fmt: skip
    return {name for name in found - documented - taken - elsewhere if not name.startswith("__")}


@cache
def _library_attributes() -> frozenset[str]:
    """Names that mean something to the classes that a course's classes extend."""
    import torch

    kinds = (torch.nn.Module(), torch.zeros(()), torch.autograd.Function)
    return frozenset(name for kind in kinds for name in dir(kind))


# --- spelling ---


@rewrite
def respelt_arguments(tree: ast.Module, rng: random.Random) -> None:
    """Calls of the module's own functions: positional arguments become keywords, and keywords positional."""
    parameters = {}
    for n in tree.body:
        init = next((s for s in getattr(n, "body", []) if isinstance(s, ast.FunctionDef) and s.name == "__init__"), None)
        function = n if isinstance(n, ast.FunctionDef) else init
        if isinstance(n, ast.FunctionDef | ast.ClassDef) and function and not n.decorator_list:
            a = function.args
            if not (a.posonlyargs or a.vararg):
                parameters[n.name] = [p.arg for p in a.args[function is init :]]
    shadowed = {name for function in _outer_functions(tree) for name in _local_names(function)}
    for n in ast.walk(tree):
        if not (isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id in parameters.keys() - shadowed):
            continue
        accepted, given = parameters[n.func.id], [k.arg for k in n.keywords]
        if any(isinstance(a, ast.Starred) for a in n.args) or None in given:
            continue
        if n.args:
            kept = rng.randrange(len(n.args))
            spelt = [ast.keyword(name, value) for name, value in zip(accepted[kept:], n.args[kept:], strict=False)]
            n.args, n.keywords = n.args[:kept], spelt + n.keywords
        elif given == accepted[: len(given)]:  # in order, so that they are evaluated in the same one
            n.args, n.keywords = [k.value for k in n.keywords], []


@rewrite
def respelt_imports(tree: ast.Module, rng: random.Random) -> None:
    """`from torch import nn` becomes `import torch.nn as nn`, and `import a.b as c` becomes `from a import b as c`."""
    body: list[ast.stmt] = []
    for n in tree.body:
        match n:
            case ast.ImportFrom(module=str(module), names=names, level=0):
                submodules = [a for a in names if _is_submodule(module, a.name)]
                body += [ast.Import([ast.alias(f"{module}.{a.name}", a.asname or a.name)]) for a in submodules]
                if rest := [a for a in names if a not in submodules]:
                    body.append(ast.ImportFrom(module, rest, 0))
            case ast.Import(names=[ast.alias(name=name, asname=str(asname))]) if _is_submodule(*_split(name)):
                module, last = _split(name)
                body.append(ast.ImportFrom(module, [ast.alias(last, asname if asname != last else None)], 0))
            case _:
                body.append(n)
    tree.body = body


def _split(name: str) -> tuple[str, str]:
    module, _, last = name.rpartition(".")
    return module, last


def _is_submodule(module: str, name: str) -> bool:
    return bool(module) and isinstance(getattr(importlib.import_module(module), name, None), ModuleType)


@rewrite
def without_docstrings(tree: ast.Module, rng: random.Random) -> None:
    """No docstrings."""
    for n in ast.walk(tree):
        if isinstance(n, (*_FUNCTIONS, ast.ClassDef, ast.Module)) and ast.get_docstring(n, clean=False) is not None:
            n.body = n.body[1:] or ([] if isinstance(n, ast.Module) else [ast.Pass()])


@rewrite
def without_annotations(tree: ast.Module, rng: random.Random) -> None:
    """No annotations of parameters, results and local variables; those of class bodies may mean something."""
    for function in [n for n in ast.walk(tree) if isinstance(n, _FUNCTIONS)]:
        if not function.decorator_list:  # a decorator may read them
            function.returns = None
            a = function.args
            for parameter in [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]:
                parameter.annotation = None
        for body in _bodies(function):
            body[:] = [
                ast.Assign([s.target], s.value) if isinstance(s, ast.AnnAssign) and s.value else s for s in body
            ]  # fmt: skip


@rewrite
def else_after_return(tree: ast.Module, rng: random.Random) -> None:
    """What follows an `if` that returns or raises goes into its `else`."""

    def nest(body: list[ast.stmt]) -> list[ast.stmt]:
        for i, s in enumerate(body[:-1]):
            if isinstance(s, ast.If) and not s.orelse and isinstance(s.body[-1], ast.Return | ast.Raise | ast.Continue):
                s.orelse = nest(body[i + 1 :])
                return body[: i + 1]
        return body

    for function in _outer_functions(tree):
        for body in _bodies(function):
            body[:] = nest(body)


@rewrite
def exchanged_branches(tree: ast.Module, rng: random.Random) -> None:
    """`if c: A else: B` becomes `if not c: B else: A`, as a statement and as an expression."""
    for n in ast.walk(tree):
        if isinstance(n, ast.If | ast.IfExp) and n.orelse:
            n.test = ast.UnaryOp(ast.Not(), n.test)
            n.body, n.orelse = n.orelse, n.body  # type: ignore[assignment]


@rewrite
def split_assignments(tree: ast.Module, rng: random.Random) -> None:
    """`a, b = x, y` and `a = b = x` become one assignment for each name, through temporaries: all values come first."""
    names = _Names(tree, rng)

    def split(s: ast.stmt) -> list[ast.stmt]:
        match s:
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)) if len(targets) == len(values):
                if any(isinstance(e, ast.Starred) for e in [*targets, *values]):
                    return [s]
            case ast.Assign(targets=[_, _, *_], value=value):
                targets, values = s.targets, [value]
            case _:
                return [s]
        kept = [names.fresh() for _ in values]
        loads = [ast.Name(name, ast.Load()) for name in kept] * (len(targets) // len(values))
        first: list[ast.stmt] = [ast.Assign([ast.Name(t, ast.Store())], v) for t, v in zip(kept, values, strict=True)]
        return first + [ast.Assign([t], v) for t, v in zip(targets, loads, strict=True)]

    for function in _outer_functions(tree):
        for body in _bodies(function):
            body[:] = [new for s in body for new in split(s)]


# --- arithmetic ---

_ARRAYS = {"torch": "Tensor", "numpy": "ndarray"}


@rewrite
def einsum(tree: ast.Module, rng: random.Random) -> None:
    """`A @ B` and `F.linear(x, W)` by torch.einsum or np.einsum. Of two vectors or one, `@` stays: ranks show at run time."""
    for library, array in _libraries(tree):
        name = _Names(tree, rng).fresh("_")
        changed = _replace_calls(
            tree,
            lambda called, n, lib=library: called == "torch.nn.functional.linear" and lib and len(n.args) == 2 and not n.keywords,
            lambda n, lib=library: _call(f"{lib}.einsum", ast.Constant("...i,oi->...o"), *n.args),
        )  # fmt: skip
        if _replace_products(tree, name) or changed:
            _insert(tree, f"""
                def {name}(a, b):
                    if isinstance(a, {array}) and isinstance(b, {array}) and min(a.ndim, b.ndim) >= 2:
                        return {library}.einsum("...ij,...jk->...ik", a, b)
                    return a @ b
            """)  # fmt: skip
