"""Backward passes by hand where there is something to say; everything else in as few lines as it takes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, logsigmoid


class _Mixture(torch.autograd.Function):
    """sum_i w_i B_i h for each token."""

    @staticmethod
    def forward(ctx, weights, hidden, B):
        ctx.save_for_backward(weights, hidden, B)
        return torch.einsum("tn,nor,tr->to", weights, B, hidden)

    @staticmethod
    def backward(ctx, grad):
        weights, hidden, B = ctx.saved_tensors
        back = torch.einsum("to,nor->tnr", grad, B)
        return (
            (back * hidden[:, None]).sum(-1),
            (back * weights[..., None]).sum(1),
            torch.einsum("tn,to,tr->nor", weights, grad, hidden),
        )


class HydraLoRALinear(nn.Module):
    def __init__(self, base: nn.Linear, rank: int, num_branches: int, alpha: float):
        super().__init__()
        out_features, in_features = base.weight.shape
        if not (0 < rank <= min(out_features, in_features)) or num_branches <= 0:
            raise ValueError("rank or num_branches is out of range")
        self.base = base
        base.requires_grad_(False)
        self.lora_A = nn.Parameter(base.weight.detach().clone()[:1].repeat(rank, 1).normal_())
        self.lora_B = nn.Parameter(torch.zeros_like(base.weight[:, :1]).repeat(num_branches, 1, rank))
        self.router = nn.Linear(in_features, num_branches, bias=False)
        nn.init.normal_(self.router.weight, std=in_features**-0.5)
        self.router.to(device=base.weight.device, dtype=base.weight.dtype)
        self.rank, self.num_branches, self.alpha, self.scaling = rank, num_branches, alpha, alpha / rank
        self.branch: int = -1

    def set_route(self, branch: int | None) -> None:
        if branch is None:
            self.branch = -1
            return
        if not 0 <= branch < self.num_branches:
            raise ValueError(f"no branch {branch}")
        self.branch = branch

    def route_weights(self, x: Tensor) -> Tensor:
        if self.branch < 0:
            return nn.functional.softmax(self.router(x), -1)
        return torch.eye(self.num_branches, dtype=x.dtype, device=x.device)[self.branch].repeat(*x.shape[:-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        weights = self.route_weights(x).reshape(len(flat), -1)
        update = _Mixture.apply(weights, linear(flat, self.lora_A), self.lora_B)
        return torch.add(self.base(x), update.reshape(*x.shape[:-1], -1), alpha=self.scaling)


def multi_adapter_forward(base, adapters, x, adapter_ids):
    valid = adapter_ids.ndim == 1 and adapter_ids.numel() == x.shape[0]
    if not valid or torch.any(adapter_ids < -1) or torch.any(adapter_ids > len(adapters) - 1):
        raise ValueError("adapter_ids")
    order = torch.argsort(adapter_ids, stable=True)
    pieces = []
    for number, group in zip(*_groups(adapter_ids[order], order)):
        part = x[group]
        y = base(part)
        if number >= 0:
            A, B, alpha = adapters[number]
            y = y + linear(linear(part, A), B * (alpha / A.shape[0]))
        pieces.append(y)
    return torch.cat(pieces)[torch.argsort(order)] if pieces else base(x)


def _groups(ids, order):
    numbers, counts = torch.unique_consecutive(ids, return_counts=True)
    return numbers.tolist(), order.split(counts.tolist())


class _Direction(torch.autograd.Function):
    """The rows of V as unit vectors, with the norms counted as constants."""

    @staticmethod
    def forward(ctx, V):
        inverse = V.norm(dim=1, keepdim=True).reciprocal()
        ctx.save_for_backward(inverse)
        return V * inverse

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0]


class DoRALinear(nn.Module):
    def __init__(self, base: nn.Linear, rank: int, alpha: float):
        super().__init__()
        if rank < 1 or rank > min(base.in_features, base.out_features):
            raise ValueError("rank")
        self.base = base
        for p in base.parameters():
            p.requires_grad_(False)
        self.rank = rank
        self.alpha = alpha
        weight = base.weight.data
        self.lora_A = nn.Parameter(torch.empty_like(weight[:1]).expand(rank, -1).clone())
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.lora_B = nn.Parameter(weight.new_zeros((weight.shape[0], rank)))
        self.magnitude = nn.Parameter(weight.norm(dim=1))

    @property
    def scaling(self) -> float:
        return self.alpha / self.rank

    def forward(self, x: Tensor) -> Tensor:
        unit = _Direction.apply(self.base.weight + self.lora_B.mul(self.scaling).mm(self.lora_A))
        y = linear(x, unit) * self.magnitude
        return y if self.base.bias is None else y + self.base.bias


class RandLoRALinear(nn.Module):
    basis_A: Tensor
    basis_B: Tensor

    def __init__(self, base: nn.Linear, basis_A: Tensor, basis_B: Tensor, alpha: float):
        super().__init__()
        self.wide = base.in_features > base.out_features
        D, d = (base.in_features, base.out_features) if self.wide else (base.out_features, base.in_features)
        rank, bases = basis_A.size(0), basis_B.size(0)
        fits = basis_A.size() == (rank, d) and basis_B.size() == (bases, D, rank)
        if not fits or rank * bases < d:
            raise ValueError("the bases do not fit the layer, or are too few")
        base.requires_grad_(False)
        self.base, self.rank, self.alpha, self.scaling = base, rank, alpha, alpha / rank
        self.register_buffer("basis_A", basis_A)
        self.register_buffer("basis_B", basis_B)
        self.diag_lambda = nn.Parameter(base.weight.new_zeros((bases, rank)))
        self.diag_gamma = nn.Parameter(base.weight.new_empty((bases, d)).uniform_(0.5, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        # diag(l) A diag(g) is A times the outer product of l and g, elementwise.
        scaled = self.basis_A * (self.diag_lambda[:, :, None] * self.diag_gamma[:, None, :])
        M = torch.matmul(self.basis_B, scaled).sum(0)
        return self.base(x) + linear(x, M.t() if self.wide else M).mul(self.scaling)


@torch.no_grad()
def adalora_importance(factors, gradients, state=None, beta1=0.85, beta2=0.85):
    if not all(0 < beta < 1 for beta in (beta1, beta2)):
        raise ValueError("beta")
    fresh = state is None
    state = [[torch.zeros_like(f), torch.zeros_like(f)] for f in factors] if fresh else state
    for (mean, spread), f, g in zip(state, factors, gradients):
        now = f.abs() * g.abs()
        mean.mul_(beta1).add_(now, alpha=1 - beta1)
        spread.mul_(beta2).add_((now - mean).abs_(), alpha=1 - beta2)
    P, E, Q = (mean * spread for mean, spread in state)
    return E + P.sum(0) / P.shape[0] + Q.sum(1) / Q.shape[1], state


def allocate_ranks(scores, budget):
    if budget < 0 or budget > sum(s.numel() for s in scores.values()):
        raise ValueError("budget")
    masks = {name: torch.zeros_like(s, dtype=torch.bool) for name, s in scores.items()}
    for _ in range(budget):
        open_ = {name: s.double().masked_fill(masks[name], -torch.inf).max(0) for name, s in scores.items() if s.numel()}
        best = max((name for name in open_ if not masks[name].all()), key=lambda name: open_[name].values.item())
        masks[best][open_[best].indices] = True
    return masks


class QRLoRALinear(nn.Module):
    """Householder's reflections, the longest remaining column first."""

    def __init__(self, base: nn.Linear, rank: int):
        super().__init__()
        rows, columns = base.weight.shape
        if not 1 <= rank <= min(rows, columns):
            raise ValueError("rank")
        self.base = base.requires_grad_(False)
        self.rank = rank
        R = base.weight.detach().double().clone()
        Q = torch.eye(rows, dtype=R.dtype)
        taken: list[int] = []
        for k in range(rank):
            lengths = R[k:].norm(dim=0)
            lengths[taken] = -1
            taken.append(int(lengths.argmax()))
            v = R[k:, taken[-1]].clone()
            v[0] += math.copysign(float(v.norm()), float(v[0]))
            v /= v.norm()
            R[k:] -= 2 * torch.outer(v, v @ R[k:])
            Q[:, k:] -= 2 * torch.outer(Q[:, k:] @ v, v)
        self.register_buffer("basis_Q", Q[:, :rank].to(base.weight))
        self.register_buffer("basis_R", R[:rank].to(base.weight))
        self.lora_lambda = nn.Parameter(base.weight.new_zeros((rank,)))

    def forward(self, x: Tensor) -> Tensor:
        coefficients = linear(x, self.basis_R) * self.lora_lambda
        return self.base(x) + coefficients @ self.basis_Q.t()


def dpo_loss(model, chosen, chosen_labels, rejected, rejected_labels, beta=0.1):
    if beta <= 0:
        raise ValueError("beta")
    parts = [(chosen, chosen_labels), (rejected, rejected_labels)]
    policy = [_logp(model, *part) for part in parts]
    layers = [m for m in model.modules() if "enabled" in vars(m)]
    was_on = [m for m in layers if m.enabled]
    try:
        for m in was_on:
            m.enabled = False
        reference = [_logp(model, *part).detach() for part in parts]
    finally:
        for m in was_on:
            m.enabled = True
    chosen_gain, rejected_gain = (p - r for p, r in zip(policy, reference))
    return logsigmoid(beta * (chosen_gain - rejected_gain)).mean().neg()


def _logp(model, tokens, labels):
    logits = model(tokens)
    taken = torch.take_along_dim(logits, tokens.roll(-1, 1)[..., None], -1)[..., 0] - logits.logsumexp(-1)
    counted = labels.roll(-1, 1) != -100
    counted[:, -1] = False  # nothing follows the last position
    return torch.where(counted, taken, 0).sum(1)
