"""Tasks whose answers a program can verify: what the shipped model is trained on and asked.

A prompt is `task: subject`, for example `reverse: lantern` or `add: 123 456`. Words and sums that
`is_held_out` names never occur in training; the demo asks only those.
"""

import string
import zlib
from collections.abc import Callable
from random import Random
from typing import Final

_LISTED = """
    amber anchor apple autumn badge banana barrel basket beacon blossom bottle branch breeze bridge
    bronze bucket button cactus candle canyon carpet castle cedar cheese cherry circle cloud copper
    coral cotton cradle desert dragon eagle elbow engine falcon feather fern flame forest fossil
    garden ginger glacier granite guitar hammer harbour hazel hedge honey island ivory jacket jungle
    kettle kitten ladder lantern lemon linen lizard magnet maple marble meadow mirror monkey moss
    needle nutmeg oak ocean olive orange orchard otter oyster paddle pebble pepper pigeon pillow
    planet pocket puzzle rabbit raven ribbon river rocket saddle salmon shadow silver spoon spruce
    squirrel stream summer sunset temple thistle thunder tiger timber tulip tunnel turtle valley
    velvet violet walnut whistle willow window winter wizard yellow zebra
"""
LISTED_WORDS: Final = tuple(_LISTED.split())
"""English words for the demo. Training sees none of them, only words that it makes up."""

_CLUSTERS = "bl br ch cl dr fl gr pl sh sp st th tr"
_ENDINGS = "ck ll nd ng nt rn ss st tt"
_ONSETS: Final[list[str]] = [*"bcdfghjklmnpqrstvwxyz", *_CLUSTERS.split()]
_VOWELS: Final[list[str]] = [*"aeiou" * 3, "y", "ai", "ea", "ee", "io", "oo", "ou"]
_CODAS: Final[list[str]] = ["", "", *"bcdfgklmnprstvwxz", *_ENDINGS.split()]
_HELD_OUT_ONE_IN: Final = 10


def _sum(subject: str) -> str:
    return str(sum(int(number) for number in subject.split()))


def _count(subject: str) -> str:
    letter, word = subject.split(" in ")
    return str(word.count(letter))


def _reverse(subject: str) -> str:
    return subject[::-1]


def _sort(subject: str) -> str:
    return "".join(sorted(subject))


SOLVERS: Final[dict[str, Callable[[str], str]]] = {
    "add": _sum,
    "count": _count,
    "reverse": _reverse,
    "sort": _sort,
    "upper": str.upper,
}
"""Per task, the program that answers its subject."""


def task_of(prompt: str) -> str:
    """Name the task that a prompt asks for."""
    return prompt.partition(": ")[0]


def solve(prompt: str) -> str:
    """Answer a prompt by program."""
    task, _, subject = prompt.partition(": ")
    return SOLVERS[task](subject)


def check(prompt: str, answer: str) -> bool:
    """Say whether a model's answer is exactly the right one."""
    return answer == solve(prompt)


def is_held_out(prompt: str) -> bool:
    """Say whether a prompt's word or sum is kept from training, whatever the task."""
    key = prompt.partition(": ")[2].rpartition(" in ")[2]
    # Python's own `hash` differs from process to process.
    return key in LISTED_WORDS or zlib.crc32(key.encode()) % _HELD_OUT_ONE_IN == 0


def make_word(random: Random) -> str:
    """Make up a word of 3 to 8 letters, mostly one that can be pronounced."""
    num_letters = random.randint(3, 8)
    if random.random() < 0.2:
        # Few different letters, so that counting meets more than ones.
        letters = random.sample(string.ascii_lowercase, random.randint(2, 8))
        return "".join(random.choices(letters, k=num_letters))
    word = random.choice(["", random.choice(_VOWELS)])
    while len(word) < num_letters:
        word += random.choice(_ONSETS) + random.choice(_VOWELS) + random.choice(_CODAS)
    return word[:num_letters]


def _make_number(random: Random) -> int:
    # Short sums teach carrying long before long ones would.
    return random.randrange(10 ** random.choice([1, 2, 3, 3, 3]))


def make_prompt(task: str, random: Random, word: str | None = None) -> str:
    """Make a prompt of a task, held out or not, about `word` or about one made up."""
    if task == "add":
        return f"add: {_make_number(random)} {_make_number(random)}"
    word = word or make_word(random)
    if task == "count":
        letters = random.choice([word, word, string.ascii_lowercase])
        return f"count: {random.choice(letters)} in {word}"
    return f"{task}: {word}"


def draw_prompt(task: str, random: Random, *, held_out: bool) -> str:
    """Make prompts of a task until one is on the wanted side of the split."""
    while is_held_out(prompt := make_prompt(task, random)) != held_out:
        pass
    return prompt
