"""One list of dependencies, and a README whose commands exist."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
CONSTRAINTS = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")
)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_environment_yml_says_no_more_than_pyproject() -> None:
    text = (ROOT / "environment.yml").read_text()
    listed = re.findall(r"^\s+- (.+?):?$", text, re.MULTILINE)
    python = PROJECT["requires-python"].removeprefix(">=")
    assert listed == ["conda-forge", f"python={python}", "pip", "pip", "-c constraints.txt", "-e .[dask,dev,labs,site]"]
    assert f"name: {PROJECT['name']}" in text


def test_every_dependency_is_pinned() -> None:
    pinned = {normal(name) for name in CONSTRAINTS}
    wanted = [dependency for extra in ("dask", "dev", "fuzz", "labs", "postgres", "site") for dependency in EXTRAS[extra]]
    wanted += PROJECT["dependencies"]
    assert {normal(name) for name in wanted} <= pinned
    assert CONSTRAINTS["torch"] == "2.13.0", "a local part, such as +cpu, is on no index but PyTorch's own"
    assert not [name for name in pinned if name.startswith("nvidia") and name != "nvidia-ml-py"]


def test_every_import_is_declared() -> None:
    main = PROJECT["dependencies"]
    _declared([*main, *EXTRAS["labs"], *EXTRAS["wandb"], *EXTRAS["site"]], "course", "solutions")
    _declared([*main, *EXTRAS["dask"], *EXTRAS["dev"]], "autograder")
    _declared([*main, *EXTRAS["dask"], *EXTRAS["dev"], *EXTRAS["labs"]], "benchmarks")


def _declared(names: list[str], *folders: str) -> None:
    found = set()
    template = ROOT / "course" / "project_template"  # a project of its own, with its own requirements
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py") if not path.is_relative_to(template)]
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    places = (ROOT / "autograder" / "bank", ROOT / "benchmarks", ROOT / "course" / "project_template")
    own = {"autograder", "course", "_pytest"} | {path.stem for place in places for path in place.rglob("*.py")}
    declared = {normal(name) for name in names} | {
        module for module, name in (("bs4", "beautifulsoup4"), ("sklearn", "scikit-learn"), ("zmq", "pyzmq")) if name in names
    }
    assert {normal(name) for name in found - own - set(sys.stdlib_module_names)} <= declared


def test_the_readmes_paths_exist() -> None:
    for page in [*ROOT.glob("[A-Z]*.md"), *(ROOT / "docs").glob("*.md")]:
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_help_teaches_and_imports_no_torch() -> None:
    program = (
        "import sys\nfrom autograder.cli import main\ntry: main(['--help'])\n"
        "except SystemExit: pass\nassert 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "autograder check 4.2" in result.stdout
