"""Copies are found whatever their disguise, independent answers are not flagged, and no file breaks the comparison."""

import ast
import itertools
import json
import random
from html.parser import HTMLParser

import pytest

from autograder import bank, cli
from autograder.judge.runner import reference_stub
from autograder.manifest import load
from autograder.proof import rewrites
from autograder.reports import similar

COURSE = load()
WEEKS = [week for week in COURSE.weeks if week.tasks]
WEEK4 = COURSE.week(4)


def printed(week, name, files):
    files = {n: text.encode() if isinstance(text, str) else text for n, text in files.items()}
    return similar.prints(name, files, similar.boilerplate(week))


def reference(week):
    return reference_stub(week).read_text(encoding="utf-8")


def reordered(source):
    """Functions and methods in another order; what is not a function stays where it is."""
    tree = ast.parse(source)
    rng = random.Random(0)
    for body in [tree.body, *(n.body for n in ast.walk(tree) if isinstance(n, ast.ClassDef))]:
        places = [i for i, n in enumerate(body) if isinstance(n, ast.FunctionDef)]
        moved = [body[i] for i in places]
        rng.shuffle(moved)
        for i, n in zip(places, moved, strict=True):
            body[i] = n
    return ast.unparse(tree)


def commented(source):
    """A comment and an empty line behind every line; without docstrings each line of unparsed code is whole."""
    bare = rewrites.apply("x.py", source, ["without_docstrings"]).files["x.py"]
    return "".join(f"{line}  # note {i}\n\n" for i, line in enumerate(bare.splitlines()))


def with_dead_code(source):
    tree = ast.parse(source)
    for n in ast.walk(tree):
        if isinstance(n, ast.FunctionDef):
            n.body.insert(len(n.body) // 2, ast.parse("if False:\n    unused = [i * 3 for i in range(7)]").body[0])
    return ast.unparse(ast.fix_missing_locations(tree))


def renamed(source):
    names = ["renamed_locals", "renamed_privates", "without_docstrings", "without_annotations"]
    return rewrites.apply("x.py", source, names).files["x.py"]


def disguises(week):
    source = reference(week)
    yield "renamed", {week.stub: renamed(source)}
    yield "reordered", {week.stub: reordered(source)}
    yield "reformatted", {week.stub: ast.unparse(ast.parse(source))}
    yield "commented", {week.stub: commented(source)}
    yield "dead code", {week.stub: with_dead_code(source)}
    yield "all", {week.stub: with_dead_code(reordered(renamed(source)))}
    for seed in range(4):
        yield f"rewrites {seed}", dict(rewrites.draw(week.stub, source, seed).files)
    yield "helper module", dict(rewrites.apply(week.stub, source, ["helper_module"]).files)


@pytest.mark.parametrize("week", WEEKS, ids=lambda w: w.folder)
def test_independent_answers_are_not_flagged_and_disguised_copies_are(week):
    bar = similar.threshold(week)
    assert bar is not None and bar <= similar.HIGHEST
    answers = similar.independent(week)
    assert len(answers) > 2
    assert similar.pairs(answers, bar) == []
    for name, files in disguises(week):
        found = similar.pairs([printed(week, name, files)], bar, [answers[0]])
        assert len(found) == 1, (name, similar.compare(printed(week, name, files), answers[0]))


@pytest.mark.parametrize("week", WEEKS, ids=lambda w: w.folder)
def test_mutants_of_answers_are_no_more_alike_than_the_answers(week):
    """Two wrong answers of different descent are independent as well; two mutants of one answer are copies of it."""
    bar = similar.threshold(week)
    mutants = bank.mutants(week, reference(week))[::10]
    of_reference = [printed(week, m.name, {week.stub: m.source}) for m in mutants]
    assert similar.pairs(of_reference, bar, similar.independent(week)[1:]) == [
        pair for pair in similar.pairs(of_reference, bar) if pair.second in {m.name for m in mutants}
    ]
    assert len(similar.pairs(of_reference, bar)) == len(of_reference) * (len(of_reference) - 1) // 2


def test_a_copy_with_a_syntax_error_is_found():
    broken = reference(WEEK4).replace("    def unmerge(self", "    def unmerge(self,,", 1) + "\n\ndef broken(:\n    pass\n"
    with pytest.raises(SyntaxError):
        ast.parse(broken)
    twice = [printed(WEEK4, name, {WEEK4.stub: text}) for name, text in (("a", broken), ("b", renamed_text(broken)))]
    assert similar.compare(*twice).score > similar.threshold(WEEK4)
    only_added = printed(WEEK4, "c", {WEEK4.stub: reference(WEEK4) + "\n\ndef broken(:\n    pass\n"})
    assert similar.compare(only_added, similar.independent(WEEK4)[0]).score > 0.9


def renamed_text(text):
    return text.replace("rank", "width").replace("base", "inner")


def test_stubs_are_too_short_to_tell():
    stub = (similar.ROOT / "exercises" / WEEK4.folder / WEEK4.stub).read_text(encoding="utf-8")
    both = [printed(WEEK4, name, {WEEK4.stub: stub}) for name in "ab"]
    assert both[0].size == 0 and similar.pairs(both, 0.01) == []


def test_a_week_with_one_answer_or_with_answers_all_alike_is_too_short_to_tell(monkeypatch):
    for answers in (similar.independent(WEEK4)[:1], [printed(WEEK4, n, {WEEK4.stub: reference(WEEK4)}) for n in "ab"]):
        similar.threshold.cache_clear()
        monkeypatch.setattr(similar, "independent", lambda week, answers=answers: answers)
        assert similar.threshold(WEEK4) is None
    similar.threshold.cache_clear()


ODD = {
    "null bytes": b"def f():\0\n" * 2000,
    "one megabyte": b"x = [1, 2, 3]\n" * 74_000,
    "one line": b"x = " + b"1 + " * 200_000 + b"1",
    "deep brackets": b"(" * 100_000,
    "deep unary": b"x = " + b"-" * 50_000 + b"1",
    "deep blocks": "".join(f"{' ' * i}if x:\n" for i in range(1500)).encode(),
    "not UTF-8": "def 中文():\n    return '。'\n".encode("gb18030") * 50,
    "random bytes": random.Random(0).randbytes(100_000),
    "surrogate": b"x = '\\ud800'\nname_\xed\xa0\x80 = 1\n",
    "large integer": b"x = 0x" + b"f" * 100_000,
    "long float": b"x = " + b"9" * 4000 + b".5",
    "empty": b"",
}


@pytest.mark.parametrize("name", ODD)
def test_odd_files_are_compared_without_a_crash(name):
    odd = printed(WEEK4, "odd", {WEEK4.stub: ODD[name], "helper.py": ODD[name]})
    similar.compare(odd, similar.independent(WEEK4)[0])
    assert len(odd.places) <= 60_000 and 0 <= odd.size <= len(odd.places)
    if len(odd.passages) > 1000:
        assert similar.compare(odd, odd).score == 1


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


NASTY = ["=cmd()", 'a,"b', "<script>alert(1)", "张三", "line\nbreak", "\udcff"]


def write_class(folder):
    for name in NASTY:
        (folder / name).mkdir(parents=True)
        text = reference(WEEK4).replace(
            "import torch\n", "import torch\n\nx = '</mark><script>alert(2)</script><img src=x>'\n", 1
        )
        (folder / name / WEEK4.stub).write_text(text, encoding="utf-8")


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_page_and_the_list_hold_nasty_names_and_code_as_text(tmp_path, lang):
    write_class(tmp_path / "class")
    report = similar.run(tmp_path / "class", WEEK4, tmp_path / "out", lang=lang)
    n = len(NASTY)
    assert len(report.pairs) == n * (n - 1) // 2 + n  # each other, and the reference
    lines = [json.loads(line) for line in (tmp_path / "out" / "similar.jsonl").read_text("utf-8").splitlines()]
    assert {(line["first"], line["second"]) for line in lines} == {(p.first, p.second) for p in report.pairs}
    assert {line["first"] for line in lines} | {line["second"] for line in lines} == {*NASTY, similar.REFERENCE}
    html = (tmp_path / "out" / "similar.html").read_text("utf-8")
    tags = Tags()
    tags.feed(html)
    names = {tag for tag, _ in tags.found}
    assert "mark" in names and not names & {"script", "img", "iframe", "link", "object"}
    assert not any(a.startswith("on") or a in ("src", "srcset") for _, attrs in tags.found for a in attrs)
    assert all(attrs["href"].startswith("#") for tag, attrs in tags.found if tag == "a")
    assert "&lt;script&gt;alert(2)" in html


def test_teams_are_not_compared_within_and_earlier_years_are(tmp_path):
    write_class(tmp_path / "class")
    write_class(tmp_path / "2024")
    (tmp_path / "groups.csv").write_text('group,student\n1,张三\n1,=cmd()\n2,"a,""b"\n', encoding="utf-8")
    report = similar.run(tmp_path / "class", WEEK4, tmp_path / "out", [tmp_path / "2024"], tmp_path / "groups.csv")
    met = {frozenset((p.first, p.second)) for p in report.pairs}
    assert frozenset(("张三", "=cmd()")) not in met and frozenset(("张三", 'a,"b')) in met
    assert frozenset(("张三", "2024/张三")) in met and frozenset(("2024/张三", "2024/=cmd()")) not in met


@pytest.mark.parametrize(
    "text", [b"name,team\na,b\n", b"\xff\xfe\x00", b"", b"group,student\n" + b"x," * 5 + b'"' + b"y" * 200_000]
)
def test_a_wrong_groups_file_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "groups.csv").write_bytes(text)
    with pytest.raises(similar.SimilarError, match=r"^[^\n]*groups\.csv[^\n]*$"):
        similar.read_teams(tmp_path / "groups.csv")


def test_the_command(tmp_path, capsys):
    write_class(tmp_path / "class")
    assert cli.main(["similar", str(tmp_path / "class"), "--week", "4", "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "100%  " in out and "line?break" in out
    assert cli.main(["similar", str(tmp_path / "none"), "--week", "4", "--out", str(tmp_path / "out")]) == 2
    assert cli.main(["similar", str(tmp_path / "class"), "--week", "4", "--out", str(tmp_path / "o"), "--threshold", "7"]) == 2
    assert not (tmp_path / "o").exists()


def test_pairs_are_ranked_and_symmetric():
    a, b = (printed(WEEK4, n, {WEEK4.stub: t}) for n, t in (("a", reference(WEEK4)), ("b", with_dead_code(reference(WEEK4)))))
    there, back = similar.compare(a, b), similar.compare(b, a)
    assert there.score == back.score and there.left == back.right
    c = printed(WEEK4, "c", {WEEK4.stub: reference(WEEK4)})
    scores = [pair.score for pair in similar.pairs([a, b, c], 0.1)]
    assert scores == sorted(scores, reverse=True) and len(list(itertools.combinations("abc", 2))) == len(scores)
