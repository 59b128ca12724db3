"""Builders and probes of week 11: a network to export, and what an ONNX file of it computes."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from autograder.inside.registry import builder, probe


class Block(nn.Module):
    """A layer inside a module that is no Sequential, in a dict of layers."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"proj": layer})

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layers["proj"](x)
        return result


class Head(nn.Module):
    """A network that is not a chain: a projection skips over the layers before it."""

    def __init__(self, cls: type[nn.Module], width: int) -> None:
        super().__init__()
        self.stem = cls(nn.Linear(width, width + 2), rank=2, alpha=3.0, dropout=0.4)
        last = cls(nn.Linear(width + 2, width + 1, bias=False), 3, 12.0)
        self.inner = nn.Sequential(nn.Tanh(), nn.Dropout(0.3), Block(last))
        self.skip = nn.Linear(width, width + 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(self.stem(x)) + torch.tanh(self.skip(x))
        return result


@builder
def network(cls: type[nn.Module], seed: int, width: int) -> nn.Module:
    """A float32 network with two LoRA layers of class `cls`, a plain one and dropout; all in training but its last layer."""
    model = Head(cls, width)
    rng = np.random.Generator(np.random.PCG64(seed))
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            parameter.copy_(torch.from_numpy(0.5 * rng.standard_normal(tuple(parameter.shape))))
    model.skip.eval()
    return model


@builder
def generator(seed: int) -> torch.Generator:
    """A source of random numbers in a known state."""
    return torch.Generator().manual_seed(seed)


@builder
def table(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """A dict that stays in the worker, so that a check can look into it later."""
    return values


@builder
def updates(table: dict[str, Tensor], turned: bool = False) -> list[Tensor]:
    """The very tensors of a table, in a list; or such with the same entries whose first two sizes are strides exchanged."""
    return [t.transpose(0, 1).contiguous().transpose(0, 1) if turned else t for t in table.values()]


@builder
def adapters(cls: Callable[..., Any], items: list[dict[str, list[Any]]]) -> list[dict[str, Any]]:
    """For each adapter a `cls` of lora_A, lora_B and alpha for each of its names."""
    return [{name: cls(*parts) for name, parts in item.items()} for item in items]


@probe
def keys(table: Mapping[str, Any]) -> list[str]:
    return sorted(table)


@probe
def entry(table: Mapping[str, Any], name: str) -> Any:
    return table[name]


@probe
def shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)


@probe
def exported(export: Callable[..., Any], model: nn.Module, example: Tensor, inputs: list[Tensor]) -> dict[str, Any]:
    """What a model's ONNX file has and gives, and what became of the model.

    Returns:
        written: whether there is a file; runs: whether onnxruntime loads it; inputs, outputs: names; products: how many
        nodes multiply matrices; dropouts: how many drop; given: the file's output for each of `inputs`, None where it is
        refused; and the model's `state` afterwards.
    """
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        quiet = io.StringIO()
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # its handler holds the real stderr
        tqdm.monitor_interval = 0  # the exporter's progress needs no thread
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            export(model, example, str(path))
        found = _of_file(path, inputs)
    return {**found, **state(model)}


@probe
def state(model: nn.Module) -> dict[str, Any]:
    """A model's modes and the types of its modules by name, its trainable parameters, the values of all."""
    modules = dict(model.named_modules())
    return {
        "modes": {name or "model": module.training for name, module in modules.items()},
        "layers": {name or "model": type(module).__name__ for name, module in modules.items()},
        "trainable": sorted(name for name, p in model.named_parameters() if p.requires_grad),
        "parameters": dict(model.named_parameters()),
    }


def _of_file(path: Path, inputs: list[Tensor]) -> dict[str, Any]:
    import onnx
    import onnxruntime

    if not path.is_file():
        return {"written": False, "runs": False, "inputs": [], "outputs": [], "products": 0, "dropouts": 0, "given": []}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    found: dict[str, Any] = {"written": True, "runs": True, "inputs": [], "outputs": [], "given": []}
    file = onnx.load(str(path), load_external_data=False)
    operators = [node.op_type for part in (file.graph, *file.functions) for node in part.node]
    found["products"] = operators.count("Gemm") + operators.count("MatMul")
    found["dropouts"] = operators.count("Dropout")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception:
        return {**found, "runs": False}
    found["inputs"] = [item.name for item in session.get_inputs()]
    found["outputs"] = [item.name for item in session.get_outputs()]
    for value in inputs:
        try:
            found["given"].append(session.run(None, {name: value.numpy() for name in found["inputs"]})[0])
        except Exception:
            found["given"].append(None)
    return found


@probe
def penalised(
    penalty: Callable[..., Tensor],
    parameters: dict[str, Tensor],
    old: dict[str, Tensor],
    fisher: dict[str, Tensor],
    strength: float,
) -> dict[str, Any]:
    """A penalty's value, and its gradients by all that was passed in, by "argument.name"; a scalar is back-propagated."""
    tables = {"parameters": parameters, "old": old, "fisher": fisher}
    leaves = {f"{kind}.{name}": tensor.requires_grad_(True) for kind, table in tables.items() for name, tensor in table.items()}
    value = penalty(parameters, old, fisher, strength)
    torch.autograd.backward(value)
    return {"value": value, "gradients": {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}}
