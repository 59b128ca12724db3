"""Builds the course site: `python -m course.site`."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from autograder import UserError
from autograder.manifest import Lang, load
from course.labs.core import ROOT
from course.site import labs, linkcheck, pages, slides

_HERE = Path(__file__).parent


class SiteError(UserError):
    """The site was not built; the text says why."""


def main(argv: Sequence[str] | None = None) -> int:
    """Build the site; returns the exit status: 0 done, 1 something in the sources is wrong, 2 it could not be done."""
    parser = argparse.ArgumentParser(
        "python -m course.site",
        description="Builds the course as a static site in both languages, with slides of each lecture, from the files of the\n"
        "repository. Open OUT/index.html in a browser, or put the folder on any web server: it loads nothing from elsewhere.\n"
        "Notebooks are executed first, and again only when something that their outputs follow from has changed.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    build = ROOT / "build" / "site"
    parser.add_argument(
        "--out", metavar="DIR", type=Path, default=build / "html", help="where the site goes (default build/site/html)"
    )
    parser.add_argument("--no-outputs", action="store_true", help="show the notebooks without outputs: minutes faster")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument("--repository", metavar="URL", default="", help="where the code is on the web, to link files to it")
    arguments = parser.parse_args(argv)
    try:
        if arguments.jobs < 1:
            raise SiteError("--jobs must be at least 1")
        if not re.fullmatch(r"(https?://\S+)?", arguments.repository):
            raise SiteError("--repository is an address such as https://github.com/OWNER/NAME")
        _check_out(arguments.out)
        return _build(build, arguments.out, not arguments.no_outputs, arguments.jobs, arguments.repository)
    except UserError as problem:
        print(f"site: {problem}", file=sys.stderr)
        return 2


def _check_out(out: Path) -> None:
    """Only a site is ever replaced."""
    if out.exists() and not out.is_dir():
        raise SiteError(f"{out} is a file: name a folder")
    if out.exists() and not (out / "en" / "searchindex.js").is_file() and any(out.iterdir()):
        raise SiteError(f"{out} holds something other than a site: name a new folder")


def _build(build: Path, out: Path, outputs: bool, jobs: int, repository: str) -> int:
    if outputs:
        with tqdm(unit=" notebook", desc="executing") as bar:
            for name, total in labs.execute(build / "outputs", jobs):
                bar.total = total
                bar.set_postfix_str(name)
                bar.update()
    draft = build / "draft"
    shutil.rmtree(draft, ignore_errors=True)
    # Sphinx leaves things behind: a process for each language
    with ProcessPoolExecutor(min(jobs, len(pages.LANGS)), get_context("spawn"), max_tasks_per_child=1) as pool:
        runs = [pool.submit(build_language, lang, build, draft, outputs, repository) for lang in pages.LANGS]
        if any([run.result() for run in runs]):
            print("site: mend what the warnings above say", file=sys.stderr)
            return 1
    shutil.copy2(_HERE / "templates" / "home.html", draft / "index.html")
    shutil.rmtree(draft / "jupyter_execute", ignore_errors=True)  # MyST-NB's, copied into _images where a page shows it
    found = linkcheck.problems(draft)
    if found:
        print("\n".join(found), file=sys.stderr)
        print(f"site: {len(found)} broken links", file=sys.stderr)
        return 1
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(draft, out)
    print(out / "index.html")
    return 0


def build_language(lang: Lang, build: Path, out: Path, outputs: bool, repository: str) -> int:
    """Build one language's pages and slides, in a process of its own; returns Sphinx's exit status."""
    from sphinx.application import Sphinx
    from sphinx.errors import SphinxError

    course = load()
    made = pages.site(course, lang)
    source = build / "source" / lang
    staged = {path for page in made.pages.values() for path in _stage(page, source, build / "outputs" if outputs else None)}
    for path in source.rglob("*"):
        if path.is_file() and path not in staged:
            path.unlink()
    sys.path[:0] = [str(ROOT / "exercises" / week.folder) for week in course.weeks]  # whose docstrings are the contracts
    try:
        app = Sphinx(
            srcdir=source,
            confdir=None,
            outdir=out / lang,
            doctreedir=build / "doctrees" / lang,
            buildername="html",
            confoverrides=_settings(lang, course.about.title.of(lang), repository),
            status=None,
            warningiserror=True,
        )
        app.build()
    except SphinxError as error:
        print(f"site: {error}", file=sys.stderr)
        return 1
    if app.statuscode == 0:
        slides.write(out / lang, made, lang)
    return app.statuscode


def _settings(lang: Lang, title: str, repository: str) -> dict[str, object]:
    return {
        "extensions": ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "course.site.extension"],
        "project": title,
        "html_title": title,
        "language": "zh_CN" if lang == "zh" else "en",
        "course_lang": lang,
        "course_repository": repository,
        "course_code": hashlib.sha256(b"".join(path.read_bytes() for path in sorted(_HERE.glob("*.py")))).hexdigest(),
        "html_theme": "furo",
        "html_math_renderer": "mathml",
        "html_static_path": [str(_HERE / "static")],
        "html_css_files": ["site.css"],
        "html_js_files": ["site.js"],
        "templates_path": [str(_HERE / "templates")],
        "html_show_sourcelink": False,
        "html_copy_source": False,
        "html_show_copyright": False,
        "html_domain_indices": False,
        "autodoc_typehints": "signature",
        "autodoc_preserve_defaults": True,
        "myst_enable_extensions": ["dollarmath"],
        "myst_dmath_double_inline": True,
        "myst_all_links_external": True,  # course.site.extension resolves them as GitHub would
        "myst_heading_anchors": 0,
        "nb_execution_mode": "off",
        "nb_merge_streams": True,
    }


def _stage(page: pages.Page, source: Path, outputs: Path | None) -> Iterator[Path]:
    """Put a page where Sphinx reads it, and the pictures beside it; yields the files."""
    if page.source is None or page.source.suffix == ".md":
        target = source / f"{page.name}.md"
        yield _put(target, (page.text if page.source is None else page.source.read_text(encoding="utf-8")).encode())
        if page.source is not None and page.source.parent != ROOT:
            for picture in [path for kind in ("svg", "png", "jpg") for path in page.source.parent.rglob(f"*.{kind}")]:
                yield _put(target.parent / picture.relative_to(page.source.parent), picture.read_bytes())
        return
    import nbformat

    folder = page.name.split("/")[0]
    path = labs.kept(outputs, folder, page.lang) if outputs is not None else page.source
    notebook = labs.shown(nbformat.read(path, as_version=4), folder, page.lang)
    yield _put(source / f"{page.name}.ipynb", nbformat.writes(notebook).encode())


def _put(target: Path, data: bytes) -> Path:
    """Write a file only if it changes: Sphinx reads again what is newer."""
    if not target.is_file() or target.read_bytes() != data:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return target
