"""One branch, one sample, one base at a time; masks as Python lists; Gram-Schmidt by hand."""

import torch
from torch import nn
from torch.nn import functional as F


def freeze(linear):
    for parameter in linear.parameters():
        parameter.requires_grad = False
    return linear


def check_rank(rank, linear):
    if rank < 1 or rank > min(linear.weight.shape):
        raise ValueError("rank")


class HydraLoRALinear(nn.Module):
    def __init__(self, base, rank, num_branches, alpha):
        super().__init__()
        check_rank(rank, base)
        if not num_branches > 0:
            raise ValueError("num_branches")
        self.base = freeze(base)
        self.rank = rank
        self.num_branches = num_branches
        self.alpha = alpha
        self.scaling = alpha / rank
        kind = {"dtype": base.weight.dtype, "device": base.weight.device}
        self.lora_A = nn.Parameter(torch.randn(rank, base.in_features, **kind))
        self.lora_B = nn.Parameter(torch.zeros(num_branches, base.out_features, rank, **kind))
        self.router = nn.Linear(base.in_features, num_branches, False, **kind)
        self.fixed = None

    def set_route(self, branch):
        if branch is None:
            self.fixed = None
        elif branch in range(self.num_branches):
            self.fixed = branch
        else:
            raise ValueError(branch)

    def route_weights(self, x):
        if self.fixed is None:
            return self.router(x).softmax(-1)
        choice = torch.full(x.shape[:-1], self.fixed, device=x.device)
        return F.one_hot(choice, self.num_branches).to(x.dtype)

    def forward(self, x):
        y = self.base(x)
        hidden = x @ self.lora_A.T
        if self.fixed is not None:
            return y + self.scaling * (hidden @ self.lora_B[self.fixed].T)
        weights = self.route_weights(x)
        for i in range(self.num_branches):
            y = y + self.scaling * weights[..., i : i + 1] * (hidden @ self.lora_B[i].T)
        return y


def multi_adapter_forward(base, adapters, x, adapter_ids):
    if adapter_ids.dim() != 1 or len(adapter_ids) != len(x):
        raise ValueError("one id for each sample")
    ids = [int(i) for i in adapter_ids]
    if any(i < -1 or i >= len(adapters) for i in ids):
        raise ValueError("no such adapter")
    rows = []
    for sample, i in zip(x, ids):
        y = base(sample)
        if i != -1:
            A, B, alpha = adapters[i]
            y = y + alpha / A.shape[0] * (sample @ A.T @ B.T)
        rows.append(y)
    return torch.stack(rows) if rows else base(x)


class DoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        super().__init__()
        check_rank(rank, base)
        self.base = freeze(base)
        self.rank = rank
        self.alpha = alpha
        self.scaling = alpha / rank
        kind = {"dtype": base.weight.dtype, "device": base.weight.device}
        self.lora_A = nn.Parameter(torch.randn(rank, base.in_features, **kind))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank, **kind))
        self.magnitude = nn.Parameter(torch.stack([row.norm() for row in base.weight.detach()]))

    def forward(self, x):
        direction = F.linear(x, self.base.weight) + self.scaling * (x @ self.lora_A.T @ self.lora_B.T)
        with torch.no_grad():
            norms = (self.base.weight + self.scaling * (self.lora_B @ self.lora_A)).norm(dim=-1)
        y = direction * (self.magnitude / norms)
        if self.base.bias is not None:
            y = y + self.base.bias
        return y


class RandLoRALinear(nn.Module):
    def __init__(self, base, basis_A, basis_B, alpha):
        super().__init__()
        d, D = min(base.weight.shape), max(base.weight.shape)
        n, rank = basis_B.shape[0], basis_A.shape[0]
        if tuple(basis_A.shape) != (rank, d):
            raise ValueError("basis_A")
        if tuple(basis_B.shape) != (n, D, rank):
            raise ValueError("basis_B")
        if n * rank < d:
            raise ValueError("too few bases")
        self.base = freeze(base)
        self.rank, self.alpha, self.scaling = rank, alpha, alpha / rank
        self.register_buffer("basis_A", basis_A, persistent=False)
        self.register_buffer("basis_B", basis_B, persistent=False)
        self.diag_lambda = nn.Parameter(torch.zeros(n, rank).to(base.weight))
        self.diag_gamma = nn.Parameter(torch.ones(n, d).to(base.weight))

    def forward(self, x):
        y = self.base(x)
        tall = self.base.out_features >= self.base.in_features
        for B, lam, gamma in zip(self.basis_B, self.diag_lambda, self.diag_gamma):
            if tall:
                term = ((x * gamma) @ self.basis_A.T * lam) @ B.T
            else:
                term = ((x @ B) * lam) @ self.basis_A * gamma
            y = y + self.scaling * term
        return y


def adalora_importance(factors, gradients, state=None, beta1=0.85, beta2=0.85):
    for beta in (beta1, beta2):
        if beta <= 0 or beta >= 1:
            raise ValueError("beta")
    if state is None:
        state = {}
    importance = {}
    for name, weight, gradient in zip("PEQ", factors, gradients):
        weight = weight.detach()
        now = abs(weight * gradient)
        mean, spread = state.get(name, (torch.zeros_like(now), torch.zeros_like(now)))
        mean = mean * beta1 + now * (1 - beta1)
        spread = spread * beta2 + abs(now - mean) * (1 - beta2)
        state[name] = (mean, spread)
        importance[name] = mean * spread
    scores = torch.empty_like(importance["E"])
    for k in range(len(scores)):
        column, row = importance["P"][:, k], importance["Q"][k, :]
        scores[k] = importance["E"][k] + column.sum() / len(column) + row.sum() / len(row)
    return scores, state


def allocate_ranks(scores, budget):
    triplets = []
    for name, values in scores.items():
        for k, value in enumerate(values.tolist()):
            triplets.append((value, name, k))
    if budget < 0 or budget > len(triplets):
        raise ValueError("budget")
    triplets.sort(key=lambda triplet: triplet[0])
    kept = {name: torch.zeros(len(values)) for name, values in scores.items()}
    for _ in range(budget):
        _, name, k = triplets.pop()
        kept[name][k] = 1
    return {name: mask > 0 for name, mask in kept.items()}


class QRLoRALinear(nn.Module):
    def __init__(self, base, rank):
        super().__init__()
        check_rank(rank, base)
        self.base = freeze(base)
        self.rank = rank
        weight = base.weight.detach().double()
        rest = weight.clone()
        columns = []
        for _ in range(rank):
            pivot = rest.norm(dim=0).argmax()
            q = rest[:, pivot]
            for other in columns:  # once more, against rounding
                q = q - other * (other @ q)
            q = q / q.norm()
            columns.append(q)
            rest = rest - torch.outer(q, q @ rest)
        Q = torch.stack(columns, dim=1)
        self.register_buffer("basis_Q", Q.to(base.weight))
        self.register_buffer("basis_R", (Q.T @ weight).to(base.weight))
        self.lora_lambda = nn.Parameter(torch.zeros(rank).to(base.weight))

    def forward(self, x):
        y = self.base(x)
        for k in range(self.rank):
            y = y + self.lora_lambda[k] * (x @ self.basis_R[k]).unsqueeze(-1) * self.basis_Q[:, k]
        return y


def score(model, tokens, labels):
    logp = torch.log_softmax(model(tokens), dim=-1)
    totals = []
    for i in range(len(tokens)):
        total = logp.new_zeros(())
        for t in range(1, tokens.shape[1]):
            if labels[i, t] != -100:
                total = total + logp[i, t - 1, labels[i, t]]
        totals.append(total)
    return torch.stack(totals)


def dpo_loss(model, chosen, chosen_labels, rejected, rejected_labels, beta=0.1):
    if not beta > 0:
        raise ValueError("beta")
    switched = {}
    for module in model.modules():
        if hasattr(module, "enabled"):
            switched[module] = module.enabled
            module.enabled = False
    try:
        with torch.no_grad():
            reference = score(model, chosen, chosen_labels) - score(model, rejected, rejected_labels)
    finally:
        for module, value in switched.items():
            module.enabled = value
    margin = score(model, chosen, chosen_labels) - score(model, rejected, rejected_labels)
    losses = nn.functional.softplus(-beta * (margin - reference))
    return losses.sum() / len(losses)
