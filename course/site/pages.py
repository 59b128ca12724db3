"""Which pages the site has, where each comes from, and where a link of the repository leads on the site."""

from __future__ import annotations

import argparse
import os
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from autograder.authoring import notebooks
from autograder.manifest import Course, Lang, Text
from course.labs.core import ROOT

LANGS: tuple[Lang, ...] = ("en", "zh")
SUFFIX: dict[Lang, str] = {"en": ".md", "zh": ".zh.md"}
# Who a page of docs/ is for; one that is not named here is for instructors and teaching assistants.
FOR_STUDENTS = ("students", "labs", "project", "reading")

LABELS = {
    "syllabus": Text(en="Syllabus", zh="教学大纲"),
    "lecture": Text(en="Lecture", zh="讲义"),
    "reading": Text(en="Reading guide", zh="阅读指南"),
    "exercise": Text(en="Exercise", zh="练习"),
    "lab": Text(en="Lab", zh="实验"),
}
WORDS = {
    "week": Text(en="Week {number} · {title}", zh="第 {number} 周 · {title}"),
    "week0": Text(en="Week 0 · Self-check of the prerequisites", zh="第 0 周 · 先修知识自测"),
    "objectives": Text(en="Objectives", zh="学习目标"),
    "exercise": Text(en="Week {number} exercise · {stub}", zh="第 {number} 周练习 · {stub}"),
    "contract": Text(
        en="What the functions and classes of the exercise promise. Complete `exercises/{folder}/{stub}`, then run "
        "`autograder check {number}`.",
        zh="练习中各函数与类的约定（docstring 为英文）。请完成 `exercises/{folder}/{stub}`，再运行 `autograder check {number}`。",
    ),
    "slides": Text(en="Slides of the lecture", zh="讲义的幻灯片"),
    "commands": Text(en="Commands", zh="命令参考"),
    "commands_intro": Text(
        en="What `--help` says of each command, in the repository's `.venv`.",
        zh="以下是各命令的 `--help` 输出（英文）；命令安装在仓库的 `.venv` 中。",
    ),
    "weeks": Text(en="Weeks", zh="各周"),
    "threads": Text(en="Threads", zh="专题主线"),
    "students": Text(en="For students", zh="学生"),
    "staff": Text(en="For instructors and TAs", zh="教师与助教"),
    "untranslated": Text(en="This page is in Chinese only.", zh="本页目前只有英文版。"),
    "home": Text(
        en="A course that marks itself: every week has a lecture, a reading guide, an exercise whose checks say what was "
        "misunderstood, and a lab that takes your own code into an experiment. For: {audience}",
        zh="这门课程能自动评分：每周有讲义、阅读指南、练习和实验；练习的检查项会指出误解所在，实验则直接使用你写的代码。面向对象：{audience}",
    ),
}


@dataclass(frozen=True, slots=True)
class Page:
    """A page of one language's site.

    Attributes:
        source: the file that it shows, None for a page that is made here.
        text: what a page that is made here says.
        lang: the language of the text: the other one where there is no translation.
    """

    name: str
    lang: Lang
    source: Path | None = None
    text: str = ""


@dataclass(slots=True)
class Site:
    """One language's pages by name, and by the repository's paths, `/` between folders."""

    lang: Lang
    pages: dict[str, Page] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, path: Path, lang: Lang) -> None:
        """Add a page that shows a file."""
        self.pages[name] = Page(name, lang, path)
        self.names[path.relative_to(ROOT).as_posix()] = name

    def make(self, name: str, *lines: str, path: Path | None = None) -> None:
        """Add a page of these lines; `path` is the file whose place it takes in links."""
        self.pages[name] = Page(name, self.lang, None, "\n".join(lines) + "\n")
        if path is not None:
            self.names[path.relative_to(ROOT).as_posix()] = name


def site(course: Course, lang: Lang) -> Site:
    """All pages of one language."""
    made = Site(lang)
    for path in [*sorted(ROOT.glob("syllabus*.md")), *sorted((ROOT / "course").glob("*.md"))]:
        _document(made, path, "")
    for folder in ("course/threads", "docs"):
        for path in sorted((ROOT / folder).glob("*.md")):
            _document(made, path, f"{posixpath.basename(folder)}/")
    weeks = {week.folder: week for week in course.weeks}
    folders = sorted({*weeks, *notebooks.sources()})
    for folder in folders:
        for path in sorted((ROOT / "course" / folder).glob("*.md")):
            _document(made, path, f"{folder}/")
        if folder in notebooks.sources():
            made.add(f"{folder}/lab", ROOT / notebooks.TARGETS[lang] / f"{folder}.ipynb", lang)
        _exercise(made, course, folder)
        title = _week_title(course, folder, lang)
        items = [name for name in made.pages if name.startswith(f"{folder}/")]
        order = list(LABELS)
        items.sort(key=lambda name: (order.index(tail) if (tail := name.split("/")[1]) in order else len(order), name))
        body = []
        if folder in weeks:
            goals = [f"- {goal}" for goal in weeks[folder].objectives.of(lang)]
            body = [f"## {WORDS['objectives'].of(lang)}", "", *goals, ""]
        slides = [f"[{WORDS['slides'].of(lang)}](slides.html)", ""] if f"{folder}/lecture" in made.pages else []
        made.make(
            f"{folder}/index", f"# {title}", "", *body, *toctree([_labelled(name.split("/")[1], lang) for name in items]), *slides
        )
    made.make("commands", *_commands(lang))
    _home(made, course, [f"{folder}/index" for folder in folders])
    return made


def _document(made: Site, path: Path, prefix: str) -> None:
    """A Markdown file in the site's language, or one that has no translation."""
    chinese = path.name.endswith(SUFFIX["zh"])
    stem = path.name.removesuffix(SUFFIX["zh"] if chinese else SUFFIX["en"])
    lang: Lang = "zh" if chinese else "en"
    other = path.with_name(stem + SUFFIX["en" if chinese else "zh"])
    if lang == made.lang or not other.is_file():
        made.add(prefix + stem, path, lang)


def _exercise(made: Site, course: Course, folder: str) -> None:
    week = next((week for week in course.weeks if week.folder == folder and week.tasks), None)
    if week is None:
        return
    values = {"number": week.number, "stub": week.stub, "folder": folder}
    made.make(
        f"{folder}/exercise",
        "# " + WORDS["exercise"].of(made.lang).format(**values),
        "",
        WORDS["contract"].of(made.lang).format(**values),
        "",
        "```{eval-rst}",
        f".. automodule:: {Path(week.stub).stem}",
        "   :members:",
        "   :undoc-members:",
        "   :member-order: bysource",
        "   :special-members: __init__",
        "```",
        path=ROOT / "exercises" / folder / week.stub,
    )


def _week_title(course: Course, folder: str, lang: Lang) -> str:
    week = next((week for week in course.weeks if week.folder == folder), None)
    if week is None:
        return WORDS["week0"].of(lang)
    return WORDS["week"].of(lang).format(number=week.number, title=week.title.of(lang))


def _home(made: Site, course: Course, weeks: list[str]) -> None:
    lang = made.lang
    docs = [name for name in made.pages if name.startswith("docs/")]
    threads = [name for name in made.pages if name.startswith("threads/")]
    students = [name for name in docs if name.split("/")[1] in FOR_STUDENTS]
    loose = [name for name in made.pages if "/" not in name and name not in ("syllabus", "commands", "readings")]
    made.make(
        "index",
        f"# {course.about.title.of(lang)}",
        "",
        WORDS["home"].of(lang).format(audience=course.about.audience.of(lang)),
        "",
        *toctree([_labelled("syllabus", lang), "readings", *loose]),
        *toctree(weeks, WORDS["weeks"].of(lang)),
        *(toctree(threads, WORDS["threads"].of(lang)) if threads else []),
        *toctree([*students, "commands"], WORDS["students"].of(lang)),
        *toctree([name for name in docs if name not in students], WORDS["staff"].of(lang)),
    )


def _labelled(name: str, lang: Lang) -> str:
    """A page in the navigation, by what it is rather than by its title, which would repeat its week's."""
    return f"{LABELS[name].of(lang)} <{name}>" if name in LABELS else name


def toctree(names: list[str], caption: str = "") -> list[str]:
    """A list of pages for the navigation, in MyST."""
    return ["```{toctree}", ":maxdepth: 1", *([f":caption: {caption}"] if caption else []), "", *names, "```", ""]


def _commands(lang: Lang) -> Iterator[str]:
    """Each command's own help, so that there is no second text to keep true."""
    from autograder import cli

    yield from (f"# {WORDS['commands'].of(lang)}", "", WORDS["commands_intro"].of(lang), "")
    width, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), "100"  # argparse folds its lines at the terminal's width
    try:
        for command in _walk(cli._parser()):
            yield from (f"## {command.prog}", "", "```text", command.format_help().rstrip(), "```", "")
    finally:
        del os.environ["COLUMNS"]
        if width is not None:
            os.environ["COLUMNS"] = width


def _walk(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _walk(command)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a link leads: a page of a language's site, or a file of the repository that is no page."""

    lang: Lang
    name: str
    anchor: str
    is_page: bool


def place(sites: dict[Lang, Site], lang: Lang, page: Page, link: str) -> Place | None:
    """Where a relative link in a page's source leads; None if there is no such file.

    A link to a file in a language leads to that language's site. From or to a page without translation it stays where the
    reader is.
    """
    if page.source is None:
        return None
    path, _, anchor = link.partition("#")
    here = page.source.parent.relative_to(ROOT).as_posix()
    target = posixpath.normpath(posixpath.join(here, path)).rstrip("/")
    untranslated = page.lang != lang
    for other in (lang, *LANGS):
        if (name := sites[other].names.get(target)) is not None:
            return Place(lang if untranslated else other, name, anchor, True)
    if target.startswith("../") or not (ROOT / target).exists():
        return None
    return Place(lang, target, anchor, False)


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
