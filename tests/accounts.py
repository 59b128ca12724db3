"""A Python that other accounts can start, for tests of level `process`: the one that runs the tests may lie in a private home."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from autograder.grading import sandbox

_PACKAGES = ("numpy", "numpy.libs", "pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments", "py.py")
_NO_LANDLOCK = "return int(_libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1))"


def open_folder() -> Path:
    """A new folder that every account can enter, unlike pytest's own; removed at the end."""
    place = Path(tempfile.mkdtemp(prefix="lora-tests-"))
    place.chmod(0o755)
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place


@functools.cache
def python() -> str | None:
    """Its path, with what judging week 2 needs; None where the tests do not run as root or there is no such Python."""
    if os.geteuid() != 0:
        return None
    if sandbox.account_problem() is None:
        return sys.executable
    system = f"/usr/bin/python3.{sys.version_info.minor}"
    if not os.path.exists(system):
        return None
    venv = open_folder() / "venv"
    subprocess.run([system, "-m", "venv", "--without-pip", str(venv)], check=True)
    here = Path(sysconfig.get_path("platlib"))
    there = venv / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    for name in _PACKAGES:
        if (here / name).is_dir():
            shutil.copytree(here / name, there / name, ignore=shutil.ignore_patterns("tests", "__pycache__"))
        elif (here / name).is_file():
            shutil.copy(here / name, there)
    return str(venv / "bin" / "python")


def without_landlock(confine: Path) -> None:
    """Change a copy of inside/confine.py so that it behaves as on a kernel that has no Landlock."""
    text = confine.read_text(encoding="utf-8")
    assert text.count(_NO_LANDLOCK) == 1
    confine.write_text(text.replace(_NO_LANDLOCK, "return -1"), encoding="utf-8")
