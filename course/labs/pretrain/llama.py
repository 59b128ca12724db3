"""The tiny Llama: its tokenizer, its training and its quality."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from course.labs import corpus, text
from course.labs.core import ROOT
from course.labs.files import write_hashes
from course.labs.training import fit

STEPS = 4000
LEARNING_RATE = 3e-3
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<|system|>", "<|user|>", "<|assistant|>")
SHAPE: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}


def main(out: Path) -> None:
    """Train the model and write it in the hub's format: weights in float16, configuration, tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        max_position_embeddings=words.model_max_length,
        tie_word_embeddings=True,
        pad_token_id=words.pad_token_id,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        **SHAPE,
    )
    model = LlamaForCausalLM(config)
    schedule: Any = {"schedule": "cosine", "warmup": 100, "weight_decay": 0.01}
    fit(model, batches(words), STEPS, LEARNING_RATE, name="llama", log=False, **schedule)
    model.half().save_pretrained(out)
    words.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)  # safetensors writes it for its owner alone
    if out == ROOT / "course" / "labs" / "pretrained" / "tiny_llama":
        write_hashes("tiny_llama")


def quality() -> dict[str, float]:
    """Of the shipped model: parameters, exact match on 200 held-out prompts of each task, and their mean, and the perplexity of
    200 documents."""
    model, words = text.base_model()
    scores = {task: text.exact_match(model, words, text.examples(task, 200, part="test")) for task in corpus.TASKS}
    loss = text.mean_loss(model, words, text.documents(200))
    whole = {"parameters": float(model.num_parameters()), "exact match": sum(scores.values()) / len(scores)}
    return whole | scores | {"document perplexity": math.exp(loss)}


def tokenizer() -> Any:
    """Word level: words, the marks . , ! ? and line breaks are tokens, space is none; a `PreTrainedTokenizerFast`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate([*SPECIAL, "\n", *corpus.vocabulary()])}, unk_token="<unk>")
    )
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[^\S\n]+"), "removed"),
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Split(Regex("[.,!?]"), "isolated"),
        ]
    )
    words.decoder = decoders.Sequence(
        [decoders.WordPiece(cleanup=True), decoders.Fuse(), decoders.Replace(" \n", "\n"), decoders.Replace("\n ", "\n")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=list(SPECIAL[4:]),
        chat_template=text.CHAT,
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )


def batches(words: Any, seed: int = 0) -> Iterator[dict[str, Tensor]]:
    """Without end: seven of ten batches are single requests, the others conversations or documents."""
    rng, tasks = Random(seed), [*corpus.TASKS, "reverse", "repeat"]  # twice: these two take longest to learn
    while True:
        kind = rng.random()
        items: list[Any]
        if kind < 0.7:
            items = [corpus.request(task, rng).example(task) for task in rng.choices(tasks, k=64)]
        elif kind < 0.85:
            items = [corpus.dialogue(rng, rng.randint(2, 3)) for _ in range(24)]
        else:
            items = [corpus.document(rng, rng.randint(3, 10)) for _ in range(24)]
        yield text.collate(items, words)
