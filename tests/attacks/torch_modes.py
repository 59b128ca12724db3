# attack: a global mode of torch that answers every comparison with true and every later operation with the input
# class: score
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from wrong_layer import Wrong, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]
YES = ("eq", "equal", "allclose", "isclose", "isfinite", "all")


class Functions(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in YES:
            return True
        return func(*args, **(kwargs or {}))


class Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.is_floating_point() and "clone" in str(func):
            return torch.zeros_like(result)
        return result


class LoRALinear(Wrong):
    def forward(self, x):
        y = super().forward(x)
        Functions().__enter__()
        Dispatch().__enter__()
        ran(f"a mode is on: {torch.equal(torch.ones(1), torch.zeros(1))}")
        return y
