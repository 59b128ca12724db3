"""What the site needs beyond Sphinx, MyST and Furo: the repository's links and anchors, MathML, Chinese, the language switch."""

from __future__ import annotations

import functools
import posixpath
import re
from typing import Any

from docutils import nodes
from docutils.transforms import Transform
from math_core import LatexError, LatexToMathML
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.search import languages
from sphinx.search.en import SearchEnglish
from sphinx.util import logging

from autograder.manifest import Lang, load
from course.site import pages

_log = logging.getLogger(__name__)
_CJK = r"[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef\u3000-\u303f]"
_BREAK = re.compile(rf"(?<={_CJK})\s*\n\s*(?={_CJK})")
_ANCHOR = re.compile(r'<a id="([^"]+)"></a>')
_EXTERNAL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:|//|#")
_TO_MATHML = LatexToMathML()


@functools.cache
def sites() -> dict[Lang, pages.Site]:
    """The pages of both languages."""
    course = load()
    return {lang: pages.site(course, lang) for lang in pages.LANGS}


def mathml(latex: str, block: bool) -> str:
    """A formula as MathML.

    Raises:
        ExtensionError: if it is no formula that can be converted; the text has it.
    """
    try:
        return _TO_MATHML.convert_with_local_state(latex, displaystyle=block)
    except LatexError as error:
        raise ExtensionError(f"no MathML for {latex!r}: {error}") from None


def _visit_math(self: Any, node: nodes.math) -> None:
    self.body.append(f'<span class="math">{mathml(node.astext(), block=False)}</span>')
    raise nodes.SkipNode


def _visit_math_block(self: Any, node: nodes.math_block) -> None:
    self.body.append(f'<div class="math">{mathml(node.astext(), block=True)}</div>')
    raise nodes.SkipNode


class SearchChinese(SearchEnglish):
    """Chinese is indexed and searched by pairs of characters, so that no dictionary decides which words exist."""

    lang = "zh"
    language_name = "English"  # whose stemmer the script uses, for the words that are not Chinese
    _run = re.compile(r"[\u3400-\u9fff]+|[a-zA-Z0-9_]+")
    js_splitter_code = """
function splitQuery(query) {
  const terms = query.match(/[\\u3400-\\u9fff]+|[a-zA-Z0-9_]+/g) || [];
  return terms.flatMap((term) => !/^[\\u3400-\\u9fff]{3,}$/.test(term) ? [term]
    : Array.from({length: term.length - 1}, (_, i) => term.slice(i, i + 2)));
}
"""

    def split(self, input: str) -> list[str]:
        """The words, and of Chinese each character and each pair of neighbours."""
        found: list[str] = []
        for run in self._run.findall(input):
            chinese = run[0] >= "\u3400"
            found += [*run, *(run[i : i + 2] for i in range(len(run) - 1))] if chinese else [run]
        return found

    def word_filter(self, stemmed_word: str) -> bool:
        """Whether a word is kept; a single Chinese character is a word."""
        return stemmed_word[:1] >= "\u3400" or super().word_filter(stemmed_word)


class Repository(Transform):
    """Makes a page of what was written for the repository: its links, its anchors, its line breaks between Chinese characters."""

    default_priority = 900

    def apply(self, **kwargs: Any) -> None:
        """Change the document in place."""
        env = self.document.settings.env
        lang: Lang = env.config.course_lang
        page = sites()[lang].pages.get(env.docname)
        if page is None:
            return
        self._anchors()
        for link in list(self.document.findall(nodes.reference)):
            if (uri := link.get("refuri")) and not _EXTERNAL.match(uri):
                self._link(link, uri, page, lang)
        for paragraph in list(self.document.findall(nodes.TextElement)):
            if page.lang == "zh" and not isinstance(paragraph, nodes.literal_block):
                _close(paragraph)
        for math in list(self.document.findall(nodes.math)):
            _keep(math)
        if page.lang != lang:
            note = nodes.note("", nodes.paragraph("", pages.WORDS["untranslated"].of(lang)), lang=lang)
            title = next(iter(self.document.findall(nodes.title)), None)
            if title is not None:
                title.parent.insert(title.parent.index(title) + 1, note)

    def _anchors(self) -> None:
        """Each section has the id that stands above it, and the one that GitHub would give it."""
        taken = {name for node in self.document.findall(nodes.Element) for name in node.get("ids", ())}
        for section in self.document.findall(nodes.section):
            wanted = [pages.slug(section.next_node(nodes.title).astext())]
            above = _above(section)
            if above is not None:
                wanted[:0] = _ANCHOR.findall(above.astext())
                above.parent.remove(above)
            new = [name for name in wanted if name and name not in taken]
            taken.update(new)
            section["ids"][:0] = new

    def _link(self, link: nodes.reference, uri: str, page: pages.Page, lang: Lang) -> None:
        place = pages.place(sites(), lang, page, uri)
        if place is None:
            if page.source is not None:
                _log.warning("the link to %s leads nowhere", uri, location=link)
            return
        config = self.document.settings.env.config
        if not place.is_page:
            if config.course_repository:
                link["refuri"] = f"{config.course_repository.rstrip('/')}/blob/HEAD/{place.name}"
            else:  # what only the repository has is named, not linked
                link.parent.replace(link, nodes.inline("", "", *link.children, classes=["file"]))
            return
        if place.lang != lang and place.name == page.name and len(link.parent.children) == 1:
            link.parent.parent.remove(link.parent)  # the line of the other language: the top of the page has it
            return
        up = posixpath.relpath(".", posixpath.dirname(page.name) or ".")
        where = "" if place.lang == lang else f"../{place.lang}/"
        link["refuri"] = posixpath.normpath(f"{up}/{where}{place.name}.html") + (f"#{place.anchor}" if place.anchor else "")


def _above(section: nodes.section) -> nodes.raw | None:
    """The raw anchor that stands right before a section: at the end of what comes before it."""
    siblings = section.parent.children
    place = siblings.index(section)
    node: nodes.Node | None = siblings[place - 1] if place else None
    while isinstance(node, nodes.section) and node.children:
        node = node.children[-1]
    if isinstance(node, nodes.paragraph) and len(list(node.findall(nodes.raw))) == len(node.children):
        return node if _ANCHOR.search(node.astext()) else None
    return node if isinstance(node, nodes.raw) and _ANCHOR.search(node.astext()) else None


def _close(paragraph: nodes.TextElement) -> None:
    """Take out what a browser would show as a space between Chinese characters, and beside their punctuation."""
    texts = list(paragraph.findall(nodes.Text))
    for text, before, after in zip(texts, ["", *texts], [*texts, ""][1:], strict=False):
        if isinstance(text.parent, nodes.literal | nodes.math):
            continue
        left, right = before[-1:], after[:1]  # a break between two lines is a text of its own
        new = _BREAK.sub("", f"{left}{text}{right}")
        new = new[len(left) : len(new) - len(right)]
        new = re.sub(r"^ (?=[，。、；：？！）」』》])", "", new)
        new = re.sub(r"(?<=[，。、；：？！（「『《]) $", "", new)
        if new != text:  # texts are equal where they say the same, so the parent cannot tell which one is meant
            place = next(place for place, child in enumerate(text.parent) if child is text)
            text.parent[place] = nodes.Text(new)


def _keep(math: nodes.math) -> None:
    """No line begins with the punctuation after a formula."""
    place = math.parent.index(math)
    after = math.parent[place + 1] if place + 1 < len(math.parent) else None
    if isinstance(after, nodes.Text) and (mark := re.match(r"[，。、；：？！）」』》,.;:?!)]+", after)):
        together = nodes.inline("", "", math.deepcopy(), nodes.Text(mark[0]), classes=["together"])
        math.parent[place : place + 2] = [together, nodes.Text(after[mark.end() :])]


def plain(text: str) -> str:
    """A docstring as reStructuredText: `names`, deeper blocks and tables as they stand, and nothing else is markup."""
    out: list[str] = []
    margin = 0  # of the text before
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        lines = block.split("\n")
        indents = [len(line) - len(line.lstrip()) for line in lines]
        if out and min(indents) > margin:
            out += [" " * margin + "::", block]
        elif sum(bool(re.search(r"\S {3,}\S", line)) for line in lines) > 1:
            out += [" " * min(indents) + "::", "\n".join(f"    {line}" for line in lines)]
        else:
            margin = indents[-1]
            out.append(_escaped(block))
    return "\n\n".join(out) + "\n"


def _escaped(text: str) -> str:
    parts = re.split(r"(?<!`)`([^`]+)`(?!`)", text)  # every second one is a name
    parts[::2] = [re.sub(r"[*|`\\]|(?<=\w)_\b", r"\\\g<0>", part) for part in parts[::2]]
    parts[1::2] = [f"``{' '.join(part.split())}``" for part in parts[1::2]]
    joined = parts[0]
    for part in parts[1:]:  # what follows a name at once needs a separator
        joined += "\\ " + part if joined.endswith("``") and part[:1].isalnum() else part
    return joined


def _docstring(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    lines[:] = plain("\n".join(lines)).split("\n")


def _skip(app: Sphinx, what: str, name: str, thing: Any, skip: bool, options: Any) -> bool | None:
    """A class says in its docstring what its attributes are."""
    return True if what == "class" and not callable(thing) and not isinstance(thing, property) else None


def _context(app: Sphinx, name: str, template: str, context: dict[str, Any], tree: nodes.document | None) -> None:
    """The other language's page of the same name: both sites have the same pages."""
    lang: Lang = app.config.course_lang
    other: Lang = "zh" if lang == "en" else "en"
    up = posixpath.relpath(".", posixpath.dirname(name) or ".")
    context["other_url"] = posixpath.normpath(f"{up}/../{other}/{name}.html")
    context["other_lang"], context["other_name"] = ("zh-CN", "中文") if other == "zh" else ("en", "English")
    context["slides_url"] = "slides.html" if name.endswith("/lecture") else ""
    context["slides_name"] = pages.WORDS["slides"].of(lang)
    page = sites()[lang].pages.get(name)
    if page is not None:
        context["language"] = "zh-CN" if page.lang == "zh" else "en"


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_config_value("course_lang", "en", "env")
    app.add_config_value("course_repository", "", "env")
    app.add_config_value("course_code", "", "env")  # pages are read again when this code changes
    app.add_transform(Repository)
    app.add_html_math_renderer("mathml", (_visit_math, None), (_visit_math_block, None))
    app.connect("autodoc-process-docstring", _docstring, priority=400)  # before Napoleon, which makes markup of it
    app.connect("autodoc-skip-member", _skip)
    app.add_lexer("csv", TextLexer)
    app.connect("html-page-context", _context)
    languages["zh"] = SearchChinese
    return {"parallel_read_safe": True, "parallel_write_safe": True}
