"""The comment bank: what a TA can copy into a review, for each misconception that the checks know, and in general.

A misconception's comment is put together from what the bank and the manifest say of it. Where more helps, a question that
leads on or an example in numbers, bank/weekNN/comments.toml adds it under the mutant's name; bank/comments.toml has the
general remarks.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from autograder import bank, texts
from autograder.judge.runner import reference_stub
from autograder.manifest import Lang, ManifestError, Rule, Text, Week, table

LONGEST = 400
_Short = Annotated[
    str,
    Rule(
        lambda v: 0 < len(v) <= LONGEST and v.isprintable() and v == v.strip(),
        f"be one line of at most {LONGEST} characters, neither empty nor padded",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """A remark written by hand, in both languages."""

    en: _Short
    zh: _Short

    def of(self, lang: Lang) -> str:
        """The remark in one language."""
        return self.en if lang == "en" else self.zh


@dataclass(frozen=True, slots=True)
class Comment:
    """What to say of one misconception.

    Attributes:
        name: the mutant's.
        task: its task's id.
        said: the misconception, as the feedback page has it.
        lecture: the section to read again.
        more: what was written by hand, if anything.
    """

    name: str
    task: str
    said: Text
    lecture: str
    more: Remark | None

    def text(self, lang: Lang, shown: str = "") -> str:
        """The comment as one paragraph of Markdown.

        Args:
            shown: the property of the check that failed, where one did.
        """
        zh, parts = lang == "zh", [self.said.of(lang)]
        if self.more:
            parts.append(self.more.of(lang))
        if shown:
            parts.append(f"看得出这一点的检查项：“{shown}”。" if zh else f'The check that shows it: "{shown}".')
        lecture = texts.lecture(self.lecture, lang)
        parts.append(f"建议重读 {lecture}。" if zh else f"Worth reading again: {lecture}.")
        return ("" if zh else " ").join(parts)


@functools.cache
def of(week: Week) -> tuple[Comment, ...]:
    """The week's comments: by task, those with more to say first.

    Raises:
        bank.BankError: if a mutant is malformed.
        ManifestError: if a comment is.
    """
    mutants = bank.mutants(week, reference_stub(week).read_text(encoding="utf-8"))
    more = read(bank.BANK / week.folder / "comments.toml", {m.name for m in mutants})
    lectures = {task.id: task.lecture for task in week.tasks}
    found = [
        Comment(m.name, m.task, Text(en=m.misconception, zh=m.misconception_zh), lectures[m.task], more.get(m.name))
        for m in mutants
    ]
    order = [task.id for task in week.tasks]
    return tuple(sorted(found, key=lambda c: (order.index(c.task), c.more is None, c.name)))


@functools.cache
def general() -> dict[str, Remark]:
    """The general remarks, by name.

    Raises:
        ManifestError: if one is malformed.
    """
    return read(bank.BANK / "comments.toml")


def read(path: Path, known: Collection[str] | None = None) -> dict[str, Remark]:
    """The remarks of a file, by name; none if there is no such file.

    Args:
        known: the names that may occur.

    Raises:
        ManifestError: if the file is malformed or names what is not known; the message is one line.
    """
    place = f"autograder/bank/{path.relative_to(bank.BANK)}" if path.is_relative_to(bank.BANK) else str(path)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ManifestError(f"{place}: cannot be read ({error}); correct the file") from None
    for name in raw:
        if known is not None and name not in known:
            raise ManifestError(f"{place}: the week has no mutant {name!r}; a key is the name of a file in mutants/")
    return {name: table(Remark, entry, place, name) for name, entry in raw.items()}


def search(week: Week | None, text: str, lang: Lang) -> Iterator[tuple[str, str]]:
    """Heading and text of each comment of a week, or else of each general remark, that contains a text in either language.

    Raises:
        bank.BankError, ManifestError: as `of` and `general`.
    """
    wanted = text.casefold()
    if week is not None:
        for one in of(week):
            if any(wanted in said.casefold() for said in (one.name, one.task, one.text("en"), one.text("zh"))):
                yield f"{one.task} {one.name}", one.text(lang)
        return
    for name, remark in general().items():
        if any(wanted in said.casefold() for said in (name, remark.en, remark.zh)):
            yield name, remark.of(lang)
