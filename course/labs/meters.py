"""Time, memory and energy of a piece of code."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Time:
    """Seconds by the wall clock, known when the block has ended."""

    seconds: float = 0.0


@contextmanager
def stopwatch() -> Iterator[Time]:
    """How long a block takes; on a GPU its kernels are waited for."""
    import torch

    time_ = Time()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    try:
        yield time_
    finally:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        time_.seconds = time.perf_counter() - start


@dataclass
class Memory:
    """A memory curve.

    Attributes:
        seconds: when each sample was taken, from the block's beginning.
        mib: what was in use then: allocated tensors on a GPU, the resident set of the process without one.
    """

    seconds: list[float] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)

    @property
    def growth(self) -> float:
        """MiB between the first sample and the highest."""
        return max(self.mib) - self.mib[0]


@contextmanager
def memory(every: float = 0.01) -> Iterator[Memory]:
    """The memory of a block over time, sampled by a thread.

    `tracemalloc` does not see tensors, so this reads the resident set (CPU) or the allocator (GPU). The resident set
    includes what the allocator keeps for later: compare curves of one process with care.
    """
    import psutil
    import torch

    process, curve, stop = psutil.Process(), Memory(), threading.Event()

    def now() -> float:
        in_use = torch.cuda.memory_allocated() if torch.cuda.is_available() else process.memory_info().rss
        return float(in_use) / 2**20

    def sample(start: float) -> None:
        curve.seconds.append(time.perf_counter() - start)
        curve.mib.append(now())

    def watch(start: float) -> None:
        while not stop.wait(every):
            sample(start)

    start = time.perf_counter()
    sample(start)
    thread = threading.Thread(target=watch, args=(start,), daemon=True)
    thread.start()
    try:
        yield curve
    finally:
        stop.set()
        thread.join()
        sample(start)


@dataclass
class Energy:
    """What a block used, known when it has ended; `kwh` and `kg_co2e` are estimates wherever power is not measured."""

    kwh: float = 0.0
    kg_co2e: float = 0.0
    seconds: float = 0.0
    cpu: str = ""


@contextmanager
def energy(country: str = "USA") -> Iterator[Energy]:
    """Energy and emissions of a block by codecarbon, offline: a country's average intensity, three-letter ISO code.

    Without access to power counters codecarbon multiplies a nominal CPU power by time, so the number is an estimate.
    """
    logging.getLogger("codecarbon").disabled = True
    from codecarbon import OfflineEmissionsTracker

    used = Energy()
    tracker = OfflineEmissionsTracker(
        country_iso_code=country, save_to_file=False, log_level="critical", measure_power_secs=1, allow_multiple_runs=True
    )
    tracker.start()
    try:
        yield used
    finally:
        tracker.stop()
        data = tracker.final_emissions_data
        used.kwh, used.kg_co2e, used.seconds = data.energy_consumed, data.emissions, data.duration
        used.cpu = data.cpu_model
