"""How fast a worker attends."""

import numpy as np
import pytest

from common.messages.entries import NUM_ROWS, START
from services.attention_worker.speed import Speed


def entries(*spans: tuple[int, int]) -> np.ndarray:
    made = np.zeros((len(spans), 6), np.int32)
    made[:, (START, NUM_ROWS)] = spans
    return made


def test_nothing_is_known_before_the_first_shard() -> None:
    assert Speed().tokens_per_s == 0.0


def test_tokens_attended_to_are_counted_over_the_engines_time() -> None:
    speed = Speed()

    speed.note(entries((99, 1), (49, 1)), 0.5)

    assert speed.tokens_per_s == 300.0


def test_shards_with_rows_of_a_prompt_say_nothing() -> None:
    speed = Speed()

    speed.note(entries((99, 1), (0, 64)), 0.5)

    assert speed.tokens_per_s == 0.0


def test_it_follows_a_worker_that_becomes_slower() -> None:
    speed = Speed()
    for seconds in (1.0,) * 500 + (2.0,) * 1000:
        speed.note(entries((99, 1)), seconds)

    assert speed.tokens_per_s == pytest.approx(50, rel=0.01)
