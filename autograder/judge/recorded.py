"""What a student release has in place of the reference and the mutants: what they answered for the public seed.

`record` asks the reference all that the checks ask it, runs the mutants, and packs both into one file a week. With that file
`autograder check` compares and diagnoses as the marking run does, and neither a solution nor a mutant is shipped.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autograder import UserError
from autograder.inside import wire
from autograder.judge.diagnose import Diagnoser, Trace
from autograder.manifest import Week

PUBLIC_SEED = 0
FOLDER = Path(__file__).parents[1] / "recorded"

_DIGITS = 9  # of an argument: QR and the like differ in the last bits from one processor to the next


class Unrecorded(UserError):
    """This copy of the course cannot answer; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Known:
    """A mutant without its code."""

    name: str
    task: str
    misconception: str
    misconception_zh: str


class Recorder:
    """Collects answers and traces; `pack` makes the file."""

    def __init__(self) -> None:
        self._blobs: dict[bytes, tuple[int, int]] = {}
        self._data = io.BytesIO()
        self._oracle: list[list[Any]] = []
        self._traces: list[list[Any]] = []

    def answer(self, key: list[Any], value: Any) -> None:
        """Keep an oracle's answer under its `_key`."""
        self._oracle.append([*key, *self._blob(wire.dumps(value))])

    def trace(self, mutant: str, check: str, passed: bool, trace: Trace) -> None:
        """Keep what a mutant did in a check; of one that passes, only that."""
        self._traces.append([mutant, check, passed, *self._blob(b"" if passed else wire.dumps(trace))])

    def pack(self, digest: str, mutants: list[Known], stub: str) -> bytes:
        """The file: a zip of an index, the answers and the stub as released, the same bytes for the same content."""
        names = [[m.name, m.task, m.misconception, m.misconception_zh] for m in mutants]
        index = {"digest": digest, "mutants": names, "oracle": self._oracle, "traces": self._traces}
        packed = io.BytesIO()
        entries = (("index.json", json.dumps(index).encode()), ("data", self._data.getvalue()), ("stub", stub.encode()))
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
            for name, data in entries:
                file.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
        return packed.getvalue()

    def _blob(self, data: bytes) -> tuple[int, int]:
        """Where the data stand; equal ones stand there once."""
        sha = hashlib.sha256(data).digest()
        if sha not in self._blobs:
            self._blobs[sha] = self._data.tell(), len(data)
            self._data.write(data)
        return self._blobs[sha]


class Recording:
    """One week's file, opened.

    Raises:
        Unrecorded: if there is none, it is damaged, or it was made for other checks.
    """

    def __init__(self, week: Week, digest: str) -> None:
        path = FOLDER / f"{week.folder}.zip"
        try:
            with zipfile.ZipFile(path) as file:
                index, self._data = json.loads(file.read("index.json")), file.read("data")
        except (OSError, zipfile.BadZipFile, KeyError, ValueError):
            raise Unrecorded(f"autograder/recorded/{path.name} is missing or damaged: get the course's files again") from None
        if index["digest"] != digest:
            raise Unrecorded(
                f"the checks of week {week.number} are not those of autograder/recorded/{path.name}: get the current release, "
                "or put back the files below autograder/"
            )
        self.mutants = [Known(*entry) for entry in index["mutants"]]
        # Two ways to each answer: the question, and which call of that program it was in that check.
        self._by_question: dict[tuple[int, str, str], tuple[int, int]] = {}
        self._in_order: dict[tuple[int, str, int], tuple[int, int]] = {}
        for seed, name, nth, asked, start, size in index["oracle"]:
            self._by_question[seed, name, asked] = self._in_order[seed, name, nth] = start, size
        self._traces = {(m, check): (passed, start, size) for m, check, passed, start, size in index["traces"]}

    def answer(self, key: list[Any]) -> Any:
        """The answer to the same question, else to the one that the check asked at this place."""
        seed, name, nth, asked = key
        place = self._by_question.get((seed, name, asked)) or self._in_order.get((seed, name, nth))
        if place is None:
            raise Unrecorded(f"no answer was recorded for {name}: get the current release")
        return self._load(*place)

    def trace(self, mutant: str, check: str) -> tuple[bool, Trace]:
        passed, start, size = self._traces.get((mutant, check), (True, 0, 0))
        return passed, [] if passed else self._load(start, size)

    def _load(self, start: int, size: int) -> Any:
        return wire.loads(self._data[start : start + size])


class RecordedOracle:
    """Answers as the reference did for the public seed."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._calls: Counter[str] = Counter()
        self._seed = 0

    @property
    def seed(self) -> int:
        """The running check's; setting it begins a check."""
        return self._seed

    @seed.setter
    def seed(self, seed: int) -> None:
        self._seed = seed
        self._calls.clear()

    def __call__(self, program: Callable[..., Any], *args: Any) -> Any:
        self._calls[program.__qualname__] += 1
        return self._recording.answer(question(self._seed, program, self._calls[program.__qualname__], args))


class RecordedDiagnoser(Diagnoser):
    """Holds the mutants' recorded traces."""

    def __init__(self, recording: Recording) -> None:
        self.mutants = recording.mutants
        self._recording = recording

    def prepare(self, checks: dict[str, list[str]]) -> None:
        """Nothing is left to do."""

    def _known_trace(self, mutant: Any, check: str) -> tuple[bool, Trace]:
        return self._recording.trace(mutant.name, check)


def question(seed: int, program: Callable[..., Any], nth: int, args: tuple[Any, ...]) -> list[Any]:
    """What an oracle is asked: the check's seed, the program, its how manieth call in the check, its arguments' digest."""
    sha = hashlib.sha256()
    _feed(sha.update, args)
    return [seed, program.__qualname__, nth, sha.hexdigest()[:24]]


def _feed(update: Callable[[bytes], None], value: Any) -> None:
    """A value's digest, floats up to rounding."""
    if isinstance(value, wire.Tensor):
        _feed(update, (value.dtype, value.data))
    elif isinstance(value, np.ndarray) and value.dtype.kind == "f":
        mantissa, exponent = np.frexp(value.astype(np.float64))
        update(f"{value.dtype}{value.shape}".encode())
        update((np.round(mantissa, _DIGITS) + 0.0).tobytes() + exponent.astype(np.int32).tobytes())
    elif isinstance(value, np.ndarray):
        update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, float):
        _feed(update, np.array(value))
    elif isinstance(value, list | tuple):
        update(f"({len(value)}".encode())
        for item in value:
            _feed(update, item)
    elif isinstance(value, dict):
        update(f"{{{len(value)}".encode())
        for key, item in value.items():
            _feed(update, (key, item))
    else:
        update(f"{type(value).__name__}{value!r}".encode())
