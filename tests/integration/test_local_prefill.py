"""Where a chunk attends to itself changes nothing but the way."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from common.ids import WorkerId
from common.messages import AttentionRequest, AttentionResult, Message, WriteRequest, Written
from services.admin.inline import attention_worker
from services.admin.inline_bus import MESSAGE_S
from services.router.lines import GREEDY, ChoiceOutcome, ParsedLine
from tests.support.checkpoints import VOCAB_SIZE, cached_checkpoint
from tests.support.faults import Action, Script, arrives, dies
from tests.support.inline import choices, lines_for, make_cluster, one_thread

FAMILIES = ("llama3", "qwen25")
"""The second has windows shorter than its prompts."""
CHUNKS = (64, 128, 200, 2048)
TOLERANCE = 1e-5


def lines() -> list[ParsedLine]:
    draw = random.Random(3)
    sizes = (1, 2, 63, 64, 65, 150, 260)
    prompts = [[draw.randrange(3, VOCAB_SIZE) for _ in range(size)] for size in sizes]
    return lines_for(prompts, 8, sampling=replace(GREEDY, num_logprobs=0))


def generated(
    family: str, actions: Mapping[tuple[type[Message], int], Action] | None = None, **changes: Any
) -> list[ChoiceOutcome]:
    cluster = make_cluster(cached_checkpoint(family)[0], (2, 2), **changes)
    script = cluster.bus.fate = Script(cluster, actions or {})
    found = choices(cluster.generate(lines()))
    assert not script.left, "the script was not played to its end"
    return found


def bytes_between_the_tiers(prefill_attention: str) -> int:
    """Bytes of a job whose prompts come in one chunk each, one token generated."""
    cluster = make_cluster(
        cached_checkpoint("llama3")[0],
        max_num_batched_tokens=2048,
        prefill_attention=prefill_attention,
    )
    total = 0

    def weigh(sender: WorkerId, receiver: WorkerId, message: Message) -> Sequence[float]:
        nonlocal total
        match message:
            case AttentionRequest(qkv=tensor) | WriteRequest(kv=tensor):
                total += tensor.size_bytes
            case AttentionResult(output=tensor):
                total += tensor.size_bytes
        return (MESSAGE_S,)

    cluster.bus.fate = weigh
    # Prompts that differ from the start: shared pages would be computed once.
    prompts = [[first, *range(3, 102)] for first in range(3, 7)]
    cluster.generate(lines_for(prompts, 1))
    return total


@cache
def on_tier_2(family: str) -> list[ChoiceOutcome]:
    return generated(family, prefill_attention="tier2")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    with one_thread():
        yield


@pytest.mark.slow
@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_that_attend_on_tier_1_give_the_same_logprobs(family: str, chunk: int) -> None:
    found = generated(family, prefill_attention="tier1", max_num_batched_tokens=chunk)

    for choice, expected in zip(found, on_tier_2(family), strict=True):
        assert choice.token_ids == expected.token_ids
        assert choice.logprobs.chosen == pytest.approx(expected.logprobs.chosen, abs=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize(
    "actions",
    [
        {(WriteRequest, 2): arrives()},
        {(Written, 2): arrives()},
        {(Written, 5): arrives(MESSAGE_S, 0.03)},
        {(WriteRequest, 3): arrives(0.03)},
        {(WriteRequest, 4): dies(attention_worker(1))},
    ],
    ids=["request lost", "answer lost", "answer doubled", "request overtaken", "worker dies"],
)
def test_a_microbatch_comes_home_only_when_all_is_written(actions: Any) -> None:
    found = generated("llama3", actions, prefill_attention="tier1", max_num_batched_tokens=128)

    expected = on_tier_2("llama3")
    assert [choice.token_ids for choice in found] == [choice.token_ids for choice in expected]


def test_of_prompts_in_one_chunk_only_keys_and_values_travel() -> None:
    ratio = bytes_between_the_tiers("tier1") / bytes_between_the_tiers("tier2")

    # 4 query heads and 2 key-value heads: q, k, v and o are 12 heads, k and v are 4 of them.
    assert ratio == pytest.approx(1 / 3)
