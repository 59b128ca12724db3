# attack: NaN and infinity in every output, parameter and number, for comparisons that are all false
# class: score
import torch
from wrong_layer import Wrong, ran

NAN, INF = float("nan"), float("inf")


class LoRALinear(Wrong):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.scaling = self.alpha = NAN

    def forward(self, x):
        ran("forward is NaN")
        return super().forward(x) * NAN

    def merge(self):
        self.base.weight.data.fill_(NAN)

    def unmerge(self):
        self.base.weight.data.fill_(INF)

    def set_rank(self, new_rank):
        super().set_rank(new_rank)
        self.lora_A.data.fill_(NAN)
        self.lora_B.data.fill_(-INF)


def inject_lora(model, target_modules, rank, alpha, dropout=0.0):
    for parameter in model.parameters():
        parameter.data = torch.full_like(parameter.data, NAN)
    return [NAN] * 100


ran("ready")
