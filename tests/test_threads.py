"""The threads' pages: their numbers are computed or quoted, both languages agree, and every link leads somewhere."""

from __future__ import annotations

import functools
import inspect
import io
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch

from autograder.authoring import reading
from course.labs import worked
from course.threads import evidence, figures, measure
from tests.pages import FIGURE, LINK, formulas, numbers, sections, shapes, slug

FOLDER = Path(figures.__file__).parent
PAGES = sorted(path for path in FOLDER.glob("*.md") if not path.name.endswith(".zh.md"))
ALL = sorted(FOLDER.glob("*.md"))
CLAIMS = {function.__name__.replace("_", "-"): function for function in evidence.SECTIONS}
READINGS = {entry.id: entry for entry in reading.load_readings().readings}
NAMES = re.compile(
    r"[A-Za-z]+-?\d[\w.-]*|\b\d+[- ]bits?\b|\d+-bit|\d+ (?:或 \d+ )?位|16 or 32 bits|(?:[Rr]ank|秩) \d+|\b\d+(?:B|MB)\b"
)
# Not results: settings and dates that stand in the text as words do.
SETTINGS = {
    "debugging": {"200", "512", "1024", "20000", "8"}, "hyperparameters": {"4", "16"}, "mixed-precision": {"8", "32"},
    "serving": {"512", "1024"}, "continual": set(), "case-studies": set(), "families": {"4", "16"}, "recent": {"2.5"},
    "alpha": {"8", "32"}, "full-fine-tuning": {"4", "8", "24"}, "rank-used": {"99"},
}  # fmt: skip


@functools.cache
def made(name: str) -> tuple[list[str], list[str]]:
    """The equations of a page or of a claim, and the readings that it quotes."""
    out = io.StringIO()
    worked.QUOTED.clear()
    with redirect_stdout(out):
        (figures.PAGES.get(name) or CLAIMS[name])()
    return out.getvalue().splitlines(), list(worked.QUOTED)


def chinese(page: Path) -> Path:
    return page.with_name(f"{page.stem}.zh.md")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def lacks(text: str, name: str) -> list[str]:
    """What the script prints and the text does not have, letter for letter."""
    return [equation for equation in made(name)[0] if equation not in formulas(text)]


def strays(text: str, name: str, allowed: set[str]) -> set[str]:
    """Numbers of the text that the script does not print; those in names such as NF4 or 4-bit, outside formulas, do not count."""
    parts = text.split("$")
    parts[::2] = [NAMES.sub(" ", part) for part in parts[::2]]
    return numbers("$".join(parts)) - numbers(" ".join(made(name)[0])) - {"0", "1", "2"} - allowed


def body(page: Path) -> str:
    """The page without its references, its stamp and blocks of code."""
    return re.sub(
        r"<!--.*?-->|```.*?```", " ", text_of(page).split("\n## References")[0].split('<a id="references">')[0], flags=re.DOTALL
    )


def check(page: Path, name: str) -> None:
    assert not lacks(body(page), name), f"{page.name} lacks {lacks(body(page), name)}"
    found = strays(body(page), name, SETTINGS[name])
    assert not found, f"{page.name}: nothing computes {sorted(found)}"


@pytest.mark.parametrize("name", figures.PAGES)
def test_the_numbers_of_a_page_are_those_that_the_script_prints(name: str) -> None:
    check(FOLDER / f"{name}.md", name)
    check(FOLDER / f"{name}.zh.md", name)


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_myth_shows_what_its_evidence_prints(claim: str) -> None:
    for page in (FOLDER / "myths.md", FOLDER / "myths.zh.md"):
        text = sections(page)[claim]
        assert not lacks(text, claim), f"{page.name}#{claim} lacks {lacks(text, claim)}"
        found = strays(
            text, claim, {"alpha": {"8", "32"}, "full-fine-tuning": {"4", "8", "24"}, "rank-used": {"99"}}.get(claim, set())
        )
        assert not found, f"{page.name}#{claim}: nothing computes {sorted(found)}"


def test_every_myth_has_evidence() -> None:
    found = set(re.findall(r'<a id="([^"]+)">', text_of(FOLDER / "myths.md")))
    assert found == set(CLAIMS) and len(found) >= 12


@pytest.mark.parametrize("name", [*figures.PAGES, *CLAIMS])
def test_a_quoted_number_is_cited(name: str) -> None:
    page = FOLDER / f"{name if name in figures.PAGES else 'myths'}.md"
    for source in made(name)[1]:
        entry = READINGS[source]
        for text in (text_of(page), text_of(chinese(page))):
            assert entry.arxiv in text if entry.arxiv else entry.url in text, f"{page.name} quotes {source} and does not cite it"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_both_languages_agree(page: Path) -> None:
    english, translated = text_of(page), text_of(chinese(page))
    assert anchors(english) == anchors(translated)
    assert english.count("\n|") == translated.count("\n|")
    assert re.findall(r"```.*?```", english, re.DOTALL) == re.findall(r"```.*?```", translated, re.DOTALL)
    links = [sorted(target.replace(".zh.md", ".md") for target in LINK.findall(text)) for text in (english, translated)]
    assert links[0] == links[1]
    assert {item for item in formulas(english) if "=" in item} == {item for item in formulas(translated) if "=" in item}


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in [*LINK.findall(text_of(page)), *(target for _, target in FIGURE.findall(text_of(page)))]:
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        place = (page.parent / name).resolve() if name else page
        assert place.is_file(), f"{page.name}: {target}"
        if anchor:
            assert anchor in sections(place), f"{page.name}: {target}"
        if name.endswith(".md") and name not in (page.name, f"{page.stem}.zh.md", f"{page.name.split('.')[0]}.md"):
            same = name.endswith(".zh.md") == page.name.endswith(".zh.md")
            assert same, f"{page.name}: {target} changes the language"


def anchors(text: str) -> list[str]:
    """The id of each second-level heading: the one on the line before it, or its slug."""
    return [given or slug(heading) for given, heading in re.findall(r'(?:<a id="([^"]+)"></a>\n)?^## (.+)$', text, re.MULTILINE)]


def cited(page: Path) -> list[str]:
    return [line for line in text_of(page).split("## References")[-1].splitlines() if line.startswith("- ")]


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem != "roadmap"], ids=lambda page: page.stem)
def test_references_are_readings_and_are_used(page: Path) -> None:
    known = {entry.title: entry for entry in READINGS.values()}
    for line in cited(page):
        entry = next((entry for title, entry in known.items() if f", {title}, " in line), None)
        assert entry is not None, f"{page.name}: {line} is not in course/readings.toml"
        assert line.startswith(f"- {entry.authors} {entry.year}, ") and (entry.arxiv or entry.url) in line, line
        first = entry.authors.replace(" et al.", "").split(" and ")[0]
        assert first in body(page), f"{page.name} lists {first} and does not mention it"


def test_the_roadmap_names_every_task_of_the_course() -> None:
    """Every lecture section that a core task names is a concept of the checklist."""
    from autograder.manifest import load

    text = text_of(FOLDER / "roadmap.md")
    missing = [task.id for week in load().weeks for task in week.core if task.lecture.removeprefix("course/") not in text]
    assert not missing, f"no concept leads to the section of {missing}"


def test_the_pages_of_the_folder_are_in_the_roadmap() -> None:
    linked = LINK.findall(text_of(FOLDER / "roadmap.md"))
    assert {page.name for page in PAGES} - {"roadmap.md"} <= set(linked)


def test_the_figures_are_those_that_the_script_draws(tmp_path: Path) -> None:
    kept = FOLDER / "figures"
    for picture in figures.PICTURES:
        picture(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in kept.iterdir()}
    for path in tmp_path.iterdir():
        (text, drawn), (other, committed) = (shapes(text_of(folder / path.name)) for folder in (tmp_path, kept))
        assert text == other, f"{path.name}: run python course/threads/figures.py --draw"
        assert drawn == pytest.approx(committed, rel=1e-3, abs=1e-2), path.name


def test_every_figure_is_shown_and_described_in_both_languages() -> None:
    for suffix, pages in ((".svg", PAGES), (".zh.svg", [chinese(page) for page in PAGES])):
        shown = {target: alt for page in pages for alt, target in FIGURE.findall(text_of(page))}
        names = {path.name.split(".")[0] for path in (FOLDER / "figures").iterdir()}
        assert set(shown) == {f"figures/{name}{suffix}" for name in names}
        for target, alt in shown.items():
            assert len(alt) >= (40 if suffix == ".zh.svg" else 80), f"{target}: say in words what the figure shows"


def test_the_counts_of_the_families_are_pefts() -> None:
    """The formulas, on a small Llama with grouped-query attention's shapes left equal, against peft."""
    import peft
    from transformers import LlamaConfig, LlamaForCausalLM

    from course.labs.architectures import matrices

    def model() -> Any:
        torch.manual_seed(0)
        sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
        return LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=4))

    wanted = figures.counts(matrices(model()), 64, 96, 2)
    linear = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    configs = {
        "prefix": peft.PrefixTuningConfig(num_virtual_tokens=20, task_type="CAUSAL_LM"),
        "prompt": peft.PromptTuningConfig(num_virtual_tokens=20, task_type="CAUSAL_LM"),
        "IA3": peft.IA3Config(task_type="CAUSAL_LM"),
        "LoRA": peft.LoraConfig(r=16, **linear),
        "DoRA": peft.LoraConfig(r=16, use_dora=True, **linear),
        "AdaLoRA": peft.AdaLoraConfig(init_r=16, target_r=8, total_step=10, **linear),
        "VeRA": peft.VeraConfig(r=256, **linear),
        "RandLoRA": peft.RandLoraConfig(r=32, **linear),
    }
    for name, config in configs.items():
        count = peft.get_peft_model(model(), config).get_nb_trainable_parameters()[0]
        assert count == wanted[name], name


def test_the_configurations_of_the_case_studies_train() -> None:
    """Every block of code on the page runs on a small model, and what it says is trained gets a gradient."""
    import peft
    from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 32000, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    blocks = re.findall(r"```python\n(.*?)```", text_of(FOLDER / "case-studies.md"), re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        model: Any = LlamaForCausalLM(LlamaConfig(**sizes))
        made: list[Any] = []
        names = {
            "LoraConfig": lambda made=made, **options: made.append(peft.LoraConfig(**options)),
            "BitsAndBytesConfig": BitsAndBytesConfig, "torch": torch, "model": model, "tokenizer": range(32008),
        }  # fmt: skip
        exec(block, names)
        tuned = peft.get_peft_model(model, made[0])
        ids = torch.tensor([[1, model.config.vocab_size - 1, 3]])
        tuned(input_ids=ids, labels=ids).loss.backward()
        trained = {name: part for name, part in tuned.named_parameters() if part.requires_grad}
        assert all(part.grad is not None for part in trained.values())
        rows = [tuple(part.shape) for name, part in trained.items() if "lora" not in name]
        assert rows == ([(8, 16), (8, 16)] if "trainable_token_indices" in block else [])


def test_the_switches_exist_in_the_libraries() -> None:
    """What the page of debugging tells people to write is a name of the installed transformers and datasets."""
    import dataclasses

    import datasets
    from transformers import EarlyStoppingCallback, TrainingArguments

    known = {entry.name for entry in dataclasses.fields(TrainingArguments)}
    known |= set(inspect.signature(datasets.Dataset.map).parameters)
    known |= set(inspect.signature(EarlyStoppingCallback).parameters) | {"attn_implementation", "use_reentrant"}
    for page in (FOLDER / "debugging.md", FOLDER / "debugging.zh.md"):
        named = {name for code in re.findall(r"`([^`]+)`", text_of(page)) for name in re.findall(r"\b([a-z_]+)=", code)}
        assert len(named) >= 10 and named <= known, named - known


def test_the_measured_file_has_what_measuring_gives() -> None:
    found = measure.latency(width=32, layers=2, rounds=3)
    assert set(found) == set(figures.MEASURED["latency"]) and all(value > 0 for value in found.values())
    assert measure.attention(length=16, heads=1, size=8, rounds=2) > 0
    kept = measure.preprocessing(rows=200)
    assert set(kept) == set(figures.MEASURED["preprocessing"]) and kept["cached"] > 1
    assert {"machine", "latency", "attention", "preprocessing"} == set(figures.MEASURED)


@pytest.mark.parametrize("name", ["families.md", "families.zh.md"])
def test_a_wrong_number_is_found(tmp_path: Path, name: str) -> None:
    page = tmp_path / name
    page.write_text(text_of(FOLDER / name).replace("= 39976960$", "= 39976961$"), encoding="utf-8")
    assert lacks(text_of(page), "families") == [r"P_{\text{LoRA}} = 39976960"]
    assert strays(body(page), "families", SETTINGS["families"]) >= {"39976961"}
