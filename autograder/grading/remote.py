"""A judge in a process of its own, for a Dask worker: `python -m autograder.grading.remote DESCRIPTOR`.

Over the descriptor comes a cluster.Spec, then (batch, alone) again and again; each is answered by an engine.Judged, or by one
line of text that says why nothing can be judged here. Both ends are trusted and of one version, so objects are pickled.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection

from autograder import UserError
from autograder.grading import engine
from autograder.manifest import load

IDLE_SECONDS = 900


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the worker's terminal is the worker's to handle
    connection = Connection(int(sys.argv[1]))
    threading.Thread(target=_end_with, args=(connection.fileno(),), daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        spec = connection.recv()
        week = load().week(spec.week)
        try:
            # The descriptor is not for the sandbox: Popen passes on only what it is told to.
            with engine.prepared(week, spec.seed, spec.isolation, 1, spec.few) as (runner, zygotes):
                engine.be_judge(runner, zygotes.sockets[0], spec.isolation)
                start = {"zygote": zygotes.cpu_seconds, "judges": time.process_time()}
                connection.send(engine.Judged([], start, engine.shortfalls(zygotes)))
                while connection.poll(IDLE_SECONDS):
                    connection.send(engine.judge(*connection.recv()))
        except UserError as error:
            connection.send(" ".join(str(error).split()))


def _end_with(descriptor: int) -> None:
    """End this process as soon as the other end is closed: a worker that was killed must not leave a judge that goes on."""
    poll = select.poll()
    poll.register(descriptor, 0)  # a hang-up is told unasked
    poll.poll()
    os._exit(1)


if __name__ == "__main__":
    main()
