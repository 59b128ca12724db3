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

from autograder.authoring import syllabus
from autograder.judge.runner import ROOT
from autograder.manifest import Lang, Week
from autograder.reports import comments, sanitise
from autograder.reports.comments import Comment

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
    found = _misconceptions(week, result)
    if found:
        lines = [f"- {sanitise.markdown(known.said.of(lang) if known else told)}" for told, known, _ in found]
        sections.append(Section("可能的误解" if zh else "Likely misunderstandings", "\n".join(lines)))
    stub = (ROOT / "exercises" / week.folder / week.stub).read_text(encoding="utf-8")
    source = files.get(week.stub)
    if source is None:
        message = result["message"] if result else f"{week.stub} is missing"
        return [*sections, Section("提交的文件" if zh else "The file", sanitise.markdown(message)), _similar(flags, zh)]
    text = source.decode("utf-8", "replace")
    title = "学生写了什么：与模板的差异" if zh else "What was written: the difference from the stub"
    diff = difference(stub, text, week)
    sections.append(Section(title, sanitise.fenced(diff, "diff")))
    findings = ruff(files, lang)
    shown = sanitise.fenced("\n".join(findings)) if findings else ("没有发现问题。" if zh else "Nothing found.")
    sections.append(Section("ruff 的提示" if zh else "What ruff finds", shown))
    for name in sorted(files):
        if name.endswith(".py"):
            title = sanitise.markdown(name) if name != week.stub else ("完整文件" if zh else "The whole file")
            sections.append(Section(title, sanitise.fenced(files[name].decode("utf-8", "replace"), "python")))
    return [*sections, _comments(found, lang), _similar(flags, zh)]


def difference(stub: str, text: str, week: Week) -> str:
    """What was written into a stub file, as a unified diff."""
    names = f"exercises/{week.folder}/{week.stub}", week.stub
    return "\n".join(difflib.unified_diff(stub.splitlines(), text.splitlines(), *names, lineterm="", n=2))


def _comments(found: Sequence[tuple[str, Comment | None, str]], lang: Lang) -> Section:
    """What the TA may copy: of the misunderstandings of this submission, then the general remarks."""
    zh = lang == "zh"
    own = [f"- {known.text(lang, sanitise.markdown(shown))}" for _, known, shown in found if known]
    general = [f"- **{name}**{'：' if zh else ': '}{remark.of(lang)}" for name, remark in comments.general().items()]
    lead = "挑选合适的，改成自己的话，并注明行号。" if zh else "Pick what fits, make it your own, and name the line."
    parts = [lead, *(["\n".join(own)] if own else []), "一般性意见：" if zh else "In general:", "\n".join(general)]
    return Section("可直接复制的评语（仅供教师）" if zh else "Comments to copy (for staff)", "\n\n".join(parts), staff=True)


def _similar(flags: Sequence[tuple[str, float]], zh: bool) -> Section:
    title = "相似的提交（仅供教师）" if zh else "Similar submissions (for staff)"
    if not flags:
        return Section(title, "没有。" if zh else "None.", staff=True)
    lines = [f"- {share:.0%}: {sanitise.markdown(other)}" for other, share in flags]
    note = (
        "并排对照见结果文件夹中的 similar.html。相似只是线索，不是结论。"
        if zh
        else "Side by side: similar.html in the results folder. A flag is no verdict."
    )
    return Section(title, "\n".join([*lines, "", note]), staff=True)


def _misconceptions(week: Week, result: Mapping[str, Any] | None) -> list[tuple[str, Comment | None, str]]:
    """Each misunderstanding that a check has told, once: its text, the bank's comment where it knows it, the check's property."""
    told: dict[str, tuple[str, str]] = {}
    for task in (result or {}).get("tasks", ()):
        for check in task["checks"]:
            if check["misconception"]:
                told.setdefault(check["misconception"], (task["id"], check["property"]))
    if not told:
        return []
    known = {(one.task, one.said.en): one for one in comments.of(week)}
    return [(text, known.get((task, text)), shown) for text, (task, shown) in told.items()]


def ruff(files: Mapping[str, bytes], lang: Lang = "en") -> list[str]:
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
            return ["ruff 无法读取这些文件" if lang == "zh" else "ruff could not read the files"]
    own = {str(path): name for path, name in names} | {str(path.resolve()): name for path, name in names}
    lines = []
    for one in found[:_FINDINGS]:
        name = own.get(one["filename"], "")
        lines.append(f"{name}:{one['location']['row']}: {one['code'] or 'syntax'} {one['message'].splitlines()[0]}")
    if len(found) > _FINDINGS:
        more = len(found) - _FINDINGS
        lines.append(f"另有 {more} 条" if lang == "zh" else f"and {more} more")
    return lines


def rubric(week: Week, lang: Lang = "en") -> str:
    """The rubric of the week's review, as Markdown."""
    head = "### 代码评审" if lang == "zh" else "### Code review"
    return "\n\n".join([head, syllabus.rubric(week.review, lang)])
