"""The course mark of each student, as exact fractions, with every line that it comes from (docs/marks.md)."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Person:
    """A row of roster.csv; what the school's systems call a student."""

    student: str
    name: str = ""
    email: str = ""
    canvas_id: str = ""
    sis_id: str = ""
    sis_login: str = ""
    section: str = ""
    moodle_id: str = ""


@dataclass(frozen=True, slots=True)
class WeekMark:
    """One week of a student: what counts of its 100 points, after lateness, and why.

    Attributes:
        raw: before lateness.
        dropped: whether the policy leaves the week out.
        pending: what still waits for a TA, such as "code review".
    """

    number: int
    raw: Fraction
    score: Fraction
    notes: tuple[str, ...] = ()
    dropped: bool = False
    pending: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """A third of the mark: weekly code, reading and discussion, or the project.

    Attributes:
        earned: of `weight` points of the course mark; None if nothing of it is marked yet.
        lines: the explanation, a line each.
    """

    name: str
    weight: int
    earned: Fraction | None
    lines: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mark:
    """A student's mark: `total` of `out_of` points; `out_of` is 100 once every part has been marked."""

    person: Person
    weeks: tuple[WeekMark, ...]
    parts: tuple[Part, ...]
    group: str = ""
    pending: tuple[str, ...] = field(default=())

    @property
    def total(self) -> Fraction:
        """The sum of what has been earned."""
        return sum((part.earned for part in self.parts if part.earned is not None), Fraction(0))

    @property
    def out_of(self) -> int:
        """The weight of the parts that have been marked."""
        return sum(part.weight for part in self.parts if part.earned is not None)
