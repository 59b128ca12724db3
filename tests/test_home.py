"""At home, too, a package that would do the exercise cannot be imported."""

from __future__ import annotations

import sys

import pytest

from autograder import cli, home
from autograder.manifest import Week


def test_hidden_packages_come_back(week: Week) -> None:
    assert "loralib" in week.hidden_packages
    with home.hidden_packages(week):
        for name in ("loralib", "loralib.layers"):
            with pytest.raises(ModuleNotFoundError, match="loralib cannot be imported in week 4"):
                __import__(name)
        import json.tool  # noqa: F401
    with pytest.raises(ModuleNotFoundError, match="No module named 'loralib'"):
        __import__("loralib")


def test_check_says_so(tmp_path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == "peft"]:
        monkeypatch.delitem(sys.modules, name)  # another test may have imported it
    stub = tmp_path / "lora_linear.py"
    stub.write_text("import peft\n")
    assert cli.main(["check", "4.1", "--file", str(stub)]) == 1
    said = capsys.readouterr().out
    assert "peft cannot be imported in week 4" in said and "0 of 25 points" in said
