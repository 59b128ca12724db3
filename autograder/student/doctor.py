"""What is there and what is missing on this machine, with the remedies. Works where no package is installed at all."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from autograder import ROOT, texts
from autograder.manifest import Course, Lang, Week
from autograder.screen import Cell, Screen, columns
from autograder.student import common

_PYTHON = (3, 11)
_NEEDED_TO_CHECK = ("pytest", "numpy", "torch")
_NOTEBOOKS = ("jupyterlab", "ipykernel", "nbformat")
_DISK_GIB, _INSTALL_GIB, _MEMORY_GIB = 1, 3, 2
_PROBE_SECONDS = 180
_APPARMOR = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
_LONGEST = 259  # characters of a path on Windows, unless long paths are enabled

# Imports one module; torch also says what it can compute on. The last line of the output is the answer.
_PROBE = """
import importlib, json, sys
module = importlib.import_module(sys.argv[1])
found = {}
if sys.argv[1] == "torch":
    found["threads"] = module.get_num_threads()
    cuda = module.cuda
    found["cuda"] = [cuda.get_device_name(i) for i in range(cuda.device_count())] if cuda.is_available() else []
    found["mps"] = bool(getattr(module.backends, "mps", None) and module.backends.mps.is_available())
print()
print(json.dumps(found))
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table.

    Attributes:
        level: "ok"; "note" for what is worth knowing; "missing" for what a check cannot run without.
        key: the same in both languages.
        name: what was looked at.
        told: what was found.
        remedy: what to do, or "".
    """

    level: str
    key: str
    name: str
    told: str
    remedy: str = ""

    def json(self) -> dict[str, str]:
        return {"key": self.key, "level": self.level, "name": self.name, "found": self.told, "remedy": self.remedy}


def examine(course: Course, lang: Lang) -> Iterator[Finding]:
    """Look at everything; heavy packages are imported in a process of their own, which may die."""
    zh = lang == "zh"
    weeks = common.weeks_here(course)
    yield _python(zh)
    yield from _packages(zh)
    yield _notebooks(zh)
    yield _files(course, weeks, zh)
    yield from _stubs(weeks, zh)
    yield _folder(zh)
    yield _disk(zh)
    yield _memory(zh)
    yield _terminal(zh)
    yield _command(zh)
    yield _sandbox(zh)


def show(findings: list[Finding], screen: Screen, lang: Lang) -> None:
    """Print the table and what it comes to."""
    zh = lang == "zh"
    levels = {"ok": ("正常" if zh else "ok", "green"), "note": ("提示" if zh else "note", "yellow"),
              "missing": ("缺失" if zh else "missing", "bold red")}  # fmt: skip
    widths = [max(columns(text) for text, _ in levels.values()), max(columns(finding.name) for finding in findings)]
    rows: list[list[Cell]] = []
    for finding in findings:
        text, style = levels[finding.level]
        rows.append([(text, style), finding.name, finding.told])
        if finding.remedy:  # on a line of its own, so that a command can be copied
            screen.table(rows, widths=widths)
            rows = []
            told = f"{'办法：' if zh else 'to do: '}{finding.remedy}"
            screen.line((" " * (widths[0] + 2) + told, style))
    if rows:
        screen.table(rows, widths=widths)
    print()
    missing, notes = (sum(finding.level == level for finding in findings) for level in ("missing", "note"))
    if missing:
        told = "Something that a check needs is missing: see above what to do."
        screen.paragraph(("检查所需的内容有缺失：请按上面的办法处理。" if zh else told, "bold red"))
    else:
        note = (f"（另有 {notes} 条提示）" if zh else f" (and {notes} note{'s' * (notes != 1)})") if notes else ""
        screen.paragraph((f"检查所需的一切都已就绪{note}。" if zh else f"All that a check needs is there{note}.", "bold green"))


# --- Python and packages ---


def _python(zh: bool) -> Finding:
    version = platform.python_version()
    name = "Python"
    if sys.version_info < _PYTHON:
        wanted = ".".join(map(str, _PYTHON))
        remedy = (
            f"安装 Python {wanted} 或更高版本，再新建环境"
            if zh
            else f"install Python {wanted} or newer, and make a new environment"
        )
        return Finding("missing", "python", name, version, remedy)
    return Finding("ok", "python", name, f"{version}{'，' if zh else ', '}{_shown(Path(sys.executable))}")


def _packages(zh: bool) -> Iterator[Finding]:
    project = _project()
    pins, needed = _pins(), _imported()
    main = [_name(entry) for entry in project.get("dependencies", [])]
    extras = project.get("optional-dependencies", {})
    more = [_name(entry) for extra in _extras().split(",") for entry in extras.get(extra, [])]
    versions = {name: _version(name) for name in dict.fromkeys([*_NEEDED_TO_CHECK, *main, *more])}
    name = "软件包" if zh else "packages"
    must = [one for one in versions if one in _NEEDED_TO_CHECK or (one in main and one.replace("-", "_") in needed)]
    absent = [one for one in must if versions[one] is None]
    if absent:
        told = f"未安装：{'、'.join(absent)}" if zh else f"not installed: {', '.join(absent)}"
        yield Finding("missing", "packages", name, told, _install())
    elif not pins:
        told = "constraints.txt 缺失" if zh else "constraints.txt is missing"
        yield Finding("note", "packages", name, told, "重新获取课程文件" if zh else "get the course's files again")
    else:
        told = f"检查所需的 {len(must)} 个都已安装" if zh else f"the {len(must)} that checks need are installed"
        yield Finding("ok", "packages", name, told)
    other = [one for one, version in versions.items() if version is None and one not in must]
    if other:
        what = f"未安装：{_listed(other, zh)}" if zh else f"not installed: {_listed(other, zh)}"
        why = "（检查不需要，笔记本等会用到）" if zh else " (no check needs them; notebooks and the like do)"
        yield Finding("note", "optional packages", "其他软件包" if zh else "other packages", what + why, _install())
    differ = [
        f"{one} {version} ({'应为' if zh else 'not'} {pins[_normal(one)]})"
        for one, version in versions.items()
        if version is not None and _normal(one) in pins and version.partition("+")[0] != pins[_normal(one)]
    ]
    if differ:
        told = _listed(differ, zh)
        yield Finding("note", "versions", "版本" if zh else "versions", told, _install())
    elif pins and any(versions.values()):
        told = "与 constraints.txt 一致" if zh else "as pinned in constraints.txt"
        yield Finding("ok", "versions", "版本" if zh else "versions", told)
    for module in _NEEDED_TO_CHECK:
        if versions[module] is not None:
            yield _imports(module, versions[module] or "", zh)


def _imports(module: str, version: str, zh: bool) -> Finding:
    """Whether a package that is installed can be imported; in a process of its own, which may crash."""
    command = [sys.executable, "-P", "-c", _PROBE, module]  # -P: a torch.py in the current folder is not torch
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=_PROBE_SECONDS, check=False
        )
        lines = done.stdout.strip().splitlines()
        found = json.loads(lines[-1]) if done.returncode == 0 and lines else None
        why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    except subprocess.TimeoutExpired:
        found, why = None, f"over {_PROBE_SECONDS} s"
    except (OSError, ValueError) as error:
        found, why = None, str(error)
    if found is None:
        told = f"{version} 已安装，但无法导入：{_why(why, zh)}" if zh else f"{version} is installed but cannot be imported: {why}"
        remedy = _install(f"--force-reinstall --no-deps {module}")
        if sys.platform == "win32" and module == "torch":
            runtime = "Microsoft Visual C++ Redistributable (x64)"
            remedy = f"安装 {runtime}，再执行 {remedy}" if zh else f"install the {runtime}, then {remedy}"
        return Finding("missing", module, module, told, remedy)
    if module != "torch":
        return Finding("ok", module, module, version)
    if found["cuda"]:
        device = f"CUDA: {', '.join(found['cuda'])}"
    elif found["mps"]:
        device = "MPS (Apple)"
    else:
        device = "没有 GPU，本课程也不需要" if zh else "no GPU, and none is needed"
    threads = f"{found['threads']} 个线程" if zh else f"{found['threads']} thread{'s' * (found['threads'] != 1)}"
    return Finding("ok", module, module, ("；" if zh else "; ").join((version, threads, device)))


def _notebooks(zh: bool) -> Finding:
    name = "笔记本" if zh else "notebooks"
    absent = [one for one in _NOTEBOOKS if _version(one) is None]
    if absent:
        told = f"未安装 {'、'.join(absent)}：笔记本无法运行，检查不受影响"
        en = f"{', '.join(absent)} not installed: notebooks do not run; checks do"
        return Finding("note", "notebooks", name, told if zh else en, _install())
    versions = ("，" if zh else ", ").join(f"{one} {_version(one)}" for one in _NOTEBOOKS)
    return Finding("ok", "notebooks", name, versions)


def _project() -> dict[str, Any]:
    try:
        found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return found
    except (OSError, ValueError, KeyError):
        return {}


def _pins() -> dict[str, str]:
    """The versions of constraints.txt, by normal name."""
    try:
        text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return {}
    return {_normal(name): version for name, version in re.findall(r"^([\w.-]+)==([^\s;#]+)", text, re.MULTILINE)}


def _imported() -> set[str]:
    """The top-level modules that checks, the judge and the stubs of this copy import."""
    found: set[str] = set()
    for folder in ("autograder/checks", "autograder/judge", "autograder/inside", "exercises"):
        for path in (ROOT / folder).rglob("*.py"):
            with contextlib.suppress(OSError, ValueError):
                text = path.read_text(encoding="utf-8")
                found |= set(re.findall(r"^\s*(?:from|import)\s+(\w+)", text, re.MULTILINE))
    return found


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except (importlib.metadata.PackageNotFoundError, KeyError):  # metadata without a version: half an installation
        return None


def _name(requirement: str) -> str:
    match = re.match(r"[\w.-]+", requirement)
    return match[0] if match else requirement


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _listed(items: list[str], zh: bool, most: int = 6) -> str:
    text = ("、" if zh else ", ").join(items[:most])
    if len(items) <= most:
        return text
    return f"{text} 等 {len(items)} 项" if zh else f"{text} and {len(items) - most} more"


def _extras() -> str:
    return "dask,dev,labs,site" if _for_instructors() else "labs"


def _install(what: str = "") -> str:
    """The command that installs what is missing, from where the user stands."""
    python, constraints = _quoted(_shown(Path(sys.executable))), _quoted(_shown(ROOT / "constraints.txt"))
    target = what or f'-e "{_shown(ROOT)}[{_extras()}]"'
    return f"{python} -m pip install -c {constraints} {target}"


# --- the course's files ---


def _files(course: Course, weeks: list[Week], zh: bool) -> Finding:
    name = "课程文件" if zh else "course files"
    if not weeks:
        told = "没有任何一周的检查项" if zh else "there are no checks of any week"
        return Finding("missing", "files", name, told, "重新获取课程文件" if zh else "get the course's files again")
    number = f"{len(weeks)} / {len(course.weeks)} 周" if zh else f"{len(weeks)} of {len(course.weeks)} weeks"
    if (ROOT / "solutions").is_dir():
        return Finding("ok", "files", name, f"{number}，含参考答案" if zh else f"{number}, with the references")
    from autograder.judge.digest import checks_digest

    stale, broken = [], []
    for week in weeks:
        try:
            with zipfile.ZipFile(ROOT / "autograder" / "recorded" / f"{week.folder}.zip") as file:
                if json.loads(file.read("index.json"))["digest"] != checks_digest(week):
                    stale.append(str(week.number))
        except Exception:  # whatever a damaged zip raises
            broken.append(str(week.number))
    if stale or broken:
        parts = []
        if broken:
            listed = _listed(broken, zh, 12)
            parts.append(f"答案记录缺失或损坏：第 {listed} 周" if zh else f"recorded answers missing or damaged: week {listed}")
        if stale:
            listed = _listed(stale, zh, 12)
            parts.append(
                f"检查项与答案记录不一致：第 {listed} 周"
                if zh
                else f"checks are not those of the recorded answers: week {listed}"
            )
        remedy = (
            "获取最新的课程文件；你在 exercises/ 中的文件不受影响"
            if zh
            else "get the current release; keep your files below exercises/"
        )
        return Finding("missing", "files", name, ("；" if zh else "; ").join(parts), remedy)
    return Finding("ok", "files", name, f"{number}，答案记录与检查项一致" if zh else f"{number}; recorded answers fit the checks")


def _stubs(weeks: list[Week], zh: bool) -> Iterator[Finding]:
    good = 0
    for week in weeks:
        path = common.stub_path(week)
        key, name = f"stub {week.number}", f"第 {week.number} 周代码" if zh else f"stub, week {week.number}"
        try:
            ast.parse(path.read_bytes())
            good += 1
        except FileNotFoundError:
            told = f"{_shown(path)} 缺失" if zh else f"{_shown(path)} is missing"
            yield Finding("missing", key, name, told, f"autograder start {week.number}")
        except OSError as error:
            told = f"{_shown(path)}: {_why(error.strerror, zh)}"
            yield Finding("missing", key, name, told, "检查文件权限" if zh else "see the file's permissions")
        except SyntaxError as error:
            told = f"{_shown(path)}:{error.lineno or 0}: {_why(error.msg, zh)}"
            restore = f"autograder reset {week.number}"
            yield Finding("note", key, name, told, f"改正，或 {restore}" if zh else f"mend it, or {restore}")
        except (ValueError, RecursionError, MemoryError) as error:
            restore = f"autograder reset {week.number}"
            told = f"{_shown(path)}: {error}"
            yield Finding("note", key, name, told, f"改正，或 {restore}" if zh else f"mend it, or {restore}")
    if good:
        told = f"{good} 个，都是合法的 Python" if zh else f"{good}, valid Python"
        yield Finding("ok", "stubs", "代码文件" if zh else "stubs", told)


# --- the machine ---


def _folder(zh: bool) -> Finding:
    name = "文件夹" if zh else "folder"
    for place in (ROOT, Path(_temporary())):
        try:
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:
            told = f"{_shown(place)}: {_why(error.strerror, zh)}"
            remedy = (
                "把课程文件夹复制到自己可写的位置；否则进度与备份无法保存"
                if zh
                else "copy the course to a folder of your own, or neither progress nor backups are kept"
            )
            return Finding("note", "folder", name, told, remedy)
    where = str(ROOT)
    if sys.platform == "win32" and not _long_paths():
        longest = max((len(str(path)) for path in ROOT.rglob("*")), default=0)
        if longest > _LONGEST:
            told = (
                f"路径最长 {longest} 个字符，超出 Windows 的 {_LONGEST}"
                if zh
                else f"paths of {longest} characters; Windows takes {_LONGEST}"
            )
            remedy = (
                "把课程文件夹移到更短的路径，或启用 Windows 长路径"
                if zh
                else "move the course to a shorter path, or enable Windows long paths"
            )
            return Finding("note", "folder", name, told, remedy)
    return Finding("ok", "folder", name, f"{where}，可写" if zh else f"{where}, writable")


def _temporary() -> str:
    try:
        return tempfile.gettempdir()
    except OSError:
        return os.environ.get("TMPDIR", "/tmp")


def _long_paths() -> bool:
    if sys.platform != "win32":
        return True
    import winreg

    try:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"SYSTEM\CurrentControlSet\Control\FileSystem") as key:
            return bool(winreg.QueryValueEx(key, "LongPathsEnabled")[0])
    except OSError:
        return False


def _disk(zh: bool) -> Finding:
    name = "磁盘" if zh else "disk"
    try:
        free = shutil.disk_usage(ROOT).free / 2**30
    except OSError as error:
        return Finding("note", "disk", name, _why(error.strerror, zh))
    wanted = _DISK_GIB if _version("torch") else _INSTALL_GIB
    told = f"可用 {free:.1f} GiB" if zh else f"{free:.1f} GiB free"
    if free < wanted:
        remedy = f"腾出空间：需要 {wanted} GiB" if zh else f"make room: {wanted} GiB are needed"
        return Finding("note", "disk", name, told, remedy)
    return Finding("ok", "disk", name, told)


def _memory(zh: bool) -> Finding:
    name, free = "内存" if zh else "memory", _free_memory()
    if free is None:
        return Finding("ok", "memory", name, "无法得知可用内存" if zh else "how much is free is not known here")
    gib = free / 2**30
    told = f"可用 {gib:.1f} GiB" if zh else f"{gib:.1f} GiB free"
    if gib < _MEMORY_GIB:
        remedy = "关闭其他程序，尤其是仍在运行的笔记本" if zh else "close other programs, notebooks that still run above all"
        return Finding("note", "memory", name, told, remedy)
    return Finding("ok", "memory", name, told)


def _free_memory() -> int | None:
    """Bytes that a program could get, or None where the system does not say."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(Exception):  # the notebooks' psutil: not installed, or not for this system
        return int(importlib.import_module("psutil").virtual_memory().available)
    return None


def _terminal(zh: bool) -> Finding:
    name, encoding = "终端编码" if zh else "terminal", getattr(sys.stdout, "encoding", None) or "ascii"
    try:
        "中文 █▒░ ✓ α".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        told = f"{encoding}，中文与部分符号显示为 ?" if zh else f"{encoding}: Chinese text and some signs are shown as ?"
        if sys.platform == "win32":
            remedy = "PowerShell: $env:PYTHONUTF8 = 1"
        else:
            remedy = "export PYTHONUTF8=1"
        return Finding("note", "terminal", name, told, remedy)
    return Finding("ok", "terminal", name, encoding)


def _command(zh: bool) -> Finding:
    """Whether `autograder`, when typed, is the command of this copy."""
    name = "autograder"
    scripts = Path(sysconfig.get_path("scripts"))
    own = scripts / ("autograder.exe" if sys.platform == "win32" else "autograder")
    found, origin = shutil.which("autograder"), _origin()
    if origin is not None and not _same(origin, ROOT):
        told = f"此环境装的是另一份课程文件：{origin}" if zh else f"this environment has another copy of the course: {origin}"
        return Finding("note", "command", name, told, _install())
    typed = _quoted(_shown(own)) if own.exists() else f"{_quoted(_shown(Path(sys.executable)))} -m autograder"
    remedy = f"激活环境，或输入 {typed}" if zh else f"activate the environment, or type {typed}"
    if found is None:
        return Finding("note", "command", name, "不在 PATH 中" if zh else "not on the PATH", remedy)
    if not _same(Path(found).parent, scripts):
        told = f"PATH 中的是另一个：{found}" if zh else f"the one on the PATH is another: {found}"
        return Finding("note", "command", name, told, remedy)
    return Finding("ok", "command", name, _shown(Path(found)))


def _origin() -> Path | None:
    """The folder that the installed command takes its code from, where the installation says so."""
    try:
        text = importlib.metadata.distribution("lora-graded").read_text("direct_url.json")
        url = urlparse(json.loads(text or "")["url"])
        return Path(url2pathname(url.path)) if url.scheme == "file" else None
    except (importlib.metadata.PackageNotFoundError, OSError, ValueError, KeyError, TypeError):
        return None


def _same(one: Path, other: Path) -> bool:
    try:
        return one.resolve() == other.resolve()
    except OSError:
        return False


def _sandbox(zh: bool) -> Finding:
    name = "沙箱" if zh else "sandbox"
    if not (sys.platform.startswith("linux") and _for_instructors()):
        told = (
            "学生不需要：你的检查在自己的进程中运行，评分才在沙箱中进行"
            if zh
            else "students need none: your checks run in your own process; marking runs in the sandbox"
        )
        return Finding("ok", "sandbox", name, told)
    only = "检查不需要，评分需要" if zh else "checks do not need it, grading does"
    if shutil.which("bwrap") is None:
        told = f"未安装 bubblewrap（{only}）" if zh else f"bubblewrap is not installed ({only})"
        return Finding("note", "sandbox", name, told, "sudo apt install bubblewrap")
    try:
        from autograder.grading.sandbox import bwrap_problem

        problem = bwrap_problem()
    except (ImportError, OSError) as error:
        told = f"已安装 bubblewrap，无法试运行：{error}" if zh else f"bubblewrap is installed; it cannot be tried: {error}"
        return Finding("note", "sandbox", name, told, _install())
    if problem is None:
        return Finding("ok", "sandbox", name, "bubblewrap 可以启动" if zh else "bubblewrap is installed and starts")
    told = f"bubblewrap 不能创建命名空间（{only}）" if zh else f"bubblewrap may not make namespaces ({only})"
    if _restricted():
        why = "AppArmor (Ubuntu 24.04): sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
        remedy = f"{why}，或为 bwrap 写一份 AppArmor 配置" if zh else f"{why}, or an AppArmor profile for bwrap"
    else:
        remedy = (
            "容器里常被禁止：放宽容器的 seccomp 与 AppArmor 限制，或使用 --isolation process"
            if zh
            else "containers often forbid it: loosen their seccomp and AppArmor profiles, or pass --isolation process"
        )
    return Finding("note", "sandbox", name, told, remedy)


def _restricted() -> bool:
    try:
        return _APPARMOR.read_text(encoding="ascii").strip() == "1"
    except (OSError, ValueError):
        return False


def _for_instructors() -> bool:
    return (ROOT / "autograder" / "grading").is_dir()


def _why(text: str | None, zh: bool) -> str:
    """What the system, or Python, says is wrong."""
    return texts.refusal(str(text), "zh" if zh else "en")


def _shown(path: Path) -> str:
    """A path from where the user stands if it is in the course's folder, else whole."""
    return common.shown(path) if path.is_relative_to(ROOT) else str(path)


def _quoted(text: str) -> str:
    return f'"{text}"' if re.search(r"[\s&()'$]", text) else text
