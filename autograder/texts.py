"""The Chinese of what checks say, and the nudge that goes with each check: autograder/checks/weekNN/texts.toml.

What commands say where they cannot do what was asked is translated in the same way, by autograder/refusals.toml.

Checks are written in English, and what they say is put together from literals, such as f"{name} is wrong". So a message is
translated line by line: an entry whose text the line has, but for the places of values, gives the Chinese, and what stood in
its places is translated in turn. A student's own words, code and numbers have no entry and stay as they are.

    inputs = ["the cat sat"]         # literals that are data and no prose

    [check.forward]                  # test_forward
    zh = "..."                       # its property, the first paragraph of the docstring
    hint.en = "..."                  # where to look when it fails; for each check of a core task
    hint.zh = "..."

    [words]                          # {1} is the second place of the English, where the order changes
    "x of shape {}" = "x 的形状为 {}"
"""

from __future__ import annotations

import ast
import functools
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autograder import UserError
from autograder.manifest import Lang, Week

ROOT = Path(__file__).parent
STATUS_ZH = {  # of tasks and of checks
    "passed": "通过",
    "partial": "部分通过",
    "failed": "未通过",
    "wrong": "未通过",
    "unattempted": "未尝试",
    "error": "出错",
    "timeout": "超时",
    "crash": "崩溃",
    "unchecked": "尚未检查",  # progress.UNCHECKED
}
_GENERAL = ROOT / "judge" / "words.toml"
_REFUSALS = ROOT / "refusals.toml"
_PROSE = re.compile(r"[A-Za-z]{2,},? +[A-Za-z]{2,}")  # two words in a row
_HOLE = re.compile(r"\{(\d*)\}")
_GAP = re.compile("(?<=[\u3000-\u9fff\uff00-\uffef]) (?=[\u3000-\u9fff\uff00-\uffef])")
_LONG = 600  # characters of a line
_RAISES = "{} raised"  # so begin the entries for an exception in the submission
_TYPED = re.compile(r"\w+: ")  # so begins an entry for the text of an exception of ours


class TextError(UserError):
    """A week's texts are malformed; the text names the place."""


@dataclass(frozen=True)
class Texts:
    """One week's texts.

    Attributes:
        checks: by check, without `test_`: {"zh": property, "hint": {"en": ..., "zh": ...}}.
        words: Chinese by English literal, the judge's and the week's.
        inputs: literals of the week's checks that are data.
    """

    checks: Mapping[str, Mapping[str, Any]]
    words: Mapping[str, str]
    inputs: frozenset[str] = frozenset()

    def property(self, check: str, english: str, lang: Lang) -> str:
        """What a check holds the submission to."""
        found: str = self.checks.get(check, {}).get("zh", english) if lang == "zh" else english
        return found

    def hint(self, check: str, lang: Lang) -> str | None:
        """Where to look when a check fails."""
        found: str | None = self.checks.get(check, {}).get("hint", {}).get(lang)
        return found

    def message(self, text: str, lang: Lang) -> str:
        """What a check says of a failure."""
        if lang == "en":
            return text
        return "\n".join(map(self._line, text.split("\n")))

    def _line(self, line: str) -> str:
        body = line.strip()
        if not body:
            return line
        head, blanks, rest = body.partition(":  ")  # "got:      [1, 2]" is aligned with the line above
        body = f"{head}: {rest.lstrip()}" if blanks else body
        return line[: len(line) - len(line.lstrip())] + self._phrase(body)

    def _phrase(self, text: str, exception: bool = False) -> str:
        """A text in Chinese as far as entries have it; of an exception's only what an entry says with its type."""
        if text in self.words:
            return self.words[text]
        if len(text) > _LONG or not re.search("[A-Za-z]", text):  # an array, or a long text of a student's
            return text
        for pattern, english, chinese in self._patterns:
            if exception and not _TYPED.match(english):
                continue
            if match := pattern.fullmatch(text):
                raised = english.startswith(_RAISES)
                return _fill(chinese, [self._phrase(part, raised and i > 0) for i, part in enumerate(match.groups())])
        return text

    @functools.cached_property
    def _patterns(self) -> list[tuple[re.Pattern[str], str, str]]:
        """A pattern for each literal with places, and what it stands for.

        First those for exceptions, then the judge's others, and among each those with most text of their own.
        """
        general = _read(_GENERAL)
        found = []

        def rank(english: str) -> tuple[bool, bool, int]:
            return not english.startswith(_RAISES), english not in general, -len(_HOLE.sub("", english))

        for english in sorted(self.words, key=rank):
            parts = _HOLE.split(english)[::2]
            if len(parts) > 1 and any(map(str.strip, parts)):
                found.append((re.compile("(.*?)".join(map(re.escape, parts))), english, self.words[english]))
        return found


def _fill(chinese: str, parts: list[str]) -> str:
    """A translation with its places filled: {} in order, {1} the second of the English.

    The space that sets off a value is dropped where the place turns out to hold Chinese.
    """
    following = iter(parts)
    return _GAP.sub("", _HOLE.sub(lambda match: parts[int(match[1])] if match[1] else next(following), chinese))


@functools.cache
def of(week: Week) -> Texts:
    """A week's texts; a week without a file has the judge's own words only.

    Raises:
        TextError: if a file cannot be read as described above.
    """
    path = ROOT / "checks" / week.folder / "texts.toml"
    own = _read(path) if path.is_file() else {}
    checks, words = own.get("check", {}), own.get("words", {})
    for name, entry in checks.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("zh"), str):
            raise TextError(f"{path.parent.name}/{path.name}: check.{name} needs zh")
    return Texts(checks, {**_read(_GENERAL), **words}, frozenset(own.get("inputs", ())))


def refusal(text: str, lang: Lang) -> str:
    """What a command says where it cannot do what was asked. An indented line quotes a student's file and stays as it is."""
    if lang == "en":
        return text
    return "\n".join(line if line[:1].isspace() else _refusals().message(line, lang) for line in text.split("\n"))


@functools.cache
def _refusals() -> Texts:
    words = [_read(_GENERAL), *_read(_REFUSALS).values()]
    return Texts({}, {english: chinese for table in words for english, chinese in table.items()})


def lecture(place: str, lang: Lang) -> str:
    """A section of a lecture in a language; the anchors are the same."""
    return place.replace("lecture.md", "lecture.zh.md") if lang == "zh" else place


def property_of(week: Week, check: str, lang: Lang) -> str | None:
    """The property of a check, read from the checks without running them; None where there is no such check."""
    for path in sorted((ROOT / "checks" / week.folder).glob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name == f"test_{check}":
                english = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")
                return of(week).property(check, english, lang)
    return None


def own_words(week: Week) -> Mapping[str, str]:
    """The words that a week's own file adds."""
    path = ROOT / "checks" / week.folder / "texts.toml"
    words: dict[str, str] = _read(path).get("words", {}) if path.is_file() else {}
    return words


def phrases(path: Path) -> Iterator[str]:
    """The literals in a file of checks that a student may read, places of values as {}, a line each.

    Docstrings are not among them; nor is what has no two words in a row, which is code.
    """
    return said(ast.parse(path.read_text(encoding="utf-8")))


def said(tree: ast.AST) -> Iterator[str]:
    """As `phrases`, of a part of a file."""
    seen: set[int] = set()
    for node in ast.walk(tree):
        if id(node) in seen:
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            seen.add(id(node.value))
        elif isinstance(node, ast.JoinedStr):
            seen.update(id(child) for child in ast.walk(node) if isinstance(child, ast.Constant))
            yield from _lines("".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values))
            for value in node.values:
                if isinstance(value, ast.FormattedValue):  # a literal inside a place, "x" if y else "z"
                    seen.difference_update(id(child) for child in ast.walk(value.value))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from _lines(node.value)


def _lines(text: str) -> Iterator[str]:
    for line in text.split("\n"):
        if _PROSE.search(line):
            yield line.strip()


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise TextError(f"{path.parent.name}/{path.name}: {error}") from None
