"""The final project: its file, its template, and a checker that a stranger's folder can neither fool into running it nor stop."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from autograder.authoring import release
from autograder.cli import main
from autograder.manifest import Lang, ManifestError
from autograder.project import check as projectcheck
from autograder.project import code as projectcode
from autograder.project import handbook
from autograder.project import page as projectpage
from tests.conftest import ROOT

RULES = handbook.load()
SOURCE = (ROOT / "course" / "project.toml").read_text(encoding="utf-8")
LANGUAGES: tuple[Lang, ...] = ("en", "zh")
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
# Assembled here, so that no scanner takes this file for a leak.
TOKEN = "hf_" + "aB3" * 12
AWS_KEY = "AKIA" + "ABCDEFGH" * 2


def found(folder: Path) -> set[tuple[str, str, int]]:
    return {(f.code, f.file, f.line) for f in projectcheck.check(folder, RULES).findings}


def fill(folder: Path, lang: Lang) -> Path:
    """A finished project, made from the template as a student would: every place filled, the report written out."""
    handbook.write_template(folder, lang)
    words = "The rank decides how much an update can say. " if lang == "en" else "秩决定更新能够表达多少内容。"
    values = {
        "title": "Rank", "team": "Ours", "reproduce": "python src/run.py configs/main.toml", "hardware": "two cores",
        "licence": "MIT", "repository": "https://example.org/ours", "video": "https://example.org/video",
    }  # fmt: skip
    for path in folder.rglob("*"):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            if path.name == "project.toml":
                for key, value in values.items():
                    text = re.sub(rf'^{key} = "[^"]*"', f'{key} = "{value}"', text, flags=re.MULTILINE)
                text = re.sub(r"^members = .*", 'members = ["Zhang, \\"=1\\" San", "李四"]', text, flags=re.MULTILINE)
            elif path.name == "report.md":
                text = text.replace("\n1. {{", "\n" + "1. A paper, arXiv:2106.09685\n" * 5 + "{{")
                text = re.sub(r"\{\{[^}]*\}\}", words * 20, text)
                text = text.replace("## Limitations", "![Accuracy](results/a%20b.png)\n\n## Limitations")
                text = text.replace("## 局限", '<img src="results/a b.png" alt="准确率">\n\n## 局限')
            elif path.name == "README.md":
                text = re.sub(r"\{\{[^}]*\}\}", 'Zhang, "=1" San wrote it, 李四 ran it.', text)
            elif path.name == "LICENSE":
                text = "MIT License\n\nPermission is hereby granted, free of\ncharge, to any person\n"
            elif path.name == "requirements.txt":
                text = "".join(line for line in text.splitlines(keepends=True) if "{{" not in line)
            path.write_text(re.sub(r"\{\{[^}]*\}\}", "it", text), encoding="utf-8")
    (folder / "results" / "a b.png").write_bytes(PNG)
    return folder


@pytest.fixture
def done(tmp_path: Path) -> Path:
    return fill(tmp_path / "ours", "en")


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text(encoding="utf-8")
        assert old in text, old
        (folder / name).write_text(text.replace(old, new, 1), encoding="utf-8")

    return change


def put(name: str, data: str | bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)

    return change


# --- the file ---


def test_the_parts_are_those_of_the_course() -> None:
    assert [part.id for part in RULES.parts] == ["report", "repository", "video", "presentation", "peer"]
    assert sum(criterion.points for criterion in RULES.criteria.values()) == 100
    assert {c.id for c in RULES.criteria.values() if c.individual} == {
        "presentation_answers", "peer_rerun", "peer_findings", "peer_tone",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('id = "report"\n', 'id = "report"\nextra = 1\n', 'unknown key "extra"'),
        ("points = 40", "points = 41", "points of criteria must sum to 41, not 40"),
        ("good = 75", "good = 30", "the shares must fall from 100 at full to 0 at none"),
        ('id = "report_cost"', 'id = "cost"', "criterion cost must have an id that begins with report_"),
        ('id = "report_cost"', 'id = "report_limits"', "criterion report_limits is listed twice"),
        ("video_minutes = [3, 8]", "video_minutes = [8]", "video_minutes must be the least and the most"),
        ("en = [1500, 5000]", "en = [5000, 1500]", "en must be the least and the most"),
        ("individual = true", "individual = 1", "individual must be true or false"),
        ("week = 9", "week = 5", "milestones must be in the order of their weeks"),
        ("schema = 1", "schema = 2", "schema must be 1"),
    ],
)
def test_a_mistake_in_the_file_is_told_in_one_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in SOURCE
    path = tmp_path / "project.toml"
    path.write_text(SOURCE.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ManifestError) as error:
        handbook.load(path)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_parts_that_do_not_make_100(tmp_path: Path) -> None:
    path = tmp_path / "project.toml"
    path.write_text(SOURCE[: SOURCE.rindex("[[part]]")], encoding="utf-8")
    with pytest.raises(ManifestError, match="points of the parts must sum to 100, not 90"):
        handbook.load(path)


# --- the handbook and the examples ---


def test_the_handbooks_tables_are_those_of_the_file() -> None:
    for path, text in handbook.pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run `autograder build`"
        for criterion in RULES.criteria:
            assert f"`{criterion}`" in text
        assert text.count("<!-- table ") == 10


def test_a_table_that_does_not_exist_is_named() -> None:
    with pytest.raises(ManifestError, match="there is no table rubrik; there are parts, milestones, rubric-report"):
        handbook.page("<!-- table rubrik -->\n<!-- end -->", RULES, "en")


def test_the_examples_are_marked_on_the_whole_report_and_differ() -> None:
    examples = handbook.examples(RULES)
    assert list(examples) == ["strong", "middling", "weak"]
    report = [criterion.id for criterion in RULES.parts[0].criteria]
    totals = [sum(mark.points for mark in example.marks) for example in examples.values()]
    assert all([mark.criterion for mark in example.marks] == report for example in examples.values())
    assert totals[0] >= 36 and 20 <= totals[1] <= 26 and totals[2] <= 10


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_numbers_of_the_examples_are_those_of_the_runs(tmp_path: Path, lang: Lang) -> None:
    runs = handbook.EXAMPLES / "metrics.json"
    name = "report.md" if lang == "en" else "report.zh.md"
    strong = (handbook.EXAMPLES / "strong" / name).read_text(encoding="utf-8")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "metrics.json").write_bytes(runs.read_bytes())
    (tmp_path / "report.md").write_text(strong, encoding="utf-8")
    numbers = {"number", "unknown_result", "cell", "interval", "no_table", "metrics_runs", "section", "reference_link"}
    lacking = {"section"}  # an excerpt has no section on reproducibility
    assert {code for code, *_ in found(tmp_path)} & numbers == lacking
    assert len(list(projectpage.rows(projectpage.parse(strong).lines))) == 10

    slanted = {s: [run["metrics"]["slanted"] for run in entry["runs"]] for s, entry in json.loads(runs.read_text()).items()}
    middling = projectpage.parse((handbook.EXAMPLES / "middling" / name).read_text(encoding="utf-8"))
    for _, row in projectpage.rows(middling.lines):
        first = slanted[row["system"]][:3]
        std = row.get("std") or row["标准差"]
        assert (row["mean"], std, row["n"]) == (f"{statistics.mean(first):.3f}", f"{statistics.stdev(first):.3f}", "3")
    weak = [list(row.values())[1] for _, row in projectpage.rows(projectpage.parse(
        (handbook.EXAMPLES / "weak" / name).read_text(encoding="utf-8")).lines)]  # fmt: skip
    assert weak == [f"{max(slanted[s]):.1%}".replace("%", " %") for s in ("LoRA qv r=8", "full fine-tuning")]


def test_a_finding_for_every_text_and_a_text_for_every_finding() -> None:
    source = "".join(Path(module.__file__ or "").read_text(encoding="utf-8") for module in (projectcheck, projectcode))
    used = set(re.findall(r'(?:self\.add\(|yield |Finding\(level, )"([a-z_0-9]+)"', source))
    assert used == set(projectcheck.wording())
    for code, entry in projectcheck.wording().items():
        assert set(entry) == {"level", "en", "zh"} and entry["level"] in ("must", "should"), code
        assert set(re.findall(r"(?<!\{)\{(\w+)\}", entry["en"])) - {"must"} == set(
            re.findall(r"(?<!\{)\{(\w+)\}", entry["zh"])) - {"must_zh"}, code  # fmt: skip


# --- the template ---


@pytest.mark.parametrize("lang", LANGUAGES)
def test_of_the_template_nothing_is_left_but_what_has_to_be_filled_in(tmp_path: Path, lang: Lang) -> None:
    names = handbook.write_template(tmp_path / "ours", lang)
    report = projectcheck.check(tmp_path / "ours", RULES)
    assert {finding.code for finding in report.findings} == {"fill_in"}
    places = sum((tmp_path / "ours" / name).read_text(encoding="utf-8").count("{{") for name in names)
    assert len(report.findings) == places > 30
    assert {finding.file for finding in report.findings} == set(names) - {".gitignore", "configs/main.toml"}


def test_the_languages_have_the_same_files_and_places(tmp_path: Path) -> None:
    places = []
    for lang in LANGUAGES:
        handbook.write_template(tmp_path / lang, lang)
        report = projectcheck.check(tmp_path / lang, RULES)
        places.append(sorted(f.file for f in report.findings))
    assert places[0] == places[1]


def test_the_templates_program_writes_what_the_checker_reads(done: Path) -> None:
    """With an experiment in its place: the one function that a student has to write."""
    run = done / "src" / "run.py"
    text = run.read_text(encoding="utf-8")
    text, count = re.subn(r"    raise NotImplementedError.*", '    return {"accuracy": rank / 10 + random.random() * rate}', text)
    assert count == 1
    run.write_text(text, encoding="utf-8")
    subprocess.run([sys.executable, run, done / "configs" / "main.toml"], check=True)
    before = found(done)
    assert {code for code, *_ in before} == {"number"}  # the report still has the old numbers; the file itself is right
    assert {file for _, file, _ in before} == {"report.md"}


def test_the_templates_test_passes(done: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=done,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout


def test_a_template_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("mine")
    assert main(["project", "template", str(tmp_path)]) == 2
    assert "is not empty: name a new folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert main(["project", "template", str(tmp_path / "mine" / "x")]) == 2
    assert "cannot be written" in capsys.readouterr().err


# --- the check ---


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_finished_project_has_no_findings(tmp_path: Path, lang: Lang, capsys: pytest.CaptureFixture[str]) -> None:
    folder = fill(tmp_path / "ours", lang)
    assert found(folder) == set()
    (folder / ".git").mkdir()
    assert main(["project", "check", str(folder), "--lang", lang]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1] in ("not looked at: .git", "未检查：.git")


@pytest.mark.parametrize("lang", LANGUAGES)
def test_nor_has_it_from_windows(tmp_path: Path, lang: Lang) -> None:
    folder = fill(tmp_path / "ours", lang)
    for path in folder.rglob("*"):
        if path.suffix in (".md", ".txt", ".py", ".json", ".toml") or path.name == "LICENSE":
            bom = b"\xef\xbb\xbf"
            path.write_bytes(bom + path.read_text(encoding="utf-8").replace("\n", "\r\n").encode())
    assert found(folder) == set()


ROW = "| LoRA r=8 | accuracy | 0.830 | [0.810, 0.850] | 3 |"
DEFECTS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "no readme": (lambda d: (d / "README.md").unlink(), "missing", "README.md"),
    "no program": (lambda d: (d / "src" / "run.py").unlink(), "no_python", "src/"),
    "no test": (lambda d: (d / "tests" / "test_run.py").unlink(), "no_tests", "tests/"),
    "a link": (lambda d: (d / "data").symlink_to("/etc"), "link", "data"),
    "a fifo": (lambda d: os.mkfifo(d / "pipe"), "special", "pipe"),
    "a large file": (lambda d: os.truncate(d / "results" / "a b.png", 11 << 20), "large", "results/a b.png"),
    "a pickle": (put("adapter_model.bin", b"x"), "pickle", "adapter_model.bin"),
    "a pickle by another name": (put("adapter.dat", b"\x80\x04\x95abc"), "pickle", "adapter.dat"),
    "a torch archive by another name": (put("weights", b"PK\x03\x04" + bytes(26) + b"archive/data.pkl"), "pickle", "weights"),
    "no safetensors": (put("a.safetensors", b"\xff" * 40), "safetensors", "a.safetensors"),
    "an archive": (put("data.zip", b"PK\x05\x06"), "archive", "data.zip"),
    "a binary": (put("tool", b"\x7fELF\0\0"), "binary", "tool"),
    "a token": (put("notes.txt", f"a\nlogin({TOKEN!r})\n"), "secret", "notes.txt"),
    "a token in UTF-16": (put("notes.csv", f"key,{TOKEN}".encode("utf-16")), "secret", "notes.csv"),
    "a key in a picture": (put("x.png", PNG + b" " + AWS_KEY.encode()), "secret", "x.png"),
    "a private key": (put("k.txt", "-----BEGIN OPENSSH PRIVATE " + "KEY-----"), "secret", "k.txt"),
    "a file of keys": (put("src/.env", "A=1"), "key_file", "src/.env"),
    "a path of one's own": (put("configs/b.toml", 'p = "/home/li/data"\n'), "home_path", "configs/b.toml"),
    "not UTF-8": (put("report.md", "结果".encode("gbk")), "not_utf8", "report.md"),
    "a long program": (put("src/a.py", "x = 1\n" * 100_000), "long_text", "src/a.py"),
    "no Python": (put("src/a.py", "def f(:\n"), "syntax", "src/a.py"),
    "a NUL in Python": (put("src/a.py", "x = 1\0"), "syntax", "src/a.py"),
    "no notebook": (put("a.ipynb", "[1]"), "notebook", "a.ipynb"),
    "remote code": (put("src/a.py", "m.from_pretrained('x', trust_remote_code=True)"), "remote_code", "src/a.py"),
    "remote code by a name": (put("src/a.py", "f(trust_remote_code=FLAG)"), "remote_code", "src/a.py"),
    "remote code in a dict": (put("src/a.py", "o = {'trust_remote_code': True}"), "remote_code", "src/a.py"),
    "remote code in YAML": (put("configs/c.yaml", "trust_remote_code: true\n"), "remote_code", "configs/c.yaml"),
    "torch.load": (put("src/a.py", "import torch as t\nt.load('x')"), "torch_load", "src/a.py"),
    "torch.load as f": (put("src/a.py", "from torch import load as f\nf('x', weights_only=False)"), "torch_load", "src/a.py"),
    "pickle": (put("src/a.py", "from pickle import loads\nloads(b'')"), "unpickle", "src/a.py"),
    "allow_pickle": (put("src/a.py", "import numpy as np\nnp.load('x', allow_pickle=True)"), "unpickle", "src/a.py"),
    "eval": (put("src/a.py", "eval('1')"), "eval", "src/a.py"),
    "unpinned": (put("requirements.txt", "numpy>=1\n"), "unpinned", "requirements.txt"),
    "a star": (put("requirements.txt", "numpy==2.*\n"), "unpinned", "requirements.txt"),
    "a branch": (put("requirements.txt", "peft @ git+https://x.org/peft@main\n"), "unpinned", "requirements.txt"),
    "no package": (put("requirements.txt", "# none\n--pre\n"), "no_requirement", "requirements.txt"),
    "no section": (edit("README.md", "## Who did what", "## Thanks"), "section", "README.md"),
    "an empty section": (edit("README.md", "## Licence", "## Licence\n\n## More"), "empty_section", "README.md"),
    "a heading in code": (edit("README.md", "## Licence", "```\n## Licence\n```"), "section", "README.md"),
    "a heading in a comment": (edit("README.md", "## Licence", "<!--\n## Licence\n-->"), "section", "README.md"),
    "no figure": (edit("report.md", "![Accuracy](results/a%20b.png)", ""), "no_figure", "report.md"),
    "a figure elsewhere": (edit("report.md", "results/a%20b.png", "https://x.org/a.png"), "figure_remote", "report.md"),
    "a figure outside": (edit("report.md", "results/a%20b.png", "../../a.png"), "figure_missing", "report.md"),
    "a figure without words": (edit("report.md", "![Accuracy]", "![ ]"), "figure_alt", "report.md"),
    "a reference without link": (edit("report.md", "arXiv:2106.09685", "in a book"), "reference_link", "report.md"),
    "few references": (edit("report.md", "1. A paper, arXiv:2106.09685\n", ""), "few_references", "report.md"),
    "no table": (edit("report.md", "| system | metric | mean |", "| system | metric | value |"), "no_table", "report.md"),
    "another mean": (edit("report.md", ROW, ROW.replace("0.830", "0.831")), "number", "report.md"),
    "another percentage": (edit("report.md", ROW, "| LoRA r=8 | accuracy | 84 % | unknown | 3 |"), "number", "report.md"),
    "another n": (edit("report.md", ROW, ROW.replace("| 3 |", "| 5 |")), "number", "report.md"),
    "another difference": (edit("report.md", "| accuracy | 0.020 |", "| accuracy | 0.030 |"), "number", "report.md"),
    "no number": (edit("report.md", ROW, ROW.replace("0.830", "high")), "cell", "report.md"),
    "an interval beside its mean": (edit("report.md", "[0.810, 0.850]", "[0.840, 0.850]"), "interval", "report.md"),
    "no interval": (edit("report.md", "[0.810, 0.850]", "± 0.02"), "interval", "report.md"),
    "a system that was not run": (edit("report.md", ROW, ROW.replace("r=8", "r=9")), "unknown_result", "report.md"),
    "no JSON": (put("results/metrics.json", "{'a': 1}"), "metrics_json", "results/metrics.json"),
    "not a number": (edit("results/metrics.json", "0.81}", "NaN}"), "metrics_json", "results/metrics.json"),
    "JSON nested deep": (put("results/metrics.json", "[" * 200_000), "metrics_json", "results/metrics.json"),
    "no systems": (put("results/metrics.json", "{}"), "metrics_object", "results/metrics.json"),
    "no runs": (put("results/metrics.json", '{"a": {"runs": []}}'), "metrics_runs", "results/metrics.json"),
    "a true metric": (edit("results/metrics.json", "0.81}", "true}"), "metrics_runs", "results/metrics.json"),
    "an endless metric": (edit("results/metrics.json", "0.81}", "1e999}"), "metrics_runs", "results/metrics.json"),
    "a seed twice": (edit("results/metrics.json", '"seed": 1', '"seed": 0'), "metrics_same", "results/metrics.json"),
    "a wrong summary": (edit("results/metrics.json", '"std": 0.02}', '"std": 0.01}'), "number", "results/metrics.json"),
    "other seeds": (edit("project.toml", "seeds = [0, 1, 2]", "seeds = [0, 1, 3]"), "seeds", "results/metrics.json"),
    "one seed": (edit("project.toml", "seeds = [0, 1, 2]", "seeds = [0]"), "few_seeds", "project.toml"),
    "no TOML": (put("project.toml", "a = "), "toml", "project.toml"),
    "TOML nested deep": (put("project.toml", "a = " + "[" * 100_000), "toml", "project.toml"),
    "no licence named": (edit("project.toml", "licence =", "license ="), "key_missing", "project.toml"),
    "a misspelt key": (edit("project.toml", "licence =", "license ="), "key_unknown", "project.toml"),
    "a short video": (edit("project.toml", "video_minutes = 5", "video_minutes = 1"), "key_value", "project.toml"),
    "a video by file": (edit("project.toml", "https://example.org/video", "file:///video"), "key_value", "project.toml"),
    "a member without work": (edit("project.toml", '"李四"', '"李四五"'), "member", "README.md"),
    "another licence": (edit("project.toml", '"MIT"', '"Apache-2.0"'), "licence", "LICENSE"),
    "a card without a base": (edit("MODEL_CARD.md", "base_model:", "base:"), "card", "MODEL_CARD.md"),
    "a place left": (edit("src/run.py", '"""Runs', '"""{{ fill in: it }} Runs'), "fill_in", "src/run.py"),
}  # fmt: skip


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_found_where_it_is(done: Path, name: str) -> None:
    change, code, file = DEFECTS[name]
    change(done)
    assert (code, file) in {(c, f) for c, f, _ in found(done)}
    assert projectcheck.check(done, RULES).count("must") or projectcheck.wording()[code]["level"] == "should"


def test_every_kind_of_finding_is_tried(tmp_path: Path) -> None:
    elsewhere = {"unreadable", "deep", "many", "total", "much_code", "thin_section", "short", "long", "no_references", "more"}
    assert {code for _, code, _ in DEFECTS.values()} | elsewhere == set(projectcheck.wording())


def test_lines_are_those_of_the_file(done: Path) -> None:
    edit("report.md", ROW, "<!-- a\nb -->\n" + ROW)(done)  # breaks the table, so its row is no row of it
    put("src/a.py", "import torch\n\n\ntorch.load('x')\n")(done)
    put("nb.ipynb", json.dumps({"cells": [{"cell_type": "markdown", "source": "x"}, {"cell_type": "code", "source": [
        "%pip install x\n", "import torch\n", "torch.load('x')\n"]}]}))(done)  # fmt: skip
    put("requirements-dev.txt", "pytest==9.0.1 \\\n    --hash=sha256:00\nruff\n")(done)
    places = found(done)
    assert ("torch_load", "src/a.py", 4) in places
    assert ("torch_load", "nb.ipynb (2)", 3) in places
    assert ("unpinned", "requirements-dev.txt", 3) in places
    assert len([p for p in places if p[1] == "requirements-dev.txt"]) == 1


@pytest.mark.parametrize(
    "line",
    ["numpy==2.4.6", "peft[all]==0.21.2 ; python_version > '3.10'", "numpy == 2.4.6  # why", "torch==2.13.0+cpu",
     "x @ git+https://x.org/x@" + "0" * 40, "x @ https://x.org/x.whl#sha256=" + "0" * 64],
)  # fmt: skip
def test_what_is_pinned_is_not_reported(line: str) -> None:
    assert list(projectcode.requirements(line + "\n")) == []


@pytest.mark.parametrize(
    "code",
    ["model.eval()", "import torch\ntorch.load('x', weights_only=True)", "f(trust_remote_code=False)", "np.load('x')",
     "import json\njson.load(f)", "safetensors.torch.load_file('x')", "'\\d'"],
)  # fmt: skip
def test_what_is_harmless_is_not_reported(code: str, recwarn: pytest.WarningsRecorder) -> None:
    assert list(projectcode.python(code)) == [] and not recwarn.list


def test_lengths(done: Path) -> None:
    text = (done / "report.md").read_text(encoding="utf-8")
    head, tail = text.split("## Related work", 1)
    (done / "report.md").write_text(
        f"{head}## Related work\n\nOne.\n\n## Method{tail.split('## Method', 1)[1]}", encoding="utf-8"
    )
    assert ("thin_section", "report.md") in {(c, f) for c, f, _ in found(done)}
    (done / "report.md").write_text(text.replace("The rank decides", "```\nThe rank\n```\n"), encoding="utf-8")
    (done / "report.md").write_text(re.sub(r"(The rank decides .*)", "One.", text), encoding="utf-8")
    assert ("short", "report.md", 0) in found(done)
    (done / "report.md").write_text(text + "word " * 5000, encoding="utf-8")
    assert ("long", "report.md", 0) in found(done)
    (done / "report.md").write_text(re.sub(r"1\. A paper.*\n", "", text), encoding="utf-8")
    assert "no_references" in {c for c, *_ in found(done)}


def test_few_seeds_with_a_reason(done: Path) -> None:
    edit("project.toml", "seeds = [0, 1, 2]", "seeds = [0]")(done)
    edit("project.toml", 'few_seeds_reason = ""', 'few_seeds_reason = "a run takes a day"')(done)
    assert "few_seeds" not in {c for c, *_ in found(done)}


# --- a stranger's folder ---

ODD = ["=1+1.py", "a,b\"'.py", "名字.py", "a\nb.py", "\x1b[31mred.py", "\u202egnp.py", os.fsdecode(b"\xff\xfe.py")]


def test_odd_names_stay_in_their_line(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ODD:
        (done / "src" / name).write_text("eval('1')\n")
    put("LICENSE", "{{fill in: \x1b]0;title\x07 \u202e}}")(done)
    edit("results/metrics.json", '"LoRA r=8"', json.dumps("\x1b[2J{0}{x}\u2028"))(done)
    report = projectcheck.check(done, RULES)
    assert sum(finding.code == "eval" for finding in report.findings) == len(ODD)
    for lang in LANGUAGES:
        for line in report.lines(lang):
            assert line.isprintable(), line
        assert json.loads(report.json(lang))["must"] == report.count("must")
    assert main(["project", "check", str(done), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["findings"]


def test_a_secret_is_not_repeated(done: Path) -> None:
    put("a.py", f"x = '{TOKEN}'\nx = (\n")(done)
    assert TOKEN not in projectcheck.check(done, RULES).json("en")


def test_nothing_is_run_and_nothing_written(done: Path, tmp_path: Path) -> None:
    """An audit hook sees every process, unpickling, socket and write that the check starts."""
    mark = tmp_path / "ran"
    command = f"touch {mark}"
    put(".git/config", f'[core]\n\tfsmonitor = "{command}"\n\thooksPath = hooks\n\tpager = "{command}"\n')(done)
    put(".git/HEAD", "ref: refs/heads/main\n")(done)
    code = f"import os; os.system({command!r})\n"
    for name in ("conftest.py", "sitecustomize.py", "src/__init__.py", "json.py", "autograder/__init__.py", "setup.py"):
        put(name, code)(done)
    put("w.pt", b"cos\nsystem\n(S'" + command.encode() + b"'\ntR.")(done)
    program = (
        "import sys\nfrom autograder.cli import main\nfrom autograder.project import check, handbook\nseen = set()\n"
        "def hook(event, args):\n"
        "    if event == 'open' and isinstance(args[1], str) and set(args[1]) & set('wax+'): event = 'write'\n"
        "    seen.add(event)\n"
        "sys.addaudithook(hook)\n"
        f"main(['project', 'check', {str(done)!r}])\n"
        "watched = ('os.exec', 'os.fork', 'os.mkdir', 'os.posix_spawn', 'os.remove', 'os.rename', 'os.system',\n"
        "    'pickle.find_class', 'socket.connect', 'subprocess.Popen', 'write')\n"
        "print(sorted(seen & set(watched)), file=sys.stderr)\n"
    )
    before = sorted(path for path in done.rglob("*"))
    result = subprocess.run([sys.executable, "-B", "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.stderr.splitlines()[-1] == "[]", result.stderr
    assert "must" in result.stdout and not mark.exists()
    assert sorted(path for path in done.rglob("*")) == before


def test_a_link_to_elsewhere_is_not_read(done: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{TOKEN}\n{{{{fill in: private}}}}")
    (done / "README.md").unlink()
    (done / "README.md").symlink_to(tmp_path / "secret")
    (done / "src" / "more").symlink_to(tmp_path, target_is_directory=True)
    places = found(done)
    assert {("link", "README.md", 0), ("link", "src/more", 0)} <= places
    assert not {code for code, *_ in places} & {"secret", "fill_in", "missing"}


def test_too_many_too_deep_and_too_large(done: Path) -> None:
    deep = done / "/".join("d" * 14)
    deep.mkdir(parents=True)
    for place in range(6):
        put(f"part{place}.csv", b"1,2\n")(done)
        os.truncate(done / f"part{place}.csv", 9 << 20)
    codes = {code for code, *_ in found(done)}
    assert {"deep", "total"} <= codes and "missing" not in codes
    for place in range(RULES.limits.files + 10):
        (done / f"f{place}").touch()
    report = projectcheck.check(done, RULES)
    assert [f.code for f in report.findings].count("many") == 1 and report.files <= RULES.limits.files


def test_more_code_than_anybody_writes(done: Path) -> None:
    for place in range(6):
        put(f"src/vendored/{place}.py", f'x = "{"a" * 500_000}"\n')(done)
    assert [code for code, *_ in found(done)].count("much_code") == 1


def test_folders_without_end_are_not_walked(done: Path) -> None:
    for place in range(3000):
        (done / "a" / f"{place}").mkdir(parents=True)
    (done / "zz.py").write_text("eval('1')")
    codes = {code for code, *_ in found(done)}
    assert "many" in codes and not {"eval", "missing"} & codes


def test_what_cannot_be_read_is_named(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions stop nobody who is root, so the refusals are made here."""
    scandir, opened = os.scandir, os.open

    def refuse(real: Callable[..., object], name: str) -> Callable[..., object]:
        def call(path: Path, *rest: int) -> object:
            if Path(path).name == name:
                raise PermissionError(13, "Permission denied")
            return real(path, *rest)

        return call

    monkeypatch.setattr(os, "scandir", refuse(scandir, "src"))
    monkeypatch.setattr(os, "open", refuse(opened, "LICENSE"))
    report = projectcheck.check(done, RULES)
    said = {(f.code, f.file) for f in report.findings}
    assert said == {("unreadable", "src/"), ("unreadable", "LICENSE"), ("no_python", "src/")}


def test_of_one_kind_only_so_many_are_shown(done: Path) -> None:
    put("src/a.py", "eval('1')\n" * 500)(done)
    findings = [f for f in projectcheck.check(done, RULES).findings if f.file == "src/a.py"]
    assert [f.code for f in findings] == ["eval"] * 50 + ["more"]
    assert "450 more" in findings[-1].text("en")


MOST = projectcode.MOST - 10
HOSTILE = {
    "comments": ("report.md", "<!--" * (MOST // 4)),
    "closed comments": ("report.md", "<!---->" * (MOST // 7)),
    "pictures": ("report.md", "![" * (MOST // 2)),
    "pictures with targets": ("report.md", "![a](" * (MOST // 5)),
    "tags": ("report.md", "<img " * (MOST // 5)),
    "tags with quotes": ("report.md", "<img " + "src='" * (MOST // 5)),
    "bars": ("report.md", "|" * MOST),
    "rows": ("report.md", "| system | metric | mean | n |\n|-|-|-|-|\n" + "| a | b | 1 | 1 |\n" * (MOST // 20)),
    "headings": ("report.md", "# a\n" * (MOST // 4)),
    "hashes": ("report.md", "# " + "#" * MOST),
    "spaces": ("report.md", "# " + " " * (MOST // 2) + "a"),
    "numerals": ("report.md", "# " + "1." * (MOST // 2)),
    "braces": ("README.md", "{{" * (MOST // 2)),
    "places": ("README.md", "{{fill in" * (MOST // 9)),
    "apostrophes": ("report.md", "a'" * (MOST // 2)),
    "keys": ("project.toml", "a_" * (MOST // 2)),
    "requirements": ("requirements.txt", "a" + "-" * (MOST // 2) + " @"),
    "brackets": ("requirements.txt", "a[" + " ," * (MOST // 3)),
    "continued": ("requirements.txt", "\\\n" * (MOST // 2)),
    "hashes of packages": ("requirements.txt", "a==1 " + "\t" * (MOST // 2) + "x"),
    "tokens": ("a.txt", "wandb" * (MOST // 5)),
    "keys of tokens": ("a.txt", "-----BEGIN " * (MOST // 11)),
    "homes": ("src/a.py", "'" + "/home/" * (MOST // 6) + "'"),
    "minus": ("src/a.py", "-" * MOST + "1"),
    "dots": ("src/a.py", "a" + ".b" * (MOST // 2)),
    "calls": ("src/a.py", "f" + "(x)" * (MOST // 3)),
    "names": ("src/a.py", "from a import b as c\n" * (MOST // 21)),
    "tokens on tokens": ("a.csv", f"{TOKEN}\n" * (9 * 2**20 // 40)),
    "front": ("MODEL_CARD.md", "---\n" * (MOST // 4)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_text_takes_no_time(done: Path, name: str) -> None:
    file, text = HOSTILE[name]
    put(file, text)(done)
    start = time.process_time()
    report = projectcheck.check(done, RULES)
    for line in report.lines("zh"):
        assert len(line) < 2000
    assert time.process_time() - start < 10


# --- the command ---


def test_the_command_says_what_to_do_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for name in ("file", "nothing"):
        assert main(["project", "check", str(tmp_path / name)]) == 2
        said = capsys.readouterr().err
        assert "is not a folder: name the project's" in said and len(said.splitlines()) == 1


def test_students_have_it(tmp_path: Path) -> None:
    """In a tree that holds only what is released, without torch or anything else that is not of Python itself."""
    for name in (*release.WHOLE, *(f"autograder/{name}" for name in release.GRADER)):
        release._copy(ROOT / name, tmp_path / name)
    program = (
        "import sys\nfrom autograder.cli import main\n"
        "codes = main(['project', 'template', 'ours', '--lang', 'zh']), main(['project', 'check', 'ours', '--lang', 'zh'])\n"
        "assert codes == (0, 1), codes\n"
        "assert not {'torch', 'numpy', 'pytest'} & set(sys.modules)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "请填写" in result.stdout
