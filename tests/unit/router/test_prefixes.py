"""What was generated of an unfinished line outlives the router, and nothing is generated twice."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.ids import JobId
from common.messages import ForwardMicrobatch
from common.messages.entries import NUM_PROMPT, NUM_ROWS
from common.runtime.effects import SetTimer, Stop, StopRequested, TimerFired
from services.router.lines import (
    GREEDY,
    ChoicePrefix,
    LineFinished,
    LinesReady,
    PrefixGrown,
    TokenLogprobs,
)
from services.router.store.job_store import JobStore
from services.router.text.results import ResultLine
from tests.support.router import RouterBench, line, of_kind, sent, stop_after

JOB = JobId("job")


@pytest.fixture
def bench() -> RouterBench:
    bench = RouterBench(checkpoint_tokens=3)
    bench.join_all()
    return bench


def generate(bench: RouterBench, microbatch: ForwardMicrobatch, *tokens: int) -> list[PrefixGrown]:
    """Let one microbatch after the other come home; gives what is to be kept."""
    kept: list[PrefixGrown] = []
    for token in tokens:
        effects = bench.come_home(microbatch, token)
        kept += of_kind(effects, PrefixGrown)
        microbatch = (sent(effects, ForwardMicrobatch) or [microbatch])[0]
    return kept


def grown(start: int, *token_ids: int, number: int = 0, choice: int = 0) -> PrefixGrown:
    return PrefixGrown(
        job_id=JOB, number=number, choice=choice, start=start, token_ids=token_ids, logprobs=None
    )


# The state says how far a line has come


def test_a_choice_is_kept_every_so_many_tokens(bench: RouterBench) -> None:
    kept = generate(bench, bench.run(line(0, stop=stop_after(9))), 5, 6, 7, 8, 9, 10, 11)

    assert kept == [grown(0, 5, 6, 7), grown(3, 8, 9, 10)]


def test_a_line_that_ends_is_not_kept_as_a_prefix(bench: RouterBench) -> None:
    effects = generate(bench, bench.run(line(0, stop=stop_after(3))), 5, 6, 7)

    assert effects == []


def test_a_choice_that_ends_before_its_line_is_kept_whole(bench: RouterBench) -> None:
    both = bench.run(line(0, n=2, stop=stop_after(9, eos_token_ids=(4,))))

    kept = generate(bench, both, 4)

    assert kept == [grown(0, 4)]


def test_a_router_that_stops_keeps_everything(bench: RouterBench) -> None:
    microbatch = bench.run(line(0, stop=stop_after(9)))
    generate(bench, microbatch, 5)

    bench.tell(StopRequested())
    (flight,) = bench.state.scheduler.flights.live
    effects = bench.tell(TimerFired("stop"))

    assert flight
    assert of_kind(effects, PrefixGrown) == [grown(0, 5)]
    assert of_kind(effects, Stop) == [Stop("asked to stop")]


def test_a_router_that_is_to_stop_waits_for_what_is_in_flight(bench: RouterBench) -> None:
    microbatch = bench.run(line(0, stop=stop_after(9)))

    asked = bench.tell(StopRequested())
    home = bench.come_home(microbatch, 5)

    assert of_kind(asked, Stop) == []
    assert SetTimer("stop", bench.state.times.stop_timeout_s) in asked
    assert of_kind(home, PrefixGrown) == [grown(0, 5)]
    assert sent(home, ForwardMicrobatch) == []
    assert of_kind(home, Stop) == [Stop("asked to stop")]


# A line goes on from there


def test_a_line_with_a_prefix_is_computed_again_and_goes_on(bench: RouterBench) -> None:
    prefix = ChoicePrefix(choice=0, token_ids=(5, 6, 7))

    microbatch = bench.run(line(0, stop=stop_after(5), prefixes=(prefix,)))
    effects = bench.come_home(microbatch, 8)
    end = bench.come_home(sent(effects, ForwardMicrobatch)[0], 9)

    assert microbatch.token_ids.numpy().tolist() == [1, 2, 3, 5, 6, 7]
    entry = microbatch.entries.numpy()[0]
    assert (entry[NUM_ROWS], entry[NUM_PROMPT]) == (6, 3)
    (finished,) = of_kind(end, LineFinished)
    assert finished.choices[0].token_ids == (5, 6, 7, 8, 9)


def test_what_was_kept_is_not_kept_again(bench: RouterBench) -> None:
    prefix = ChoicePrefix(choice=0, token_ids=(5, 6, 7))

    kept = generate(bench, bench.run(line(0, stop=stop_after(9), prefixes=(prefix,))), 8, 9, 10, 11)

    assert kept == [grown(3, 8, 9, 10)]


def test_a_choice_that_had_ended_is_not_generated_again(bench: RouterBench) -> None:
    prefix = ChoicePrefix(choice=1, token_ids=(5, 4))
    two = line(0, n=2, stop=stop_after(5, eos_token_ids=(4,)), prefixes=(prefix,))

    microbatch = bench.run(two)
    end = bench.come_home(microbatch, 4)

    assert len(microbatch.entries.numpy()) == 1
    (finished,) = of_kind(end, LineFinished)
    assert [choice.token_ids for choice in finished.choices] == [(4,), (5, 4)]


def test_a_line_whose_choices_had_all_ended_ends_at_once(bench: RouterBench) -> None:
    prefix = ChoicePrefix(choice=0, token_ids=(5, 4))

    effects = bench.tell(
        LinesReady(lines=(line(0, stop=stop_after(5, eos_token_ids=(4,)), prefixes=(prefix,)),))
    )

    (finished,) = of_kind(effects, LineFinished)
    assert finished.choices[0].token_ids == (5, 4)
    assert not bench.state.scheduler.requests.lines


def test_logprobs_go_on_too(bench: RouterBench) -> None:
    columns = TokenLogprobs(chosen=(-0.25,), top_tokens=((),), top_logprobs=((),))
    sampling = replace(GREEDY, num_logprobs=0)
    prefix = ChoicePrefix(choice=0, token_ids=(5,), logprobs=columns)

    end = bench.come_home(bench.run(line(0, sampling=sampling, prefixes=(prefix,))), 6)

    (finished,) = of_kind(end, LineFinished)
    assert finished.choices[0].logprobs is not None
    assert finished.choices[0].logprobs.chosen == (-0.25, -0.5)


# The store has it


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    store = JobStore(tmp_path)
    yield store
    store.close()


def test_stretches_make_one_prefix_again(store: JobStore) -> None:
    store.save_prefixes([grown(0, 5, 6), grown(0, 9, choice=1), grown(0, 1, number=7)])
    store.save_prefixes([grown(2, 7)])

    found = store.prefixes(JOB, [0, 3])

    assert found == {
        0: (ChoicePrefix(choice=0, token_ids=(5, 6, 7)), ChoicePrefix(choice=1, token_ids=(9,)))
    }


def test_what_follows_a_gap_is_not_used(store: JobStore) -> None:
    store.save_prefixes([grown(0, 5), grown(4, 9)])

    assert store.prefixes(JOB, [0]) == {0: (ChoicePrefix(choice=0, token_ids=(5,)),)}


def test_logprobs_come_back_exactly_minus_infinity_included(store: JobStore) -> None:
    columns = TokenLogprobs(
        chosen=(-0.1, float("-inf")), top_tokens=((1,), (2,)), top_logprobs=((-0.1,), (-1e-30,))
    )
    first = PrefixGrown(job_id=JOB, number=0, choice=0, start=0, token_ids=(5, 6), logprobs=columns)
    store.save_prefixes([first])

    (prefix,) = store.prefixes(JOB, [0])[0]

    assert prefix.logprobs == columns


def test_a_result_takes_the_place_of_the_prefix(store: JobStore) -> None:
    store.save_prefixes([grown(0, 5), grown(0, 6, number=1)])

    store.save_results([_result(0)], 1.0)

    assert list(store.prefixes(JOB, [0, 1])) == [1]


def _result(number: int) -> ResultLine:
    return ResultLine(
        job_id=JOB, number=number, ok=True, prompt_tokens=1, generated_tokens=1, text="{}"
    )
