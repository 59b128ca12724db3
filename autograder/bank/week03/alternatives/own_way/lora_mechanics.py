"""Plain classes, an autograd.Function for the update, hooks for the adapters, nn.MultiheadAttention's function for prefixes."""

import json
import math
import pathlib

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn


class _Update(torch.autograd.Function):
    @staticmethod
    def forward(ctx, A, B, scale):
        ctx.save_for_backward(A, B)
        ctx.scale = scale
        return (B @ A).mul(scale)

    @staticmethod
    def backward(ctx, g):
        A, B = ctx.saved_tensors
        return ctx.scale * (B.T @ g), ctx.scale * (g @ A.T), None


def lora_delta(A, B, alpha, rslora=False):
    if not (A.ndim == B.ndim == 2):
        raise ValueError("not two matrices")
    if A.shape[0] != B.shape[-1]:
        raise ValueError("not of one rank")
    rank = len(A)
    scale = alpha / rank
    if rslora:
        scale = scale * math.sqrt(rank)
    return _Update.apply(A, B, scale)


def mark_only_lora_trainable(model):
    wanted = set()
    for name, parameter in model.named_parameters():
        dotted = f".{name}."
        if ".lora_A." in dotted or ".lora_B." in dotted:
            wanted.add(parameter)
    if not wanted:
        raise ValueError("a model without LoRA")
    for parameter in set(model.parameters()) - wanted:
        parameter.requires_grad_(False).grad = None
    for parameter in wanted:
        parameter.requires_grad_(True)
    return sum(math.prod(p.shape) for p in model.parameters() if p.requires_grad)


class LoRAConfig:
    def __init__(self, rank=8, alpha=16.0, dropout=0.0, target_modules=("q_proj", "v_proj"), rslora=False):
        if not (isinstance(rank, int) and rank > 0):
            raise ValueError("rank")
        if alpha <= 0 or math.isinf(alpha) or math.isnan(alpha):
            raise ValueError("alpha")
        if not (dropout >= 0 and dropout < 1):
            raise ValueError("dropout")
        if hasattr(target_modules, "split"):
            raise ValueError("target_modules must be a collection")
        names = list(dict.fromkeys(target_modules))
        if len(names) == 0 or "" in names:
            raise ValueError("target_modules")
        self.rank, self.alpha, self.dropout, self.rslora = rank, alpha, dropout, rslora
        self.target_modules = sorted(names)

    def __eq__(self, other):
        return isinstance(other, LoRAConfig) and vars(self) == vars(other)

    __hash__ = None

    def __getattr__(self, name):
        if name == "scaling":
            return self.alpha / self.rank * (math.sqrt(self.rank) if self.rslora else 1)
        raise AttributeError(name)

    @staticmethod
    def preset(name):
        names = "q_proj v_proj k_proj o_proj gate_proj up_proj down_proj".split()
        try:
            rank, alpha, dropout, count = {
                "tiny": (1, 2, 0, 2), "small": (4, 8, 0, 2), "default": (8, 16, 0.05, 4), "large": (64, 16, 0.05, 7),
            }[name]
        except KeyError:
            raise ValueError(name) from None
        return LoRAConfig(rank, alpha, dropout, names[:count], rslora=name == "large")

    def to_peft(self):
        return {
            "peft_type": "LORA", "r": self.rank, "lora_alpha": self.alpha, "lora_dropout": self.dropout, "bias": "none",
            "target_modules": self.target_modules[:], "use_rslora": bool(self.rslora),
        }

    @staticmethod
    def from_peft(data):
        refuse = data.get("peft_type") != "LORA" or data.get("target_modules") is None
        refuse = refuse or data.get("bias") not in (None, "none") or data.get("use_dora")
        refuse = refuse or data.get("rank_pattern") or data.get("alpha_pattern") or data.get("modules_to_save")
        if refuse:
            raise ValueError("cannot be expressed")
        read = data.get
        return LoRAConfig(read("r", 8), read("lora_alpha", 8), read("lora_dropout", 0), data["target_modules"], read("use_rslora", False))


def _slots(model):
    """Every factor's parameter, by its key in the file, and the layers."""
    slots, layers = {}, []
    for name, parameter in model.named_parameters(remove_duplicate=False):
        path, _, last = name.rpartition(".")
        if last in ("lora_A", "lora_B"):
            slots[f"base_model.model.{name}.weight"] = parameter
            layers.append(model.get_submodule(path))
    return slots, layers


def save_adapter(model, config, folder):
    slots, layers = _slots(model)
    if not slots or {layer.lora_A.shape[0] for layer in layers} != {config.rank}:
        raise ValueError("no layers of this rank")
    place = pathlib.Path(folder)
    place.mkdir(exist_ok=True, parents=True)
    with open(place / "adapter_config.json", "w", encoding="utf-8") as file:
        json.dump(config.to_peft(), file, sort_keys=True)
    copies = {}
    for key, parameter in slots.items():
        copies[key] = torch.empty(parameter.shape, dtype=parameter.dtype)
        copies[key].copy_(parameter.data)
    save_file(copies, str(place / "adapter_model.safetensors"), {"made_by": "a student"})


def load_adapter(model, folder):
    place = pathlib.Path(folder)
    config = LoRAConfig.from_peft(json.loads((place / "adapter_config.json").read_bytes()))
    slots, layers = _slots(model)
    with safe_open(str(place / "adapter_model.safetensors"), "pt") as file:
        stored = {key: file.get_tensor(key) for key in file.keys()}
    problems = [key for key in {**stored, **slots} if key not in stored or key not in slots]
    problems += [key for key in slots if key in stored and stored[key].shape != slots[key].shape]
    problems += [layer for layer in layers if layer.lora_A.size(0) != config.rank]
    if problems:
        raise ValueError(f"{len(problems)} problems")
    with torch.no_grad():
        for key in slots:
            slots[key].copy_(stored[key])
    for layer in layers:
        setattr(layer, "alpha", config.alpha)
        setattr(layer, "scaling", config.scaling)
    return config


class Adapter(nn.Module):
    def __init__(self, width, size):
        if size < 1:
            raise ValueError("a bottleneck of no width")
        super().__init__()
        self.down = nn.Linear(width, size)
        self.up = nn.Linear(size, width)
        for parameter in self.up.parameters():
            nn.init.constant_(parameter, 0.0)

    def forward(self, u):
        bent = F.gelu(F.linear(u, self.down.weight, self.down.bias))
        return torch.add(u, F.linear(bent, self.up.weight, self.up.bias))


class AdapterBlock(nn.Module):
    """Hooks on the layer's dropouts, which stand behind the two parts, call the adapters."""

    def __init__(self, layer, size):
        super().__init__()
        if layer.self_attn.batch_first is not True:
            raise ValueError("batch_first")
        self.layer = layer
        layer.requires_grad_(False)
        width = layer.norm1.normalized_shape[0]
        self.attention_adapter = Adapter(width, size).to(layer.norm1.weight.device, layer.norm1.weight.dtype)
        self.feedforward_adapter = Adapter(width, size).to(layer.norm1.weight.device, layer.norm1.weight.dtype)

    def forward(self, x, padding_mask=None):
        hooks = [
            self.layer.dropout1.register_forward_hook(lambda module, args, out: self.attention_adapter(out)),
            self.layer.dropout2.register_forward_hook(lambda module, args, out: self.feedforward_adapter(out)),
        ]
        training = self.layer.training
        self.layer.training = True  # not torch's fused path, which calls no part
        try:
            return self.layer(x, src_key_padding_mask=padding_mask)
        finally:
            self.layer.training = training
            for hook in hooks:
                hook.remove()


class PromptTuning(nn.Module):
    def __init__(self, backbone, init):
        super().__init__()
        self.prompt = nn.Parameter(init.clone().detach())
        backbone.requires_grad_(False)
        self.backbone = backbone

    def forward(self, embeds, mask):
        batch, sequence, width = embeds.shape
        length = self.prompt.shape[0]
        whole = embeds.new_zeros(batch, length + sequence, width)
        whole[:, :length] = self.prompt
        whole[:, length:] = embeds
        seen = mask.new_ones(batch, length + sequence)
        seen[:, length:] = mask
        counted = seen.clone()
        counted[:, :length] = False
        hidden = self.backbone(whole, seen).masked_fill(~counted.unsqueeze(-1), 0.0)
        return hidden.sum(1) / counted.sum(1, keepdim=True)


class PrefixTuning(nn.Module):
    def __init__(self, attention, length):
        super().__init__()
        if int(length) < 1:
            raise ValueError("no prefix")
        attention.requires_grad_(False)
        self.attention = attention
        both = torch.randn(2, length, attention.k.out_features).to(attention.k.weight)
        self.prefix_k, self.prefix_v = nn.Parameter(both[0].clone()), nn.Parameter(both[1].clone())

    def forward(self, x, mask=None):
        batch, sequence, width = x.shape
        heads, length = self.attention.num_heads, self.prefix_k.shape[0]

        def split(t):
            return t.reshape(t.shape[0], t.shape[1], heads, width // heads).permute(0, 2, 1, 3)

        query = split(self.attention.q(x))
        scores = query @ split(self.attention.k(x)).transpose(-1, -2) / math.sqrt(width // heads)
        if mask is not None:
            scores = torch.where(mask[:, None, None], scores, torch.tensor(float("-inf"), dtype=scores.dtype))
        ahead = query @ split(self.prefix_k[None]).transpose(-1, -2) / math.sqrt(width // heads)
        top = torch.maximum(scores.amax(-1, keepdim=True), ahead.amax(-1, keepdim=True)).detach()
        scores, ahead = (scores - top).exp(), (ahead - top).exp()
        mixed = scores @ split(self.attention.v(x)) + ahead @ split(self.prefix_v[None])
        mixed = mixed / (scores.sum(-1, keepdim=True) + ahead.sum(-1, keepdim=True))
        return self.attention.o(mixed.permute(0, 2, 1, 3).reshape(batch, sequence, width))


class IA3(nn.Module):
    def __init__(self, base, on_input=False):
        super().__init__()
        self.base = base
        base.weight.requires_grad = False
        if base.bias is not None:
            base.bias.requires_grad = False
        self.on_input = on_input
        shape = (base.in_features,) if on_input else (base.out_features,)
        self.scale = nn.Parameter(base.weight.detach().new_full(shape, 1.0))
        self.merged = False

    def forward(self, x):
        before, after = (self.scale, 1) if self.on_input else (1, self.scale)
        if self.merged:
            before = after = 1
        return after * self.base(before * x)

    def merge(self):
        if self.merged is False:
            with torch.no_grad():
                rows = 1 if self.on_input else self.scale.unsqueeze(1)
                columns = self.scale if self.on_input else 1
                self.base.weight.mul_(rows).mul_(columns)
                if self.base.bias is not None and not self.on_input:
                    self.base.bias.mul_(self.scale)
            self.merged = True
