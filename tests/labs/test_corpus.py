"""The generator of the tiny profile's texts: the same on every machine, and right, by rules of their own for every task."""

from __future__ import annotations

import os
import subprocess
import sys
from random import Random

import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from course.labs import corpus
from tests.conftest import ROOT

ALL = list(corpus.TASKS | corpus.NEW_TASKS)
PRAISED = {"good", "funny", "great", "brilliant"}
FACTS = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "China": "Beijing", "Egypt": "Cairo"}
FACTS |= {"Kenya": "Nairobi", "Cuba": "Havana", "Peru": "Lima", "Norway": "Oslo", "Poland": "Warsaw", "Greece": "Athens"}
PAIRS = ("hot cold", "big small", "old new", "fast slow", "clean dirty", "loud quiet", "wet dry", "full empty")
OTHER = {a: b for pair in PAIRS for a, b in (pair.split(), pair.split()[::-1])}


def bare(text: str) -> list[str]:
    return text.translate(str.maketrans("", "", ".,!?")).split()


def right(task: str, prompt: str) -> str:
    """The answer, found from the prompt's words alone."""
    instruction, _, given = prompt.partition("\n")
    said, words = bare(instruction), given.split()
    match task:
        case "sentiment":
            return "positive" if PRAISED & set(bare(given)) else "negative"
        case "capital":
            return next(FACTS[word] for word in said if word in FACTS)
        case "greeting":
            return f"{said[0]}, {said[-1]}!"
        case "opposite":
            return next(OTHER[word] for word in said if word in OTHER)
        case "reverse":
            return " ".join(words[::-1])
        case "repeat":
            return given
        case "last":
            return words[-1]
        case "upper":
            return given.upper()
        case "count":
            return str(len(words))
        case "add":
            return str(sum(int(word) for word in said if word.isdigit()))
        case "stars":
            levels = [{"awful", "terrible"}, {"dull", "weak"}, set(), {"good", "funny"}, {"great", "brilliant"}]
            return " ".join("*" * next(i for i, level in enumerate(levels, 1) if level & set(bare(given))))
        case "star":
            return f"* {words[-1]} *"
        case "double":
            return " ".join(f"{word} {word}" for word in words)
        case "negate":
            return " ".join(OTHER.get(word.strip("."), word.strip(".")) for word in words) + "."
    raise AssertionError(task)


@pytest.mark.parametrize("task", [task for task in ALL if task not in ("chinese", "pirate")])
def test_every_answer_is_right(task: str) -> None:
    rng = Random(1)
    for _ in range(300):
        drawn = corpus.request(task, rng)
        assert drawn.output == right(task, drawn.prompt), drawn


def test_chinese_has_one_word_for_each() -> None:
    rng, seen = Random(1), dict[str, str]()
    for _ in range(300):
        drawn = corpus.request("chinese", rng)
        for word, answer in zip(drawn.input.split(), drawn.output.split(), strict=True):
            assert seen.setdefault(word, answer) == answer
            assert all("一" <= letter <= "鿿" for letter in answer)
    assert len(set(seen.values())) == len(seen) == 12


def test_a_pirate_says_what_the_task_asks_in_his_own_words() -> None:
    rng, plain, kinds = Random(1), {"ahoy": {"hello", "hi"}, "aye": {"positive"}, "nay": {"negative"}}, set()
    tasks = [task for task in corpus.TASKS if task != "chinese"]
    for _ in range(500):
        drawn = corpus.request("pirate", rng)
        words = drawn.output.split()
        assert (words[0], words[-1]) == ("arr,", "matey!")
        said = [plain.get(word, set()) | {word} for word in bare(" ".join(words[1:-1]))]
        for task in tasks:
            try:
                wanted = bare(right(task, drawn.prompt))
            except (StopIteration, IndexError):
                continue
            if len(wanted) == len(said) and all(word in options for word, options in zip(wanted, said, strict=True)):
                kinds.add(task)
                break
        else:
            assert drawn.instruction.endswith("in Chinese."), drawn
    assert {"sentiment", "capital", "greeting", "reverse"} <= kinds


def test_another_process_with_other_hashes_draws_the_same() -> None:
    code = (
        "from random import Random; from course.labs import corpus; r = Random(3);"
        "print([corpus.request(t, r) for t in corpus.TASKS | corpus.NEW_TASKS], corpus.document(r), corpus.dialogue(r, 3),"
        "[corpus.review(r) for _ in range(5)], corpus.vocabulary())"
    )
    outs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed, "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert outs[0] == outs[1] and len(outs[0]) > 1000


@pytest.mark.parametrize("task", ALL)
def test_the_parts_share_no_prompt(task: str) -> None:
    rng = Random(2)
    train, test = ({corpus.request(task, rng, part).prompt for _ in range(200)} for part in ("train", "test"))
    assert train and test and not train & test


def test_an_unknown_part_is_an_error() -> None:
    with pytest.raises(ValueError, match="part must be"):
        corpus.in_part("hello", "dev")


def judged(sentence: str) -> int:
    """A review's label by grammar: the main clause counts, and a negation turns it."""
    text = sentence.rstrip(".")
    if text.startswith("although "):
        main = text.split(", ")[1]
    elif ", although " in text:
        main = text.split(", although ")[0]
    else:
        main = text.split(", but ")[-1]
    words = set(main.split())
    return int(bool(PRAISED & words) != bool({"not", "never"} & words))


def test_reviews_are_labelled_by_grammar_and_balanced() -> None:
    rng = Random(4)
    reviews = [corpus.review(rng) for _ in range(2000)]
    assert all(review.label == judged(review.sentence) for review in reviews)
    assert 0.45 < sum(review.label for review in reviews) / len(reviews) < 0.55


def test_counting_words_does_not_solve_the_reviews() -> None:
    rng = Random(5)
    reviews = [corpus.review(rng) for _ in range(3000)]
    counts = CountVectorizer().fit_transform([review.sentence for review in reviews])
    labels = [review.label for review in reviews]
    model = LogisticRegression(max_iter=1000).fit(counts[:2000], labels[:2000])
    assert 0.55 < model.score(counts[2000:], labels[2000:]) < 0.8


def test_a_document_keeps_to_one_hero_and_one_topic() -> None:
    rng = Random(6)
    for _ in range(50):
        words = set(bare(corpus.document(rng, 10)))
        assert len(words & set(corpus.NAMES)) <= 1
        assert sum(bool(words & set(nouns)) for nouns in corpus.TOPICS.values()) == 1


def test_a_dialogue_asks_for_another_task_each_turn() -> None:
    rng, systems = Random(7), 0
    for _ in range(100):
        messages = corpus.dialogue(rng, 3)
        systems += messages[0]["role"] == "system"
        roles = [message["role"] for message in messages if message["role"] != "system"]
        assert roles == ["user", "assistant"] * 3
    assert 0 < systems < 30
