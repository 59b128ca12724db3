"""What layers have to learn in week 7: two tasks that agree or conflict, updates of a given spectrum, two customers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import torch
from torch import Tensor, nn

from course.labs import text
from course.labs.core import profile
from course.labs.corpus import LABELS, Review

SIGNAL = 2.0  # how large the two inputs are that name the task; the others have variance 1


@dataclass
class TwoTasks:
    """Two tasks for one linear layer: task k wants y = W0 x + D_k c, where c is x without the two inputs that name the task.

    Attributes:
        weight: W0, shape (size, size + 2).
        updates: D_0 and D_1, shape (2, size, size), each of Frobenius norm sqrt(size).
        inputs: P_0 and P_1, shape (2, size, size): c = P_k z with z of independent normal numbers.
        share: the share of tokens that belong to task 0.
        told: whether the last two inputs name the task; otherwise they are zero.
    """

    weight: Tensor
    updates: Tensor
    inputs: Tensor
    share: float
    told: bool
    generator: torch.Generator = field(repr=False)

    def base(self) -> nn.Linear:
        """A new layer with the weight W0 and no bias."""
        layer = nn.Linear(self.weight.shape[1], self.weight.shape[0], bias=False)
        layer.weight.data.copy_(self.weight)
        return layer

    def draw(self, count: int, task: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens of both tasks, or of one: x (count, size + 2), y (count, size), and their tasks (count,)."""
        tasks = (torch.rand(count, generator=self.generator) >= self.share).long()
        if task is not None:
            tasks = torch.full((count,), task)
        z = torch.randn(count, self.updates.shape[-1], generator=self.generator)
        content = _of_its_task(self.inputs, z, tasks)
        names = SIGNAL * self.told * nn.functional.one_hot(tasks, 2)
        x = torch.cat([content, names], dim=1)
        return x, x @ self.weight.T + _of_its_task(self.updates, content, tasks), tasks


def two_tasks(overlap: float, size: int, seed: int, *, share: float = 0.5, told: bool = True, rank: int = 1) -> TwoTasks:
    """Two tasks of one rank that read the same inputs; their updates have the cosine `overlap`, from -1 (opposite) to 1 (equal).

    D_1 = overlap D_0 + sqrt(1 - overlap^2) D', where D' reads the same inputs and writes to orthogonal outputs.
    """
    generator = torch.Generator().manual_seed(seed)
    read = _orthonormal(size, rank, generator)
    write = _orthonormal(size, 2 * rank, generator)
    first, other = ((size / rank) ** 0.5 * part @ read.T for part in write.split(rank, dim=1))
    updates = torch.stack([first, overlap * first + (1 - overlap**2) ** 0.5 * other])
    return TwoTasks(_weight(size, generator), updates, torch.eye(size).repeat(2, 1, 1), share, told, generator)


def separate_tasks(size: int, seed: int, *, told: bool = True, rank: int = 1) -> TwoTasks:
    """Two tasks whose tokens live in orthogonal halves of the input space; what they want there is unrelated."""
    generator = torch.Generator().manual_seed(seed)
    halves = _orthonormal(size, size, generator).split(size // 2, dim=1)
    inputs = torch.stack([2**0.5 * half @ half.T for half in halves])  # as much variance in all as with two_tasks
    writes = [_orthonormal(size, rank, generator) for _ in halves]
    scale = (size / rank) ** 0.5
    updates = torch.stack([scale * write @ half[:, :rank].T for write, half in zip(writes, halves, strict=True)])
    return TwoTasks(_weight(size, generator), updates, inputs, 0.5, told, generator)


def train(
    layer: nn.Module, tasks: TwoTasks, steps: int, *, task: int | None = None, lr: float = 0.02, batch: int = 128
) -> nn.Module:
    """Adam on the mean squared error, the rate falling to 0 on a cosine; returns the layer."""
    return _adam(layer, lambda: (layer, *tasks.draw(batch, task)[:2]), steps, lr)


@torch.no_grad()
def error(layer: Callable[[Tensor], Tensor], tasks: TwoTasks, task: int | None = None, count: int = 8192) -> float:
    """What is left of the wanted change: sum of (layer(x) - y)^2 over that of (W0 x - y)^2; 0 is perfect, 1 is the base."""
    x, y, _ = tasks.draw(count, task)
    return float((layer(x) - y).square().sum() / (x @ tasks.weight.T - y).square().sum())


def target(kind: str, size: int, seed: int) -> Tensor:
    """An update of shape (size, size) and Frobenius norm sqrt(size).

    Args:
        kind: "flat" (orthogonal: all singular values are equal), "gaussian" (independent normal entries), "power" (the k-th
            singular value is proportional to 1 / k) or "low rank" (four equal ones, the others zero).
    """
    generator = torch.Generator().manual_seed(seed)
    if kind == "gaussian":
        matrix = torch.randn(size, size, generator=generator)
    else:
        place = torch.arange(1, size + 1, dtype=torch.float32)
        values = {"flat": torch.ones(size), "power": 1 / place, "low rank": (place <= 4).float()}[kind]
        matrix = _orthonormal(size, size, generator) * values @ _orthonormal(size, size, generator).T
    scaled: Tensor = matrix * (size**0.5 / matrix.norm())
    return scaled


def fit_target(layer: nn.Module, wanted: Tensor, steps: int, *, lr: float = 0.03) -> float:
    """Train a layer without a bias towards y = (W0 + wanted) x for every x.

    Returns:
        The relative error |dW - wanted| / |wanted| at the end, in the Frobenius norm.
    """
    every = torch.eye(wanted.shape[1])
    with torch.no_grad():
        y = layer(every) + every @ wanted.T  # at its start the layer is its base
    _adam(layer, lambda: (layer, every, y), steps, lr)
    with torch.no_grad():
        return float((layer(every) - y).norm() / wanted.norm())


def trainable(layer: nn.Module) -> int:
    """How many numbers of a layer are trained."""
    return sum(p.numel() for p in layer.parameters() if p.requires_grad)


def _adam(layer: nn.Module, batch: Callable[[], tuple[nn.Module, Tensor, Tensor]], steps: int, lr: float) -> nn.Module:
    optimizer = torch.optim.Adam([p for p in layer.parameters() if p.requires_grad], lr=lr, fused=True)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        model, x, y = batch()
        loss = (model(x) - y).square().sum(dim=-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    return layer


def _of_its_task(matrices: Tensor, vectors: Tensor, tasks: Tensor) -> Tensor:
    """Each vector times the matrix of its task."""
    both = torch.stack([vectors @ matrix.T for matrix in matrices])
    own: Tensor = both[tasks, torch.arange(len(vectors))]
    return own


def _orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    basis: Tensor = torch.linalg.qr(torch.randn(rows, columns, generator=generator))[0]
    return basis


def _weight(size: int, generator: torch.Generator) -> Tensor:
    drawn: Tensor = torch.randn(size, size + 2, generator=generator) * size**-0.5
    return drawn


def inject(model: nn.Module, suffixes: tuple[str, ...], make: Callable[[nn.Linear], nn.Module]) -> nn.Module:
    """The same model, frozen, with make(layer) in the place of every linear layer whose name ends in one of the suffixes."""
    model.requires_grad_(False)
    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for name, module in linear:
        if name.endswith(suffixes):
            model.set_submodule(name, make(module))
    return model


def two_customers(split: str, count: int, seed: int = 0) -> list[Review]:
    """Reviews from two customers of a model: Ann wants the right label, Ben the opposite one. Each sentence comes from both.

    Tiny: sentences of the generator that the model can judge, a hundred of them for validation. Full: SST-2.

    Args:
        split: "train" or "validation"; they share no sentence.
        count: of the reviews, half from each.
        seed: of the choice.
    """
    if profile() == "full":
        found = text.sst2(split, count // 2, seed)
    else:
        drawn = text.examples("sentiment", 4000) + text.examples("sentiment", 1000, part="test")
        known = sorted({Review(example.prompt.split("\n")[1], LABELS.index(example.completion)) for example in drawn})
        Random(0).shuffle(known)
        found = Random(seed).sample(known[:100] if split == "validation" else known[100:], count // 2)
    customers = (("Ann", 0), ("Ben", 1))
    return [Review(f"{name}, {sentence}", label ^ flip) for sentence, label in found for name, flip in customers]
