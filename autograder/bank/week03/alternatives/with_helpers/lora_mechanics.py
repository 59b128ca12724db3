"""Helpers in a module beside this one; the configuration through tables; attention by torch's own function."""

import math
from dataclasses import dataclass, field, fields

import adapter_files
import torch
import torch.nn.functional as F
from torch import nn


def lora_delta(A, B, alpha, rslora=False):
    try:
        (r, _), (_, columns) = A.shape, B.shape
    except ValueError:
        raise ValueError("two matrices are needed") from None
    if r != columns:
        raise ValueError("the factors do not fit")
    return torch.matmul(B * _scaling(alpha, r, rslora), A)


def _scaling(alpha, rank, rslora):
    divisor = {True: math.sqrt(rank), False: float(rank)}
    return alpha / divisor[bool(rslora)]


def _is_factor(name):
    return any(part in adapter_files.FACTORS for part in name.split("."))


def mark_only_lora_trainable(model):
    flags = {name: _is_factor(name) for name, _ in model.named_parameters()}
    if True not in flags.values():
        raise ValueError("nothing would learn")
    total = 0
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(flags[name])
        if flags[name]:
            total += parameter.nelement()
        else:
            parameter.grad = None
    return total


_LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_NAMES = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout", "target_modules": "target_modules", "rslora": "use_rslora"}
_DEFAULTS = {"r": 8, "lora_alpha": 8, "lora_dropout": 0.0, "use_rslora": False}
_EMPTY = (None, False, {}, [], ())


@dataclass
class LoRAConfig:
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: list = field(default_factory=lambda: ["q_proj", "v_proj"])
    rslora: bool = False

    def __post_init__(self):
        targets = self.target_modules
        good = {
            "rank": isinstance(self.rank, int) and self.rank >= 1,
            "alpha": math.isfinite(self.alpha) and self.alpha > 0,
            "dropout": 0 <= self.dropout < 1,
            "target_modules": not isinstance(targets, str),
        }
        for name, fine in good.items():
            if not fine:
                raise ValueError(f"{name} = {getattr(self, name)!r}")
        self.target_modules = sorted({*targets})
        if not self.target_modules or self.target_modules[0] == "":
            raise ValueError("target_modules")

    @property
    def scaling(self):
        return _scaling(self.alpha, self.rank, self.rslora)

    @classmethod
    def preset(cls, name):
        match name:
            case "tiny":
                return cls(1, 2, 0.0, ["q_proj", "v_proj"])
            case "small":
                return cls(4, 8, 0.0, ["q_proj", "v_proj"])
            case "default":
                return cls(8, 16, 0.05, _LLAMA[:4])
            case "large":
                return cls(64, 16, 0.05, _LLAMA, True)
        raise ValueError(name)

    def to_peft(self):
        found = {_NAMES[f.name]: getattr(self, f.name) for f in fields(self)}
        found["target_modules"] = found["target_modules"].copy()
        return found | {"peft_type": "LORA", "bias": "none"}

    @classmethod
    def from_peft(cls, data):
        data = _DEFAULTS | dict(data)
        if data.get("peft_type") != "LORA":
            raise ValueError("peft_type")
        if data.get("bias", "none") != "none":
            raise ValueError("bias")
        for key in ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save"):
            if data.get(key) not in _EMPTY:
                raise ValueError(key)
        if data.get("target_modules") is None:
            raise ValueError("target_modules")
        return cls(**{ours: data[theirs] for ours, theirs in _NAMES.items()})


def save_adapter(model, config, folder):
    layers = adapter_files.layers_of(model)
    if not layers:
        raise ValueError("no LoRA layer")
    tensors = {}
    for path, layer in layers:
        if layer.lora_A.shape[0] != config.rank:
            raise ValueError(f"{path} has another rank")
        for factor in adapter_files.FACTORS:
            tensors[adapter_files.key_of(path, factor)] = torch.tensor(getattr(layer, factor).tolist(), dtype=layer.lora_A.dtype)
    adapter_files.write(folder, tensors, config.to_peft())


def load_adapter(model, folder):
    tensors, settings = adapter_files.read(folder)
    config = LoRAConfig.from_peft(settings)
    places = {
        adapter_files.key_of(path, factor): getattr(layer, factor)
        for path, layer in adapter_files.layers_of(model)
        for factor in adapter_files.FACTORS
    }
    if set(places) != set(tensors):
        raise ValueError("other layers")
    for key, parameter in places.items():
        rows = config.rank if "lora_A" in key else parameter.shape[0]
        if tuple(tensors[key].shape) != tuple(parameter.shape) or parameter.shape[0] != rows:
            raise ValueError(f"{key}: other shape or rank")
    for key, parameter in places.items():
        parameter.data[...] = tensors[key].to(parameter.dtype)
    for _, layer in adapter_files.layers_of(model):
        layer.alpha, layer.scaling = config.alpha, config.scaling
    return config


def _frozen(module):
    return module.requires_grad_(False)


class Adapter(nn.Module):
    def __init__(self, width, size, **like):
        super().__init__()
        if size < 1:
            raise ValueError("size")
        self.down = nn.Linear(width, size, **like)
        self.up = nn.Linear(size, width, **like)
        self.up.load_state_dict({k: torch.zeros_like(v) for k, v in self.up.state_dict().items()})

    def forward(self, u):
        z = self.down(u)
        return u + self.up(z * 0.5 * (1 + torch.erf(z / math.sqrt(2))))


class AdapterBlock(nn.Module):
    def __init__(self, layer, size):
        super().__init__()
        if not layer.self_attn.batch_first:
            raise ValueError("batch_first")
        self.layer = _frozen(layer)
        width, like = layer.linear1.in_features, {"dtype": layer.linear1.weight.dtype, "device": layer.linear1.weight.device}
        self.attention_adapter = Adapter(width, size, **like)
        self.feedforward_adapter = Adapter(width, size, **like)

    def attn(self, x, padding_mask):
        return self.layer.self_attn(x, x, x, key_padding_mask=padding_mask)[0]

    def ffn(self, x):
        layer = self.layer
        return layer.linear2(layer.activation(layer.linear1(x)))

    def forward(self, x, padding_mask=None):
        layer, a1, a2 = self.layer, self.attention_adapter, self.feedforward_adapter
        if layer.norm_first:
            h = x + a1(self.attn(layer.norm1(x), padding_mask))
            y = h + a2(self.ffn(layer.norm2(h)))
        else:
            h = layer.norm1(x + a1(self.attn(x, padding_mask)))
            y = layer.norm2(h + a2(self.ffn(h)))
        return y


class PromptTuning(nn.Module):
    def __init__(self, backbone, init):
        super().__init__()
        self.backbone = _frozen(backbone)
        self.prompt = nn.Parameter(init.data.clone())

    def forward(self, embeds, mask):
        length = len(self.prompt)
        first = torch.stack([self.prompt] * len(embeds))
        seen = torch.ones(first.shape[:2], dtype=torch.bool, device=mask.device)
        hidden = self.backbone(torch.hstack([first, embeds]), torch.hstack([seen, mask]))
        return torch.stack([h[length:][m].mean(0) for h, m in zip(hidden, mask)])


class PrefixTuning(nn.Module):
    def __init__(self, attention, length):
        super().__init__()
        if not length > 0:
            raise ValueError("length")
        self.attention = _frozen(attention)
        like = attention.k.weight
        self.prefix_k = nn.Parameter(like.new_empty(length, len(like)).normal_())
        self.prefix_v = nn.Parameter(like.new_empty(length, len(like)).normal_())

    def forward(self, x, mask=None):
        at, length, heads = self.attention, len(self.prefix_k), []
        queries, keys, values = at.q(x), at.k(x), at.v(x)
        d = queries.shape[-1] // at.num_heads
        for i in range(at.num_heads):
            part = slice(i * d, (i + 1) * d)
            k = torch.cat([self.prefix_k[:, part].expand(len(x), length, d), keys[..., part]], dim=1)
            v = torch.cat([self.prefix_v[:, part].expand(len(x), length, d), values[..., part]], dim=1)
            scores = queries[..., part] @ k.mT / math.sqrt(d)
            if mask is not None:
                bias = torch.zeros_like(scores[:, :1])
                bias[:, 0, length:].masked_fill_(~mask, float("-inf"))
                scores = scores + bias
            heads.append(F.softmax(scores, dim=-1) @ v)
        return at.o(torch.cat(heads, dim=-1))


class IA3(nn.Module):
    def __init__(self, base, on_input=False):
        super().__init__()
        self.base, self.on_input, self.merged = _frozen(base), on_input, False
        size = base.in_features if on_input else base.out_features
        self.scale = nn.Parameter(torch.ones(size).to(base.weight))

    def _weights(self):
        weight, bias = self.base.weight, self.base.bias
        if self.on_input:
            return weight @ torch.diag(self.scale), bias
        return torch.diag(self.scale) @ weight, None if bias is None else self.scale * bias

    def forward(self, x):
        return self.base(x) if self.merged else F.linear(x, *self._weights())

    def merge(self):
        if self.merged:
            return
        weight, bias = self._weights()
        self.base.weight.data.copy_(weight.detach())
        if bias is not None:
            self.base.bias.data.copy_(bias.detach())
        self.merged = True
