"""What stands around the code: README, CHANGELOG, forms, workflows, the container, and the two pages for assistants."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
PAIRS = [
    (path.with_name(path.name.replace(".zh.md", ".md")), path)
    for place in (".", "docs", "docs/release")
    for path in sorted((ROOT / place).glob("*.zh.md"))
    if path.name != "syllabus.zh.md"
]


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_the_changelog_begins_with_the_version_of_the_package() -> None:
    page = text(ROOT / "CHANGELOG.md")
    versions = re.findall(r"^## \[([^\]]+)\](?: - \d{4}-\d\d-\d\d)?$", page, re.MULTILINE)
    assert versions == re.findall(r"^## \[(.+?)\]", page, re.MULTILINE)
    numbered = [version for version in versions if version != "Unreleased"]
    assert numbered[0] == tomllib.loads(text(ROOT / "pyproject.toml"))["project"]["version"]
    assert len(set(versions)) == len(versions) and versions.index("Unreleased") == 0


def test_every_change_of_a_check_says_whether_to_regrade() -> None:
    releases = text(ROOT / "CHANGELOG.md").split("\n## ")[1:]
    for release in releases:
        parts = dict(re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", release, re.MULTILINE | re.DOTALL))
        assert list(parts) == ["Code", "Checks", "Texts"]
        fixes = [" ".join(item.split()) for item in re.split(r"^- ", parts["Checks"], flags=re.MULTILINE)[1:]]
        for fix in fixes:
            new = fix.startswith("Twelve weeks of checks")  # what is new has graded nobody
            assert new or re.search(r"\*\*Regrade: (needed|not needed)[^*]*\*\*$", fix), fix


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_page_and_its_translation_show_the_same(english: Path, chinese: Path) -> None:
    """The same headings by depth, commands and rows of tables; each leads to the other."""
    both = [text(english), text(chinese)]
    assert f"]({chinese.name})" in both[0] and f"]({english.name})" in both[1]
    plain = [re.sub(r"```.*?```", "", page, flags=re.DOTALL) for page in both]
    heads = [re.findall(r"^#+", page, re.MULTILINE) for page in plain]
    assert heads[0] == heads[1] and plain[0].count("\n|") == plain[1].count("\n|")
    if english.name in ("project.md", "reading.md"):  # their examples and lists are in their language
        return
    assert plain[0].count("\n- ") == plain[1].count("\n- ")
    code = [re.findall(r"```.*?```", page, re.DOTALL) for page in both]
    commands = [[re.sub(r"\s*#.*", "", block) for block in blocks] for blocks in code]
    assert commands[0] == commands[1]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_is_one_that_github_takes(path: Path) -> None:
    form = yaml.safe_load(text(path))
    assert set(form) == {"name", "description", "labels", "body"} and form["body"]
    ids = [one["id"] for one in form["body"] if one["type"] != "markdown"]
    assert len(ids) == len(set(ids)) > 1
    for one in form["body"]:
        assert set(one) <= {"type", "id", "attributes", "validations"}
        needed = {"markdown": "value", "dropdown": "options", "checkboxes": "options"}.get(one["type"], "label")
        assert one["type"] in ("markdown", "input", "textarea", "dropdown", "checkboxes") and needed in one["attributes"]
        assert set(one.get("validations", {"required": True})) == {"required"}
    assert any(one.get("validations", {}).get("required") for one in form["body"])


def test_there_are_the_forms_that_the_pages_name() -> None:
    assert {path.stem for path in FORMS} == {"check", "lecture", "bug"}
    assert yaml.safe_load(text(GITHUB / "ISSUE_TEMPLATE" / "config.yml")) == {"blank_issues_enabled": False}
    assert "CHANGELOG.md" in text(GITHUB / "pull_request_template.md")


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_do_little_and_ends(path: Path) -> None:
    workflow = yaml.safe_load(text(path))
    assert workflow["permissions"] == {"contents": "read"} and "pull_request_target" not in workflow["on"]
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 90 and job["runs-on"] == "ubuntu-24.04"
        assert set(job.get("permissions", {})) <= {"pages", "id-token"}
    for step in steps(workflow):
        assert ("run" in step) != ("uses" in step)
        assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/x@v1")), step
        assert "${{" not in step.get("run", "")  # nothing that somebody else names is put into a shell
        if step.get("uses", "").startswith("actions/checkout"):
            assert step["with"] == {"persist-credentials": False}
        for file in step.get("with", {}).get("cache-dependency-path", "").split():
            assert (ROOT / file).is_file()


def test_ci_runs_what_every_change_must_pass() -> None:
    workflow = yaml.safe_load(text(GITHUB / "workflows" / "ci.yml"))
    commands = "\n".join(step.get("run", "") for step in steps(workflow))
    assert ".ci/run" in commands.splitlines() and "kernel.apparmor_restrict_unprivileged_userns=0" in commands
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    (logs,) = (step for step in steps(workflow) if step.get("uses", "").startswith("actions/upload-artifact"))
    assert logs["if"] == "failure()" and logs["with"]["path"].startswith("build/")


def test_the_site_is_published_from_where_it_is_built() -> None:
    workflow = yaml.safe_load(text(GITHUB / "workflows" / "site.yml"))
    build, deploy = workflow["jobs"]["build"], workflow["jobs"]["deploy"]
    (upload,) = (step for step in build["steps"] if step.get("uses", "").startswith("actions/upload-pages-artifact"))
    assert upload["with"]["path"] == "build/site/html" and any(step.get("run") == "make site" for step in build["steps"])
    assert deploy["needs"] == "build" and deploy["permissions"] == {"pages": "write", "id-token": "write"}


def test_the_container_sets_itself_up() -> None:
    made = json.loads(text(ROOT / ".devcontainer" / "devcontainer.json"))
    assert made["postCreateCommand"] == "sh scripts/setup.sh" and 8888 in made["forwardPorts"]
    image = text(ROOT / ".devcontainer" / made["build"]["dockerfile"])
    wanted = tomllib.loads(text(ROOT / "pyproject.toml"))["project"]["requires-python"].removeprefix(">=")
    assert image.startswith(f"FROM python:{wanted}-")
    assert f"USER {made['remoteUser']}\n" in image


def test_an_assistant_of_a_student_is_told_in_both_languages_what_it_may_not() -> None:
    english, chinese = text(ROOT / "docs" / "release" / "AGENTS.md").split("\n# 致编程助手")
    assert english.count("\n- ") == chinese.count("\n- ") >= 8
    for part in (english, chinese):
        for name in ("exercises/", "autograder/recorded/", "autograder hint 4.2", "review.py"):
            assert name in part
    for command in re.findall(r"`make (\w+)`|`sh (scripts/\w+\.sh)`", text(ROOT / "AGENTS.md")):
        assert (ROOT / command[1]).is_file() if command[1] else f"\n{command[0]}:" in text(ROOT / "Makefile")


def test_the_shell_scripts_that_the_pages_name_parse() -> None:
    for name in ("scripts/setup.sh", "scripts/demo.sh", "scripts/test.sh", ".ci/run"):
        assert subprocess.run(["sh", "-n", name], cwd=ROOT, check=False).returncode == 0, name
