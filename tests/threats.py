"""The registry of attacks, and the table of docs/threat-model.md that is made of it: `python -m tests.threats` writes it.

An attack is a whole submission, tests/attacks/NAME.py, whose first two lines say what it does and its class; or an entry of
tests/attacks/others.toml, which names the test that tries it.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "threat-model.md"
BEGIN, END = "<!-- attacks: written by python -m tests.threats -->", "<!-- end of attacks -->"
SUBMISSIONS = "tests/test_attacks.py::test_no_attack_gains"
# In the order of the page; what a submission's header calls a class, where that is another word.
CLASSES = (
    "score", "wire", "file system", "network", "processes", "memory", "time", "output", "other students", "notebook kernel",
    "nbgrader database", "TA's browser", "spreadsheet", "zip files", "home checks",
)  # fmt: skip
_WORDS = {"files": "file system", "neighbours": "other students"}


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack: its name, class, what it does, and the test that tries it, as pytest names it without its case."""

    name: str
    kind: str
    does: str
    test: str


def attacks() -> list[Attack]:
    """All attacks, by class and name."""
    found = []
    for path in sorted((ROOT / "tests" / "attacks").glob("*.py")):
        does, kind = (line.split(": ", 1)[1] for line in path.read_text(encoding="utf-8").splitlines()[:2])
        found.append(Attack(path.stem, _WORDS.get(kind, kind), does, SUBMISSIONS))
    others = tomllib.loads((ROOT / "tests" / "attacks" / "others.toml").read_text(encoding="utf-8"))
    found += [Attack(entry["name"], entry["class"], entry["does"], entry["test"]) for entry in others["attack"]]
    return sorted(found, key=lambda attack: (CLASSES.index(attack.kind), attack.name))


def table() -> str:
    """The page's part between BEGIN and END."""
    found = attacks()
    lines = [BEGIN, "", f"{len(found)} attacks in {len(CLASSES)} classes."]
    for kind in CLASSES:
        lines += ["", f"### {kind[0].upper()}{kind[1:]}: the attacks", "", "| attack | what it does | test |", "|---|---|---|"]
        for attack in (one for one in found if one.kind == kind):
            test = attack.test.replace("tests/", "", 1).replace("::", " ")
            does = attack.does.replace("|", "\\|").replace("<", "&lt;")
            lines.append(f"| `{attack.name}` | {does} | `{test}` |")
    return "\n".join([*lines, "", END])


def written(page: str) -> str:
    """A page with the table in its place."""
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: table(), page, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {len(attacks())} attacks")
