"""Code review, week 9: a small diffusion model with a style LoRA. It runs, and it has five bugs.

Find them: for each say where it is, what goes wrong because of it, and how to mend it. Nothing here is graded by a
program; bring your list to class.
"""

import torch
from torch import nn

TIMESTEPS = 50
ABAR = torch.cumprod(1 - torch.linspace(1e-3, 0.2, TIMESTEPS), dim=0)


class ConvBranch(nn.Module):
    """A convolution with a low-rank branch beside it."""

    def __init__(self, conv, rank=4, alpha=16):
        super().__init__()
        self.conv = conv
        self.down = nn.Conv2d(conv.in_channels, rank, conv.kernel_size, conv.stride, conv.padding, bias=False)
        self.up = nn.Conv2d(rank, conv.out_channels, 1, bias=False)
        nn.init.zeros_(self.up.weight)
        self.factor = alpha / rank

    def forward(self, images):
        return self.conv(images) + self.factor * self.up(self.down(images))


def training_loss(denoiser, images):
    """Noise a batch and let the denoiser guess the noise."""
    t = torch.randint(0, TIMESTEPS, (1,))
    eps = torch.randn_like(images)
    noisy = ABAR[t] * images + (1 - ABAR[t]) * eps
    return ((denoiser(noisy) - eps) ** 2).mean()


@torch.no_grad()
def sample(denoiser, shape, jump=10):
    """Deterministic sampling in a few steps."""
    x = torch.randn(shape)
    for t in range(TIMESTEPS - 1, -1, -jump):
        now, then = ABAR[t], ABAR[t - jump]
        eps = denoiser(x)
        guess = x / torch.sqrt(now) - torch.sqrt(1 / now - 1) * eps
        x = torch.sqrt(then) * guess + torch.sqrt(1 - then) * eps
    return x


def set_style(layer, strength):
    """Put the style into the kernel with some strength; 0 gives the plain model back."""
    kernel = torch.einsum("ok,kihw->oihw", layer.up.weight[:, :, 0, 0], layer.down.weight)
    layer.conv.weight.data = layer.conv.weight.data + strength * layer.factor * kernel


if __name__ == "__main__":
    torch.manual_seed(0)
    layer = ConvBranch(nn.Conv2d(1, 1, 3, padding=1))
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    images = torch.rand(16, 1, 8, 8)
    for _ in range(100):
        optimizer.zero_grad()
        loss = training_loss(layer, images)
        loss.backward()
        optimizer.step()
    print(f"loss {loss.item():.3f}, style parameters {sum(p.numel() for p in layer.parameters())}")
    print("one picture:", sample(layer, (1, 1, 8, 8)).flatten()[:3].tolist())
    before = layer.conv.weight.detach().clone()
    set_style(layer, 0.8)
    set_style(layer, 0.0)
    print("plain again:", torch.equal(layer.conv.weight, before))
