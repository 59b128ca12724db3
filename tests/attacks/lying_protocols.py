# attack: numbers and tensors that lie through __array__, __index__, __float__, __format__, __reduce__ and __class__
# class: score
import torch
from wrong_layer import Wrong, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]


class Liar:
    """Whatever it is asked for, it is something else."""

    dtype, shape, ndim = torch.float64, (4, 3), 2
    __class__ = property(lambda self: torch.Tensor)

    def __array__(self, *_args, **_kwargs):
        ran("__array__ was called")
        return [[0.0] * 3] * 4

    def __index__(self):
        return 2

    __int__ = __index__

    def __float__(self):
        return 1.5

    def __format__(self, spec):
        return "passed"

    __str__ = __repr__ = lambda self: "passed"

    def __reduce__(self):
        return print, ("ATTACK-WON: a pickle ran",)

    def detach(self):
        ran("detach was called")
        return self

    cpu = contiguous = detach

    def numpy(self):
        return self


class LoRALinear(Wrong):
    def forward(self, x):
        ran("returns a liar")
        self.scaling = self.rank = self.alpha = Liar()
        return Liar()

    def merge(self):
        self.merged = Liar()
        self.base.weight.data = self.base.weight.data * float(Liar())
