"""Week 10: security and robustness of adapters, from the defender's side and on toy models.

Complete the tasks below, in any order; `autograder check 10` tells how far you are and `autograder check 10.2` checks
one task alone. Each docstring is the contract: the checks use the names, shapes and errors that stand there and
nothing else, so everything else is yours to choose. Helper functions and helper modules beside this file are welcome.
No function changes its arguments.

Convention: y = W0 x + (alpha / rank) B A x, with A (rank x d_in) and B (d_out x rank). The update of a layer means
B A here, shape (d_out, d_in), without the factor alpha / rank: alpha and rank stand in the configuration.

An adapter is a dict with two keys:

- "config": what a JSON object holds, a dict with str keys and values that are str, int, float, bool, None, lists or
  dicts of these. Among its keys are "rank", "alpha" and "target_modules".
- "tensors": a dict with two keys for each layer, "<layer>.lora_A" (rank, d_in) and "<layer>.lora_B" (d_out, rank), both
  floating-point tensors of one dtype. The layer's name is everything before the last dot, "layers.0.q" for instance.

"LoRA weight relocation attack" is no established term; this course defines it as moving an adapter out of the context
in which it was trained and vetted: (a) renamed keys put its factors into other layers, (b) merged into another base or
with another adapter it does something else, (c) other factors, (B G, G^-1 A), hide the same update, (d) a changed
configuration rescales or retargets it. The tasks detect (a), (c) and (d); no name, shape or fingerprint shows (b).
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Adapter = dict[str, Any]


def relocate(adapter: Adapter, mapping: dict[str, str]) -> Adapter:
    """Task 10.1: the adapter with its layers renamed, as an attacker, or an honest port to another model, does it.

    Every layer in `mapping` is moved, both its factors; all other layers keep their names. The names are whole layer
    names, so "layers.1" has nothing to do with "layers.10". All moves happen at once: {"a": "b", "b": "a"} exchanges two
    layers. The configuration is not touched, which is why nothing complains when such a file is loaded.

    The result's dicts and lists are new ones, down to the innermost of "config": changing them later leaves `adapter`
    alone. The tensors may be the same objects. The order of the keys is yours.

    Args:
        adapter: as above.
        mapping: from a layer's name to its new name. It may be empty, and a layer may be mapped to itself.

    Returns:
        The new adapter.

    Raises:
        ValueError: if the mapping names a layer that the adapter has not, or two layers would get the same name.
    """
    ### BEGIN SOLUTION 10.1
    tensors = adapter["tensors"]
    unknown = mapping.keys() - {key.rpartition(".")[0] for key in tensors}
    if unknown:
        raise ValueError(f"the adapter has no layer {sorted(unknown)}")
    moved = {}
    for key, value in tensors.items():
        layer, _, factor = key.rpartition(".")
        moved[f"{mapping.get(layer, layer)}.{factor}"] = value
    if len(moved) < len(tensors):
        raise ValueError("two layers would get the same name")
    return {"config": copy.deepcopy(adapter["config"]), "tensors": moved}
    ### END SOLUTION


def canonicalize(B: Tensor, A: Tensor, rtol: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Task 10.2: the one pair of factors that stands for the update B A, whatever factors it came in.

    For an invertible G the factors B G and G^-1 A have the same product: the update determines them only up to this
    gauge. With the singular value decomposition B A = U diag(s) V^T, s descending, the canonical pair is

        B' = U diag(sqrt(s)),  A' = diag(sqrt(s)) V^T,

    where only the singular values above rtol * s[0] are kept, k of them, which is the rank of the update and may be less
    than that of the factors (0 for a zero update). Each pair of singular vectors has a free sign; it is chosen
    such that the entry of largest absolute value in the column of B' is positive.

    So B' A' = B A, but for what rtol drops, and the result does not depend on G. The arithmetic is float64 whatever the
    dtype is. The singular values that are kept differ from each other, and the largest entry of a column is
    larger than the others by absolute value: otherwise the pair would not be unique. Whether you decompose B A, or
    smaller matrices, is yours.

    Args:
        B: shape (d_out, rank), any floating-point dtype.
        A: shape (rank, d_in), of B's dtype.
        rtol: 0 < rtol < 1.

    Returns:
        B', shape (d_out, k), and A', shape (k, d_in), of B's dtype.

    Raises:
        ValueError: if B or A is not a matrix, or B has not as many columns as A has rows.
    """
    ### BEGIN SOLUTION 10.2
    if B.ndim != 2 or A.ndim != 2 or B.shape[1] != A.shape[0]:
        raise ValueError(f"B of shape {tuple(B.shape)} and A of shape {tuple(A.shape)} are no factors")
    U, S, Vh = torch.linalg.svd(B.double() @ A.double(), full_matrices=False)
    k = int(S.gt(rtol * S[0]).sum())
    U, root, Vh = U[:, :k], S[:k].sqrt(), Vh[:k]
    largest = U.gather(0, U.abs().argmax(dim=0, keepdim=True)).squeeze(0)
    signed = root * largest.sign()
    return (U * signed).to(B.dtype), (signed[:, None] * Vh).to(B.dtype)
    ### END SOLUTION


def fingerprint(adapter: Adapter) -> str:
    """Task 10.3: a digest of what the adapter does, and of the configuration that it comes with.

    It stays the same:

    - in every process and on every run;
    - whatever the order of the keys is, in "tensors" and in "config" and the dicts inside it;
    - for other factors of the same updates: B G and G^-1 A, computed in float64, in the place of float64 B and A, for an
      invertible G (rank x rank) with a condition number of at most 10, another one in each layer. So it cannot be taken
      of exact bits. Entries of an update may be zero but for rounding, of either sign, and an update may be zero;
    - for the same numbers in a wider dtype (bfloat16 or float32 values stored as float64): compute in float64.

    It changes:

    - when any entry of a layer's update changes by 1e-3 or more of the largest entry (by absolute value) of that
      update, however small the update is (1e-8, say), or all entries of an update are multiplied by one number that
      differs from 1 by 1e-3 or more;
    - when a layer is renamed, left out or added, or two layers exchange their updates, unless these are equal;
    - when an update has another shape, even with the same numbers in the same order;
    - when a value in "config" changes, a key is added or left out, at any depth: the strings, the numbers that are not
      equal, True for False, an item more in a list.

    What lies between is yours: round the update to about a millionth of its largest entry and you are far from both
    sides. Also yours are the bytes that are hashed, whether 8 and 8.0 differ in "config", or a list in another order, and
    whether you call your `canonicalize`: where it does not work yet, the checks of this task put in its place a function
    that returns another pair, of the same shapes, which depends on B A alone and has it as its product.

    Args:
        adapter: as above, well formed and finite.

    Returns:
        A SHA-256 digest as 64 lower-case hexadecimal digits.
    """
    ### BEGIN SOLUTION 10.3
    tensors = adapter["tensors"]
    digest = hashlib.sha256(json.dumps(adapter["config"], sort_keys=True).encode())
    for layer in sorted({key.rpartition(".")[0] for key in tensors}):
        update = tensors[f"{layer}.lora_B"].double() @ tensors[f"{layer}.lora_A"].double()
        peak = update.abs().max().item()
        digest.update(json.dumps([layer, list(update.shape), f"{peak:.6e}"]).encode())
        scaled = update / (peak or 1.0)
        digest.update((1e6 * scaled).round().long().numpy().tobytes())  # integers: there is no -0
    return digest.hexdigest()
    ### END SOLUTION


def verify_adapter(adapter: Adapter, manifest: dict[str, Any]) -> list[str]:
    """Task 10.3: compare an adapter with the manifest of the one that was vetted, and say what differs.

    The manifest is a dict with three keys: "config", the vetted configuration; "layers", a dict from each layer's name to
    the shape of its update, a list [d_out, d_in]; and "fingerprint", what your `fingerprint` gave for the vetted adapter.

    Names of what is wrong:

    - "tensors": a key does not end in ".lora_A" or ".lora_B", one of a layer's two factors is missing, a factor is not a
      matrix with config["rank"] columns (B) or rows (A), "rank" is missing, or a value is NaN or infinite. Then nothing
      else is looked at, and this is the only name. A tensor that is no factor is no harmless extra: loaders copy it.
    - "config": the configuration is not equal to the manifest's (==, at any depth; the order of keys does not count).
    - "layers": the layers' names and shapes are not exactly those of the manifest.
    - "fingerprint": the adapter's fingerprint is not the manifest's.

    The last three are independent of each other; so the same update in other factors is no difference at all, a renamed
    layer gives ["fingerprint", "layers"], and an alpha of 800 gives ["config", "fingerprint"].

    Args:
        adapter: a dict with "config" and "tensors", of which nothing is known otherwise but that the former is a dict and
            the latter a dict from str to floating-point tensors.
        manifest: as above.

    Returns:
        The names of what is wrong, each once, sorted; an empty list if nothing is.
    """
    ### BEGIN SOLUTION 10.3
    config, tensors = adapter["config"], adapter["tensors"]
    layers = {}
    for layer in {key.rpartition(".")[0] for key in tensors}:
        B, A = tensors.get(f"{layer}.lora_B"), tensors.get(f"{layer}.lora_A")
        if B is None or A is None or B.ndim != 2 or A.ndim != 2:
            return ["tensors"]
        if not B.shape[1] == A.shape[0] == config.get("rank") or not (B.isfinite().all() and A.isfinite().all()):
            return ["tensors"]
        layers[layer] = [B.shape[0], A.shape[1]]
    if len(tensors) != 2 * len(layers):
        return ["tensors"]
    wrong = {
        "config": config != manifest["config"],
        "layers": layers != manifest["layers"],
        "fingerprint": fingerprint(adapter) != manifest["fingerprint"],
    }
    return sorted(name for name, differs in wrong.items() if differs)
    ### END SOLUTION


def membership_auc(members: Tensor, others: Tensor, reference_members: Tensor, reference_others: Tensor) -> float:
    """Task 10.4: how well the loss tells what a model was trained on, calibrated with a reference model.

    An example has a low loss because the model has seen it, or because it is easy. A reference model that was trained
    on neither group tells how easy: the membership score of an example is the reference model's loss minus the
    model's. The higher it is, the likelier is a member. The result is the area under the ROC curve of this score,

        AUC = P(score of a member > score of another) + P(the two are equal) / 2,

    over all pairs of a member and another: 1 if every member scores above every other, 1/2 for a score without
    information, and below 1/2 where members have the lower scores: it is not folded over to the other side.

    Source: Watson et al., "On the Importance of Difficulty Calibration in Membership Inference Attacks",
    arXiv:2111.08440, for the score. The two groups may have different sizes.

    Args:
        members: the model's losses on examples that it was trained on, float64, shape (n,).
        others: its losses on examples that it was not trained on, float64, shape (m,).
        reference_members: the reference model's losses on the same examples as members, in the same order, shape (n,).
        reference_others: likewise for others, shape (m,).

    Returns:
        A number from 0 to 1.

    Raises:
        ValueError: if n or m is 0, a reference has not the length of its group, or a loss is NaN or infinite.
    """
    ### BEGIN SOLUTION 10.4
    for losses, reference in ((members, reference_members), (others, reference_others)):
        if len(losses) == 0 or len(losses) != len(reference):
            raise ValueError(f"{len(losses)} losses and {len(reference)} of the reference model")
        if not (losses.isfinite().all() and reference.isfinite().all()):
            raise ValueError("a loss is not finite")
    lead = (reference_members - members)[:, None] - (reference_others - others)
    return (lead > 0).double().mean().item() + (lead == 0).double().mean().item() / 2
    ### END SOLUTION


def pgd(model: nn.Module, x: Tensor, y: Tensor, epsilon: float, step_size: float, steps: int) -> Tensor:
    """Task 10.5 (stretch): adversarial examples by projected gradient ascent, no entry further than epsilon from x.

    From x_0 = x (no random start), each step is

        x_{t+1} = clip(x_t + step_size * sign(gradient by x_t of the loss)),  sign(0) = 0,

    where the loss is the cross-entropy of model(x_t) with the labels y, and clip keeps every entry within epsilon of the
    original x and within [0, 1]. The attack raises the loss of the true labels. One step with step_size = epsilon is
    FGSM (Goodfellow et al., arXiv:1412.6572, section 4); the iteration is Madry et al., arXiv:1706.06083, section 2.1.

    The model runs in the mode that it is in, and stays in it. Its parameters, whether they require gradients, and their
    .grad stay as they are; so does x.

    Args:
        model: maps a batch of inputs to logits, shape (n, classes); each example's logits depend on that example alone.
        x: inputs, entries in [0, 1], shape (n, ...).
        y: labels, int64, shape (n,).
        epsilon: at least 0.
        step_size: greater than 0.
        steps: at least 0.

    Returns:
        The adversarial inputs, shape and dtype of x, which do not require a gradient.

    Raises:
        ValueError: if epsilon, step_size or steps is out of its range.
    """
    ### BEGIN SOLUTION 10.5
    if epsilon < 0 or step_size <= 0 or steps < 0:
        raise ValueError(f"epsilon {epsilon}, step_size {step_size}, steps {steps}")
    low, high = (x - epsilon).clamp(min=0), (x + epsilon).clamp(max=1)
    adversarial = x.detach().clone()
    for _ in range(steps):
        adversarial.requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(adversarial), y), adversarial)
        adversarial = (adversarial.detach() + step_size * gradient.sign()).clamp(low, high)
    return adversarial
    ### END SOLUTION


def spectral_detune(merged: list[Tensor], rank: int, steps: int) -> Tensor:
    """Task 10.6 (stretch): estimate a base weight from several models that are each this base with a LoRA merged in.

    Each merged weight is W_i = W + M_i with the same unknown W and an M_i of rank at most `rank`. Begin with the mean of the
    W_i as the estimate of W. Each step first takes, for every i, M_i as the best approximation of W_i - W of that rank
    (in the Frobenius norm), and then W as the mean of all W_i - M_i. Neither half can raise the sum of the squared
    norms ||W_i - W - M_i||_F^2.

    Source: Horwitz, Kahana and Hoshen, "Recovering the Pre-Fine-Tuning Weights of Generative Models", arXiv:2402.10208.
    Their rank scheduler, which raises the rank in the course of the iteration, is left out here.

    Args:
        merged: two or more matrices of one shape (d_out, d_in), float64.
        rank: 1 <= rank <= min(d_out, d_in). Where a W_i - W is truncated, its singular values on both sides of the cut
            differ.
        steps: at least 0; with 0 the mean is returned.

    Returns:
        The estimate of W after `steps` steps, shape (d_out, d_in), float64.

    Raises:
        ValueError: if there are fewer than two matrices, they have different shapes, or rank or steps is out of its range.
    """
    ### BEGIN SOLUTION 10.6
    if len(merged) < 2 or len({W.shape for W in merged}) > 1:
        raise ValueError("two or more matrices of one shape are needed")
    if not 1 <= rank <= min(merged[0].shape) or steps < 0:
        raise ValueError(f"rank {rank}, steps {steps}")
    stack = torch.stack(merged)
    base = stack.mean(dim=0)
    for _ in range(steps):
        U, S, Vh = torch.linalg.svd(stack - base, full_matrices=False)
        M = (U[..., :rank] * S[:, None, :rank]) @ Vh[:, :rank]
        base = (stack - M).mean(dim=0)
    return base
    ### END SOLUTION


Classifier = Callable[[Tensor], Tensor]


def trigger_scan(
    base: Classifier, adapted: Classifier, inputs: Tensor, candidates: list[int], threshold: float = 0.5
) -> list[tuple[int, float]]:
    """Task 10.7 (stretch): find tokens that change what an adapted model predicts, and not what its base predicts.

    For a model and a token, the flip rate is the share of the inputs whose predicted class (the largest logit) is
    another one when the token is put before the input, at its front. A common word may flip a few predictions of any
    model; so a token's score is its flip rate on `adapted` minus its flip rate on `base`, the calibration again. A
    planted trigger, rare and strong, stands out.

    A scan finds triggers that are among the candidates. That none is found does not prove that there is none.

    Args:
        base, adapted: each maps token ids, int64 of shape (n, length), to logits (n, classes), for any length. No two
            logits of a row are equal.
        inputs: token ids, shape (n, length), n at least 1.
        candidates: token ids, each once.
        threshold: the least score to report.

    Returns:
        A list of pairs (token, score), the score a float: of every candidate whose score is at least `threshold`, highest
        score first, the smaller token first where scores are equal. It may be empty.
    """
    ### BEGIN SOLUTION 10.7

    def flip_rate(model: Classifier, token: int) -> float:
        front = torch.full_like(inputs[:, :1], token)
        flipped = model(torch.cat([front, inputs], dim=1)).argmax(dim=1) != model(inputs).argmax(dim=1)
        return flipped.double().mean().item()

    scores = [(token, flip_rate(adapted, token) - flip_rate(base, token)) for token in candidates]
    return sorted((pair for pair in scores if pair[1] >= threshold), key=lambda pair: (-pair[1], pair[0]))
    ### END SOLUTION
