"""What the router decides about calls: before batch lines, and token by token."""

import dataclasses

import pytest

from common.ids import JobId
from common.messages import ForwardMicrobatch
from services.router.lines import (
    GREEDY,
    LineFinished,
    LinesReady,
    Streaming,
    TokenLogprobs,
    TokenStreamed,
)
from services.router.requests import FIRST_BATCH_ID
from tests.support.router import RouterBench, line, of_kind, sent


@pytest.fixture
def bench() -> RouterBench:
    bench = RouterBench()
    bench.join_all()
    return bench


def test_calls_go_before_batch_lines_that_came_first() -> None:
    bench = RouterBench()
    bench.state.scheduler.requests.next_batch_id = FIRST_BATCH_ID
    bench.submit(line(0), line(1))
    call = line(0, job_id=JobId("call"))
    bench.tell(LinesReady(lines=(call,), interactive=True))

    bench.join_all()

    waited = [request.request_id for request in bench.state.scheduler.requests.all()]
    assert waited == [0, FIRST_BATCH_ID, FIRST_BATCH_ID + 1]


def test_a_streamed_line_tells_each_token_and_the_outcome_with_the_last(bench: RouterBench) -> None:
    first = bench.run(line(0, streaming=Streaming(include_usage=False)))

    one = bench.come_home(first, token=7)
    two = bench.come_home(sent(one, ForwardMicrobatch)[0], token=8)

    told = [*of_kind(one, TokenStreamed), *of_kind(two, TokenStreamed)]
    assert [(event.token_id, event.choice) for event in told] == [(7, 0), (8, 0)]
    assert told[0].ended is None
    assert of_kind(two, LineFinished)[0].choices == (told[1].ended,)


def test_a_streamed_token_brings_its_own_logprobs(bench: RouterBench) -> None:
    bench.join_all()
    sampling = dataclasses.replace(GREEDY, num_logprobs=0)
    first = bench.run(line(0, streaming=Streaming(include_usage=False), sampling=sampling))

    one = bench.come_home(first)
    two = bench.come_home(sent(one, ForwardMicrobatch)[0])

    (told,) = of_kind(two, TokenStreamed)
    assert told.logprobs == TokenLogprobs(chosen=(-0.5,), top_tokens=((),), top_logprobs=((),))
