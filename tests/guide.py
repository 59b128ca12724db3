"""Pages that say how to add to the course are followed to the letter, in a copy of the repository."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

from tests.conftest import ROOT


@dataclass(frozen=True)
class Block:
    """A fenced block: a file to write, to append to or to insert into, commands, or what is shown."""

    kind: str  # "write", "append", "insert", "sh" or "text"
    text: str
    path: str = ""


@dataclass(frozen=True)
class Ran:
    command: str
    status: int
    output: str


KINDS = {"": "write", "Append to ": "append", "Insert into ": "insert"}


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page in order; the line before a file's block ends with its name and a colon."""
    tokens = MarkdownIt().parse(page)
    for i, token in enumerate(tokens):
        if token.type != "fence":
            continue
        if token.info in ("sh", "text"):
            yield Block(token.info, token.content)
            continue
        above = tokens[i - 2].content if tokens[i - 1].type == "paragraph_close" else ""
        name = re.search(r"(?:^|\n)(Append to |Insert into |)`([\w./]+)`:$", above)
        assert name, f"no file is named above the block that begins {token.content[:40]!r}"
        yield Block(KINDS[name[1]], token.content, name[2])


def inserted(text: str, diff: str) -> str:
    """A text with the lines of a block that begin with + put after the lines above them, which must occur exactly once."""
    lines = diff.splitlines()
    assert all(line[:1] in (" ", "+", "") for line in lines), "a block to insert has lines of the file, and lines with a +"
    old = "\n".join(line[1:] for line in lines if not line.startswith("+")) + "\n"
    assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
    return text.replace(old, "\n".join(line[1:] for line in lines) + "\n")


class Copy:
    """A copy of the repository in which a page is followed."""

    def __init__(self, root: Path, tools: Path) -> None:
        self.root = root
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
        for name in filter(None, names):
            if (ROOT / name).is_file():  # not one that was deleted and is still in the index
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, root / name)
        tools.mkdir()
        # As an installation of the copy would put them on the path.
        for command, arguments in ((tools / "autograder", "-m autograder "), (tools / "python", "")):
            command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments}"$@"\n')
            command.chmod(0o755)
        path = f"{tools}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        self.environment = os.environ | {"PATH": path, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}

    def run(self, command: str) -> Ran:
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=self.root, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        return Ran(command, done.returncode, done.stdout)

    def follow(self, steps: Sequence[Block]) -> dict[str, Ran]:
        """Do what the blocks say, in order; returns what each command said."""
        ran = {}
        for block in steps:
            place = self.root / block.path
            if block.kind == "write":
                assert not place.exists(), f"{block.path} is there already"
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(block.text, encoding="utf-8")
            elif block.kind == "append":
                with open(place, "a", encoding="utf-8") as file:
                    file.write(block.text)
            elif block.kind == "insert":
                place.write_text(inserted(place.read_text(encoding="utf-8"), block.text), encoding="utf-8")
            elif block.kind == "sh":
                ran |= {line: self.run(line) for line in block.text.splitlines()}
        return ran


def mutated(edits: list[dict[str, str]], source: str) -> str:
    """A source with the edits of a mutant or a held-out spelling."""
    for edit in edits:
        assert source.count(edit["find"]) == 1, edit
        source = source.replace(edit["find"], edit["replace"])
    return source
