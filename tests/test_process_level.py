"""Level `process`: without namespaces, other accounts and Landlock keep student code to its own files, where there are such."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from autograder.grading import sandbox
from autograder.grading.sandbox import Zygotes, spawned
from autograder.inside import confine
from autograder.judge.session import Session
from autograder.manifest import Course, Week
from tests import accounts
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
    attempt(path, "write", lambda: open(path + "/lora-graded-x" if os.path.isdir(path) else path, "a").close())
attempt("own", "write", lambda: open("own.txt", "w").write("x"))
attempt("link", "write", lambda: os.symlink("/etc/passwd", "link"))
attempt("through the link", "read", lambda: open("link").read())
attempt("submission", "write", lambda: open(__file__, "a").close())
print(json.dumps(seen), flush=True)
"""


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
    assert not list(Path("/tmp").glob("lora-graded-x"))
    # Without Landlock (before Linux 5.13) this level promises nothing about files: see docs/trust.md.
    if confine.landlock() > 0:
        assert seen["write"].pop("link") == "allowed"
        for kind in ("read", "write"):
            assert "allowed" not in seen[kind].values(), seen[kind]
        assert "through the link" in seen["read"] and "submission" in seen["write"]


ACCOUNT_CODE = """
import json, os, signal
def attempt(act):
    try:
        return act() or "allowed"
    except OSError as error:
        return type(error).__name__
seen = {"ids": [*os.getresuid(), *os.getresgid()], "groups": os.getgroups(), "folder": os.getcwd()}
seen["read"] = {path: attempt(lambda: os.listdir(path) if os.path.isdir(path) else open(path).read()) for path in PATHS}
seen["write"] = {path: attempt(lambda: open(path + "/lora-graded-x", "w").close()) for path in PATHS if os.path.isdir(path)}
seen["own"] = attempt(lambda: open("own.txt", "w").close())
seen["submission"] = attempt(lambda: open(__file__, "a").close())
seen["helper"] = __import__("helper").x
seen["root"] = attempt(lambda: os.setuid(0))
seen["mode"] = attempt(lambda: os.chmod(__file__, 0o777))
seen["kill"] = attempt(lambda: os.kill(os.getppid(), signal.SIGKILL))
import numpy.ma  # packages can still be imported
print(json.dumps(seen), flush=True)
"""


def in_account(week: Week, paths: list[str]) -> dict[str, Any]:
    with Zygotes("process", 2, week.preload, ()) as zygotes:
        assert zygotes.shared_account is None
        # Beside it a classmate's child, whose files must stay its own.
        with spawned(zygotes.sockets[1], week.limits, week.stub, {week.stub: b"open('mine', 'w').close()"}) as other:
            Session(other).load()
            classmates = [str(path) for path in Path(zygotes._tmp).glob("task-*/*/*")]
            assert len(classmates) == 2
            code = f"PATHS = {paths + classmates!r}\n" + ACCOUNT_CODE
            files = {week.stub: code.encode(), "helper.py": b"x = 42\n"}
            with spawned(zygotes.sockets[0], week.limits, week.stub, files) as link:
                Session(link).load()
    found: dict[str, Any] = json.loads(bytes(link.output).splitlines()[-1])
    return found


@pytest.mark.parametrize("landlock", [True, False])
def test_started_as_root_a_child_has_an_account_of_its_own(
    landlock: bool, course: Course, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    week = course.week(2)
    python = accounts.python()
    if python is None:  # then it says so, and Landlock is what there is
        assert sandbox.account_problem()
        return
    monkeypatch.setattr(sys, "executable", python)
    place = accounts.open_folder()
    solutions, results = place / "solutions", place / "results"
    for folder in (solutions, results):
        folder.mkdir(mode=0o700)
        (folder / "file").write_text("secret")
    if not landlock:
        shutil.copytree(sandbox.PACKAGE / "inside", tmp_path / "inside")
        shutil.copy(sandbox.PACKAGE / "__init__.py", tmp_path)
        accounts.without_landlock(tmp_path / "inside" / "confine.py")
        monkeypatch.setattr(sandbox, "PACKAGE", tmp_path)
    previous = os.umask(0o077)
    try:
        seen = in_account(week, [str(solutions), str(solutions / "file"), str(results), "/root", "/etc/shadow"])
    finally:
        os.umask(previous)
    assert len(set(seen["ids"])) == 1 and seen["ids"][0] in confine.ACCOUNTS and seen["groups"] == []
    assert set(seen["read"].values()) == {"PermissionError"} and set(seen["write"].values()) == {"PermissionError"}
    assert seen["own"] == "allowed" and seen["helper"] == 42
    assert [seen[name] for name in ("submission", "root", "mode", "kill")] == ["PermissionError"] * 4
    assert not Path(seen["folder"]).exists(), "what a child wrote is removed with it"
