"""The slides of a lecture: its page, cut at the headings; the browser goes on cutting where a slide would overflow."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
from bs4 import BeautifulSoup

from autograder.manifest import Lang, Text
from course.site.pages import Site

if TYPE_CHECKING:
    from bs4 import Tag

_HERE = Path(__file__).parent
_HEADINGS = ("h1", "h2", "h3")
_TYPES = {".svg": "image/svg+xml", ".png": "image/png", ".jpg": "image/jpeg"}
WORDS = {
    "lecture": Text(en="The lecture", zh="讲义"),
    "other": Text(en="中文", zh="English"),
    "help": Text(
        en="Arrow keys or space turn the page; add ?print to the address to see and print all.",
        zh="用方向键或空格键翻页；在网址后加 ?print 可查看并打印全部幻灯片。",
    ),
    "back": Text(en="Previous slide", zh="上一页"),
    "on": Text(en="Next slide", zh="下一页"),
}


@dataclass(slots=True)
class Slide:
    """A heading and the blocks below it, HTML each; `level` is the heading's."""

    title: str
    level: int
    blocks: list[str] = field(default_factory=list)


def cut(article: Tag) -> list[Slide]:
    """A page's article as slides, one for each heading of the first three levels."""
    slides: list[Slide] = []
    for node in list(article.find_all(True, recursive=False)):
        if node.name == "section":
            slides += cut(node)
        elif node.name in _HEADINGS:
            slides.append(Slide(node.decode_contents().strip(), int(node.name[1])))
        elif slides and (node.get_text(strip=True) or node.find(["img", "math"])):
            slides[-1].blocks.append(str(node))
    return slides


def write(root: Path, made: Site, lang: Lang) -> int:
    """Write slides.html beside each lecture of a built site; returns how many."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(_HERE / "templates"), autoescape=True)
    template = environment.get_template("slides.html")
    lectures = [name for name in made.pages if name.endswith("/lecture")]
    for name in lectures:
        path = root / f"{name}.html"
        soup = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        article = soup.find("article")
        assert article is not None
        for link in article.select("a.headerlink"):
            link.decompose()
        for link in article.select('a[href^="#"]'):
            link["href"] = f"lecture.html{link['href']}"
        for node in article.find_all(id=True):
            del node["id"]  # a block may be cut in two
        for image in article.find_all("img"):
            image["src"] = _inline(path.parent / str(image["src"]))
        slides = cut(article)
        page = template.render(
            lang="zh-CN" if lang == "zh" else "en",
            title=BeautifulSoup(slides[0].title, "html.parser").get_text(),
            slides=slides,
            other=f"../../{'en' if lang == 'zh' else 'zh'}/{name.removesuffix('lecture')}slides.html",
            other_lang="en" if lang == "zh" else "zh-CN",
            words={key: text.of(lang) for key, text in WORDS.items()},
            css=(_HERE / "static" / "slides.css").read_text(encoding="utf-8"),
            pygments=(root / "_static" / "pygments.css").read_text(encoding="utf-8"),
            js=(_HERE / "static" / "slides.js").read_text(encoding="utf-8"),
        )
        path.with_name("slides.html").write_text(page, encoding="utf-8")
    return len(lectures)


def _inline(picture: Path) -> str:
    return f"data:{_TYPES[picture.suffix]};base64,{base64.b64encode(picture.read_bytes()).decode()}"
