"""The course site in a browser: every page on a phone, formulas, search, the two languages, dark mode, and all slides.

SITE=DIR tests a site that is built already, such as build/site/html with the notebooks' outputs.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin

from autograder.manifest import load
from course.site import linkcheck
from tests.browser.chromium import Page, page
from tests.conftest import ROOT

LECTURES = [f"{week.folder}/lecture" for week in load().weeks]
LANGS = {"en": "lecture.md", "zh": "lecture.zh.md"}
MAX_OVERFLOW = 1  # pixels, of rounding
LEAST_CONTRAST = 4.5  # WCAG AA
LEAST_ZOOM = 0.6  # of a formula or table on a slide


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if "SITE" in os.environ:
        return Path(os.environ["SITE"])
    out = tmp_path_factory.mktemp("site") / "html"
    subprocess.run([sys.executable, "-m", "course.site", "--no-outputs", "--out", out], cwd=ROOT, check=True)
    return out


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(root))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def names(root: Path, lang: str) -> list[str]:
    """The pages of a language that have an article."""
    return [path.relative_to(root).as_posix() for path in sorted((root / lang).rglob("*.html")) if path.name != "slides.html"]


def errors(tab: Page) -> list[str]:
    return [line for line in tab.logs if "favicon" not in line]


def test_no_link_is_broken_and_nothing_is_loaded_from_elsewhere(root: Path) -> None:
    assert linkcheck.problems(root) == []


@pytest.mark.parametrize("lang", LANGS)
def test_every_page_fits_a_phone_without_errors_or_foreign_requests(root: Path, server: str, lang: str) -> None:
    wide = []
    with page(390, 844) as tab:
        for name in names(root, lang):
            tab.open(f"{server}/{name}")
            width = tab.run("Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)")
            if width > 390 + MAX_OVERFLOW:
                wide.append((name, width))
        assert wide == []
        assert errors(tab) == []
        assert [url for url in tab.requests if not url.startswith((server, "data:"))] == []


@pytest.mark.parametrize("lang", LANGS)
def test_every_formula_is_mathml(server: str, lang: str) -> None:
    markdown = MarkdownIt("gfm-like", {"linkify": False}).use(dollarmath_plugin, allow_digits=True, allow_space=True)
    with page() as tab:
        for name in LECTURES:
            source = (ROOT / "course" / name).with_name(LANGS[lang]).read_text(encoding="utf-8")
            tokens = [each for token in markdown.parse(source) for each in (token, *(token.children or ()))]
            written = sum(token.type.startswith("math") for token in tokens)
            tab.open(f"{server}/{lang}/{name}.html")
            seen = tab.run(
                "[...document.querySelectorAll('article math')].filter(m => m.getBoundingClientRect().width > 0).length"
            )
            assert seen == written, name
            text = tab.run("document.querySelector('article').innerText")
            assert not re.search(r"\$|\\[a-z]+|\*\*", re.sub(r"`[^`]*`", "", text)), name


@pytest.mark.parametrize(
    ("lang", "query", "found"),
    [
        ("en", "gradient checkpointing", "week04/lecture"),
        ("en", "lora_plus_groups", "week04/exercise"),
        ("zh", "梯度检查点", "week04/lecture"),
        ("zh", "秩", "week02/lecture"),
        ("zh", "合并误差", "week06/lecture"),
    ],
)
def test_search_finds(server: str, lang: str, query: str, found: str) -> None:
    with page() as tab:
        tab.open(f"{server}/{lang}/search.html?q={quote(query)}")
        tab.wait(f"[...document.querySelectorAll('#search-results a')].some(a => a.href.includes('{found}'))")
        assert errors(tab) == []


def test_what_is_not_there_is_not_found(server: str) -> None:
    with page() as tab:
        tab.open(f"{server}/zh/search.html?q={quote('鲸鱼洄游')}")
        tab.wait("document.querySelector('#search-results .search-summary')?.innerText")
        assert tab.run("document.querySelectorAll('#search-results li').length") == 0


def test_the_switch_leads_to_the_same_page_and_back(root: Path, server: str) -> None:
    with page() as tab:
        for name in ("week04/lecture", "week04/slides", "docs/trust", "commands", "index", "search"):
            tab.open(f"{server}/en/{name}.html")
            link = tab.run("(document.querySelector('.language-switch') || document.querySelector('nav a[hreflang]')).href")
            assert link == f"{server}/zh/{name}.html"
            tab.open(link)
            assert tab.run("(document.querySelector('.language-switch') || document.querySelector('nav a[hreflang]')).href") == (
                f"{server}/en/{name}.html"
            )
    assert {name[3:] for name in names(root, "en")} == {name[3:] for name in names(root, "zh")}


_CONTRAST = """
(() => {
  const light = ([r, g, b]) => [r, g, b].map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const back = (node) => {
    const color = rgb(getComputedStyle(node).backgroundColor);
    return color.length < 4 || color[3] ? color : back(node.parentElement);
  };
  const texts = 'article p, article code, article a, article h2, article math, .sidebar-tree a';
  return [...document.querySelectorAll(texts)].map(node => {
    const [a, b] = [light(rgb(getComputedStyle(node).color)), light(back(node))].sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), node.outerHTML.slice(0, 80)];
  }).sort((x, y) => x[0] - y[0])[0];
})()
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark_and_figures_follow(server: str, theme: str) -> None:
    with page() as tab:
        tab.open(f"{server}/en/week02/lecture.html")
        tab.run(f"localStorage.setItem('theme', '{theme}')")
        for name in ("en/week02/lecture", "zh/week02/lecture", "en/week04/lab"):
            tab.open(f"{server}/{name}.html")
            contrast, node = tab.run(_CONTRAST)
            assert contrast >= LEAST_CONTRAST, f"{name}: {node}"
            schemes = tab.run("[...document.querySelectorAll('article img')].map(i => getComputedStyle(i).colorScheme)")
            assert set(schemes) <= {theme}
        dark = tab.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number).every(v => v < 60)")
        assert dark == (theme == "dark")


_SLIDES = """
(async () => {
  const words = (root) => [...root.querySelectorAll('.body')].map(body => {
    const copy = body.cloneNode(true);
    copy.querySelectorAll('thead').forEach(head => head.remove());  // is repeated where a table is cut
    return copy.textContent;
  }).join('').replace(/\\s/g, '');
  const source = new DOMParser().parseFromString(await (await fetch(location.pathname)).text(), 'text/html');
  const slides = [...document.querySelectorAll('.slide')];
  return {
    same: words(source) === words(document),
    count: slides.length,
    over: slides.filter(slide => {
      const body = slide.querySelector('.body');
      return body.scrollHeight > body.clientHeight + 1 || body.scrollWidth > body.clientWidth + 1
        || slide.scrollHeight > slide.clientHeight + 1 || slide.scrollWidth > slide.clientWidth + 1;
    }).map(slide => slide.innerText.slice(0, 60)),
    empty: slides.slice(1).filter(slide => !slide.querySelector('.body').children.length).map(slide => slide.innerText),
    zoom: Math.min(1, ...[...document.querySelectorAll('.body *')].map(node => Number(node.style.zoom || 1))),
  };
})()
"""


@pytest.mark.parametrize("lang", LANGS)
def test_every_slide_fits_and_nothing_is_lost(server: str, lang: str) -> None:
    with page(1280, 720) as tab:
        for name in LECTURES:
            tab.open(f"{server}/{lang}/{name.replace('lecture', 'slides')}.html?print")
            tab.wait("document.body.dataset.ready")
            seen = tab.run(_SLIDES)
            assert seen["over"] == [], name
            assert seen["same"], name
            assert seen["count"] > 5 and seen["zoom"] >= LEAST_ZOOM, (name, seen)
        assert errors(tab) == []


def test_keys_turn_the_slides(server: str) -> None:
    with page(800, 600) as tab:
        tab.open(f"{server}/en/week04/slides.html#2")
        tab.wait("document.body.dataset.ready")
        for key, place in (("ArrowRight", "#3"), ("ArrowLeft", "#2"), ("Home", "#1"), ("ArrowLeft", "#1")):
            tab.call("Input.dispatchKeyEvent", type="keyDown", key=key)
            assert tab.run("location.hash") == place
        shown = tab.run("[...document.querySelectorAll('.slide')].filter(s => s.offsetParent !== null).length")
        box = tab.run("(r => [r.left, r.right, r.top, r.bottom])(document.querySelector('.current').getBoundingClientRect())")
        assert shown == 1
        assert box == [0, 800, 75, 525]
