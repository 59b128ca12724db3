"""A TA opens formgrader in a browser, marks a review, and sees nothing of an attacker's run."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from nbgrader.api import Gradebook

from autograder.manifest import Course
from autograder.marking import nbcourse
from tests import semester
from tests.browser.chromium import Page, page

# MathJax comes from a server that tests have no network to: formgrader asks it to say when it is done.
_MATHJAX = "window.MathJax={Hub:{Startup:{signal:{Interest:f=>setTimeout(()=>f('End'),200)}},Config(){},Queue(){}}}"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, course: Course) -> Path:
    folder = semester.prepare(tmp_path_factory.mktemp("formgrader") / "course", course)
    semester.run(folder, "nbgrader", "autograde", "week04")
    return folder


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        str(semester.BIN / "jupyter"),
        "lab",
        "--no-browser",
        "--allow-root",
        f"--port={port}",
        "--IdentityProvider.token=",
    ]
    environment = {**os.environ, "PYTHONPATH": str(semester.ROOT), "PATH": f"{semester.BIN}{os.pathsep}{os.environ['PATH']}"}
    process = subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{url}/api/status").close()
                break
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


def submissions(tab: Page, server: str, notebook: str) -> list[str]:
    tab.open(f"{server}/formgrader/gradebook/week04/{notebook}")
    links = "[...new Set([...document.querySelectorAll('a[href*=\"/submissions/\"]')].map(a => a.href))]"
    tab.wait(f"{links}.length > 0")
    found: list[str] = tab.run(links)
    return found


def opened(tab: Page, url: str) -> str:
    """The student whose submission is shown."""
    tab.open(url)
    tab.wait("window.formgrader && window.formgrader.loaded || document.querySelectorAll('.score').length > 0")
    return str(tab.run("document.title + ' ' + document.querySelector('.navbar, .panel-title').innerText"))


def test_a_review_is_marked_and_kept(root: Path, server: str, tmp_path: Path) -> None:
    pictures = Path(os.environ.get("PICTURES", tmp_path))
    with page() as tab:
        tab.stub("*cdnjs*", _MATHJAX)
        tab.open(f"{server}/formgrader/manage_assignments")
        tab.wait("document.body.innerText.includes('week04')")
        tab.picture(pictures / "assignments.png")
        for number, url in enumerate(submissions(tab, server, "code")):
            opened(tab, url)
            tab.wait("document.querySelector('#review') && document.querySelector('#review').value !== undefined")
            time.sleep(1)
            tab.picture(pictures / f"code-{number}.png")
            assert tab.run("window.pwned === undefined && document.title != 'pwned'")
            if number == 0:
                tab.run(
                    "(() => { const s = $('#review'); s.val('13').trigger('change');"
                    "const c = $('#review-comment'); c.val('Clear names.').trigger('change'); })()"
                )
                tab.wait("$('#review').closest('.panel-heading').find('.score-saved:visible').length >= 0")
                time.sleep(1)
        for number, url in enumerate(submissions(tab, server, "week04")):
            opened(tab, url)
            time.sleep(1)
            tab.picture(pictures / f"lab-{number}.png")
            assert tab.run("window.pwned === undefined && document.title != 'pwned'")
        assert not [line for line in tab.logs if "favicon" not in line], tab.logs
    with Gradebook(nbcourse.database(root)) as book:
        marked = [s for s in book.assignment_submissions("week04") if _review(book, s.student_id).manual_score == 13]
        assert len(marked) == 1
        assert book.find_comment("review", "code", "week04", marked[0].student_id).manual_comment == "Clear names."


def _review(book: Gradebook, student: str) -> object:
    return book.find_grade("review", "code", "week04", student)
