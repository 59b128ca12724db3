"""The command line. Heavy modules are imported by the command that needs them, so that --help is quick."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autograder import UserError
from autograder.manifest import Course, ManifestError, Task, Week, load

if TYPE_CHECKING:
    from autograder.judge.runner import TaskRun

_STUDENTS = """\
students:     autograder check 4            check your week 4, on your machine
              autograder check 4.2          check one task
              autograder hint 4.2           a hint for it, in three stages
"""
_OTHERS = """\
instructors:  autograder grade submissions --week 4 --out results/week04
              autograder report results/week04   what the class misunderstood, as one page
              autograder release --out DIR       the students' repository, without any solution
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
    try:
        status: int = arguments.run(arguments)
        return status
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head` has seen enough; nothing is left to say, nor may the interpreter try at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ManifestError, UserError) as problem:
        print(f"autograder: {problem}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    has_grader = (Path(__file__).parent / "engine.py").is_file()  # students' copies have none
    parser = argparse.ArgumentParser(
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
        "code and it stops there. The numbers differ from those of the marking run; the properties do not.",
        formatter_class=formatter,
    )
    check.add_argument("what", metavar="WEEK[.TASK]", help="4 for the whole week, 4.2 for one task")
    check.add_argument("--file", type=Path, help="the file to check (default: exercises/weekNN/<stub>)")
    check.add_argument("--tier", choices=("basic", "advanced"), help="only the checks of this tier")
    check.add_argument("--seed", type=int, default=0, help="what the inputs are drawn from (default 0)")
    check.add_argument("--github", action="store_true", help="in GitHub Actions: points as annotations, a table as summary")
    check.set_defaults(run=_check)

    hint = commands.add_parser(
        "hint",
        help="a hint for a task, in three stages",
        description="Shows a hint for a task. There are three, from a nudge to close to code: try after each of them.",
    )
    hint.add_argument("what", metavar="WEEK.TASK", help="4.2, say")
    hint.add_argument("--stage", type=int, choices=(1, 2, 3), default=1, help="which hint (default 1, the gentlest)")
    hint.add_argument("--lang", choices=("en", "zh"), default="en", help="its language (default en)")
    hint.set_defaults(run=_hint)
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
        "Stop it whenever you like: the same command goes on where it was, and regrades only what changed.",
        formatter_class=formatter,
    )
    grade.add_argument("submissions", metavar="SUBMISSIONS", type=Path, help="the folder with one folder a student")
    grade.add_argument("--week", type=int, required=True, help="the week to grade")
    grade.add_argument("--out", metavar="DIR", type=Path, required=True, help="where results go (made if missing)")
    grade.add_argument("--seed", type=int, help="reproduces a run; by default secret, kept in DIR/run.json")
    grade.add_argument("--jobs", type=int, help="judges at the same time (default: one a core)")
    grade.add_argument("--isolation", choices=("bwrap", "process"), help="bwrap (default), or process: reduced isolation")
    grade.add_argument("--notebooks", action="store_true", help="run the lab's notebooks as well, and score their answers")
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
        description="Makes exercises/ and notebooks/ from solutions/ and the syllabus from course/course.toml. "
        "Never overwrites a stub or a notebook that was edited.",
    )
    build.add_argument("--check", action="store_true", help="change nothing; fail on drift, leaks, wrong scores")
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
    selftest.add_argument("--no-generated", action="store_true", help="leave out the generated mutants, which take longest")
    selftest.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    selftest.add_argument("--quiet", action="store_true", help="no progress bar")
    selftest.set_defaults(run=_selftest)
    _add_review_commands(commands, formatter)
    _add_platform_commands(commands, formatter)
    return parser


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


def _similar(arguments: argparse.Namespace) -> int:
    week = load().week(arguments.week)
    if not week.tasks:
        raise UsageError(f"week {week.number} has no tasks yet")
    if arguments.threshold is not None and not 0 < arguments.threshold <= 1:
        raise UsageError("--threshold is a share above 0 and up to 1, such as 0.5")
    from autograder import similar
    from autograder.intake import clean

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


def _check(arguments: argparse.Namespace) -> int:
    course = load()
    week, tasks = _what(course, arguments.what)
    from autograder import home
    from autograder.judge import runner as judge
    from autograder.report import print_check, print_github

    path = arguments.file or judge.ROOT / "exercises" / week.folder / week.stub
    if not path.is_file():
        raise UsageError(f"{path} is not there: pass --file PATH, or get the stub back with `autograder build`")
    runner = judge.Runner(week, arguments.seed, [t.id for t in tasks], arguments.tier)
    runs: list[TaskRun] = []
    # The student's own prints and breakpoints stay on the terminal.
    with home.hidden_packages(week):
        runner.run_in_pytest(lambda: runs.extend(runner.run(judge.loopback(path.resolve()))), silent=False)

    status = print_check(runs, path)
    if arguments.github:
        print_github(runs)
    return status


def _hint(arguments: argparse.Namespace) -> int:
    week, tasks = _what(load(), arguments.what)
    if "." not in arguments.what:
        raise UsageError(f"a hint is for one task: {', '.join(f'autograder hint {t.id}' for t in tasks)}")
    from autograder import hints

    task, stage = tasks[0], arguments.stage
    found = hints.of(week, task, arguments.lang)
    title = task.title.zh if arguments.lang == "zh" else task.title.en
    print(f"{task.id}  {title} ({stage}/{len(found)})\n\n{found[stage - 1]}\n")
    if stage < len(found):
        print(f"autograder hint {task.id} --stage {stage + 1}" + (" --lang zh" if arguments.lang == "zh" else ""))
    else:
        print(task.lecture)
    return 0


def _grade(arguments: argparse.Namespace) -> int:
    course = load()
    week = course.week(arguments.week)
    if arguments.jobs is not None and arguments.jobs < 1:
        raise UsageError("--jobs must be at least 1")
    if sys.platform != "linux":
        raise UsageError("grading needs Linux (its sandbox is made of namespaces); checking at home does not")
    from tqdm import tqdm

    from autograder import engine
    from autograder.report import print_class

    tqdm.monitor_interval = 0  # no thread of its own: judges are forked from this process
    bar: tqdm[None] | None = None

    def progress(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=total, initial=done, unit=" student", desc=f"week {week.number}", disable=arguments.quiet)
        bar.update(done - bar.n)

    try:
        summary = engine.grade(
            arguments.submissions, week, arguments.out, course,
            seed=arguments.seed, jobs=arguments.jobs, isolation=arguments.isolation, progress=progress,
        )  # fmt: skip
    finally:
        if bar is not None:
            bar.close()
    from autograder import classreport  # only now: judges were forked from a process without matplotlib

    classreport.write(arguments.out, course)
    if not arguments.quiet:
        print_class(summary, week, arguments.out)
    ungraded = any(r["status"] == "ungraded" for r in summary.results)
    if arguments.notebooks:
        ungraded |= _grade_notebooks(arguments, week, course)
    return 1 if ungraded else 0


def _grade_notebooks(arguments: argparse.Namespace, week: Week, course: Course) -> bool:
    """Run and score the notebooks; whether any is ungraded."""
    from tqdm import tqdm

    from autograder import labrun

    with tqdm(unit=" notebook", desc=f"week {week.number}", disable=arguments.quiet) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        isolation = arguments.isolation or "bwrap"
        lines = labrun.grade(
            arguments.submissions, week, arguments.out, course, jobs=arguments.jobs, isolation=isolation, progress=progress
        )
    if not arguments.quiet:
        print("\n".join(labrun.progress_lines(lines)))
    return any(line["status"] == "ungraded" for line in lines)


def _report(arguments: argparse.Namespace) -> int:
    from autograder import classreport

    path, lines = classreport.write(arguments.folder, load(), arguments.lang)
    print(path)
    print("what to re-teach:" if arguments.lang == "en" else "需要重讲的内容：")
    for place, line in enumerate(lines, 1):
        print(f"{place}. {line}")
    if not lines:
        print("nothing that a check has shown" if arguments.lang == "en" else "检查项没有发现需要重讲的内容")
    return 0


def _sample(arguments: argparse.Namespace) -> int:
    from autograder import sample

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

    from autograder import release

    with tqdm(total=len(weeks), unit=" week", desc="recording", disable=arguments.quiet, leave=False) as bar:
        count = release.write(arguments.out, course, weeks, lambda done, total: bar.update(done - bar.n), arguments.jobs)
    print(f"{count} files in {arguments.out}, without solutions, mutants or keys")
    return 0


def _nbgrader(arguments: argparse.Namespace) -> int:
    course = load()
    from autograder import nbcourse

    weeks = _weeks(course, arguments.week)
    lines = nbcourse.write(arguments.folder, course, weeks, arguments.lang, arguments.db, arguments.isolation)
    print("\n".join(lines))
    print(f"next: cd {arguments.folder} && nbgrader generate_assignment {weeks[0].folder}")
    return 0


def _gradescope(arguments: argparse.Namespace) -> int:
    (week,) = _weeks(load(), [arguments.week])
    from autograder import gradescope

    count = gradescope.write(arguments.out, week, arguments.lang, arguments.isolation)
    print(f"{count} files in {arguments.out}, the solution of week {week.number} among them: keep it from students")
    print("upload it under Configure Autograder, Zip file upload; docs/platforms.md has the settings")
    return 0


def _classroom(arguments: argparse.Namespace) -> int:
    course = load()
    (week,) = _weeks(course, [arguments.week])
    from tqdm import tqdm

    from autograder import classroom

    with tqdm(total=1, unit=" week", desc="recording", disable=arguments.quiet, leave=False) as bar:
        count = classroom.write(arguments.out, course, week, lambda done, total: bar.update(done - bar.n))
    print(f"{count} files in {arguments.out}, without solutions, mutants or keys")
    print("push it to a repository on GitHub and mark that as template; docs/platforms.md goes on from there")
    return 0


def _build(arguments: argparse.Namespace) -> int:
    from autograder import build

    course = load()
    if not arguments.check:
        lines = build.build(course)
        print("\n".join(lines) or "nothing to do: all generated files are up to date")
        return 0
    found = list(build.problems(course))
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

    from autograder import selftest

    tqdm.monitor_interval = 0  # no thread of its own: this process is forked
    mend = 0
    for week in weeks:
        if not week.tasks:
            raise UsageError(f"week {week.number} has no tasks yet")
        with tqdm(unit=" answer", desc=f"week {week.number}", disable=arguments.quiet, leave=False) as bar:

            def progress(done: int, total: int, bar: tqdm[None] = bar) -> None:
                bar.total = total
                bar.update(done - bar.n)

            generated = not arguments.no_generated
            report = selftest.run(week, arguments.seed, generated=generated, jobs=arguments.jobs, progress=progress)
        print("\n".join(report.lines()))
        mend += len(report.problems)
    return 1 if mend else 0


def _weeks(course: Course, numbers: Sequence[int] | None) -> list[Week]:
    """The weeks of these numbers, or all that have tasks."""
    weeks = [w for w in course.weeks if w.tasks] if numbers is None else [course.week(n) for n in sorted(set(numbers))]
    if lacking := [week.number for week in weeks if not week.tasks]:
        raise UsageError(f"week {lacking[0]} has no tasks yet")
    return weeks


def _what(course: Course, text: str) -> tuple[Week, list[Task]]:
    """The week and tasks that "4" or "4.2" means."""
    number, dot, _ = text.partition(".")
    if not number.isdecimal():
        raise UsageError(f'"{text}" is neither a week, such as 4, nor a task, such as 4.2')
    week = course.week(int(number))
    if not week.tasks:
        raise UsageError(f"week {week.number} has no tasks yet")
    return week, [course.task(text)] if dot else list(week.tasks)
