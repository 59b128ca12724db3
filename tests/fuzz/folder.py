"""intake.py: folders with files, links, pipes and names of any kind. Nothing outside the folder is ever read."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from autograder import intake
from tests.fuzz.archive import WEEK, check, zipped

SECRET = b"SECRET = 'not the student's'"
# A line an entry: what it is, its name, its contents or target.
SEEDS = [
    b"f lora_linear.py x = 1\nf helper.py y\nd sub\nf sub/more.py z",
    b"l lora_linear.py ../secret.py\nl up ..\np pipe.py\nl week04 ../secret",
    b"d week04\nf week04/lora_linear.py x\nl week04/week04.ipynb ../../secret.py\nf timestamp.txt 2026",
    b"d exercises\nd exercises/week04\nf exercises/week04/lora_linear.py x\nf .hidden x\nd __pycache__",
    b"z ada.zip 81a4,0,0,lora_linear.py=x",
    b"d a\nd a/b\nd a/b/c\nd a/b/c/d\nd a/b/c/d/e\nf a/b/c/d/e/x.py 1\nd lora_linear.py\n0 a",
    b"f \xff\xfe.py x\nf \x1b[2J.py y\nf =cmd.py z\nf \xe2\x80\xae.py w\nf LORA_LINEAR.PY q",
]


def one(data: bytes) -> None:
    """Lay the entries out and read them."""
    place = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        root = place / "class" / "ada"
        root.mkdir(parents=True)
        (place / "class" / "secret").mkdir()
        for path in (place / "class" / "secret.py", place / "class" / "secret" / "lora_linear.py"):
            path.write_bytes(SECRET)
        for line in data.split(b"\n")[:60]:
            with contextlib.suppress(OSError, ValueError):
                _make(root, line)
        for student, folder in intake.students(place / "class", WEEK):
            found = intake.read(student, folder, WEEK)
            notebook = intake.notebook(folder, WEEK)
            check(found)
            if student == "ada":
                assert SECRET not in [*found.files.values(), notebook], "read outside the folder"
    finally:
        for folder, _, _ in os.walk(place):
            with contextlib.suppress(OSError):
                os.chmod(folder, 0o700)
        shutil.rmtree(place, ignore_errors=True)


def _make(root: Path, line: bytes) -> None:
    kind, name, contents = [*line.split(b" ", 2), b"", b""][:3]
    parts = [part for part in name.split(b"/") if part not in (b"", b".", b"..")]
    if not parts:
        return
    path = os.path.join(os.fsencode(root), *parts)
    if kind == b"d":
        os.mkdir(path)
    elif kind == b"l":
        os.symlink(contents or b"/", path)
    elif kind == b"p":
        os.mkfifo(path)
    elif kind == b"0":
        os.chmod(path, 0)
    else:
        with open(path, "xb") as file:
            file.write(zipped(contents) if kind == b"z" else contents)
