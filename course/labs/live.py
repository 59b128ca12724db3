"""How many bytes of tensors a computation holds: exact, also on a CPU, where the resident set of the process says little."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveTensors(TorchDispatchMode):
    """Counts the tensors that arise in a `with` block and are still alive; those that were there before do not count.

    Attributes:
        bytes: after each operation of the block, in order, backward pass included.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes: list[int] = []
        self._alive: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._sum = 0

    @property
    def now(self) -> float:
        """Bytes alive at this moment."""
        return self._sum

    @property
    def peak(self) -> int:
        """The most bytes that were alive at once."""
        return max(self.bytes, default=0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and id(tensor.untyped_storage()) not in given:
                self._note(tensor.untyped_storage())
        self.bytes.append(self._sum)
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)
        if key not in self._alive:
            self._alive[key] = (weakref.ref(storage, lambda _: self._forget(key)), storage.nbytes())
            self._sum += storage.nbytes()

    def _forget(self, key: int) -> None:
        self._sum -= self._alive.pop(key)[1]
