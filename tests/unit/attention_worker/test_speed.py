"""How fast a worker attends."""

from math import inf

import numpy as np
import pytest

from common.messages import AttentionRequest
from common.messages.entries import NUM_ROWS, START
from services.attention_worker.speed import Speed
from tests.support.step import attention_request


def shard(*spans: tuple[int, int], microbatch_id: int = 1, layer: int = 0) -> AttentionRequest:
    """Ask for entries of which the starts and the rows are given."""
    made = np.zeros((len(spans), 6), np.int32)
    made[:, (START, NUM_ROWS)] = spans
    return attention_request(microbatch_id, made.tolist(), [0], layer=layer)


def test_nothing_is_known_before_the_first_shard() -> None:
    assert Speed().tokens_per_s == 0.0


def test_tokens_attended_to_are_counted_over_the_engines_time() -> None:
    speed = Speed()

    speed.note(shard((99, 1), (49, 1)), 0.5)

    assert speed.tokens_per_s == 300.0


def test_shards_with_rows_of_a_prompt_say_nothing() -> None:
    speed = Speed()

    speed.note(shard((99, 1), (0, 64)), 0.5)

    assert speed.tokens_per_s == 0.0


def test_it_follows_a_worker_that_becomes_slower() -> None:
    speed = Speed()
    for seconds in (1.0,) * 500 + (2.0,) * 1000:
        speed.note(shard((99, 1)), seconds)

    assert speed.tokens_per_s == pytest.approx(50, rel=0.01)


def test_a_shard_is_expected_to_take_as_long_as_others_of_its_tokens() -> None:
    speed = Speed()
    unknown = speed.expected_s(shard((99, 1)))
    speed.note(shard((99, 1)), 0.5)

    expected = [
        speed.expected_s(shard((99, 1), layer=1)),
        speed.expected_s(shard((199, 1), (199, 1), microbatch_id=2)),
        speed.expected_s(shard((0, 64), microbatch_id=3)),
    ]

    assert unknown == inf
    assert expected == [0.5, 2.0, inf]
