"""From a PyTorch language model to files that a small device or a GPU server runs: ONNX, int8, TensorRT."""

from __future__ import annotations

import copy
import json
import logging
import shutil
import subprocess
import sys
import threading
import urllib.request
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from course.labs import chat
from course.labs.core import ROOT, LabStop, say


class _Logits(nn.Module):
    """What goes into the file: ids in, logits out, without a cache."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=ids, use_cache=False).logits
        return logits


def build(name: str) -> Path:
    """The folder build/<name> of the course, made anew and empty."""
    folder = ROOT / "build" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def chat_folder(model: Any, tokenizer: Any, template: str, folder: Path) -> Path:
    """Write what `course.labs.chat` runs: the model for PyTorch, as ONNX in float32 and in int8, tokenizer, template, chat.py.

    Args:
        model: a causal model of transformers without LoRA layers (merged); it stays as it is.
        tokenizer: of transformers, a fast one.
        template: one turn up to where the reply begins, with "{message}" in it.
        folder: where the files go.

    Returns:
        The folder.
    """
    plain = copy.deepcopy(model).float().cpu().eval()
    plain.save_pretrained(folder)
    to_onnx(plain, folder / "model.onnx")
    quantise(folder / "model.onnx", folder / "model.int8.onnx")
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"template": template, "eos_id": tokenizer.eos_token_id, "context": model.config.max_position_embeddings}
    (folder / "chat.json").write_text(json.dumps(settings) + "\n", encoding="utf-8")
    shutil.copy(Path(chat.__file__), folder / "chat.py")
    return folder


def to_onnx(model: nn.Module, path: Path) -> None:
    """A causal model as ONNX: input "ids", int64, any (batch, length); output "logits", (batch, length, vocabulary).

    Args:
        model: float32 on the CPU, in evaluation mode, merged.
    """
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    with quiet():
        program = torch.onnx.export(
            _Logits(model).eval(),
            (torch.zeros(2, 6, dtype=torch.int64),),
            input_names=["ids"],
            output_names=["logits"],
            dynamic_shapes=({0: batch, 1: length},),
            dynamo=True,
        )
        assert program is not None
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # where each node comes from in Python, half a megabyte of it
        program.save(str(path))


def quantise(path: Path, target: Path) -> None:
    """Weights of matrix products in 8 bits, symmetric with one scale for each column; inputs are quantised as they come.

    What `onnxruntime.quantization.quantize_dynamic` does. Embeddings that are looked up (Gather) become 8-bit as well.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet():
        quantize_dynamic(str(path), str(target), weight_type=QuantType.QInt8, per_channel=True)
    model = onnx.load(str(target), load_external_data=False)
    for node in model.graph.node:
        node.ClearField("metadata_props")  # where a node comes from in Python
    onnx.save(model, str(target))


def runtime(path: Path, threads: int = 1) -> Callable[[Tensor], Tensor]:
    """An ONNX file with one input and one output as a function of a tensor, in onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def measure(folder: Path, engine: str, tokens: int) -> dict[str, float]:
    """Tokens per second and peak memory of `course.labs.chat` with one thread, in a process of its own.

    Returns:
        {"tokens_per_second", "peak_mib"}; the memory is of the whole process, packages included.

    Raises:
        LabStop: if the process fails.
    """
    command = [sys.executable, "-m", "course.labs.chat", "--model", str(folder), "--engine", engine]
    command += ["--threads", "1", "--bench", str(tokens)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabStop((done.stderr.strip().splitlines() or ["the measurement ended without a word"])[-1])
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def nodes(path: Path) -> Counter[str]:
    """How many nodes of each kind an ONNX file has."""
    import onnx

    return Counter(node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node)


def mib(*paths: Path) -> float:
    """Size of files, with the data that ONNX keeps beside a file of the same name."""
    beside = [path.with_name(path.name + ".data") for path in paths]
    return sum(path.stat().st_size for path in [*paths, *beside] if path.is_file()) / 2**20


def tensorrt_command(name: str, shapes: Mapping[str, tuple[str, str, str]]) -> list[str]:
    """What builds a TensorRT engine in half precision from an ONNX file, up to TensorRT 10: 11 takes the types of the file.

    Args:
        name: of the file, in the folder where the command runs.
        shapes: for each input the smallest, the usual and the largest shape, such as ("1x16", "8x16", "64x16").
    """
    ranges = [
        f"--{kind}Shapes=" + ",".join(f"{name}:{sizes[place]}" for name, sizes in shapes.items())
        for place, kind in enumerate(("min", "opt", "max"))
    ]
    return ["trtexec", f"--onnx={name}", "--fp16", *ranges, f"--saveEngine={Path(name).stem}.plan"]


def run_tensorrt(command: list[str], folder: Path) -> str:
    """Run the command in a folder, where there is a GPU and `trtexec`; the line with its throughput, or what is missing."""
    if shutil.which(command[0]) is None or not torch.cuda.is_available():
        return say(
            "Not run: this needs an NVIDIA GPU and TensorRT's trtexec.", "未运行：需要 NVIDIA GPU 和 TensorRT 的 trtexec。"
        )
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    telling = "[E]" if done.returncode else "Throughput"
    lines = [line for line in (done.stdout + done.stderr).splitlines() if telling in line]
    return lines[-1] if lines else f"trtexec: {done.returncode}"


@contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters print, warn and log of things that do not matter here."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def serving(bot: chat.Chatbot) -> Iterator[str]:
    """The chatbot's HTTP server on a free port of this machine, while the block lasts; its address.

    Raises:
        LabStop: if this machine allows no port.
    """
    try:
        web = chat.server(bot, 0)
    except chat.ChatError as problem:
        raise LabStop(str(problem)) from None
    thread = threading.Thread(target=web.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{web.server_port}"
    finally:
        web.shutdown()
        web.server_close()
        thread.join()


def post(url: str, data: Any) -> Any:
    """What a server answers, as JSON, to a POST of JSON."""
    request = urllib.request.Request(url, json.dumps(data).encode(), {"Content-Type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
        return json.load(answer)
