"""The profile, the student's file, answers and records: what every notebook uses. Imports nothing heavy."""

from __future__ import annotations

import ast
import importlib.util
import json
import logging
import math
import os
import re
import sys
import tomllib
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, TypeVar

from autograder import manifest

ROOT = Path(__file__).resolve().parents[2]
MIME = "application/vnd.lora-graded+json"

# Set here, before anything can import peft: bitsandbytes tells of an optional kernel whenever that happens, and peft asks
# transformers by an old name.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)

_T = TypeVar("_T")
_MISSING = re.compile(r"Week (\d+), task (\d+)\b")


class LabStop(Exception):
    """A notebook cannot go on; the text is one line that says what to do. Jupyter shows that line and no traceback."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def language() -> str:
    """ "zh" in a notebook under `notebooks/zh`, else "en"; LAB_LANG decides where it is set."""
    return os.environ.get("LAB_LANG") or ("zh" if Path.cwd().name == "zh" else "en")


def say(en: str, zh: str) -> str:
    """The text in the notebook's language."""
    return zh if language() == "zh" else en


def profile() -> str:
    """ "tiny" (two CPU cores, no network) or "full" (a GPU, the papers' models), from LAB_PROFILE.

    Raises:
        LabStop: if LAB_PROFILE is something else.
    """
    name = os.environ.get("LAB_PROFILE", "tiny")
    if name not in ("tiny", "full"):
        raise LabStop(f"LAB_PROFILE must be tiny or full, not {name!r}: set it before the notebook starts")
    return name


def pick(*, tiny: _T, full: _T) -> _T:
    """The value for the profile."""
    return tiny if profile() == "tiny" else full


def sizes(week: int) -> SimpleNamespace:
    """A week's sizes (steps, ranks, counts) for the profile, from `course/weekNN/lab.toml`."""
    table = tomllib.loads((ROOT / "course" / f"week{week:02d}" / "lab.toml").read_text(encoding="utf-8"))
    return SimpleNamespace(**{key: value[profile()] for key, value in table.items()})


def progress(items: Iterable[_T], desc: str, total: int | None = None) -> Iterator[_T]:
    """The items, with a progress bar while they last."""
    from tqdm import tqdm

    # On stdout: Jupyter paints stderr red. The monitor thread is for bars that stall; ours end.
    tqdm.monitor_interval = 0
    return iter(tqdm(items, desc=desc, total=total, file=sys.stdout, leave=False, mininterval=0.3))


def student(week: int, *tasks: str) -> ModuleType:
    """The student's own stub file as a module, loaded anew at each call.

    Where one of `tasks` is not written yet, it says which, and gives the reference in its place if this copy of the
    course has one. LAB_STUBS=reference always gives the reference.

    Args:
        week: the week's number.
        tasks: what this notebook needs, such as "4.1"; by default every core task.

    Raises:
        LabStop: if a task is missing and there is no reference, or if the file cannot be loaded.
    """
    course = manifest.load()
    this = course.week(week)
    own = ROOT / "exercises" / this.folder / this.stub
    reference = ROOT / "solutions" / this.folder / this.stub
    if os.environ.get("LAB_STUBS") == "reference":
        return _module(reference)
    name = own.relative_to(ROOT).as_posix()
    wanted = tasks or tuple(task.id for task in this.core)
    missing = [task for task in unfinished(own) if task in wanted] if own.is_file() else list(wanted)
    if not missing:
        return _module(own)
    titles = {task: course.task(task).title for task in missing}
    first = say(
        ", ".join(f"{task} ({title.en})" for task, title in titles.items()),
        "、".join(f"{task}（{title.zh}）" for task, title in titles.items()),
    )
    if reference.is_file():
        print(
            say(
                f"Not written yet in {name}: {first}. This notebook goes on with the reference.",
                f"{name} 中尚未完成：{first}。本笔记本改用参考实现继续运行。",
            )
        )
        return _module(reference)
    raise LabStop(
        say(
            f"Not written yet in {name}: {first}. Write it (`autograder check {missing[0]}`), then run this cell again.",
            f"{name} 中尚未完成：{first}。请先完成（用 `autograder check {missing[0]}` 检查），再重新运行本单元格。",
        )
    )


def unfinished(path: Path) -> list[str]:
    """The tasks, such as "4.2", whose `raise NotImplementedError("Week 4, task 2: …")` still stands in a stub file.

    Raises:
        LabStop: if the file is not Python.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise _unloadable(path, f"{error.msg} (line {error.lineno})") from None
    texts = [
        node.exc.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and node.exc.args
        and isinstance(node.exc.args[0], ast.Constant)
    ]
    found = {(int(match[1]), int(match[2])) for text in texts if (match := _MISSING.match(str(text)))}
    return [f"{week}.{task}" for week, task in sorted(found)]


def _module(path: Path) -> ModuleType:
    """A file's module, with helper modules beside it; nothing of an earlier load is used again."""
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(f"{path.parent}{os.sep}"):
            del sys.modules[name]
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # annotations of a dataclass look it up
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _unloadable(path, f"{type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _unloadable(path: Path, why: str) -> LabStop:
    name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    why = " ".join(why.split())
    return LabStop(
        say(
            f"{name} cannot be loaded: {why}. Mend it, then run this cell again.",
            f"{name} 无法加载：{why}。请修正后重新运行本单元格。",
        )
    )


def answer(question: str, value: Any) -> None:
    """Hand in the answer to a graded question, as JSON in the cell's output. It is scored when the notebook is marked.

    Args:
        question: its id, such as "4.q1".
        value: a number, a text, a list of them or a dict of them by text; NumPy's and PyTorch's count. `...` means: none yet.

    Raises:
        LabStop: if the value is something else, or not finite.
    """
    if value is ...:
        print(say(f"{question}: no answer yet", f"{question}：尚未作答"))
        return
    plain = _plain(value, question)
    _emit({"kind": "answer", "id": question, "value": plain}, say(f"{question}: {_short(plain)}", f"{question}：{_short(plain)}"))


def predict(name: str, value: Any) -> Any:
    """Keep a prediction (no marks); returns it, or None where there is none yet (`...`)."""
    if value is ...:
        print(say(f"{name}: write your prediction before you run on", f"{name}：请先写下你的预测，再继续运行"))
        return None
    plain = _plain(value, name)
    _emit(
        {"kind": "prediction", "id": name, "value": plain},
        say(f"{name}: you predict {_short(plain)}", f"{name}：你的预测是 {_short(plain)}"),
    )
    return plain


def record(name: str, **numbers: Any) -> None:
    """Keep numbers with the notebook, unseen: the tests of the course read them."""
    _emit({"kind": "record", "id": name, "value": _plain(numbers, name)})


def _emit(data: dict[str, Any], text: str | None = None) -> None:
    from IPython.display import display

    display({MIME: data} | ({"text/plain": text} if text else {}), raw=True)


def _plain(value: Any, name: str) -> Any:
    """The value as JSON has it."""
    if hasattr(value, "tolist"):  # NumPy, PyTorch
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(item, name) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, name) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise LabStop(say(f"{name}: {value} is not a finite number", f"{name}：{value} 不是有限的数"))
    if value is None or isinstance(value, bool | int | float | str):
        return value
    kind = type(value).__name__
    raise LabStop(
        say(f"{name}: give a number, a text or a list of them, not {kind}", f"{name}：请给出数、文本或它们的列表，而不是 {kind}")
    )


def _short(plain: Any) -> str:
    text = json.dumps(plain, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:97]}..."
