"""The semester of tests/test_semester.py with its gradebook in PostgreSQL: the same tests, and two graders at a time."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from autograder.manifest import Course
from autograder.marking import nbcourse
from tests import semester, test_semester
from tests.postgres import server
from tests.semester import run


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with server.running() as found:
        yield found


@pytest.fixture(scope="module")
def root(url: str, tmp_path_factory: pytest.TempPathFactory, course: Course) -> Path:
    folder = semester.prepare(tmp_path_factory.mktemp("postgres") / "course", course, db=url)
    with ThreadPoolExecutor() as pool:  # two TAs at two machines
        list(pool.map(lambda number: run(folder, "nbgrader", "autograde", f"week{number:02d}"), semester.WEEKS))
    return folder


test_everybody_gets_what_they_earned = test_semester.test_everybody_gets_what_they_earned
test_grading_again_keeps_the_tas_scores = test_semester.test_grading_again_runs_nothing_again_and_keeps_the_tas_scores
test_feedback_has_the_review = test_semester.test_feedback_has_the_review_and_nothing_for_the_staff
test_a_student_is_graded_alone = test_semester.test_a_student_is_graded_alone_and_a_mistake_is_one_line


def test_the_gradebook_is_in_postgresql_and_nowhere_else(url: str, root: Path) -> None:
    assert nbcourse.database(root) == url
    assert not list(root.rglob("*.db"))
    engine = create_engine(url)
    with engine.connect() as connection:
        assert "PostgreSQL" in str(connection.execute(text("select version()")).scalar())
        names = connection.execute(text("select id from student")).scalars().all()
    engine.dispose()
    assert {"ada", "王小明", "=cmd, Jr."} <= set(names)


def test_formgraders_queries_work(root: Path) -> None:
    """Those that a TA's pages make, and that SQLite and PostgreSQL may take differently."""
    program = (
        "import sys\nfrom nbgrader.api import Gradebook\nfrom autograder.marking import nbcourse\nfrom pathlib import Path\n"
        "with Gradebook(nbcourse.database(Path(sys.argv[1]))) as book:\n"
        "    print(len(book.submission_dicts('week04')), len(book.student_dicts()))\n"
        "    print(len(book.notebook_submission_dicts('code', 'week04')))\n"
        "    print(book.average_assignment_score('week04') > 0, book.average_notebook_score('code', 'week04') > 0)\n"
    )
    command = [str(semester.BIN / "python"), "-c", program, str(root)]
    environment = {"PYTHONPATH": str(semester.ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3", "4", "3", "True", "True"]
    assert test_semester.grades(root, 4, "ada")["code/t1"][0] > 0
