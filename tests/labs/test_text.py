"""The tiny language model, its batches and its answers, held against the references of weeks 6 and 8 where these say the same."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from course.labs import LabStop, corpus, files, text
from course.labs.pretrain import llama
from course.labs.text import Example, Review
from course.labs.training import fit
from tests.conftest import ROOT
from tests.loading import load

CARD = ROOT / "course" / "labs" / "pretrained" / "tiny_llama" / "README.md"


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    return text.base_model()


@pytest.fixture(scope="module")
def words(pair: tuple[Any, Any]) -> Any:
    return pair[1]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LAB_PROFILE", "LAB_SST2", "LAB_ALPACA", "LAB_DIALOGUES", "LAB_DOCUMENTS", "LAB_DEVICE"):
        monkeypatch.delenv(name, raising=False)


def texts() -> Iterator[str]:
    rng = Random(8)
    for task in corpus.TASKS | corpus.NEW_TASKS:
        for _ in range(30):
            drawn = corpus.request(task, rng, "test")
            yield from (drawn.prompt, drawn.output)
    yield from (corpus.document(rng) for _ in range(30))
    yield from (corpus.review(rng).sentence for _ in range(30))
    yield "you are a friend."


# --- the tokenizer ---


def test_the_tokenizer_gives_back_every_text_of_the_generator(words: Any) -> None:
    for line in texts():
        ids = words.encode(line)
        assert words.unk_token_id not in ids, line
        assert words.decode(ids) == line


def test_the_shipped_tokenizer_is_what_the_script_makes(words: Any) -> None:
    built = llama.tokenizer()
    assert built.get_vocab() == words.get_vocab() and built.chat_template == words.chat_template
    assert len({words.pad_token_id, words.bos_token_id, words.eos_token_id, words.unk_token_id}) == 4
    assert words.convert_ids_to_tokens(words.encode("hello , zebra !")) == ["hello", ",", "<unk>", "!"]


def test_a_conversation_is_the_same_by_template_by_encode_and_by_week_6(words: Any) -> None:
    week6 = load(ROOT / "solutions" / "week06" / "metrics.py")
    talks = text.dialogues(20, seed=1)
    assert {message["role"] for talk in talks for message in talk} == {"system", "user", "assistant"}
    ours, theirs = text.collate(talks, words), week6.sft_collate(talks, text.Plain(words))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert text.encode(talks[0], words)[0] == words.encode(words.apply_chat_template(talks[0], tokenize=False))


# --- batches ---


def test_collate_predicts_the_completion_and_its_end_and_nothing_else(words: Any) -> None:
    batch = text.collate([Example("hello, i am Ann.", "hello, Ann!", "greeting"), Example("add 2 and 3.", "5", "add")], words)
    rows = [words.convert_ids_to_tokens(row) for row in batch["input_ids"].tolist()]
    first = "<|user|> \\n hello , i am Ann . </s> <|assistant|> \\n hello , Ann ! </s>".replace("\\n", "\n").split(" ")
    second = "<|user|> \\n add 2 and 3 . </s> <|assistant|> \\n 5 </s>".replace("\\n", "\n").split(" ")
    assert rows == [first, second + ["<pad>"] * (len(first) - len(second))]
    assert batch["attention_mask"].tolist() == [[1] * 16, [1] * 12 + [0] * 4]
    label = [[words.convert_ids_to_tokens(i) if i >= 0 else i for i in row] for row in batch["labels"].tolist()]
    assert label == [[-100] * 11 + ["hello", ",", "Ann", "!", "</s>"], [-100] * 10 + ["5", "</s>"] + [-100] * 4]
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())


def test_collate_cuts_at_the_end_and_takes_documents_whole(words: Any) -> None:
    example = Example("hello, i am Ann.", "hello, Ann!", "greeting")
    whole, cut = (text.collate([example], words, length) for length in (None, 12))
    assert all(torch.equal(cut[key], whole[key][:, :12]) for key in whole)
    document = text.collate(["the cat is big."], words)
    assert words.convert_ids_to_tokens(document["input_ids"][0].tolist()) == ["the", "cat", "is", "big", ".", "</s>"]
    assert torch.equal(document["labels"], document["input_ids"])


def test_length_batches_show_every_item_once_a_round_with_little_padding(words: Any) -> None:
    items = [Example("repeat the words.\n" + "cat " * n, "dog", "") for n in range(1, 65)]
    round_ = list(islice(text.length_batches(items, words, 8, seed=3), 8))
    lengths = sorted(int(row.sum()) for batch in round_ for row in batch["attention_mask"])
    assert lengths == sorted(len(text.encode(item, words)[0]) for item in items)
    assert sum(int((batch["attention_mask"] == 0).sum()) for batch in round_) / sum(lengths) < 0.1
    again, other = (
        [batch["input_ids"].shape for batch in islice(text.length_batches(items, words, 8, seed=s), 20)] for s in (3, 4)
    )
    assert again[:8] == [batch["input_ids"].shape for batch in round_] and again != other
    assert next(text.length_batches(items[:5], words, 8))["input_ids"].shape[0] == 5


# --- data ---


def test_data_repeats_by_seed_and_train_shares_nothing_with_test() -> None:
    for draw in (
        lambda seed, part: [example.prompt for example in text.examples("reverse", 50, seed, part)],
        lambda seed, part: [review.sentence for review in text.sst2("train" if part == "train" else "validation", 50, seed)],
        lambda seed, part: [request.prompt for request in text.alpaca(50, seed, part)],
        lambda seed, part: [
            message["content"] for talk in text.dialogues(20, seed, 2, part) for message in talk if message["role"] == "user"
        ],
    ):
        assert draw(0, "train") == draw(0, "train") != draw(1, "train")
        assert not set(draw(0, "train")) & set(draw(0, "test"))
    assert text.documents(3, 0) == text.documents(3, 0) != text.documents(3, 1)
    assert [len(document.split(". ")) for document in text.documents(5, sentences=4)] == [4] * 5
    assert {len([m for m in talk if m["role"] == "user"]) for talk in text.dialogues(9, turns=3)} == {3}


def test_a_review_and_an_instruction_as_examples() -> None:
    assert Review("the film is dull.", 0).example() == Example(f"{corpus.JUDGE}\nthe film is dull.", "negative", "sst2")
    request = next(request for request in text.alpaca(50) if request.input)
    assert request.example() == Example(f"{request.instruction}\n{request.input}", request.output, "alpaca")
    with pytest.raises(ValueError, match="split must be"):
        text.sst2("test", 3)


GLUE = [{"sentence": f"a film , part {i} ", "label": i % 2} for i in range(40)]


def write(folder: Path, kind: str) -> Path:
    """The same forty reviews in each form that LAB_SST2 may have."""
    import datasets

    data, path = datasets.Dataset.from_list(GLUE), folder / f"reviews.{kind}"
    match kind:
        case "tsv":
            path.write_text("sentence\tlabel\n" + "".join(f"{row['sentence']}\t{row['label']}\n" for row in GLUE))
        case "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in GLUE))
        case "json":
            path.write_text(json.dumps(GLUE))
        case "parquet":
            data.to_parquet(str(path))
        case "saved":
            data.save_to_disk(str(path))
        case "splits":
            datasets.DatasetDict(train=data.select(range(30)), validation=data.select(range(30, 40))).save_to_disk(str(path))
        case "folder":
            path.mkdir()
            for name, part in (("train", GLUE[:30]), ("dev", GLUE[30:])):
                lines = [f"{row['sentence']}\t{row['label']}\n" for row in part]
                (path / f"{name}.tsv").write_text("sentence\tlabel\n" + "".join(lines))
    return path


@pytest.mark.parametrize("kind", ["tsv", "jsonl", "json", "parquet", "saved", "splits", "folder"])
def test_reviews_of_ones_own(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_SST2", str(write(tmp_path, kind)))
    train, held = text.sst2("train", 1000), text.sst2("validation", 1000)
    assert sorted(train + held) == sorted(Review(str(row["sentence"]).strip(), int(str(row["label"]))) for row in GLUE)
    assert len(train) > len(held) > 0
    if kind in ("splits", "folder"):
        assert len(held) == 10
    assert text.sst2("train", 4, seed=1) == text.sst2("train", 4, seed=1) != text.sst2("train", 4, seed=2)


def test_instructions_dialogues_and_documents_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: dict[str, list[dict[str, Any]]] = {
        "LAB_ALPACA": [{"instruction": f"say {i}", "input": "", "output": str(i)} for i in range(40)],
        "LAB_DIALOGUES": [
            {"messages": [{"role": role, "content": f"{role} {i}"} for role in ("user", "assistant") * 3]} for i in range(40)
        ],
        "LAB_DOCUMENTS": [{"text": f"{i} " * 200} for i in range(5)],
    }
    for name, data in rows.items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(data))
        monkeypatch.setenv(name, str(path))
    train, test = text.alpaca(100), text.alpaca(100, part="test")
    assert sorted(train + test) == sorted(corpus.Request(f"say {i}", "", str(i)) for i in range(40)) and train and test
    talks = text.dialogues(40, part="train") + text.dialogues(40, part="test")
    assert sorted(talk[0]["content"] for talk in talks) == sorted(f"user {i}" for i in range(40))
    assert all([message["role"] for message in talk] == ["user", "assistant"] * 2 for talk in talks)
    assert sorted(text.documents(9)) == sorted(("0 " * 200).strip().replace("0", str(i)) for i in range(5))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("none.tsv", None),
        ("wrong.tsv", "text\tlabel\nx\t1\n"),
        ("wrong.json", "{"),
        ("wrong.csv", "sentence,label\n"),
        ("empty.json", "[]"),
    ],
)
def test_what_cannot_be_read_is_one_line(name: str, content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    monkeypatch.setenv("LAB_SST2", str(tmp_path / name))
    with pytest.raises(LabStop, match="LAB_SST2") as stop:
        text.sst2("train", 3)
    assert "\n" not in str(stop.value) and name in str(stop.value)


# --- the shipped model ---


def test_a_damaged_or_missing_file_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(files.FOLDER / "tiny_llama", tmp_path / "tiny_llama")
    monkeypatch.setattr(files, "FOLDER", tmp_path)
    assert files.checked("tiny_llama") == tmp_path / "tiny_llama"
    weights = tmp_path / "tiny_llama" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    for damage in (lambda: None, weights.unlink):
        damage()
        with pytest.raises(LabStop, match=r"python -m course\.labs\.pretrain llama") as stop:
            text.base_model()
        assert "\n" not in str(stop.value)


def test_the_shipped_files_are_small_and_all_hashed() -> None:
    folder = files.FOLDER / "tiny_llama"
    assert (folder / "model.safetensors").stat().st_size < 3e6
    import tomllib

    table = tomllib.loads(files.HASHES.read_text(encoding="utf-8"))["tiny_llama"]
    assert set(table) == {path.name for path in folder.iterdir()} - {"README.md"}


def test_the_shipped_model_is_as_good_as_its_card_says() -> None:
    card, now = CARD.read_text(encoding="utf-8"), llama.quality()
    stated = {name: float(value) for name, value in re.findall(r"^([a-z ]+?) +([0-9.]+)$", card, re.MULTILINE)}
    assert stated.keys() == now.keys()
    assert now["parameters"] == stated["parameters"]
    assert now["exact match"] == pytest.approx(stated["exact match"], abs=0.02)
    for task in corpus.TASKS:
        assert now[task] >= stated[task] - 0.1, task
    assert now["document perplexity"] == pytest.approx(stated["document perplexity"], rel=0.05)


def test_context_helps_with_a_document(pair: tuple[Any, Any]) -> None:
    model, words = pair
    loss = []
    for parts in (text.documents(40, seed=2), [s for d in text.documents(40, seed=2) for s in re.findall(r"[^.]+\.", d)]):
        batch = text.collate([part.strip() for part in parts], words)
        with torch.no_grad():
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        # Words only: the end of a document is not where the end of a sentence is.
        batch["labels"][batch["labels"] == words.eos_token_id] = -100
        loss.append(torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()).item())
    assert loss[0] < loss[1] - 0.1


def test_answers_do_not_depend_on_batches(pair: tuple[Any, Any]) -> None:
    model, words = pair
    items = [item for task in corpus.TASKS for item in text.examples(task, 3, 5, "test")]
    prompts = [item.prompt for item in items]
    together = text.replies(model, words, prompts, batch_size=64)
    assert together == text.replies(model, words, prompts, batch_size=1)
    assert len({len(words.encode(prompt)) for prompt in prompts}) > 4
    right = [answer == item.completion for answer, item in zip(together, items, strict=True)]
    assert 0.7 < text.exact_match(model, words, items) == sum(right) / len(right) <= 1
    wrong = [item._replace(completion="no") for item in items]
    assert text.exact_match(model, words, wrong) == 0
    assert not model.training


def test_label_logits_are_those_of_one_prompt_alone(pair: tuple[Any, Any]) -> None:
    model, words = pair
    reviews = text.sst2("validation", 10)
    together = text.label_logits(model, words, reviews, batch_size=4)
    assert together.shape == (10, 2)
    for review, row in zip(reviews, together, strict=True):
        prompt = [{"role": "user", "content": review.example().prompt}]
        ids = words.encode(words.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True), return_tensors="pt")
        with torch.no_grad():
            alone = model(ids).logits[0, -1, [words.convert_tokens_to_ids("negative"), words.convert_tokens_to_ids("positive")]]
        assert torch.allclose(row, alone, atol=1e-4)
    right = [int(row[1] > row[0]) == review.label for row, review in zip(together, reviews, strict=True)]
    assert text.accuracy(model, words, reviews) == pytest.approx(sum(right) / 10)


def test_week_8_replies_as_generate_does(pair: tuple[Any, Any]) -> None:
    model, words = pair
    week8 = load(ROOT / "solutions" / "week08" / "edge_federated.py")
    plain, template = text.Plain(words), text.template(words)
    for talk in text.dialogues(6, seed=4, turns=2):
        said = [message["content"] for message in talk if message["role"] != "system"]
        history = [(said[0], said[1])]
        reply = week8.generate_reply(text.Logits(model), plain, template, said[2], 8, history)
        messages = [
            {"role": role, "content": content} for role, content in zip(("user", "assistant", "user"), said[:3], strict=True)
        ]
        assert reply == text.replies(model, words, [messages], 8)[0]
    assert plain.decode([plain.eos_id]) == "</s>"


# --- fine-tuning ---


def test_lora_trains_factors_only_in_the_named_layers_and_comes_off_again() -> None:
    model, words = text.base_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    layers, d, wide = model.config.num_hidden_layers, model.config.hidden_size, model.config.intermediate_size
    shapes = {
        "qv": 2 * [(d, d)],
        "qkvo": 4 * [(d, d)],
        "mlp": 3 * [(d, wide)],
        "all-linear": 4 * [(d, d)] + 3 * [(d, wide)],
        "o_proj": [(d, d)],
    }
    batch = text.collate(text.examples("stars", 4), words)
    for targets, pairs in shapes.items():
        tuned = text.lora(model, 2, 4, targets, seed=1)
        trainable = {name: p for name, p in tuned.named_parameters() if p.requires_grad}
        assert sum(p.numel() for p in trainable.values()) == layers * sum(2 * (m + n) for m, n in pairs), targets
        assert all("lora_" in name for name in trainable)
        fit(tuned, iter([batch] * 2), 2, 1e-2, name="test", log=False)
        model = tuned.unload()
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_seed_of_lora_and_of_a_fresh_model_decides() -> None:
    def factor(seed: int) -> torch.Tensor:
        tuned = text.lora(text.base_model()[0], 2, 4, seed=seed)
        return next(p for name, p in tuned.named_parameters() if "lora_A" in name).detach()

    assert torch.equal(factor(1), factor(1)) and not torch.equal(factor(1), factor(2))
    first, again, other = (text.fresh(seed).state_dict() for seed in (1, 1, 2))
    shipped = text.base_model()[0].state_dict()
    assert {name: tensor.shape for name, tensor in first.items()} == {name: tensor.shape for name, tensor in shipped.items()}
    name = "model.layers.0.mlp.up_proj.weight"
    assert (
        torch.equal(first[name], again[name])
        and not torch.equal(first[name], other[name])
        and not torch.equal(first[name], shipped[name])
    )


def test_a_quantised_model_answers_nearly_as_well_and_trains(pair: tuple[Any, Any]) -> None:
    model, words = text.base_model(quantised=True)
    codes = model.model.layers[0].self_attn.q_proj.weight
    assert codes.dtype == torch.uint8 and codes.quant_state.nested and codes.quant_state.quant_type == "nf4"
    items = text.examples("capital", 20, part="test")
    assert text.exact_match(model, words, items) >= text.exact_match(*pair, items) - 0.2
    batch = text.collate(text.examples("stars", 16), words)
    history = fit(text.lora(model, 4, 8), iter([batch] * 8), 8, 1e-2, name="test", log=False)
    assert history.loss[-1] < history.loss[0]


def test_gradients_of_a_quantised_model_are_those_of_its_dequantised_weights_also_after_evaluation(words: Any) -> None:
    import bitsandbytes

    def gradients(model: Any) -> torch.Tensor:
        tuned = text.lora(model, 4, 8, "all-linear", init_lora_weights=False)
        tuned(**batch).loss.backward()
        return torch.cat([p.grad.flatten() for p in tuned.parameters() if p.requires_grad])

    batch = text.collate(text.examples("stars", 8), words)
    packed, plain = text.base_model(quantised=True)[0], text.base_model()[0]
    text.exact_match(packed, words, text.examples("add", 4))
    layers = dict(packed.named_modules())
    with torch.no_grad():
        for name, layer in plain.model.named_modules(prefix="model"):
            if isinstance(layers[name], bitsandbytes.nn.Linear4bit):
                weight = layers[name].weight
                layer.weight.copy_(bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state))
    ours, wanted = gradients(packed), gradients(plain)
    assert (ours - wanted).norm() < 1e-3 * wanted.norm()


def test_from_few_examples_lora_learns_what_a_fresh_model_does_not(pair: tuple[Any, Any]) -> None:
    words, held_out = pair[1], text.examples("star", 100, 99, "test")

    def tuned(model: Any, rate: float) -> float:
        batches = text.length_batches(text.examples("star", 64), words, 32)
        fit(model, batches, 150, rate, name="test", schedule="cosine", warmup=10, log=False)
        return text.exact_match(model, words, held_out)

    assert text.exact_match(*pair, held_out) == 0
    scratch = tuned(text.fresh(), 3e-3)
    adapted = tuned(text.lora(text.base_model()[0], 8, 16, "all-linear"), 1e-2)
    # Three seeds gave 0.96 to 1.00 and 0.04 to 0.24 or so.
    assert adapted > 0.8 and adapted > scratch + 0.4


def test_the_training_script_writes_the_shipped_files_and_repeats_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama, "STEPS", 3)
    for name in ("a", "b"):
        llama.main(tmp_path / name)
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {path.name for path in (files.FOLDER / "tiny_llama").iterdir()} - {"README.md"}
    for name in names:
        built = (tmp_path / "a" / name).read_bytes()
        assert built == (tmp_path / "b" / name).read_bytes(), name
        assert (built == (files.FOLDER / "tiny_llama" / name).read_bytes()) == (name != "model.safetensors"), name
