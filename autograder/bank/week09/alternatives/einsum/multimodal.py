"""Patches and einsum for the convolution, loops over samples for the loss, one stacked update for a blend."""

import math

import torch
import torch.nn as nn


class LoRAConv2d(nn.Module):
    def __init__(self, base: nn.Conv2d, rank: int, alpha: float):
        super().__init__()
        ok = base.groups == 1 and base.padding_mode == "zeros" and 0 < rank <= base.out_channels
        kh, kw = base.kernel_size
        if not ok or rank > base.in_channels * kh * kw:
            raise ValueError("this convolution, or this rank, has no LoRA here")
        base.weight.requires_grad = False
        if base.bias is not None:
            base.bias.requires_grad = False
        self.base, self.rank, self.alpha, self.merged = base, rank, alpha, False
        self.scaling = alpha / rank
        like = {"dtype": base.weight.dtype, "device": base.weight.device}
        self.lora_A = nn.Parameter(torch.empty(rank, base.in_channels, kh, kw, **like).normal_(std=0.02))
        self.lora_B = nn.Parameter(torch.zeros(base.out_channels, rank, 1, 1, **like))

    def forward(self, x):
        out = self.base(x)
        if not self.merged:
            c = self.base
            hidden = nn.functional.conv2d(x, self.lora_A, stride=c.stride, padding=c.padding, dilation=c.dilation)
            out = out + torch.einsum("or,brhw->bohw", self.lora_B.flatten(1), hidden * self.scaling)
        return out

    def change(self, sign):
        with torch.no_grad():
            dW = torch.einsum("orxy,rihw->oihw", self.lora_B, self.lora_A) * self.scaling
            self.base.weight += sign * dW
        self.merged = sign > 0

    def merge(self):
        if not self.merged:
            self.change(1.0)

    def unmerge(self):
        if self.merged:
            self.change(-1.0)


def diffusion_loss(model, x0, timesteps, noise, alphas_cumprod):
    if tuple(noise.shape) != tuple(x0.shape) or tuple(timesteps.shape) != (x0.shape[0],):
        raise ValueError("shapes")
    steps = timesteps.tolist()
    if any(not 0 <= s < alphas_cumprod.numel() for s in steps):
        raise ValueError("timesteps")
    abars = alphas_cumprod.tolist()
    noisy = torch.stack([x * math.sqrt(abars[s]) + n * math.sqrt(1 - abars[s]) for x, n, s in zip(x0, noise, steps)])
    predicted = model(noisy, timesteps)
    return torch.sum((noise - predicted) * (noise - predicted)) / x0.numel()


def ddim_step(x_t, eps, t, t_prev, alphas_cumprod, eta=0.0, noise=None):
    if t not in range(len(alphas_cumprod)) or t_prev not in range(-1, t):
        raise ValueError("no such step")
    if not 0.0 <= eta <= 1.0:
        raise ValueError("eta")
    if eta > 0 and noise is None:
        raise ValueError("noise is missing")
    a = alphas_cumprod[t].item()
    b = 1.0 if t_prev == -1 else alphas_cumprod[t_prev].item()
    sigma = eta * ((1 - b) / (1 - a)) ** 0.5 * (1 - a / b) ** 0.5
    clean = (x_t - (1 - a) ** 0.5 * eps) / a**0.5
    direction = (1 - b - sigma * sigma) ** 0.5 * eps
    result = clean * b**0.5 + direction
    if eta > 0:
        result += sigma * noise
    return result


class StyleBlender:
    def __init__(self, model, styles):
        linears = {n: m for n, m in model.named_modules() if type(m) is nn.Linear}
        self.updates = {}  # layer name -> {style: (scaling, B, A)}
        self.kept = {}
        self.known = list(styles)
        for style, layers in styles.items():
            for name, parts in layers.items():
                if name not in linears:
                    raise ValueError(f"{name} is no Linear of this model")
                A, B, alpha = parts["lora_A"], parts["lora_B"], parts["alpha"]
                lin = linears[name]
                if [*A.shape] != [A.shape[0], lin.in_features] or [*B.shape] != [lin.out_features, A.shape[0]]:
                    raise ValueError(f"{name} has other shapes")
                self.updates.setdefault(name, {})[style] = (alpha / A.shape[0], B, A)
                self.kept.setdefault(name, (lin, lin.weight.detach().clone()))

    @torch.no_grad()
    def blend_styles(self, scales):
        if not set(scales) <= set(self.known):
            raise ValueError("unknown style")
        for name, (lin, start) in self.kept.items():
            work = torch.float64 if start.dtype == torch.float64 else torch.float32
            used = [(scales[s], *u) for s, u in self.updates[name].items() if s in scales]
            lin.weight.copy_(start)
            if used:
                # one product of the stacked factors
                B = torch.cat([scale * scaling * b.to(work) for scale, scaling, b, _ in used], dim=1)
                A = torch.cat([a.to(work) for _, _, _, a in used], dim=0)
                lin.weight.copy_(start.to(work) + torch.einsum("or,ri->oi", B, A))


class LoRAFusedQKV(nn.Module):
    def __init__(self, base, slices, rank, alpha, sizes=None):
        super().__init__()
        wanted = tuple(slices)
        names = [s for s in "qkv" if s in wanted]
        if not names or set(wanted) != set(names):
            raise ValueError("slices")
        if sizes is None:
            third, rest = divmod(base.out_features, 3)
            if rest:
                raise ValueError("out_features is no multiple of three")
            sizes = (third, third, third)
        sizes = tuple(sizes)
        if len(sizes) != 3 or not all(n > 0 for n in sizes) or sum(sizes) != base.out_features:
            raise ValueError("sizes")
        self.sizes = sizes
        by_name = dict(zip("qkv", sizes))
        if rank < 1 or rank > base.in_features or any(rank > by_name[s] for s in names):
            raise ValueError("rank")
        base.requires_grad_(False)
        self.base = base
        self.rank = rank
        self.alpha = alpha
        self.scaling = alpha / rank
        self.merged = False
        w = base.weight
        self.lora_A = nn.ParameterDict({s: nn.Parameter(w.new_empty(rank, base.in_features).normal_()) for s in names})
        self.lora_B = nn.ParameterDict({s: nn.Parameter(w.new_zeros(by_name[s], rank)) for s in names})

    def forward(self, x):
        y = self.base(x)
        if self.merged:
            return y
        parts = []
        for s, part in zip("qkv", torch.split(y, self.sizes, dim=-1)):
            if s in self.lora_A:
                low = torch.einsum("...i,ri->...r", x, self.lora_A[s])
                part = part + self.scaling * torch.einsum("...r,or->...o", low, self.lora_B[s])
            parts.append(part)
        return torch.cat(parts, dim=-1)

    @torch.no_grad()
    def merge(self):
        if not self.merged:
            for s, rows in zip("qkv", self.base.weight.split(self.sizes)):
                if s in self.lora_A:
                    rows += self.scaling * torch.einsum("or,ri->oi", self.lora_B[s], self.lora_A[s])
            self.merged = True


def inject_fused_qkv(model, target_modules, slices, rank, alpha, sizes=None):
    targets = set(target_modules)
    slices = set(slices)
    hit, names = set(), []
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        pieces = name.split(".")
        endings = {".".join(pieces[i:]) for i in range(len(pieces))} & targets
        if endings:
            hit |= endings
            names.append(name)
    if hit != targets:
        raise ValueError(f"nothing matches {targets - hit}")
    model.requires_grad_(False)
    for name in names:
        *path, leaf = name.split(".")
        parent = model.get_submodule(".".join(path))
        parent.add_module(leaf, LoRAFusedQKV(parent.get_submodule(leaf), slices, rank, alpha, sizes))
    return sorted(names)
