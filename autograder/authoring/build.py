"""Makes stubs, notebooks, syllabus, readings, project tables; checks them, and that translations follow their sources."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autograder import UserError
from autograder.authoring import notebooks, reading, syllabus
from autograder.judge import answers, scoring
from autograder.judge.runner import ROOT, Broken, Runner, loopback, reference_stub
from autograder.manifest import Course, Week
from autograder.project import handbook

_BEGIN = re.compile(r"^(\s*)### BEGIN SOLUTION(?: (\d+\.\d+))?\s*$")
_END = re.compile(r"^\s*### END SOLUTION\s*$")
_SEAL = "# stub "
_STAMP = re.compile(r"<!-- source: ([0-9a-f]{16}) -->\n")
_ZH = ".zh.md"
# Where translated pages are, below the root. Those of the first have a translation each, of the others where there is one.
_TRANSLATED = ("course/week*", "course/threads"), (".", "docs", "docs/release")
# A fragment of fewer nodes (`self.rank = rank`) says nothing about where it comes from.
_LEAK_NODES = 18
_FUNCTION_NODES = 40
_NOTHING: tuple[object, ...] = (None, "", [])


class BuildError(UserError):
    """Something to mend in a source; the text names file and line."""


@dataclass(frozen=True, slots=True)
class Region:
    """A solution region: the lines between its markers, [first, last], counted from 0, markers included."""

    first: int
    last: int
    indent: str
    task: str


def regions(source: str, name: str, tasks: bool = True) -> list[Region]:
    """The solution regions of a source file.

    Args:
        tasks: whether each must name its task, as in a reference; those of a notebook name none.

    Raises:
        BuildError: if a marker has no partner or names no task.
    """
    found: list[Region] = []
    start: tuple[int, str, str] | None = None
    for number, line in enumerate(source.splitlines()):
        if match := _BEGIN.match(line):
            nameless = tasks and match[2] is None
            if start is not None or nameless:
                why = "a task's number is missing" if nameless else "the region before it has no end"
                raise BuildError(f"{name}:{number + 1}: {why}")
            start = number, match[1], match[2] or ""
        elif _END.match(line):
            if start is None:
                raise BuildError(f"{name}:{number + 1}: the end of a region that has no beginning")
            found.append(Region(start[0], number, start[1], start[2]))
            start = None
    if start is not None:
        raise BuildError(f"{name}:{start[0] + 1}: this region has no end")
    return found


def stub_source(source: str, week: Week, keep: Collection[str] = ()) -> str:
    """The stub of a reference: regions in functions raise NotImplementedError, others are left out.

    Regions of the tasks in `keep` stay, without their markers. The last line is a seal by which `build` sees whether
    the file was edited since.

    Raises:
        BuildError: if a marker is wrong or a core task has no region.
    """
    found = regions(source, week.stub)
    tree = ast.parse(source)
    tasks = {t.id: t for t in week.tasks}
    for region in found:
        if region.task not in tasks:
            raise BuildError(f"{week.stub}:{region.first + 1}: the manifest has no task {region.task}")
    for task_id in tasks:
        if not any(r.task == task_id and _in_function(tree, r) for r in found):
            raise BuildError(f"{week.stub}: task {task_id} has no solution region in a function")
    lines: list[str] = source.splitlines()
    for region in reversed(found):
        task = tasks[region.task]
        if task.id in keep:
            del lines[region.last], lines[region.first]
            continue
        raises = f'raise NotImplementedError("Week {task.week}, task {task.number}: {_qualname(tree, region.first + 1)}")'
        lines[region.first : region.last + 1] = [region.indent + raises] if _in_function(tree, region) else []
    if ast.get_docstring(tree) and lines[(end := tree.body[0].end_lineno or 0) - 1] == '"""':
        lines[end - 1 : end - 1] = ["", *_overview(week)]
    body = "\n".join(lines).rstrip() + "\n"
    return f"{body}\n{_SEAL}{_digest(body)}\n"


def _in_function(tree: ast.Module, region: Region) -> bool:
    """Whether a region is a part of a function's body; a whole function, of a module or a class, is not."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return any(node.lineno <= region.first + 1 <= (node.end_lineno or 0) for node in functions)


def _overview(week: Week) -> Iterator[str]:
    """What the manifest says of the week's tasks, for the stub's docstring."""
    yield "Task   points  minutes  difficulty  importance (both from 1 to 5)"
    for task in week.tasks:
        points = "stretch" if task.stretch else task.points
        yield f"{task.id:<5}{points:>8}{task.minutes:>9}{task.difficulty:>12}{task.importance:>12}"


def edited(text: str) -> bool:
    """Whether a stub file is no longer as it was generated."""
    body, _, seal = text.rpartition("\n" + _SEAL)
    return not body or seal.strip() != _digest(body)


def generated(course: Course) -> dict[Path, str]:
    """Every generated file's contents, by path."""
    files = {ROOT / name: syllabus.render(course, lang) for lang, name in syllabus.FILES.items()}
    files |= handbook.pages()
    readings = reading.load_readings()
    files |= {ROOT / name: reading.render(readings, lang) for lang, name in reading.PAGES.items()}
    for week in course.weeks:
        if week.tasks:
            source = reference_stub(week).read_text(encoding="utf-8")
            files[ROOT / "exercises" / week.folder / week.stub] = stub_source(source, week)
    return files | notebooks.generated(course)


def build(course: Course) -> list[str]:
    """Write what is generated; returns one line for each file that changed.

    Raises:
        BuildError: if a stub or a notebook holds somebody's work; nothing has been written then.
    """
    files = generated(course)
    touched = {".py": edited, ".ipynb": notebooks.edited}
    for path in files:
        if path.suffix in touched and path.exists() and touched[path.suffix](path.read_text(encoding="utf-8")):
            raise BuildError(f"{_short(path)} was edited: it is not overwritten; move it away and build again")
    changed = []
    for path, text in files.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
            changed.append(f"wrote {_short(path)}")
    return changed


def problems(course: Course, scored: Collection[int] | None = None) -> Iterator[str]:
    """What is not in order, a line each: drift, leaks, stubs that earn points, references that do not.

    Args:
        scored: numbers of the weeks whose reference and stub are run, which takes longest; None for all.
    """
    files = generated(course)
    for path, text in files.items():
        if not path.exists():
            yield f"{_short(path)} is missing: run `autograder build`"
        elif path.read_text(encoding="utf-8") != text:
            yield f"{_short(path)} is not what its source makes: edit the source and run `autograder build`"
    known = set(files)
    for path in sorted([*(ROOT / "exercises").rglob("*"), *(ROOT / "notebooks").rglob("*")]):
        if path.is_file() and path not in known and not {"__pycache__", ".ipynb_checkpoints", ".backup"} & set(path.parts):
            yield f"{_short(path)} comes from no solution: remove it"
    yield from leaks(course, _released())
    yield from _keys(course)
    yield from _translations()
    for week in course.weeks:
        if week.tasks and (scored is None or week.number in scored):
            yield from _scores(week, files[ROOT / "exercises" / week.folder / week.stub])


def translated(paths: Sequence[Path]) -> list[str]:
    """Record that Chinese pages of the course say what their English pages say now; returns one line for each that changed.

    The record is the first line of the translation, a comment with a hash of its source.

    Args:
        paths: translations, their sources, or folders of them.

    Raises:
        BuildError: if a path names no page, or a page has no source; nothing has been written then.
    """
    pages: dict[Path, None] = {}
    for path in paths:
        place = path.resolve()
        page = place if place.name.endswith(_ZH) or place.suffix != ".md" else place.with_name(f"{place.stem}{_ZH}")
        found = [p for p in _pages() if (place in p.resolve().parents if place.is_dir() else p.resolve() == page)]
        if not found:
            raise BuildError(
                f"{path} names no translated page: name one, such as course/week04/lecture.zh.md, or a folder of them"
            )
        pages |= dict.fromkeys(found)
    stamped = {page: f"<!-- source: {_source_digest(page)} -->\n{_STAMP.sub('', _text(page), count=1)}" for page in pages}
    changed = []
    for page, text in stamped.items():
        if _text(page) != text:
            page.write_text(text, encoding="utf-8", newline="\n")
            changed.append(f"{_short(page)} is recorded as a translation of {_source(page).name} as it is now")
    return changed


def _translations() -> Iterator[str]:
    """Pages of the course whose translation is missing, or was made from another text of its source."""
    pages = _pages()
    for source in _in_folders(_TRANSLATED[0], "*.md"):
        if not source.name.endswith(_ZH) and source.with_name(f"{source.stem}{_ZH}") not in pages:
            yield f"{_short(source)} has no translation"
    for page in pages:
        if not _source(page).is_file():
            yield f"{_short(page)} has no source {_source(page).name}"
            continue
        stamp = _STAMP.match(_text(page))
        if stamp is None or stamp[1] != _source_digest(page):
            why = "was translated from another text of" if stamp else "does not record which text it translates of"
            then = f"bring it up to date, then `autograder build --translated {_short(page)}`"
            yield f"{_short(page)} {why} {_source(page).name}: {then}"


def _pages() -> list[Path]:
    """The translations; what is generated, such as the syllabus, follows its source in both languages."""
    made = {*syllabus.FILES.values(), *reading.PAGES.values()}
    found = {path for folders in _TRANSLATED for path in _in_folders(folders, f"*{_ZH}")}
    return sorted(path for path in found if path.relative_to(ROOT).as_posix() not in made)


def _in_folders(folders: Sequence[str], pattern: str) -> list[Path]:
    return sorted(path for folder in folders for path in ROOT.glob(f"{folder}/{pattern}"))


def _source(page: Path) -> Path:
    return page.with_name(page.name.removesuffix(_ZH) + ".md")


def _source_digest(page: Path) -> str:
    source = _source(page)
    if not source.is_file():
        raise BuildError(f"{_short(page)} has no source: {source.name} is missing")
    return _digest(_text(source))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _keys(course: Course) -> Iterator[str]:
    """Questions without a key, keys without a question, keys that cannot be read."""
    for week in course.weeks:
        wanted = {question.grade_id for question in week.questions if not question.written}
        keys = answers.key(week)
        for name in sorted(wanted ^ set(keys)):
            what = "has no key for" if name in wanted else "has a key for no question"
            yield f"solutions/{week.folder}/answers.toml {what} [{name}]"
        for name, entry in keys.items():
            try:
                if any(answers.matches(nothing, table) for nothing in _NOTHING for table in [entry, *entry.get("wrong", [])]):
                    yield f"solutions/{week.folder}/answers.toml: [{name}] accepts an empty answer"
            except ValueError as error:
                yield f"solutions/{week.folder}/answers.toml: [{name}]: {error}"


def leaks(course: Course, files: list[Path], more: Mapping[str, str] | None = None) -> Iterator[str]:
    """Markers, and pieces of solution regions whatever their names and layout, in files that students get.

    Args:
        more: other pieces that must not be there: where each comes from, by its shape.
    """
    fragments: dict[str, str] = dict(more or {})
    sources = [(week.folder, reference_stub(week), True) for week in course.weeks if week.tasks]
    for folder, path, tasks in [*sources, *((folder, path, False) for folder, path in notebooks.sources().items())]:
        source = path.read_text(encoding="utf-8")
        inside = regions(source, path.name, tasks)
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.stmt) or _size(node) < _LEAK_NODES:
                continue
            if any(r.first < node.lineno - 1 and (node.end_lineno or 0) - 1 < r.last for r in inside):
                fragments[_shape(node)] = f"{folder}/{path.name}" + (f":{node.lineno}" if tasks else "")
    for path in files:
        text = path.read_text(encoding="utf-8")
        chunks = list(_code(path, text))
        # A notebook is JSON, whose lines are no lines of code.
        lines = [line for chunk, _ in chunks for line in chunk.splitlines()] if path.suffix == ".ipynb" else text.splitlines()
        if any(_BEGIN.match(line) or _END.match(line) for line in lines):
            yield f"{_short(path)} holds a solution marker"
        for code, offset in chunks:
            try:
                tree = ast.parse(code)
            except SyntaxError:
                continue
            for node in ast.walk(tree):
                whole = fragments.get(_shape(_body(node))) if more and isinstance(node, ast.FunctionDef) else None
                if isinstance(node, ast.stmt) and (origin := whole or fragments.get(_shape(node))):
                    yield f"{_short(path)}:{node.lineno + offset} holds a piece of the solution ({origin})"


def functions(source: str) -> Iterator[str]:
    """The shape of each function that is more than a few lines: a piece of a file that is not a solution but tells one."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and _size(node) >= _FUNCTION_NODES:
            yield _shape(_body(node))


def _body(function: ast.FunctionDef) -> ast.FunctionDef:
    """The function without its docstring, annotations and name."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return ast.FunctionDef("", ast.arguments([], [ast.arg(a.arg) for a in function.args.args], None, [], [], None, []), body, [])


def _released() -> list[Path]:
    """Files that are, or will be, in the student release."""
    found = [*(ROOT / "exercises").rglob("*.py"), *(ROOT / "course").rglob("*.py"), *(ROOT / "course").rglob("*.md")]
    found += (ROOT / "notebooks").rglob("*.ipynb")
    found += [path for path in (ROOT / "autograder").rglob("*.py") if "bank" not in path.parts]
    return sorted(found)


def _code(path: Path, text: str) -> Iterator[tuple[str, int]]:
    """The Python code in a file, and the number of lines before it."""
    if path.suffix == ".py":
        yield text, 0
    elif path.suffix == ".ipynb":
        yield from ((cell, 0) for cell in notebooks.code(text))
    for block in re.finditer(r"^```(?:python|py)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield block[1], text[: block.start(1)].count("\n")


def _scores(week: Week, stub: str) -> Iterator[str]:
    runner = Runner(week, seed=0)
    folder = ROOT / "exercises" / week.folder

    def body() -> None:
        for path, wanted in ((reference_stub(week), 1.0), (folder / week.stub, 0.0)):
            for run in runner.run(loopback(path)):
                score = scoring.share(run.outcomes)
                if run.unloadable:
                    found.append(f"{_short(path)}: {run.unloadable}")
                elif score != wanted:
                    failure = scoring.headline(run.outcomes)
                    why = f" ({failure.name}: {failure.message})" if failure and wanted else ""
                    found.append(f"{_short(path)}: task {run.task.id} scores {score:.0%}, not {wanted:.0%}{why}")

    found: list[str] = []
    try:
        if (folder / week.stub).exists():
            runner.run_in_pytest(body)
    except Broken as error:
        found.append(f"week {week.number}: {error}")
    yield from found


def _qualname(tree: ast.Module, line: int) -> str:
    """The dotted name of the innermost function or class around a line."""
    names: list[str] = []
    nodes: list[ast.stmt] = tree.body
    while True:
        for node in nodes:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.lineno <= line <= (node.end_lineno or 0):
                names.append(node.name)
                nodes = node.body
                break
        else:
            return ".".join(names)


def _size(node: ast.AST) -> int:
    return sum(1 for _ in ast.walk(node))


def _shape(node: ast.AST) -> str:
    """A statement's syntax tree as text, with variables numbered in the order of their appearance; functions keep their names."""
    numbers: dict[str, int] = {}

    def walk(node: object) -> str:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            return f"{node.func.id}({walk(node.args)},{walk(node.keywords)})"
        if isinstance(node, ast.Name):
            return f"v{numbers.setdefault(node.id, len(numbers))}"
        if isinstance(node, ast.arg):
            return f"a{numbers.setdefault(node.arg, len(numbers))}"
        if isinstance(node, ast.AST):
            return f"{type(node).__name__}({','.join(walk(getattr(node, field, None)) for field in node._fields)})"
        if isinstance(node, list):
            return f"[{','.join(map(walk, node))}]"
        return repr(node)

    return walk(node)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)
