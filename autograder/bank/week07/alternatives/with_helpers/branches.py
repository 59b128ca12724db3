"""Layers on a common class in another file; one einsum where others need a loop."""

import torch
from frozen import Frozen, LowRank, pair
from scipy import linalg
from torch import nn
from torch.nn import functional as F


class HydraLoRALinear(LowRank):
    def __init__(self, base, rank, num_branches, alpha):
        if num_branches < 1:
            raise ValueError("at least one branch")
        super().__init__(base, rank, alpha)
        self.num_branches = num_branches
        self.lora_B = self.parameter(num_branches, base.out_features, rank)
        self.router = nn.Linear(base.in_features, num_branches, bias=False)
        self.router.weight = self.parameter(num_branches, base.in_features, spread=0.5)
        self.choose = self._ask_router

    def _ask_router(self, x):
        return torch.softmax(F.linear(x, self.router.weight).double(), dim=x.dim() - 1).to(x.dtype)

    def set_route(self, branch):
        if branch is None:
            self.choose = self._ask_router
            return
        if branch < 0 or branch >= self.num_branches:
            raise ValueError("no such branch")

        def always(x):
            weights = torch.zeros(x.shape[:-1] + (self.num_branches,), dtype=x.dtype, device=x.device)
            return weights.index_fill(-1, torch.tensor(branch, device=x.device), 1.0)

        self.choose = always

    def route_weights(self, x):
        return self.choose(x)

    def forward(self, x):
        update = torch.einsum("...n,nor,rk,...k->...o", self.route_weights(x), self.lora_B, self.lora_A, x)
        return self.base(x) + update * self.scaling


def multi_adapter_forward(base, adapters, x, adapter_ids):
    if tuple(adapter_ids.shape) != (x.shape[0],):
        raise ValueError("shape")
    if not set(adapter_ids.tolist()) <= set(range(-1, len(adapters))):
        raise ValueError("id")
    result = base(x)
    for k in set(adapter_ids.tolist()) - {-1}:
        A, B, alpha = adapters[k]
        chosen = (adapter_ids == k).nonzero().flatten()
        dW = pair(B, A) * (alpha / len(A))
        result = result.index_add(0, chosen, F.linear(x.index_select(0, chosen), dW))
    return result


class DoRALinear(LowRank):
    def __init__(self, base, rank, alpha):
        super().__init__(base, rank, alpha)
        self.lora_B = self.parameter(base.out_features, rank)
        self.magnitude = self.parameter(base.out_features)
        self.magnitude.data = base.weight.data.pow(2).sum(dim=-1).pow(0.5)

    def forward(self, x):
        V = self.base.weight + self.scaling * pair(self.lora_B, self.lora_A)
        size = V.data.norm(dim=1)
        scale = self.magnitude / size
        plain = self.base(x)
        if self.base.bias is not None:
            plain = plain - self.base.bias
        update = F.linear(F.linear(x, self.lora_A), self.lora_B) * self.scaling
        return self.base(x) + (scale - 1) * plain + scale * update  # as peft adds it to the base's output


class RandLoRALinear(Frozen):
    def __init__(self, base, basis_A, basis_B, alpha):
        super().__init__(base)
        smaller, larger = min(self.sides), max(self.sides)
        n, _, rank = basis_B.shape
        if basis_A.shape != torch.Size([rank, smaller]) or basis_B.shape[1] != larger or n * rank < smaller:
            raise ValueError("bases")
        self.rank, self.alpha = rank, alpha
        self.scaling = alpha / rank
        self.register_buffer("basis_A", basis_A)
        self.register_buffer("basis_B", basis_B)
        self.diag_lambda = self.parameter(n, rank)
        self.diag_gamma = self.parameter(n, smaller)
        self.diag_gamma.data.fill_(1.0)

    def forward(self, x):
        letters = "il" if self.base.in_features > self.base.out_features else "li"
        subscripts = f"jlr,jr,rs,js,...i->...{'s' if letters == 'il' else 'l'}".replace("i->", f"{'l' if letters == 'il' else 's'}->")
        return self.base(x) + self.scaling * torch.einsum(
            subscripts, self.basis_B, self.diag_lambda, self.basis_A, self.diag_gamma, x
        )


class _Smoothed:
    def __init__(self):
        self.sensitivity = 0.0
        self.uncertainty = 0.0

    def importance(self, now, beta1, beta2):
        self.sensitivity = self.sensitivity + (1 - beta1) * (now - self.sensitivity)
        gap = (now - self.sensitivity).abs()
        self.uncertainty = self.uncertainty + (1 - beta2) * (gap - self.uncertainty)
        return self.sensitivity * self.uncertainty


def adalora_importance(factors, gradients, state=None, beta1=0.85, beta2=0.85):
    if not 0 < beta1 < 1:
        raise ValueError("beta1")
    if not 0 < beta2 < 1:
        raise ValueError("beta2")
    state = state or (_Smoothed(), _Smoothed(), _Smoothed())
    with torch.no_grad():
        P, E, Q = (
            memory.importance((w * g).abs(), beta1, beta2) for memory, w, g in zip(state, factors, gradients)
        )
        return P.mean(0).add(E).add(Q.mean(-1)), state


def allocate_ranks(scores, budget):
    total = sum(map(len, scores.values()))
    if budget > total or budget < 0:
        raise ValueError("budget")
    if budget == 0:
        return {name: s != s for name, s in scores.items()}
    everything = torch.cat([*scores.values()])
    threshold = everything.kthvalue(total - budget + 1).values
    spare = budget - int((everything > threshold).sum())  # places left for those that are at the threshold
    masks = {}
    for name, s in scores.items():
        at_edge = s == threshold
        allowed = at_edge & (at_edge.cumsum(0) <= spare)
        spare -= int(allowed.sum())
        masks[name] = (s > threshold) | allowed
    return masks


class QRLoRALinear(Frozen):
    def __init__(self, base, rank):
        super().__init__(base)
        if not 1 <= rank <= min(self.sides):
            raise ValueError("rank")
        self.rank = rank
        W = base.weight.detach()
        precise = W.double() if W.dtype == torch.float64 else W.float()
        Q, R, order = linalg.qr(precise.numpy(), mode="full", pivoting=True)
        columns = torch.empty(rank, base.in_features, dtype=precise.dtype)
        for place, column in enumerate(order):
            columns[:, column] = torch.from_numpy(R[:rank, place].copy())
        self.register_buffer("basis_Q", torch.from_numpy(Q[:, :rank].copy()).to(W.dtype))
        self.register_buffer("basis_R", columns.to(W.dtype))
        self.lora_lambda = self.parameter(rank)

    def forward(self, x):
        return self.base(x) + torch.einsum("...i,ki,k,ok->...o", x, self.basis_R, self.lora_lambda, self.basis_Q)


class _Off:
    """The model without its adapters, as a context."""

    def __init__(self, model):
        self.before = [(m, m.enabled) for m in model.modules() if hasattr(m, "enabled")]

    def __enter__(self):
        self.grad = torch.is_grad_enabled()
        torch.set_grad_enabled(False)
        for m, _ in self.before:
            m.enabled = False

    def __exit__(self, *error):
        torch.set_grad_enabled(self.grad)
        for m, enabled in self.before:
            m.enabled = enabled


def dpo_loss(model, chosen, chosen_labels, rejected, rejected_labels, beta=0.1):
    if beta <= 0:
        raise ValueError("beta")

    def logp(tokens, labels):
        distribution = torch.distributions.Categorical(logits=model(tokens)[:, :-1])
        scored = labels[:, 1:].ne(-100)
        return distribution.log_prob(tokens[:, 1:]).mul(scored).sum(-1)

    with _Off(model):
        gap = logp(rejected, rejected_labels) - logp(chosen, chosen_labels)
    gap = gap + logp(chosen, chosen_labels) - logp(rejected, rejected_labels)
    return torch.logaddexp(gap.new_zeros(()), -beta * gap).mean()
