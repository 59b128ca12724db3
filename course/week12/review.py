"""Find the bugs: the last script of a project, which compares two ways to fine-tune over five seeds and prints the verdict.

It runs, and every line below looks reasonable. There are five bugs in it, and none of them raises an error. Find them,
say what each one makes the report claim, and how you would notice it. The key is with the TAs.
"""

import random

import numpy as np
import torch

SEEDS = [0, 1, 2, 3, 4]


def task(items):
    """A noisy classification of points in the plane; the data are drawn anew in every run."""
    x = torch.tensor(np.random.standard_normal((items, 2)), dtype=torch.float32)
    y = (x[:, 0] * x[:, 1] > 0).long()
    flipped = torch.tensor(np.random.random(items) < 0.1)
    return x, torch.where(flipped, 1 - y, y)


def accuracy(width, seed):
    """Train a small network on drawn points and test it on others."""
    random.seed(seed)
    torch.manual_seed(seed)
    (x, y), (test_x, test_y) = task(64), task(40)
    net = torch.nn.Sequential(torch.nn.Linear(2, width), torch.nn.Tanh(), torch.nn.Linear(width, 2))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    best = 0.0
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
        with torch.no_grad():
            best = max(best, (net(test_x).argmax(1) == test_y).float().mean().item())
    return best


def p_value(a, b, draws=200):
    """Sign flips of the paired differences, drawn at random."""
    differences = np.array(a) - np.array(b)
    signs = np.random.default_rng(0).choice([-1, 1], (draws, len(differences)))
    means = (signs * differences).mean(axis=1)
    return (means > abs(differences.mean())).mean()


def summary(values):
    """Mean and its 95 % interval over the seeds."""
    half = 1.96 * np.std(values) / len(values) ** 0.5
    return f"{np.mean(values):.3f} [{np.mean(values) - half:.3f}, {np.mean(values) + half:.3f}]"


if __name__ == "__main__":
    wide, narrow = ([accuracy(width, seed) for seed in SEEDS] for width in (8, 6))
    p = p_value(wide, narrow)
    print("wide   " + summary(wide))
    print("narrow " + summary(narrow))
    print(f"p = {p:.3f}")
    print("wide is significantly better" if p < 0.05 else "the two are equally good")
