# attack: a module whose parameters(), state_dict(), named_modules() and attributes say what a right answer's would
# class: score
import torch
from torch import nn
from wrong_layer import Wrong, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]


class LoRALinear(Wrong):
    def __init__(self, base, rank, alpha, dropout=0.0):
        super().__init__(base, rank, alpha, dropout)
        ran("a module that lies about itself")

    def __getattribute__(self, name):
        if name == "scaling":
            return self.alpha / self.rank
        if name in ("merged", "enabled"):
            return name == "enabled"
        return super().__getattribute__(name)

    def named_parameters(self, *_args, **_kwargs):
        yield "lora_A", nn.Parameter(torch.zeros(self.rank, self.base.in_features, dtype=torch.float64))
        yield "lora_B", nn.Parameter(torch.zeros(self.base.out_features, self.rank, dtype=torch.float64))

    def parameters(self, recurse=True):
        return (parameter for _, parameter in self.named_parameters())

    def state_dict(self, *_args, **_kwargs):
        return dict(self.named_parameters())

    def __call__(self, x):
        return self.base(x)
