"""Language models, data and batches, by the same calls in both profiles.

Tiny: a Llama of our own that ships with the course, and texts of our own generator. Full: Llama-2-7B, SST-2, Alpaca, UltraChat
and WikiText. LAB_LLAMA names another model, or a folder, for the full profile; LAB_SST2, LAB_ALPACA, LAB_DIALOGUES and
LAB_DOCUMENTS give files of your own in either.

A conversation is written the way week 6 has it: for each message the header "<|role|>\\n", the content and the end-of-sequence
token, the three encoded each by itself, and nothing else.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from course.labs import corpus
from course.labs.core import pick, profile, say
from course.labs.corpus import LABELS, NEW_TASKS, TASKS, Example, Request, Review
from course.labs.files import checked, unreachable
from course.labs.training import device, moved, seeded

__all__ = ["NEW_TASKS", "TASKS", "Example", "Request", "Review"]

Messages = Sequence[Mapping[str, str]]
Item = Example | Messages | str

CHAT = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TARGETS: dict[str, list[str] | str] = {
    "qv": ["q_proj", "v_proj"],
    "qkvo": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "mlp": ["gate_proj", "up_proj", "down_proj"],
    "all-linear": "all-linear",
}
IGNORED = -100


# --- models ---


def base_model(quantised: bool = False) -> tuple[Any, Any]:
    """The pretrained language model and its tokenizer, newly loaded, in evaluation mode, on `device()`.

    Tiny: the shipped Llama in float32. Full: Llama-2-7B in bf16.

    Args:
        quantised: linear layers in 4-bit NormalFloat with double quantisation, by bitsandbytes (QLoRA, arXiv:2305.14314).

    Returns:
        (model, tokenizer): a `LlamaForCausalLM` (full: whatever causal model LAB_LLAMA is), and a tokenizer with a pad token
        and the course's chat template.

    Raises:
        LabStop: if the shipped files are damaged, or the model cannot be had, or the full profile finds no GPU.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from transformers.utils import logging as transformers_logging

    source, place, dtype = _source(), device(), pick(tiny=torch.float32, full=torch.bfloat16)
    if profile() == "tiny":
        transformers_logging.disable_progress_bar()
    options: dict[str, Any] = {"dtype": dtype, "device_map": {"": place}}
    if quantised:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model: Any = AutoModelForCausalLM.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        raise unreachable(source, "LAB_LLAMA", error, licence=True) from None
    part: Any
    for part in model.modules():
        if hasattr(part, "support_avx512bf16_for_cpu"):
            # In evaluation bitsandbytes would repack the codes into a form through which no gradient goes and no merge works.
            part.support_avx512bf16_for_cpu = False
    return model.eval(), _prepared(tokenizer)


def fresh(seed: int = 0) -> Any:
    """A model of the same architecture with random weights: training from scratch."""
    from transformers import AutoConfig, AutoModelForCausalLM

    source, place = _source(), device()
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise unreachable(source, "LAB_LLAMA", error, licence=True) from None
    with seeded(seed), place:
        return AutoModelForCausalLM.from_config(config, dtype=pick(tiny=torch.float32, full=torch.bfloat16)).eval()


def full_finetune(model: Any) -> Any:
    """The model with all parameters trainable; where the GPU has no room for that, its last two blocks only, and it says so.

    Room: weights, gradients and Adam's two moments in the weights' dtype, and a fifth more for activations.
    """
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    if next(model.parameters()).is_cuda and torch.cuda.mem_get_info()[0] < 3.8 * size:
        print(say("full fine-tuning does not fit: the last two blocks are trained", "显存不够全量微调：只训练最后两个块"))
        model.requires_grad_(False)
        model.model.layers[-2:].requires_grad_(True)
        return model
    return model.requires_grad_(True)


def lora(
    model: Any,
    rank: int,
    alpha: int,
    targets: str | Sequence[str] = "qv",
    *,
    dropout: float = 0.0,
    seed: int = 0,
    **options: Any,
) -> Any:
    """LoRA by peft. The layers are wrapped in `model` itself; `.unload()` of the result takes them out again.

    Args:
        model: as `base_model` gives it; a quantised one is prepared for training first.
        rank, alpha: the update is (alpha / rank) B A.
        targets: "qv", "qkvo", "mlp", "all-linear", or names of modules as peft takes them.
        seed: of the random factor A.
        options: of peft's `LoraConfig`, such as use_rslora, use_dora, init_lora_weights.

    Returns:
        A peft model. Only the factors are trainable.
    """
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    names = TARGETS.get(targets, [targets]) if isinstance(targets, str) else list(targets)
    options |= {"task_type": "CAUSAL_LM", "lora_alpha": alpha, "lora_dropout": dropout}
    config = LoraConfig(r=rank, target_modules=names, **options)
    with seeded(seed):
        if getattr(model, "is_loaded_in_4bit", False):
            checkpoints = profile() == "full"
            model = prepare_model_for_kbit_training(model, checkpoints, {"use_reentrant": False} if checkpoints else None)
        return get_peft_model(model, config)


class Logits(nn.Module):
    """A causal model as the tasks of weeks 6 and 8 call it: ids (batch, length) in, logits (batch, length, vocabulary) out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


class Plain:
    """A tokenizer as the tasks of weeks 6 and 8 use it: `encode` adds no token, `decode` leaves out none.

    Attributes:
        eos_token_id, pad_token_id: as the tokenizer has them.
        eos_id: the same as eos_token_id.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = self.eos_id = int(tokenizer.eos_token_id)
        self.pad_token_id = int(tokenizer.pad_token_id)

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids)))


def template(tokenizer: Any) -> str:
    """One turn of a chat up to where the reply begins, with "{message}" for what the user says: for week 8's `generate_reply`."""
    return f"<|user|>\n{{message}}{tokenizer.eos_token}<|assistant|>\n"


# --- data ---


def examples(task: str, count: int, seed: int = 0, part: str = "train") -> list[Example]:
    """Examples of one of `TASKS`, which the tiny model was trained on, or of `NEW_TASKS`, which it has never seen.

    Args:
        task: its name. "stars" rates a review by one, two, four or five stars; "pirate" is a style over all of TASKS; "double"
            says each word twice; "negate" says the opposite of a sentence; "star" puts the last word
            between stars.
        count: how many; some may be equal.
        seed: equal seeds give equal examples.
        part: "train", or "test", which has no prompt of "train".
    """
    rng = Random(f"{task} {part} {seed}")
    return [corpus.request(task, rng, part).example(task) for _ in range(count)]


def sst2(split: str, count: int, seed: int = 0) -> list[Review]:
    """Reviews in SST-2's schema. `review.example()` is a review as prompt and completion.

    Tiny: generated, with negation and contrast, so that counting words does not solve them. Full: SST-2 of GLUE (Socher et al.,
    EMNLP 2013; Wang et al., arXiv:1804.07461). LAB_SST2: a file or folder of your own, see `rows`.

    Args:
        split: "train" or "validation"; they share no sentence.
        count: how many; fewer where the data set has fewer.
        seed: of the choice.
    """
    if split not in ("train", "validation"):
        raise ValueError(f'split must be "train" or "validation", not {split!r}')
    if _generated("LAB_SST2"):
        rng, part = Random(f"sst2 {split} {seed}"), "train" if split == "train" else "test"
        drawn = (corpus.review(rng) for _ in iter(int, 1))
        found = (review for review in drawn if corpus.in_part(review.sentence, part))
        return [next(found) for _ in range(count)]
    data = rows("LAB_SST2", split, ("sentence", "label"), hub=("nyu-mll/glue", "sst2", split))
    return [Review(row["sentence"].strip(), int(row["label"])) for row in _draw(data, count, seed)]


def alpaca(count: int, seed: int = 0, part: str = "train") -> list[Request]:
    """Instructions in Alpaca's schema. `request.example()` is one as prompt and completion.

    Tiny: generated, of the tasks that the model knows and of "stars", "double" and "negate", which it does not. Full: Alpaca
    (Taori et al., 2023). LAB_ALPACA: a file of your own, see `rows`.

    Args:
        part: "train" or "test"; they share no prompt.
    """
    if _generated("LAB_ALPACA"):
        rng, tasks = Random(f"alpaca {part} {seed}"), [*TASKS, "stars", "double", "negate"]
        return [corpus.request(rng.choice(tasks), rng, part) for _ in range(count)]
    data = rows("LAB_ALPACA", None, ("instruction", "output"), hub=("tatsu-lab/alpaca", None, "train"))
    requests = (Request(row["instruction"], row.get("input") or "", row["output"]) for row in data)
    return _draw([request for request in requests if _part_of(request.prompt) == part], count, seed)


def dialogues(count: int, seed: int = 0, turns: int = 2, part: str = "test") -> list[list[dict[str, str]]]:
    """Conversations: messages {"role": ..., "content": ...} of "user" and "assistant" in turn, at times behind one of "system".

    Tiny: each turn a request of another of TASKS. Full: UltraChat (Ding et al., arXiv:2305.14233), in the selection of
    HuggingFaceH4. LAB_DIALOGUES: a file of your own with the column "messages", see `rows`.

    Args:
        turns: of user and assistant; longer conversations are cut to that many.
        part: "train" or "test"; they share no prompt (full: no conversation).
    """
    if _generated("LAB_DIALOGUES"):
        rng = Random(f"dialogues {part} {seed}")
        return [corpus.dialogue(rng, turns, part) for _ in range(count)]
    data = rows("LAB_DIALOGUES", part, ("messages",), hub=("HuggingFaceH4/ultrachat_200k", None, f"{part}_sft"))
    return [_cut(row["messages"], turns) for row in _draw(data, count, seed)]


def documents(count: int, seed: int = 0, sentences: int = 8) -> list[str]:
    """Running text that the model was not trained on.

    Tiny: generated; each document has a hero, a topic and a favourite word, so a longer context helps. Full: WikiText-2 (Merity
    et al., arXiv:1609.07843). LAB_DOCUMENTS: a file of your own with the column "text", see `rows`.

    Args:
        sentences: of a generated document; others are taken as they are.
    """
    if _generated("LAB_DOCUMENTS"):
        rng = Random(f"documents {seed}")
        return [corpus.document(rng, sentences) for _ in range(count)]
    data = rows("LAB_DOCUMENTS", None, ("text",), hub=("Salesforce/wikitext", "wikitext-2-raw-v1", "test"))
    return [row["text"].strip() for row in _draw([row for row in data if len(row["text"]) > 200], count, seed)]


def rows(variable: str, split: str | None, columns: Sequence[str], hub: tuple[str, str | None, str]) -> list[dict[str, Any]]:
    """The rows of a data set: from the path in an environment variable, or else from the hub.

    A path is a file (.tsv with a header, .json with a list of objects, .jsonl, .parquet), a folder with one such file for each
    split, named after it (as GLUE names them, dev for validation), or a folder that `datasets` has saved.

    Args:
        split: which split; None for the one that is there, or "train" of several. Where the path has no splits, an eighth of the
            rows, by a hash of the first column, is not "train".
        columns: that every row must have.
        hub: name, configuration and split on the hub.

    Raises:
        LabStop: if it cannot be read, or a column is missing.
    """
    import datasets

    path = os.environ.get(variable)
    try:
        if path is None:
            found = list(datasets.load_dataset(hub[0], hub[1], split=hub[2]))
        else:
            found = _from_path(Path(path), split, columns[0])
        if not found:
            raise ValueError(f"no rows of the split {split!r}")
        if missing := [column for column in columns if column not in found[0]]:
            raise ValueError(f"no column {missing[0]!r}")
    except (OSError, ValueError, KeyError) as error:
        raise unreachable(path or hub[0], variable, error, licence=True) from None
    return found


# --- batches ---


def encode(item: Item, tokenizer: Any, max_length: int | None = None) -> tuple[list[int], list[int]]:
    """The ids of an example, a conversation or a document, and its labels: -100 where nothing is to be predicted.

    Labels of an example are the completion and the end-of-sequence token behind it; of a conversation every assistant message
    and its end; of a document everything. What is longer than max_length loses its end.
    """
    if isinstance(item, str):
        ids = [*tokenizer(item)["input_ids"], tokenizer.eos_token_id]
        return ids[:max_length], ids[:max_length]
    if isinstance(item, Example):
        item = [{"role": "user", "content": item.prompt}, {"role": "assistant", "content": item.completion}]
    pairs: list[tuple[int, int]] = []
    for message in item:
        spoken = message["role"] == "assistant"
        pairs += [(token, IGNORED) for token in tokenizer.encode(f"<|{message['role']}|>\n", add_special_tokens=False)]
        content = tokenizer.encode(message["content"], add_special_tokens=False)
        pairs += [(token, token if spoken else IGNORED) for token in (*content, tokenizer.eos_token_id)]
    cut = pairs[:max_length]
    return [token for token, _ in cut], [label for _, label in cut]


def collate(items: Sequence[Item], tokenizer: Any, max_length: int | None = None) -> dict[str, Tensor]:
    """One batch for `model(**batch)`.

    Args:
        items: examples, conversations or documents, see `encode`.
        max_length: most tokens in a row.

    Returns:
        input_ids, attention_mask and labels, int64, shape (items, longest row); padded at the right. Labels are not shifted, and
        are -100 at prompts and padding.
    """
    return _padded([encode(item, tokenizer, max_length) for item in items], tokenizer)


def length_batches(
    items: Sequence[Item], tokenizer: Any, batch_size: int, seed: int = 0, max_length: int | None = None
) -> Iterator[dict[str, Tensor]]:
    """Batches as of `collate`, without end: each round goes through all items in a new order, with little padding.

    The items of a round are shuffled, then sorted by length within each stretch of 8 batches, and the batches shuffled again.
    What is left over at the end of a round is less than a batch and waits for the next. Where there are fewer items than
    batch_size, each batch has all of them.
    """
    rng = Random(seed)
    coded = [encode(item, tokenizer, max_length) for item in items]
    size = min(batch_size, len(coded))
    while True:
        rng.shuffle(coded)
        batches = []
        for begin in range(0, len(coded), 8 * size):
            stretch = sorted(coded[begin : begin + 8 * size], key=lambda pair: len(pair[0]))
            batches += [stretch[i : i + size] for i in range(0, len(stretch) - size + 1, size)]
        rng.shuffle(batches)
        yield from (_padded(batch, tokenizer) for batch in batches)


# --- answers ---


@torch.no_grad()
def replies(
    model: Any, tokenizer: Any, prompts: Sequence[str | Messages], max_new_tokens: int = 16, batch_size: int = 64
) -> list[str]:
    """Greedy replies to prompts, or to conversations whose last message is the user's.

    Args:
        model: a causal model with `generate`; its mode is restored.
    """
    training = model.training
    model.eval()
    coded = []
    for prompt in prompts:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        header = tokenizer.encode("<|assistant|>\n", add_special_tokens=False)
        coded.append(encode(messages, tokenizer)[0] + header)
    order = sorted(range(len(coded)), key=lambda i: len(coded[i]))
    answers = [""] * len(coded)
    for begin in range(0, len(order), batch_size):
        chosen = order[begin : begin + batch_size]
        kept = [torch.tensor(coded[i][::-1]) for i in chosen]  # padded at the left: the reply follows the prompt directly
        ids = pad_sequence(kept, batch_first=True, padding_value=tokenizer.pad_token_id).flip(1)
        mask = pad_sequence([torch.ones_like(row) for row in kept], batch_first=True).flip(1)
        place = next(model.parameters()).device
        out = model.generate(
            input_ids=ids.to(place),
            attention_mask=mask.to(place),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        for i, row in zip(chosen, out[:, ids.shape[1] :].tolist(), strict=True):
            end = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row)
            answers[i] = tokenizer.decode(row[:end]).strip()
    model.train(training)
    return answers


def exact_match(model: Any, tokenizer: Any, items: Sequence[Example], batch_size: int = 64) -> float:
    """The share of examples whose greedy reply is the completion, letter by letter but for space at the ends."""
    most = max(len(tokenizer.encode(item.completion, add_special_tokens=False)) for item in items) + 1
    said = replies(model, tokenizer, [item.prompt for item in items], most, batch_size)
    return sum(answer == item.completion.strip() for answer, item in zip(said, items, strict=True)) / len(items)


@torch.no_grad()
def label_logits(model: Any, tokenizer: Any, reviews: Sequence[Review], batch_size: int = 64) -> Tensor:
    """The logits of "negative" and "positive" as the first word of the reply: shape (reviews, 2), float32, on the CPU.

    With models that split these words into pieces, the first piece counts.
    """
    training = model.training
    model.eval()
    words = torch.tensor([tokenizer.encode(label, add_special_tokens=False)[0] for label in LABELS])
    place, out = next(model.parameters()).device, []
    for begin in range(0, len(reviews), batch_size):
        batch = collate([review.example() for review in reviews[begin : begin + batch_size]], tokenizer)
        first = (batch["labels"] != IGNORED).int().argmax(1)  # where the reply begins; predicted one place before
        logits = model(input_ids=batch["input_ids"].to(place), attention_mask=batch["attention_mask"].to(place)).logits
        out.append(logits.float().cpu()[torch.arange(len(first)), first - 1][:, words])
    model.train(training)
    return torch.cat(out)


def accuracy(model: Any, tokenizer: Any, reviews: Sequence[Review], batch_size: int = 64) -> float:
    """The share of reviews whose label word has the larger logit. No text is generated, so it is fast."""
    labels = torch.tensor([review.label for review in reviews])
    return (label_logits(model, tokenizer, reviews, batch_size).argmax(1) == labels).double().mean().item()


@torch.no_grad()
def mean_loss(model: Any, tokenizer: Any, items: Sequence[Item]) -> float:
    """The mean loss a labelled token of the items, in evaluation mode (nats), all in one batch; the model's mode is restored."""
    training = model.training
    batch = moved(collate(items, tokenizer), next(model.parameters()).device)
    value: float = model.eval()(**batch).loss.item()
    model.train(training)
    return value


# --- helpers ---


def _source() -> str:
    if profile() == "tiny":
        return str(checked("tiny_llama"))
    return os.environ.get("LAB_LLAMA") or "meta-llama/Llama-2-7b-hf"


def _prepared(tokenizer: Any) -> Any:
    """With a pad token and our chat template."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    tokenizer.chat_template = CHAT
    return tokenizer


def _padded(rows: Sequence[tuple[list[int], list[int]]], tokenizer: Any) -> dict[str, Tensor]:
    def stack(lists: list[list[int]], fill: int) -> Tensor:
        return pad_sequence([torch.tensor(one) for one in lists], batch_first=True, padding_value=fill)

    return {
        "input_ids": stack([ids for ids, _ in rows], tokenizer.pad_token_id),
        "attention_mask": stack([[1] * len(ids) for ids, _ in rows], 0),
        "labels": stack([labels for _, labels in rows], IGNORED),
    }


def _generated(variable: str) -> bool:
    return profile() == "tiny" and variable not in os.environ


def _draw(data: list[Any], count: int, seed: int) -> list[Any]:
    return Random(seed).sample(data, min(count, len(data)))


def _cut(messages: Messages, turns: int) -> list[dict[str, str]]:
    system = [dict(message) for message in messages if message["role"] == "system"][:1]
    return system + [dict(message) for message in messages if message["role"] != "system"][: 2 * turns]


def _from_path(path: Path, split: str | None, column: str) -> list[dict[str, Any]]:
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        import datasets

        saved = datasets.load_from_disk(str(path))
        if isinstance(saved, datasets.DatasetDict):
            return list(saved[split or "train"])
        return _part(list(saved), split, column)
    if path.is_dir():
        names = {split or "train", "dev" if split == "validation" else split}
        files = [file for file in sorted(path.iterdir()) if file.stem in names and file.suffix in READERS]
        if not files:
            raise ValueError(f"no file for the split {split or 'train'!r}")
        return READERS[files[0].suffix](files[0])
    if path.suffix not in READERS:
        raise ValueError(f"the name must end in one of {', '.join(READERS)}")
    return _part(READERS[path.suffix](path), split, column)


def _part(data: list[dict[str, Any]], split: str | None, column: str) -> list[dict[str, Any]]:
    if split is None:
        return data
    return [row for row in data if (_part_of(str(row[column])) == "train") == (split == "train")]


def _part_of(text: str) -> str:
    """ "test" for an eighth of all texts. Not the generator's CRC, whose parts are uneven for texts that repeat themselves."""
    return "test" if hashlib.sha256(text.encode()).digest()[0] < 32 else "train"


def _tsv(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def _parquet(path: Path) -> list[dict[str, Any]]:
    from pyarrow import parquet

    return list(parquet.read_table(path).to_pylist())


READERS: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    ".tsv": _tsv,
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".jsonl": lambda path: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()],
    ".parquet": _parquet,
}
