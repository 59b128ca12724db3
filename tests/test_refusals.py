"""What a student's command refuses, it refuses in Chinese as well: no literal without an entry, no idle entry."""

from __future__ import annotations

import argparse
import ast
import errno
import inspect
import json
import os
import re
import tomllib
from pathlib import Path

import pytest

from autograder import cli, texts
from autograder.manifest import load
from autograder.reports import feedback
from autograder.student import handin, home, learner
from tests.conftest import ROOT

WEEK2 = load().week(2)
TABLES = tomllib.loads((ROOT / "autograder" / "refusals.toml").read_text(encoding="utf-8"))
JUDGE = tomllib.loads((ROOT / "autograder" / "judge" / "words.toml").read_text(encoding="utf-8"))
HOLE = re.compile(r"\{\d*\}")
HAN = re.compile("[\u4e00-\u9fff]")
# Where students' commands refuse: whole files, or these functions of them.
SAID: dict[str, tuple[str, ...]] = {
    "cli.py": ("main",),
    "student/common.py": ("what",),
    "student/guard.py": (),
    "student/handin.py": (),
    "student/hints.py": (),
    "student/home.py": (),
    "intake.py": (
        "read", "_read_zip", "__init__", "_leave_out", "_odd", "read_archive", "_walk", "_read_file", "_too_large",
        "unreadable", "_problem",
    ),
    "judge/recorded.py": ("__init__", "answer"),
    "judge/runner.py": ("__init__", "run_in_pytest", "_info"),
    "manifest.py": ("week", "task", "load", "read", "_bytes", "_parsed"),
    "project/handbook.py": ("write_template",),
    "project/check.py": ("check",),
    "student/watch.py": (),
}  # fmt: skip
MORE = {"over {} s", "a hint is for one task: {}"}  # of functions that say other things in both languages
CODE = re.compile("`?(autograder|conda)\\b")
# Said on a check's page with the type of an exception before it, and a place in the student's file behind it.
PAGES = {
    "os._exit({}) would end the process that checks your code": "SystemExit: ",
    "nobody answers where your code is marked: take the value as an argument": "EOFError: ",
    "{} is gone from your file: was it renamed to {}?": "AttributeError: ",
    "{} is gone from your file, and the contract needs it: put it back in {}": "AttributeError: ",
    "{} cannot be imported in week {}, here or where it is marked: what it does is the exercise": "ModuleNotFoundError: ",
    "{}: no {}.py lies beside {}, and no installed package is called that": "ModuleNotFoundError: ",
}
LATER = {  # of argparse in later versions of Python
    "invalid choice: {}, maybe you meant {}? (choose from {})",
}


class Spoken(ast.NodeTransformer):
    """Leaves out what is said in both languages where it stands, and the texts of --help."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST | None:
        return None if re.match("add|_add", node.name) else self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        self.generic_visit(node)
        return ast.Constant(0) if re.search(r"\b(zh|lang|language)\b", ast.unparse(node.test)) else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        return ast.Constant(0) if ast.unparse(node.func) in ("_say", "self._say") else node


def literals() -> set[str]:
    found = set(MORE)
    for name, functions in SAID.items():
        tree = Spoken().visit(ast.parse((ROOT / "autograder" / name).read_text(encoding="utf-8")))
        defined = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in functions]
        found |= {literal for node in defined or [tree] for literal in texts.said(node) if not CODE.match(literal)}
    return found


def shape(entry: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, HOLE.split(entry))))


def test_every_refusal_is_translated() -> None:
    known = {*JUDGE, *(entry for table in TABLES.values() for entry in table)}
    on_pages = {literal for literal, head in PAGES.items() if {head + literal, head + literal + "{}"} & known}
    assert sorted(literals() - known - on_pages) == []
    assert on_pages == set(PAGES) <= literals()


def test_no_entry_is_idle() -> None:
    files = [*SAID, "cli.py", "student/doctor.py"]
    source = "\n".join((ROOT / "autograder" / name).read_text(encoding="utf-8") for name in files)
    source = source.replace('\\"', '"')
    unknown = set(TABLES["ours"]) - literals()
    assert sorted(entry for entry in unknown if not all(part in source for part in HOLE.split(entry))) == []
    pieces = {node.value for node in ast.walk(ast.parse(inspect.getsource(argparse))) if isinstance(node, ast.Constant)}
    theirs = {re.sub(r"%(\(\w+\))?[rs]", "{}", piece) for piece in pieces if isinstance(piece, str)} | LATER
    general = [shape(entry) for entry in theirs if "{}" in entry and entry != "{}"]
    assert sorted(e for e in TABLES["arguments"] if e not in theirs and not any(p.fullmatch(e) for p in general)) == []
    assert sorted(set(TABLES["system"]) - {os.strerror(number) for number in errno.errorcode}) == []
    messages = {*map(syntax_error, WRONG), *OTHER}
    assert sorted(e for e in TABLES["syntax"] if not any(shape(e).search(message) for message in messages)) == []


def test_places_and_characters() -> None:
    for table in TABLES.values():
        for english, chinese in table.items():
            assert english not in JUDGE, english
            assert len(HOLE.findall(english)) == len(HOLE.findall(chinese)), english
            assert HAN.search(HOLE.sub("", chinese)), english


def test_no_entry_is_hidden_by_another() -> None:
    for english, chinese in {key: value for table in TABLES.values() for key, value in table.items()}.items():
        places = [f"v{number}" for number in range(len(HOLE.findall(english)))]
        said, wanted = texts._fill(english, places), texts._fill(chinese, places)
        assert texts.refusal(said, "zh") == wanted, english


# --- what is wrong with a file ---

WRONG = (
    "f(:", "x = (1", "x = 1)", "def f()\n  pass", "def f():\npass", "if x:\nprint(1)", "class A:\nx = 1", "  x = 1",
    "x = 'a", "x = '''a",
    "if x = 1: pass", "x == 1 = 2", "print 'a'", "x = 1，2", "x =\u00a01", "def f():\n\tx = 1\n        y = 2",
    "def f():\n    x = 1\n  y = 2", "f(a b)", "return 1", "break", "continue", "f(1=2)", "None = 1", "try:\n  x", "x = {1: 2, 3}",
    "f(x=1, 2)", "def f(x=1, y): pass", "f() = 1", "x + 1 = 2", "'a' = 1", "del f()", "x = \\ 1", "x = 0777", "1x = 3", "x = (1]",
    "x = (\n1]", "def f(x, x): pass", "def f():\n  x = 1\n  global x", "with f() as g(): pass", "x = f'{'", "x.y += 1 = 2",
)  # fmt: skip
# The wordings of Python that this Python has not.
OTHER = (
    "cannot assign to attribute here. Maybe you meant '==' instead of '='?",
    "f-string: expecting '}'", "unterminated f-string literal (detected at line 1)",
    "'continue' not properly in loop", "too many nested parentheses",
    "non-default argument follows default argument", "parameter without a default follows parameter with a default",
    "duplicate argument 'x' in function definition", "duplicate parameter 'x' in function definition",
)  # fmt: skip


def syntax_error(source: str) -> str:
    with pytest.raises(SyntaxError) as caught:
        compile(source, "file.py", "exec")
    return str(caught.value.msg)


@pytest.mark.parametrize("source", WRONG)
def test_what_is_wrong_with_a_file(source: str) -> None:
    told = texts.refusal(f"file.py, line 1: {syntax_error(source)}\n    a is missing", "zh")
    assert told.endswith("\n    a is missing")  # a line of the student's
    assert told.startswith("file.py，第 1 行：") and not english(told.partition("\n")[0]), told


# --- commands ---


def english(said: str) -> str:
    """Two English words in a row, but for commands, paths, options and what stands in quotes."""
    said = re.sub(r"`[^`]*`|'[^']*'|（可选：.*）|autograder \w+( [\d.]+)?|--?\w+|\S*[/.]\S*", "·", said)
    found = re.search(r"[A-Za-z]{2,},? +[A-Za-z]{2,}", said)
    return found[0] if found else ""


@pytest.fixture
def chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOGRADER_LANG", "zh")


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The line with which a command refuses."""
    try:
        status = cli.main(arguments)
    except SystemExit as ended:
        status = ended.code  # type: ignore[assignment]
    said = capsys.readouterr()
    assert (status, said.out) == (2, "")
    return said.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("check", "autograder check: 缺少参数：WEEK[.TASK]"),
        ("check 2 --seed x", "autograder check: 参数 --seed：'x' 不是整数"),
        ("check 2 --seconds soon", "参数 --seconds：'soon' 不是数"),
        ("check 2 --seconds -1", "autograder: --seconds 是秒数"),
        ("check 2 --file", "参数 --file：后面需要一个值"),
        ("check 2 --tier hard", "参数 --tier：不能是 'hard'（可选：'basic', 'advanced'）"),
        ("check 2 --quick", "autograder: 无法识别的参数：--quick"),
        ("check 2 --s 1", "有歧义"),
        ("chek 2", "参数 COMMAND：不能是 'chek'"),
        ("check two", "autograder: “two”既不是周次（如 4），也不是任务（如 4.2）"),
        ("check 99", "autograder: 没有第 99 周；课程有第 1 至 12 周"),
        ("check 2.9", "autograder: 没有任务 2.9；有 2.1, 2.2"),
        ("hint 2", "autograder: 提示针对单个任务：autograder hint 2.1"),
        ("hint 2.1 --stage 4", "参数 --stage：不能是 4（可选：1, 2, 3）"),
        ("watch", "autograder watch: 缺少参数"),
        ("start 99", "没有第 99 周"),
        ("reset two", "不是周次"),
        ("submit", "autograder: 请写明周次"),
        ("submit 2.1", "autograder: 提交以整周为单位：autograder submit 2"),
        ("submit 2 --student a/b", "autograder: --student 只写你的学号或账号"),
        ("submit --verify nothing.zip", "autograder: nothing.zip 无法读取：没有该文件或文件夹"),
        ("project", "autograder project: 缺少参数：COMMAND"),
        ("project check nowhere", "autograder: nowhere 不是文件夹"),
        ("project template tests", "autograder: tests 不是空文件夹"),
    ],
)
@pytest.mark.usefixtures("chinese")
def test_a_command_refuses_in_chinese(
    words: str, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    said = refused(words.split(), capsys).splitlines()[-1]
    assert told in said and HAN.search(said) and not english(said), said


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "不存在：请用 --file PATH 指明文件"),
        ({"Rank1_LoRA.py": b""}, "不存在，但有 Rank1_LoRA.py：请把它改名为 rank1_lora.py"),
        ({"rank1_lora.py": b""}, "rank1_lora.py 是空文件"),
        ({"rank1_lora.py": b"\0"}, "rank1_lora.py 不是 Python 文件"),
        ({"rank1_lora.py": "x = '中'".encode("gbk")}, "rank1_lora.py 不是 UTF-8 文本（第 5 字节）；请存为 UTF-8"),
        ({"rank1_lora.py": "x = 1，2".encode()}, "rank1_lora.py，第 1 行：代码中不能有字符 '，'（U+FF0C）"),
        ({"rank1_lora.py": b"(" * 1000}, "rank1_lora.py，第 1 行：括号嵌套过深"),
        ({"rank1_lora.py": b"x = 1", "numpy.py": b""}, "numpy.py 遮住了软件包 numpy"),
    ],
)
@pytest.mark.usefixtures("chinese")
@pytest.mark.parametrize("command", ["check", "watch"])
def test_a_file_is_refused_in_chinese(
    command: str, files: dict[str, bytes], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    words = [command, "2.1", "--file", str(tmp_path / "rank1_lora.py"), *(["--once"] if command == "watch" else [])]
    assert cli.main(words) == 2
    found = capsys.readouterr()  # watch says it where the results of checks go
    said = (found.err or found.out).splitlines()[0]
    assert told in said and HAN.search(said) and not english(said.replace(str(tmp_path), "")), said


@pytest.mark.usefixtures("chinese")
def test_another_weeks_file_and_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nf4.py 是第 5 周的文件：autograder check 5 --file" in refused(["check", "2", "--file", "nf4.py"], capsys)
    assert f"{tmp_path} 是文件夹：请写明其中的文件" in refused(["check", "2", "--file", str(tmp_path)], capsys)


@pytest.mark.usefixtures("chinese")
def test_submit_speaks_chinese(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handin, "ROOT", tmp_path)
    assert "不存在，请用 `autograder start 2` 放回" in refused(["submit", "2"], capsys)
    folder = tmp_path / "exercises" / "week02"
    folder.mkdir(parents=True)
    (folder / "Rank1_lora.py").write_text("x = 1\n")
    assert "不存在，但有 Rank1_lora.py：请把它改名为 rank1_lora.py" in refused(["submit", "2"], capsys)
    (folder / "Rank1_lora.py").rename(folder / "rank1_lora.py")
    (folder / "notes.txt").write_text("mine\n")
    assert cli.main(["submit", "2"]) == 0
    assert "注意: notes.txt：未收入，只提交 .py 文件" in capsys.readouterr().out
    archive = tmp_path / "submissions" / "week02.zip"
    archive.with_suffix(".receipt.json").write_text(json.dumps([]))
    assert cli.main(["submit", "--verify", str(archive)]) == 2
    assert "不是回执：请删除它，或再次运行 `autograder submit 2`" in capsys.readouterr().err
    archive.write_bytes(b"no zip")
    said = refused(["submit", "--verify", str(archive), "2"], capsys)
    assert "week02.zip 无法打开（不是 zip 文件，或已损坏）：请用 `autograder submit 2` 重新生成" in said
    archive.write_bytes(handin.pack({"src/rank1_lora.py": b"", "a.py": b"", "b.py": b""}))
    said = refused(["submit", "--verify", str(archive), "2"], capsys)
    assert "缺少 rank1_lora.py：它在 src/rank1_lora.py，应放在文件夹的最上层" in said


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import nosuch\n", "没有名为 'nosuch' 的模块：rank1_lora.py 旁边没有 nosuch.py，也没有安装叫这个名字的软件包"),
        ("import sklearn\n", "第 2 周不能导入 sklearn" if "sklearn" in WEEK2.hidden_packages else "的模块"),
        ("while True:\n    pass\n", "你的代码运行 0.3 秒后仍未结束，位于 rank1_lora.py:"),
        ("import os\nos._exit(0)\n", "os._exit(0) 会终止检查你的代码的进程"),
        ("input()\n", "评分时无人应答输入：请改为用参数接收这个值"),
        ("def truncated_SVD(W, rank):\n    pass\n", "你的文件中没有了 truncated_svd：是否改名成了 truncated_SVD？"),
        ("x = 1\n", "你的文件中没有了 truncated_svd，而约定需要它：请把它放回 rank1_lora.py"),
    ],
)
@pytest.mark.usefixtures("chinese")
def test_a_page_says_it_in_chinese(source: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rank1_lora.py"
    path.write_text(source)
    assert cli.main(["check", "2.1", "--file", str(path), "--seconds", "0.3"]) == 1
    assert told in capsys.readouterr().out


# --- which language ---


@pytest.mark.usefixtures("chinese")
def test_the_language_that_is_asked_for(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is neither a week" in refused(["check", "two", "--lang", "en"], capsys)
    assert "unrecognized arguments" in refused(["check", "2", "--quick", "--lang", "en"], capsys)
    assert "are required" in refused(["check", "--lang=en"], capsys)
    monkeypatch.setenv("AUTOGRADER_LANG", "en")
    assert "既不是周次" in refused(["check", "two", "--lang", "zh"], capsys)
    assert "无法识别的参数" in refused(["check", "2", "--quick", "--lang", "zh"], capsys)
    assert "缺少参数" in refused(["check", "--lang", "zh"], capsys)
    assert "不能是 'fr'" not in refused(["check", "2", "--lang", "fr"], capsys)


@pytest.mark.usefixtures("chinese")
def test_instructors_are_told_in_english(capsys: pytest.CaptureFixture[str]) -> None:
    assert "are required" in refused(["grade"], capsys)
    assert "unrecognized arguments" in refused(["build", "--quick"], capsys)
    assert "there is no week 99" in refused(["grade", "class", "--week", "99", "--out", "results", "--lang", "zh"], capsys)


@pytest.mark.usefixtures("chinese")
@pytest.mark.parametrize(
    ("raised", "status", "told"),
    [
        (KeyboardInterrupt(), 130, "已停止；再次运行同一命令即可继续\n"),
        (MemoryError(), 2, "autograder: 内存已用完：请关闭其他程序，或每次只检查一个任务\n"),
        (ModuleNotFoundError(name="torch.nn"), 2, "autograder: 软件包 torch 没有安装到"),
    ],
)
def test_what_ends_a_command(
    raised: BaseException, status: int, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stub(*_: object) -> Path:
        raise raised

    monkeypatch.setattr(home, "stub", stub)
    assert cli.main(["check", "2.1"]) == status
    assert capsys.readouterr().err.startswith(told)


def test_a_feedback_page_is_chinese() -> None:
    result = {
        "student": "ada", "status": "graded", "score": 0, "max_score": 75, "isolation": "bwrap", "tasks": [],
        "message": "the folder is empty: rank1_lora.py is missing", "notices": ["a.py: left out, it is over 256 KiB"],
        "submission": 4 * "0123456789abcdef",
    }  # fmt: skip
    page = feedback.page(result, feedback.Words(WEEK2, "zh"))  # type: ignore[arg-type]
    assert "评分所依据文件的回执：`0123456789abcdef`。" in page
    assert "文件夹是空的：缺少 rank1_lora.py" in page and "a.py：未收入，超过 256 KiB" in page
    assert not english(page)


def test_states_have_one_chinese_word() -> None:
    assert set(learner._STATES) <= set(texts.STATUS_ZH)
