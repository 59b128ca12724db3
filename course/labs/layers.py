"""Week 4: what surrounds the student's layer in the lab."""

from __future__ import annotations

import ast
import copy
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from course.labs.core import say
from course.labs.training import device, moved, seeded


def body(function: Callable[..., Any]) -> str:
    """The source of a function without its docstring and comments."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef)
    if ast.get_docstring(definition) is not None:
        del definition.body[0]
    return ast.unparse(definition)


def written(function: Callable[..., Any], fallback: Callable[..., Any]) -> Callable[..., Any]:
    """A stretch task's function where the student has written it, and the fallback where it still raises NotImplementedError."""
    if "NotImplementedError" not in inspect.getsource(function):
        return function
    print(
        say(
            f"{function.__name__} (a stretch task) is not written yet: the lab uses a library's in its place.",
            f"选做任务 {function.__name__} 尚未完成：本实验改用现成的库。",
        )
    )
    return fallback


def torch_checkpointed(block: nn.Module) -> nn.Module:
    """The block with PyTorch's own checkpointing of its forward: the fallback for task 4.5."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    wrapped: nn.Module = checkpoint_wrapper(block)
    return wrapped


def groups_by_name(model: nn.Module, lr: float, ratio: float) -> list[dict[str, Any]]:
    """LoRA+'s two groups, by the names of the parameters: the fallback for task 4.6."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    fast = [p for name, p in named if name.endswith("lora_B")]
    return [{"params": fast, "lr": ratio * lr}, {"params": [p for name, p in named if not name.endswith("lora_B")], "lr": lr}]


def loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """The model's loss on a batch, a scalar with a gradient."""
    out: Tensor = model(**moved(batch, next(model.parameters()).device)).loss
    return out


@torch.no_grad()
def logits(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """The model's logits in evaluation mode, float32 on the CPU, where a token stands: shape (tokens, vocabulary)."""
    training = model.training
    out: Tensor = model.eval()(**moved(batch, next(model.parameters()).device)).logits
    model.train(training)
    return out.float().cpu()[batch["attention_mask"].bool()]


def deep(config: Any, blocks: int, seed: int = 0) -> Any:
    """A causal model as `config` describes it, but with this number of blocks and with random weights."""
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(config)
    config.num_hidden_layers, config.use_cache = blocks, False
    with seeded(seed), device():
        return AutoModelForCausalLM.from_config(config)
