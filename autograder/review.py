"""What a TA sees of one submission for the code review: as Markdown in which nothing of a student's runs."""

from __future__ import annotations

import difflib
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autograder import sanitise, syllabus
from autograder.judge.runner import ROOT
from autograder.manifest import Lang, Week

_FINDINGS = 40
_RULES = "E4,E7,E9,F,B,C4,C90,SIM,PLR1714,RET,PIE,N801,N802,N803,UP034"
_RUFF_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the material.

    Attributes:
        staff: whether students must not see it.
    """

    title: str
    text: str
    staff: bool = False


def material(
    week: Week,
    files: Mapping[str, bytes],
    result: Mapping[str, Any] | None,
    flags: Sequence[tuple[str, float]],
    lang: Lang = "en",
) -> list[Section]:
    """The sections that a TA reads before marking the review.

    Args:
        files: the student's, by path.
        result: a line of results.jsonl.
        flags: with whom the submission is flagged, from `similar.read_flags`.
    """
    zh = lang == "zh"
    sections = []
    told = _misconceptions(result)
    if told:
        sections.append(
            Section(
                "可能的误解" if zh else "Likely misunderstandings", "\n".join(f"- {sanitise.markdown(line)}" for line in told)
            )
        )
    stub = (ROOT / "exercises" / week.folder / week.stub).read_text(encoding="utf-8")
    source = files.get(week.stub)
    if source is None:
        message = result["message"] if result else f"{week.stub} is missing"
        return [*sections, Section("提交的文件" if zh else "The file", sanitise.markdown(message)), _similar(flags, zh)]
    text = source.decode("utf-8", "replace")
    diff = difflib.unified_diff(
        stub.splitlines(), text.splitlines(), f"exercises/{week.folder}/{week.stub}", week.stub, lineterm="", n=2
    )
    sections.append(
        Section(
            "与模板的差异" if zh else "What was written: the difference from the stub", sanitise.fenced("\n".join(diff), "diff")
        )
    )
    findings = ruff(files)
    shown = sanitise.fenced("\n".join(findings)) if findings else ("没有发现问题。" if zh else "Nothing found.")
    sections.append(Section("ruff 的提示" if zh else "What ruff finds", shown))
    for name in sorted(files):
        if name.endswith(".py"):
            title = sanitise.markdown(name) if name != week.stub else ("提交的文件" if zh else "The whole file")
            sections.append(Section(title, sanitise.fenced(files[name].decode("utf-8", "replace"), "python")))
    sections.append(_similar(flags, zh))
    return sections


def _similar(flags: Sequence[tuple[str, float]], zh: bool) -> Section:
    title = "相似的提交（仅供教师）" if zh else "Similar submissions (for staff)"
    if not flags:
        return Section(title, "没有。" if zh else "None.", staff=True)
    lines = [f"- {share:.0%}: {sanitise.markdown(other)}" for other, share in flags]
    note = (
        "并排对照见结果文件夹中的 similar.html。"
        if zh
        else "Side by side: similar.html in the results folder. A flag is no verdict."
    )
    return Section(title, "\n".join([*lines, "", note]), staff=True)


def _misconceptions(result: Mapping[str, Any] | None) -> list[str]:
    found = [check["misconception"] for task in (result or {}).get("tasks", ()) for check in task["checks"]]
    return list(dict.fromkeys(text for text in found if text))


def ruff(files: Mapping[str, bytes]) -> list[str]:
    """What ruff finds in a submission, with the course's own rules: nothing that the student wrote switches any off."""
    with tempfile.TemporaryDirectory(prefix="review-") as place:
        names = []
        for number, name in enumerate(sorted(name for name in files if name.endswith(".py"))):
            path = Path(place) / f"f{number}.py"
            path.write_bytes(files[name])
            names.append((path, name))
        if not names:
            return []
        command = [
            sys.executable,
            "-m",
            "ruff",
            "check",
            "--isolated",
            "--ignore-noqa",
            "--no-cache",
            "--quiet",
            "--line-length",
            "130",
        ]
        command += ["--select", _RULES, "--output-format", "json", *(str(path) for path, _ in names)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_RUFF_SECONDS, check=False)
            found = json.loads(done.stdout)
        except (subprocess.TimeoutExpired, ValueError):
            return ["ruff could not read the files"]
    own = {str(path): name for path, name in names} | {str(path.resolve()): name for path, name in names}
    lines = []
    for one in found[:_FINDINGS]:
        name = own.get(one["filename"], "")
        lines.append(f"{name}:{one['location']['row']}: {one['code'] or 'syntax'} {one['message'].splitlines()[0]}")
    if len(found) > _FINDINGS:
        lines.append(f"and {len(found) - _FINDINGS} more")
    return lines


def rubric(week: Week, lang: Lang = "en") -> str:
    """The rubric of the week's review, as Markdown."""
    head = "### 代码评审" if lang == "zh" else "### Code review"
    return "\n\n".join([head, syllabus.rubric(week.review, lang)])
