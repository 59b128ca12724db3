"""What the tasks share: generators that are put back, and Markdown."""

import random
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed):
    kept = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(kept[0])
            np.random.set_state(kept[1])


class Table:
    def __init__(self, *header):
        self.rows = [header, ["-" * max(3, len(cell)) for cell in header]]

    def add(self, *cells):
        self.rows.append([str(cell) for cell in cells])

    def __str__(self):
        return "\n".join("| " + " | ".join(row) + " |" for row in self.rows)


def flat(text):
    return " ".join(text.split())


def escaped(text):
    return "\\|".join(flat(text).split("|"))
