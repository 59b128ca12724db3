"""By what the checks of a week are known. It imports little, so that `autograder doctor` can ask without pytest or numpy."""

from __future__ import annotations

import hashlib
from pathlib import Path

from autograder.manifest import Week

_PACKAGE = Path(__file__).parents[1]


def checks_digest(week: Week) -> str:
    """sha256 over what decides how a submission is checked: the checks, the judge, what it drives in the worker."""
    sha = hashlib.sha256()
    files = [*(_PACKAGE / "checks" / week.folder).glob("*.py"), *_PACKAGE.glob("judge/*.py"), *_PACKAGE.glob("inside/*.py")]
    for path in sorted(files):
        sha.update(path.name.encode() + b"\0" + path.read_bytes())
    sha.update(repr(week).encode())
    return sha.hexdigest()
