"""How marks are made of scores in this course: marks.toml of a course folder (docs/marks.md)."""

from __future__ import annotations

import datetime
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from autograder import UserError
from autograder.manifest import Course

TEMPLATE = """\
# What counts, and when. Every setting may be left out; `autograder marks --explain` shows what each of them did.

[weekly]
# weeks = [1, 2, 3]        # which weeks count (default: those that are due and somebody handed in)
drop_lowest = 0            # that many of a student's weeks are left out, the lowest first

# [late]                   # without this table nothing is too late
# grace_minutes = 15
# percent_per_day = 10     # of what was earned, for each day begun after the due date
# max_days = 5             # later than that is worth nothing

[due]                      # goes before the due date in the gradebook; with the offset from UTC
# week01 = 2026-03-08T23:59:00+08:00

[reading]
drop_lowest = 0
"""


class PolicyError(UserError):
    """marks.toml cannot be used; the text is one line that says what to do."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What marks.toml says; `late` is (grace, percent a day, most days or None), or None: nothing is too late."""

    weeks: tuple[int, ...] | None = None
    drop_lowest: int = 0
    late: tuple[datetime.timedelta, Fraction, int | None] | None = None
    due: Mapping[str, datetime.datetime] = field(default_factory=dict)
    reading_drop_lowest: int = 0


def read(path: Path, course: Course) -> Policy:
    """What marks.toml says; the defaults if there is none.

    Raises:
        PolicyError: it is not TOML, has an unknown setting, or a setting has a value that it cannot have.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return Policy()
    except (OSError, ValueError) as error:
        raise PolicyError(f"{path} cannot be read ({error}): correct it") from None
    settings = _Settings(path, raw)
    numbers = tuple(week.number for week in course.weeks)
    weeks = settings(
        "weekly", "weeks", None,
        lambda v: isinstance(v, list) and v and all(type(n) is int and n in numbers for n in v) and len(set(v)) == len(v),
        f"a list of different weeks from {numbers[0]} to {numbers[-1]}",
    )  # fmt: skip
    drop = settings("weekly", "drop_lowest", 0, _whole, "a whole number, 0 or more")
    reading_drop = settings("reading", "drop_lowest", 0, _whole, "a whole number, 0 or more")
    late = None
    if "late" in raw:
        grace = settings("late", "grace_minutes", 0, _whole, "a whole number, 0 or more")
        percent = settings("late", "percent_per_day", None, lambda v: type(v) in (int, float) and 0 <= v <= 100, "from 0 to 100")
        if percent is None:
            raise PolicyError(f"{path}, [late]: percent_per_day is missing; add it, or take the table out")
        most = settings("late", "max_days", None, _whole, "a whole number, 0 or more")
        late = (datetime.timedelta(minutes=grace), Fraction(str(percent)), most)
    due = {}
    for week in course.weeks:
        when = settings("due", week.folder, None, _is_time, "a time with its offset from UTC such as 2026-03-08T23:59:00+08:00")
        if when is not None:
            due[week.folder] = when
    settings.finish()
    return Policy(tuple(sorted(weeks)) if weeks else None, drop, late, due, reading_drop)


class _Settings:
    """Reads settings of marks.toml one by one, and at the end knows which nobody asked for."""

    def __init__(self, path: Path, raw: dict[str, Any]) -> None:
        self.path, self.raw, self.known = path, raw, dict[str, list[str]]()
        for name, table in raw.items():
            if not isinstance(table, dict):
                raise PolicyError(f"{path}: {name} must stand in a table such as [weekly]")

    def __call__(self, table: str, name: str, default: Any, valid: Callable[[Any], Any], must: str) -> Any:
        self.known.setdefault(table, []).append(name)
        value = self.raw.get(table, {}).get(name, default)
        if value is not default and not valid(value):
            raise PolicyError(f"{self.path}, [{table}]: {name} must be {must}, not {str(value)[:60]!r}")
        return value

    def finish(self) -> None:
        self.known.setdefault("late", ["grace_minutes", "percent_per_day", "max_days"])
        for table, settings in self.raw.items():
            if table not in self.known:
                raise PolicyError(f"{self.path}: unknown table [{table}]; the tables are {', '.join(self.known)}")
            for name in settings:
                if name not in self.known[table]:
                    raise PolicyError(f"{self.path}, [{table}]: unknown setting {name}; there are {', '.join(self.known[table])}")


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 100_000


def _is_time(value: Any) -> bool:
    return isinstance(value, datetime.datetime) and value.tzinfo is not None
