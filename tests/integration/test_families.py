"""Every family of models says what transformers says, whatever the cluster looks like."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch

from services.router.lines import GREEDY, ChoiceOutcome
from tests.support.checkpoints import FAMILIES, VOCAB_SIZE, cached_checkpoint
from tests.support.inline import choices, lines_for, make_cluster, one_thread

NUM_STEPS = 64
CHUNK = 64
"""Token rows of a microbatch, so that the longest prompt comes in three chunks."""
NUM_PROMPT_TOKENS = (1, 17, 64, 150)
SHAPES = ((1, 1), (2, 2), (3, 3))
PAGE_SIZES = (1, 16, 64)
TOLERANCE = 1e-4


def prompts() -> list[list[int]]:
    # In this seed the likeliest tokens of all steps are at least 3e-4 apart: nothing is a tie.
    draw = random.Random(0)
    return [[draw.randrange(3, VOCAB_SIZE) for _ in range(count)] for count in NUM_PROMPT_TOKENS]


@cache
def expected(family: str) -> list[tuple[list[int], list[float]]]:
    """Each prompt's greedy tokens and their logprobs, by transformers."""
    _, model = cached_checkpoint(family)
    return [_generate(model, prompt) for prompt in prompts()]


def _generate(model, prompt: Sequence[int]) -> tuple[list[int], list[float]]:
    token_ids = torch.tensor([prompt])
    generated = model.generate(
        token_ids,
        attention_mask=torch.ones_like(token_ids),
        max_new_tokens=NUM_STEPS,
        do_sample=False,
        eos_token_id=-1,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    tokens = generated.sequences[0, len(prompt) :]
    logprobs = torch.stack(generated.logits)[:, 0].log_softmax(-1)
    return tokens.tolist(), logprobs.gather(1, tokens[:, None])[:, 0].tolist()


@cache
def generated(
    family: str, shape: tuple[int, int], page_size: int, in_flight: int | None
) -> list[ChoiceOutcome]:
    """Each prompt's choice, by a cluster; all prompts are one batch."""
    directory, _ = cached_checkpoint(family)
    cluster = make_cluster(
        directory,
        shape,
        block_size=page_size,
        max_num_batched_tokens=CHUNK,
        in_flight=in_flight,
    )
    sampling = replace(GREEDY, num_logprobs=0)
    return choices(cluster.generate(lines_for(prompts(), NUM_STEPS, sampling=sampling)))


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    with one_thread():
        yield


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_generates_the_tokens_of_transformers(family: str) -> None:
    found = generated(family, (2, 2), 16, None)

    assert [list(choice.token_ids) for choice in found] == [row for row, _ in expected(family)]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_gives_its_tokens_the_logprobs_of_transformers(family: str) -> None:
    found = generated(family, (2, 2), 16, None)

    for choice, (_, logprobs) in zip(found, expected(family), strict=True):
        assert choice.logprobs is not None
        assert choice.logprobs.chosen == pytest.approx(logprobs, abs=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("family", FAMILIES)
def test_no_shape_and_no_page_size_changes_a_token(
    family: str, shape: tuple[int, int], page_size: int
) -> None:
    found = generated(family, shape, page_size, 1)

    assert [list(choice.token_ids) for choice in found] == [row for row, _ in expected(family)]
