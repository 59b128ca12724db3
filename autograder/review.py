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

from autograder import sanitise
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


_RUBRIC: dict[Lang, tuple[tuple[str, int, str], ...]] = {
    "en": (
        ("Says what it computes", 5, "names of the field, shapes where they are not obvious, the equation's structure visible"),
        ("As short as the equation allows", 4, "no copies, no dead branches, no state that could be derived"),
        ("Errors and edges", 3, "raised where the contract wants them, before anything changes, with a text that helps"),
        ("Comments", 3, "say why; nothing is left that only served debugging"),
    ),
    "zh": (
        ("代码说明它在计算什么", 5, "使用领域通用的命名；形状不明显处有说明；看得出公式的结构"),
        ("公式允许的最短写法", 4, "没有重复代码、无用分支、可推导而出的状态"),
        ("错误与边界情形", 3, "在约定要求处、在任何改动之前抛出，文字有帮助"),
        ("注释", 3, "说明原因；没有只为调试而留下的内容"),
    ),
}


def rubric(week: Week, lang: Lang = "en") -> str:
    """The review's rubric, scaled to the week's points, as a Markdown table."""
    rows = _RUBRIC[lang]
    scale = week.points.review / sum(points for _, points, _ in rows)
    head = "### 代码评审" if lang == "zh" else "### Code review"
    table = ["| | 分 | |" if lang == "zh" else "| | points | |", "|---|---|---|"]
    table += [f"| {title} | {points * scale:g} | {text} |" for title, points, text in rows]
    return "\n".join([head, "", *table])
