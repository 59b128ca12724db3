"""A session with a worker: handles for what lives there, and typed observations of it.

A handle is not a value. It has no truth, no equality, no length and no number; what a student's object is can only be
learned by an observation (`read`, `number`, ...), which checks the type, the shape and finiteness of what came
back before a check compares it with a value that the judge computed.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from autograder.inside import wire
from autograder.inside.worker import MODULE, Worker
from autograder.judge.evidence import Relation

_SHOWN = 300
_ITEMS = 4  # of a list or dict among the arguments that a message names
_REPR = reprlib.Repr()  # bounded work on what a submission sent
_REPR.maxlist = _REPR.maxtuple = _REPR.maxset = _REPR.maxdict = 30
_REPR.maxstring = _REPR.maxother = 80


class Link(Protocol):
    """Carries one encoded request to a worker and brings its encoded reply."""

    def exchange(self, message: bytes) -> bytes | bytearray: ...


class Loopback:
    """A worker in this process: for students at home, for references and mutants. Not isolated."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def exchange(self, message: bytes) -> bytes:
        return self.worker.handle(message)


class CheckFailed(Exception):
    """A check found the submission wrong; the text is shown to the student.

    Attributes:
        kind: "wrong", "error" (the student's code raised), "unattempted", "timeout" or "crash".

    Args:
        relation: how a wrong value is related to the right one; told as the last line.
    """

    def __init__(self, message: str, kind: str = "wrong", relation: Relation | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.relation = relation
        self.rungs: list[str] = []

    def __str__(self) -> str:
        lines = [*(f"With {rung}:" for rung in self.rungs), super().__str__()]
        if self.relation:
            lines.append(f"  {self.relation.told(', '.join(self.rungs))}")
        return "\n".join(lines)


class StudentError(CheckFailed):
    """Student code raised an exception."""

    def __init__(self, error: dict[str, Any], doing: str) -> None:
        self.type: str = error["type"][:100]
        self.bases: list[str] = error["bases"]
        self.text: str = error["message"][:1000]
        self.where: list[str] = [place[:300] for place in error["where"]]
        last = self.where[-1] if self.where else ""
        # torch raises it too, for an SVD in half precision for one: only a line that names it is a part not yet written.
        unattempted = self.type == "NotImplementedError" and self.type in last
        place = f" ({last})" if last else ""
        text = f"{self.type}: {self.text}" if self.text else self.type
        super().__init__(self.text if unattempted else f"{doing} raised {text}{place}", "unattempted" if unattempted else "error")


class LinkDown(Exception):
    """The worker died or did not answer in time.

    Attributes:
        kind: "timeout" or "crash", the student's; "ours" when the sandbox itself failed.
    """

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class Handle:
    """Something that lives in the worker. Attributes, items and calls of it are handles too."""

    __slots__ = ("_ref", "_session", "_text")
    _ref: wire.Ref
    _session: Session
    _text: str
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, session: Session, ref: wire.Ref, text: str) -> None:
        object.__setattr__(self, "_session", session)
        object.__setattr__(self, "_ref", ref)
        object.__setattr__(self, "_text", text)

    def __getattr__(self, name: str) -> Handle:
        if name.startswith("__"):  # numpy and others look for protocols that a handle must not have
            raise AttributeError(name)
        return self._at(name, f"{self._text}.{name}")

    def __getitem__(self, index: int) -> Handle:
        return self._at(index, f"{self._text}[{index}]")

    def _at(self, step: str | int, text: str) -> Handle:
        ref = wire.Ref(self._ref.slot, (*self._ref.path, step))
        return Handle(self._session, ref, text)

    def __call__(self, *args: Any, **kwargs: Any) -> Handle:
        return self._session._result(
            f"{self._text}({_show_args(args, kwargs)})", "call", function=self, args=list(args), kwargs=kwargs
        )

    def __setattr__(self, name: str, value: Any) -> None:
        self._session._queue(f"setting {self._text}.{name}", "set", target=self, name=name, value=value)

    def __repr__(self) -> str:
        return f"<handle {self._text}>"

    def _refuse(self, *_: Any) -> Any:
        raise TypeError(f"{self._text} is a handle, not a value: observe it with read(), number(), flag(), ...")

    __bool__ = __eq__ = __ne__ = __len__ = __iter__ = __float__ = __int__ = __index__ = __contains__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = __add__ = __radd__ = __sub__ = __mul__ = __matmul__ = __array__ = _refuse


class Session:
    """What a check sees of a student's submission (or of the reference: both look the same).

    Attributes of the student's module are attributes of the session: `student.LoRALinear(base, rank=2, alpha=3.0)`.
    Operations are queued and travel with the next observation; an exception in student code therefore surfaces
    there, with the words of the operation that caused it.

    Attributes:
        trace: every observation of the running check, for diagnosis: what was seen, in order.
        facts: what checks have found out about the module and need not ask again, for the life of the worker.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._operations: list[dict[str, Any]] = []
        self._doing: list[str] = []
        self._slot = MODULE
        self.trace: list[Any] = []
        self.facts: dict[str, Any] = {}

    # --- life ---

    def load(self) -> None:
        """Import the student's module."""
        self._queue("importing your file", "import")
        self.flush()

    def reset(self, seed: int) -> None:
        """Begin a check: forget all objects, reseed the worker's generators."""
        self._operations, self._doing, self._slot, self.trace = [], [], MODULE, []
        self._queue("starting", "reset", seed=seed)

    def flush(self) -> Any:
        """Send what is queued; returns what the last operation returned.

        Raises:
            StudentError: if student code raised.
            LinkDown: if the worker died or ran out of time.
        """
        operations, doing = self._operations, self._doing
        self._operations, self._doing = [], []
        if not operations:
            return None
        try:
            reply = wire.loads(self._link.exchange(wire.dumps(operations)))
        except wire.WireError as error:
            self.trace.append("wire")
            raise CheckFailed(f"{doing[-1]} gave something that cannot be read: {error}", "error") from None
        match reply:
            case {"value": value, **rest} if not rest:
                return value
            case {"error": {"operation": int(index), "type": str(), "bases": list(), "message": str(), "where": list()} as error}:
                if 0 <= index < len(doing) and all(type(s) is str for s in [*error["bases"], *error["where"]]):
                    failure = StudentError(error, doing[index])
                    self.trace.append(failure.type)  # not its text, whose words are the student's own
                    raise failure
        self.trace.append("wire")
        raise CheckFailed("your code answered in a form that the grader does not know", "error")

    # --- acting ---

    def __getattr__(self, name: str) -> Handle:
        """A name of the student's module; `module.<name>` where the session has a method of that name."""
        if name.startswith("_"):
            raise AttributeError(name)
        return Handle(self, wire.Ref(MODULE, (name,)), name)

    @property
    def module(self) -> Handle:
        """The student's module itself."""
        return Handle(self, wire.Ref(MODULE), "your module")

    def build(self, builder: str, **kwargs: Any) -> Handle:
        """An object made in the worker by one of our named builders (autograder/inside/registry.py)."""
        return self._result(builder, "build", name=builder, kwargs=kwargs)

    def keep(self, handle: Handle) -> Handle:
        """A handle of the object that `handle` leads to now, whatever it leads to later."""
        return self._result(handle._text, "keep", value=handle)

    def supply(self, name: str, handle: Handle) -> None:
        """Let `name` of the student's module be something of ours, for the rest of this check."""
        self._queue(f"replacing {name}", "supply", name=name, value=handle)

    def write(self, handle: Handle, value: np.ndarray, dtype: str | None = None) -> None:
        """Overwrite the contents of a tensor (or array) in place; its own shape must be the value's."""
        self._queue(handle._text, "write", target=handle, value=tensor(value, dtype))

    def raises(self, *types: str, act: Callable[[], Any]) -> None:
        """Demand that `act()`, which uses handles of this session, raises one of the named exceptions."""
        self.flush()
        try:
            act()
            doing = self._doing[-1] if self._doing else "that"
            self.flush()
        except StudentError as error:
            if not set(types) & set(error.bases):
                if error.kind == "unattempted":
                    raise
                raise CheckFailed(f"{error}\n  expected: {' or '.join(types)}", "error") from None
            return
        self.trace.append("no error")
        raise CheckFailed(f"{doing} raised nothing\n  expected: {' or '.join(types)}")

    def implemented(self, act: Callable[[], Any]) -> bool:
        """Whether `act()` gets past the stub's NotImplementedError (any other outcome counts as implemented)."""
        self.flush()
        try:
            act()
            self.flush()
        except StudentError as error:
            return error.kind != "unattempted"
        return True

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Let what happens inside leave no trace: it prepares the check and is no part of its evidence."""
        trace, self.trace = self.trace, []
        try:
            yield
        finally:
            self.trace = trace

    # --- observing ---

    def read(self, handle: Handle, shape: tuple[int, ...], dtype: str = "float64", free: bool = False) -> np.ndarray:
        """A snapshot of a tensor or array, of exactly this shape and dtype and finite, as a NumPy array.

        Args:
            free: right answers differ in this value (a random start, say), so only its shape and dtype are evidence
                for a diagnosis; `note` what follows from it instead.
        """
        value = self._observe("read", handle._text, value=handle)
        if free and isinstance(value, wire.Tensor):
            self.trace[-1] = [list(value.data.shape), value.dtype]
        elif free and isinstance(value, np.ndarray):
            self.trace[-1] = [list(value.shape), value.dtype.name]
        return self._array(value, handle._text, shape, dtype)

    def note(self, value: Any) -> None:
        """Add to the trace what a check derived from a free observation."""
        self.trace.append(value)

    def number(self, handle: Handle) -> float:
        """A finite int or float (not a bool)."""
        value = self._observe("read", handle._text, value=handle)
        if isinstance(value, wire.Tensor | np.ndarray):
            data = value.data if isinstance(value, wire.Tensor) else value
            value = float(data) if data.ndim == 0 else value
        if type(value) not in (int, float):
            raise _wrong_type(handle._text, "a number", value)
        if not math.isfinite(value):
            raise CheckFailed(f"{handle._text} is {value}\n  expected: a finite number")
        return float(value)

    def flag(self, handle: Handle) -> bool:
        """True or False."""
        value = self._observe("read", handle._text, value=handle)
        if type(value) is not bool:
            raise _wrong_type(handle._text, "True or False", value)
        return value

    def names(self, handle: Handle) -> list[str]:
        """A list of str."""
        return _names(self._observe("read", handle._text, value=handle), handle._text)

    def names_of(self, probe: str, *args: Any) -> list[str]:
        """A list of str from a probe."""
        return _names(self.probe(probe, *args), probe)

    def probe(self, probe: str, *args: Any, **kwargs: Any) -> Any:
        """Plain data from one of our probes (autograder/inside/registry.py), its tensors as (still untyped) values.

        Pass what comes back through `array` before it is compared.
        """
        return self._observe("probe", f"{probe}({_show_args(args, kwargs)})", name=probe, args=list(args), kwargs=kwargs)

    def array(self, data: Any, name: str, shape: tuple[int, ...], dtype: str = "float64") -> np.ndarray:
        """A part of a probe's result as an array of exactly this shape and dtype; `name` says what it is."""
        return self._array(data, name, shape, dtype)

    # --- inside ---

    def _array(self, value: Any, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        match value:
            case wire.Tensor(data=data, dtype=found):
                pass
            case np.ndarray() as data:
                found = data.dtype.name
            case _:
                raise _wrong_type(name, "a tensor", value)
        if data.shape != shape:
            raise CheckFailed(f"{name} has shape {data.shape}\n  expected: {shape}")
        if found != dtype:
            raise CheckFailed(f"{name} has dtype {found}\n  expected: {dtype}")
        if not np.isfinite(data).all():
            raise CheckFailed(f"{name} holds values that are not finite\n  got: {show(data)}")
        return data

    def _observe(self, op: str, text: str, **fields: Any) -> Any:
        self._queue(text, op, **fields)
        value = self.flush()
        self.trace.append(value)
        return value

    def _result(self, text: str, op: str, **fields: Any) -> Handle:
        self._slot += 1
        self._queue(text, op, out=self._slot, **fields)
        return Handle(self, wire.Ref(self._slot), text)

    def _queue(self, text: str, op: str, **fields: Any) -> None:
        self._operations.append({"op": op, **{key: _to_wire(value) for key, value in fields.items()}})
        self._doing.append(text)


def tensor(value: np.ndarray, dtype: str | None = None) -> wire.Tensor:
    """A NumPy array to be made a torch.Tensor in the worker, of the array's dtype or of `dtype`."""
    dtype = dtype or value.dtype.name
    return wire.Tensor(np.ascontiguousarray(value, wire.TENSOR_DTYPES[dtype]).reshape(value.shape), dtype)


def show(value: Any) -> str:
    """A value as a student reads it, short."""
    if isinstance(value, np.ndarray):
        with np.printoptions(precision=5, threshold=12, edgeitems=2, suppress=False):
            text = np.array2string(value, separator=", ", prefix=" " * 12)  # behind "  expected: "
    else:
        text = _REPR.repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + " ..."


@contextmanager
def at(rung: str) -> Iterator[None]:
    """Name the rung of a check's ladder that is being tried: its failures begin with it."""
    try:
        yield
    except CheckFailed as error:
        if error.kind != "unattempted":
            error.rungs.insert(0, rung)
        raise


def _names(value: Any, text: str) -> list[str]:
    if type(value) is not list or any(type(item) is not str for item in value):
        raise _wrong_type(text, "a list of str", value)
    return value


def _wrong_type(name: str, wanted: str, value: Any) -> CheckFailed:
    match value:
        case {"type": str(kind)}:
            found = f"of type {kind}"
        case None:
            found = "None"
        case wire.Tensor() | np.ndarray():
            found = "a tensor"
        case _:
            found = show(value)
    return CheckFailed(f"{name} is {found}\n  expected: {wanted}")


def _to_wire(value: Any) -> Any:
    if isinstance(value, Handle):
        return value._ref
    if isinstance(value, list | tuple):
        return type(value)(_to_wire(item) for item in value)
    if isinstance(value, dict):
        return {key: _to_wire(item) for key, item in value.items()}
    return value


_LIVING = (Handle, wire.Tensor, np.ndarray, list, tuple, dict)


def _show_args(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    def one(value: Any) -> str:
        if isinstance(value, Handle):
            return str(value._text)
        if isinstance(value, wire.Tensor | np.ndarray):
            data = value.data if isinstance(value, wire.Tensor) else value
            return "x" if data.ndim == 0 else f"tensor{tuple(data.shape)}".replace(",)", ")")
        if isinstance(value, list | tuple) and any(isinstance(item, _LIVING) for item in value):
            items = ", ".join([*map(one, value[:_ITEMS]), *["..."] * (len(value) > _ITEMS)])
            return f"[{items}]" if isinstance(value, list) else f"({items}{',' * (len(value) == 1)})"
        if isinstance(value, dict) and any(isinstance(item, _LIVING) for item in value.values()):
            items = ", ".join(f"{key!r}: {one(item)}" for key, item in value.items())
            return f"{{{items}}}" if len(value) <= _ITEMS else "{...}"
        return show(value) if not isinstance(value, dict) or len(value) <= _ITEMS else "{...}"

    return ", ".join([*map(one, args), *(f"{key}={one(value)}" for key, value in kwargs.items())])
