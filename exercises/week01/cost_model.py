"""Week 1: what fine-tuning costs, in parameters, memory, energy and emissions.

Complete tasks 1.1 to 1.4 below, in any order; 1.5 is a stretch task, checked but without marks. `autograder check 1`
tells how far you are and `autograder check 1.2` checks one task alone. Each docstring is the contract: the checks use
the names, units and errors that stand there and nothing else, so everything else is yours to choose. Helper functions
and helper modules beside this file are welcome. Nothing is rounded. Where a result is called a number, int and float are
both right; a count is exact.

Convention: y = W0 x + (alpha / rank) B A x, with A (rank x d_in) and B (d_out x rank). Source: Hu et al., "LoRA:
Low-Rank Adaptation of Large Language Models", arXiv:2106.09685, section 4.1.

Task   points  minutes  difficulty  importance (both from 1 to 5)
1.1        20       25           1           4
1.2        10       15           1           5
1.3        25       45           2           5
1.4        15       15           1           3
1.5   stretch       25           2           2
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

# Bits that one quantised parameter takes in QLoRA, 4.126953125, often printed as 4.127: a 4-bit code, an 8-bit constant
# for each block of 64 parameters, and a 32-bit constant for each 256 of those (Dettmers et al., arXiv:2305.14314, section 3).
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)


def count_parameters(model: nn.Module) -> dict[str, float]:
    """Task 1.1: how many parameters a model has, and how many of them train.

    What is counted are the elements of the model's `nn.Parameter` objects, also of those inside its submodules: one of
    shape (3, 4) counts 12, one of shape () counts 1. A Parameter that stands at several names (tied weights, a layer
    that is used twice) counts once. Equal shapes or equal values do not make two Parameters one; two Parameters that
    share their memory do not occur. Buffers do not count.

    The model is not changed. It may have any dtype and any device, the meta device included, where a tensor has a
    shape and no data.

    Args:
        model: any module.

    Returns:
        A dict with exactly these keys, all values numbers:

        - "total": elements of all parameters
        - "trainable": elements of those whose requires_grad is set
        - "frozen": elements of the others
        - "percent": the trainable share of the total in percent, 0 to 100; 0 where the total is 0
    """
    raise NotImplementedError("Week 1, task 1: count_parameters")


def lora_parameter_count(shapes: Iterable[tuple[int, int]], rank: int) -> int:
    """Task 1.2: how many trainable parameters LoRA adds, all factors A and B together.

    A weight W0 of shape (d_out, d_in) gets B of shape (d_out, rank) and A of shape (rank, d_in), and no bias. Source: Hu
    et al., section 4.1.

    Args:
        shapes: the shapes (d_out, d_in) of the adapted weights, one entry for each matrix: 32 layers with q and v are 64
            entries, equal ones among them. Any iterable, also one that can be gone through only once; it may be empty.
        rank: the rank of every update, at least 1 and at most min(d_out, d_in) of every matrix.

    Returns:
        The number of parameters; 0 without matrices.

    Raises:
        ValueError: if rank is out of its range.
    """
    raise NotImplementedError("Week 1, task 2: lora_parameter_count")


def training_memory(n_params: int, n_trainable: int, recipe: str, n_quantised: int = 0, unit: str = "B") -> dict[str, float]:
    """Task 1.3: the memory that weights, gradients and the Adam optimizer take while a model is trained, part by part.

    A recipe says how many bytes each parameter takes:

    ============  ===================  ===========  ================  =======================
    recipe        base weight          LoRA factor  gradient          optimizer
    ============  ===================  ===========  ================  =======================
    "full_fp32"   4                    (none)       4                 8: two moments in fp32
    "full_mixed"  2                    (none)       2                 12: the same two moments,
                                                                      and a master copy in fp32
    "lora"        2                    4            4                 8: two moments in fp32
    "qlora"       2; a quantised one   4            4                 8: two moments in fp32
                  NF4_BITS bits
    ============  ===================  ===========  ================  =======================

    Every parameter of the base has a base weight, frozen ones too. Only a parameter that trains has a gradient and
    optimizer states. In the full recipes these are parameters of the base (all of them, or a part of them, as in task
    1.5). In "lora" and "qlora" the whole base is frozen and the LoRA factors train, which come on top of n_params.
    A fraction of a byte counts as a fraction. Activations, buffers and what a framework needs itself are left out.

    Sources: Rajbhandari et al., "ZeRO", arXiv:1910.02054, section 3.1, for "full_mixed"; Dettmers et al., "QLoRA",
    arXiv:2305.14314, section 3, for the quantised base. Factors in fp32 beside a bf16 base are the default of peft.

    Args:
        n_params: parameters of the base model, LoRA factors not among them.
        n_trainable: parameters that train: in the full recipes at most n_params, in the LoRA recipes any number of
            parameters of LoRA factors. At least 0.
        recipe: one of the four names above.
        n_quantised: how many of the n_params are stored quantised, from 0 to n_params. Only the weights of linear layers
            are; embeddings, norms and the output head stay in bf16, at 2 bytes. Not 0 in "qlora" only.
        unit: of every number returned: "B" for bytes, "GB" for 10^9 bytes, "GiB" for 2^30 bytes.

    Returns:
        A dict with exactly these keys, all values numbers:

        - "weights": the base, quantised or not, without the master copy
        - "lora": the LoRA factors; 0 in the full recipes
        - "gradients"
        - "optimizer": Adam's two moments and, in "full_mixed", the master copy
        - "total": the sum of these four

    Raises:
        ValueError: if recipe or unit is none of the above, n_trainable or n_quantised is out of its range, or n_quantised
            is not 0 in another recipe than "qlora".
    """
    raise NotImplementedError("Week 1, task 3: training_memory")


def training_energy(gpu_hours: float, watts: float, pue: float, intensity: float) -> tuple[float, float]:
    """Task 1.4: the electricity that a run takes from the grid, and the emissions that come with it.

    Source: Patterson et al., "Carbon Emissions and Large Neural Network Training", arXiv:2104.10350, section 2.

    Args:
        gpu_hours: GPUs times hours, so 8 GPUs for 3 hours are 24; at least 0.
        watts: mean power of one GPU in W; at least 0.
        pue: power usage effectiveness, what the whole data centre draws for each watt that its machines draw; at least 1.
        intensity: carbon intensity of the grid, in grams of CO2e for each kWh taken from it; at least 0.

    Returns:
        Two numbers, (energy, emissions), in a tuple or another sequence: the energy in kWh that the data centre takes from
        the grid for the run, its overhead included, and the emissions of that energy in kilograms of CO2e.

    Raises:
        ValueError: if an argument is below its minimum.
    """
    raise NotImplementedError("Week 1, task 4: training_energy")


def select_trainable(model: nn.Module, method: str, n: int = 1, blocks: str = "layers") -> None:
    """Task 1.5 (stretch): a selective method: choose the parameters that train, in place, and freeze all others.

    - "bias": the bias terms train, those of norms included. What decides is the last part of a parameter's dotted name:
      it is "bias" or ends with "_bias", so "layers.0.q.bias" and "attn.in_proj_bias" train, "bias.weight", "bias_scale"
      and "debias" do not. (The paper also trains the task's new classifier; here nothing else trains.)
    - "last_n": every parameter inside the last n of the model's blocks trains, and nothing outside of them: no
      embedding, no final norm, no head.

    Whether a parameter trained before makes no difference: a chosen one that was frozen trains afterwards. A Parameter
    that stands at several names trains if one of its names is chosen. Values do not change.

    Source: Ben Zaken et al., "BitFit", arXiv:2106.10199, section 3.

    Args:
        model: any module with floating-point parameters.
        method: "bias" or "last_n".
        n: for "last_n", how many blocks, from 0 (nothing trains) to all; not used by "bias".
        blocks: for "last_n", the dotted name of the `nn.ModuleList` in the model that holds the blocks, first to last;
            not used by "bias".

    Raises:
        ValueError: before anything is changed, if method is neither of the two, n is out of its range, or "bias" finds
            no bias in the model.
    """
    raise NotImplementedError("Week 1, task 5: select_trainable")

# stub 967bc1441fc6ae05
