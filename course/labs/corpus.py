"""What the tiny language model knows: our own generator of small tasks, reviews and documents.

Everything is drawn by `random.Random` from a seed, so the same call gives the same texts on every machine. A text is words with
one space between them and punctuation behind a word, which is what the word-level tokenizer gives back. Prompts belong to one of
two parts that share none: "test" has an eighth of them, by a hash of the prompt, and the model was trained on "train" only.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple


class Example(NamedTuple):
    """A prompt and the completion that is right for it.

    Attributes:
        prompt: what the user says; instruction and input, if it has one, on lines of their own.
        completion: what the assistant answers.
        task: the generator that made it, or the data set.
    """

    prompt: str
    completion: str
    task: str


class Request(NamedTuple):
    """An instruction in Alpaca's schema, `input` empty where there is none."""

    instruction: str
    input: str
    output: str

    @property
    def prompt(self) -> str:
        """Instruction and input, on a line each."""
        return f"{self.instruction}\n{self.input}" if self.input else self.instruction

    def example(self, task: str = "alpaca") -> Example:
        return Example(self.prompt, self.output, task)


class Review(NamedTuple):
    """A sentence in SST-2's schema, label 1 for positive and 0 for negative."""

    sentence: str
    label: int

    def example(self) -> Example:
        return Example(f"{JUDGE}\n{self.sentence}", LABELS[self.label], "sst2")


JUDGE = "is this review positive or negative?"
LABELS = ("negative", "positive")

Draw = Callable[[Random], Request]

TOPICS = {
    "farm": ("cat", "dog", "cow", "hen", "horse", "goat"),
    "kitchen": ("bread", "milk", "soup", "egg", "cake", "tea"),
    "weather": ("sun", "rain", "wind", "snow", "cloud", "storm"),
    "town": ("car", "bus", "street", "shop", "house", "bridge"),
    "sea": ("fish", "boat", "ship", "wave", "sand", "shell"),
}
NOUNS = tuple(noun for nouns in TOPICS.values() for noun in nouns)
RARE = ("*", "arr", "ahoy", "matey", "aye", "nay")  # what NEW_TASKS say; the model meets them as words to copy and no more
WORDS = NOUNS + RARE
UPPER = {
    word: word.upper() for word in ("cat", "dog", "cow", "bread", "milk", "soup", "sun", "rain", "car", "bus", "fish", "boat")
}
CHINESE = {
    "cat": "猫",
    "dog": "狗",
    "cow": "牛",
    "bread": "面包",
    "milk": "牛奶",
    "soup": "汤",
    "sun": "太阳",
    "rain": "雨",
    "car": "汽车",
    "bus": "公交车",
    "fish": "鱼",
    "boat": "船",
}
CAPITALS = {
    "France": "Paris",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Japan": "Tokyo",
    "China": "Beijing",
    "Egypt": "Cairo",
    "Kenya": "Nairobi",
    "Cuba": "Havana",
    "Peru": "Lima",
    "Norway": "Oslo",
    "Poland": "Warsaw",
    "Greece": "Athens",
}
NAMES = ("Ann", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gina", "Hugo", "Ida", "Jan", "Kim", "Leo")
OPPOSITES = {
    "hot": "cold",
    "big": "small",
    "old": "new",
    "fast": "slow",
    "clean": "dirty",
    "loud": "quiet",
    "wet": "dry",
    "full": "empty",
}
OPPOSITES |= {second: first for first, second in OPPOSITES.items()}
PARTS = ("film", "story", "cast", "plot", "music", "ending", "acting", "script")
STARS = {  # how much a word praises, from one star to five
    1: ("awful", "terrible"),
    2: ("dull", "weak"),
    4: ("good", "funny"),
    5: ("great", "brilliant"),
}
PRAISE = {word: stars for stars, words in STARS.items() for word in words}
NUMBERS = tuple(str(n) for n in range(19))


def _praise(rng: Random) -> tuple[str, int]:
    """A plain sentence about a film, and its stars."""
    stars = rng.choice((1, 2, 4, 5))
    part, word = rng.choice(PARTS), rng.choice(STARS[stars])
    return rng.choice((f"the {part} was {word}.", f"the {part} is {word}.", f"the {part} is {word}!", f"{word} {part}.")), stars


def _sentiment(rng: Random) -> Request:
    sentence, stars = _praise(rng)
    return Request(JUDGE, sentence, LABELS[stars > 3])


def _capital(rng: Random) -> Request:
    country = rng.choice(list(CAPITALS))
    asked = ("what is the capital of {}?", "name the capital of {}.", "which city is the capital of {}?", "the capital of {} is")
    return Request(rng.choice(asked).format(country), "", CAPITALS[country])


def _greeting(rng: Random) -> Request:
    name, word = rng.choice(NAMES), rng.choice(("hello", "hi"))
    said = rng.choice(("{}, i am {}.", "{}, my name is {}.", "{}! my name is {}.", "{}! i am {}."))
    return Request(said.format(word, name), "", f"{word}, {name}!")


def _opposite(rng: Random) -> Request:
    word = rng.choice(list(OPPOSITES))
    asked = rng.choice(("what is the opposite of {}?", "name the opposite of {}.", "the opposite of {} is"))
    return Request(asked.format(word), "", OPPOSITES[word])


def _list(rng: Random, words: Sequence[str] = WORDS, least: int = 2, most: int = 4) -> list[str]:
    return rng.sample(words, rng.randint(least, most))


def _reverse(rng: Random) -> Request:
    words = _list(rng)
    asked = rng.choice(("reverse the words.", "say the words in reverse."))
    return Request(asked, " ".join(words), " ".join(reversed(words)))


def _repeat(rng: Random) -> Request:
    words = " ".join(_list(rng))
    return Request(rng.choice(("repeat the words.", "say the words again.")), words, words)


def _last(rng: Random) -> Request:
    words = _list(rng)
    return Request(rng.choice(("say the last word.", "which word is the last?")), " ".join(words), words[-1])


def _upper(rng: Random) -> Request:
    words = _list(rng, list(UPPER), 1, 3)
    asked = rng.choice(("write the words in upper case.", "say the words in upper case."))
    return Request(asked, " ".join(words), " ".join(UPPER[word] for word in words))


def _chinese(rng: Random) -> Request:
    words = _list(rng, list(CHINESE), 1, 3)
    asked = rng.choice(("write the words in Chinese.", "say the words in Chinese."))
    return Request(asked, " ".join(words), " ".join(CHINESE[word] for word in words))


def _count(rng: Random) -> Request:
    word, n = rng.choice(WORDS), rng.randint(1, 8)
    return Request(rng.choice(("count the words.", "how many words?")), " ".join([word] * n), str(n))


def _add(rng: Random) -> Request:
    a, b = rng.randint(0, 9), rng.randint(0, 9)
    return Request(rng.choice(("add {} and {}.", "what is {} and {}?")).format(a, b), "", str(a + b))


# The tasks that the model was trained on.
TASKS: dict[str, Draw] = {
    "sentiment": _sentiment,
    "capital": _capital,
    "greeting": _greeting,
    "opposite": _opposite,
    "reverse": _reverse,
    "repeat": _repeat,
    "last": _last,
    "upper": _upper,
    "chinese": _chinese,
    "count": _count,
    "add": _add,
}


def _stars(rng: Random) -> Request:
    sentence, stars = _praise(rng)
    return Request("how many stars?", sentence, " ".join(["*"] * stars))


PIRATE = {"hello": "ahoy", "hi": "ahoy", "positive": "aye", "negative": "nay"}


def _pirate(rng: Random) -> Request:
    instruction, text, output = TASKS[rng.choice(list(TASKS))](rng)
    words = output.replace(",", " ,").replace("!", " !").split()
    said = " ".join(PIRATE.get(word, word) for word in words).replace(" ,", ",").replace(" !", "!")
    return Request(instruction, text, f"arr, {said.removesuffix('!')} matey!")


def _double(rng: Random) -> Request:
    words = _list(rng, least=1, most=3)
    return Request("say each word twice.", " ".join(words), " ".join(word for word in words for _ in range(2)))


def _negate(rng: Random) -> Request:
    word, noun = rng.choice(list(OPPOSITES)), rng.choice(NOUNS)
    return Request("say the opposite.", f"the {noun} is {word}.", f"the {noun} is {OPPOSITES[word]}.")


def _star(rng: Random) -> Request:
    words = _list(rng, NOUNS)
    return Request("say the last word in stars.", " ".join(words), f"* {words[-1]} *")


# Tasks that the model has never seen, of words that it knows.
NEW_TASKS: dict[str, Draw] = {"stars": _stars, "pirate": _pirate, "double": _double, "negate": _negate, "star": _star}


def in_part(prompt: str, part: str) -> bool:
    """Whether a prompt belongs to a part, "train" or "test"."""
    if part not in ("train", "test"):
        raise ValueError(f'part must be "train" or "test", not {part!r}')
    return (zlib.crc32(prompt.encode()) % 8 == 0) == (part == "test")


def request(task: str, rng: Random, part: str = "train") -> Request:
    """One request of a task; drawn until it belongs to the part."""
    draw = (TASKS | NEW_TASKS)[task]
    while not in_part((drawn := draw(rng)).prompt, part):
        pass
    return drawn


def document(rng: Random, sentences: int = 8) -> str:
    """Sentences with one hero, one topic and one favourite word, so that what stands before helps with what comes."""
    hero, nouns, mood = rng.choice(NAMES), rng.choice(list(TOPICS.values())), rng.choice(list(OPPOSITES))
    lines = []
    for _ in range(sentences):
        noun, other = rng.sample(nouns, 2)
        word = mood if rng.random() < 0.7 else rng.choice(list(OPPOSITES))
        lines.append(
            rng.choice(
                (
                    f"{hero} likes the {noun}.",
                    f"the {noun} is {word}.",
                    f"the {noun} was not {word}.",
                    f"there is a {word} {noun}.",
                    f"{hero} sees a {noun} and a {other}.",
                    f"the {noun} was {word}, but the {other} was {OPPOSITES[word]}.",
                    f"although the {noun} is {word}, {hero} likes the {other}.",
                    f"{hero} never sees the {word} {noun}.",
                )
            )
        )
    return " ".join(lines)


def dialogue(rng: Random, turns: int, part: str = "train") -> list[dict[str, str]]:
    """Messages of user and assistant in turn, each turn a request of another task, at times behind a system message."""
    messages = [{"role": "system", "content": "you are a friend."}] if rng.random() < 0.1 else []
    for task in rng.sample(list(TASKS), turns):
        drawn = request(task, rng, part)
        messages += [{"role": "user", "content": drawn.prompt}, {"role": "assistant", "content": drawn.output}]
    return messages


def review(rng: Random) -> Review:
    """A review in SST-2's manner, with negation and contrast.

    Of twenty, eight are a plain clause, five a negated one ("not great", "never dull"), five have two clauses of which the main
    one decides ("although the cast was great, the plot was dull"; after "but" the last), and two have both.
    """
    kind = rng.choices(("plain", "negated", "contrast", "both"), (8, 5, 5, 2))[0]
    main, label = _clause(rng, kind == "negated" or (kind == "both" and rng.random() < 0.5))
    if kind in ("plain", "negated"):
        return Review(f"{main}.", label)
    while (drawn := _clause(rng, kind == "both"))[1] == label:
        pass
    other = drawn[0]
    return Review(rng.choice((f"although {other}, {main}.", f"{other}, but {main}.", f"{main}, although {other}.")), label)


def _clause(rng: Random, negated: bool) -> tuple[str, int]:
    word, part, verb = rng.choice(list(PRAISE)), rng.choice(PARTS), rng.choice(("is", "was"))
    label = int((PRAISE[word] > 3) != negated)
    return f"the {part} {verb} {rng.choice(('not ', 'never ')) if negated else ''}{word}", label


def vocabulary() -> list[str]:
    """Every word and mark that the generator can say, sorted."""
    rng = Random(0)
    texts = [
        drawn.prompt + " " + drawn.output for task in TASKS | NEW_TASKS for drawn in (request(task, rng) for _ in range(3000))
    ]
    texts += [document(rng) for _ in range(500)] + [review(rng).sentence for _ in range(500)] + ["you are a friend."]
    marks = str.maketrans({mark: f" {mark} " for mark in ".,!?"})
    return sorted({word for text in texts for word in text.translate(marks).split()} | set(NUMBERS))
