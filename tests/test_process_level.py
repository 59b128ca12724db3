"""Level `process`: without namespaces, Landlock keeps student code to its own files, where the kernel has it."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path

from autograder.judge.session import Session
from autograder.manifest import Week
from autograder.sandbox import Zygotes, spawned
from tests.conftest import ROOT

CODE = """
import json, os, sqlite3, xml.dom.minidom  # lazily imported libraries are still there
seen = {"read": {}, "write": {}, "helper": __import__("helper").x}
def attempt(path, kind, act):
    try:
        act()
        seen[kind][path] = "allowed"
    except OSError as error:
        seen[kind][path] = type(error).__name__
for path in PATHS:
    attempt(path, "read", lambda: os.listdir(path) if os.path.isdir(path) else open(path).read())
    attempt(path, "write", lambda: open(path + "/x" if os.path.isdir(path) else path, "a").close())
attempt("own", "write", lambda: open("own.txt", "w").write("x"))
attempt("link", "write", lambda: os.symlink("/etc/passwd", "link"))
attempt("through the link", "read", lambda: open("link").read())
attempt("submission", "write", lambda: open(__file__, "a").close())
print(json.dumps(seen), flush=True)
"""


def landlock() -> bool:
    return bool(ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1) >= 1)


def test_files_of_others_are_out_of_reach(week: Week, tmp_path: Path) -> None:
    classmate = tmp_path / "classmate.py"
    classmate.write_text("secret")
    paths = [
        classmate,
        ROOT / "solutions",
        ROOT / "README.md",
        ROOT / "autograder/bank",
        Path("/etc/passwd"),
        Path("/proc/self"),
        Path("/tmp"),
    ]
    code = f"PATHS = {[str(p) for p in paths]!r}\n" + CODE
    files = {week.stub: code.encode(), "helper.py": b"x = 42\n"}
    with Zygotes("process", 1, week.preload, ()) as zygotes, spawned(zygotes.sockets[0], week.limits, week.stub, files) as link:
        Session(link).load()
        link.close()
    seen = json.loads(bytes(link.output).splitlines()[-1])
    assert seen["helper"] == 42
    assert seen["write"].pop("own") == "allowed"
    assert not list(Path("/tmp").glob("x"))
    # Without Landlock (before Linux 5.13) this level promises nothing about files: see docs/trust.md.
    if landlock():
        assert seen["write"].pop("link") == "allowed"
        for kind in ("read", "write"):
            assert "allowed" not in seen[kind].values(), seen[kind]
        assert "through the link" in seen["read"] and "submission" in seen["write"]
