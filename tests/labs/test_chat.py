"""The chatbot of the board: the exported files compute the model, the terminal and HTTP answer, errors are one line."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from course.labs import chat, export, text
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def model():
    return text.base_model()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export.chat_folder(*model, text.template(model[1]), tmp_path_factory.mktemp("chatbot"))


@pytest.fixture
def url(folder: Path) -> Iterator[str]:
    with export.serving(chat.Chatbot(folder, "fp32", threads=1)) as address:
        yield address


def run(*arguments: object, folder: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """chat.py as on a board: the copy in the folder, without the course on the path."""
    command = [sys.executable, "chat.py", *map(str, arguments)]
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(command, cwd=folder, env=env, input=stdin, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (4, 17)])
def test_the_file_computes_the_model(model, folder: Path, shape: tuple[int, int]) -> None:
    ids = torch.randint(len(model[1]), shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = model[0](input_ids=ids).logits
    fp32, int8 = (export.runtime(folder / chat.ENGINES[engine])(ids) for engine in ("fp32", "int8"))
    assert fp32.shape == int8.shape == wanted.shape
    assert (fp32 - wanted).norm() / wanted.norm() < 1e-5
    assert 1e-4 < (int8 - wanted).norm() / wanted.norm() < 0.3  # it is another file, and near


def test_int8_is_smaller(folder: Path) -> None:
    parts = [path.stat().st_size for path in folder.glob("model.onnx*")]
    assert export.mib(folder / "model.onnx") * 2**20 == pytest.approx(sum(parts))
    assert export.mib(folder / "model.int8.onnx") < 0.4 * export.mib(folder / "model.onnx")


def test_what_is_in_the_file(model, folder: Path) -> None:
    layers = sum(isinstance(module, torch.nn.Linear) for module in model[0].modules())
    assert export.nodes(folder / "model.onnx")["MatMul"] >= layers
    head = 1  # its matrix is the embedding's, and stays as it is
    assert export.nodes(folder / "model.int8.onnx")["MatMulInteger"] == layers - head


@pytest.mark.parametrize("engine", ["fp32", "torch"])
def test_replies_are_those_of_generate(model, folder: Path, engine: str) -> None:
    bot = chat.Chatbot(folder, engine, threads=1)
    prompts = [item.prompt for task in ("capital", "greeting", "add", "reverse") for item in text.examples(task, 3, part="test")]
    assert [bot.reply(prompt).text for prompt in prompts] == text.replies(*model, prompts)
    talks = [talk for talk in text.dialogues(8) if len(talk) == 4]  # two turns, no system message
    said = [bot.reply(now["content"], [(asked["content"], told["content"])]).text for asked, told, now, _ in talks]
    assert said and said == text.replies(*model, [talk[:-1] for talk in talks])


def test_a_reply_has_no_more_tokens_than_asked(folder: Path) -> None:
    reply = chat.Chatbot(folder, "fp32").reply("repeat the words.\ncat dog sun car", max_new_tokens=2)
    assert (reply.tokens, reply.text) == (2, "cat dog")


def test_the_terminal_needs_nothing_of_the_course(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "transformers.py").write_text("raise ImportError('not on a board')")
    (tmp_path / "torch.py").write_text("raise ImportError('not on a board')")
    board = shutil.copytree(folder, tmp_path / "chatbot")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "chat.py", "--model", ".", "--engine", "fp32"]
    stdin = "hello, i am Ann.\nthe capital of France is\n\n"
    done = subprocess.run(command, cwd=board, env=env, input=stdin, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "hello, Ann!" in done.stdout and "Paris" in done.stdout


def test_http_answers_a_request(url: str, folder: Path) -> None:
    answer = export.post(f"{url}/chat", {"message": "the capital of France is", "history": [["hello, i am Ann.", "hello, Ann!"]]})
    assert answer["reply"] == "Paris" and answer["tokens"] == 2 and answer["seconds"] > 0


def test_the_command_serves_a_page(folder: Path) -> None:
    command = [sys.executable, "-m", "course.labs.chat", "--model", str(folder), "--http", "0", "--threads", "1"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split("/")[2]
            connection = http.client.HTTPConnection(address, timeout=30)
            connection.request("GET", "/")
            page = connection.getresponse()
            assert page.status == 200 and b"<form" in page.read()
            connection.request("POST", "/chat", json.dumps({"message": "add 2 and 3."}))
            assert json.loads(connection.getresponse().read())["tokens"] > 0
        finally:
            server.terminate()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("POST", "/chat", "{", 400, "send JSON"),
        ("POST", "/chat", "[]", 400, "send JSON"),
        ("POST", "/chat", '{"text": "hello"}', 400, "send JSON"),
        ("POST", "/chat", "[" * 60000, 400, "send JSON"),
        ("POST", "/chat", '{"message": 3}', 400, '"message" is a text'),
        ("POST", "/chat", '{"message": "a", "history": [["b"]]}', 400, "history"),
        ("POST", "/chat", '{"message": "a", "history": {"b": "c"}}', 400, "history"),
        ("POST", "/chat", "", 400, "body of at most"),
        ("POST", "/chat", json.dumps({"message": "cat " * 20000}), 400, "body of at most"),
        ("POST", "/chat", json.dumps({"message": "cat " * 400}), 400, "begin a new one"),
        ("POST", "/else", "{}", 404, "POST /chat"),
        ("GET", "/else", None, 404, "POST /chat"),
    ],
)  # fmt: skip
def test_http_refuses_in_one_line(url: str, method: str, path: str, body: str | None, status: int, said: str) -> None:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    connection.request(method, path, body)
    answer = connection.getresponse()
    error = json.loads(answer.read())["error"]
    assert answer.status == status and said in error and "\n" not in error


def test_two_servers_do_not_share_a_port(url: str, folder: Path) -> None:
    done = run("--model", ".", "--http", url.rsplit(":", 1)[1], folder=folder)
    assert done.returncode == 2 and "choose another with --http" in done.stderr and done.stderr.count("\n") == 1


def test_what_is_missing_or_damaged_is_one_line(folder: Path, tmp_path: Path) -> None:
    cases: dict[str, str] = {"no chat.json": "has no chat.json"}
    shutil.copytree(folder, tmp_path / "no chat.json")
    (tmp_path / "no chat.json" / "chat.json").unlink()
    for name, content in (("model.int8.onnx", b"\x00" * 64), ("tokenizer.json", b"{}"), ("chat.json", b"[1]")):
        shutil.copytree(folder, tmp_path / name)
        (tmp_path / name / name).write_bytes(content)
        cases[name] = "cannot be loaded" if name.endswith("onnx") else "is damaged"
    cases["nowhere"] = "has no chat.json"
    for name, said in cases.items():
        done = run("--model", tmp_path / name, folder=folder)
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1, (name, done.stderr)


def test_the_measurement_is_of_its_own_process(folder: Path) -> None:
    ballast = torch.ones(2**28 // 4)  # 256 MiB here, which are not the chatbot's
    measured = export.measure(folder, "int8", tokens=8)
    assert measured["tokens_per_second"] > 0 and 20 < measured["peak_mib"] < 256, ballast.shape
    done = run("--model", ".", "--bench", "100000", folder=folder)
    assert done.returncode == 2 and "choose fewer" in done.stderr


def test_a_measurement_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(export.LabStop, match=r"has no chat\.json"):
        export.measure(tmp_path, "int8", tokens=8)
