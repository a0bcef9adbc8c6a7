"""The shipped model's tasks: right answers, and a split that keeps training and demo apart."""

from random import Random

import pytest

from examples.tiny.tasks import (
    LISTED_WORDS,
    SOLVERS,
    check,
    draw_prompt,
    is_held_out,
    make_word,
    solve,
    task_of,
)


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("add: 123 456", "579"),
        ("add: 999 999", "1998"),
        ("count: a in banana", "3"),
        ("count: z in banana", "0"),
        ("reverse: lantern", "nretnal"),
        ("sort: banana", "aaabnn"),
        ("upper: willow", "WILLOW"),
    ],
)
def test_a_program_answers_every_task(prompt: str, answer: str) -> None:
    assert solve(prompt) == answer


@pytest.mark.parametrize("answer", ["", "nretna", "nretnal ", "nretnal\n", "NRETNAL"])
def test_an_answer_that_is_not_exact_is_wrong(answer: str) -> None:
    assert not check("reverse: lantern", answer)


@pytest.mark.parametrize("task", SOLVERS)
def test_a_drawn_prompt_is_on_the_wanted_side_of_the_split(task: str) -> None:
    random = Random(0)

    held_out = [draw_prompt(task, random, held_out=True) for _ in range(20)]
    trained_on = [draw_prompt(task, random, held_out=False) for _ in range(20)]

    assert all(map(is_held_out, held_out))
    assert not any(map(is_held_out, trained_on))
    assert {task_of(prompt) for prompt in held_out + trained_on} == {task}


@pytest.mark.parametrize("form", ["count: a in {}", "reverse: {}", "sort: {}", "upper: {}"])
def test_a_listed_word_is_held_out_of_every_task(form: str) -> None:
    assert all(is_held_out(form.format(word)) for word in LISTED_WORDS)


def test_made_up_words_have_three_to_eight_small_letters() -> None:
    random = Random(0)

    words = [make_word(random) for _ in range(500)]

    assert {len(word) for word in words} == set(range(3, 9))
    assert all(word.isascii() and word.isalpha() and word.islower() for word in words)


def test_the_same_seed_makes_the_same_prompts() -> None:
    first, second = (
        [draw_prompt(task, Random(7), held_out=False) for task in SOLVERS] for _ in range(2)
    )

    assert first == second
