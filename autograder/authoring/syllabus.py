"""The syllabus in Markdown, one file per language, rendered from the manifest.

Texts of the manifest are inline Markdown and are copied as they are; only table cells are escaped.
"""

import re
from collections.abc import Iterator, Sequence

from autograder.manifest import Course, Criterion, Lang, Text, Week

FILES: dict[Lang, str] = {"en": "syllabus.md", "zh": "syllabus.zh.md"}

_HEADER = "<!-- Generated from course/course.toml by `autograder build`; edit that instead. -->"

# Text holds both languages, so a wording cannot be added to one file only.
_WORDS = {
    "other": Text(en="[简体中文](syllabus.zh.md)", zh="[English](syllabus.md)"),
    "audience": Text(en="Audience", zh="面向对象"),
    "prerequisites": Text(en="Prerequisites", zh="先修知识"),
    "hours": Text(en="Hours", zh="学时"),
    "per_week": Text(
        en="Each week has {lecture} h of lecture, {lab} h of lab in class and {homework} h of homework: "
        "{weeks} weeks, {total} h in class.",
        zh="每周讲授 {lecture} 学时、课内实验 {lab} 学时、课后作业 {homework} 小时；共 {weeks} 周，课内合计 {total} 学时。",
    ),
    "marks": Text(en="Marks", zh="评分"),
    "component": Text(en="Component", zh="组成"),
    "weight": Text(en="Weight", zh="占比"),
    "weekly_code": Text(en="Weekly programming: automatic grading and code review", zh="每周编程作业：自动评分与代码评审"),
    "reading_discussion": Text(en="Reading: paper presentation and class discussion", zh="文献阅读：论文分享与课堂讨论"),
    "final_project": Text(
        en="Final project: report, public repository, demonstration video",
        zh="期末项目：技术报告、公开代码仓库、演示视频",
    ),
    "review": Text(en="Code review", zh="代码评审"),
    "review_of_course": Text(
        en="In the code review a TA reads your code. These are the rows of the rubric, where a week has none of its own.",
        zh="代码评审由助教阅读代码后评分。评分标准如下；个别周另有标准，列在该周之下。",
    ),
    "review_of_week": Text(en="This week has its own rubric.", zh="本周采用单独的评分标准。"),
    "criterion": Text(en="Criterion", zh="评分项"),
    "earns": Text(en="What earns the points", zh="得分要求"),
    "schedule": Text(en="Schedule", zh="每周安排"),
    "week": Text(en="Week", zh="周次"),
    "module": Text(en="Module", zh="模块"),
    "practice": Text(en="Practice", zh="实践与作业"),
    "heading": Text(en="Week {number} · {title}", zh="第 {number} 周 · {title}"),
    "objectives": Text(en="Objectives", zh="学习目标"),
    "topics": Text(en="Lecture topics", zh="讲授要点"),
    "points_line": Text(
        en="Points: code {code}, notebook {notebook}, code review {review}.",
        zh="分值：代码 {code} 分，笔记本 {notebook} 分，代码评审 {review} 分。",
    ),
    "exercise": Text(en="Exercise", zh="练习文件"),
    "task": Text(en="Task", zh="任务"),
    "points": Text(en="Points", zh="分值"),
    "minutes": Text(en="Minutes", zh="预计分钟数"),
    "notebook": Text(en="Notebook", zh="笔记本"),
    "question": Text(en="Question", zh="题目"),
    "written": Text(en="{title} (written)", zh="{title}（书面题）"),
    "stretch": Text(en="{title} (stretch, no marks)", zh="{title}（拓展任务，不计分）"),
}


def render(course: Course, lang: Lang) -> str:
    """The whole syllabus in one language, ending in one newline."""
    return "\n\n".join(_blocks(course, lang)) + "\n"


def _blocks(course: Course, lang: Lang) -> Iterator[str]:
    """The blocks of the page; blank lines come between them."""
    word = {key: text.of(lang) for key, text in _WORDS.items()}
    about, hours = course.about, course.about.hours_per_week
    yield _HEADER
    yield f"# {about.title.of(lang)}"
    yield word["other"]
    yield f"## {word['audience']}"
    yield about.audience.of(lang)
    yield f"## {word['prerequisites']}"
    yield _list(about.prerequisites.of(lang))
    yield f"## {word['hours']}"
    yield word["per_week"].format(
        lecture=hours.lecture,
        lab=hours.lab,
        homework=hours.homework,
        weeks=len(course.weeks),
        total=len(course.weeks) * (hours.lecture + hours.lab),
    )
    yield f"## {word['marks']}"
    weights = ("weekly_code", "reading_discussion", "final_project")
    rows = [(word[name], f"{getattr(course.grade, name)}%") for name in weights]
    yield table((word["component"], word["weight"]), rows, right=(1,))
    yield f"### {word['review']}"
    yield word["review_of_course"]
    yield rubric(course.review, lang)
    yield f"## {word['schedule']}"
    rows_of_weeks = [(str(w.number), w.title.of(lang), w.practice.of(lang)) for w in course.weeks]
    yield table((word["week"], word["module"], word["practice"]), rows_of_weeks, right=(0,))
    for week in course.weeks:
        yield from _week(week, course, lang, word)


def rubric(rows: Sequence[Criterion], lang: Lang) -> str:
    """The rubric of the code review as a Markdown table."""
    head = tuple(_WORDS[key].of(lang) for key in ("criterion", "points", "earns"))
    return table(head, [(one.title.of(lang), str(one.points), one.text.of(lang)) for one in rows], right=(1,))


def _week(week: Week, course: Course, lang: Lang, word: dict[str, str]) -> Iterator[str]:
    yield "## " + word["heading"].format(number=week.number, title=week.title.of(lang))
    yield f"### {word['objectives']}"
    yield _list(week.objectives.of(lang))
    yield f"### {word['topics']}"
    yield _list(week.topics.of(lang))
    yield f"### {word['practice']}"
    yield week.practice.of(lang)
    points = week.points
    yield word["points_line"].format(code=points.code, notebook=points.notebook, review=points.review)
    if week.tasks:  # until then there is no file to link to
        yield f"### {word['exercise']}"
        yield f"[`{week.stub}`](exercises/{week.folder}/{week.stub})"
        rows = []
        for task in week.tasks:
            title = task.title.of(lang)
            name = word["stretch"].format(title=title) if task.stretch else title
            rows.append((f"{task.id} {name}", str(task.points), str(task.minutes)))
        yield table((word["task"], word["points"], word["minutes"]), rows, right=(1, 2))
    if week.questions:
        yield f"### {word['notebook']}"
        place = "notebooks" if lang == "en" else "notebooks/zh"
        yield f"[`{week.folder}.ipynb`]({place}/{week.folder}.ipynb)"
        asked = [
            (f"{q.id} {word['written'].format(title=q.title.of(lang)) if q.written else q.title.of(lang)}", str(q.points))
            for q in week.questions
        ]
        yield table((word["question"], word["points"]), asked, right=(1,))
    if week.review != course.review:
        yield f"### {word['review']}"
        yield word["review_of_week"]
        yield rubric(week.review, lang)


def _list(items: tuple[str, ...]) -> str:
    return "\n".join(f"- {item}" for item in items)


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], right: tuple[int, ...]) -> str:
    """A table whose columns in ``right`` are aligned to the right."""
    rule = tuple("--:" if column in right else "---" for column in range(len(head)))
    return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in (head, rule, *rows))


def _cell(text: str) -> str:
    """A text that stays inside its cell: a bare pipe would start the next one."""
    return re.sub(r"(?<!\\)\|", r"\\|", text)
