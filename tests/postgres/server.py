"""A PostgreSQL of the tests' own: in a temporary folder, on a Unix socket, as an account without rights."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

USER, DATABASE = "teacher", "gradebook"
DEBIAN = Path("/usr/lib/postgresql")


def programs() -> Path:
    """The folder with initdb and its like; Debian keeps them off the PATH."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    places = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not places:
        pytest.fail("PostgreSQL is not installed: apt install postgresql", pytrace=False)
    return places[-1].parent


@contextlib.contextmanager
def running() -> Iterator[str]:
    """A server with an empty database, and the database's URL; both are gone at the end."""
    folder = programs()
    place = Path(tempfile.mkdtemp(prefix="lora-pg-"))  # short: a socket's path may have 107 bytes
    account = "postgres" if os.geteuid() == 0 else None  # initdb refuses root; Debian's package made this account
    if account:
        shutil.chown(place, account)

    def call(name: str, *arguments: str) -> None:
        log = place / "commands.log"
        with open(log, "ab") as output:
            done = subprocess.run(
                [str(folder / name), *arguments], user=account, group=account, cwd="/", stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, timeout=120, check=False,
            )  # fmt: skip
        assert done.returncode == 0, f"{name}: {log.read_text(errors='replace')[-2000:]}"

    data = str(place / "data")
    try:
        call("initdb", "-D", data, "-U", USER, "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync")
        options = f"-k {place} -c listen_addresses= -c fsync=off"
        call("pg_ctl", "-D", data, "-w", "-l", str(place / "server.log"), "-o", options, "start")
        try:
            call("createdb", "-h", str(place), "-U", USER, DATABASE)
            yield f"postgresql+psycopg://{USER}@/{DATABASE}?host={place}"
        finally:
            call("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(place)
