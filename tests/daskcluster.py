"""A Dask scheduler and workers in processes of their own."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests import faults


class Cluster:
    """A scheduler on a free port; workers are added one by one.

    Attributes:
        address: of the scheduler.
        workers: their processes, without nannies, so that a killed one stays away.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        told = folder / "scheduler.json"
        words = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--no-show", "--scheduler-file", str(told)]
        self.scheduler = self._start(words, "scheduler")
        self.workers: list[subprocess.Popen[bytes]] = []
        faults.until(lambda: told.exists() and told.read_text().rstrip().endswith("}"))
        self.address = json.loads(told.read_text())["address"]

    def add(self, **environment: str) -> subprocess.Popen[bytes]:
        """One more worker, which is ready when this returns."""
        name = f"worker{len(self.workers)}"
        words = ["worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--name", name]
        words += ["--local-directory", str(self.folder)]
        self.workers.append(self._start(words, name, **environment))
        faults.until(lambda: "Registered to" in (self.folder / f"{name}.log").read_text())
        return self.workers[-1]

    def _start(self, words: list[str], name: str, **environment: str) -> subprocess.Popen[bytes]:
        program = [sys.executable, "-c", "from dask.__main__ import main; main()", *words]
        with open(self.folder / f"{name}.log", "wb") as log:
            env = faults.environment(self.folder / "tmp", **environment)
            return subprocess.Popen(program, env=env, stdout=log, stderr=log, cwd=self.folder)

    def close(self) -> None:
        for process in [*self.workers, self.scheduler]:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for process in [*self.workers, self.scheduler]:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def cluster(folder: Path, workers: int) -> Iterator[Cluster]:
    """A scheduler with so many workers, ended at the end."""
    found = Cluster(folder)
    try:
        for _ in range(workers):
            found.add()
        yield found
    finally:
        found.close()
