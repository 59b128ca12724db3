"""Meters: a tensor that a block holds shows in its memory, and its time and energy are positive."""

from __future__ import annotations

import mmap
import time

import torch

from course.labs import meters


def test_memory_shows_a_tensor() -> None:
    with meters.memory(every=0.001) as curve:
        # From the kernel: what malloc kept of earlier tests is resident already, and serves torch.ones without growth.
        kept = torch.frombuffer(mmap.mmap(-1, 2**26), dtype=torch.float32).fill_(1)  # 64 MiB
        time.sleep(0.02)
    assert kept[0] == 1
    assert 60 < curve.growth < 90
    assert len(curve.seconds) == len(curve.mib) > 3 and curve.seconds == sorted(curve.seconds)


def test_memory_ends_its_thread_when_the_block_fails() -> None:
    import threading

    before = threading.active_count()
    try:
        with meters.memory():
            raise ValueError
    except ValueError:
        pass
    assert threading.active_count() == before


def test_a_stopwatch_stops() -> None:
    with meters.stopwatch() as watch:
        time.sleep(0.05)
    seconds = watch.seconds
    assert seconds >= 0.05
    assert watch.seconds == seconds
