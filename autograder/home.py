"""What `autograder check` does at home as the sandbox does it when marking."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from types import ModuleType

from autograder.manifest import Week


class _Hidden(MetaPathFinder):
    def __init__(self, week: Week) -> None:
        self._week = week

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        package = name.partition(".")[0]
        if package in self._week.hidden_packages:
            raise ModuleNotFoundError(
                f"{package} cannot be imported in week {self._week.number}, here or where it is marked: "
                "what it does is the exercise",
                name=name,
            )


@contextmanager
def hidden_packages(week: Week) -> Iterator[None]:
    """Make the week's hidden packages impossible to import, as far as nothing has imported them yet."""
    finder = _Hidden(week)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
