"""Names of modules and the targets that they match."""

import re
from collections.abc import Sequence


class Targets:
    def __init__(self, targets: Sequence[str]) -> None:
        self.patterns = {t: re.compile(rf"(?:^|\.){re.escape(t)}\Z") for t in targets}
        self.unused = set(targets)

    def longest(self, name: str) -> str | None:
        """The longest target that matches, remembering all that do."""
        hits = [t for t, pattern in self.patterns.items() if pattern.search(name)]
        self.unused -= set(hits)
        return max(hits, key=len, default=None)
