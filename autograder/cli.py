"""The command line. Heavy modules are imported by the command that needs them, so that --help is quick."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from autograder import ROOT, UserError
from autograder.manifest import Course, Lang, ManifestError, Week, load
from autograder.student import common, handin, learner, watch

_STUDENTS = """\
students:     autograder doctor             what is missing on this machine
              autograder start 4            week 4: its goals, files, tasks; `status` says how far you are
              autograder check 4            check your week 4, on your machine
              autograder check 4.2          check one task
              autograder watch 4.2          check it again at every save
              autograder submit 4           make the zip file to hand in
              autograder hint 4.2           a hint for it, in three stages
              autograder reset 4.2          the task's code as it was released; your file is kept
              autograder project template DIR    start the final project; `project check DIR` before you hand it in
"""
_OTHERS = """\
instructors:  autograder grade submissions --week 4 --out results/week04
              autograder report results/week04   what the class misunderstood, as one page
              autograder release --out DIR       the students' repository, without any solution
              autograder export DIR --format canvas --out FILE.csv   the marks, for Canvas, Moodle or Excel
TAs:          autograder calibrate 4       three submissions to mark before the class's
              autograder comments 4        comments for the code review
authors:      autograder build              make stubs, notebooks and syllabus from their sources
              autograder build --check      fail if anything is stale, leaked or scored wrongly
              autograder selftest           grade the grader: wrong answers must lose points, right ones none
"""


class UsageError(UserError):
    """The user asked for something that cannot be done; the text is one line that says what to do."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 something failed a check, 2 it could not be done."""
    # Two threads on a busy machine are slower than one, and a zygote may only have one; before torch is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    arguments = _parser().parse_args(argv)

    def refuse(text: str, status: int = 2, head: str = "autograder: ") -> int:
        from autograder import texts

        print(f"{head}{texts.refusal(text, _language(arguments))}", file=sys.stderr)
        return status

    try:
        status: int = arguments.run(arguments)
        return status
    except KeyboardInterrupt:
        return refuse("stopped; run the same command again to go on", 130, "")
    except BrokenPipeError:  # `| head` has seen enough; nothing is left to say, nor may the interpreter try at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ManifestError, UserError) as problem:
        return refuse(str(problem))
    except ModuleNotFoundError as error:
        from autograder.student import home

        if (name := (error.name or "").partition(".")[0]) not in home.packages():
            raise
        return refuse(home.missing_package(name))
    except MemoryError:
        return refuse("the memory is used up: close other programs, or check one task at a time")


class _Parser(argparse.ArgumentParser):
    """Says in the user's language what is wrong with the words of a command; the default `english` marks an instructor's."""

    _words: Sequence[str] = ()
    _found: argparse.Namespace | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        self._words = sys.argv[1:] if args is None else list(args)
        self._found, rest = super().parse_known_args(args, namespace)
        return self._found, rest

    def error(self, message: str) -> NoReturn:
        asked = re.search(r"(?:^|\n)--lang[=\n](en|zh)(?:\n|$)", "\n".join(self._words))
        default = argparse.Namespace(english=self.get_default("english"), lang=asked and asked[1])
        if _language(self._found or default) == "en":
            super().error(message)
        from autograder import texts

        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: {texts.refusal(message, 'zh')}\n")


def _language(arguments: argparse.Namespace) -> Lang:
    """The language of refusals: the command's, else the user's; to instructors, whose --lang is that of pages, English."""
    if getattr(arguments, "english", False):
        return "en"
    return getattr(arguments, "lang", None) or common.language()


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    has_grader = (ROOT / "autograder" / "grading").is_dir()  # students' copies have none
    parser: argparse.ArgumentParser = _Parser(
        "autograder",
        description="Checks and grades the course's exercises.",
        epilog=_STUDENTS + _OTHERS if has_grader else _STUDENTS,
        formatter_class=formatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    check = commands.add_parser(
        "check",
        help="check your own work (not isolated, no marks)",
        description="Runs a week's checks, or a task's, on your stub file in this very process: put a breakpoint() in your\n"
        "code and it stops there. The numbers differ from those of the marking run; the properties do not. Code that runs on\n"
        "without end is interrupted, and you are told the line.",
        formatter_class=formatter,
    )
    check.add_argument("what", metavar="WEEK[.TASK]", help="4 for the whole week, 4.2 for one task")
    check.add_argument("--file", type=Path, help="the file to check (default: exercises/weekNN/<stub>)")
    check.add_argument("--tier", choices=("basic", "advanced"), help="only the checks of this tier")
    check.add_argument("--seed", type=int, default=0, help="what the inputs are drawn from (default 0)")
    common.add_language(check)
    check.add_argument("--seconds", metavar="N", type=float, help="how long one call of your code may run; 0: without limit")
    check.add_argument("--github", action="store_true", help="in GitHub Actions: points as annotations, a table as summary")
    check.set_defaults(run=_check)

    hint = commands.add_parser(
        "hint",
        help="a hint for a task, in three stages",
        description="Shows a hint for a task. There are three, from a nudge to close to code: try after each of them. The first\n"
        "is for the very check that failed when you last ran `autograder check`.\n"
        "  autograder hint 4.2              the first\n"
        "  autograder hint 4.2 --stage 3    the last, close to code",
        formatter_class=formatter,
    )
    hint.add_argument("what", metavar="WEEK.TASK", help="4.2, say")
    hint.add_argument("--stage", type=int, choices=(1, 2, 3), default=1, help="which hint (default 1, the gentlest)")
    common.add_language(hint)
    hint.set_defaults(run=_hint)
    learner.add(commands, formatter)
    watch.add(commands, formatter)
    handin.add(commands, formatter)
    _add_project_commands(commands, formatter)
    students = set(commands.choices)
    if not has_grader:
        return parser

    grade = commands.add_parser(
        "grade",
        help="grade a class in the sandbox",
        description="Grades SUBMISSIONS/<student>/[weekNN/]files and writes to --out:\n"
        "  results.jsonl   one line a student, the source of truth (docs/results.md)\n"
        "  grades.csv      a row a student\n"
        "  feedback/       a page a student\n"
        "  report.html     what the class misunderstood\n"
        "Stop it whenever you like: the same command goes on where it was, and regrades only what changed.\n"
        "For a class that one machine is too small for, the workers of a Dask scheduler judge (docs/scale.md):\n"
        "  autograder grade submissions --week 4 --out results/week04 --engine dask --scheduler tcp://HOST:8786",
        formatter_class=formatter,
    )
    grade.add_argument("submissions", metavar="SUBMISSIONS", type=Path, help="the folder with one folder a student")
    grade.add_argument("--week", type=int, required=True, help="the week to grade")
    grade.add_argument("--out", metavar="DIR", type=Path, required=True, help="where results go (made if missing)")
    grade.add_argument("--seed", type=int, help="reproduces a run; by default secret, kept in DIR/run.json")
    grade.add_argument("--jobs", type=int, help="judges at the same time (default: one a core)")
    grade.add_argument("--engine", choices=("local", "dask"), default="local", help="who judges: this machine (default) or Dask")
    grade.add_argument("--scheduler", metavar="ADDRESS", help="of Dask, tcp://HOST:PORT or tls://HOST:PORT")
    grade.add_argument("--isolation", choices=("bwrap", "process"), help="bwrap (default), or process: reduced isolation")
    grade.add_argument("--notebooks", action="store_true", help="run the lab's notebooks as well, and score their answers")
    grade.add_argument("--lang", choices=("en", "zh"), default="en", help="of the feedback pages and the report (default en)")
    grade.add_argument("--quiet", action="store_true", help="no progress bar and no table")
    grade.set_defaults(run=_grade)

    report = commands.add_parser(
        "report",
        help="make the class report of a graded week",
        description="Makes DIR/report.html from the results in DIR and prints what to teach again. The page says which\n"
        "misunderstandings the class has and how many students share each, how the tasks and the scores came out, and for\n"
        "every check how hard it is and whether it tells good from weak submissions. `autograder grade` makes it as well:\n"
        "run this one for the other language, or after an update of the course. It grades nothing and changes no result.\n"
        "How to read the page: docs/instructors.md.",
        formatter_class=formatter,
    )
    report.add_argument("folder", metavar="DIR", type=Path, help="the folder that was the --out of `autograder grade`")
    report.add_argument("--lang", choices=("en", "zh"), default="en", help="zh makes DIR/report.zh.html (default en)")
    report.set_defaults(run=_report)

    sample = commands.add_parser(
        "sample",
        help="write a sample class to try the grader on",
        description="Writes a class of right, wrong, unfinished and broken answers, made from the bank.",
    )
    sample.add_argument("folder", metavar="DIR", type=Path, help="where the class goes")
    sample.add_argument("--week", type=int, required=True, help="the week that they hand in")
    sample.add_argument("--students", type=int, default=24, help="how many (default 24)")
    sample.set_defaults(run=_sample)

    release = commands.add_parser(
        "release",
        help="write the students' repository",
        description="Writes stubs, notebooks, lectures, checks and labs, and the answers that `autograder check` needs,\n"
        "recorded for the public seed: no solution, no mutant, no key. The result is searched for pieces of them,\n"
        "whatever their names and layout, before it appears in --out. A few minutes for the whole course.",
        formatter_class=formatter,
    )
    release.add_argument("--out", metavar="DIR", type=Path, required=True, help="a new folder")
    release.add_argument("--week", type=int, action="append", help="only this week; again for more (default: all)")
    release.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    release.add_argument("--quiet", action="store_true", help="no progress bar")
    release.set_defaults(run=_release)

    nbgrader = commands.add_parser(
        "nbgrader",
        help="make a course folder for nbgrader",
        description="Writes a folder in which nbgrader's own commands and formgrader run the course, with this grader's scores:\n"
        "  cd DIR\n"
        "  nbgrader generate_assignment week04     then release_assignment, or give students `autograder release`\n"
        "  nbgrader zip_collect week04             from downloaded/week04/archive/<student>.zip; or nbgrader collect\n"
        "  nbgrader autograde week04               judged in the sandbox; again after a change, and only that is graded again\n"
        "  jupyter lab                             formgrader: code review and written answers\n"
        "  nbgrader generate_feedback week04\n"
        "Run it again after an update of the course: gradebook, submissions and your nbgrader_local.py stay as they are.\n"
        "Details: docs/nbgrader.md.",
        formatter_class=formatter,
    )
    nbgrader.add_argument("folder", metavar="DIR", type=Path, help="a new folder, or one that this command made")
    nbgrader.add_argument("--week", type=int, action="append", help="only this week; again for more (default: all)")
    nbgrader.add_argument("--lang", choices=("en", "zh"), default="en", help="of notebooks and pages (default en)")
    nbgrader.add_argument("--db", metavar="URL", help="of the gradebook (default: SQLite, DIR/gradebook.db)")
    nbgrader.add_argument("--isolation", choices=("bwrap", "process"), default="bwrap", help="of the judge (default bwrap)")
    nbgrader.set_defaults(run=_nbgrader)

    build = commands.add_parser(
        "build",
        help="make stubs, notebooks and syllabus from their sources",
        description="Makes exercises/ and notebooks/ from solutions/, the syllabus from course/course.toml and the list\n"
        "of readings from course/readings.toml. Never overwrites a stub or a notebook that was edited.\n"
        "A Chinese page of a week begins with a hash of its English page, and --check fails where they differ. Once a\n"
        "translation is up to date again, `autograder build --translated course/week04/lecture.zh.md` records it; a folder\n"
        "(course/week04, course) stands for all translations in it.",
        formatter_class=formatter,
    )
    what = build.add_mutually_exclusive_group()
    what.add_argument(
        "--check", action="store_true", help="change nothing; fail on drift, leaks, wrong scores, stale translations"
    )
    what.add_argument(
        "--translated", metavar="PATH", type=Path, nargs="+", help="these pages, or all in a folder, are up to date"
    )
    build.add_argument("--week", type=int, action="append", help="with --check: run this week's reference and stub only")
    build.set_defaults(run=_build)

    selftest = commands.add_parser(
        "selftest",
        help="grade the grader on answers that are known to be wrong or right",
        description="For each week: the reference and the alternatives must score full and be told no misconception; every\n"
        "mutant of the bank must lose points and be told its own; held-out spellings measure how many diagnoses are\n"
        "right; and of the mutants that are generated from the reference 97 % must lose points. What survives is listed:\n"
        "a check has to notice it, or autograder/bank/weekNN/equivalents.toml says why none may.",
        formatter_class=formatter,
    )
    selftest.add_argument("--week", type=int, help="this week alone (default: all that have tasks)")
    selftest.add_argument("--seed", type=int, default=0, help="what the inputs are drawn from (default 0)")
    some = selftest.add_mutually_exclusive_group()
    some.add_argument("--no-generated", action="store_true", help="leave out the generated mutants, which take longest")
    some.add_argument("--every", metavar="N", type=int, default=1, help="run one in N of the generated mutants (default: all)")
    selftest.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    selftest.add_argument("--quiet", action="store_true", help="no progress bar")
    selftest.set_defaults(run=_selftest)
    _add_review_commands(commands, formatter)
    _add_platform_commands(commands, formatter)
    _add_marks_commands(commands, formatter)
    _add_export_commands(commands, formatter)
    _add_ta_commands(commands, formatter)
    for name in set(commands.choices) - students:
        commands.choices[name].set_defaults(english=True)
    return parser


def _add_project_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser], formatter: Any) -> None:
    project = commands.add_parser(
        "project",
        help="start the final project's folder, and check it",
        description="The final project: docs/project.md says what is asked and how it is marked.\n"
        "  autograder project template ../ours    writes a folder to start from; fill in what stands in {{...}}\n"
        "  autograder project check ../ours       says what is still missing, with file and line",
        formatter_class=formatter,
    )
    actions = project.add_subparsers(title="commands", metavar="COMMAND", required=True)

    template = actions.add_parser(
        "template",
        help="write a project folder to start from",
        description="Writes report, README, model card, project.toml, a configuration, a program that runs it, a test. What you\n"
        "have to fill in stands there as {{fill in: ...}}; `autograder project check DIR` lists what is left of it.",
        formatter_class=formatter,
    )
    template.add_argument("folder", metavar="DIR", type=Path, help="a new folder, or an empty one")
    common.add_language(template, "of the texts")
    template.set_defaults(run=_project_template)

    check = actions.add_parser(
        "check",
        help="say what is not in order in a project folder",
        description="Looks through a project folder and prints a line for each thing to do:\n"
        "  must    report.md:31  mean is 0.83 here and 0.8294 by results/metrics.json: correct one of them\n"
        "`must` has to be mended before the project is handed in, `should` is advice. It exits with 0 if no `must` is left.\n"
        "Nothing in the folder is run: no code, no git, no weights. Check a fresh clone, which is what others will have.",
        formatter_class=formatter,
    )
    check.add_argument("folder", metavar="DIR", type=Path, help="the project's folder")
    check.add_argument("--json", action="store_true", help="for programs")
    common.add_language(check)
    check.set_defaults(run=_project_check)


def _project_template(arguments: argparse.Namespace) -> int:
    from autograder.project import handbook

    for name in handbook.write_template(arguments.folder, arguments.lang):
        print(arguments.folder / name)
    return 0


def _project_check(arguments: argparse.Namespace) -> int:
    from autograder.project import check, handbook

    report = check.check(arguments.folder, handbook.load())
    if arguments.json:
        print(report.json(arguments.lang))
    else:
        print("\n".join(report.lines(arguments.lang)))
    return 1 if report.count("must") else 0


def _add_review_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser], formatter: Any) -> None:
    similar = commands.add_parser(
        "similar",
        help="list submissions that share more code than independent answers do",
        description="Compares every two submissions of a week, and each with the reference and with earlier years, and writes\n"
        "  DIR/similar.jsonl   one pair a line, the most alike first\n"
        "  DIR/similar.html    the pairs side by side, with what they share marked\n"
        "Renaming, reordering, comments, layout and the stub make no difference. A pair is a reason to read both files and to\n"
        "talk to the students; it is no proof. It changes no score.",
        formatter_class=formatter,
    )
    similar.add_argument("submissions", metavar="SUBMISSIONS", type=Path, help="the folder with one folder a student")
    similar.add_argument("--week", type=int, required=True, help="the week to compare")
    similar.add_argument("--out", metavar="DIR", type=Path, required=True, help="where the list and the page go")
    similar.add_argument("--against", metavar="DIR", type=Path, action="append", default=[], help="an earlier year's; may repeat")
    similar.add_argument("--groups", metavar="CSV", type=Path, help="columns group,student: a team is not compared within")
    similar.add_argument("--threshold", type=float, help="share from 0 to 1 (default: from the bank's independent answers)")
    similar.add_argument("--lang", choices=("en", "zh"), default="en", help="the page's language (default en)")
    similar.set_defaults(run=_similar)


def _add_platform_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser], formatter: Any) -> None:
    gradescope = commands.add_parser(
        "gradescope",
        help="write the zip of a Gradescope programming assignment",
        description="Writes the zip to upload under Configure Autograder of a Gradescope programming assignment. It holds the\n"
        "grader and the week's solution: for instructors alone. In Gradescope's container the same judge gives the same\n"
        "points as `autograder grade`, in bubblewrap where the container allows it, else with reduced isolation: separate\n"
        "processes under other accounts. Every result says which. Settings that it needs there, and what it cannot do:\n"
        "docs/platforms.md.",
        formatter_class=formatter,
    )
    gradescope.add_argument("--week", type=int, required=True, help="the week that students hand in")
    gradescope.add_argument("--out", metavar="ZIP", type=Path, required=True, help="autograder.zip, say")
    gradescope.add_argument("--lang", choices=("en", "zh"), default="en", help="of the texts around the checks (default en)")
    levels = "bwrap: grade nothing where there is no bubblewrap"
    gradescope.add_argument("--isolation", choices=("auto", "bwrap", "process"), default="auto", help=levels)
    gradescope.set_defaults(run=_gradescope)

    classroom = commands.add_parser(
        "classroom",
        help="write a week's template repository for GitHub, with a workflow that checks every push",
        description="Writes the students' repository of one week, as `autograder release --week` does, and into it\n"
        "  .github/workflows/classroom.yml   checks every push and shows the points, in the words of GitHub Classroom\n"
        "  .github/classroom/tests.json      the same as tests for Classroom 50 (gh teacher assignment add --tests)\n"
        "Push it to a repository that is marked as template. Students can change what runs in their own repository: that is\n"
        "feedback. Marks come from `autograder grade` over the clones: docs/platforms.md.",
        formatter_class=formatter,
    )
    classroom.add_argument("--week", type=int, required=True, help="the week that is the assignment")
    classroom.add_argument("--out", metavar="DIR", type=Path, required=True, help="a new folder")
    classroom.add_argument("--quiet", action="store_true", help="no progress bar")
    classroom.set_defaults(run=_classroom)


def _add_marks_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser], formatter: Any) -> None:
    marks = commands.add_parser(
        "marks",
        help="compute and explain the course marks",
        description="Computes everybody's mark: the weeks from nbgrader's gradebook, with what marks.toml says about lateness,\n"
        "extensions.csv and groups.csv; reading and discussion from reading.csv; the project from project.csv. DIR is the\n"
        "folder that `autograder nbgrader` made. Nothing is changed. A mark is provisional while anything of it waits.\n"
        "  autograder marks DIR                    the class, a line a student\n"
        "  autograder marks DIR --student ada      where ada's mark comes from, line by line\n"
        "The files and the rules: docs/marks.md.",
        formatter_class=formatter,
    )
    marks.add_argument("folder", metavar="DIR", type=Path, help="the course folder")
    marks.add_argument("--student", help="explain this student's mark")
    marks.add_argument("--explain", action="store_true", help="explain everybody's mark")
    marks.add_argument("--json", action="store_true", help="as JSON, one object a student and line")
    marks.add_argument("--lang", choices=("en", "zh"), default="en", help="the explanation's language (default en)")
    marks.set_defaults(run=_marks)

    regrade = commands.add_parser(
        "regrade",
        help="grade a week again after a check was mended; shows whom it changes",
        description="Grades a week of the course folder again, with the same seed, beside the results that it has, and prints\n"
        "what would change: for each student the cells, before and after, and the course mark. Nothing is entered until you\n"
        "run the same command with --apply; then nbgrader enters what was shown, and the old results stay in\n"
        "DIR/results/weekNN.before-<time>. Manual scores and comments are kept, and where a TA's score goes before the\n"
        "judge's it says so. A submission whose file and checks are what they were is not run again.",
        formatter_class=formatter,
    )
    regrade.add_argument("folder", metavar="DIR", type=Path, help="the course folder")
    regrade.add_argument("--week", type=int, required=True, help="the week to grade again")
    regrade.add_argument("--apply", action="store_true", help="enter the changes in the gradebook")
    regrade.add_argument("--jobs", type=int, help="judges at the same time (default: one a core)")
    regrade.add_argument("--quiet", action="store_true", help="no progress bar")
    regrade.set_defaults(run=_regrade)


def _regrade(arguments: argparse.Namespace) -> int:
    course = load()
    week = course.week(arguments.week)
    if arguments.jobs is not None and arguments.jobs < 1:
        raise UsageError("--jobs must be at least 1")
    from autograder.marking import regrade

    found = regrade.preview(arguments.folder, course, week, arguments.jobs, arguments.quiet)
    print("\n".join(regrade.lines(found, week)))
    if not arguments.apply:
        if found.deltas:
            print(f"nothing is entered yet: autograder regrade {arguments.folder} --week {week.number} --apply")
        return 1 if found.ungraded else 0
    regrade.apply(arguments.folder, week, found)
    print("entered")
    return 0


def _marks(arguments: argparse.Namespace) -> int:
    from autograder import report
    from autograder.marking import marks

    found = marks.load(arguments.folder, load(), arguments.lang)
    if arguments.student is not None:
        found = [mark for mark in found if mark.person.student == arguments.student]
        if not found:
            raise UsageError(f"there is no student {arguments.student!r} in {arguments.folder}")
    if arguments.json:
        for mark in found:
            print(json.dumps(report.mark_json(mark), ensure_ascii=True))
    elif arguments.explain or arguments.student is not None:
        print("\n\n".join(report.mark_lines(mark, arguments.lang) for mark in found))
    else:
        print(report.marks_table(found, arguments.lang))
    return 0


def _add_ta_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser], formatter: Any) -> None:
    comments = commands.add_parser(
        "comments",
        help="comments for the code review, to copy",
        description="Prints the comment bank: with a WEEK, what to say of each misunderstanding that its checks know, and\n"
        "where to read again; without, the general remarks on code. In nbgrader those that fit a submission stand below it.\n"
        "  autograder comments 4 --search merge      those about merging\n"
        "  autograder comments 4 --search 4.3        those of one task",
        formatter_class=formatter,
    )
    comments.add_argument("week", metavar="WEEK", type=int, nargs="?", help="the week (default: the general remarks)")
    comments.add_argument("--search", metavar="TEXT", default="", help="only those that contain TEXT, in either language")
    comments.add_argument("--lang", choices=("en", "zh"), default="en", help="their language (default en)")
    comments.set_defaults(run=_comments)

    calibrate = commands.add_parser(
        "calibrate",
        help="three submissions to mark before you mark a class",
        description="Prints three submissions of a week as Markdown, with the rubric left blank. All of them pass every check:\n"
        "what differs is the code. Everybody marks them alone; then you compare, with each other and with the key:\n"
        "  autograder calibrate 4 > marks.md\n"
        "  autograder calibrate 4 --key\n"
        "How to spend the half hour: docs/tas.md.",
        formatter_class=formatter,
    )
    calibrate.add_argument("week", metavar="WEEK", type=int, help="the week; not all have examples")
    calibrate.add_argument("--key", action="store_true", help="the scores, with reasons, in place of the code")
    calibrate.add_argument("--lang", choices=("en", "zh"), default="en", help="the language (default en)")
    calibrate.set_defaults(run=_calibrate)


def _comments(arguments: argparse.Namespace) -> int:
    course = load()
    week = None if arguments.week is None else _weeks(course, [arguments.week])[0]
    from autograder.intake import clean
    from autograder.reports import comments

    found = list(comments.search(week, arguments.search, arguments.lang))
    if not found:
        raise UsageError(f'no comment contains "{clean(arguments.search)}"; try a shorter word, or another week')
    print("\n\n".join(f"{heading}\n{text}" for heading, text in found))
    return 0


def _calibrate(arguments: argparse.Namespace) -> int:
    week = load().week(arguments.week)
    from autograder.reports import calibration

    print(calibration.page(week, arguments.lang, key=arguments.key), end="")
    return 0


def _similar(arguments: argparse.Namespace) -> int:
    week = load().week(arguments.week)
    if not week.tasks:
        raise UsageError(f"week {week.number} has no tasks yet")
    if arguments.threshold is not None and not 0 < arguments.threshold <= 1:
        raise UsageError("--threshold is a share above 0 and up to 1, such as 0.5")
    from autograder.intake import clean
    from autograder.reports import similar

    report = similar.run(
        arguments.submissions, week, arguments.out, arguments.against, arguments.groups, arguments.lang, arguments.threshold
    )
    if report.threshold is None:
        print(f"week {week.number} is too short to tell: independent answers look alike; nothing is listed")
    for pair in report.pairs[:50]:
        print(f"{pair.score:5.0%}  {clean(pair.first)}  {clean(pair.second)}")
    print(f"{len(report.pairs)} pairs of {report.compared} submissions; {len(report.short)} too short to tell")
    print(arguments.out / "similar.html")
    return 0


def _add_export_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser], formatter: Any) -> None:
    export = commands.add_parser(
        "export",
        help="write the marks as CSV or Excel, or for Canvas or Moodle",
        description="Writes the marks of a course folder, the one that `autograder nbgrader` made, to a file:\n"
        "  csv      a row a student with everything, for other programs\n"
        "  excel    the same, with a sheet on how each mark comes about\n"
        "  canvas   what Canvas's gradebook imports: the three parts of the mark, which add up to it\n"
        "  moodle   what Moodle's gradebook imports, likewise\n"
        "With --week only that week's score, of 100 points. Canvas needs canvas_id, sis_id or sis_login in roster.csv, Moodle\n"
        "moodle_id or email: who has none is left out and named, and the command exits with 1. How to import: docs/exports.md.",
        formatter_class=formatter,
    )
    export.add_argument("folder", metavar="DIR", type=Path, help="the course folder")
    export.add_argument("--format", choices=("csv", "excel", "canvas", "moodle"), required=True, help="what the file is for")
    export.add_argument("--out", metavar="FILE", type=Path, required=True, help="the file, .csv or .xlsx; replaced if there")
    export.add_argument("--week", type=int, help="only this week's score (default: the whole mark)")
    export.add_argument("--lang", choices=("en", "zh"), default="en", help="of headings and explanations (default en)")
    export.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> int:
    course = load()
    week = None if arguments.week is None else course.week(arguments.week).number
    from autograder.intake import clean
    from autograder.marking import exports, marks

    found = marks.load(arguments.folder, course, arguments.lang)
    written = exports.write(arguments.folder, found, course, arguments.format, arguments.out, week, arguments.lang)
    for note in written.notes:
        print(f"autograder: {note}", file=sys.stderr)
    print(f"{written.students} student{'s' * (written.students != 1)} in {clean(str(arguments.out))}")
    return 1 if written.left_out else 0


def _check(arguments: argparse.Namespace) -> int:
    course = load()
    week, tasks = common.what(course, arguments.what)
    from autograder.student import home, progress

    path = home.stub(course, week, arguments.file)
    seen = progress.digest(week)
    if not arguments.github:  # whose points and annotations are wanted whatever the file is like
        home.parses(path)
    from autograder.judge import runner as judge
    from autograder.report import print_check, print_github

    runner = judge.Runner(week, arguments.seed, [t.id for t in tasks], arguments.tier)
    runs = home.check(runner, path, home.seconds(arguments.seconds))
    if arguments.seed == 0 and arguments.tier is None:
        progress.record(week, runs, path, seen)
    status = print_check(week, runs, path, arguments.lang)
    if arguments.github:
        print_github(runs)
    return status


def _hint(arguments: argparse.Namespace) -> int:
    week, tasks = common.what(load(), arguments.what)
    if "." not in arguments.what:
        raise UsageError(f"a hint is for one task: {', '.join(f'autograder hint {t.id}' for t in tasks)}")
    from autograder import texts
    from autograder.screen import Screen
    from autograder.student import hints, progress

    task, stage, lang = tasks[0], arguments.stage, arguments.lang
    zh, screen = lang == "zh", Screen()
    entry = progress.load().get(task.id, progress.Entry())
    stated = texts.property_of(week, entry.failing, lang) if entry.failing else None
    found = hints.of(week, task, lang, entry.failing if stated else None)
    screen.line((f"{task.id}  {task.title.of(lang)} ({stage}/{len(found)})", "bold"))
    print()
    if stated:
        screen.paragraph([("首先未通过的检查：" if zh else "The check that fails first: ", "red"), (stated, "")])
        if entry.digest != progress.digest(week):
            again = f"autograder check {task.id}"
            english = f"your file has changed since; {again} tells whether it still does"
            note = f"此后文件有改动；{again} 会说明它是否仍未通过" if zh else english
            screen.paragraph((note, "yellow"))
        print()
    screen.paragraph(found[stage - 1])
    print()
    progress.hinted(task.id, stage)
    if stage < len(found):
        screen.line((f"autograder hint {task.id} --stage {stage + 1}" + " --lang zh" * zh, "cyan"))
    else:
        screen.line((texts.lecture(task.lecture, lang), "cyan"))
    return 0


def _grade(arguments: argparse.Namespace) -> int:
    course = load()
    week = course.week(arguments.week)
    if arguments.jobs is not None and arguments.jobs < 1:
        raise UsageError("--jobs must be at least 1")
    if (arguments.engine == "dask") != (arguments.scheduler is not None):
        raise UsageError("--engine dask and --scheduler tcp://HOST:PORT go together: docs/scale.md says how to start a scheduler")
    if arguments.engine == "dask" and arguments.jobs is not None:
        raise UsageError("--jobs is for judges on this machine: with --engine dask leave it out, the number of workers decides")
    if sys.platform != "linux":
        raise UsageError("grading needs Linux (its sandbox is made of namespaces); checking at home does not")
    from tqdm import tqdm

    from autograder.grading import engine
    from autograder.report import print_class

    tqdm.monitor_interval = 0  # no thread of its own: judges are forked from this process
    bar: tqdm[None] | None = None

    def progress(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=total, initial=done, unit=" student", desc=f"week {week.number}", disable=arguments.quiet)
        bar.update(done - bar.n)

    # A batch system ends a job by SIGTERM: as Ctrl-C does, it leaves no process and no temporary folder.
    signal.signal(signal.SIGTERM, _terminated)
    try:
        summary = engine.grade(
            arguments.submissions, week, arguments.out, course,
            seed=arguments.seed, jobs=arguments.jobs, isolation=arguments.isolation, scheduler=arguments.scheduler,
            lang=arguments.lang, progress=progress,
        )  # fmt: skip
    finally:
        if bar is not None:
            bar.close()
    from autograder import results
    from autograder.reports import classreport

    with results.writing(arguments.out):
        classreport.write(arguments.out, course)
        if arguments.lang != "en":
            classreport.write(arguments.out, course, arguments.lang)
    if not arguments.quiet:
        print_class(summary, week, arguments.out)
    ungraded = any(r["status"] == "ungraded" for r in summary.results)
    if arguments.notebooks:
        ungraded |= _grade_notebooks(arguments, week)
    return 1 if ungraded else 0


def _terminated(*_: object) -> None:
    raise KeyboardInterrupt


def _grade_notebooks(arguments: argparse.Namespace, week: Week) -> bool:
    """Run and score the notebooks; whether any is ungraded."""
    from tqdm import tqdm

    from autograder.grading import labrun

    with tqdm(unit=" notebook", desc=f"week {week.number}", disable=arguments.quiet) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        isolation = arguments.isolation or "bwrap"
        lines = labrun.grade(
            arguments.submissions, week, arguments.out, jobs=arguments.jobs, isolation=isolation, progress=progress
        )
    if not arguments.quiet:
        print("\n".join(labrun.progress_lines(lines)))
    return any(line["status"] == "ungraded" for line in lines)


def _report(arguments: argparse.Namespace) -> int:
    from autograder.reports import classreport

    path, lines = classreport.write(arguments.folder, load(), arguments.lang)
    print(path)
    print("what to re-teach:" if arguments.lang == "en" else "需要重讲的内容：")
    for place, line in enumerate(lines, 1):
        print(f"{place}. {line}")
    if not lines:
        print("nothing that a check has shown" if arguments.lang == "en" else "检查项没有发现需要重讲的内容")
    return 0


def _sample(arguments: argparse.Namespace) -> int:
    from autograder.proof import sample

    if arguments.students < 1:
        raise UsageError("--students must be at least 1")
    count = sample.write(arguments.folder, load().week(arguments.week), arguments.students)
    print(f"{count} submissions of week {arguments.week} in {arguments.folder}")
    return 0


def _release(arguments: argparse.Namespace) -> int:
    course = load()
    weeks = _weeks(course, arguments.week)
    if arguments.jobs < 1:
        raise UsageError("--jobs must be at least 1")
    from tqdm import tqdm

    from autograder.authoring import release

    with tqdm(total=len(weeks), unit=" week", desc="recording", disable=arguments.quiet, leave=False) as bar:
        count = release.write(arguments.out, course, weeks, lambda done, total: bar.update(done - bar.n), arguments.jobs)
    print(f"{count} files in {arguments.out}, without solutions, mutants or keys")
    return 0


def _nbgrader(arguments: argparse.Namespace) -> int:
    course = load()
    from autograder.marking import nbcourse

    weeks = _weeks(course, arguments.week)
    lines = nbcourse.write(arguments.folder, course, weeks, arguments.lang, arguments.db, arguments.isolation)
    print("\n".join(lines))
    print(f"next: cd {arguments.folder} && nbgrader generate_assignment {weeks[0].folder}")
    return 0


def _gradescope(arguments: argparse.Namespace) -> int:
    (week,) = _weeks(load(), [arguments.week])
    from autograder.platforms import gradescope

    count = gradescope.write(arguments.out, week, arguments.lang, arguments.isolation)
    print(f"{count} files in {arguments.out}, the solution of week {week.number} among them: keep it from students")
    print("upload it under Configure Autograder, Zip file upload; docs/platforms.md has the settings")
    return 0


def _classroom(arguments: argparse.Namespace) -> int:
    course = load()
    (week,) = _weeks(course, [arguments.week])
    from tqdm import tqdm

    from autograder.platforms import classroom

    with tqdm(total=1, unit=" week", desc="recording", disable=arguments.quiet, leave=False) as bar:
        count = classroom.write(arguments.out, course, week, lambda done, total: bar.update(done - bar.n))
    print(f"{count} files in {arguments.out}, without solutions, mutants or keys")
    print("push it to a repository on GitHub and mark that as template; docs/platforms.md goes on from there")
    return 0


def _build(arguments: argparse.Namespace) -> int:
    from autograder.authoring import build

    if arguments.week is not None and not arguments.check:
        raise UsageError("--week goes with --check: everything is built, and translations are recorded page by page")
    if arguments.translated:
        print("\n".join(build.translated(arguments.translated)) or "nothing to do: that is recorded already")
        return 0
    course = load()
    scored = None if arguments.week is None else [course.week(number).number for number in arguments.week]
    if not arguments.check:
        lines = build.build(course)
        print("\n".join(lines) or "nothing to do: all generated files are up to date")
        return 0
    found = list(build.problems(course, scored))
    for line in found:
        print(line)
    print(f"{len(found)} problems" if found else "all generated files are in order")
    return 1 if found else 0


def _selftest(arguments: argparse.Namespace) -> int:
    course = load()
    weeks = [w for w in course.weeks if w.tasks] if arguments.week is None else [course.week(arguments.week)]
    if arguments.jobs < 1:
        raise UsageError("--jobs must be at least 1")
    from tqdm import tqdm

    from autograder.proof import selftest

    tqdm.monitor_interval = 0  # no thread of its own: this process is forked
    if arguments.every < 1:
        raise UsageError("--every must be at least 1")
    mend = 0
    reports = []
    for week in weeks:
        if not week.tasks:
            raise UsageError(f"week {week.number} has no tasks yet")
        with tqdm(unit=" answer", desc=f"week {week.number}", disable=arguments.quiet, leave=False) as bar:

            def progress(done: int, total: int, bar: tqdm[None] = bar) -> None:
                bar.total = total
                bar.update(done - bar.n)

            every = 0 if arguments.no_generated else arguments.every
            report = selftest.run(week, arguments.seed, every=every, jobs=arguments.jobs, progress=progress)
        print("\n".join(report.lines()))
        mend += len(report.problems)
        reports.append(report)
    if len(reports) > 1 and not arguments.no_generated:
        line, reached = selftest.together(reports)
        print(line)
        mend += not reached
    return 1 if mend else 0


def _weeks(course: Course, numbers: Sequence[int] | None) -> list[Week]:
    """The weeks of these numbers, or all that have tasks."""
    weeks = [w for w in course.weeks if w.tasks] if numbers is None else [course.week(n) for n in sorted(set(numbers))]
    if lacking := [week.number for week in weeks if not week.tasks]:
        raise UsageError(f"week {lacking[0]} has no tasks yet")
    return weeks
