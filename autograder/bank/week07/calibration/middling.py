"""Week 7: several LoRA branches with a router, and layers that are not low-rank: DoRA, RandLoRA, QR-LoRA; preferences.

Complete tasks 7.1 to 7.4 below, in any order; 7.5 to 7.8 are stretch tasks, checked but without marks.
`autograder check 7` tells how far you are and `autograder check 7.2` checks one task alone. Each docstring is
the contract: the checks use the names, shapes and errors that stand there and nothing else, so everything else
is yours to choose. Helper functions, private attributes and helper modules beside this file are welcome.

Convention: y = W0 x + b + (alpha / rank) B A x, with A (rank x in_features) and B (out_features x rank), so the
weight update is dW = (alpha / rank) B A (Hu et al., arXiv:2106.09685, section 4.1). Each layer below replaces that
dW by another one. In every layer the base is frozen; what the class names as `nn.Parameter` is trainable, nothing else
is, and it has base.weight's dtype and device. Whatever is computed is computed in the dtype of its inputs or a wider
one: a softmax in float32 would spoil a float64 layer. There is no dropout and no merging this week.

Task   points  minutes  difficulty  importance (both from 1 to 5)
7.1        25       45           2           5
7.2        15       30           2           4
7.3        15       35           3           4
7.4        15       40           4           3
7.5   stretch       30           3           2
7.6   stretch       15           1           2
7.7   stretch       35           3           2
7.8   stretch       45           4           4
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import scipy.linalg  # task 7.7
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class HydraLoRALinear(nn.Module):
    """A frozen `nn.Linear` with one A, several B, and a router that mixes the B for each token.

    Source: Tian et al., "HydraLoRA: An Asymmetric LoRA Architecture for Efficient Fine-Tuning", arXiv:2404.19245,
    section 3, equations (3) and (4); the factor alpha / rank is LoRA's.

    Attributes:
        base: the `nn.Linear` that was passed in, the same object, its weight and bias frozen.
        lora_A: `nn.Parameter`, shape (rank, in_features), shared by all branches.
        lora_B: `nn.Parameter`, shape (num_branches, out_features, rank); B_i = lora_B[i] is branch i's.
        router: `nn.Linear` from in_features to num_branches, without a bias, trainable.
        rank: int.
        num_branches: int.
        alpha: float, as it was passed in.
        scaling: float, alpha / rank.

    A token is one vector of in_features numbers: everything but the last dimension of x counts tokens.
    """

    def __init__(self, base: nn.Linear, rank: int, num_branches: int, alpha: float) -> None:
        """Task 7.1: freeze `base` and add the factors and the router.

        At the start lora_B is zero, so the layer begins as `base`, and lora_A is random with linearly independent rows.
        router.weight is random too, no two of its rows equal: branches that start equal and are weighted equally get equal
        gradients, so nothing would tell them apart. How the random numbers are drawn is yours. A new layer uses its router.

        Args:
            base: the layer to adapt, with or without a bias.
            rank: inner dimension of every branch, 1 <= rank <= min(in_features, out_features).
            num_branches: at least 1; with one branch the layer is LoRA.
            alpha: numerator of the scaling.

        Raises:
            ValueError: if rank or num_branches is out of its range.
        """
        super().__init__()
        # check arguments
        if rank < 1 or rank > min(base.in_features, base.out_features):
            raise ValueError("invalid rank")
        if num_branches < 1:
            raise ValueError("invalid num_branches")
        self.base = base
        # freeze base
        for p in self.base.parameters():
            p.requires_grad = False
        w = base.weight
        self.rank = rank
        self.num_branches = num_branches
        self.alpha = alpha
        self.scaling = alpha / rank
        # A: kaiming, B: zeros
        self.lora_A = nn.Parameter(torch.empty(rank, base.in_features, dtype=w.dtype, device=w.device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.lora_B = nn.Parameter(torch.zeros(num_branches, base.out_features, rank, dtype=w.dtype, device=w.device))
        # router
        self.router = nn.Linear(base.in_features, num_branches, bias=False, dtype=w.dtype, device=w.device)
        self.branch = None

    def set_route(self, branch: int | None) -> None:
        """Task 7.1: send every token to one branch, or (None) let the router decide again.

        While a branch is set, its weight is 1 and every other 0, for each token, and the router plays no part.

        Args:
            branch: 0 <= branch < num_branches, or None.

        Raises:
            ValueError: if there is no such branch (-1 is none either); the route is then what it was before.
        """
        if branch is None:
            self.branch = None
        else:
            if branch < 0 or branch >= self.num_branches:
                raise ValueError("invalid branch")
            self.branch = branch

    def route_weights(self, x: Tensor) -> Tensor:
        """Task 7.1: the weights w of the branches, for each token: softmax(router(x)) over the branches (equation 4).

        The router sees the layer's input x, one token at a time; no token's weights depend on another token. They sum to 1
        and are finite, also where the router's outputs are in the thousands. While a branch is set by `set_route`, they are
        1 for it and 0 for the others, exactly.

        Args:
            x: shape (..., in_features).

        Returns:
            Shape (..., num_branches), dtype of x.
        """
        if self.branch is not None:
            # one-hot
            w = torch.zeros(x.shape[:-1] + (self.num_branches,), dtype=x.dtype, device=x.device)
            w[..., self.branch] = 1.0
            return w
        # softmax over the branches
        logits = self.router(x)
        w = torch.softmax(logits, dim=-1)
        return w

    def forward(self, x: Tensor) -> Tensor:
        """Task 7.1: y = W0 x + b + (alpha / rank) sum_i w_i B_i A x, with the token's own w (equation 3).

        The router is trained through this: gradients reach router.weight, lora_A, lora_B and x.

        Args:
            x: shape (..., in_features).

        Returns:
            Shape (..., out_features), dtype of x.
        """
        out = self.base(x)
        w = self.route_weights(x)
        # A x
        h = x @ self.lora_A.T
        # loop over the branches
        tmp = 0
        for i in range(self.num_branches):
            tmp = tmp + w[..., i : i + 1] * (h @ self.lora_B[i].T)
        return out + self.scaling * tmp


def multi_adapter_forward(
    base: nn.Linear, adapters: Sequence[tuple[Tensor, Tensor, float]], x: Tensor, adapter_ids: Tensor
) -> Tensor:
    """Task 7.2: one batch in which every sample uses its own LoRA adapter, or none.

    Row i of the result is what a LoRA layer with the adapter of sample i alone would give:
    W0 x_i + b + (alpha / rank) B A x_i with (A, B, alpha) = adapters[adapter_ids[i]], and W0 x_i + b where
    adapter_ids[i] is -1. The samples come in any order, an adapter may serve several of them or none, and each keeps its
    place. Gradients reach x and the factors that were used; for the factors of an adapter that serves no sample the
    gradient is zero or None. How the samples are grouped is yours. `base` is not changed.

    Source: the setting is that of Sheng et al., "S-LoRA: Serving Thousands of Concurrent LoRA Adapters",
    arXiv:2311.03285, which computes the base's product for the whole batch and the adapters' products apart.

    Args:
        base: the layer that all adapters share, with or without a bias.
        adapters: (A, B, alpha) of each: A of shape (rank, in_features), B of shape (out_features, rank), of base.weight's
            dtype. Every adapter has a rank and an alpha of its own. There may be none.
        x: shape (batch, ..., in_features), with at least two dimensions; the first one counts samples, at least 1 of them.
        adapter_ids: int64, shape (batch,), each an index into `adapters` or -1.

    Returns:
        Shape (batch, ..., out_features), dtype of x.

    Raises:
        ValueError: if adapter_ids is not of shape (batch,), or an id is less than -1 or not less than len(adapters).
    """
    # check ids
    if adapter_ids.shape != (x.shape[0],):
        raise ValueError("invalid ids")
    for i in adapter_ids.tolist():
        if i < -1 or i >= len(adapters):
            raise ValueError("invalid ids")
    out = base(x)
    # loop over the samples
    rows = []
    for i in range(x.shape[0]):
        idx = adapter_ids[i].item()
        if idx == -1:
            # no adapter
            rows.append(out[i])
        else:
            A, B, alpha = adapters[idx]
            rank = A.shape[0]
            delta = (x[i] @ A.T) @ B.T * (alpha / rank)
            rows.append(out[i] + delta)
    return torch.stack(rows)


class DoRALinear(nn.Module):
    """A frozen `nn.Linear` whose weight is split into a magnitude, trained as it is, and a direction, trained by LoRA.

    With V = W0 + (alpha / rank) B A and the Euclidean norm of each of its rows (one row makes one output),

        W' = diag(magnitude) diag(1 / row norms of V) V, so that row i of W' has the norm |magnitude_i|.

    Source: Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", arXiv:2402.09353, equation (5). What the paper
    calls the norm of a column is, in the shape of `nn.Linear.weight` (out_features, in_features), that of a row; peft
    does the same. The factor alpha / rank is LoRA's.

    Attributes:
        base: the `nn.Linear` that was passed in, the same object, its weight and bias frozen.
        lora_A: `nn.Parameter`, shape (rank, in_features).
        lora_B: `nn.Parameter`, shape (out_features, rank).
        magnitude: `nn.Parameter`, shape (out_features,).
        rank: int.
        alpha: float, as it was passed in.
        scaling: float, alpha / rank.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        """Task 7.3: freeze `base` and add the factors and the magnitude.

        At the start lora_A is random with linearly independent rows (how it is drawn is yours), lora_B is zero, and
        magnitude holds the norms of base.weight's rows, so the layer begins as `base` up to rounding.

        Args:
            base: the layer to adapt, with or without a bias; no row of its weight is zero.
            rank: inner dimension, 1 <= rank <= min(in_features, out_features).
            alpha: numerator of the scaling.

        Raises:
            ValueError: if rank is out of its range.
        """
        super().__init__()
        # check arguments
        if rank < 1 or rank > min(base.in_features, base.out_features):
            raise ValueError("invalid rank")
        self.base = base
        # freeze base
        for p in self.base.parameters():
            p.requires_grad = False
        w = base.weight
        self.rank = rank
        self.alpha = alpha
        self.scaling = alpha / rank
        # A: kaiming, B: zeros
        self.lora_A = nn.Parameter(torch.empty(rank, base.in_features, dtype=w.dtype, device=w.device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank, dtype=w.dtype, device=w.device))
        # magnitude
        self.magnitude = nn.Parameter(w.detach().pow(2).sum(dim=1).sqrt())

    def forward(self, x: Tensor) -> Tensor:
        """Task 7.3: y = W' x + b, with W' as above, from what base.weight, the factors and the magnitude are now.

        V is divided by its norms as they are, without an epsilon, and the bias is added as it is. In the backward pass the
        row norms of V count as constants (section 4.3 of the paper, to save memory): lora_A and lora_B get no gradient
        through them, which is not the true derivative. The gradients of magnitude and x are the true ones.

        Args:
            x: shape (..., in_features).

        Returns:
            Shape (..., out_features), dtype of x.
        """
        # direction
        v = self.base.weight + self.scaling * (self.lora_B @ self.lora_A)
        # norm of the rows, detached
        norm = v.pow(2).sum(dim=1, keepdim=True).sqrt().detach()
        w = self.magnitude.unsqueeze(1) * v / norm
        out = x @ w.T
        if self.base.bias is not None:
            out = out + self.base.bias
        return out


class RandLoRALinear(nn.Module):
    """A frozen `nn.Linear` with an update of full rank: a sum of fixed random bases with learned diagonals.

    With d the smaller and D the larger of in_features and out_features, and n bases,

        M = sum_j B_j diag(diag_lambda[j]) A diag(diag_gamma[j]), shape (D, d), with A = basis_A and B_j = basis_B[j],

    and the update is dW = (alpha / rank) M where out_features >= in_features, or (alpha / rank) M transposed where
    out_features < in_features: the learned diagonals always stand on the smaller side, where they are short.

    Source: Albert et al., "RandLoRA: Full-rank parameter-efficient fine-tuning of large models", arXiv:2502.00987;
    A is shared by the bases, and both by the layers of a model, as in peft.

    Attributes:
        base: the `nn.Linear` that was passed in, the same object, its weight and bias frozen.
        basis_A: buffer, shape (rank, d): the tensor that was passed in, which other layers share, and no copy of it.
        basis_B: buffer, shape (n, D, rank): the same.
        diag_lambda: `nn.Parameter`, shape (n, rank).
        diag_gamma: `nn.Parameter`, shape (n, d).
        rank: int.
        alpha: float, as it was passed in.
        scaling: float, alpha / rank.

    diag_lambda and diag_gamma are the only parameters beside those of `base`.
    """

    def __init__(self, base: nn.Linear, basis_A: Tensor, basis_B: Tensor, alpha: float) -> None:
        """Task 7.4: freeze `base`, take the bases, and add the diagonals.

        At the start diag_lambda is zero, so the layer begins as `base`, and no entry of diag_gamma is zero (which values
        it has is yours): were both zero, neither would ever move.

        Args:
            base: the layer to adapt, with or without a bias.
            basis_A: shape (rank, d), random numbers of base.weight's dtype and device, drawn by the caller.
            basis_B: shape (n, D, rank), the same.
            alpha: numerator of the scaling.

        Raises:
            ValueError: if the bases do not have these shapes (rank and n are read off them), or if n rank < d: then the
                sum cannot have full rank.
        """
        super().__init__()
        d = min(base.in_features, base.out_features)
        big = max(base.in_features, base.out_features)
        # check shapes
        if basis_A.dim() != 2 or basis_B.dim() != 3:
            raise ValueError("invalid shape")
        rank = basis_A.shape[0]
        n = basis_B.shape[0]
        if basis_A.shape[1] != d:
            raise ValueError("invalid shape")
        if basis_B.shape[1] != big:
            raise ValueError("invalid shape")
        if basis_B.shape[2] != rank:
            raise ValueError("invalid shape")
        if n * rank < d:
            raise ValueError("not enough bases")
        self.base = base
        # freeze base
        for p in self.base.parameters():
            p.requires_grad = False
        w = base.weight
        self.rank = rank
        self.alpha = alpha
        self.scaling = alpha / rank
        self.n = n
        self.register_buffer("basis_A", basis_A)
        self.register_buffer("basis_B", basis_B)
        # lambda: zeros, gamma: ones
        self.diag_lambda = nn.Parameter(torch.zeros(n, rank, dtype=w.dtype, device=w.device))
        self.diag_gamma = nn.Parameter(torch.ones(n, d, dtype=w.dtype, device=w.device))

    def forward(self, x: Tensor) -> Tensor:
        """Task 7.4: y = W0 x + b + dW x, with dW as above.

        Args:
            x: shape (..., in_features).

        Returns:
            Shape (..., out_features), dtype of x.
        """
        # sum over the bases
        m = 0
        for j in range(self.n):
            m = m + self.basis_B[j] @ torch.diag(self.diag_lambda[j]) @ self.basis_A @ torch.diag(self.diag_gamma[j])
        # transpose if needed
        if self.base.out_features < self.base.in_features:
            m = m.T
        delta = self.scaling * m
        return self.base(x) + x @ delta.T


@torch.no_grad()
def adalora_importance(
    factors: tuple[Tensor, Tensor, Tensor],
    gradients: tuple[Tensor, Tensor, Tensor],
    state: Any = None,
    beta1: float = 0.85,
    beta2: float = 0.85,
) -> tuple[Tensor, Any]:
    """Task 7.5 (stretch): one step of AdaLoRA's importance of every triplet of dW = P diag(E) Q.

    Triplet k is column k of P, element k of E and row k of Q. For every single entry w of the three, with its gradient g,

        I = |w g|                                                (8)
        I_mean = beta1 I_mean + (1 - beta1) I                    (9)
        U_mean = beta2 U_mean + (1 - beta2) |I - I_mean|         (10), with the I_mean that (9) has just given
        s = I_mean U_mean                                        (11)

    where both means are zero before the first step. The score of a triplet is, by (7), the s of its E, plus the mean of
    the s of its column of P, plus the mean of the s of its row of Q.

    Source: Zhang et al., "AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning", arXiv:2303.10512,
    section 3.2; the numbers are that section's.

    Args:
        factors: P of shape (out_features, rank), E of shape (rank,), Q of shape (rank, in_features). They may require
            gradients; they are not changed.
        gradients: of the loss by P, E and Q, of the same shapes.
        state: what the last call for these factors returned as its second value; None in the first call. What it holds is
            yours; a state is passed in once only, so it may be changed in place.
        beta1: 0 < beta1 < 1.
        beta2: 0 < beta2 < 1.

    Returns:
        The scores, shape (rank,), of E's dtype and without a graph behind them, and the state for the next call.

    Raises:
        ValueError: if beta1 or beta2 is out of its range.
    """
    if beta1 <= 0 or beta1 >= 1:
        raise ValueError("invalid beta1")
    if beta2 <= 0 or beta2 >= 1:
        raise ValueError("invalid beta2")
    P, E, Q = factors
    gP, gE, gQ = gradients
    if state is None:
        # first call
        state = {}
        state["I_P"] = torch.zeros_like(P)
        state["I_E"] = torch.zeros_like(E)
        state["I_Q"] = torch.zeros_like(Q)
        state["U_P"] = torch.zeros_like(P)
        state["U_E"] = torch.zeros_like(E)
        state["U_Q"] = torch.zeros_like(Q)
    # importance
    I_P = torch.abs(P * gP)
    I_E = torch.abs(E * gE)
    I_Q = torch.abs(Q * gQ)
    # moving averages
    state["I_P"] = beta1 * state["I_P"] + (1 - beta1) * I_P
    state["I_E"] = beta1 * state["I_E"] + (1 - beta1) * I_E
    state["I_Q"] = beta1 * state["I_Q"] + (1 - beta1) * I_Q
    state["U_P"] = beta2 * state["U_P"] + (1 - beta2) * torch.abs(I_P - state["I_P"])
    state["U_E"] = beta2 * state["U_E"] + (1 - beta2) * torch.abs(I_E - state["I_E"])
    state["U_Q"] = beta2 * state["U_Q"] + (1 - beta2) * torch.abs(I_Q - state["I_Q"])
    # scores
    s_P = state["I_P"] * state["U_P"]
    s_E = state["I_E"] * state["U_E"]
    s_Q = state["I_Q"] * state["U_Q"]
    scores = s_E + s_P.mean(dim=0) + s_Q.mean(dim=1)
    return scores, state


def allocate_ranks(scores: Mapping[str, Tensor], budget: int) -> dict[str, Tensor]:
    """Task 7.6 (stretch): spend a budget of triplets on the highest scores of the whole model.

    The triplets with the `budget` highest scores are kept, whichever matrices they belong to, and no others: equation (6)
    of AdaLoRA (arXiv:2303.10512, section 3.2). A matrix may keep all of its triplets, or none. Where equal scores compete
    for the last places, which of them are kept is yours, but never more nor fewer than the budget.

    Args:
        scores: for each matrix by its name the scores of its triplets, shape (rank of the matrix,); ranks may differ.
        budget: how many triplets are kept in all, 0 <= budget <= number of all triplets.

    Returns:
        For each name a mask of dtype bool and the scores' shape, True where the triplet is kept. So the sum of a mask is
        the rank that its matrix keeps, and all sums together are the budget.

    Raises:
        ValueError: if budget is out of its range.
    """
    # collect all scores
    all_scores = []
    for name, s in scores.items():
        for k in range(len(s)):
            all_scores.append((s[k].item(), name, k))
    if budget < 0 or budget > len(all_scores):
        raise ValueError("invalid budget")
    # sort and keep the best
    all_scores.sort(key=lambda t: t[0], reverse=True)
    result = {}
    for name, s in scores.items():
        result[name] = torch.zeros(len(s), dtype=torch.bool)
    for i in range(budget):
        score, name, k = all_scores[i]
        result[name][k] = True
    return result


class QRLoRALinear(nn.Module):
    """A frozen `nn.Linear` with an update in a fixed basis of its own weight: only `rank` scalars are trained.

    The QR decomposition with column pivoting of W = base.weight is W[:, order] = Q R, where Q has orthonormal columns and
    R is upper triangular, its diagonal falling in absolute value. With basis_Q the first `rank` columns of Q, and basis_R
    the first `rank` rows of R whose columns are put back into W's order (W = Q R' where R'[:, order] = R),

        dW = sum_k lora_lambda[k] basis_Q[:, k] basis_R[k, :].

    There is no alpha and no other scaling. With the largest rank and every lora_lambda 1, dW would be W.

    Source: Liang and Bharadwaj, "QR-LoRA: QR-Based Low-Rank Adaptation for Efficient Fine-Tuning of Large Language
    Models", arXiv:2508.21810. That the columns go back to their places is said here, so that dW fits W.

    Attributes:
        base: the `nn.Linear` that was passed in, the same object, its weight and bias frozen.
        basis_Q: buffer, shape (out_features, rank).
        basis_R: buffer, shape (rank, in_features).
        lora_lambda: `nn.Parameter`, shape (rank,).
        rank: int.

    lora_lambda is the only parameter beside those of `base`. The buffers have base.weight's dtype and device.
    """

    def __init__(self, base: nn.Linear, rank: int) -> None:
        """Task 7.7 (stretch): freeze `base`, decompose its weight as it is now, and add the scalars.

        lora_lambda starts at zero, so the layer begins as `base`. The signs of the decomposition are yours (column k of
        basis_Q and row k of basis_R may change theirs together). The weight is decomposed in its own precision or a wider
        one, in half precision in float32 or wider. `scipy.linalg.qr` may be used: it can pivot, and torch's cannot.

        Args:
            base: the layer to adapt, with or without a bias.
            rank: 1 <= rank <= min(in_features, out_features).

        Raises:
            ValueError: if rank is out of its range.
        """
        super().__init__()
        # check arguments
        if rank < 1 or rank > min(base.in_features, base.out_features):
            raise ValueError("invalid rank")
        self.base = base
        # freeze base
        for p in self.base.parameters():
            p.requires_grad = False
        w = base.weight
        self.rank = rank
        # QR with pivoting
        W = w.detach().to(torch.float64).cpu().numpy()
        Q, R, P = scipy.linalg.qr(W, pivoting=True)
        # undo the permutation
        R2 = R.copy()
        for i in range(len(P)):
            R2[:, P[i]] = R[:, i]
        q = torch.from_numpy(Q[:, :rank].copy())
        r = torch.from_numpy(R2[:rank, :].copy())
        self.register_buffer("basis_Q", q.to(w.dtype).to(w.device))
        self.register_buffer("basis_R", r.to(w.dtype).to(w.device))
        self.lora_lambda = nn.Parameter(torch.zeros(rank, dtype=w.dtype, device=w.device))

    def forward(self, x: Tensor) -> Tensor:
        """Task 7.7 (stretch): y = W0 x + b + dW x, with dW as above.

        Args:
            x: shape (..., in_features).

        Returns:
            Shape (..., out_features), dtype of x.
        """
        tmp = x @ self.basis_R.T
        tmp = tmp * self.lora_lambda
        tmp = tmp @ self.basis_Q.T
        return self.base(x) + tmp


def dpo_loss(
    model: nn.Module,
    chosen: Tensor,
    chosen_labels: Tensor,
    rejected: Tensor,
    rejected_labels: Tensor,
    beta: float = 0.1,
) -> Tensor:
    """Task 7.8 (stretch): the DPO loss of a model with adapters, whose reference is the same model without them.

    With log p(y) the sum (not the mean) of the log-probabilities of a sequence's scored tokens, under the model as it is,
    and log p_ref(y) the same under the reference,

        loss = mean over the batch of -log sigmoid(beta (log p(chosen) - log p_ref(chosen)
                                                         - log p(rejected) + log p_ref(rejected))).

    - Adapters: every module of `model.modules()` that has an attribute `enabled`, a bool, is an adapter layer, as week 4's
      LoRALinear is; while it is False, the layer is its base alone. The reference is the model with all of them False.
      Afterwards each is what it was before the call, also if the model raises: a caller may have disabled some itself.
    - The reference is a constant: no gradient flows through it, not even to trainable parameters that are no adapter's.
    - The logits at position t predict token t + 1. A label is the token at its own position, or -100 where the token is
      not scored (the prompt, padding); the token at position 0 is never scored, whatever its label.
    - The model is causal, so tokens behind a position do not change its logits. Its mode (training or evaluation) is left
      as it is; how often the model is called is yours.
    - The loss and its gradients stay finite however large the margin in the sigmoid is.

    Source: Rafailov et al., "Direct Preference Optimization: Your Language Model is Secretly a Reward Model",
    arXiv:2305.18290, equation (7).

    Args:
        model: model(tokens) gives logits of shape (batch, length, vocabulary).
        chosen: tokens of the preferred sequences, int64, shape (batch, length).
        chosen_labels: int64, the same shape.
        rejected: tokens of the others, int64, shape (batch, other length).
        rejected_labels: int64, the same shape as rejected.
        beta: greater than 0.

    Returns:
        The loss, shape (), of the logits' dtype.

    Raises:
        ValueError: if beta is not greater than 0.
    """
    if beta <= 0:
        raise ValueError("invalid beta")

    # sum of the log-probabilities
    def logp(tokens, labels):
        logits = model(tokens)
        lp = torch.log_softmax(logits, dim=-1)
        # shift
        lp = lp[:, :-1]
        labels = labels[:, 1:]
        mask = labels != -100
        labels = labels.clone()
        labels[~mask] = 0
        lp = lp.gather(2, labels.unsqueeze(2)).squeeze(2)
        return (lp * mask).sum(dim=1)

    # policy
    p_chosen = logp(chosen, chosen_labels)
    p_rejected = logp(rejected, rejected_labels)
    # turn the adapters off
    adapters = []
    old = []
    for m in model.modules():
        if hasattr(m, "enabled"):
            adapters.append(m)
            old.append(m.enabled)
    try:
        for m in adapters:
            m.enabled = False
        with torch.no_grad():
            # reference
            r_chosen = logp(chosen, chosen_labels)
            r_rejected = logp(rejected, rejected_labels)
    finally:
        # turn the adapters on again
        for i in range(len(adapters)):
            adapters[i].enabled = old[i]
    # the loss
    margin = beta * (p_chosen - r_chosen - p_rejected + r_rejected)
    return -torch.nn.functional.logsigmoid(margin).mean()

# stub 38ead3af1284e925
