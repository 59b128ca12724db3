# attack: keeps what it saw in one check or task (globals, builtins, files, other modules) and answers with it in the next
# class: score
import builtins
import os
import sys

import torch
from wrong_layer import Wrong, inject_lora, ran

__all__ = ["LoRALinear", "inject_lora"]
kept = builtins.__dict__.setdefault("kept_by_an_attack", {})
sys.modules.setdefault("kept_by_an_attack", type(sys)("kept_by_an_attack")).answers = kept
PLACE = os.path.join(os.environ["TMPDIR"], "attack-marker-kept")
if os.path.exists(PLACE):
    print("ATTACK-WON: a file of an earlier task is there")


class LoRALinear(Wrong):
    def forward(self, x):
        y = super().forward(x)
        before = kept.get(tuple(y.shape))
        kept[tuple(y.shape)] = y.detach().clone()
        torch.save(y.detach(), PLACE)
        ran(f"{len(kept)} answers kept")
        return y if before is None else before
