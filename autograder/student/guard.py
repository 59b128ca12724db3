"""Student code at home: it can be interrupted, it cannot end the process, and what it lacks is said in one line.

Nothing here isolates anything. The sandbox has processes and limits for all of this; at home there is one process, which has
to stay usable, on any system and under a debugger.
"""

from __future__ import annotations

import _thread
import bdb
import builtins
import contextlib
import difflib
import linecache
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from autograder import texts
from autograder.inside import wire
from autograder.inside.worker import MODULE, Worker
from autograder.judge.runner import Opener
from autograder.judge.session import Link, LinkDown
from autograder.manifest import Task
from autograder.student import common

LEAST_SECONDS = 20.0
_AGAIN = 0.5  # seconds from one interruption to the next, until the code is out
_MOST = 20  # interruptions of code that catches them all
_INPUT = "nobody answers where your code is marked: take the value as an argument"


class Overtime(BaseException):
    """Raised inside student code that runs longer than it may."""


class Stopped(KeyboardInterrupt):
    """Ctrl-C while student code runs. Its own `raise KeyboardInterrupt` is another matter: an answer."""


class Guard:
    """Around one request to student code: a time limit, and Ctrl-C that no `except:` can hold.

    The interruption is an exception raised by a signal's handler. Code that catches it meets the next one a line later,
    and again every half second. A debugger, once entered, lifts the limit. Only Python code can be interrupted: a single
    call into C is waited for.

    Attributes:
        where: the student's line at which the code was first interrupted, "" if it was in none.
        overtime, stopped: whether the limit was reached, whether Ctrl-C was pressed.

    Args:
        folder: where the student's files are.
        seconds: the limit of one request; 0 for none.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder = str(folder) + os.sep
        self._seconds = seconds
        self._lifted = sys.gettrace() is not None or "pydevd" in sys.modules  # an IDE's debugger may halt it anywhere
        self._restore: contextlib.ExitStack | None = None
        self._kind: type[BaseException] = Overtime
        self._running = self._due = self._traced = False
        self._kicks = 0
        self._done = threading.Event()
        self.where = ""
        self.overtime = self.stopped = False

    def __enter__(self) -> Guard:
        self._restore = contextlib.ExitStack()
        self._replace(builtins, "input", self._input(builtins.input))
        self._replace(os, "_exit", _no_exit)
        self._replace(bdb.Bdb, "set_trace", self._set_trace(bdb.Bdb.set_trace))
        if threading.current_thread() is threading.main_thread():
            self._handle(signal.SIGINT, self._on_interrupt)
            if hasattr(signal, "setitimer"):
                self._handle(signal.SIGALRM, self._on_alarm)
            if self._seconds and not self._lifted:
                self._start_clock(self._seconds)
        self._running = True
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Put everything back; may be called again, where an interruption got in between."""
        self._running = False
        self._stop_clock()
        if self._traced:
            sys.settrace(None)
            self._traced = False
        if self._restore is not None:
            self._restore.close()
            self._restore = None

    def _replace(self, owner: Any, name: str, value: Any) -> None:
        assert self._restore is not None
        self._restore.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)

    def _handle(self, number: signal.Signals, handler: Any) -> None:
        assert self._restore is not None
        old = signal.signal(number, handler)
        self._restore.callback(signal.signal, number, signal.SIG_DFL if old is None else old)
        if number == signal.SIGINT:
            self._ignored = old is signal.SIG_IGN

    # --- the clock: a timer of the system's, or where there is none (Windows) a thread ---

    def _start_clock(self, seconds: float) -> None:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
            return
        self._done = done = threading.Event()

        def tick() -> None:
            wait = seconds
            while not done.wait(wait):
                self._due, wait = True, _AGAIN
                _thread.interrupt_main()

        threading.Thread(target=tick, daemon=True).start()

    def _stop_clock(self) -> None:
        self._done.set()
        if hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread():
            signal.setitimer(signal.ITIMER_REAL, 0)

    # --- the interruptions ---

    def _on_alarm(self, number: int, frame: FrameType | None) -> None:
        if self._running and not self._lifted:
            self._interrupt(frame)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._due:  # the thread's tick
            self._due = False
            self._on_alarm(number, frame)
            return
        if self._ignored:
            return
        if not self._running or self._lifted:
            raise Stopped
        self._kind, self._kicks = Stopped, 0
        self._stop_clock()
        self._start_clock(_AGAIN)
        self._interrupt(frame)

    def _interrupt(self, frame: FrameType | None) -> NoReturn:
        self.overtime, self.stopped = self._kind is Overtime, self._kind is Stopped
        self._kicks += 1
        if self._kicks > _MOST:
            self._give_up()
        own = frame
        while own is not None:
            if own.f_code.co_filename.startswith(self._folder):
                self.where = self.where or self._place(own)
                own.f_trace = self._trace  # whoever catches this one gets the next at the first line behind `except`
            own = own.f_back
        self._traced = True
        sys.settrace(self._trace)
        raise self._kind

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        if not self._running or not frame.f_code.co_filename.startswith(self._folder):
            return None
        if event in ("line", "call"):  # not "exception": that is still inside the `try`, and what raises is not asked again
            raise self._kind
        return self._trace

    def _give_up(self) -> NoReturn:
        assert self._restore is not None
        self._running = False
        self._stop_clock()  # its next signal would find no handler
        why = "stopped" if self._kind is Stopped else f"{self._seconds:g} s are over"
        said = (
            f"{why}, but your code catches every interruption, at {self.where or 'no line of yours'}: "
            "write `except Exception:` in place of `except:`"
        )
        print(f"autograder: {texts.refusal(said, common.language())}", file=sys.stderr, flush=True)
        self._restore.close()
        os._exit(130 if self._kind is Stopped else 1)

    def _place(self, frame: FrameType) -> str:
        name = frame.f_code.co_filename
        line = linecache.getline(name, frame.f_lineno).strip()[:200]
        return f"{os.path.relpath(name, self._folder)}:{frame.f_lineno}" + (f": {line}" if line else "")

    # --- what student code finds in place of functions that would block or end the process ---

    def _lift(self) -> None:
        self._lifted = True
        self._stop_clock()

    def _set_trace(self, original: Any) -> Any:
        def set_trace(debugger: Any, frame: FrameType | None = None, *args: Any, **kwargs: Any) -> Any:
            """breakpoint() and pdb.set_trace() come here; the frame to stop in is the caller's."""
            self._lift()
            return original(debugger, frame or sys._getframe(1), *args, **kwargs)

        return set_trace

    def _input(self, original: Any) -> Any:
        def ask(prompt: object = "", /) -> str:
            if self._lifted:  # pdb's prompt
                return str(original(prompt))
            raise EOFError(_INPUT)

        return ask


def _no_exit(status: int = 0) -> NoReturn:
    raise SystemExit(f"os._exit({status}) would end the process that checks your code")


class HomeWorker(Worker):
    """A worker that says what the student's file lacks."""

    passes = (Overtime, Stopped)

    def __init__(self, stub: Path, task: Task) -> None:
        super().__init__(stub)
        self._week = task.id.partition(".")[0]

    def explain(self, error: BaseException) -> None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            error.msg = _missing(error, self.stub, self._week)

    def op_import(self) -> None:
        kept, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # two saves in a second would look the same to a cache
        try:
            super().op_import()
        finally:
            sys.dont_write_bytecode = kept

    def op_supply(self, name: str, value: Any) -> None:
        self._demand(name)
        super().op_supply(name, value)

    def unpack(self, value: Any) -> Any:
        if isinstance(value, wire.Ref) and value.slot == MODULE and value.path and isinstance(value.path[0], str):
            self._demand(value.path[0])
        return super().unpack(value)

    def _demand(self, name: str) -> None:
        """Raise AttributeError if the student's module has no such name, with the one that it may have become."""
        if hasattr(self.module, name):
            return
        own = [n for n, value in vars(self.module).items() if getattr(value, "__module__", None) == self.stub.stem]
        by_case = [n for n in own if n.lower().replace("_", "") == name.lower().replace("_", "")]
        near = by_case or difflib.get_close_matches(name, own, 1, 0.7)
        if near:
            raise AttributeError(f"{name} is gone from your file: was it renamed to {near[0]}?")
        raise AttributeError(f"{name} is gone from your file, and the contract needs it: put it back in {self.stub.name}")


def _missing(error: ModuleNotFoundError, stub: Path, week: str) -> str:
    from autograder.student import home

    name = (error.name or "").partition(".")[0]
    if sys.modules.get(name, stub) is None:
        return f"{name} cannot be imported in week {week}, here or where it is marked: what it does is the exercise"
    if name in home.packages():
        return home.missing_package(name)
    return f"{error.msg}: no {name}.py lies beside {stub.name}, and no installed package is called that"


class GuardedLink:
    """A worker in this process whose code cannot run for ever."""

    def __init__(self, worker: Worker, seconds: float) -> None:
        self._worker = worker
        self._seconds = seconds
        self._guard: Guard | None = None

    def exchange(self, message: bytes) -> bytes:
        """Hand one request to the worker.

        Raises:
            LinkDown: if student code took too long; it was interrupted.
            KeyboardInterrupt: if the user stopped it.
        """
        lifted = self._guard is not None and self._guard._lifted
        guard = self._guard = Guard(self._worker.stub.parent, 0 if lifted else self._seconds)
        guard._lifted |= lifted
        reply = b""
        try:
            with guard:
                reply = self._worker.handle(message)
        except (Overtime, Stopped) as error:
            guard.close()
            if isinstance(error, Stopped):
                raise KeyboardInterrupt from None
        if guard.stopped:
            raise KeyboardInterrupt
        if guard.overtime:
            place = f", at {guard.where}" if guard.where else ""
            raise LinkDown(f"your code was still running after {self._seconds:g} s{place}", "timeout")
        return reply


def loopback(stub: Path, seconds: float | None = None) -> Opener:
    """Opens workers in this process, as judge.runner.loopback does, for code that may be anything.

    Args:
        stub: the student's file.
        seconds: the limit of one request, 0 for none; by default twice the task's CPU limit, and at least 20.
    """

    @contextlib.contextmanager
    def open_link(task: Task) -> Iterator[Link]:
        limit = max(LEAST_SECONDS, 2.0 * task.limits.cpu_seconds) if seconds is None else seconds
        yield GuardedLink(HomeWorker(stub, task), limit)

    return open_link
