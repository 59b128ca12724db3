"""`autograder project check`: what is not in order in a project folder. Nothing in it is run or unpickled, nor is git."""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
import re
import stat
import statistics
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

from autograder import ROOT
from autograder.intake import clean
from autograder.manifest import Lang
from autograder.project import code as projectcode
from autograder.project import page as projectpage
from autograder.project.code import Hint
from autograder.project.handbook import Project, ProjectError, Section
from autograder.project.page import Page

Level = Literal["must", "should"]
Scores = dict[str, dict[str, list[float]]]  # values by system and metric, in the order of the runs

PASSED_OVER = {
    ".git", ".ipynb_checkpoints", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".venv", "__pycache__",
}  # fmt: skip
_WORDING = ROOT / "course" / "project_findings.toml"
_DEPTH = 12
_CODE = 2  # MiB of Python
_METRICS = 4 << 20  # bytes of results/metrics.json
_MOST = 50  # findings of one kind in one file
_FIGURES = 1000  # of a report; nobody has more
_THIN = 20  # words of a section
_PICKLES = {".bin", ".ckpt", ".dill", ".joblib", ".pickle", ".pkl", ".pt", ".pth"}
_ARCHIVES = {".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz", ".zip", ".zst"}
_BINARY = {
    ".gif", ".ico", ".jpeg", ".jpg", ".mp3", ".mp4", ".npy", ".npz", ".onnx", ".parquet", ".pdf", ".png", ".wav", ".webp",
}  # fmt: skip
_SOURCES = {".ipynb", ".json", ".md", ".py", ".toml", ".txt"}
_CONFIGS = {".cfg", ".ini", ".json", ".sh", ".toml", ".yaml", ".yml"}
_KEY_FILES = re.compile(r"\.env(\.local)?|\.netrc|id_(rsa|dsa|ecdsa|ed25519)|.+\.(pem|p12|pfx|keystore)")
_PLACEHOLDER = re.compile(r"\{\{\s{0,4}(?:fill in|待填写)\s{0,4}[:：]?\s{0,4}([^}\n]{0,300})")
_HOME = re.compile(r"(?:/home/|/Users/|\b[A-Za-z]:\\{1,2}Users\\{1,2})[\w.-]+")
_REMOTE_CODE = re.compile(r"(?i)\btrust_remote_code[\"']?\s{0,4}[:=]\s{0,4}[\"']?(?:true|1)\b")
_LICENCES = {
    "Apache-2.0": "apache license",
    "BSD-2-Clause": "redistribution and use in source and binary forms",
    "BSD-3-Clause": "redistribution and use in source and binary forms",
    "CC-BY-4.0": "creative commons attribution 4.0",
    "GPL-3.0-only": "gnu general public license",
    "GPL-3.0-or-later": "gnu general public license",
    "MIT": "permission is hereby granted, free of charge",
    "MPL-2.0": "mozilla public license",
    "MulanPSL-2.0": "mulan psl v2",
}
_IDENTIFIER = re.compile(r"(?i)https?://\S|arxiv\s{0,2}[:.]\s{0,2}\d{4}\.\d{4,5}|\b10\.\d{4,9}/\S")
_ITEM = re.compile(r"\s{0,3}(?:[-*+]|\d{1,3}[.)]|\[\d{1,3}\])\s+\S")


@functools.cache
def wording() -> dict[str, dict[str, str]]:
    """The level and the texts of each kind of finding."""
    return tomllib.loads(_WORDING.read_text(encoding="utf-8"))


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to do.

    Attributes:
        code: what kind of finding, a key that stays the same in both languages.
        file: its path in the folder, made safe to print; a notebook's has the number of the cell.
        line: from 1; 0 if it is about the whole file.
    """

    level: Level
    code: str
    file: str
    line: int
    values: dict[str, str] = field(default_factory=dict)

    def text(self, lang: Lang) -> str:
        """What to do, in one line."""
        return wording()[self.code][lang].format(**self.values)


@dataclass(frozen=True, slots=True)
class Report:
    """What was found, and the folders that were not looked into."""

    findings: tuple[Finding, ...]
    files: int
    passed_over: tuple[str, ...]

    def count(self, level: Level) -> int:
        """How many findings have that level."""
        return sum(finding.level == level for finding in self.findings)

    def lines(self, lang: Lang) -> Iterator[str]:
        """The report for a terminal."""
        words = {"must": "must", "should": "should"} if lang == "en" else {"must": "必须", "should": "建议"}
        for found in self.findings:
            place = f"{found.file}:{found.line}" if found.line else found.file
            yield f"{words[found.level]}  {place}  {found.text(lang)}"
        counts = self.count("must"), self.count("should"), self.files
        yield ("{} must, {} should; {} files" if lang == "en" else "必须 {} 处，建议 {} 处；共 {} 个文件").format(*counts)
        if self.passed_over:
            yield ("not looked at: " if lang == "en" else "未检查：") + ", ".join(self.passed_over)

    def json(self, lang: Lang) -> str:
        """The report for a program."""
        rows = [{"level": f.level, "code": f.code, "file": f.file, "line": f.line, "text": f.text(lang)} for f in self.findings]
        whole = {"schema": 1, "must": self.count("must"), "should": self.count("should"), "files": self.files}
        return json.dumps(whole | {"passed_over": self.passed_over, "findings": rows}, indent=1, ensure_ascii=False)


def check(folder: Path, project: Project) -> Report:
    """Look through a project folder.

    Raises:
        ProjectError: if it is not a folder that can be read.
    """
    if not folder.is_dir():
        raise ProjectError(f"{clean(str(folder))} is not a folder: name the project's, best a fresh clone")
    checker = _Checker(folder, project)
    checker.run()
    for (file, code), count in checker.counts.items():
        if count > _MOST:
            level = next(finding.level for finding in checker.found if finding.code == code)
            checker.found.append(Finding(level, "more", clean(file), 0, {"count": str(count - _MOST), "code": code}))
    found = sorted(checker.found, key=lambda f: (f.level != "must", f.file, f.code == "more", f.line))
    return Report(tuple(found), len(checker.sizes), tuple(sorted(checker.passed_over)))


class _Checker:
    """The state of one look through a folder."""

    def __init__(self, folder: Path, project: Project) -> None:
        self.folder, self.project = folder, project
        self.found: list[Finding] = []
        self.counts: Counter[tuple[str, str]] = Counter()  # of each kind in each file, those that are not shown too
        self.passed_over: set[str] = set()
        self.entries = 0  # files, folders and whatever else there is: each costs time
        self.code = 0  # bytes of Python
        self.sizes: dict[str, int] = {}
        self.texts: dict[str, str] = {}
        self.unfinished: set[str] = set()  # files with something to fill in: what else they lack is not said yet

    def add(self, code: str, file: str, line: int = 0, **values: object) -> None:
        self.counts[file, code] += 1
        if self.counts[file, code] > _MOST:
            return
        level: Any = wording()[code]["level"]
        self.found.append(Finding(level, code, clean(file), line, {k: clean(str(v)) for k, v in values.items()}))

    def take(self, file: str, hints: Iterable[Hint]) -> None:
        for code, line, values in hints:
            self.add(code, file, line, **values)

    def run(self) -> None:
        self.walk(self.folder, "", 0)
        self.read()
        folder = self.project.folder
        whole = not any(finding.code == "many" for finding in self.found)
        for name in folder.files:
            if whole and name not in self.sizes and not any(finding.file == name for finding in self.found):
                self.add("missing", name)
        if not any(name.startswith(f"{folder.python}/") and name.endswith(".py") for name in self.sizes):
            self.add("no_python", f"{folder.python}/")
        if not any(re.fullmatch(r"(?:.*/)?(?:test_[^/]*|[^/]*_test)\.py", name) for name in self.sizes):
            self.add("no_tests", "tests/")
        facts = self.facts()
        scores = self.metrics(facts.get("seeds"))
        pages = {name: projectpage.parse(self.texts[name]) for name in ("README.md", "report.md") if name in self.texts}
        if page := pages.get("README.md"):
            self.sections("README.md", page, folder.readme)
            self.members(page, facts)
        if page := pages.get("report.md"):
            self.sections("report.md", page, folder.report)
            self.report(page, facts.get("language", "en"))
            self.tables(page, scores)
        self.licence(facts)
        self.card()

    # --- files ---

    def walk(self, folder: Path, prefix: str, depth: int) -> None:
        try:
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            self.add("unreadable", prefix or ".", why=error.strerror)
            return
        for entry in entries:
            name = prefix + entry.name
            self.entries += 1
            if self.entries > self.project.limits.files:
                if not any(finding.code == "many" for finding in self.found):
                    self.add("many", ".", most=self.project.limits.files)
                return
            if entry.is_symlink() or getattr(entry, "is_junction", bool)():
                self.add("link", name)
            elif entry.name in PASSED_OVER:
                self.passed_over.add(clean(name))
            elif entry.is_dir(follow_symlinks=False):
                if depth == _DEPTH:
                    self.add("deep", name)
                else:
                    self.walk(Path(entry.path), name + "/", depth + 1)
            elif not entry.is_file(follow_symlinks=False):
                self.add("special", name)
            else:
                try:
                    self.sizes[name] = entry.stat(follow_symlinks=False).st_size
                except OSError as error:
                    self.add("unreadable", name, why=error.strerror)

    def read(self) -> None:
        """Look at each file's contents, the small ones first, as far as the limit on all of them goes."""
        most, total = self.project.limits.file_mib, 0
        for name, size in sorted(self.sizes.items(), key=lambda item: (item[1], item[0])):
            if re.fullmatch(_KEY_FILES, Path(name).name):
                self.add("key_file", name)
            if size > most << 20:
                self.add("large", name, size=f"{size / 2**20:.0f}", most=most)
            elif total + size <= self.project.limits.total_mib << 20:
                total += size
                data = self.bytes_of(name, most << 20)
                if data is not None:
                    self.contents(name, data)
        everything = sum(self.sizes.values())
        if everything > self.project.limits.total_mib << 20:
            self.add("total", ".", size=f"{everything / 2**20:.0f}", most=self.project.limits.total_mib)

    def bytes_of(self, name: str, most: int) -> bytes | None:
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        try:
            with os.fdopen(os.open(self.folder / name, flags), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    self.add("special", name)
                    return None
                return file.read(most)
        except OSError as error:
            self.add("unreadable", name, why=error.strerror)
            return None

    def contents(self, name: str, data: bytes) -> None:
        suffix = Path(name).suffix.lower()
        self.take(name, projectcode.secrets(data))
        if suffix in _PICKLES or re.match(rb"\x80[\x02-\x05]", data) or (data[:2] == b"PK" and b"data.pkl" in data[:512]):
            self.add("pickle", name)
        elif suffix == ".safetensors":
            if not _is_safetensors(data):
                self.add("safetensors", name)
        elif suffix in _ARCHIVES:
            self.add("archive", name)
        elif b"\0" in data[:8192] and suffix not in _SOURCES:
            if suffix not in _BINARY:
                self.add("binary", name)
        elif suffix not in _BINARY:
            self.text(name, suffix, data)

    def text(self, name: str, suffix: str, data: bytes) -> None:
        most = {"results/metrics.json": _METRICS}.get(name, len(data) if suffix == ".ipynb" else projectcode.MOST)
        needed = name in self.project.folder.files or suffix in {".py", ".ipynb"}
        if len(data) > most:
            if needed:
                self.add("long_text", name, size=len(data) >> 10, most=most >> 10)
            return
        try:
            text = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError as error:
            if needed:
                self.add("not_utf8", name, byte=error.start)
            return
        if suffix in {".py", ".ipynb"}:
            self.code += min(len(data), projectcode.MOST)
            if self.code > _CODE << 20:
                if not any(finding.code == "much_code" for finding in self.found):
                    self.add("much_code", ".", most=_CODE)
                return
        self.texts[name] = text
        for number, line in enumerate(text.split("\n"), 1):
            for match in _PLACEHOLDER.finditer(line):
                self.unfinished.add(name)
                self.add("fill_in", name, number, what=match[1].strip())
            if suffix in _CONFIGS and _REMOTE_CODE.search(line):
                self.add("remote_code", name, number)
            if (suffix in _CONFIGS or suffix == ".py") and (home := _HOME.search(line)):
                self.add("home_path", name, number, path=home[0])
        if suffix == ".py":
            self.take(name, projectcode.python(text))
        elif suffix == ".ipynb":
            try:
                for cell, hint in projectcode.notebook(text):
                    self.take(f"{name} ({cell})", [hint])
            except ValueError:
                self.add("notebook", name)
        elif re.fullmatch(r"requirements[^/]*\.txt", Path(name).name):
            self.take(name, projectcode.requirements(text))

    # --- facts and numbers ---

    def facts(self) -> dict[str, Any]:
        """project.toml, the keys that are as they must be and hold nothing to fill in."""
        name = "project.toml"
        if name not in self.texts:
            return {}
        text = self.texts[name]
        try:
            raw = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            self.add("toml", name, why=error)
            return {}
        lines = {
            m[1]: text.count("\n", 0, m.start()) + 1 for m in re.finditer(r"^[ \t]{0,4}([a-z_]+)[ \t]{0,4}=", text, re.MULTILINE)
        }
        low, high = self.project.limits.video_minutes
        rules: dict[str, tuple[Callable[[Any], bool], str, str]] = {
            "schema": (lambda v: _int(v) and v == 1, "1", " 1"),
            "members": (_names, "a list of names, each once", "姓名列表，每人一次"),
            "language": (lambda v: v in ("en", "zh"), 'en or zh, such as language = "en"', ' "en" 或 "zh"'),
            "seeds": (_seeds, "a list of whole numbers from 0, each once", "非负整数列表，各不相同"),
            "few_seeds_reason": (lambda v: isinstance(v, str), "a text", "文本"),
            "reproduce_minutes": (lambda v: _finite(v) and v > 0, "a positive number", "正数"),
            "repository": (_url, "a link that begins with https://", "以 https:// 开头的链接"),
            "video": (_url, "a link that begins with https://", "以 https:// 开头的链接"),
            "video_minutes": (lambda v: _finite(v) and low <= v <= high, f"from {low} to {high}", f" {low} 到 {high} 之间的数"),
        }
        for key in ("title", "team", "reproduce", "hardware", "licence"):
            rules[key] = lambda v: isinstance(v, str) and v.strip() != "", "a text, and not empty", "非空文本"
        facts = {}
        for key, (test, must, must_zh) in rules.items():
            if key not in raw:
                self.add("key_missing", name, key=key)
            elif _unfinished(raw[key]):
                continue
            elif not test(raw[key]):
                self.add("key_value", name, lines.get(key, 0), key=key, must=must, must_zh=must_zh)
            else:
                facts[key] = raw[key]
        for key in raw:
            if key not in rules:
                self.add("key_unknown", name, lines.get(key, 0), key=key)
        least = self.project.limits.seeds
        if "seeds" in facts and len(facts["seeds"]) < least and not facts.get("few_seeds_reason", "").strip():
            self.add("few_seeds", name, lines.get("seeds", 0), count=len(facts["seeds"]), least=least)
        return facts

    def metrics(self, seeds: list[int] | None) -> Scores | None:
        """The numbers of the runs; None if the file cannot be used."""
        name = "results/metrics.json"
        if name not in self.texts:
            return None
        try:
            raw = json.loads(self.texts[name], parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            self.add("metrics_json", name, why=error)
            return None
        if not isinstance(raw, dict) or not raw:
            self.add("metrics_object", name)
            return None
        found: Scores = {}
        for system, entry in raw.items():
            runs = entry.get("runs") if isinstance(entry, dict) else None
            if not isinstance(runs, list) or not runs or not all(map(_is_run, runs)):
                self.add("metrics_runs", name, system=system)
                return None
            metrics, own = list(runs[0]["metrics"]), [run["seed"] for run in runs]
            if len(set(own)) < len(own) or any(set(run["metrics"]) != set(metrics) for run in runs):
                self.add("metrics_same", name, system=system)
                return None
            if seeds is not None and set(own) != set(seeds):
                self.add("seeds", name, system=system, said=sorted(own), right=sorted(seeds))
            found[system] = {metric: [float(run["metrics"][metric]) for run in runs] for metric in metrics}
            self.summary(name, system, entry.get("summary"), found[system])
        return found

    def summary(self, name: str, system: str, summary: Any, values: dict[str, list[float]]) -> None:
        for metric, x in values.items():
            entry = summary.get(metric) if isinstance(summary, dict) else None
            entry = entry if isinstance(entry, dict) else {}
            facts = {"n": len(x), "mean": statistics.fmean(x), "std": statistics.stdev(x) if x[1:] else None}
            for key, right in facts.items():
                said = entry.get(key)
                unknown = right is None and said is None and key in entry
                if not unknown and not _close(said, right):
                    self.add("number", name, what=f"summary: {system}, {metric}, {key}", said=said, right=_short(right))

    def tables(self, page: Page, scores: Scores | None) -> None:
        """Compare the report's tables with the numbers of the runs."""
        results = 0
        for number, row in projectpage.rows(page.lines):
            if {"system", "metric", "mean", "n"} <= set(row):
                results += 1
                if scores is not None:
                    self.result(number, row, scores)
            elif {"first", "second", "metric", "difference"} <= set(row) and scores is not None:
                sides = [self.values(number, row[side], row["metric"], scores) for side in ("first", "second")]
                if sides[0] and sides[1]:
                    difference = statistics.fmean(sides[0]) - statistics.fmean(sides[1])
                    self.agree(number, row, "difference", difference)
        if not results and "report.md" not in self.unfinished:
            self.add("no_table", "report.md")

    def result(self, number: int, row: dict[str, str], scores: Scores) -> None:
        if values := self.values(number, row["system"], row["metric"], scores):
            self.agree(number, row, "mean", statistics.fmean(values))
            if row["n"] != str(len(values)):
                self.add("number", "report.md", number, what="n", said=row["n"], right=len(values))

    def values(self, number: int, system: str, metric: str, scores: Scores) -> list[float] | None:
        if system not in scores or metric not in scores[system]:
            self.add("unknown_result", "report.md", number, what=system if system not in scores else f"{system}, {metric}")
            return None
        return scores[system][metric]

    def agree(self, number: int, row: dict[str, str], column: str, right: float) -> None:
        """The cell is the number, rounded as the cell is; and the interval beside it holds what the cell says."""
        cell = projectpage.number(row[column])
        if cell is None:
            self.add("cell", "report.md", number, what=f"{column} {row[column]!r}")
            return
        said, unit = cell
        if abs(said - right) > 0.5001 * unit + 1e-12:
            self.add("number", "report.md", number, what=column, said=row[column], right=_short(right))
        if "interval" in row and row["interval"].casefold() not in ("unknown", "未知"):
            match = re.fullmatch(r"\[([^,，]{1,40})[,，]([^,，]{1,40})\]", row["interval"])
            ends = [projectpage.number(text) for text in match.groups()] if match else []
            if not (len(ends) == 2 and ends[0] and ends[1] and ends[0][0] - ends[0][1] <= said <= ends[1][0] + ends[1][1]):
                self.add("interval", "report.md", number, said=row["interval"], mean=row[column])

    # --- pages ---

    def sections(self, name: str, page: Page, wanted: tuple[Section, ...]) -> None:
        for section in wanted:
            found = page.section(section)
            title = f"{section.title.en} / {section.title.zh}"
            if found is None:
                self.add("section", name, title=title)
            elif name not in self.unfinished:
                words = projectpage.words(found[1])
                if words == 0:
                    self.add("empty_section", name, found[0], title=title)
                elif name == "report.md" and words < _THIN:
                    self.add("thin_section", name, found[0], title=title, words=words)

    def members(self, page: Page, facts: dict[str, Any]) -> None:
        who = next(section for section in self.project.folder.readme if section.id == "who")
        found = page.section(who)
        if found and "README.md" not in self.unfinished:
            text = "\n".join(found[1])
            for member in facts.get("members", []):
                if member not in text and not _unfinished(member):
                    self.add("member", "README.md", found[0], name=member, title=f"{who.title.en} / {who.title.zh}")

    def report(self, page: Page, language: Lang) -> None:
        name = "report.md"
        least, most = self.project.limits.words.en if language == "en" else self.project.limits.words.zh
        words = projectpage.words(page.lines)
        finished = name not in self.unfinished
        if finished and words < least:
            self.add("short", name, words=words, least=least)
        elif words > most:
            self.add("long", name, words=words, most=most)
        figures = 0
        for number, alt, target in itertools.islice(projectpage.figures(page.lines), _FIGURES):
            figures += 1
            if not alt.strip():
                self.add("figure_alt", name, number, path=target)
            if re.match(r"(?i)[a-z][a-z0-9+.-]*:|//", target):
                self.add("figure_remote", name, number, path=target)
            elif os.path.normpath(unquote(target)).replace(os.sep, "/") not in self.sizes:
                self.add("figure_missing", name, number, path=target)
        if finished and not figures:
            self.add("no_figure", name)
        references = next(section for section in self.project.folder.report if section.id == "references")
        found = page.section(references)
        if found and finished:
            self.references(name, *found)

    def references(self, name: str, start: int, lines: list[str]) -> None:
        items: list[tuple[int, str]] = []
        for number, line in enumerate(lines, start + 1):
            if _ITEM.match(line):
                items.append((number, line))
            elif items and line.strip():
                items[-1] = items[-1][0], items[-1][1] + " " + line.strip()
        for number, item in items:
            if not _IDENTIFIER.search(item):
                self.add("reference_link", name, number)
        least = self.project.limits.references
        if not items:
            self.add("no_references", name, start)
        elif len(items) < least:
            self.add("few_references", name, start, count=len(items), least=least)

    def licence(self, facts: dict[str, Any]) -> None:
        phrase = _LICENCES.get(facts.get("licence", ""))
        text = self.texts.get("LICENSE")
        if phrase and text is not None and "LICENSE" not in self.unfinished and phrase not in " ".join(text.split()).casefold():
            self.add("licence", "LICENSE", licence=facts["licence"])

    def card(self) -> None:
        name = "MODEL_CARD.md"
        if name not in self.texts:
            return
        lines = self.texts[name].split("\n")
        end = lines.index("---", 1) if lines[0] == "---" and "---" in lines[1:] else 0
        for key in ("license", "base_model", "library_name"):
            if not any(re.match(rf"{key}:\s*\S", line) for line in lines[1:end]):
                self.add("card", name, key=key)


def _unfinished(value: Any) -> bool:
    """Whether a text, or one of a list of them, has something to fill in."""
    return any(isinstance(text, str) and _PLACEHOLDER.search(text) for text in (value if isinstance(value, list) else [value]))


def _is_safetensors(data: bytes) -> bool:
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 2 <= size <= len(data) - 8:
        return False
    try:
        return isinstance(json.loads(data[8 : 8 + size]), dict)
    except (ValueError, RecursionError):
        return False


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _int(value: Any) -> bool:
    return type(value) is int


def _finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e100


def _close(said: Any, right: float | None) -> bool:
    return right is not None and _finite(said) and math.isclose(said, right, rel_tol=1e-6, abs_tol=1e-9)


def _url(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"https://[^\s/]+\.[^\s/]+(/\S*)?", value) is not None


def _names(value: Any) -> bool:
    texts = isinstance(value, list) and value != [] and all(isinstance(name, str) and name.strip() for name in value)
    return texts and len(set(value)) == len(value)


def _seeds(value: Any) -> bool:
    numbers = isinstance(value, list) and value != [] and all(_int(seed) and 0 <= seed < 2**32 for seed in value)
    return numbers and len(set(value)) == len(value)


def _is_run(run: Any) -> bool:
    if not isinstance(run, dict) or not isinstance(run.get("metrics"), dict) or not run["metrics"]:
        return False
    return _int(run.get("seed")) and abs(run["seed"]) < 2**63 and all(map(_finite, run["metrics"].values()))


def _short(value: float | None) -> str:
    return "null" if value is None else f"{value:.6g}"
