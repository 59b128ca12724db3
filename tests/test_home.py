"""At home, too, a package that would do the exercise cannot be imported; code that runs on, or ends the process, is told of."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autograder import cli
from autograder.judge.runner import reference_stub
from autograder.manifest import Week, load
from autograder.student import common, guard, home
from tests.conftest import NIGHTLY, ROOT

WEEK2 = load().week(2)
REFERENCE = (ROOT / "solutions" / "week02" / WEEK2.stub).read_text(encoding="utf-8")
RIGHT = "import numpy as np\n\n\ndef truncated_svd(W, rank):\n"
LAZY = "class LoRALinear:\n    def __init__(self, *args, **kwargs):\n        import peft\n"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_hidden_packages_come_back(week: Week) -> None:
    assert "loralib" in week.hidden_packages
    with home.hidden_packages(week):
        for name in ("loralib", "loralib.layers"):
            with pytest.raises(ModuleNotFoundError, match=r"import of loralib halted|'loralib' is not a package"):
                __import__(name)
        import json.tool  # noqa: F401
    with pytest.raises(ModuleNotFoundError, match="No module named 'loralib'"):
        __import__("loralib")


def test_a_library_may_ask_for_a_hidden_package() -> None:
    """torch's compiler, which its optimizers load, asks for packages that a week hides: for it they are not there."""
    script = (
        "import importlib.util\nfrom autograder.student import home\nfrom autograder.manifest import load\n"
        "week = next(week for week in load().weeks if 'sklearn' in week.hidden_packages and 'torch' in week.preload)\n"
        "with home.hidden_packages(week):\n    home.preload(week)\n    import torch._dynamo\n"
        "    assert importlib.util.find_spec('sklearn') is None\n"
    )
    subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT, cwd=ROOT, check=True)


def test_check_says_so(tmp_path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == "peft"]:
        monkeypatch.delitem(sys.modules, name)  # another test may have imported it
    stub = tmp_path / "lora_linear.py"
    for source in ("import peft\n", LAZY):
        stub.write_text(source)
        assert cli.main(["check", "4.1", "--file", str(stub)]) == 1
        said = capsys.readouterr().out
        assert "peft cannot be imported in week 4" in said and "0 of 25 points" in said


@pytest.mark.parametrize("week", [w for w in load().weeks if w.tasks and (NIGHTLY or w.number == 6)], ids=lambda w: w.folder)
def test_the_reference_passes_in_a_process_of_its_own(week: Week) -> None:
    """As a student's does: here other tests have imported much that a week hides."""
    words = [sys.executable, "-m", "autograder", "check", str(week.number), "--file", str(reference_stub(week))]
    done = subprocess.run(words, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") and "FAIL" not in done.stdout


def test_what_a_user_sets_for_pytest_is_not_for_the_checks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "-n 4 --no-such-option")
    monkeypatch.setenv("PYTEST_PLUGINS", "no_such_plugin")
    status, said, _ = check(tmp_path, REFERENCE, capsys=capsys)
    assert status == 0 and "15 of 15 points" in said
    assert os.environ["PYTEST_ADDOPTS"] == "-n 4 --no-such-option"


def check(folder: Path, source: str, *options: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Write the stub of week 2 and check its first task; returns the status and what was printed."""
    folder.mkdir(exist_ok=True)
    stub = folder / WEEK2.stub
    stub.write_text(source, encoding="utf-8")
    status = cli.main(["check", "2.1", "--file", str(stub), *options])
    said = capsys.readouterr()
    return status, said.out, said.err


BODIES = {
    "plain": "    while True:\n        pass\n",
    "sleeping": "    import time\n    time.sleep(5)\n",
    "bare except": "    import time\n    while True:\n        try: time.sleep(0.01)\n        except:\n            pass\n",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("timer", ["signal", "thread"])
def test_a_loop_without_end_is_interrupted_and_its_line_told(
    tmp_path: Path, body: str, timer: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if timer == "thread":  # as on Windows
        monkeypatch.delattr(signal, "setitimer")
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGALRM)
    status, out, _ = check(tmp_path, RIGHT + body, "--seconds", "0.3", capsys=capsys)
    assert status == 1 and "2.1  truncated_svd: the best approximation of a given rank: timeout" in out
    assert "your code was still running after 0.3 s, at rank1_lora.py:" in out
    assert "not run: the task's time was used up" in out
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGALRM)) == handlers and sys.gettrace() is None


def test_a_loop_at_import_is_interrupted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = check(tmp_path, "n = 0\nwhile True:\n    n += 1\n", "--seconds", "0.3", capsys=capsys)
    assert status == 1 and "importing your file: your code was still running after 0.3 s, at rank1_lora.py:" in out


def test_code_that_catches_every_interruption_ends_the_command(tmp_path: Path) -> None:
    loop = "while True:\n        try:\n            while True:\n                try:\n                    time.sleep(0.01)\n"
    loop += "                except BaseException: time.sleep(0)\n        except BaseException: time.sleep(0)\n"
    (tmp_path / WEEK2.stub).write_text(f"import time\n\n\ndef truncated_svd(W, rank):\n    {loop}")
    program = "import sys; from autograder import cli; from autograder.student import guard; "
    program += "guard._AGAIN = 0.02; sys.exit(cli.main(sys.argv[1:]))"
    words = [sys.executable, "-c", program, "check", "2.1", "--file", str(tmp_path / WEEK2.stub), "--seconds", "0.2"]
    done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1 and "your code catches every interruption, at rank1_lora.py:" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_limit_may_be_lifted_and_must_be_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow = "import time\n\ntime.sleep(0.5)\n"
    assert "still running" in check(tmp_path, slow, "--seconds", "0.1", capsys=capsys)[1]
    assert "still running" not in check(tmp_path, slow, "--seconds", "0", capsys=capsys)[1]
    status, _, err = check(tmp_path, slow, "--seconds", "-1", capsys=capsys)
    assert status == 2 and "--seconds is a number of seconds" in err


@pytest.mark.parametrize("call", ["breakpoint()", "import pdb; pdb.set_trace()"])
def test_a_debugger_stops_at_the_students_line_and_lifts_the_limit(tmp_path: Path, call: str) -> None:
    (tmp_path / WEEK2.stub).write_text(f"import time\nx = 41\n{call}\ntime.sleep(0.6)\ny = 1\n")
    words = [sys.executable, "-m", "autograder", "check", "2.1", "--file", str(tmp_path / WEEK2.stub), "--seconds", "0.2"]
    said = "p x + 1\nc\n"
    done = subprocess.run(words, env=ENVIRONMENT, input=said, capture_output=True, text=True, check=False, timeout=120)
    assert "rank1_lora.py(" in done.stdout and "\n(Pdb) 42\n" in done.stdout, done.stdout + done.stderr
    assert "-> time.sleep(0.6)" in done.stdout and "still running" not in done.stdout


@pytest.mark.parametrize("catches", [False, True])
def test_ctrl_c_inside_student_code_is_one_line(tmp_path: Path, catches: bool) -> None:
    body = "    try:\n        time.sleep(60)\n    except:\n        pass\n" if catches else "    time.sleep(60)\n"
    (tmp_path / WEEK2.stub).write_text(f"import time\n\n\ndef truncated_svd(W, rank):\n    print('here', flush=True)\n{body}")
    words = [sys.executable, "-m", "autograder", "check", "2.1", "--file", str(tmp_path / WEEK2.stub)]
    process = subprocess.Popen(words, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "here\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err == "stopped; run the same command again to go on\n"


def test_code_that_raises_keyboardinterrupt_itself_is_answered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = check(tmp_path, "raise KeyboardInterrupt\n", capsys=capsys)
    assert status == 1 and "importing your file raised KeyboardInterrupt" in out


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (RIGHT + "    return input('rank? ')\n", "raised EOFError: nobody answers where your code is marked"),
        (RIGHT + "    raise SystemExit(3)\n", "raised SystemExit: 3"),
        ("import os\n" + RIGHT + "    os._exit(0)\n", "raised SystemExit: os._exit(0) would end the process"),
        ("from os import _exit\n_exit(0)\n", "importing your file raised SystemExit: os._exit(0) would end the process"),
        (RIGHT + "    return truncated_svd(W, rank)\n", "raised RecursionError: maximum recursion depth exceeded"),
        (RIGHT + "    raise MemoryError\n", "raised MemoryError"),
        (RIGHT + "    return [0] * (1 << 60)\n", "raised MemoryError"),
        ("import helpers\n", "no helpers.py lies beside rank1_lora.py, and no installed package is called that"),
        ("from autograder_nowhere.x import y\n", "No module named 'autograder_nowhere'"),
        (REFERENCE.replace("truncated_svd", "truncated_SVD"), "gone from your file: was it renamed to truncated_SVD?"),
        (REFERENCE.replace("truncated_svd", "tsvd"), "truncated_svd is gone from your file, and the contract needs it"),
    ],
)  # fmt: skip
def test_what_goes_wrong_in_the_code_is_one_line(
    tmp_path: Path, source: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = check(tmp_path, source, capsys=capsys)
    assert status == 1 and "0 of 15 points" in out and said in out, out + err
    assert "Traceback" not in out + err
    assert (
        os._exit.__module__ == "posix"
        and not hasattr(input, "__wrapped__")
        and type(input).__name__ == ("builtin_function_or_method")
    )


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "rank1_lora.py is empty"),
        (b"\n \n", "rank1_lora.py is empty"),
        ("# café\n".encode("latin-1"), "rank1_lora.py is not UTF-8 text (byte 5); save it as UTF-8"),
        (b"x = 1\0\n", "rank1_lora.py is not a Python file (it holds binary data)"),
        (b"x = 1\nprint(x\n", "rank1_lora.py, line 2: '(' was never closed\n    print(x\n         ^\n"),
        ("名字 = f（1)\n".encode(), "line 1: invalid character '（' (U+FF08)\n    名字 = f（1)\n            ^\n"),
        (
            b"def f():\nreturn 1\n",
            "line 2: expected an indented block after function definition on line 1\n    return 1\n    ^\n",
        ),
        (b"(" * 300, "rank1_lora.py, line 1: too many nested parentheses"),
    ],
)
def test_a_file_that_is_no_python_is_told_before_anything_runs(
    tmp_path: Path, data: bytes, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stub = tmp_path / WEEK2.stub
    stub.write_bytes(data)
    assert cli.main(["check", "2", "--file", str(stub)]) == 2
    found = capsys.readouterr()
    assert said in found.err and "Traceback" not in found.err and not found.out


@pytest.mark.parametrize("name", ["torch.py", "numpy.py", "random.py", "scipy/__init__.py"])
def test_a_file_that_hides_a_package_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / WEEK2.stub).write_text(REFERENCE)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("raise SystemError('the wrong file')\n")
    for cwd, stub in ((ROOT, tmp_path / WEEK2.stub), (tmp_path, ROOT / "solutions" / "week02" / WEEK2.stub)):
        words = [sys.executable, "-m", "autograder", "check", "2.1", "--file", str(stub)]
        done = subprocess.run(words, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=120)
        package = name.partition("/")[0].removesuffix(".py")
        assert done.returncode == 2 and f"hides the package {package}, which your code" in done.stderr, done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_helper_called_test_hides_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "test.py").write_text("")
    assert check(tmp_path, REFERENCE, capsys=capsys)[0] == 0


@pytest.mark.parametrize(
    "name", ["lora_linear (1).py", "lora_linear_final.py", "LoRA_linear.py", "lora_linaer.py", "lora_linear2.py"]
)
def test_a_renamed_file_is_recognised(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).write_text("x = 1\n")
    (tmp_path / "helpers.py").write_text("x = 1\n")
    assert cli.main(["check", "4", "--file", str(tmp_path / "lora_linear.py")]) == 2
    assert f"lora_linear.py is not there, but {name} is: rename it to lora_linear.py" in capsys.readouterr().err
    (tmp_path / name).unlink()
    assert cli.main(["check", "4", "--file", str(tmp_path / "lora_linear.py")]) == 2
    assert "is not there: pass --file PATH, or get the stub back" in capsys.readouterr().err


def test_the_file_of_another_week_and_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "4", "--file", str(ROOT / "exercises/week05/nf4.py")]) == 2
    assert "nf4.py is the file of week 5: autograder check 5 --file" in capsys.readouterr().err
    assert cli.main(["check", "4", "--file", str(tmp_path)]) == 2
    assert f"{tmp_path} is a folder: name the file in it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "wanted"),
    [(text, None) for text in ("4", "04", "week04", "week4", "Week04")] + [(t, "4.2") for t in ("4.2", "04.2", "week04.02")],
)
def test_ways_to_write_a_week_or_task(text: str, wanted: str | None) -> None:
    week, tasks = common.what(load(), text)
    assert week.number == 4 and [t.id for t in tasks] == ([wanted] if wanted else [t.id for t in week.tasks])


@pytest.mark.parametrize("text", ["4.2.", "4.", ".4", "four", "4,2", "-4", "４", "", "exercises/week04", "004"])
def test_other_ways_are_refused_in_one_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "--", text]) == 2
    said = capsys.readouterr().err
    assert f'"{text}" is neither a week, such as 4, nor a task, such as 4.2' in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("package", ["numpy", "pytest", "torch"])
def test_a_missing_package_is_named_with_the_remedy(tmp_path: Path, package: str) -> None:
    hide = (
        "import sys\nclass Hide:\n    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] == {package!r}:\n"
        f"            raise ModuleNotFoundError(\"No module named '{package}'\", name=name)\n"
        "sys.meta_path.insert(0, Hide())\nfrom autograder.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", hide, "check", "4.1", "--file", str(ROOT / "solutions/week04/lora_linear.py")]
    done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2 and f"the package {package} is not installed for {sys.executable}: " in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_guard_puts_everything_back(tmp_path: Path) -> None:
    before = (input, os._exit, signal.getsignal(signal.SIGINT), sys.gettrace())
    with guard.Guard(tmp_path, 5), pytest.raises(EOFError):
        input()
    assert before == (input, os._exit, signal.getsignal(signal.SIGINT), sys.gettrace())
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
