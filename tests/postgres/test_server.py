"""Nightly must not pass where there is no PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.postgres import server


def test_without_postgresql_nightly_fails_and_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(server, "DEBIAN", tmp_path)
    with pytest.raises(pytest.fail.Exception, match=r"^PostgreSQL is not installed: apt install postgresql$"), server.running():
        pass


def test_the_newest_of_debians_versions_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(server, "DEBIAN", tmp_path)
    for version in ("9", "15"):
        (tmp_path / version / "bin").mkdir(parents=True)
        (tmp_path / version / "bin" / "initdb").touch()
    assert server.programs() == tmp_path / "15" / "bin"
