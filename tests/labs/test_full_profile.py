"""The full profile through the same calls, on small local copies in the hub's formats, and without a hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from course.labs import LabStop, corpus, text
from course.labs.training import fit
from tests.labs.helpers import stops_without_a_hub

INSTRUCTIONS = [{"instruction": f"say {i}", "input": "" if i % 2 else "twice", "output": f"{i} {i}"} for i in range(30)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama as the hub has it: sharded bf16 weights; a tokenizer of pieces that begins with <s>, without pad token or chat."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    pieces = Tokenizer(models.BPE(unk_token="<unk>"))
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    pieces.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    pieces.train_from_iterator([*text.documents(50), *(example.prompt for example in text.examples("reverse", 50))], trainer)
    pieces.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    path = tmp_path_factory.mktemp("hub") / "llama-7b"
    PreTrainedTokenizerFast(tokenizer_object=pieces, bos_token="<s>", eos_token="</s>", unk_token="<unk>").save_pretrained(path)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
    )
    LlamaForCausalLM(config).bfloat16().save_pretrained(path, max_shard_size="100kB")
    assert len(list(path.glob("*.safetensors"))) > 1
    return path


@pytest.fixture
def full(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import datasets

    reviews = [{"sentence": review.sentence, "label": review.label, "idx": i} for i, review in enumerate(text.sst2("train", 40))]
    saved = datasets.Dataset.from_list(reviews)
    datasets.DatasetDict(train=saved.select(range(30)), validation=saved.select(range(30, 40))).save_to_disk(
        str(tmp_path / "sst2")
    )
    (tmp_path / "alpaca.json").write_text(json.dumps(INSTRUCTIONS))
    monkeypatch.setenv("LAB_PROFILE", "full")
    monkeypatch.setenv("LAB_DEVICE", "cpu")
    monkeypatch.setenv("LAB_LLAMA", str(folder))
    monkeypatch.setenv("LAB_SST2", str(tmp_path / "sst2"))
    monkeypatch.setenv("LAB_ALPACA", str(tmp_path / "alpaca.json"))
    return tmp_path


def test_the_tokenizer_gets_a_pad_token_and_the_template(full: Path) -> None:
    _, words = text.base_model()
    assert words.pad_token == "<unk>" and words.chat_template == text.CHAT
    ids, labels = text.encode(text.sst2("train", 1)[0].example(), words)
    assert words.bos_token_id not in ids
    assert [label for label in labels if label >= 0][-1] == words.eos_token_id
    assert words.decode([label for label in labels if label >= 0][:-1]) in corpus.LABELS
    document = text.encode("the cat is big.", words)[0]
    assert (document[0], document[-1]) == (words.bos_token_id, words.eos_token_id)


@pytest.mark.parametrize("quantised", [False, True])
def test_the_same_calls_train_a_step_and_answer(full: Path, quantised: bool) -> None:
    model, words = text.base_model(quantised)
    kind = torch.uint8 if quantised else torch.bfloat16
    assert model.model.layers[0].self_attn.q_proj.weight.dtype == kind and not model.training
    reviews = text.sst2("validation", 10)
    assert len(reviews) == 10 and text.label_logits(model, words, reviews).shape == (10, 2)
    tuned = text.lora(model, 4, 8, "all-linear")
    items: list[Any] = [request.example() for request in text.alpaca(20)] + [
        review.example() for review in text.sst2("train", 20)
    ]
    history = fit(tuned, text.length_batches(items, words, 8, max_length=64), 6, 1e-2, name="full", log=False)
    assert history.loss[-1] < history.loss[0]
    assert all(p.dtype == torch.float32 for p in tuned.parameters() if p.requires_grad)
    assert len(text.replies(tuned, words, ["say 3", "say 4\ntwice"], 4)) == 2
    assert 0 <= text.exact_match(tuned, words, items[:4]) <= 1


def test_fresh_and_full_fine_tuning_have_the_folders_architecture(full: Path) -> None:
    model, words = text.base_model()
    new = text.fresh(seed=1)
    assert new.config.hidden_size == 64 and next(new.parameters()).dtype == torch.bfloat16
    batch = text.collate([review.example() for review in text.sst2("train", 4)], words)
    for each in (text.full_finetune(model), new):
        before = each.model.layers[0].mlp.up_proj.weight.detach().clone()
        fit(each, iter([batch]), 1, 1e-2, name="full", log=False)
        assert not torch.equal(each.model.layers[0].mlp.up_proj.weight, before)


def test_without_a_gpu_it_stops_with_one_line(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAB_DEVICE")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LabStop, match="needs a GPU"):
        text.base_model()


def test_a_folder_that_holds_no_model_stops_with_one_line(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_LLAMA", str(full))
    for load in (text.base_model, text.fresh):
        with pytest.raises(LabStop, match="LAB_LLAMA") as stop:
            load()
        assert "\n" not in str(stop.value)


def test_without_a_hub_every_call_stops_with_one_line_that_says_what_to_set(tmp_path: Path) -> None:
    calls = """[
        ("LLAMA", text.base_model), ("LLAMA", text.fresh), ("SST2", lambda: text.sst2("train", 3)),
        ("ALPACA", lambda: text.alpaca(3)), ("DIALOGUES", lambda: text.dialogues(3)), ("DOCUMENTS", lambda: text.documents(3)),
    ]"""
    lines = stops_without_a_hub("text", calls, tmp_path)
    assert len(lines) == 6 and all(line.split()[1] == "True" for line in lines), lines
