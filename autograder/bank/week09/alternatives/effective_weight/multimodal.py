"""The update goes into the weight of one call, blends are sums of a list, slices are padded to the whole output."""

import torch
from torch import nn
from torch.nn.functional import linear


class LoRAConv2d(nn.Module):
    def __init__(self, base, rank, alpha):
        super().__init__()
        most = min(base.weight[0].numel(), base.out_channels)
        if rank < 1 or rank > most:
            raise ValueError("rank")
        if base.groups > 1:
            raise ValueError("groups")
        if base.padding_mode != "zeros":
            raise ValueError("padding mode")
        self.base = base
        for p in base.parameters():
            p.requires_grad = False
        self.rank = rank
        self.alpha = alpha
        self.merged = False
        w = base.weight
        self.lora_A = nn.Parameter(torch.randn(rank, *w.shape[1:], dtype=torch.float32).to(w.device, w.dtype))
        self.lora_B = nn.Parameter(torch.zeros(base.out_channels, rank, 1, 1, dtype=w.dtype, device=w.device))

    @property
    def scaling(self):
        return self.alpha / self.rank

    def delta(self):
        return self.scaling * torch.tensordot(self.lora_B[:, :, 0, 0], self.lora_A, dims=1)

    def forward(self, x):
        weight = self.base.weight
        if not self.merged:
            weight = weight + self.delta()
        return self.base._conv_forward(x, weight, self.base.bias)

    @torch.no_grad()
    def merge(self):
        if self.merged:
            return
        self.base.weight.add_(self.delta())
        self.merged = True

    @torch.no_grad()
    def unmerge(self):
        if not self.merged:
            return
        self.base.weight.sub_(self.delta())
        self.merged = False


def diffusion_loss(model, x0, timesteps, noise, alphas_cumprod):
    if x0.shape != noise.shape:
        raise ValueError("noise")
    if timesteps.ndim != 1 or len(timesteps) != len(x0):
        raise ValueError("timesteps")
    if int(timesteps.min()) < 0 or int(timesteps.max()) > len(alphas_cumprod) - 1:
        raise ValueError("a timestep")
    signal = torch.sqrt(alphas_cumprod)[timesteps].to(x0)
    sigma = torch.sqrt(1.0 - alphas_cumprod)[timesteps].to(x0)
    while signal.ndim < x0.ndim:
        signal, sigma = signal[..., None], sigma[..., None]
    residual = model(signal * x0 + sigma * noise, timesteps) - noise
    return residual.pow(2).mean()


def ddim_step(x_t, eps, t, t_prev, alphas_cumprod, eta=0.0, noise=None):
    T = alphas_cumprod.shape[0]
    if t < 0 or t >= T:
        raise ValueError("t")
    if t_prev < -1 or t_prev >= t:
        raise ValueError("t_prev")
    if eta < 0 or eta > 1:
        raise ValueError("eta")
    if eta and noise is None:
        raise ValueError("noise")
    ext = torch.cat([alphas_cumprod.new_ones(1), alphas_cumprod])  # one more entry in front, for -1
    now, then = ext[t + 1], ext[t_prev + 1]
    var = eta**2 * (1 - then) / (1 - now) * (1 - now / then)
    # the coefficients of x_t and of eps, collected
    on_x = (then / now).sqrt()
    on_eps = (1 - then - var).sqrt() - on_x * (1 - now).sqrt()
    out = on_x * x_t + on_eps * eps
    if eta:
        out = out + var.sqrt() * noise
    return out


class StyleBlender:
    def __init__(self, model, styles):
        self.styles = dict(styles)
        self.targets = {}
        for adapters in self.styles.values():
            for name, ad in adapters.items():
                try:
                    layer = model.get_submodule(name)
                except AttributeError:
                    raise ValueError(name) from None
                if not isinstance(layer, nn.Linear):
                    raise ValueError(name)
                A, B = ad["lora_A"], ad["lora_B"]
                if B.shape[1] != A.shape[0] or (B.shape[0], A.shape[1]) != tuple(layer.weight.shape):
                    raise ValueError(name)
                self.targets[name] = layer
        self.originals = {name: layer.weight.data.clone() for name, layer in self.targets.items()}

    def blend_styles(self, scales):
        for s in scales:
            if s not in self.styles:
                raise ValueError(s)
        with torch.no_grad():
            for name, layer in self.targets.items():
                W = self.originals[name]
                parts = [
                    (scale * ad["alpha"] / ad["lora_A"].shape[0]) * (ad["lora_B"].double() @ ad["lora_A"].double())
                    for s, scale in scales.items()
                    for ad in [self.styles[s].get(name)]
                    if ad is not None and scale != 0
                ]
                layer.weight.copy_(W.double() + sum(parts) if parts else W)


class LoRAFusedQKV(nn.Module):
    def __init__(self, base, slices, rank, alpha, sizes=None):
        super().__init__()
        slices = list(slices)
        out, inp = base.weight.shape
        if not slices or any(s not in ("q", "k", "v") for s in slices):
            raise ValueError("slices")
        if sizes is None:
            if out % 3:
                raise ValueError("not three equal parts")
            sizes = [out // 3] * 3
        if len(sizes) != 3 or any(n <= 0 for n in sizes) or sum(sizes) != out:
            raise ValueError("sizes")
        q, k, v = sizes
        self.where = {"q": (0, q), "k": (q, q + k), "v": (q + k, out)}
        self.rank, self.alpha, self.scaling = rank, alpha, alpha / rank if rank else 0.0
        self.base, self.merged = base, False
        base.weight.requires_grad_(False)
        if base.bias is not None:
            base.bias.requires_grad_(False)
        A, B = {}, {}
        for s in slices:
            lo, hi = self.where[s]
            if rank < 1 or rank > inp or rank > hi - lo:
                raise ValueError("rank")
            A[s] = nn.Parameter(torch.randn(rank, inp, dtype=base.weight.dtype, device=base.weight.device))
            B[s] = nn.Parameter(torch.zeros(hi - lo, rank, dtype=base.weight.dtype, device=base.weight.device))
        self.lora_A, self.lora_B = nn.ParameterDict(A), nn.ParameterDict(B)

    def weight(self):
        W = self.base.weight.clone()
        for s, A in self.lora_A.items():
            lo, hi = self.where[s]
            W[lo:hi] = W[lo:hi] + self.scaling * self.lora_B[s] @ A
        return W

    def forward(self, x):
        return linear(x, self.base.weight if self.merged else self.weight(), self.base.bias)

    @torch.no_grad()
    def merge(self):
        if not self.merged:
            self.base.weight.copy_(self.weight())
        self.merged = True


def inject_fused_qkv(model, target_modules, slices, rank, alpha, sizes=None):
    slices = tuple(slices)
    chosen = []
    for target in target_modules:
        matching = []
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and (name == target or name.endswith("." + target)):
                matching.append(name)
        if not matching:
            raise ValueError(target)
        chosen += matching
    for p in model.parameters():
        p.requires_grad = False
    done = []
    for name in sorted(set(chosen)):
        parent, _, leaf = name.rpartition(".")
        holder = model.get_submodule(parent)
        setattr(holder, leaf, LoRAFusedQKV(getattr(holder, leaf), slices, rank, alpha, sizes))
        done.append(name)
    return done
