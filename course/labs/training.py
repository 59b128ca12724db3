"""One training loop for every notebook: progress bar, TensorBoard, the same result for the same seed."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from course.labs.core import ROOT, LabStop, profile, progress, say

Log = Callable[[dict[str, float], int], None]


@dataclass
class History:
    """What a run did, one entry a step.

    Attributes:
        loss: of the step's batch, before the step.
        lr: of the first parameter group.
        grad_norm: 2-norm of the gradients of all trainable parameters, before clipping.
        seconds_per_step: wall-clock, with waiting for the batch; the first step also loads and compiles things.
    """

    loss: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    seconds_per_step: list[float] = field(default_factory=list)

    @property
    def final_loss(self) -> float:
        """Mean of the last tenth of the losses, which says more than the last batch."""
        last = self.loss[-max(1, len(self.loss) // 10) :]
        return sum(last) / len(last)


def device() -> torch.device:
    """Where models go: the GPU if there is one, else the CPU. LAB_DEVICE decides where it is set.

    Raises:
        LabStop: in the full profile without a GPU, unless LAB_DEVICE says so.
    """
    if name := os.environ.get("LAB_DEVICE"):
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    if profile() == "full":
        raise LabStop(
            say(
                "LAB_PROFILE=full needs a GPU and none was found: set LAB_PROFILE=tiny, or LAB_DEVICE=cpu if you have hours.",
                "LAB_PROFILE=full 需要 GPU，但没有找到：请设置 LAB_PROFILE=tiny；若不介意等上数小时，可设置 LAB_DEVICE=cpu。",
            )
        )
    return torch.device("cpu")


def schedule_factor(step: int, steps: int, warmup: int, schedule: str) -> float:
    """The factor of the rate at a step, from 0: linear warm-up over `warmup` steps, then constant, or half a cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    if schedule != "cosine":
        raise ValueError(f'schedule must be "constant" or "cosine", not {schedule!r}')
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def fit(
    model: nn.Module,
    batches: Iterable[Any],
    steps: int,
    lr: float,
    *,
    name: str,
    weight_decay: float = 0.0,
    warmup: int = 0,
    schedule: str = "constant",
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    groups: Sequence[dict[str, Any]] | None = None,
    clip: float = 1.0,
    seed: int = 0,
    log: bool = True,
) -> History:
    """Train the parameters of `model` that require a gradient by AdamW (Loshchilov and Hutter, arXiv:1711.05101).

    In the full profile the forward runs under bf16 autocast. Dropout, and batches that are drawn from torch's global generator,
    repeat with the seed; the generator's state is restored afterwards, and so is the model's mode.

    Args:
        model: is in training mode while it is trained; batches go to where its parameters are.
        batches: at least `steps` of them, each a tensor, or a dict, list or tuple of tensors.
        steps: steps of the optimizer, one a batch.
        lr: rate after warm-up, of every group that has none of its own.
        name: of the run, under build/runs (or LAB_RUNS), for `tensorboard --logdir build/runs`; an earlier run of that name
            is replaced. With LAB_WANDB=1 it goes to Weights & Biases as well, offline.
        weight_decay: decoupled, of every group that has none of its own.
        warmup: steps of linear warm-up.
        schedule: "constant", or "cosine" to zero.
        loss: loss(model, batch) -> scalar; by default `model(**batch).loss`.
        groups: parameter groups for the optimizer, such as LoRA+ has them; by default one group of all that is trainable.
        clip: largest 2-norm of the gradients of all parameters together; `math.inf` for none.
        seed: of torch's generators.
        log: False leaves no files, for a sweep of many short runs.

    Raises:
        ValueError: if nothing is trainable or the batches end too early.
        LabStop: if LAB_WANDB=1 and wandb is not installed.
    """
    trainable = list(filter(lambda p: p.requires_grad, model.parameters()))
    if not trainable:
        raise ValueError("no parameter of the model requires a gradient: there is nothing to train")
    place = trainable[0].device
    optimizer = torch.optim.AdamW(list(groups or [{"params": trainable}]), lr=lr, weight_decay=weight_decay)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule_factor(step, steps, warmup, schedule))
    history, source = History(), iter(batches)
    with ExitStack() as stack:
        logs = loggers(name, stack) if log else []
        stack.enter_context(seeded(seed))
        stack.callback(model.train, model.training)
        model.train()
        for step in progress(range(steps), desc=name):
            start = time.perf_counter()
            try:
                batch = moved(next(source), place)
            except StopIteration:
                raise ValueError(f"the batches ended after {step} of {steps} steps") from None
            with torch.autocast(place.type, torch.bfloat16, enabled=profile() == "full"):
                value = model(**batch).loss if loss is None else loss(model, batch)
            optimizer.zero_grad()
            value.backward()
            norm = nn.utils.clip_grad_norm_(trainable, clip)
            history.lr.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            rate.step()
            history.loss.append(value.item())  # waits for the GPU
            history.grad_norm.append(norm.item())
            history.seconds_per_step.append(time.perf_counter() - start)
            for write in logs:
                write({"loss": history.loss[-1], "lr": history.lr[-1], "grad_norm": history.grad_norm[-1]}, step)
    return history


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's generators begin at `seed` in the block, and go on behind it as if it had not been there."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def moved(batch: Any, place: torch.device) -> Any:
    """A batch, its tensors on a device: a tensor, or a dict, list or tuple of them."""
    if isinstance(batch, Tensor):
        return batch.to(place)
    if isinstance(batch, dict):
        return {key: moved(value, place) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return type(batch)(moved(value, place) for value in batch)
    return batch


def loggers(name: str, stack: ExitStack) -> list[Log]:
    """What writes a step's numbers; the stack closes it."""
    from torch.utils.tensorboard import SummaryWriter

    folder = Path(os.environ.get("LAB_RUNS") or ROOT / "build" / "runs") / name
    shutil.rmtree(folder, ignore_errors=True)
    logs: list[Log] = []
    with suppress(OSError):  # where a notebook may write nothing, there is no log
        folder.mkdir(parents=True)
        writer = SummaryWriter(str(folder))
        stack.callback(writer.close)

        def board(numbers: dict[str, float], step: int) -> None:
            for key, value in numbers.items():
                writer.add_scalar(key, value, step)

        logs.append(board)
    if os.environ.get("LAB_WANDB") == "1":
        try:
            import wandb
        except ImportError:
            raise LabStop(
                say(
                    "LAB_WANDB=1 needs wandb: run `pip install wandb`, or unset LAB_WANDB.",
                    "LAB_WANDB=1 需要 wandb：请运行 `pip install wandb`，或取消 LAB_WANDB。",
                )
            ) from None
        run = wandb.init(project="lora-graded", name=name, dir=str(folder.parent), mode="offline")
        stack.callback(run.finish)
        logs.append(lambda numbers, step: run.log(numbers, step=step))
    return logs
