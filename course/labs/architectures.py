"""Large language models on the meta device: every shape is there and no memory, so a laptop can count GPT-3 (week 1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

# Touvron et al., arXiv:2307.09288: Llama 2. Vocabulary, width, feed-forward, layers, query heads, key and value heads.
LLAMA = {
    "Llama-2-7B": (32000, 4096, 11008, 32, 32, 32),
    "Llama-2-13B": (32000, 5120, 13824, 40, 40, 40),
    "Llama-2-70B": (32000, 8192, 28672, 80, 64, 8),
}
GPT3 = (50257, 12288, 96, 96, 2048)  # Brown et al., arXiv:2005.14165: vocabulary, width, layers, heads, positions
NAMES = (*LLAMA, "GPT-3")
# GPT-2's names for what Llama calls otherwise; its c_attn is q, k and v in one.
FUSED = {"attn.c_proj": "o_proj", "mlp.c_fc": "up_proj", "mlp.c_proj": "down_proj"}


def blueprint(name: str) -> Any:
    """One of NAMES as a transformers model on the meta device, untrained.

    GPT-3's weights were never published; this is GPT-2's architecture in GPT-3's size, which has 174.6 billion parameters.
    """
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

    if name == "GPT-3":
        tokens, width, layers, heads, positions = GPT3
        config: Any = GPT2Config(vocab_size=tokens, n_embd=width, n_layer=layers, n_head=heads, n_positions=positions)
    else:
        tokens, width, hidden, layers, heads, groups = LLAMA[name]
        config = LlamaConfig(
            vocab_size=tokens,
            hidden_size=width,
            intermediate_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=groups,
            tie_word_embeddings=False,
        )
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def matrices(model: nn.Module, *kinds: str) -> list[tuple[int, int]]:
    """The shapes (d_out, d_in) of the matrices in the model's blocks, one entry a matrix.

    Args:
        model: of `blueprint`.
        kinds: "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj" (Llama), "up_proj", "down_proj"; all where none is named.
    """
    return [shape for kind, shape in _matrices(model) if not kinds or kind in kinds]


def _matrices(model: nn.Module) -> Iterator[tuple[str, tuple[int, int]]]:
    from transformers.pytorch_utils import Conv1D

    for name, module in model.named_modules():
        parent, own = ["", *name.split(".")][-2:]
        if isinstance(module, Conv1D):
            d_in, d_out = module.weight.shape  # Conv1D stores the transpose
            if own == "c_attn":
                yield from ((kind, (d_out // 3, d_in)) for kind in ("q_proj", "k_proj", "v_proj"))
            else:
                yield FUSED[f"{parent}.{own}"], (d_out, d_in)
        elif isinstance(module, nn.Linear) and own != "lm_head":
            yield own, (module.out_features, module.in_features)


def families(name: str = "Llama-2-7B") -> Iterator[tuple[str, str, nn.Module]]:
    """A model of LLAMA prepared by one method after the other: (family, method, model with what trains set).

    The families are those of Lialin et al., arXiv:2303.15647. Most methods come from peft; the classifier that some of the
    papers train as well is left out.
    """
    from peft import IA3Config, LoraConfig, PrefixTuningConfig, PromptTuningConfig

    task: Any = {"task_type": "CAUSAL_LM"}
    width = LLAMA[name][1]

    model = blueprint(name).requires_grad_(False)
    for block in model.model.layers:  # Houlsby et al., arXiv:1902.00751: one after each of the two sub-layers
        block.adapters = nn.ModuleList(_bottleneck(width, 64) for _ in range(2))
    yield "additive", "adapters, width 64", model
    yield "additive", "prefix, 20 tokens", _peft(name, PrefixTuningConfig(num_virtual_tokens=20, **task))
    yield "additive", "prompt, 20 tokens", _peft(name, PromptTuningConfig(num_virtual_tokens=20, **task))
    yield "additive", "IA³", _peft(name, IA3Config(**task))

    model = blueprint(name).requires_grad_(False)
    model.model.layers[-1].requires_grad_(True)
    yield "selective", "last block", model
    model = blueprint(name).requires_grad_(False)
    for parameter in (p for full_name, p in model.named_parameters() if full_name.endswith(".bias")):
        parameter.requires_grad_(True)
    yield "selective", "biases (BitFit)", model

    for label, rank, targets in (("LoRA r=16, all linear", 16, "all-linear"), ("LoRA r=4, q and v", 4, ["q_proj", "v_proj"])):
        yield "reparameterised", label, _peft(name, LoraConfig(r=rank, target_modules=targets, **task))


def _bottleneck(width: int, inner: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, inner, device="meta"), nn.GELU(), nn.Linear(inner, width, device="meta"))


def step_flops(model: nn.Module, tokens: int = 512) -> int:
    """Floating-point operations of one forward and backward pass over one sequence, counted and not run.

    Counted are matrix products and attention, an addition and a multiplication as two.

    Args:
        model: on the meta device.
    """
    from torch.utils.flop_counter import FlopCounterMode

    ids = torch.zeros(1, tokens, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids).loss.backward()
    return int(counter.get_total_flops())


def lora_of(name: str, rank: int) -> nn.Module:
    """A model of NAMES with LoRA on all linear layers of its blocks, by peft."""
    from peft import LoraConfig

    return _peft(name, LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM"))


def _peft(name: str, config: Any) -> nn.Module:
    from peft import get_peft_model

    model: nn.Module = get_peft_model(blueprint(name), config)
    return model


def intensity(country: str) -> float:
    """A country's carbon intensity in g CO2e per kWh, from codecarbon's table: a yearly average, three-letter ISO code."""
    from codecarbon.input import DataSource

    return float(DataSource().get_global_energy_mix_data()[country]["carbon_intensity"])
