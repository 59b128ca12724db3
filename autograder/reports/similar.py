"""Which submissions share more code than independent answers do: a reading list for a TA, never a verdict.

Winnowing (Schleimer, Wilkerson, Aiken, SIGMOD 2003), as copydetect has it, over the syntax tree: comments, docstrings,
annotations, layout and the names that a file makes itself leave no trace in it, and what the stub has is subtracted.
"""

from __future__ import annotations

import ast
import csv
import io
import itertools
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from copydetect.utils import get_copied_slices, hashed_kgrams, winnow

from autograder import UserError, bank, intake, results, syntax
from autograder.judge.runner import ROOT, reference_stub
from autograder.manifest import Week

K = 14  # symbols of a passage: about a line and a half; shorter ones are what the language makes everybody write
WINDOW = 1  # every passage is kept: the library's hashes differ between processes, and its choice among them would, too
LEAST = 120  # own symbols, below which a submission is too short to tell
MARGIN = 0.4  # of the way from the most alike independent answers to a full copy
HIGHEST = 0.9  # a threshold above this would miss a copy with a few lines changed
_MOST = 60_000  # symbols of one submission; an answer has about a thousand
_TOKEN = re.compile(r"\w+|[^\w\s]")
_KEPT_TEXT = 1 << 20
_MOST_ROWS = 600  # of an excerpt
_MOST_PAIRS = 300  # with an excerpt on the page; similar.jsonl has all
REFERENCE = "(reference)"


class SimilarError(UserError):
    """The submissions cannot be compared; the text is one line that says what to do."""


class Place(NamedTuple):
    """A line of a submission."""

    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Prints:
    """The fingerprints of one submission.

    Attributes:
        name: who handed it in.
        places: where each symbol of it stands.
        passages: where each passage that the stub lacks begins, by its hash.
        size: how many symbols those passages cover.
        lines: the text by file, for the page.
    """

    name: str
    places: list[Place]
    passages: dict[int, list[int]]
    size: int
    lines: dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two submissions that share code.

    Attributes:
        first, second: their names.
        score: the share of the smaller one's own code that the other has as well, 0 to 1.
        shared: how many symbols that is.
        left, right: the lines that are shared, of either.
    """

    first: str
    second: str
    score: float
    shared: int
    left: frozenset[Place]
    right: frozenset[Place]


def symbols(text: str) -> Iterator[tuple[str, int]]:
    """What a file's code is made of, with the line of each; names that the file binds are all alike."""
    text = text[:_KEPT_TEXT].replace("\0", " ").replace("\f", " ")
    tree = _parsed(text)
    if tree is not None:
        own = _own_names([tree])
        yield from _of_tree(tree, own, 0)
        return
    # One syntax error must not hide the rest: what stands at the margin begins a block, and each is read by itself.
    lines = text.splitlines()
    starts = [i for i, line in enumerate(lines) if re.match(r"(def|class|async|import|from)\b|@", line)]
    blocks = [(start, "\n".join(lines[start:end])) for start, end in itertools.pairwise([0, *starts, len(lines)]) if end > start]
    trees = [(start, block, _parsed(block)) for start, block in blocks]
    own = _own_names([tree for _, _, tree in trees if tree is not None])
    for start, block, tree in trees:
        if tree is not None:
            yield from _of_tree(tree, own, start)
        else:
            for number, line in enumerate(block.splitlines(), start + 1):
                for token in _TOKEN.findall(line.partition("#")[0]):
                    yield ("name" if token.isidentifier() else token), number


def _parsed(text: str) -> ast.Module | None:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _own_names(trees: Iterable[ast.AST]) -> set[str]:
    own: set[str] = set()
    for n in (n for tree in trees for n in ast.walk(tree)):
        own.update(syntax.binds(n))
        if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store):
            own.add(n.attr)
    return own


def _of_tree(tree: ast.AST, own: set[str], offset: int) -> Iterator[tuple[str, int]]:
    """The tree's nodes from the outside in; a stack of our own, because a student chooses the depth."""
    stack: list[tuple[ast.AST, int]] = [(tree, 1)]
    while stack:
        n, line = stack.pop()
        line = getattr(n, "lineno", line)
        symbol = _symbol(n, own)
        if symbol:
            yield symbol, line + offset
        stack.extend((child, line) for child in reversed(list(_children(n))))


def _children(n: ast.AST) -> Iterator[ast.AST]:
    for name, value in ast.iter_fields(n):
        if name in ("annotation", "returns", "ctx", "type_comment", "type_params"):
            continue
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, ast.AST) and not _is_text(item):
                yield item


def _is_text(n: ast.AST) -> bool:
    """A docstring, or any other string that stands alone."""
    return isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant) and isinstance(n.value.value, str)


def _symbol(n: ast.AST, own: set[str]) -> str:
    def name(text: str) -> str:
        return "name" if text in own else text

    match n:
        case (
            ast.Module() | ast.Expr() | ast.Load() | ast.Import() | ast.ImportFrom() | ast.alias() | ast.Pass() | ast.arguments()
        ):
            return ""
        case ast.Name(id=text):
            return name(text)
        case ast.Attribute(attr=text):
            return "." + name(text)
        case ast.Constant(value=str()):
            return "text"
        case ast.Constant(value=value):
            return f"{type(value).__name__} {str(value)[:40] if not isinstance(value, int) or abs(value) < 10**40 else 'large'}"
        case ast.AnnAssign():
            return "Assign"
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return "def"
    return type(n).__name__


def prints(name: str, files: Mapping[str, bytes], without: frozenset[int] = frozenset()) -> Prints:
    """The fingerprints of a submission, helper modules included.

    Args:
        name: who handed it in.
        files: contents by path; what does not end in .py is left out.
        without: passages to subtract, as `boilerplate` gives them.
    """
    code: list[str] = []
    places: list[Place] = []
    lines = {}
    for path in sorted(p for p in files if p.endswith(".py")):
        text = files[path].decode("utf-8", "replace")
        lines[path] = text[:_KEPT_TEXT].splitlines()
        for symbol, line in itertools.islice(symbols(text), _MOST - len(code)):
            code.append(_character(symbol))
            places.append(Place(path, line))
    found: dict[int, list[int]] = {}
    covered = np.zeros(len(code), dtype=bool)
    if len(code) >= K:
        hashes, starts = winnow(hashed_kgrams("".join(code), K), WINDOW, remove_duplicates=False)
        for passage, start in zip(hashes.tolist(), starts.tolist(), strict=True):
            if passage not in without:
                found.setdefault(passage, []).append(start)
                covered[start : start + K] = True
    return Prints(name, places, found, int(covered.sum()), lines)


def _character(symbol: str) -> str:
    """One character a symbol, because the library reads text; above the surrogates, where there is room for a hash."""
    return chr(0x10000 + zlib.crc32(symbol.encode("utf-8", "replace")) % 0x100000)


@cache
def boilerplate(week: Week) -> frozenset[int]:
    """The passages of the week's stub."""
    stub = (ROOT / "exercises" / week.folder / week.stub).read_bytes()
    return frozenset(prints("", {week.stub: stub}).passages)


def compare(a: Prints, b: Prints, least: float = 0.0) -> Pair | None:
    """What two submissions share, or None if it is less than `least`, or if one of them is too short to tell."""
    if min(a.size, b.size) < LEAST:
        return None
    common = a.passages.keys() & b.passages.keys()
    # Cheap before exact: K symbols a passage is the most that they can cover.
    if not common or len(common) * K < least * min(a.size, b.size):
        return None
    marks = [np.array(sorted(i for passage in common for i in p.passages[passage])) for p in (a, b)]
    covered = [np.concatenate([np.arange(i, j) for i, j in get_copied_slices(m, K).T]) for m in marks]
    sizes = [len(c) for c in covered]
    score = max(min(1.0, sizes[0] / a.size), min(1.0, sizes[1] / b.size))
    if score < least:
        return None
    left, right = (frozenset(p.places[i] for i in c.tolist()) for p, c in zip((a, b), covered, strict=True))
    return Pair(a.name, b.name, score, min(sizes), left, right)


@cache
def threshold(week: Week) -> float | None:
    """The score from which a pair is listed, or None where the week is too short to tell.

    The reference and the alternatives of the bank are right answers that share no text on purpose; their most alike pair is the
    floor, and MARGIN of the way from there to a full copy is the threshold. Students who learn from one lecture are closer
    to each other than the bank's answers are, which is what the margin is for.
    """
    answers = independent(week)
    if sum(p.size >= LEAST for p in answers) < 2:
        return None
    found = [compare(a, b) for a, b in itertools.combinations(answers, 2)]
    floor = max((pair.score for pair in found if pair), default=0.0)
    value = floor + MARGIN * (1 - floor)
    return value if value <= HIGHEST else None


def independent(week: Week) -> list[Prints]:
    """The reference and the alternatives."""
    answers = [(REFERENCE, {week.stub: reference_stub(week).read_bytes()})]
    for path in bank.alternatives(week):
        answers.append((path.parent.name, {p.name: p.read_bytes() for p in sorted(path.parent.glob("*.py"))}))
    return [prints(name, files, boilerplate(week)) for name, files in answers]


def pairs(
    current: Sequence[Prints], least: float, others: Sequence[Prints] = (), teams: Mapping[str, str] | None = None
) -> list[Pair]:
    """The pairs from `least` upwards, the most alike first.

    Args:
        current: this year's submissions, compared with each other.
        least: the threshold.
        others: earlier years' and the reference, compared with this year's alone.
        teams: the team of each student who has one; members of a team hand in the same work.
    """
    teams = teams or {}
    chosen = itertools.chain(
        ((a, b) for a, b in itertools.combinations(current, 2) if a.name not in teams or teams[a.name] != teams.get(b.name)),
        itertools.product(current, others),
    )
    found = [pair for a, b in chosen if (pair := compare(a, b, least))]
    return sorted(found, key=lambda p: (-p.score, -p.shared, p.first, p.second))


def read_teams(path: Path) -> dict[str, str]:
    """The team of each student, from a groups.csv with the columns group and student.

    Raises:
        SimilarError: it cannot be read or lacks a column.
    """
    try:
        table = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")))
        teams = {row["student"].strip(): row["group"].strip() for row in table if row.get("student") and row.get("group")}
        columns = table.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SimilarError(f"{path} cannot be read ({type(error).__name__}): give a CSV file in UTF-8") from None
    if lacking := [name for name in ("group", "student") if name not in columns]:
        raise SimilarError(f"{path} has no column {lacking[0]}: its first line must be group,student")
    return teams


@dataclass(frozen=True, slots=True)
class Report:
    """What `run` found: the pairs, the threshold (None: the week is too short to tell), how many submissions were too short."""

    pairs: list[Pair]
    threshold: float | None
    compared: int
    short: list[str]


def run(
    submissions: Path, week: Week, out: Path, against: Sequence[Path] = (), groups: Path | None = None, lang: str = "en",
    least: float | None = None, progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:  # fmt: skip
    """Compare a class and write out/similar.jsonl and out/similar.html.

    Args:
        submissions: the folder with one folder a student.
        week: whose files are compared.
        out: where the results go; made if missing.
        against: folders of earlier years, laid out like submissions.
        groups: a groups.csv, whose teams are not compared within.
        lang: the language of the page.
        least: the threshold, in place of the one from the bank.
        progress: told how many of the submissions have been read.

    Raises:
        UserError: a folder or groups.csv cannot be read, or out cannot be written.
    """
    teams = read_teams(groups) if groups else {}
    folders = [("", submissions), *((f"{path.name}/", path) for path in against)]
    chosen = [(label + name, folder, not label) for label, root in folders for name, folder in intake.students(root, week)]
    current: list[Prints] = []
    others = [independent(week)[0]]
    for done, (name, folder, ours) in enumerate(chosen, 1):
        read = intake.read(name, folder, week)
        (current if ours else others).append(prints(name, read.files, boilerplate(week)))
        progress(done, len(chosen))
    bar = least if least is not None else threshold(week)
    found = pairs(current, bar, others, teams) if bar is not None else []
    report = Report(found, bar, len(current), [p.name for p in current if p.size < LEAST])
    try:
        out.mkdir(parents=True, exist_ok=True)
        results.replace(out / "similar.jsonl", "".join(_line(pair, week) for pair in found))
        results.replace(out / "similar.html", page(report, {p.name: p for p in [*current, *others]}, week, lang))
    except OSError as error:
        raise SimilarError(f"{out} cannot be written ({error.strerror}): pass another --out") from None
    return report


def read_flags(out: Path) -> dict[str, list[tuple[str, float]]]:
    """With whom each student of a compared week is listed: (the other, share), the most alike first."""
    found: dict[str, list[tuple[str, float]]] = {}
    path = out / "similar.jsonl"
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        row = json.loads(line)
        found.setdefault(row["first"], []).append((row["second"], row["score"]))
        found.setdefault(row["second"], []).append((row["first"], row["score"]))
    return found


def _line(pair: Pair, week: Week) -> str:
    data = {"week": week.number, "first": pair.first, "second": pair.second, "score": round(pair.score, 3), "shared": pair.shared}
    for side in ("left", "right"):
        data[side] = [[file, line] for file, line in sorted(getattr(pair, side))]
    return json.dumps(data) + "\n"  # escaped, so that a surrogate in a name can be written


@dataclass(frozen=True, slots=True)
class Row:
    """A line of an excerpt; the number is 0 where lines were left out."""

    number: int
    text: str
    shared: bool


def excerpt(p: Prints, marked: frozenset[Place], around: int = 1) -> list[tuple[str, list[Row]]]:
    """The shared lines of a submission by file, with a few lines around them."""
    found = []
    for file, lines in p.lines.items():
        wanted = {place.line for place in marked if place.file == file}
        if not wanted:
            continue
        shown = sorted({n for line in wanted for n in range(line - around, line + around + 1) if 1 <= n <= len(lines)})
        rows: list[Row] = []
        for before, number in zip([0, *shown], shown, strict=False):
            if number > before + 1:
                rows.append(Row(0, "", False))
            rows.append(Row(number, _shown(lines[number - 1]), number in wanted))
        found.append((intake.clean(file), rows[:_MOST_ROWS]))
    return found


def _shown(text: str) -> str:
    return intake.clean(text.expandtabs(4))


def page(report: Report, by_name: Mapping[str, Prints], week: Week, lang: str = "en") -> str:
    """The page of all pairs, side by side; everything in it is escaped text."""
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    shown = [
        (pair, [(intake.clean(name), excerpt(by_name[name], marked)) for name, marked in sides])
        for pair in report.pairs[:_MOST_PAIRS]
        for sides in [((pair.first, pair.left), (pair.second, pair.right))]
    ]
    return environment.get_template("similar.html").render(
        report=report, pairs=shown, week=week, lang=lang, clean=intake.clean, t=lambda en, zh: zh if lang == "zh" else en
    )
