"""The commands of somebody who works through the course: doctor, start, status, reset. They import neither torch nor pytest."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autograder import ROOT, UserError, texts
from autograder.manifest import Course, Lang, Task, Week, load
from autograder.screen import Cell, Screen, Span
from autograder.student import progress
from autograder.student.common import add_language, shown, stub_path, weeks_here
from autograder.student.progress import Entry

_FULL = 1 - 1e-9

_STATES = {
    "passed": ("passed", "green"),
    "partial": ("partly right", "yellow"),
    "failed": ("not right yet", "red"),
    "unattempted": ("not attempted", "dim"),
    "error": ("raises an error", "red"),
    "timeout": ("takes too long", "red"),
    progress.UNCHECKED: ("not checked", "dim"),
}


class LearnerError(UserError):
    """What was asked for cannot be done; the text is one line that says what to do."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser], formatter: Any) -> None:
    """Add the parsers of the four commands."""
    doctor = commands.add_parser(
        "doctor",
        help="say what is missing on this machine, and the remedy",
        description="Looks at Python, the packages, the notebooks' kernel, the course's files, disk, memory and the terminal,\n"
        "and prints a line for each: ok; note, where something is worth knowing; missing, where a check cannot run without it.\n"
        "It changes nothing and exits with 1 if something is missing.\n"
        "  autograder doctor\n"
        "  autograder doctor --json    to send to whoever helps you",
        formatter_class=formatter,
    )
    doctor.add_argument("--json", action="store_true", help="for programs")
    add_language(doctor)
    doctor.set_defaults(run=_doctor)

    start = commands.add_parser(
        "start",
        help="open a week: its goals, files and tasks, and what to type",
        description="Shows what a week is about, its files as paths from where you stand, its tasks with their points, and what\n"
        "to type next. A stub file that is gone is put back as it was released; one that is there is never touched.\n"
        "  autograder start        the week that `autograder status` calls next\n"
        "  autograder start 4",
        formatter_class=formatter,
    )
    start.add_argument("what", metavar="WEEK", nargs="?", help="4, say (default: the week that is next)")
    add_language(start)
    start.set_defaults(run=_start)

    status = commands.add_parser(
        "status",
        help="how far you are, and what is next",
        description="Shows the points that your own checks of each week gave, and which task is next. It runs no check: it\n"
        "reads what `autograder check` noted in .autograder/progress.json. That is feedback, no mark. Where a file was\n"
        "changed after its last check, it says so, and the points from before are the other part of the bar.\n"
        "  autograder status       all weeks\n"
        "  autograder status 4     one week, with the checks that failed",
        formatter_class=formatter,
    )
    status.add_argument("what", metavar="WEEK", nargs="?", help="4, say (default: all weeks)")
    status.add_argument("--json", action="store_true", help="for programs")
    add_language(status)
    status.set_defaults(run=_status)

    reset = commands.add_parser(
        "reset",
        help="put a task's code, or a week's file, back as it was released",
        description="Puts the functions of one task back to what the stub had when it was released, and leaves the rest of your\n"
        "file as it is, helpers and imports included; or with a week's number the whole file. The file as it was is copied to\n"
        "exercises/weekNN/.backup/ first, and the command that brings it back is printed.\n"
        "  autograder reset 4.2          the functions of task 4.2\n"
        "  autograder reset 4            the whole file\n"
        "  autograder reset 4.2 --yes    without a question",
        formatter_class=formatter,
    )
    reset.add_argument("what", metavar="WEEK[.TASK]", help="4.2 for one task, 4 for the whole file")
    reset.add_argument("--yes", "-y", action="store_true", help="do not ask")
    add_language(reset)
    reset.set_defaults(run=_reset)


# --- what is known of the tasks ---


@dataclass(frozen=True, slots=True)
class Standing:
    """A task and how it stands.

    Attributes:
        changed: whether the files were changed after the task's last check.
    """

    task: Task
    entry: Entry
    changed: bool

    @property
    def checked(self) -> bool:
        return self.entry.status != progress.UNCHECKED

    @property
    def points(self) -> float:
        return self.entry.share * self.task.points

    @property
    def full(self) -> bool:
        return self.entry.share >= _FULL


@dataclass(frozen=True, slots=True)
class Progress:
    """A week and how its tasks stand.

    Attributes:
        points: by checks of the file as it is now.
        earlier: by checks of the file as it was before its last change.
    """

    week: Week
    tasks: tuple[Standing, ...]

    @property
    def points(self) -> float:
        return sum(one.points for one in self.tasks if not one.changed)

    @property
    def earlier(self) -> float:
        return sum(one.points for one in self.tasks if one.changed)

    @property
    def changed(self) -> bool:
        return any(one.changed for one in self.tasks)

    @property
    def total(self) -> int:
        return sum(task.points for task in self.week.core)

    @property
    def begun(self) -> bool:
        return any(one.checked for one in self.tasks)

    @property
    def next(self) -> Standing | None:
        return next((one for one in self.tasks if not one.task.stretch and not one.full), None)


def survey(weeks: list[Week]) -> list[Progress]:
    """How the tasks of these weeks stand."""
    entries = progress.load()
    found = []
    for week in weeks:
        now = progress.digest(week)
        tasks = []
        for task in week.tasks:
            entry = entries.get(task.id, Entry())
            tasks.append(Standing(task, entry, entry.status != progress.UNCHECKED and entry.digest != now))
        found.append(Progress(week, tuple(tasks)))
    return found


# --- status ---


def _status(arguments: argparse.Namespace) -> int:
    lang: Lang = arguments.lang
    zh = lang == "zh"
    course = load()
    here = weeks_here(course)
    found = survey(here if arguments.what is None else [_week(course, arguments.what, lang)])
    if arguments.json:
        print(json.dumps(_status_json(found, lang), ensure_ascii=True, indent=1))
        return 0
    screen = Screen()
    if arguments.what is not None:
        _print_week(screen, found[0], lang)
        _print_next(screen, found, lang)
        return 0
    points, earlier = (sum(getattr(one, name) for one in found) for name in ("points", "earlier"))
    total = sum(one.total for one in found)
    screen.line(
        ("根据你最近的检查：" if zh else "By your last checks:", "bold"),
        (f"{points:.4g} / {total} 分" if zh else f"{points:.4g} of {total} points", "bold"),
        (f"（修改之前另有 {earlier:.4g} 分）" if zh else f"(and {earlier:.4g} before your last changes)", "yellow")
        if earlier
        else "",
    )
    print()
    heads = ("周", "", "得分", "任务", "") if zh else ("week", "", "points", "tasks", "")
    rows: list[list[Cell]] = []
    for one in found:
        note: list[Span] = [(one.week.title.of(lang), "" if one.begun else "dim")]
        if one.changed:
            note.append(("\n" + ("检查之后有改动" if zh else "changed since its last check"), "yellow"))
        rows.append([
            str(one.week.number),
            screen.bar(one.points / (one.total or 1), one.earlier / (one.total or 1)),
            f"{one.points:.4g}/{one.total}",
            _marks(screen, one),
            note,
        ])  # fmt: skip
    screen.table(rows, heads, right=(0, 2))
    passed, partly, wrong, nothing = screen.marks
    print()
    legend = (
        f"{passed} 通过  {partly} 部分通过  {wrong} 未通过  {nothing} 未尝试  + 之后：拓展任务，不计分"
        if zh
        else f"{passed} passed  {partly} partly right  {wrong} not right  {nothing} nothing yet  + stretch tasks, no points"
    )
    screen.line((legend, "dim"))
    if missing := [week.number for week in course.weeks if week not in here]:
        numbers = "、".join(map(str, missing)) if zh else ", ".join(map(str, missing))
        screen.paragraph((f"本份课程文件中没有第 {numbers} 周" if zh else f"not in this copy: weeks {numbers}", "dim"))
    _print_next(screen, found, lang)
    return 0


def _print_week(screen: Screen, one: Progress, lang: Lang) -> None:
    zh = lang == "zh"
    week = one.week
    number = f"第 {week.number} 周" if zh else f"Week {week.number}"
    screen.paragraph((f"{number} · {week.title.of(lang)}", "bold"))
    bar = screen.bar(one.points / (one.total or 1), one.earlier / (one.total or 1), width=20)
    before = (f"（修改之前另有 {one.earlier:.4g} 分）" if zh else f"(and {one.earlier:.4g} before your last change)", "yellow")
    figure = f"{one.points:.4g} / {one.total} 分" if zh else f"{one.points:.4g} of {one.total} points"
    screen.line(bar, figure, before if one.earlier else "")
    print()
    _print_tasks(screen, one, lang, states=True)
    if one.changed:
        screen.line(("  * 此次检查之后文件有改动" if zh else "  * the file was changed since this check", "yellow"))


def _print_tasks(screen: Screen, one: Progress, lang: Lang, states: bool) -> None:
    """The tasks, the stretch tasks apart; with their states in full, or with the minutes that they take."""
    zh = lang == "zh"
    rows: list[list[Cell]] = []
    for s in sorted(one.tasks, key=lambda s: s.task.stretch):
        if s.task.stretch and rows and not any(row[1] == "" for row in rows):
            rows.append([""] * len(rows[0]))
        row: list[Cell] = [_mark(screen, s), s.task.id]
        if s.task.stretch:
            row.append(("拓展" if zh else "stretch", "dim"))
        elif states:
            row.append(f"{s.points:.4g}/{s.task.points}")
        else:
            row.append(f"{s.task.points} 分" if zh else f"{s.task.points} points")
        if states:
            rows.append([*row, _state(s, lang), [(s.task.title.of(lang), ""), *_story(s, one.week, lang)]])
        else:
            rows.append([*row, f"{s.task.minutes} 分钟" if zh else f"{s.task.minutes} min", s.task.title.of(lang)])
    screen.table(rows, right=(2,) if states else (2, 3), indent=2)
    if any(s.task.stretch for s in one.tasks):
        screen.line(("  拓展任务会检查，但不计分" if zh else "  stretch tasks are checked, but carry no points", "dim"))


def _state(one: Standing, lang: Lang) -> Span:
    en, style = _STATES[one.entry.status]
    return (texts.STATUS_ZH[one.entry.status] if lang == "zh" else en) + " *" * one.changed, style


def _story(one: Standing, week: Week, lang: Lang) -> list[Span]:
    """What a task's last check said, as further lines."""
    from autograder.intake import clean, printable

    zh = lang == "zh"
    entry = one.entry
    found: list[Span] = []
    if entry.failing:
        told = "先失败的检查项：" if zh else "failed first: "
        stated = texts.property_of(week, entry.failing, lang) or entry.failing
        found.append(("\n" + told + clean(stated), _STATES[entry.status][1]))
    if misconception := (entry.misconception_zh if zh else None) or entry.misconception:
        found.append(("\n" + ("可能的误解：" if zh else "likely misunderstanding: ") + printable(misconception), ""))
    if entry.hint:
        found.append(("\n" + (f"已看提示：{entry.hint}" if zh else f"hints seen: {entry.hint}"), "dim"))
    return found


def _marks(screen: Screen, one: Progress) -> list[Span]:
    """The states of a week's tasks, a character each."""
    core, stretch = ([_mark(screen, s) for s in one.tasks if s.task.stretch is kind] for kind in (False, True))
    return [*core, *([(" + ", "dim"), *stretch] if stretch else [])]


def _mark(screen: Screen, one: Standing) -> Span:
    passed, partly, wrong, nothing = screen.marks
    shapes = {"passed": passed, "partial": partly, "unattempted": nothing, progress.UNCHECKED: nothing}
    return shapes.get(one.entry.status, wrong), _STATES[one.entry.status][1]


def _print_next(screen: Screen, found: list[Progress], lang: Lang) -> None:
    print()
    for label, commands in _next_lines(found, lang):
        screen.line((label, "bold") if label else "", *commands)


def _next_lines(found: list[Progress], lang: Lang) -> list[tuple[str, list[Cell]]]:
    zh = lang == "zh"
    one = _next(found)
    if one is None:
        changed = [p.week.number for p in found if p.changed]
        if changed:
            told = "都通过了，但此后有改动：" if zh else "All passed, but changed since:"
            return [(told, [(f"autograder check {changed[0]}", "cyan")])]
        return [("核心任务都已通过。" if zh else "All core tasks have full marks.", [])]
    task = one.task
    about = f"{task.id} {task.title.of(lang)}"
    lines: list[tuple[str, list[Cell]]] = [("下一步：" if zh else "Next:", [about])]
    lines.append(("", [("  " + (_command(found) or ""), "cyan")]))
    if one.checked and one.entry.status != "unattempted":
        lines.append(("", [(f"  autograder hint {task.id}", "cyan"), "（卡住时）" if zh else " when you are stuck"]))
    return lines


def _next(found: list[Progress]) -> Standing | None:
    """The first core task that is not at full marks, in the course's order."""
    return next((one.next for one in found if one.next), None)


def _command(found: list[Progress]) -> str | None:
    """What to type for it: a week that is not begun is opened first."""
    for one in found:
        if task := one.next:
            return f"autograder check {task.task.id}" if one.begun else f"autograder start {one.week.number}"
    return None


def _status_json(found: list[Progress], lang: Lang) -> dict[str, Any]:
    def of_task(one: Standing) -> dict[str, Any]:
        entry = one.entry
        return {
            "id": one.task.id, "title": one.task.title.of(lang), "stretch": one.task.stretch, "points": round(one.points, 4),
            "of": one.task.points, "status": entry.status, "changed": one.changed, "failing": entry.failing,
            "misconception": entry.misconception, "hint": entry.hint,
        }  # fmt: skip

    one = _next(found)
    return {
        "weeks": [
            {
                "week": p.week.number, "title": p.week.title.of(lang), "points": round(p.points, 4),
                "earlier": round(p.earlier, 4), "of": p.total, "tasks": [of_task(s) for s in p.tasks],
            }
            for p in found
        ],
        "next": None if one is None else {"task": one.task.id, "command": _command(found)},
    }  # fmt: skip


# --- start ---


def _start(arguments: argparse.Namespace) -> int:
    lang: Lang = arguments.lang
    zh = lang == "zh"
    course = load()
    if arguments.what is None:
        found = survey(weeks_here(course))
        if not found:
            raise LearnerError("本份课程文件中没有任何一周" if zh else "this copy of the course has no week: get its files again")
        one = next((p for p in found if p.next), found[-1])
    else:
        (one,) = survey([_week(course, arguments.what, lang)])
    week = one.week
    put_back = _put_back(week, lang)
    screen = Screen()
    screen.paragraph((f"第 {week.number} 周 · {week.title.zh}" if zh else f"Week {week.number} · {week.title.en}", "bold"))
    minutes = sum(task.minutes for task in week.core)
    figures = (
        f"{one.total} 分，核心任务约 {minutes} 分钟" if zh else f"{one.total} points, about {minutes} minutes for the core tasks"
    )
    screen.line((figures, "dim"))
    print()
    screen.line(("学完之后你能：" if zh else "What you learn", "bold"))
    for text in week.objectives.of(lang):
        screen.paragraph(_plain(text), indent=2, first="- ")
    print()
    screen.line(("文件" if zh else "Files", "bold"))
    rows: list[list[Cell]] = []
    for name, path in _files(week, lang):
        note = ("（原已缺失，现已放回）" if zh else " (it was missing: put back)") if put_back and path == stub_path(week) else ""
        rows.append([name, [(shown(path), "cyan"), (note, "yellow")]])
    screen.table(rows, indent=2)
    print()
    screen.line(("任务" if zh else "Tasks", "bold"))
    _print_tasks(screen, one, lang, states=False)
    print()
    screen.line(("接下来" if zh else "What to type next", "bold"))
    typed: list[list[Cell]] = [[("autograder status", "cyan"), "查看进度" if zh else "how far you are"]]
    if one.next is None:
        told = "核心任务都已通过；可随时再检查" if zh else "all core tasks have full marks; check again when you like"
        typed.insert(0, [(f"autograder check {week.number}", "cyan"), told])
    else:
        name = one.next.task.id
        typed.insert(0, [(f"autograder check {name}", "cyan"), f"补全 {name} 之后检查" if zh else f"once {name} is written"])
        typed.insert(1, [(f"autograder hint {name}", "cyan"), "卡住时查看提示" if zh else "when you are stuck"])
    screen.table(typed, indent=2)
    return 0


def _files(week: Week, lang: Lang) -> list[tuple[str, Path]]:
    """The week's files that this copy has, each with what it is."""
    zh = lang == "zh"
    course, page = ROOT / "course" / week.folder, ".zh.md" if zh else ".md"
    notebooks = ROOT / "notebooks" / "zh" if zh else ROOT / "notebooks"
    found = [
        ("讲义" if zh else "lecture", course / f"lecture{page}"),
        ("待补全的代码" if zh else "stub, to complete", stub_path(week)),
        ("笔记本" if zh else "notebook", notebooks / f"{week.folder}.ipynb"),
        ("导读" if zh else "reading guide", course / f"reading{page}"),
        ("找错练习" if zh else "code with bugs to find", course / "review.py"),
    ]
    return [(name, path) for name, path in found if path.is_file()]


def _put_back(week: Week, lang: Lang) -> bool:
    """Write the released stub where there is none; whether that was so."""
    path = stub_path(week)
    if path.exists():
        return False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "x", encoding="utf-8", newline="\n") as file:
            file.write(_released(week, lang))
    except FileExistsError:
        return False
    except OSError as error:
        raise _unwritable(path, error, lang) from None
    return True


# --- reset ---


def _reset(arguments: argparse.Namespace) -> int:
    lang: Lang = arguments.lang
    zh = lang == "zh"
    course = load()
    week, task = _target(course, arguments.what, lang)
    path = stub_path(week)
    place = shown(path)
    if not path.exists():
        told = f"{place} 不存在：用 `autograder start {week.number}` 放回"
        raise LearnerError(told if zh else f"{place} is not there: `autograder start {week.number}` puts it back")
    stub = _released(week, lang)
    try:
        old = path.read_bytes()
    except OSError as error:
        raise _unwritable(path, error, lang) from None
    new, names = _changed(old, stub, week, task, place, lang)
    if new == old:
        what = task.id if task else place
        print(f"{what} 与发布时相同，无需改动" if zh else f"{what} is as it was released: nothing to do")
        return 0
    if not arguments.yes:
        if task:
            what = f"{place} 中的 {'、'.join(names)} 恢复为发布时的代码" if zh else f"{', '.join(names)} in {place}"
        else:
            what = f"整个文件 {place} 恢复为发布时的内容" if zh else f"the whole of {place}"
        if not _agreed(f"{what}。" if zh else f"{what} goes back to what was released.", lang):
            print("未作任何改动" if zh else "nothing was changed")
            return 1
    try:
        backup = _backup(path, old)
        _write(path, new)
    except OSError as error:
        raise _unwritable(path, error, lang) from None
    progress.forget([task.id] if task else [one.id for one in week.tasks])
    screen = Screen()
    what = ("、" if zh else ", ").join(names) or place
    screen.line(("已恢复为发布时的代码：" if zh else "as it was released:", "bold"), what)
    screen.line("之前的文件：" if zh else "the file before:", (shown(backup), "cyan"))
    screen.line("取回：" if zh else "to bring it back:", (_copy_command(backup, path), "cyan"))
    return 0


def _changed(old: bytes, stub: str, week: Week, task: Task | None, place: str, lang: Lang) -> tuple[bytes, list[str]]:
    """The file's new bytes, and the functions that are put back; none where it is the whole file.

    Raises:
        LearnerError: if the task's code cannot be found in the file.
    """
    from autograder.student import pristine

    zh, whole = lang == "zh", f"autograder reset {week.number}"
    mark = b"\xef\xbb\xbf" if old.startswith(b"\xef\xbb\xbf") else b""  # some editors on Windows begin a file with it
    if task is None:
        ending = "\r\n" if old.count(b"\r\n") * 2 > old.count(b"\n") else "\n"
        return mark + stub.replace("\n", ending).encode(), []
    try:
        text = old[len(mark) :].decode("utf-8")
        return mark + pristine.restored(text, stub, task).encode(), pristine.names(stub, task)
    except UnicodeDecodeError:
        told = f"{place} 不是 UTF-8 文本：请存为 UTF-8，或用 `{whole}` 恢复整个文件"
        raise LearnerError(
            told if zh else f"{place} is not UTF-8 text: save it as UTF-8, or `{whole}` for the whole file"
        ) from None
    except pristine.Unparsable as problem:
        at = f"{place}:{problem.line}" if problem.line else place
        told = f"{at} 处不是合法的 Python，无法找到 {task.id} 的代码：请先改正，或用 `{whole}` 恢复整个文件"
        en = f"{at} is no valid Python, so the code of {task.id} cannot be found: mend it, or `{whole}` for the whole file"
        raise LearnerError(told if zh else en) from None
    except pristine.Lacking as problem:
        told = f"{place} 中没有 {problem.name}：用 `{whole}` 恢复整个文件"
        raise LearnerError(told if zh else f"{place} has no {problem.name}: `{whole}` puts the whole file back") from None


def _agreed(question: str, lang: Lang) -> bool:
    """Ask on the terminal.

    Raises:
        LearnerError: if there is none.
    """
    if not (sys.stdin and sys.stdin.isatty()):
        told = "没有终端可以询问：确定要恢复时请加 --yes"
        raise LearnerError(told if lang == "zh" else "there is no terminal to ask on: add --yes if you are sure")
    try:
        answer = input(f"{question} {'确定吗？' if lang == 'zh' else 'Sure?'} [y/N] ")
    except EOFError:
        print()
        return False
    return answer.strip().lower() in ("y", "yes", "是")


def _backup(path: Path, data: bytes) -> Path:
    """Keep a copy of a file beside it, in .backup, under a name of its own."""
    folder = path.parent / ".backup"
    folder.mkdir(exist_ok=True)
    stem, count = f"{path.stem}-{time.strftime('%Y%m%d-%H%M%S')}", 1
    while True:
        place = folder / (f"{stem}.py" if count == 1 else f"{stem}-{count}.py")
        try:
            with open(place, "xb") as file:
                file.write(data)
            return place
        except FileExistsError:
            count += 1


def _write(path: Path, data: bytes) -> None:
    """Replace a file's contents, whole or not at all; a link stays a link."""
    path = path.resolve()
    import tempfile

    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        shutil.copymode(path, name)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _copy_command(source: Path, target: Path) -> str:
    if sys.platform == "win32":  # in cmd and in PowerShell
        return f'copy "{shown(source)}" "{shown(target)}"'
    return f"cp {shlex.quote(shown(source))} {shlex.quote(shown(target))}"


# --- doctor ---


def _doctor(arguments: argparse.Namespace) -> int:
    from autograder.student import doctor

    findings = list(doctor.examine(load(), arguments.lang))
    if arguments.json:
        print(json.dumps([finding.json() for finding in findings], ensure_ascii=True, indent=1))
    else:
        doctor.show(findings, Screen(), arguments.lang)
    return 1 if any(finding.level == "missing" for finding in findings) else 0


# --- what the user names ---


def _week(course: Course, text: str, lang: Lang) -> Week:
    """The week that "4" or "week04" means, if this copy has it.

    Raises:
        LearnerError: if it means none, or the copy has not.
    """
    zh = lang == "zh"
    match = re.fullmatch(r"(?:week)?0*([1-9][0-9]{0,2})", text.strip().lower())
    if match is None:
        raise LearnerError(f'"{text}" 不是周次：请写数字，例如 4' if zh else f'"{text}" is no week: give its number, such as 4')
    number, here = int(match[1]), weeks_here(course)
    if found := [week for week in here if week.number == number]:
        return found[0]
    known = ", ".join(str(week.number) for week in here) or ("无" if zh else "none")
    raise LearnerError(
        f"本份课程文件中没有第 {number} 周；现有：{known}" if zh else f"there is no week {number} in this copy; it has: {known}"
    )


def _target(course: Course, text: str, lang: Lang) -> tuple[Week, Task | None]:
    """The week, and the task if one is named, that "4" or "4.2" means.

    Raises:
        LearnerError: if it means neither.
    """
    number, dot, _ = text.partition(".")
    week = _week(course, number, lang)
    if not dot:
        return week, None
    wanted = f"{week.number}.{text.strip().partition('.')[2].lstrip('0')}"
    for task in week.tasks:
        if task.id == wanted:
            return week, task
    known = ", ".join(task.id for task in week.tasks)
    raise LearnerError(
        f'没有任务 "{text}"；本周有 {known}' if lang == "zh" else f'there is no task "{text}"; the week has {known}'
    )


def _released(week: Week, lang: Lang) -> str:
    """The released stub.

    Raises:
        LearnerError: if this copy does not have it.
    """
    from autograder.student import pristine

    try:
        return pristine.source(week)
    except pristine.Unavailable:
        place = f"autograder/recorded/{week.folder}.zip"
        told = f"{place} 缺失、损坏或过旧：请重新获取课程文件"
        en = f"{place} is missing, damaged or from an older release: get the course's files again"
        raise LearnerError(told if lang == "zh" else en) from None


def _unwritable(path: Path, error: OSError, lang: Lang) -> LearnerError:
    why = texts.refusal(error.strerror or type(error).__name__, lang)
    if lang == "zh":
        return LearnerError(f"{shown(path)} 无法读写（{why}）：请关闭占用它的程序，并检查文件夹权限")
    return LearnerError(f"{shown(path)} cannot be read or written ({why}): close what holds it, and see the folder's permissions")


def _plain(text: str) -> str:
    """A line of the manifest without its Markdown."""
    return text.replace("`", "")
