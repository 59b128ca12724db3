"""A week as a programming assignment of Gradescope: writes the zip that it takes, and is what runs in its container.

In the container, `python -m autograder.platforms.gradescope /autograder` grades what lies in `submission/` and writes
`results/results.json`, once every process that ran student code is dead. Where the grader fails there is no such file:
Gradescope then says that the autograder failed, and records no 0.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autograder import UserError, texts
from autograder.intake import clean
from autograder.judge.runner import ROOT
from autograder.manifest import Course, Week, load

TEMPLATES = Path(__file__).parent
SCRIPTS = ("run_autograder", "setup.sh")
CONFIG = "gradescope.json"
ISOLATIONS = ("auto", "bwrap", "process")
_TRIES = 2  # of a grader that failed
_OUTPUT = 20_000  # characters of one test
_TIME = (1980, 1, 1, 0, 0, 0)

_TEXTS = {
    "en": {
        "reduced": "Graded with reduced isolation (separate processes, no namespaces).",
        "unloadable": "Your submission could not be run:",
        "likely": "Likely misunderstanding:",
        "unattempted": "Not attempted: the stub's NotImplementedError is still there. Read {lecture}.",
        "passed": "passed",
        "wrong": "failed",
        "error": "error",
        "crash": "crashed",
        "timeout": "too slow",
        "gate": ", decides the task",
        "read": "Read {lecture}; `autograder check {task}` runs these checks on your machine.",
        "stretch": "stretch, no points",
        "cut": "... (cut here)",
        "notebook": "The lab notebook is graded elsewhere: its answers get no points here.",
    },
    "zh": {
        "reduced": "本次评分的隔离程度较低（仅使用独立进程，没有命名空间）。",
        "unloadable": "你的提交无法运行：",
        "likely": "可能的误解：",
        "unattempted": "尚未尝试：代码中仍是原来的 NotImplementedError。请阅读 {lecture}。",
        **{name: texts.STATUS_ZH[name] for name in ("passed", "wrong", "error", "crash", "timeout")},
        "gate": "，决定本任务得分",
        "read": "请阅读 {lecture}；在自己的电脑上运行 `autograder check {task}` 可重复这些检查。",
        "stretch": "拓展任务，不计分",
        "cut": "……（后文略）",
        "notebook": "实验笔记本另行评分，其中的答案不在此处计分。",
    },
}


class GradescopeError(UserError):
    """The zip cannot be written, or a submission cannot be graded here; the text is one line that says what to do."""


# --- on the instructor's machine ---


def write(out: Path, week: Week, lang: str = "en", isolation: str = "auto") -> int:
    """Write the zip for one week; the same sources give the same bytes. Returns how many files it has.

    Args:
        lang: "en" or "zh": of the texts that students read.
        isolation: "auto" takes bubblewrap where the container lets it; "bwrap" grades nothing elsewhere.

    Raises:
        GradescopeError: if `out` is something else than a zip of this command, or cannot be written.
    """
    from autograder.authoring.release import grader_files

    if out.exists() and not _is_ours(out):
        raise GradescopeError(f"{out} is there and no zip of this command: name another file")
    files = {name: (TEMPLATES / name).read_bytes() for name in SCRIPTS}
    settings = {"week": week.number, "lang": lang, "isolation": isolation}
    files[CONFIG] = (json.dumps(settings, indent=2) + "\n").encode()
    files["requirements.txt"] = "".join(f"{name}\n" for name in _dependencies()).encode()
    files |= {name: (ROOT / name).read_bytes() for name in grader_files(week)}
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, _TIME)
            info.create_system = 3  # Unix, whose modes follow
            info.external_attr = (0o100755 if name in SCRIPTS else 0o100644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, files[name])
    draft = out.with_name(f".{out.name}.new")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(data.getvalue())
        os.replace(draft, out)
    except OSError as error:
        raise GradescopeError(f"{out} cannot be written: {error.strerror}") from None
    return len(files)


def _is_ours(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return CONFIG in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def _dependencies() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return sorted(project["dependencies"])


# --- in Gradescope's container ---


def run(base: Path, course: Course) -> None:
    """Grade `base/submission` and write `base/results/results.json`, or no file there at all.

    Raises:
        UserError: if the submission was not graded.
    """
    began = time.perf_counter()
    target = base / "results" / "results.json"
    try:
        target.parent.chmod(0o700)  # before any student code runs
        target.unlink(missing_ok=True)
    except OSError as error:
        raise GradescopeError(f"{target} cannot be kept from student code: {error.strerror}") from None
    settings = json.loads((ROOT / CONFIG).read_text(encoding="utf-8"))
    week = course.week(settings["week"])
    isolation, told = choose(settings["isolation"])
    print(told)
    with tempfile.TemporaryDirectory(prefix="gradescope-") as folder:
        handed_in = Path(folder) / "submissions" / "submission"
        handed_in.mkdir(parents=True)
        # Links stay links, which are then refused; a copy, so that nothing can change while it is read.
        subprocess.run(["cp", "-RP", "--", f"{base / 'submission'}/.", str(handed_in)], check=True)
        notebook = any(handed_in.rglob(f"{week.folder}.ipynb"))
        result, run_record = _grade(handed_in.parent, week, Path(folder) / "results", course, isolation)
    answer = results_json(result, week, settings["lang"], notebook)
    answer["execution_time"] = round(time.perf_counter() - began, 1)
    answer["extra_data"] = {name: run_record[name] for name in ("week", "seed", "isolation", "manifest_sha256", "checks_sha256")}
    from autograder import results

    results.replace(target, json.dumps(answer, ensure_ascii=True, indent=1) + "\n")
    print(f"week {week.number}: {result['score']:g} of {result['max_score']} points, seed {run_record['seed']}")


def choose(wanted: str) -> tuple[str, str]:
    """The level of isolation for this container, and a line about it for the instructor.

    Raises:
        GradescopeError: if student code could read the solutions here.
    """
    from autograder.grading import sandbox
    from autograder.inside import confine

    problem = sandbox.bwrap_problem()
    if wanted == "bwrap" and problem:
        raise GradescopeError(f"this zip grades in bubblewrap alone, and here {problem.partition(';')[0]}")
    if wanted != "process" and not problem:
        return "bwrap", "isolation: bwrap"
    account = sandbox.account_problem()
    landlock = confine.landlock() > 0
    if account and not landlock:
        raise GradescopeError(f"student code could read the solutions here: no Landlock, and {account}")
    means = ["an account of its own" if account is None else "", "Landlock" if landlock else "", "a system call filter"]
    why = problem.partition(":")[0] if problem and wanted == "auto" else "asked for"
    return "process", f"isolation: process, reduced ({', '.join(filter(None, means))}); {why}"


def _grade(submissions: Path, week: Week, out: Path, course: Course, isolation: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The result, and the record of the run. The seed is new each time: what one failure showed helps no later try."""
    from autograder import results
    from autograder.grading import engine

    for _ in range(_TRIES):
        summary = engine.grade(submissions, week, out, course, jobs=1, isolation=isolation)
        result = summary.results[0]
        for line in summary.lines:
            print(clean(line))
        if result["status"] == "graded":
            return result, results.read_run(out) or {}
        print(clean(result["message"]))
    raise GradescopeError("not graded, and not through the student's fault: rerun the autograder for this submission")


def results_json(result: dict[str, Any], week: Week, lang: str, notebook: bool = False) -> dict[str, Any]:
    """What Gradescope reads, of one result. All texts are plain: nothing of a student's is markup.

    Args:
        notebook: whether a lab notebook was handed in as well.
    """
    texts = _TEXTS[lang]
    head = [texts["reduced"]] if result["isolation"] != "bwrap" else []
    if result["message"]:
        head += [texts["unloadable"], clean(result["message"])]
    head += [clean(notice) for notice in result["notices"]]
    head += [texts["notebook"]] if notebook else []
    titles = {task.id: task for task in week.tasks}
    return {
        "score": result["score"],
        "output": "\n".join(head),
        "output_format": "text",
        "test_output_format": "text",
        "test_name_format": "text",
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "tests": [_test(task, titles[task["id"]].title, titles[task["id"]].lecture, texts, lang) for task in result["tasks"]],
    }


def _test(task: dict[str, Any], title: Any, lecture: str, texts: dict[str, str], lang: str) -> dict[str, Any]:
    name = title.zh if lang == "zh" else title.en
    output = "\n".join(_lines(task, lecture, texts))
    test = {
        "number": task["id"],
        "name": name if task["max_score"] else f"{name} ({texts['stretch']})",
        "status": "passed" if task["status"] == "passed" else "failed",
        "output": output if len(output) <= _OUTPUT else f"{output[:_OUTPUT]}\n{texts['cut']}",
        "visibility": "visible",
    }
    # Without points a test is a note; with 0 of 0 it would be one that passed.
    return test | ({"score": task["score"], "max_score": task["max_score"]} if task["max_score"] else {})


def _lines(task: dict[str, Any], lecture: str, texts: dict[str, str]) -> Iterator[str]:
    if not task["checks"]:
        yield from map(clean, task["message"].splitlines())
        return
    if task["status"] == "unattempted":
        yield texts["unattempted"].format(lecture=lecture)
        return
    if task["misconception"]:
        yield f"{texts['likely']} {clean(task['misconception'])}"
        yield ""
    for check in task["checks"]:
        status = texts.get(check["status"], check["status"])
        gate = texts["gate"] if check["gate"] else ""
        yield f"- {status} ({check['weight']:g}{gate}): {clean(check['property'])}"
        if check["status"] not in ("passed", "unattempted"):
            yield from (f"    {clean(line)}" for line in check["message"].splitlines())
            if check["misconception"] and check["misconception"] != task["misconception"]:
                yield f"    {texts['likely']} {clean(check['misconception'])}"
    if task["status"] != "passed":
        yield ""
        yield texts["read"].format(lecture=lecture, task=task["id"])


def main(arguments: list[str]) -> int:
    """Grade in the container; the exit status is 0 only if there is a results.json."""
    try:
        run(Path(arguments[0]), load())
    except UserError as problem:
        print(f"autograder: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
