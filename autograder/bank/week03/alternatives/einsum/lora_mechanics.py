"""Einsum and explicit softmax; state dicts for the adapter; the layer's own sub-blocks for the adapters."""

import json
import os
from dataclasses import dataclass

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn


def lora_delta(A, B, alpha, rslora=False):
    if A.dim() != 2 or B.dim() != 2:
        raise ValueError("A and B must be matrices")
    r = A.size(0)
    if B.size(1) != r:
        raise ValueError("A and B have different ranks")
    power = 0.5 if rslora else 1
    return torch.einsum("or,ri->oi", B, A) * (alpha * r**-power)


def mark_only_lora_trainable(model):
    trainable, count = [], 0
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        if "lora_A" in parts or "lora_B" in parts:
            trainable.append(parameter)
    if len(trainable) == 0:
        raise ValueError("no LoRA parameters")
    for parameter in model.parameters():
        if not any(parameter is t for t in trainable):
            parameter.requires_grad = False
            parameter.grad = None
    for parameter in trainable:
        parameter.requires_grad = True
        count += parameter.numel()
    return count


PRESETS = {
    "tiny": {"rank": 1, "alpha": 2, "target_modules": ["q_proj", "v_proj"]},
    "small": {"rank": 4, "alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    "default": {"rank": 8, "alpha": 16, "dropout": 0.05, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
    "large": {
        "rank": 64, "alpha": 16, "dropout": 0.05, "rslora": True,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    },
}


@dataclass(frozen=True)
class LoRAConfig:
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: object = ("q_proj", "v_proj")
    rslora: bool = False

    def __post_init__(self):
        if type(self.rank) is not int or self.rank <= 0:
            raise ValueError("rank")
        if not (self.alpha > 0 and self.alpha != float("inf")):
            raise ValueError("alpha")
        if not 0 <= self.dropout < 1:
            raise ValueError("dropout")
        if type(self.target_modules) is str:
            raise ValueError("target_modules is one string")
        names = []
        for name in self.target_modules:
            if name == "":
                raise ValueError("empty name")
            if name not in names:
                names.append(name)
        if not names:
            raise ValueError("no target")
        names.sort()
        object.__setattr__(self, "target_modules", names)

    @property
    def scaling(self):
        if self.rslora:
            return self.alpha / self.rank**0.5
        return self.alpha / self.rank

    @classmethod
    def preset(cls, name):
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name}")
        return cls(**PRESETS[name])

    def to_peft(self):
        return dict(
            peft_type="LORA",
            bias="none",
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            use_rslora=self.rslora,
            target_modules=[*self.target_modules],
        )

    @classmethod
    def from_peft(cls, data):
        if "peft_type" not in data or data["peft_type"] != "LORA":
            raise ValueError("not LoRA")
        if data.get("bias", "none") != "none":
            raise ValueError("trained biases")
        if data.get("use_dora"):
            raise ValueError("DoRA")
        for key in ("rank_pattern", "alpha_pattern", "modules_to_save"):
            if data.get(key):
                raise ValueError(key)
        targets = data.get("target_modules")
        if targets is None:
            raise ValueError("no target_modules")
        return cls(
            data.get("r", 8), data.get("lora_alpha", 8), data.get("lora_dropout", 0.0), targets, data.get("use_rslora", False)
        )


def _holders(model):
    return [
        (name, module)
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(getattr(module, "lora_A", None), nn.Parameter) and isinstance(getattr(module, "lora_B", None), nn.Parameter)
    ]


def save_adapter(model, config, folder):
    tensors = {}
    for key, value in model.state_dict().items():
        if key.endswith((".lora_A", ".lora_B")):
            tensors["base_model.model." + key + ".weight"] = value.contiguous().clone()
    if not tensors:
        raise ValueError("no LoRA layers")
    for key, value in tensors.items():
        if ".lora_A." in key and value.shape[0] != config.rank:
            raise ValueError("rank")
    os.makedirs(folder, exist_ok=True)
    save_file(tensors, os.path.join(folder, "adapter_model.safetensors"))
    with open(os.path.join(folder, "adapter_config.json"), "w") as file:
        json.dump(config.to_peft(), file)


def load_adapter(model, folder):
    with open(os.path.join(folder, "adapter_config.json")) as file:
        config = LoRAConfig.from_peft(json.load(file))
    values = {}
    with safe_open(os.path.join(folder, "adapter_model.safetensors"), framework="pt") as file:
        for key in file.keys():
            values[key] = file.get_tensor(key)
    waiting = []
    for name, module in _holders(model):
        if module.lora_A.shape[0] != config.rank:
            raise ValueError("the ranks differ")
        for factor in ("lora_A", "lora_B"):
            key = f"base_model.model.{name}.{factor}.weight"
            if key not in values:
                raise ValueError(f"{key} is missing")
            waiting.append((getattr(module, factor), values.pop(key)))
    if values:
        raise ValueError(f"not in the model: {list(values)}")
    for parameter, value in waiting:
        if parameter.shape != value.shape:
            raise ValueError("the shapes differ")
    with torch.no_grad():
        for parameter, value in waiting:
            parameter.copy_(value)
    for _, module in _holders(model):
        module.alpha = config.alpha
        module.scaling = config.scaling
    return config


class Adapter(nn.Module):
    def __init__(self, width, size):
        super().__init__()
        if size <= 0:
            raise ValueError("size")
        self.down = nn.Linear(width, size)
        self.act = nn.GELU()
        self.up = nn.Linear(size, width)
        with torch.no_grad():
            self.up.weight.zero_()
            self.up.bias.zero_()

    def forward(self, u):
        return self.up(self.act(self.down(u))) + u


class AdapterBlock(nn.Module):
    def __init__(self, layer, size):
        super().__init__()
        if not layer.self_attn.batch_first:
            raise ValueError("batch_first")
        for parameter in layer.parameters():
            parameter.requires_grad = False
        self.layer = layer
        weight = layer.norm1.weight
        self.attention_adapter = Adapter(weight.numel(), size).to(dtype=weight.dtype, device=weight.device)
        self.feedforward_adapter = Adapter(weight.numel(), size).to(dtype=weight.dtype, device=weight.device)

    def forward(self, x, padding_mask=None):
        layer = self.layer
        first = layer.norm1 if layer.norm_first else nn.Identity()
        second = layer.norm2 if layer.norm_first else nn.Identity()
        x = x + self.attention_adapter(layer._sa_block(first(x), None, padding_mask))
        if not layer.norm_first:
            x = layer.norm1(x)
        x = x + self.feedforward_adapter(layer._ff_block(second(x)))
        if not layer.norm_first:
            x = layer.norm2(x)
        return x


class PromptTuning(nn.Module):
    def __init__(self, backbone, init):
        super().__init__()
        for parameter in backbone.parameters():
            parameter.requires_grad = False
        self.backbone = backbone
        self.prompt = nn.Parameter(torch.empty_like(init))
        self.prompt.data.copy_(init)

    def forward(self, embeds, mask):
        n = self.prompt.shape[0]
        prompts = self.prompt.unsqueeze(0).repeat(embeds.shape[0], 1, 1)
        ones = torch.ones(embeds.shape[0], n, dtype=mask.dtype, device=mask.device)
        hidden = self.backbone(torch.cat((prompts, embeds), 1), torch.cat((ones, mask), 1))
        weights = mask.to(embeds.dtype)
        weights = weights / weights.sum(1, keepdim=True)
        return torch.einsum("bs,bsw->bw", weights, hidden[:, n:, :])


class PrefixTuning(nn.Module):
    def __init__(self, attention, length):
        super().__init__()
        if length <= 0:
            raise ValueError("length")
        for parameter in attention.parameters():
            parameter.requires_grad = False
        self.attention = attention
        like = attention.k.weight
        width = like.shape[1]
        self.prefix_k = nn.Parameter(torch.rand(length, width, dtype=like.dtype, device=like.device) - 0.5)
        self.prefix_v = nn.Parameter(torch.rand(length, width, dtype=like.dtype, device=like.device) - 0.5)

    def forward(self, x, mask=None):
        b, s, w = x.shape
        h, p = self.attention.num_heads, self.prefix_k.shape[0]
        q = self.attention.q(x).view(b, s, h, w // h)
        k = self.attention.k(x).view(b, s, h, w // h)
        v = self.attention.v(x).view(b, s, h, w // h)
        pk, pv = self.prefix_k.view(p, h, w // h), self.prefix_v.view(p, h, w // h)
        scores = torch.cat([torch.einsum("bqhd,phd->bhqp", q, pk), torch.einsum("bqhd,bkhd->bhqk", q, k)], -1)
        scores = scores / (w // h) ** 0.5
        if mask is not None:
            hidden = torch.cat([mask.new_zeros(b, p), ~mask], -1)
            scores = scores.masked_fill(hidden[:, None, None, :], -torch.inf)
        weights = scores.softmax(-1)
        mixed = torch.einsum("bhqp,phd->bqhd", weights[..., :p], pv) + torch.einsum("bhqk,bkhd->bqhd", weights[..., p:], v)
        return self.attention.o(mixed.reshape(b, s, w))


class IA3(nn.Module):
    def __init__(self, base, on_input=False):
        super().__init__()
        for parameter in base.parameters():
            parameter.requires_grad = False
        self.base = base
        self.on_input = on_input
        size = base.weight.shape[1 if on_input else 0]
        self.scale = nn.Parameter(torch.ones(size, dtype=base.weight.dtype, device=base.weight.device))
        self.merged = False

    def forward(self, x):
        if not self.merged and self.on_input:
            x = torch.einsum("...i,i->...i", x, self.scale)
        y = self.base(x)
        if not self.merged and not self.on_input:
            y = torch.einsum("...o,o->...o", y, self.scale)
        return y

    @torch.no_grad()
    def merge(self):
        if not self.merged:
            letters = "oi,i->oi" if self.on_input else "oi,o->oi"
            self.base.weight.copy_(torch.einsum(letters, self.base.weight, self.scale))
            if not self.on_input and self.base.bias is not None:
                self.base.bias.mul_(self.scale)
            self.merged = True
