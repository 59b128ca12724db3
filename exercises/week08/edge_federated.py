"""Week 8: LoRA from several clients, LoRA that is generated, and a reply on a small device.

Complete tasks 8.1 to 8.4 below, in any order; 8.5 and 8.6 are stretch tasks, checked but without marks.
`autograder check 8` tells how far you are and `autograder check 8.2` checks one task alone. Each docstring is
the contract: the checks use the names, shapes and errors that stand there and nothing else, so everything else
is yours to choose. Helper functions, private attributes and helper modules beside this file are welcome.

Convention: dW = (alpha / rank) B A, with A (rank x in_features) and B (out_features x rank).

Task   points  minutes  difficulty  importance (both from 1 to 5)
8.1        20       40           2           5
8.2        15       25           2           4
8.3        20       40           3           4
8.4        15       45           4           5
8.5   stretch       25           2           3
8.6   stretch       25           2           3
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn


class Adapter(NamedTuple):
    """The LoRA factors of one layer. Given: leave it as it is. Its update is dW = (alpha / rank) lora_B lora_A.

    Attributes:
        lora_A: shape (rank, in_features).
        lora_B: shape (out_features, rank), of lora_A's dtype.
        alpha: numerator of the scaling.
    """

    lora_A: Tensor
    lora_B: Tensor
    alpha: float


def fedavg_factors(adapters: Sequence[Adapter], samples: Sequence[int]) -> Adapter:
    """Task 8.1: federated averaging of the factors, each by itself.

    Client k counts with the weight w_k = n_k / (n_1 + ... + n_K), n_k being its number of training samples:
    lora_A is the sum of w_k A_k and lora_B the sum of w_k B_k. A client without samples has weight 0.

    Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
    arXiv:1602.05629, section 2; applied to LoRA's factors it is what FedIT does (Zhang et al., arXiv:2305.05644).

    Args:
        adapters: one for each client, at least one, all of the same shapes, dtype and alpha.
        samples: n_k for each client, in the order of `adapters`, none negative.

    Returns:
        The averaged factors, with the clients' shapes, dtype and alpha. In float64 they are right to rounding: no
        weight passes through float32 on the way. The adapters that were passed in do not change.

    Raises:
        ValueError: if there is no client; if the two sequences differ in length; if the samples sum to 0; if the
            clients' ranks or alphas differ.
    """
    raise NotImplementedError("Week 8, task 1: fedavg_factors")


def fedavg_exact(adapters: Sequence[Adapter], samples: Sequence[int]) -> tuple[Adapter, Tensor]:
    """Task 8.1: federated averaging of the updates, as averaged factors and a residual.

    What the clients have learned together is the average of their updates, the sum of w_k dW_k. The product of the
    averaged factors is something else in general. The residual is what it lacks:

        residual = sum of w_k dW_k - dW of the averaged factors,

    with dW = (alpha / rank) B A throughout. Each client adds it to its frozen weight W0 and goes on with the averaged
    factors, and so computes with the exact average, though the residual's rank is larger than the factors'.

    Source: Singhal et al., "FedEx-LoRA", arXiv:2410.09432, who write it for equal weights.

    Args, errors: as in `fedavg_factors`.

    Returns:
        (averaged, residual): the averaged factors as `fedavg_factors` defines them, and a tensor of shape
        (out_features, in_features) and the factors' dtype. How it is rounded is yours.
    """
    raise NotImplementedError("Week 8, task 1: fedavg_exact")


def stack_adapters(adapters: Sequence[Adapter], samples: Sequence[int]) -> Adapter:
    """Task 8.2: one adapter whose update is exactly the weighted average of the clients' updates.

    The clients may differ in rank r_k and in alpha_k. With w_k = n_k / (n_1 + ... + n_K), the update of the result,
    (alpha / rank) B A with its own alpha and its own rank, is the sum of w_k (alpha_k / r_k) B_k A_k. Its rank is the
    sum of the clients' ranks: the A_k stand below each other and the B_k beside each other, up to numbers that
    multiply them.

    Which alpha the result has, how the weights and scalings are shared between alpha, A and B, and in which order the
    clients stand are yours. Nothing is decomposed or truncated.

    Source: Wang et al., "FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous Low-Rank
    Adaptations", arXiv:2409.05976.

    Args:
        adapters: one for each client, at least one, all of the same in_features, out_features and dtype.
        samples: n_k for each client, in the order of `adapters`, none negative. A client without samples still
            takes its rows and columns.

    Returns:
        lora_A of shape (sum of r_k, in_features) and lora_B of shape (out_features, sum of r_k), of the clients'
        dtype, and alpha, a float. The adapters that were passed in do not change.

    Raises:
        ValueError: if there is no client; if the two sequences differ in length; if the samples sum to 0.
    """
    raise NotImplementedError("Week 8, task 2: stack_adapters")


class LoRAGenerator(nn.Module):
    """Generates the factors of every layer from the embedding of a task, in the manner of LoRA-Gen.

    From the paper: a cloud-side model reads the description of a task, routes each layer of a small model over a
    bank of LoRA experts, and the result is merged into the small model, which then runs at its old cost. Simplified
    here: a fixed vector stands for the description (the paper has a language model write a token for each layer), the
    gate is one matrix for each layer, all layers have one shape, and the experts' factors are mixed.

    Source: Xiao et al., "LoRA-Gen: Specializing Large Language Model via Online LoRA Generation", arXiv:2506.11638.

    Attributes:
        gate: `nn.Parameter`, shape (num_layers, num_experts, task_dim).
        bank_A: `nn.Parameter`, shape (num_experts, rank, in_features), shared by all layers.
        bank_B: `nn.Parameter`, shape (num_experts, out_features, rank), shared by all layers.

    These three are the only parameters, all trainable.
    """

    def __init__(
        self,
        task_dim: int,
        num_layers: int,
        num_experts: int,
        in_features: int,
        out_features: int,
        rank: int,
        alpha: float,
        top_k: int,
    ) -> None:
        """Task 8.3: make the gate and the bank.

        At the start bank_B is zero, so that every task's update is zero; gate and bank_A are random (how they are
        drawn is yours), and no two experts' or layers' parts of them are equal. Parameters have torch's default dtype.

        Args:
            task_dim: length of a task's embedding.
            num_layers: layers to generate factors for.
            num_experts: size of the bank.
            in_features, out_features: of each layer's weight, (out_features, in_features).
            rank: of each expert and of what is generated.
            alpha: numerator of the scaling.
            top_k: how many experts each layer uses.

        Raises:
            ValueError: unless 1 <= top_k <= num_experts.
        """
        super().__init__()
        raise NotImplementedError("Week 8, task 3: LoRAGenerator.__init__")

    def route(self, task: Tensor) -> Tensor:
        """Task 8.3: the weight of each expert in each layer.

        The logits of layer l are gate[l] task. Its top_k experts of the largest logits share the weight by a softmax
        over their logits; the weight of every other expert is exactly 0. Each row sums to 1. What happens where two
        logits tie is yours.

        Args:
            task: shape (task_dim,), of the parameters' dtype.

        Returns:
            Shape (num_layers, num_experts), through which gradients reach gate and task.
        """
        raise NotImplementedError("Week 8, task 3: LoRAGenerator.route")

    def forward(self, task: Tensor) -> tuple[Tensor, Tensor]:
        """Task 8.3: the factors of every layer, mixed from the bank.

        With g = route(task), layer l has A_l = sum over e of g[l, e] bank_A[e] and B_l = sum over e of
        g[l, e] bank_B[e]: both factors are mixed with the same weights, and alpha is not in them yet.

        Args:
            task: shape (task_dim,).

        Returns:
            (A, B) of shapes (num_layers, rank, in_features) and (num_layers, out_features, rank), through which
            gradients reach all three parameters.
        """
        raise NotImplementedError("Week 8, task 3: LoRAGenerator.forward")

    def reparameterize(self, task: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
        """Task 8.3: the weights of the specialised model, W_l + (alpha / rank) B_l A_l for each layer.

        The result replaces the weights on the device, whose model needs no branch. `weights` stays as it is, so that
        the same base serves the next task. Gradients reach the generator's parameters through the result, which is
        how it is trained.

        Args:
            task: shape (task_dim,).
            weights: the weight of each layer, (out_features, in_features), in the parameters' dtype.

        Returns:
            New tensors, one for each layer, in the order of `weights`.

        Raises:
            ValueError: if there are not num_layers weights.
        """
        raise NotImplementedError("Week 8, task 3: LoRAGenerator.reparameterize")


class Tokenizer(Protocol):
    """What `generate_reply` uses of a tokenizer. Given.

    Encoding texts one by one and joining the ids gives what encoding the joined text gives.

    Attributes:
        eos_id: the token that ends each reply in the training data.
    """

    eos_id: int

    def encode(self, text: str) -> list[int]:
        """The ids of a text. No special token is added."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a list of ids; that of eos_id is "</s>"."""
        ...


def generate_reply(
    model: Callable[[Tensor], Tensor],
    tokenizer: Tokenizer,
    template: str,
    message: str,
    max_new_tokens: int,
    history: Sequence[tuple[str, str]] = (),
    top_p: float | None = None,
    temperature: float = 1.0,
    uniform: Callable[[], float] = random.random,
) -> str:
    """Task 8.4: a chat model's reply to a message, token by token.

    Prompt: the model was trained on conversations, each turn being the template with the user's message in the place
    of "{message}", the reply, and the token eos_id. The prompt is the same text up to where the model has to go on:
    every earlier turn whole, its eos_id included, then the template with `message` in it. Nothing else is added.

    Each step calls the model with all ids so far, prompt and reply, and chooses one token by the logits of the last
    position:

    - top_p is None: greedy, the token of the largest logit. `temperature` and `uniform` are not used.
    - else: the probabilities are softmax(logits / temperature). The tokens are sorted by falling probability. The
      nucleus is the shortest beginning of that list whose probabilities sum to at least top_p. Dividing by that sum
      gives probabilities within the nucleus. One number u = uniform() is drawn for each token of the reply, eos_id
      included, and the token is the first of the sorted nucleus with which the cumulative sum of these probabilities
      exceeds u.

    The choice of eos_id ends the reply; so do max_new_tokens tokens. Ties, and sums that equal top_p or u, do not occur
    in the checks.

    While a reply is made no gradient is recorded, and a model that is an `nn.Module` is in evaluation mode; afterwards
    its `training` is what it was.

    Source: Holtzman et al., "The Curious Case of Neural Text Degeneration", arXiv:1904.09751, section 3.1 (nucleus).

    Args:
        model: takes ids of shape (1, length), int64, and returns logits of shape (1, length, vocabulary), float32 or
            float64. It keeps nothing between calls.
        tokenizer: see Tokenizer.
        template: holds "{message}" once, and no other brace. A message may hold braces.
        message: what the user says now.
        max_new_tokens: at least 1.
        history: earlier turns, (message, reply), oldest first.
        top_p: None, or 0 < top_p <= 1.
        temperature: greater than 0.
        uniform: called without arguments, returns a number in [0, 1).

    Returns:
        The decoded reply: new tokens only, without eos_id.

    Raises:
        ValueError: if top_p or temperature is out of its range, the temperature in greedy decoding too.
    """
    raise NotImplementedError("Week 8, task 4: generate_reply")




def clip_and_noise(
    updates: Sequence[Mapping[str, Tensor]], clip: float, noise_multiplier: float, noise: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Task 8.5 (stretch): the noisy average of the clients' updates that client-level differential privacy asks for.

    Each update, all its tensors taken together as one vector, is scaled down to the Euclidean norm `clip` if its norm
    is larger, and is left alone if not. So no client can move the sum by more than `clip`. A guard of up to 1e-6, added
    to the norm against a division by zero, does no harm.

    Gaussian noise with the standard deviation noise_multiplier * clip is added to each number of the sum, and the noisy
    sum is divided by the number K of clients. Every client counts the same: weights by samples would let one client
    move the average further.

    The privacy that this buys is for an accountant to say, and is not part of this task.

    Source: McMahan et al., "Learning Differentially Private Recurrent Language Models", arXiv:1710.06963, with equal
    weights.

    Args:
        updates: one for each client, at least one: by name, the change of each tensor. All have the same names,
            shapes and dtype.
        clip: the largest norm of an update, greater than 0.
        noise_multiplier: not negative.
        noise: by the same names, tensors of independent standard normal numbers, of the updates' shapes and dtype.
            They are passed in so that the result is determined.

    Returns:
        The average by name, with the updates' names, shapes and dtype. What was passed in does not change.

    Raises:
        ValueError: if there is no update, clip is not greater than 0, or noise_multiplier is negative.
    """
    raise NotImplementedError("Week 8, task 5: clip_and_noise")


class NewTokenRows(nn.Module):
    """A frozen embedding with trainable rows for new tokens, which the adapter's file has to hold.

    LoRA on other layers cannot teach a model tokens that its embedding does not have. peft's `modules_to_save` trains
    and saves a whole copy of the embedding; here only the new rows are trained and saved.

    Attributes:
        base: the `nn.Embedding` that was passed in, the same object, frozen and otherwise unchanged.
        new_rows: `nn.Parameter`, shape (num_new, embedding_dim), of base.weight's dtype; the only trainable one.
    """

    def __init__(self, base: nn.Embedding, num_new: int) -> None:
        """Task 8.6 (stretch): freeze `base` and add the rows.

        Each new row starts as the mean of base's rows, so that a new token begins as an average one.

        Args:
            base: the embedding, V tokens, without a padding_idx.
            num_new: how many tokens are new, at least 1; their ids are V, V + 1, ...
        """
        super().__init__()
        raise NotImplementedError("Week 8, task 6: NewTokenRows.__init__")

    def forward(self, ids: Tensor) -> Tensor:
        """Task 8.6 (stretch): the row of each id: row i of base for i < V, row i - V of new_rows for the others.

        Args:
            ids: int64, any shape, each from 0 to V + num_new - 1.

        Returns:
            Shape (*ids.shape, embedding_dim). Gradients reach new_rows, a token that occurs twice counting twice.
        """
        raise NotImplementedError("Week 8, task 6: NewTokenRows.forward")

    def logits(self, hidden: Tensor) -> Tensor:
        """Task 8.6 (stretch): the output layer tied to the embedding: the inner product with each row, old and new.

        Args:
            hidden: shape (..., embedding_dim).

        Returns:
            Shape (..., V + num_new), the new tokens last. Gradients reach new_rows and hidden.
        """
        raise NotImplementedError("Week 8, task 6: NewTokenRows.logits")

    def state_to_save(self) -> dict[str, Tensor]:
        """Task 8.6 (stretch): what an adapter's file needs beside the LoRA factors.

        Returns:
            {"new_rows": the new rows as they are now}, a copy that later training does not change and that requires no
            gradient. The base is not in it.
        """
        raise NotImplementedError("Week 8, task 6: NewTokenRows.state_to_save")

# stub bdf8c98f9be2a726
