"""Harmless rewrites of a right answer: other names, other spellings, other arithmetic, the same contract.

Right code must get its points however it is written. Each rewrite turns a reference into another file that keeps the
contract of its docstrings; a check that takes points from such a file asks for more than the contract says. The
rewrites work on the syntax tree, so comments do not survive. Where a rewrite could change what a caller may rely on, it
leaves the place alone.
"""

from __future__ import annotations

import ast
import builtins
import random
import re
import textwrap
from collections.abc import Callable, Collection
from functools import cache
from typing import NamedTuple

from autograder.syntax import (
    Function,
    Named,
    binds,
    bodies,
    call_of,
    docstring,
    filled,
    fresh_names,
    imports_of,
    insert,
    of_self,
    outer_functions,
    private,
    qualified,
    rename,
    replace,
    returns,
    scope,
    words,
)

# Changes the tree in place; further modules that the rewritten one imports are returned by their file names.
Rewrite = Callable[[ast.Module, random.Random], dict[str, ast.Module] | None]
REWRITES: dict[str, Rewrite] = {}  # in the order in which they are applied: docstrings go late, because others read them


class Variant(NamedTuple):
    """A rewritten reference: the rewrites that changed it, in order, and its files by name."""

    rewrites: tuple[str, ...]
    files: dict[str, str]


def apply(stub: str, source: str, names: Collection[str], seed: int = 0) -> Variant:
    """The source after the named rewrites; `stub` is the file's name in the result, and the seed picks new names."""
    tree = ast.parse(source)
    text = ast.unparse(tree)
    applied, beside = [], {}
    for name in (n for n in REWRITES if n in names):
        beside.update(REWRITES[name](tree, random.Random(f"{seed}:{name}")) or {})
        before, text = text, _text(tree)
        if text != before:
            applied.append(name)
    return Variant(tuple(applied), {stub: text} | {name: _text(module) for name, module in beside.items()})


def _text(tree: ast.Module) -> str:
    return ast.unparse(ast.fix_missing_locations(tree))


@cache
def applicable(source: str) -> list[str]:
    """The rewrites that change this source."""
    return [name for name in REWRITES if apply("", source, [name]).rewrites]


def draw(stub: str, source: str, seed: int) -> Variant:
    """The source after some of the rewrites that change it; the seeds 2k and 2k + 1 share them out between each other."""
    names = applicable(source)
    half = set(random.Random(seed // 2).sample(names, len(names) // 2))
    return apply(stub, source, half if seed % 2 else set(names) - half, seed)


def rewrite(function: Rewrite) -> Rewrite:
    REWRITES[function.__name__] = function
    return function


# --- names ---


@rewrite
def renamed_locals(tree: ast.Module, rng: random.Random) -> None:
    """Other names for the variables of functions, loops and comprehensions; parameters keep theirs."""
    fresh = fresh_names(tree, rng)
    outside = {name for n in scope(tree.body) for name in binds(n)}
    for function in outer_functions(tree):
        nodes = [n for s in function.body for n in ast.walk(s)]
        names = {n.id for n in nodes if isinstance(n, ast.Name)}
        if names & {"locals", "vars", "eval", "exec"} or any(isinstance(n, ast.ClassDef) for n in nodes):
            continue
        others = [n for n in [*ast.walk(function.args), *nodes] if not isinstance(n, ast.Name)]
        kept = outside | {name for n in others for name in binds(n)} | set(dir(builtins))
        stored = {name for n in nodes if isinstance(n, ast.Name) for name in binds(n)}
        rename([n for n in nodes if isinstance(n, ast.Name)], {name: next(fresh) for name in sorted(stored - kept)})


@rewrite
def renamed_privates(tree: ast.Module, rng: random.Random) -> None:
    """Other names for what the contract does not name: `_helpers`, and attributes and methods that only self is asked for."""
    fresh = (f"_{name}" for name in fresh_names(tree, rng))
    nodes, top = list(ast.walk(tree)), set(scope(tree.body))
    strings = {id(n): n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}

    inside = {name for n in nodes if n not in top or not isinstance(n, ast.Name | Named) for name in binds(n)}
    helpers = {name for n in top for name in binds(n) if private(name)} - inside - words(*strings.values())
    rename([n for n in nodes if isinstance(n, ast.Name | Named)], {name: next(fresh) for name in sorted(helpers)})

    docs = {id(n.body[0].value): n for n in nodes if docstring(n)}  # type: ignore[attr-defined]
    quoted = [part for key in docs for part in re.findall(r"`[^`]*`", strings[key])]
    of_classes = [docstring(n) for n in docs.values() if isinstance(n, ast.ClassDef)]
    other = [text for key, text in strings.items() if key not in docs]  # getattr(self, "name")
    new = {name: next(fresh) for name in sorted(_own_attributes(tree) - words(*quoted, *of_classes, *other))}
    methods = [s for n in nodes if isinstance(n, ast.ClassDef) for s in n.body if isinstance(s, Function)]
    rename([*methods, *(n for n in nodes if isinstance(n, ast.Attribute))], new)


def _own_attributes(tree: ast.Module) -> set[str]:
    """Attributes that classes set on self, and their private methods, as far as nothing but self is asked for them."""
    imports = imports_of(tree)
    known = {"torch.nn.Module"}
    found: set[str] = set()
    taken = set(_attributes_of_modules())
    for n in ast.walk(tree):
        if isinstance(n, ast.Attribute) and not of_self(n) and not qualified(n, imports):
            taken.add(n.attr)
        elif isinstance(n, ast.MatchClass):
            taken.update(n.kwd_attrs)
    for cls in (n for n in ast.walk(tree) if isinstance(n, ast.ClassDef)):
        bound = {name for m in scope(cls.body) for name in binds(m)}
        asked = [m for m in ast.walk(cls) if isinstance(m, ast.Attribute) and of_self(m)]
        # What an unknown base or a decorator reads, or the class looks up by name, keeps its name.
        by_name = re.search(r"\bvars\b|attr\(self\b|__(dict|slots|[gs]etattr)__", ast.unparse(cls))
        unknown = not {qualified(b, imports) or ast.unparse(b) for b in cls.bases} <= known
        if cls.decorator_list or cls.keywords or by_name or unknown:
            taken |= bound | {m.attr for m in asked}
            continue
        known.add(cls.name)
        methods = {s.name for s in cls.body if isinstance(s, Function) and not s.decorator_list and private(s.name)}
        taken |= bound - methods
        listed = bool(docstring(cls)) or private(cls.name)  # otherwise nothing says which attributes are the contract's
        stored = {m.attr for m in asked if isinstance(m.ctx, ast.Store) and (listed or private(m.attr))}
        found |= methods | stored
    return {name for name in found - taken if not name.startswith("__")}


@cache
def _attributes_of_modules() -> frozenset[str]:
    from torch import nn

    return frozenset(dir(nn.Module()))


# --- numbers ---


@rewrite
def other_start(tree: ast.Module, rng: random.Random) -> None:
    """A uniform start becomes a normal one of equal mean and variance, and the other way round, in in-place initialisers.

    Only where a docstring leaves it open, as in "how it is drawn is yours".
    """
    docs = [" ".join(docstring(n).split()) for n in ast.walk(tree)]
    if not any(re.search(r"\b(drawn|random|initiali[sz]ed)\b[^.;]*\byours\b", doc) for doc in docs):
        return
    imports = imports_of(tree)
    for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
        function = call.func
        if not isinstance(function, ast.Attribute):
            continue
        of_init = qualified(function, imports).startswith("torch.nn.init.")
        kind, _, what = function.attr.rpartition("_")[0].rpartition("_")
        other = {"uniform": "normal", "normal": "uniform"}.get(what, "")
        if not other or kind not in (("", "kaiming", "xavier") if of_init else ("",)):
            continue
        if not kind:
            names = ("a", "b") if what == "uniform" else ("mean", "std")
            values: dict[str | None, ast.expr] = {names[0]: ast.Constant(0), names[1]: ast.Constant(1)}
            given = call.args[of_init:]
            values.update(zip(names, given, strict=False))
            values.update((k.arg, k.value) for k in call.keywords)
            calls = any(isinstance(n, ast.Call | ast.Starred) for v in values.values() for n in ast.walk(v))
            if calls or len(values) > 2 or len(given) > 2:
                continue  # a generator, or something that must not be evaluated twice
            p, q = values.values()
            texts = ("p - 3 ** 0.5 * q", "p + 3 ** 0.5 * q") if other == "uniform" else ("(p + q) / 2", "(q - p) / 12 ** 0.5")
            call.args[of_init:] = [filled(text, p=p, q=q) for text in texts]
            call.keywords = []
        function.attr = f"{kind}_{other}_" if kind else f"{other}_"


# Attributes and modules of code that looks at how arrays lie in memory.
_LAYOUT = {
    "as_strided", "data_ptr", "flags", "is_contiguous", "safetensors", "storage", "stride", "strides", "tobytes",
    "untyped_storage", "view",
}  # fmt: skip
# Functions that may give back the array that they were given, or a view of it.
_ALIASING = {
    "as_tensor", "asarray", "ascontiguousarray", "asfortranarray", "atleast_1d", "atleast_2d", "broadcast_to", "detach",
    "dropout", "expand_dims", "flatten", "from_numpy", "frombuffer", "moveaxis", "permute", "ravel", "real", "reshape",
    "squeeze", "swapaxes", "transpose", "unsqueeze",
}  # fmt: skip
_MAKING = {"clone", "copy", "new_empty", "new_full", "new_ones", "new_tensor", "new_zeros"}


@rewrite
def other_strides(tree: ast.Module, rng: random.Random) -> None:
    """Arrays that functions make and return, and new parameters, lie in memory in another order: equal values, other strides."""
    imports = imports_of(tree)
    if _LAYOUT & (words(*imports.values()) | {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}):
        return
    functions = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef) and not n.decorator_list}

    def made(n: ast.expr | None, own: frozenset[str] = frozenset(functions)) -> bool:
        """Whether this makes an array (if it gives one at all) that nobody else holds."""
        match n:
            case ast.BinOp() | ast.UnaryOp(op=ast.USub()):
                return True
            case ast.IfExp(body=first, orelse=second):
                return made(first, own) and made(second, own)
            case ast.Call(func=ast.Name(id=name)) if name in own:
                values = [r.value for r in returns(functions[name])]
                return bool(values) and all(made(value, own - {name}) for value in values)
            case ast.Call(func=function):
                module, _, name = qualified(function, imports).rpartition(".")
                if module:
                    return module.split(".")[0] in ("torch", "numpy") and name not in _ALIASING and not name.endswith("_")
                return isinstance(function, ast.Attribute) and (function.attr in _MAKING or made(function.value, own))
        return False

    values = [r.value for function in outer_functions(tree) for r in returns(function)]
    values += [e for value in values if isinstance(value, ast.Tuple) for e in value.elts]
    for n in ast.walk(tree):
        if isinstance(n, ast.Call) and re.fullmatch(r"torch\.nn\.(.*\.)?Parameter", qualified(n.func, imports)):
            values += n.args[:1]
    places = {id(value) for value in values if made(value)}
    helper = _helper(tree, rng, "value", {
        "torch": """
            if type(value) is torch.Tensor and value.ndim and not (value.is_leaf and value.requires_grad):
                if value.ndim > 1:
                    return value.transpose(0, -1).contiguous().transpose(0, -1)
                return value.repeat_interleave(2)[::2]
        """,
        "numpy": """
            if type(value) is numpy.ndarray and value.ndim:
                return numpy.asfortranarray(value) if value.ndim > 1 else numpy.repeat(value, 2)[::2]
        """,
    }, "value")  # fmt: skip
    replace(tree, lambda n: call_of(helper.name, n) if id(n) in places else None, helper)


@rewrite
def float64_inside(tree: ast.Module, rng: random.Random) -> None:
    """Products of two matrices in a narrower floating dtype are computed in float64 and cast back."""
    helper = _helper(tree, rng, "a, b", {
        "torch": """
            if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and a.dtype == b.dtype:
                if a.dtype in (torch.float32, torch.bfloat16, torch.float16):
                    return (a.double() @ b.double()).to(a.dtype)
        """,
        "numpy": """
            if isinstance(a, numpy.ndarray) and isinstance(b, numpy.ndarray) and a.dtype == b.dtype:
                if a.dtype in (numpy.float32, numpy.float16):
                    return (a.astype(float) @ b.astype(float)).astype(a.dtype)
        """,
    }, "a @ b")  # fmt: skip
    if "autocast" not in words(ast.unparse(tree)):  # there, a product's dtype is not that of its operands
        _replace_products(tree, helper)


@rewrite
def einsum(tree: ast.Module, rng: random.Random) -> None:
    """Products of matrices by torch.einsum or np.einsum; those of vectors stay, which shows at run time only."""
    case = """
        if isinstance(a, {0}) and isinstance(b, {0}) and min(a.ndim, b.ndim) >= 2:
            return {1}
    """
    torch = case.format("torch.Tensor", 'torch.einsum("...ij,...jk->...ik", a, b)')
    numpy = case.format("numpy.ndarray", 'numpy.einsum("...ij,...jk->...ik", a, b, optimize=True)')
    _replace_products(tree, _helper(tree, rng, "a, b", {"torch": torch, "numpy": numpy}, "a @ b"))


def _helper(tree: ast.Module, rng: random.Random, parameters: str, cases: dict[str, str], last: str) -> ast.FunctionDef:
    """A function of a new name with a case for each of the libraries that the module imports, and a last result."""
    used = {meant.partition(".")[0] for meant in imports_of(tree).values()}
    body = [f"import {library}\n{textwrap.dedent(case)}" for library, case in cases.items() if library in used]
    lines = textwrap.indent("\n".join([*body, f"return {last}"]), "    ")
    function = ast.parse(f"def _{next(fresh_names(tree, rng))}({parameters}):\n{lines}").body[0]
    assert isinstance(function, ast.FunctionDef)
    return function


def _replace_products(tree: ast.Module, helper: ast.FunctionDef) -> None:
    imports = imports_of(tree)

    def change(n: ast.AST) -> ast.expr | None:
        match n:
            case ast.BinOp(left=left, op=ast.MatMult(), right=right):
                return call_of(helper.name, left, right)
            case ast.Call(func=function, args=[left, right], keywords=[]):
                match qualified(function, imports):
                    case "torch.matmul" | "numpy.matmul":
                        return call_of(helper.name, left, right)
                    case "torch.nn.functional.linear":
                        return call_of(helper.name, left, ast.Attribute(right, "T", ast.Load()))
        return None

    replace(tree, change, helper)


# --- structure ---


@rewrite
def extra_state(tree: ast.Module, rng: random.Random) -> None:
    """Modules have one more buffer, which is not persistent, and one more attribute, unless a contract speaks of buffers."""
    imports, fresh = imports_of(tree), fresh_names(tree, rng)
    if any("buffer" in docstring(n) for n in ast.walk(tree)):
        return
    torch, buffer, attribute = next(fresh), f"_{next(fresh)}", f"_{next(fresh)}"
    extra = f'self.register_buffer("{buffer}", {torch}.zeros(()), persistent=False)\nself.{attribute} = None'
    found = False
    for cls in (n for n in ast.walk(tree) if isinstance(n, ast.ClassDef)):
        if not any(qualified(base, imports).startswith("torch.nn.") for base in cls.bases):
            continue
        for init in (s for s in cls.body if isinstance(s, ast.FunctionDef) and s.name == "__init__"):
            begun = next((i for i, s in enumerate(init.body) if ast.unparse(s).startswith("super().__init__(")), None)
            if begun is not None:
                init.body[begun + 1 : begun + 1] = ast.parse(extra).body
                found = True
    if found:
        insert(tree, ast.Import([ast.alias("torch", torch)]))


@rewrite
def respelt_arguments(tree: ast.Module, rng: random.Random) -> None:
    """Calls of the module's own functions: positional arguments become keywords, and keywords positional."""
    parameters = {}
    for n in tree.body:
        match n:
            case ast.FunctionDef(name=name, decorator_list=[], args=ast.arguments(posonlyargs=[], args=args, vararg=None)):
                parameters[name] = [a.arg for a in args]
            case ast.ClassDef(name=name, decorator_list=[], keywords=[], body=body):
                for s in body:
                    if isinstance(s, ast.FunctionDef) and s.name == "__init__" and not (s.args.posonlyargs or s.args.vararg):
                        parameters[name] = [a.arg for a in s.args.args[1:]]
    top = set(scope(tree.body))
    own = parameters.keys() - {name for n in ast.walk(tree) if n not in top for name in binds(n)}
    for call in ast.walk(tree):
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in own):
            continue
        accepted, given = parameters[call.func.id], [k.arg for k in call.keywords]
        if any(isinstance(a, ast.Starred) for a in call.args) or None in given:
            continue
        if call.args:
            call.keywords[:0] = [ast.keyword(name, value) for name, value in zip(accepted, call.args, strict=False)]
            call.args = []
        elif given == accepted[: len(given)]:  # in order, so that they are evaluated in the same one
            call.args, call.keywords = [k.value for k in call.keywords], []


@rewrite
def respelt_imports(tree: ast.Module, rng: random.Random) -> None:
    """`import a.b as c` becomes `from a import b as c`."""
    for i, n in enumerate(tree.body):
        match n:
            case ast.Import(names=[ast.alias(name=name, asname=str(asname))]) if "." in name:
                package, _, module = name.rpartition(".")
                tree.body[i] = ast.ImportFrom(package, [ast.alias(module, asname)], 0)


@rewrite
def else_after_return(tree: ast.Module, rng: random.Random) -> None:
    """What follows an `if` that returns, raises or goes on goes into its `else`."""

    def nest(body: list[ast.stmt]) -> list[ast.stmt]:
        for i, s in enumerate(body[:-1]):
            if isinstance(s, ast.If) and not s.orelse and isinstance(s.body[-1], ast.Return | ast.Raise | ast.Continue):
                s.orelse = nest(body[i + 1 :])
                return body[: i + 1]
        return body

    for body in bodies(tree):
        body[:] = nest(body)


@rewrite
def without_annotations(tree: ast.Module, rng: random.Random) -> None:
    """No annotations of parameters, results and local variables; those of class bodies may mean something."""
    for body in bodies(tree):
        body[:] = [ast.Assign([s.target], s.value) if isinstance(s, ast.AnnAssign) and s.value else s for s in body]
    for function in (n for n in ast.walk(tree) if isinstance(n, Function)):
        if not function.decorator_list:  # a decorator may read them
            function.returns = None
            for parameter in (n for n in ast.walk(function.args) if isinstance(n, ast.arg)):
                parameter.annotation = None


@rewrite
def without_docstrings(tree: ast.Module, rng: random.Random) -> None:
    """No docstrings."""
    if "__doc__" in words(ast.unparse(tree)):
        return
    for n in ast.walk(tree):
        if docstring(n) and isinstance(n, ast.Module | Named):
            n.body = n.body[1:] or [ast.Pass()]


@rewrite
def helper_module(tree: ast.Module, rng: random.Random) -> dict[str, ast.Module]:
    """Everything stands in a module beside the stub, which imports it from there."""
    name = f"answers_{next(fresh_names(tree, rng))}"
    inside = ast.Module(tree.body, [])
    tree.body = [ast.ImportFrom(name, [ast.alias("*")], 0)]
    return {f"{name}.py": inside}
