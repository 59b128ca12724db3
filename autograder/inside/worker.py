"""The worker: holds a student's module and does what the judge asks of it, one list of operations at a time.

A request is a list of operations; they run in order and stop at the first that fails. The reply is
{"value": what the last operation returned} or {"error": {...}}. Results stay here, in numbered slots; only `read`
and `probe` send data back. At home the same class answers over a loopback in the student's own process.
"""

from __future__ import annotations

import importlib
import importlib.util
import linecache
import os
import random
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from autograder.inside import registry, wire

MODULE = 0  # the slot of the student's module
_TEXT_LIMIT = 2_000
_NAMES_LIMIT = 10_000
_folders: set[str] = set()  # folders that modules were imported from, in this process


class Worker:
    """Executes requests on one student's module.

    Args:
        stub: path of the stub file to import; its folder goes on sys.path, so helper modules beside it work.
    """

    passes: tuple[type[BaseException], ...] = ()  # no answers of the student's: they end the request (student/guard.py)

    def __init__(self, stub: Path) -> None:
        self.stub = stub
        self.slots: dict[int, Any] = {}
        self.module: ModuleType | None = None
        self._supplied: dict[str, Any] = {}

    def handle(self, message: bytes | bytearray) -> bytes:
        """Answer one encoded request with one encoded reply; whatever student code raises becomes an error."""
        operations = wire.loads(message)
        value, done = None, 0
        try:
            for operation in operations:
                name, kwargs = operation["op"], {k: v for k, v in operation.items() if k != "op"}
                value = getattr(self, f"op_{name}")(**kwargs)
                done += 1
            return wire.dumps({"value": value})
        except BaseException as error:  # SystemExit and KeyboardInterrupt too: a student's exit() is an answer
            if isinstance(error, self.passes):
                raise
            if isinstance(error, KeyboardInterrupt) and not _raised_in(error, self.stub.parent):
                raise  # Ctrl-C at home
            self.explain(error)
            return wire.dumps({"error": _describe(error, done, self.stub.parent)})

    def explain(self, error: BaseException) -> None:
        """At home: improve the text of an exception."""

    # Operations. `out` is the slot that takes the result.

    def op_import(self) -> None:
        """Import the student's module (again), from source."""
        folder = str(self.stub.parent)
        if _folders:  # not in a fresh child, whose pages are best left alone
            for name, module in list(sys.modules.items()):
                if (getattr(module, "__file__", None) or "").startswith(tuple(_folders)):
                    del sys.modules[name]  # an older version, or another folder's helper of the same name
            importlib.invalidate_caches()
        _folders.add(folder + os.sep)
        sys.path[:] = [folder, *(path for path in sys.path if path + os.sep not in _folders)]
        spec = importlib.util.spec_from_file_location(self.stub.stem, self.stub)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[self.stub.stem] = module  # dataclasses and pickles look a class's module up by its name
        spec.loader.exec_module(module)
        self.module = module

    def op_reset(self, seed: int) -> None:
        """Forget every object and seed every generator: no check sees what another one left."""
        self.slots = {MODULE: self.module}
        for name, value in self._supplied.items():
            setattr(self.module, name, value)
        self._supplied = {}
        random.seed(seed)
        np.random.seed(seed % 2**32)
        if sys.modules.get("torch") is not None:  # None where a week hides it
            import torch

            # Not torch.manual_seed: it also queues a seed for every absent GPU, with a formatted stack (1.7 ms).
            torch.default_generator.manual_seed(seed)
            torch.set_grad_enabled(True)
            torch.set_default_dtype(torch.float32)

    def op_keep(self, out: int, value: Any) -> None:
        self.slots[out] = self.unpack(value)

    def op_call(self, out: int, function: Any, args: list[Any], kwargs: dict[str, Any]) -> None:
        self.slots[out] = self.unpack(function)(*self.unpack(args), **self.unpack(kwargs))

    def op_build(self, out: int, name: str, kwargs: dict[str, Any]) -> None:
        self.slots[out] = registry.find_builder(name)(**self.unpack(kwargs))

    def op_probe(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        return pack(registry.find_probe(name)(*self.unpack(args), **self.unpack(kwargs)))

    def op_set(self, target: Any, name: str, value: Any) -> None:
        setattr(self.unpack(target), name, self.unpack(value))

    def op_supply(self, name: str, value: Any) -> None:
        """Put something of ours in the place of a name of the student's module, until the next reset."""
        self._supplied.setdefault(name, getattr(self.module, name))
        setattr(self.module, name, self.unpack(value))

    def op_write(self, target: Any, value: Any) -> None:
        """Overwrite a tensor's or an array's contents in place; its shape and dtype stay."""
        tensor, data = self.unpack(target), self.unpack(value)
        if tuple(tensor.shape) != tuple(data.shape):
            raise TypeError(f"has shape {tuple(tensor.shape)}, and the contract says {tuple(data.shape)}")
        if isinstance(tensor, np.ndarray):
            tensor[...] = data
        else:
            tensor.data.copy_(data)

    def op_read(self, value: Any) -> Any:
        return pack(self.unpack(value))

    def unpack(self, value: Any) -> Any:
        """Turn what came over the wire into objects: references are followed, tensors made."""
        if isinstance(value, wire.Ref):
            target = self.slots[value.slot]
            for step in value.path:
                target = getattr(target, step) if isinstance(step, str) else target[step]
            return target
        if isinstance(value, wire.Tensor):
            import torch

            return torch.from_numpy(value.data.copy()).to(getattr(torch, value.dtype))
        if isinstance(value, list | tuple):
            return type(value)(self.unpack(item) for item in value)
        if isinstance(value, dict):
            return {key: self.unpack(item) for key, item in value.items()}
        return value


def pack(value: Any) -> Any:
    """Turn a result into what may travel; an object that may not becomes {"type": its type's name}."""
    if value is None or isinstance(value, bool | int | float):
        return value if type(value) in (bool, int, float, type(None)) else _plain_number(value)
    if isinstance(value, str):
        return str(value)[:_TEXT_LIMIT]
    if isinstance(value, np.bool_ | np.integer | np.floating):
        return value.item()
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value).reshape(value.shape)
    if isinstance(value, list | tuple | set | frozenset) and len(value) <= _NAMES_LIMIT:
        items = [pack(item) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {str(key): pack(item) for key, item in value.items()}
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        name = str(value.dtype).removeprefix("torch.")
        data = value.detach().cpu()
        return wire.Tensor((data.float() if name == "bfloat16" else data).contiguous().numpy(), name)
    return {"type": type(value).__name__}


def _plain_number(value: Any) -> Any:
    """An int or float subclass (IntEnum, say) as its plain value."""
    return int(value) if isinstance(value, int) else float(value)


def _frames(error: BaseException, folder: Path) -> list[traceback.FrameSummary]:
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        frames = [traceback.FrameSummary(error.filename, error.lineno, "", lookup_line=False, line=error.text or "")]
    else:
        frames = list(traceback.extract_tb(error.__traceback__, limit=-200))
    return [f for f in frames if f.filename.startswith(str(folder) + os.sep)]


def _raised_in(error: BaseException, folder: Path) -> bool:
    return bool(_frames(error, folder))


def _describe(error: BaseException, index: int, folder: Path) -> dict[str, Any]:
    """What the judge learns of an exception: its type's name, its text, and where in the student's files."""
    linecache.checkcache()
    try:
        text = str(error)
    except BaseException:
        text = "(an error whose text cannot be shown)"
    bases = [cls.__name__ for cls in type(error).__mro__[:-1]]
    where = [
        f"{os.path.relpath(f.filename, folder)}:{f.lineno}: {(f.line or '').strip()[:200]}" for f in _frames(error, folder)[-5:]
    ]
    return {
        "operation": index,
        "type": type(error).__name__[:100],
        "bases": [name[:100] for name in bases[:20]],
        "message": text[:_TEXT_LIMIT],
        "where": where,
    }
