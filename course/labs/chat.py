"""A chatbot on a small device: one file, which needs onnxruntime, tokenizers and numpy, and nothing else of the course.

python -m course.labs.chat --model DIR                in the terminal (on a board, with this file alone: python chat.py)
python -m course.labs.chat --model DIR --http 8000    a page in the browser, and JSON: POST /chat {"message": "hello"}
python -m course.labs.chat --model DIR --bench 64     how fast and how large: one line of JSON

DIR holds model.onnx or model.int8.onnx, tokenizer.json and chat.json, as `course.labs.export.chat_folder` writes them. Decoding
is greedy, and every step runs the model over all tokens so far: there is no cache of keys and values.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ENGINES = {"int8": "model.int8.onnx", "fp32": "model.onnx", "torch": "model.safetensors"}
MAX_BYTES = 1 << 16  # of an HTTP request

Logits = Callable[[Sequence[int]], Any]


class ChatError(Exception):
    """The text is one line that says what to do."""


@dataclass(frozen=True)
class Reply:
    """What the model said.

    Attributes:
        text: without the token that ends it.
        tokens: how many were chosen, the one that ends it included.
        seconds: wall clock.
    """

    text: str
    tokens: int
    seconds: float

    @property
    def speed(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


class Chatbot:
    """A model, its tokenizer and its template, from a folder.

    Attributes:
        template: one turn up to where the reply begins, with "{message}" in it.
        context: most tokens that the model takes.
    """

    def __init__(self, folder: Path | str, engine: str = "int8", threads: int = 0) -> None:
        """
        Args:
            engine: a key of ENGINES.
            threads: of the engine; 0 lets it choose.

        Raises:
            ChatError: if a package or a file is missing, or a file is damaged.
        """
        folder = Path(folder)
        for name in ("chat.json", "tokenizer.json", ENGINES[engine]):
            if not (folder / name).is_file():
                raise ChatError(f"{folder} has no {name}: copy the folder that week 8's notebook writes, build/chatbot")
        try:
            from tokenizers import Tokenizer

            self._step = _torch(folder, threads) if engine == "torch" else _onnx(folder / ENGINES[engine], threads)
        except ImportError as error:
            raise ChatError(f"{error.name} is missing: run `pip install {error.name}`") from None
        except Exception as error:  # onnxruntime's errors have no class of their own to name here
            raise ChatError(f"{folder / ENGINES[engine]} cannot be loaded: {_line(error)}") from None
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            settings = json.loads((folder / "chat.json").read_text(encoding="utf-8"))
            self.template, self.context = str(settings["template"]), int(settings["context"])
            self._eos = int(settings["eos_id"])
        except Exception as error:  # tokenizers raises Exception itself
            raise ChatError(f"{folder} is damaged: {_line(error)}") from None

    def reply(self, message: str, history: Sequence[Sequence[str]] = (), max_new_tokens: int = 32) -> Reply:
        """The reply to a message after earlier turns (message, reply), oldest first.

        Raises:
            ChatError: if the conversation leaves no room in the model's context.
        """
        seen: list[int] = []
        for said, replied in history:
            seen += self._encode(self.template.replace("{message}", said)) + self._encode(replied) + [self._eos]
        seen += self._encode(self.template.replace("{message}", message))
        if len(seen) + max_new_tokens > self.context:
            raise ChatError(f"the conversation has {len(seen)} tokens and the model takes {self.context}: begin a new one")
        start = time.perf_counter()
        chosen = self._continue(seen, max_new_tokens, stop=self._eos)
        seconds = time.perf_counter() - start
        return Reply(self._tokenizer.decode([token for token in chosen if token != self._eos]), len(chosen), seconds)

    def bench(self, tokens: int = 64) -> dict[str, float]:
        """Tokens per second over `tokens` tokens, whatever they are, and the peak resident memory of the process, MiB.

        Raises:
            ChatError: if the model takes fewer tokens.
        """
        prompt = self._encode(self.template.replace("{message}", "hello"))
        if len(prompt) + tokens > self.context:
            raise ChatError(f"the model takes {self.context} tokens: choose fewer than {tokens}")
        self._continue(prompt, 4, stop=None)  # the first calls set things up
        start = time.perf_counter()
        self._continue(prompt, tokens, stop=None)
        return {"tokens_per_second": tokens / (time.perf_counter() - start), "peak_mib": _peak()}

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _continue(self, seen: Sequence[int], most: int, stop: int | None) -> list[int]:
        chosen: list[int] = []
        while len(chosen) < most and (not chosen or chosen[-1] != stop):
            chosen.append(int(self._step([*seen, *chosen]).argmax()))
        return chosen


def _peak() -> float:
    """Peak resident memory of this process, MiB."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS counts bytes
    # Not ru_maxrss: on Linux a process inherits that from the one that started it.
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 2**10


def _onnx(path: Path, threads: int) -> Logits:
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda ids: session.run(["logits"], {"ids": np.array([ids], dtype=np.int64)})[0][0, -1]


def _torch(folder: Path, threads: int) -> Logits:
    import torch
    from transformers import AutoModelForCausalLM

    if threads:
        torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def step(ids: Sequence[int]) -> Any:
        with torch.inference_mode():
            return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]

    return step


def terminal(bot: Chatbot, max_new_tokens: int) -> None:
    """Chat until an empty line or the end of the input."""
    print("Say something; an empty line ends the conversation.")
    history: list[tuple[str, str]] = []
    while True:
        try:
            message = input("you> ").strip()
        except EOFError:
            message = ""
        if not message:
            return
        try:
            reply = bot.reply(message, history, max_new_tokens)
        except ChatError as problem:
            print(problem)
            history.clear()
            continue
        history.append((message, reply.text))
        print(f"bot> {reply.text}    ({reply.tokens} tokens, {reply.speed:.0f} a second)")


PAGE = """<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Chatbot</title>
<style>body{font:1rem sans-serif;max-width:40rem;margin:1rem auto;padding:0 1rem}input{width:75%;font:inherit}</style>
<div id="log" aria-live="polite"></div>
<form><label>Message <input autofocus></label> <button>Send</button></form>
<script>
const history_ = [], log = document.getElementById("log"), field = document.querySelector("input")
const say = text => log.appendChild(document.createElement("p")).textContent = text
document.querySelector("form").onsubmit = async event => {
  event.preventDefault()
  const message = field.value.trim()
  if (!message) return
  field.value = ""
  say("you: " + message)
  const answer = await fetch("chat", {method: "POST", body: JSON.stringify({message, history: history_})})
  const data = await answer.json()
  if (answer.ok) history_.push([message, data.reply])
  say(answer.ok ? "bot: " + data.reply : data.error)
}
</script>
"""


def server(bot: Chatbot, port: int, host: str = "127.0.0.1", max_new_tokens: int = 32) -> ThreadingHTTPServer:
    """A server that answers GET / with a page and POST /chat with JSON; call its `serve_forever`.

    A request is {"message": text} and may have "history": [[message, reply], ...]; the server keeps nothing between requests. The
    answer is {"reply", "tokens", "seconds"}, or {"error"} with the status 400.

    Args:
        port: 0 takes a free one, see `server_port` of the result.
        host: "0.0.0.0" lets other machines in; there is no password and no encryption.

    Raises:
        ChatError: if the port cannot be had.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = 30

        def do_GET(self) -> None:
            if self.path == "/":
                self._send(200, PAGE.encode(), "text/html; charset=utf-8")
            else:
                self._json(404, {"error": "there are GET / and POST /chat"})

        def do_POST(self) -> None:
            if self.path != "/chat":
                self._json(404, {"error": "there are GET / and POST /chat"})
                return
            try:
                message, history = _request(self.rfile.read(self._length()))
                reply = bot.reply(message, history, max_new_tokens)
            except ChatError as problem:
                self._json(400, {"error": str(problem)})
            else:
                self._json(200, {"reply": reply.text, "tokens": reply.tokens, "seconds": reply.seconds})

        def _length(self) -> int:
            text = self.headers.get("Content-Length") or ""
            if not text.isascii() or not text.isdigit() or not 0 < int(text[:9]) <= MAX_BYTES or len(text) > 9:
                raise ChatError(f"a request has a body of at most {MAX_BYTES} bytes")
            return int(text)

        def _json(self, status: int, data: dict[str, Any]) -> None:
            self._send(status, json.dumps(data, ensure_ascii=False).encode(), "application/json")

        def _send(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # one line a request is for busier servers
            pass

    try:
        return ThreadingHTTPServer((host, port), Handler)
    except (OSError, OverflowError) as error:
        raise ChatError(f"port {port} cannot be had ({_line(error)}): choose another with --http") from None


def _request(body: bytes) -> tuple[str, list[list[str]]]:
    """The message and the history of a request.

    Raises:
        ChatError: if it is something else.
    """
    try:
        data = json.loads(body)
        message, history = data["message"], data.get("history", [])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ChatError('send JSON such as {"message": "hello"}') from None
    turns = isinstance(history, list) and all(isinstance(turn, list) and len(turn) == 2 for turn in history)
    if not isinstance(message, str) or not turns or not all(isinstance(text, str) for turn in history for text in turn):
        raise ChatError('"message" is a text and "history" a list of [message, reply]')
    return message, history


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("chat", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="folder that week 8's notebook writes")
    parser.add_argument("--engine", choices=tuple(ENGINES), default="int8", help="which of the folder's models (default int8)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of the engine (default: it chooses)")
    parser.add_argument("--tokens", type=int, default=32, metavar="N", help="longest reply (default 32)")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--http", type=int, metavar="PORT", help="serve a page and JSON instead of the terminal")
    mode.add_argument("--bench", type=int, metavar="N", help="print tokens per second over N tokens, and memory")
    parser.add_argument("--host", default="127.0.0.1", help="with --http: 0.0.0.0 lets other machines in (no password)")
    arguments = parser.parse_args(argv)
    try:
        bot = Chatbot(arguments.model, arguments.engine, arguments.threads)
        if arguments.bench:
            print(json.dumps(bot.bench(arguments.bench)))
        elif arguments.http is not None:
            web = server(bot, arguments.http, arguments.host, arguments.tokens)
            print(f"http://{arguments.host}:{web.server_port}/ (Ctrl-C ends)", flush=True)
            web.serve_forever()
        else:
            terminal(bot, arguments.tokens)
    except ChatError as problem:
        print(f"chat: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
