"""`autograder submit`: a zip file that the grader takes, and a receipt for it."""

from __future__ import annotations

import argparse
import ast
import hashlib
import io
import json
import os
import re
from pathlib import Path
from typing import Any

from autograder import ROOT, UserError, texts
from autograder.manifest import Course, Lang, Week, load
from autograder.student import common

NOTEBOOKS = ROOT / "autograder" / "recorded" / "notebooks.json"  # of a release: what its notebooks are like untouched
_PLACES: dict[Lang, str] = {"en": "notebooks", "zh": "notebooks/zh"}
_STUDENT = re.compile(r"\w[\w.@+-]{0,63}")


class SubmitError(UserError):
    """Nothing can be handed in as it is; the text is one line that says what to do."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser], formatter: Any) -> None:
    """Add the command to the command line."""
    submit = commands.add_parser(
        "submit",
        help="make the zip file to hand in",
        description="Packs the week's stub file, the .py files beside it and the week's notebook, if you worked on it, and\n"
        "reads the result as the grader will, so that nothing is lost on the way. It runs and sends nothing. It writes\n"
        "  submissions/week04-ada.zip            hand this in; without --student it is week04.zip\n"
        "  submissions/week04-ada.receipt.json   keep this: what is in it, and its receipt\n"
        "The feedback page of the marking run shows the receipt of what was marked.\n"
        "  autograder submit 4 --student ada\n"
        "  autograder submit --verify submissions/week04-ada.zip",
        formatter_class=formatter,
    )
    submit.add_argument("week", metavar="WEEK", nargs="?", help="4, say")
    submit.add_argument("--student", metavar="ID", help="your id in this course, for the file's name")
    submit.add_argument("--notebook", metavar="PATH", type=Path, help="the notebook to hand in (default: the one you worked on)")
    submit.add_argument("--verify", metavar="ZIP", type=Path, help="compute the receipt of a zip file again; writes nothing")
    # No default: who worked on both notebooks and says no language is asked which.
    submit.add_argument("--lang", choices=("en", "zh"), help="of the messages and the notebook (default: that of the system)")
    submit.set_defaults(run=run, language=common.language)


def run(arguments: argparse.Namespace) -> int:
    """Write the zip file and its receipt, or verify one."""
    course = load()
    lang: Lang = arguments.lang or arguments.language()
    if arguments.verify is not None:
        return _verify(course, arguments.verify, _week(course, arguments.week) if arguments.week else None, lang)
    if arguments.week is None:
        raise SubmitError("name the week, such as `autograder submit 4`, or a file with --verify")
    week = _week(course, arguments.week)
    student = arguments.student
    if student is not None and not _STUDENT.fullmatch(student):
        raise SubmitError("--student is your id alone: letters, digits and . _ - @ +, without spaces")
    folder = ROOT / "submissions"
    name = f"{week.folder}-{student}" if student else week.folder
    files, left_out = collect(week)
    notebook = _notebook(week, arguments.notebook, arguments.lang, lang)
    if notebook is not None:
        files[f"{week.folder}.ipynb"] = notebook
    data = pack(files)
    receipt, notices = _receipt(data, week, student, f"{name}.zip")
    path = folder / f"{name}.zip"
    _replace(path, data)
    text = json.dumps(receipt, indent=2, ensure_ascii=False) + "\n"
    _replace(path.with_suffix(".receipt.json"), text.encode())
    for line in [*left_out, *notices, *_warnings(week, files, notebook is not None, lang)]:
        print(f"{_say(lang, 'note', '注意')}: {texts.refusal(line, lang)}")
    print(f"{path}  ({_size(len(data))}, {', '.join(sorted(files))})")
    print(f"{_say(lang, 'receipt', '回执')}: {short(receipt['submission'])}")
    return 0


def short(digest: str) -> str:
    """A receipt as people read it: the first 16 digits."""
    return digest[:16]


def collect(week: Week, folder: Path | None = None) -> tuple[dict[str, bytes], list[str]]:
    """The stub file and the .py files beside it by name, and a line for each thing that is left out.

    Args:
        folder: where they are; by default exercises/weekNN.

    Raises:
        SubmitError: if the stub file is not there.
    """
    from autograder import intake
    from autograder.student import home

    folder = folder or ROOT / "exercises" / week.folder
    stub = folder / week.stub
    if not folder.is_dir() or week.stub not in os.listdir(folder):
        near = home.renamed(week.stub, os.listdir(folder) if folder.is_dir() else [])
        what = f"but {near} is: rename it to {week.stub}" if near else f"get it back with `autograder start {week.number}`"
        raise SubmitError(f"{stub} is not there, {what}")
    files: dict[str, bytes] = {}
    left_out = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not intake.hidden(name))
        for name in sorted(names):
            path = Path(place) / name
            shown = path.relative_to(folder).as_posix()
            if intake.hidden(name):
                continue
            if path.suffix != ".py":
                left_out.append(_left_out(shown, "only .py files are handed in"))
            elif path.is_symlink() or not path.is_file():
                left_out.append(_left_out(shown, "it is a link or no file"))
            elif path.stat().st_size > week.limits.file_kib << 10:
                left_out.append(_left_out(shown, f"it is larger than {week.limits.file_kib} KiB"))
            else:
                files[shown] = path.read_bytes()
    return files, left_out


def _left_out(name: str, why: str) -> str:
    return f"{name}: left out, {why}"


def pack(files: dict[str, bytes]) -> bytes:
    """A zip file: the same bytes for the same files."""
    import zipfile  # as slow to import as all the rest, and --help needs none of it

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in sorted(files.items()):
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o100644 << 16
            archive.writestr(info, data, zipfile.ZIP_DEFLATED, 9)
    return packed.getvalue()


def _receipt(data: bytes, week: Week, student: str | None, name: str) -> tuple[dict[str, Any], list[str]]:
    """What a zip file holds, as the grader reads it, and the grader's notices.

    Raises:
        SubmitError: if the grader would refuse it.
    """
    from autograder import intake

    read = intake.read_archive(student or week.folder, data, week, name)
    if read.problem:
        raise SubmitError(read.problem)
    files = dict(read.files)
    notebook = intake.notebook_in(data, week)
    if isinstance(notebook, bytes):
        files[f"{week.folder}.ipynb"] = notebook
    import datetime

    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    listed = [
        {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in sorted(files.items())
    ]
    receipt = {"week": week.number, "student": student, "time": now.isoformat(), "submission": read.digest(), "files": listed}
    return receipt, list(read.notices)


def _verify(course: Course, path: Path, week: Week | None, lang: Lang) -> int:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SubmitError(f"{path} cannot be read: {error.strerror}") from None
    week = week or _week_of(course, path, data)
    receipt, notices = _receipt(data, week, None, path.name)
    digest = receipt["submission"]
    for line in notices:
        print(f"{_say(lang, 'note', '注意')}: {texts.refusal(line, lang)}")
    for file in receipt["files"]:
        print(f"  {file['name']}  {_size(file['size'])}")
    print(f"{_say(lang, 'receipt', '回执')}: {short(digest)}  ({_say(lang, 'in full', '完整')}: {digest})")
    beside = path.with_suffix(".receipt.json")
    if not beside.is_file():
        return 0
    try:
        known = json.loads(beside.read_text(encoding="utf-8"))
        same = known["submission"] == digest and known["files"] == receipt["files"]
    except (OSError, ValueError, KeyError, TypeError):
        raise SubmitError(f"{beside} is no receipt: delete it, or run `autograder submit {week.number}` again") from None
    if same:
        print(_say(lang, f"as {beside.name} says", f"与 {beside.name} 一致"))
        return 0
    print(_say(lang, f"NOT what {beside.name} says", f"与 {beside.name} 不一致"))
    return 1


def _week_of(course: Course, path: Path, data: bytes) -> Week:
    """The week that a zip file is for: by its name, else by the stub file in it."""
    weeks = [week for week in course.weeks if week.tasks]
    for week in weeks:
        if re.match(rf"{week.folder}(\W|_|$)", path.stem):
            return week
    from autograder import intake

    for week in weeks:
        if week.stub in intake.read_archive("", data, week, path.name).files:
            return week
    raise SubmitError(f"{path} is of no week that can be told: name it, `autograder submit 4 --verify {path}`")


def _notebook(week: Week, given: Path | None, asked: Lang | None, lang: Lang) -> bytes | None:
    """The notebook to hand in: the one that was worked on.

    Raises:
        SubmitError: if it cannot be told which, or it is not a notebook that the grader takes.
    """
    from autograder.intake import MAX_NOTEBOOK

    if not week.questions:
        return None
    path = given
    if path is None:
        found = {lang: ROOT / place / f"{week.folder}.ipynb" for lang, place in _PLACES.items()}
        worked = {lang: path for lang, path in found.items() if _worked_on(path)}
        if len(worked) > 1 and asked is None:
            one, other = (path.relative_to(ROOT).as_posix() for path in worked.values())
            raise SubmitError(f"you worked on {one} and {other}: say which to hand in with --notebook")
        path = worked.get(lang) or next(iter(worked.values()), None)
        if path is None:
            return None
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SubmitError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_NOTEBOOK:
        raise SubmitError(f"{path} is larger than {MAX_NOTEBOOK >> 20} MiB: clear its outputs, and submit again")
    if _cells(data) is None:
        raise SubmitError(f"{path} is not a Jupyter notebook: name the .ipynb file with --notebook")
    return data


def _worked_on(path: Path) -> bool:
    """Whether a notebook was run, or has other cells than the released one, as far as that one is known."""
    try:
        data = path.read_bytes()
        cells = _cells(data)
    except OSError:
        return False
    if cells is None:
        return True  # damaged, and not by us: to be told of
    if any(cell.get("outputs") or cell.get("execution_count") for cell in cells):
        return True
    try:
        known = json.loads(NOTEBOOKS.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    name = path.relative_to(ROOT).as_posix()
    return isinstance(known, dict) and name in known and known[name] != cells_digest(data)


def cells_digest(data: bytes) -> str:
    """sha256 over what a notebook's author writes: kinds and texts of its cells."""
    written = [[cell.get("cell_type"), _text(cell)] for cell in _cells(data) or []]
    return hashlib.sha256(json.dumps(written).encode()).hexdigest()


def _cells(data: bytes) -> list[dict[str, Any]] | None:
    try:
        cells = json.loads(data)["cells"]
        return cells if all(isinstance(cell, dict) for cell in cells) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _text(cell: dict[str, Any]) -> str:
    source = cell.get("source", "")
    return source if isinstance(source, str) else "".join(map(str, source))


def _warnings(week: Week, files: dict[str, bytes], notebook: bool, lang: Lang) -> list[str]:
    """What the student may not have meant, a line each."""
    found = []
    try:
        tree = ast.parse(files[week.stub])
    except SyntaxError as error:
        where = texts.refusal(f"{week.stub}, line {error.lineno}: {error.msg}", lang)
        found.append(_say(lang, f"{where}; a file that is not Python earns nothing", f"{where}；不是有效的 Python，得不到分"))
    except (ValueError, RecursionError, MemoryError):
        found.append(_say(lang, f"{week.stub} cannot be parsed", f"{week.stub} 无法解析"))
    else:
        left = [task.id for task in week.core if task.number in _unwritten(tree, week)]
        if left:
            tasks = ", ".join(left)
            found.append(_say(lang, f"not attempted yet: {tasks}", f"尚未尝试：{tasks}"))
    if week.questions and not notebook:
        found.append(
            _say(lang, "no notebook: you worked on none of this week", "没有笔记本：本周的笔记本还没有做过")
            + _say(lang, " (run it, save it, and submit again)", "（请运行并保存，然后再次提交）")
        )
    return found


def _unwritten(tree: ast.Module, week: Week) -> set[int]:
    """The numbers of the tasks whose NotImplementedError still stands in the source."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
            text = node.exc.args[0] if node.exc.args else None
            if node.exc.func.id == "NotImplementedError" and isinstance(text, ast.Constant):
                match = re.match(rf"Week {week.number}, task (\d+)\b", str(text.value))
                if match:
                    found.add(int(match[1]))
    return found


def _week(course: Course, text: str) -> Week:
    if "." in text:
        raise SubmitError(f"a whole week is handed in: autograder submit {text.partition('.')[0]}")
    return common.what(course, text)[0]


def _replace(path: Path, data: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        SubmitError: if it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        raise SubmitError(f"{path} cannot be written: {error.strerror}; see to the folder {path.parent.name}") from None


def _size(count: int) -> str:
    return f"{count} bytes" if count < 1024 else f"{count / 1024:.1f} KiB"


def _say(lang: Lang, en: str, zh: str) -> str:
    return zh if lang == "zh" else en
