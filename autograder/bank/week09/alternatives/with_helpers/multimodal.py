"""Both layers share a base class in a module beside this one; timesteps and styles have small classes."""

from dataclasses import dataclass

import torch
from lowrank import Merging, new_factors, product, require
from torch import nn


class LoRAConv2d(Merging):
    def __init__(self, base, rank, alpha):
        super().__init__()
        require(base.groups == 1, "groups")
        require(base.padding_mode == "zeros", "padding mode")
        weight = base.weight
        require(rank in range(1, min(weight.shape[0], weight[0].numel()) + 1), "rank")
        self.base, self.rank, self.alpha, self.scaling, self.merged = base.requires_grad_(False), rank, alpha, alpha / rank, False
        self.lora_A, B = new_factors(weight, base.out_channels, rank)
        self.lora_B = nn.Parameter(B.data[..., None, None])

    def pieces(self):
        yield slice(None), product(self.lora_B, self.lora_A, self.scaling)

    def unmerge(self):
        if self.merged:
            self.write(-1)

    def forward(self, x):
        base = self.base
        if self.merged:
            return base(x)
        # one convolution for both: the channels of the branch behind those of the base
        both = torch.conv2d(x, torch.cat([base.weight, self.lora_A]), None, base.stride, base.padding, base.dilation)
        whole, narrow = both.tensor_split([base.out_channels], dim=1)
        y = whole + torch.conv2d(narrow, self.lora_B * self.scaling)
        return y if base.bias is None else y + base.bias.view(-1, 1, 1)


@dataclass
class Level:
    """How much of a sample and how much of the noise is there."""

    abar: object

    @property
    def signal(self):
        return self.abar**0.5

    @property
    def noise(self):
        return (1 - self.abar) ** 0.5

    def mix(self, x, eps):
        return self.signal * x + self.noise * eps

    def clean(self, x, eps):
        return (x - self.noise * eps) / self.signal


def diffusion_loss(model, x0, timesteps, noise, alphas_cumprod):
    require(x0.shape == noise.shape, "noise")
    require(timesteps.shape == (len(x0),), "timesteps")
    require(bool(torch.all((timesteps >= 0) & (timesteps < len(alphas_cumprod)))), "a timestep is out of range")
    chosen = alphas_cumprod.index_select(0, timesteps).reshape((-1,) + (1,) * (x0.ndim - 1))
    noisy = Level(chosen).mix(x0.double(), noise.double()).to(x0.dtype)
    return torch.nn.MSELoss()(model(noisy, timesteps), noise)


def ddim_step(x_t, eps, t, t_prev, alphas_cumprod, eta=0.0, noise=None):
    require(0 <= t < len(alphas_cumprod), "t")
    require(-1 <= t_prev < t, "t_prev")
    require(0 <= eta <= 1, "eta")
    require(noise is not None or eta == 0, "noise")
    here = Level(float(alphas_cumprod[t]))
    there = Level(float(alphas_cumprod[t_prev]) if t_prev != -1 else 1.0)
    sigma = eta * there.noise / here.noise * (1 - here.abar / there.abar) ** 0.5
    x = there.signal * here.clean(x_t, eps) + (there.noise**2 - sigma**2) ** 0.5 * eps
    return x.add(noise, alpha=sigma) if sigma else x


@dataclass
class Adapted:
    """A Linear, its first weight, and the adapters that it has by style."""

    layer: nn.Linear
    first: torch.Tensor
    adapters: dict

    def blend(self, scales):
        mine = [(scale, self.adapters[style]) for style, scale in scales.items() if style in self.adapters]
        wide = torch.float64
        total = self.first.to(wide)
        for scale, adapter in mine:
            A, B = adapter["lora_A"], adapter["lora_B"]
            total = torch.add(total, product(B.to(wide), A.to(wide), adapter["alpha"] / A.size(0)), alpha=scale)
        self.layer.weight.data[:] = total.to(self.first.dtype)


class StyleBlender:
    def __init__(self, model, styles):
        self.names = frozenset(styles)
        self.places = {}
        modules = dict(model.named_modules())
        for style, layers in styles.items():
            for name, adapter in layers.items():
                layer = modules.get(name)
                require(isinstance(layer, nn.Linear), name)
                A, B = adapter["lora_A"].shape, adapter["lora_B"].shape
                require(A[0] == B[1] and A[1] == layer.in_features and B[0] == layer.out_features, name)
                place = self.places.setdefault(name, Adapted(layer, layer.weight.detach().clone(), {}))
                place.adapters[style] = adapter

    def blend_styles(self, scales):
        require(self.names.issuperset(scales), "a style that is not known")
        for place in self.places.values():
            place.blend(scales)


class LoRAFusedQKV(Merging):
    def __init__(self, base, slices, rank, alpha, sizes=None):
        super().__init__()
        slices = set(slices)
        require(slices and slices.issubset({"q", "k", "v"}), "slices")
        if sizes is None:
            require(base.out_features % 3 == 0, "three equal parts")
            sizes = [base.out_features // 3 for _ in range(3)]
        require(len(sizes) == 3 and sum(sizes) == base.out_features and all(size >= 1 for size in sizes), "sizes")
        starts = [0, sizes[0], sizes[0] + sizes[1]]
        self.rows = {name: slice(a, a + n) for name, a, n in zip("qkv", starts, sizes) if name in slices}
        require(1 <= rank <= base.in_features, "rank")
        require(all(rank <= rows.stop - rows.start for rows in self.rows.values()), "rank")
        self.base, self.rank, self.alpha, self.scaling, self.merged = base.requires_grad_(False), rank, alpha, alpha / rank, False
        factors = {name: tuple(new_factors(base.weight, r.stop - r.start, rank)) for name, r in self.rows.items()}
        self.lora_A = nn.ParameterDict({name: pair[0] for name, pair in factors.items()})
        self.lora_B = nn.ParameterDict({name: pair[1] for name, pair in factors.items()})

    def pieces(self):
        for name, rows in self.rows.items():
            yield rows, product(self.lora_B[name], self.lora_A[name], self.scaling)

    def forward(self, x):
        y = self.base(x)
        if self.merged:
            return y
        branch = torch.zeros_like(y)
        for rows, delta in self.pieces():
            branch[..., rows] = x @ delta.T
        return y + branch


def inject_fused_qkv(model, target_modules, slices, rank, alpha, sizes=None):
    slices = list(slices)
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    picked = set()
    for target in target_modules:
        fitting = {name for name in names if name == target or name.endswith(f".{target}")}
        require(fitting, f"no Linear is called {target}")
        picked |= fitting
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for name in picked:
        model.set_submodule(name, LoRAFusedQKV(model.get_submodule(name), slices, rank, alpha, sizes))
    return sorted(picked)
