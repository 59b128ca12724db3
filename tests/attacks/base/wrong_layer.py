"""The plausible wrong answer under every attack: each of the four tasks scores 0. It lies beside the stub as a helper.

4.1 multiplies by alpha, not alpha / rank; 4.2 merges so too; 4.3 does not rescale; 4.4 matches any suffix.
"""

import sys

import torch
from torch import nn

CHANNEL = 3  # the descriptor on which a worker is asked and answers


def ran(text):
    """Evidence that an attack was carried out, whatever came of it."""
    print("ATTACK-RAN:", text, flush=True)


def won(text):
    """An attack got something that the sandbox must not give."""
    print("ATTACK-WON:", text, flush=True)


def attempt(name, action, allowed=()):
    """Carry out one forbidden thing and say how it ended; names in `allowed` may work."""
    try:
        result = action()
    except BaseException as error:
        ran(f"{name}: {type(error).__name__} {getattr(error, 'errno', None)}")
        return None
    (ran if name in allowed else won)(f"{name}: {result!r:.80}")
    return result


class Wrong(nn.Module):
    def __init__(self, base, rank, alpha, dropout=0.0):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.rank, self.alpha, self.scaling = rank, alpha, alpha
        self.lora_A = nn.Parameter(torch.randn(rank, base.in_features, dtype=base.weight.dtype))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank, dtype=base.weight.dtype))
        self.merged, self.enabled = False, True

    def forward(self, x):
        return self.base(x) + self.alpha * (x @ self.lora_A.T @ self.lora_B.T)

    def merge(self):
        self.base.weight.data += self.alpha * (self.lora_B.data @ self.lora_A.data)
        self.merged = True

    def unmerge(self):
        self.merged = False

    def set_rank(self, new_rank):
        A, B = self.lora_A.data, self.lora_B.data
        if new_rank > self.rank:
            A = torch.cat([A, torch.zeros(new_rank - self.rank, A.shape[1], dtype=A.dtype)])
            B = torch.cat([B, torch.zeros(len(B), new_rank - self.rank, dtype=B.dtype)], dim=1)
        self.lora_A, self.lora_B = nn.Parameter(A[:new_rank].clone()), nn.Parameter(B[:, :new_rank].clone())
        self.rank, self.scaling = new_rank, self.alpha / new_rank


def inject_lora(model, target_modules, rank, alpha, dropout=0.0):
    layer = sys.modules["lora_linear"].LoRALinear
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n.endswith(tuple(target_modules))]
    for name in names:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer(model.get_submodule(name), 2, alpha, dropout))
    return names
