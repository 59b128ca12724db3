"""Every lecture section that a task names exists in both languages, and the numbers in the notes are computed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from autograder.manifest import Task, load
from tests.pages import FIGURE, formulas, numbers, printed, sections, shapes

ROOT = Path(__file__).resolve().parents[1]
TASKS = [task for week in load().weeks for task in week.tasks]
SCRIPTS = sorted((ROOT / "course").glob("week*/figures.py"))
LANGUAGES = {"en": "lecture.md", "zh": "lecture.zh.md"}


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.id)
def test_the_section_of_a_task_exists(task: Task, lang: str) -> None:
    path, anchor = task.lecture.split("#")
    page = (ROOT / path).with_name(LANGUAGES[lang])
    assert page.is_file(), f"{page} is missing"
    found = sections(page)
    assert found.get(anchor, "").strip(), f"{page.name} has no section #{anchor}; it has {', '.join(found)}"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.parent.name)
def test_the_numbers_are_those_that_the_script_prints(script: Path) -> None:
    output = printed(script)
    assert output, "the script prints no section"
    for name in LANGUAGES.values():
        found = sections(script.with_name(name))
        for section, equations in output.items():
            missing = [equation for equation in equations if equation not in formulas(found[section])]
            assert not missing, f"{name}#{section} lacks {missing}"


@pytest.mark.parametrize("name", LANGUAGES.values())
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.parent.name)
def test_the_notes_hold_no_other_numbers(script: Path, name: str) -> None:
    found = sections(script.with_name(name))
    for section, equations in printed(script).items():
        known = numbers(" ".join(equations)) | {"0", "1", "2"}
        assert not numbers(found[section]) - known, f"{name}#{section}"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.parent.name)
def test_both_languages_have_the_same_sections_and_formulas(script: Path) -> None:
    english, chinese = (sections(script.with_name(name)) for name in LANGUAGES.values())
    assert set(english) <= set(chinese)
    for name in english:
        equations = [{item for item in formulas(text) if "=" in item} for text in (english[name], chinese[name])]
        assert equations[0] == equations[1], name


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.parent.name)
def test_the_figures_are_those_that_the_script_draws(script: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, script, "--draw", tmp_path], check=True, cwd=script.parent)
    kept = script.parent / "figures"
    assert {path.name for path in tmp_path.iterdir()} == ({path.name for path in kept.iterdir()} if kept.is_dir() else set())
    for path in tmp_path.iterdir():
        (text, drawn), (other, committed) = (shapes(folder.read_text(encoding="utf-8")) for folder in (path, kept / path.name))
        assert text == other, f"{path.name}: run python {script.relative_to(ROOT)} --draw"
        assert drawn == pytest.approx(committed, rel=1e-3, abs=1e-2), path.name


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.parent.name)
def test_every_figure_is_shown_and_described_in_both_languages(script: Path) -> None:
    for lang, name in LANGUAGES.items():
        shown = {target: alt for alt, target in FIGURE.findall(script.with_name(name).read_text(encoding="utf-8"))}
        suffix = ".zh.svg" if lang == "zh" else ".svg"
        names = {path.name.split(".")[0] for path in (script.parent / "figures").glob("*.svg")}
        assert set(shown) == {f"figures/{each}{suffix}" for each in names}, name
        for target, alt in shown.items():
            assert len(alt) >= (40 if lang == "zh" else 80), f"{target}: say in words what the figure shows"
            assert bool(re.search("[\u4e00-\u9fff]", alt)) == (lang == "zh")


@pytest.mark.parametrize("name", LANGUAGES.values())
def test_a_wrong_number_is_found(tmp_path: Path, name: str) -> None:
    for file in ("figures.py", *LANGUAGES.values()):
        text = (ROOT / "course" / "week04" / file).read_text(encoding="utf-8")
        wrong = text.replace("$y = [12, 11, 0]$", "$y = [12, 13, 0]$") if file == name else text
        (tmp_path / file).write_text(wrong, encoding="utf-8")
    with pytest.raises(AssertionError, match=rf"{name}#forward lacks .'y = "):
        test_the_numbers_are_those_that_the_script_prints(tmp_path / "figures.py")
    with pytest.raises(AssertionError, match=f"{name}#forward"):
        test_the_notes_hold_no_other_numbers(tmp_path / "figures.py", name)
