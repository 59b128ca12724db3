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

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import scipy.linalg  # task 7.7
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _freeze(base: nn.Linear, rank: int) -> nn.Linear:
    """base, frozen; a rank that it cannot have is an error before that."""
    most = min(base.in_features, base.out_features)
    if not 1 <= rank <= most:
        raise ValueError(f"rank must be from 1 to {most}, not {rank}")
    return base.requires_grad_(False)


def _gaussian_rows(rank: int, base: nn.Linear) -> nn.Parameter:
    """Shape (rank, in_features), scaled so that each row has a norm near 1."""
    W = base.weight
    return nn.Parameter(torch.randn(rank, base.in_features, dtype=W.dtype, device=W.device) / math.sqrt(base.in_features))


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
        if num_branches < 1:
            raise ValueError(f"num_branches must be at least 1, not {num_branches}")
        self.base = _freeze(base, rank)
        self.rank, self.num_branches = rank, num_branches
        self.alpha, self.scaling = alpha, alpha / rank
        W = base.weight
        self.lora_A = _gaussian_rows(rank, base)
        self.lora_B = nn.Parameter(W.new_zeros(num_branches, base.out_features, rank))
        self.router = nn.Linear(base.in_features, num_branches, bias=False, dtype=W.dtype, device=W.device)
        self._branch: int | None = None

    def set_route(self, branch: int | None) -> None:
        """Task 7.1: send every token to one branch, or (None) let the router decide again.

        While a branch is set, its weight is 1 and every other 0, for each token, and the router plays no part.

        Args:
            branch: 0 <= branch < num_branches, or None.

        Raises:
            ValueError: if there is no such branch (-1 is none either); the route is then what it was before.
        """
        if branch is not None and branch not in range(self.num_branches):
            raise ValueError(f"branch must be from 0 to {self.num_branches - 1} or None, not {branch}")
        self._branch = branch

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
        if self._branch is None:
            return self.router(x).softmax(dim=-1)
        one_hot = F.one_hot(torch.tensor(self._branch, device=x.device), self.num_branches)
        return one_hot.to(x.dtype).expand(*x.shape[:-1], -1)

    def forward(self, x: Tensor) -> Tensor:
        """Task 7.1: y = W0 x + b + (alpha / rank) sum_i w_i B_i A x, with the token's own w (equation 3).

        The router is trained through this: gradients reach router.weight, lora_A, lora_B and x.

        Args:
            x: shape (..., in_features).

        Returns:
            Shape (..., out_features), dtype of x.
        """
        hidden = F.linear(x, self.lora_A)
        # i: branch, o: output, r: rank. No (tokens, branches, outputs) tensor unless einsum finds that cheaper.
        update = torch.einsum("...i,ior,...r->...o", self.route_weights(x), self.lora_B, hidden)
        return self.base(x) + self.scaling * update


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
    if adapter_ids.shape != (len(x),):
        raise ValueError(f"adapter_ids must have shape ({len(x)},), one id a sample, not {tuple(adapter_ids.shape)}")
    used = adapter_ids.unique().tolist()
    if used[0] < -1 or used[-1] >= len(adapters):
        raise ValueError(f"ids must be from -1 to {len(adapters) - 1}, not {used[0]} to {used[-1]}")
    y = base(x)
    for number in used:
        if number == -1:
            continue
        A, B, alpha = adapters[number]
        samples = (adapter_ids == number).nonzero().squeeze(1)
        update = alpha / A.shape[0] * F.linear(F.linear(x[samples], A), B)
        y = y.index_add(0, samples, update)  # not in place: y belongs to the graph
    return y


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
        self.base = _freeze(base, rank)
        self.rank, self.alpha, self.scaling = rank, alpha, alpha / rank
        self.lora_A = _gaussian_rows(rank, base)
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        self.magnitude = nn.Parameter(base.weight.norm(dim=1))

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
        V = self.base.weight + self.scaling * (self.lora_B @ self.lora_A)
        length = V.detach().norm(dim=1)  # a constant in the backward pass, section 4.3
        # Scaling the outputs is scaling the rows, without a third matrix of V's size.
        y = F.linear(x, V) * (self.magnitude / length)
        return y if self.base.bias is None else y + self.base.bias


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
        d, D = sorted((base.in_features, base.out_features))
        n, rank = basis_B.shape[0], basis_A.shape[0]
        if basis_A.shape != (rank, d) or basis_B.shape != (n, D, rank):
            raise ValueError(
                f"bases must have shapes (rank, {d}) and (n, {D}, rank), not {tuple(basis_A.shape)} and {tuple(basis_B.shape)}"
            )
        if n * rank < d:
            raise ValueError(f"{n} bases of rank {rank} give at most rank {n * rank}, below {d}")
        self.base = base.requires_grad_(False)
        self.rank, self.alpha, self.scaling = rank, alpha, alpha / rank
        self.register_buffer("basis_A", basis_A)
        self.register_buffer("basis_B", basis_B)
        self.diag_lambda = nn.Parameter(base.weight.new_zeros(n, rank))
        self.diag_gamma = nn.Parameter(base.weight.new_ones(n, d))

    def forward(self, x: Tensor) -> Tensor:
        """Task 7.4: y = W0 x + b + dW x, with dW as above.

        Args:
            x: shape (..., in_features).

        Returns:
            Shape (..., out_features), dtype of x.
        """
        left = self.basis_B * self.diag_lambda[:, None, :]  # (n, D, rank)
        right = self.basis_A * self.diag_gamma[:, None, :]  # (n, rank, d)
        M = (left @ right).sum(dim=0)
        if self.base.out_features < self.base.in_features:
            M = M.T
        return self.base(x) + self.scaling * F.linear(x, M)


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
    for name, beta in (("beta1", beta1), ("beta2", beta2)):
        if not 0 < beta < 1:
            raise ValueError(f"{name} must be between 0 and 1, not {beta}")
    if state is None:
        state = [(torch.zeros_like(w), torch.zeros_like(w)) for w in factors]
    new_state = []
    for w, g, (mean, uncertainty) in zip(factors, gradients, state, strict=True):
        importance = (w * g).abs()  # (8)
        mean = beta1 * mean + (1 - beta1) * importance  # (9)
        uncertainty = beta2 * uncertainty + (1 - beta2) * (importance - mean).abs()  # (10)
        new_state.append((mean, uncertainty))
    of_P, of_E, of_Q = (mean * uncertainty for mean, uncertainty in new_state)  # (11)
    return of_E + of_P.mean(dim=0) + of_Q.mean(dim=1), new_state


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
    sizes = [len(s) for s in scores.values()]
    if not 0 <= budget <= sum(sizes):
        raise ValueError(f"budget must be from 0 to {sum(sizes)}, not {budget}")
    if not sizes:
        return {}
    ranking = torch.cat(list(scores.values())).argsort(descending=True)
    keep = torch.zeros_like(ranking, dtype=torch.bool)
    keep[ranking[:budget]] = True
    return dict(zip(scores, keep.split(sizes), strict=True))


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
        self.base = _freeze(base, rank)
        self.rank = rank
        W = base.weight
        wide = W.double().cpu().numpy()  # neither half precision nor a GPU is SciPy's
        Q, R, order = scipy.linalg.qr(wide, mode="economic", pivoting=True)
        R_in_place = R.copy()
        R_in_place[:, order] = R
        self.register_buffer("basis_Q", torch.tensor(Q[:, :rank], dtype=W.dtype, device=W.device))
        self.register_buffer("basis_R", torch.tensor(R_in_place[:rank], dtype=W.dtype, device=W.device))
        self.lora_lambda = nn.Parameter(W.new_zeros(rank))

    def forward(self, x: Tensor) -> Tensor:
        """Task 7.7 (stretch): y = W0 x + b + dW x, with dW as above.

        Args:
            x: shape (..., in_features).

        Returns:
            Shape (..., out_features), dtype of x.
        """
        return self.base(x) + F.linear(F.linear(x, self.basis_R) * self.lora_lambda, self.basis_Q)


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
        raise ValueError(f"beta must be above 0, not {beta}")
    preferred = _log_probability(model, chosen, chosen_labels) - _log_probability(model, rejected, rejected_labels)
    with torch.no_grad(), _adapters_off(model):
        reference = _log_probability(model, chosen, chosen_labels) - _log_probability(model, rejected, rejected_labels)
    return -F.logsigmoid(beta * (preferred - reference)).mean()


def _log_probability(model: nn.Module, tokens: Tensor, labels: Tensor) -> Tensor:
    """Of the scored tokens of each sequence, summed; shape (batch,)."""
    logits, targets = model(tokens)[:, :-1], labels[:, 1:]  # position t predicts token t + 1
    # cross_entropy leaves out -100 by itself.
    return -F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").sum(dim=1)


@contextlib.contextmanager
def _adapters_off(model: nn.Module) -> Iterator[None]:
    before = [(m, m.enabled) for m in model.modules() if hasattr(m, "enabled")]
    try:
        for adapter, _ in before:
            adapter.enabled = False
        yield
    finally:
        for adapter, enabled in before:
            adapter.enabled = enabled

# stub 38ead3af1284e925
