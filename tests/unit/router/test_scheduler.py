"""What the router decides about steps: pages, microbatches, tokens, endings and failures."""

import numpy as np
import pytest

from common.ids import MicrobatchId, RequestId, WorkerId
from common.messages import (
    ForwardMicrobatch,
    PagesReleased,
    ReleasePages,
    ReservePages,
    ReserveRefused,
    StepFailed,
    Tensor,
)
from common.messages.entries import FLAGS, NUM_PAGES, NUM_PROMPT, NUM_ROWS, SAMPLE, START
from common.runtime.effects import SetTimer, TimerFired
from services.router.lines import JobCancelled, LineFailed, LineFinished
from tests.support.router import RouterBench, homecoming, line, of_kind, sent, stop_after


@pytest.fixture
def bench() -> RouterBench:
    bench = RouterBench()
    bench.join_all(attention_workers=2)
    return bench


def refusal(asked: ReservePages, *, fits_never: bool) -> ReserveRefused:
    return ReserveRefused(
        number=asked.number,
        request_id=asked.request_id,
        needed=2,
        available=1,
        fits_never=fits_never,
        victims=(),
    )


def failed(microbatch: ForwardMicrobatch) -> StepFailed:
    return StepFailed(
        microbatch_id=microbatch.microbatch_id,
        worker_id=WorkerId("layer-0"),
        reason="broken",
        blames=None,
    )


def test_a_line_reserves_pages_for_its_prompt_and_output(bench: RouterBench) -> None:
    effects = bench.submit(line(0, [1, 2, 3], stop=stop_after(5)))

    assert [message.num_tokens for message in sent(effects, ReservePages)] == [8]


def test_a_granted_prompt_travels_whole_and_is_sampled(bench: RouterBench) -> None:
    microbatch = bench.run(line(0, [1, 2, 3]))

    entry = microbatch.entries.numpy()[0]
    assert microbatch.token_ids.numpy().tolist() == [1, 2, 3]
    assert (entry[START], entry[NUM_ROWS], entry[NUM_PAGES], entry[NUM_PROMPT]) == (0, 3, 1, 3)
    assert entry[FLAGS] == SAMPLE


def test_a_token_that_comes_home_travels_next(bench: RouterBench) -> None:
    first = bench.run(line(0, [1, 2, 3]))

    effects = bench.come_home(first, token=9)

    second = sent(effects, ForwardMicrobatch)[0]
    entry = second.entries.numpy()[0]
    assert second.token_ids.numpy().tolist() == [9]
    assert (entry[START], entry[NUM_ROWS], entry[NUM_PROMPT]) == (3, 1, 3)
    assert second.microbatch_id == first.microbatch_id + 1


def test_the_last_token_ends_the_line_and_frees_its_pages(bench: RouterBench) -> None:
    first = bench.run(line(0, stop=stop_after(2)))
    second = sent(bench.come_home(first, token=8), ForwardMicrobatch)[0]

    effects = bench.come_home(second, token=9)

    (finished,) = of_kind(effects, LineFinished)
    assert finished.choices[0].token_ids == (8, 9)
    assert finished.choices[0].finish_reason == "length"
    assert [message.request_id for message in sent(effects, ReleasePages)] == [0]


def test_an_end_of_sequence_stops_unless_min_tokens_forbids(bench: RouterBench) -> None:
    rules = stop_after(9, eos_token_ids=(7,), min_tokens=2)
    first = bench.run(line(0, stop=rules))
    second = sent(bench.come_home(first, token=7), ForwardMicrobatch)[0]

    (finished,) = of_kind(bench.come_home(second, token=7), LineFinished)

    assert finished.choices[0].finish_reason == "stop"
    assert finished.choices[0].token_ids == (7, 7)


def test_min_tokens_forbids_the_ending_tokens(bench: RouterBench) -> None:
    microbatch = bench.run(line(0, stop=stop_after(9, eos_token_ids=(7,), min_tokens=1)))

    assert microbatch.sampling.bias_tokens.numpy().tolist() == [7]
    assert microbatch.sampling.bias_values.numpy().tolist() == [-np.inf]


def test_a_long_prompt_is_cut_into_chunks_and_sampled_at_its_end() -> None:
    bench = RouterBench(max_rows=64)
    bench.join_all()
    first = bench.run(line(0, range(100)))

    second = sent(bench.come_home(first), ForwardMicrobatch)[0]

    assert [int(first.entries.numpy()[0][c]) for c in (START, NUM_ROWS, FLAGS)] == [0, 64, 0]
    assert [int(second.entries.numpy()[0][c]) for c in (START, NUM_ROWS, FLAGS)] == [64, 36, SAMPLE]


def test_at_most_the_given_number_of_microbatches_are_in_flight() -> None:
    bench = RouterBench(in_flight=2)
    bench.join_all()

    effects = bench.grant(bench.submit(*(line(number) for number in range(6))))

    assert len(sent(effects, ForwardMicrobatch)) == 2
    assert len(bench.state.scheduler.flights.live) == 2


def test_entries_are_grouped_by_their_attention_worker(bench: RouterBench) -> None:
    bench.rules = None
    first = bench.run(line(0))
    asked = bench.submit(line(1), line(2))
    messages = sent(asked, ReservePages)
    bench.grant([effect for effect in asked if effect.message is messages[0]], "attention-1")
    bench.grant([effect for effect in asked if effect.message is messages[1]], "attention-0")

    merged = sent(bench.come_home(first), ForwardMicrobatch)[0]

    shards = [(s.worker.worker_id, s.start_entry, s.stop_entry) for s in merged.route.shards]
    assert shards == [("attention-0", 0, 2), ("attention-1", 2, 3)]
    assert merged.entries.numpy()[:, 0].tolist() == [0, 2, 1]


def test_every_choice_of_a_line_must_end(bench: RouterBench) -> None:
    microbatch = bench.run(line(0, n=2, stop=stop_after(1)))
    rest = sent(bench.come_home(microbatch), ForwardMicrobatch)[0]

    (finished,) = of_kind(bench.come_home(rest), LineFinished)

    assert len(finished.choices) == 2


def test_choices_have_different_random_numbers(bench: RouterBench) -> None:
    first = bench.run(line(0, n=2))
    second = sent(bench.come_home(first), ForwardMicrobatch)[0]

    assert second.sampling.uniforms.numpy()[0] != second.sampling.uniforms.numpy()[1]


def test_a_request_that_never_fits_fails_its_line_with_the_figures(bench: RouterBench) -> None:
    asked = sent(bench.submit(line(0)), ReservePages)[0]

    (failure,) = of_kind(bench.tell(refusal(asked, fits_never=True)), LineFailed)

    assert "5 tokens" in failure.message
    assert "2 pages" in failure.message


def test_a_request_that_does_not_fit_now_waits_for_pages(bench: RouterBench) -> None:
    asked = sent(bench.submit(line(0)), ReservePages)[0]

    refused = bench.tell(refusal(asked, fits_never=False))
    freed = bench.tell(PagesReleased(number=99, request_id=RequestId(99)))

    assert sent(refused, ReservePages) == []
    assert len(sent(freed, ReservePages)) == 1


def test_an_unanswered_reservation_is_repeated_as_it_was(bench: RouterBench) -> None:
    asked = sent(bench.submit(line(0)), ReservePages)
    bench.now = 2.5

    effects = bench.tell(TimerFired("heartbeat"))

    assert sent(effects, ReservePages) == asked


def test_a_failed_microbatch_is_tried_again_under_a_new_id(bench: RouterBench) -> None:
    first = bench.run(line(0))

    again = sent(bench.tell(failed(first)), ForwardMicrobatch)[0]

    assert again.microbatch_id > first.microbatch_id
    assert again.token_ids == first.token_ids


def test_a_late_homecoming_of_a_failed_microbatch_changes_nothing(bench: RouterBench) -> None:
    first = bench.run(line(0))
    bench.tell(failed(first))

    effects = bench.come_home(first)

    assert effects == []


def test_a_homecoming_of_other_entries_fails_the_microbatch(bench: RouterBench) -> None:
    microbatch = bench.run(line(0))
    none = np.zeros(0, np.float32)

    effects = bench.come_home(
        microbatch,
        tokens=Tensor.of(none.astype(np.int32)),
        finite=Tensor.of(none.astype(np.int8)),
        logprobs=Tensor.of(none),
    )

    again = sent(effects, ForwardMicrobatch)[0]
    assert again.token_ids == microbatch.token_ids


def test_after_a_refusal_only_the_oldest_asks(bench: RouterBench) -> None:
    asked = sent(bench.submit(line(0), line(1), line(2)), ReservePages)
    for message in asked:
        bench.tell(refusal(message, fits_never=False))

    freed = bench.tell(PagesReleased(number=99, request_id=RequestId(99)))

    assert [message.request_id for message in sent(freed, ReservePages)] == [0]


def test_a_grant_lets_more_ask_again(bench: RouterBench) -> None:
    asked = sent(bench.submit(line(0), line(1), line(2)), ReservePages)
    for message in asked:
        bench.tell(refusal(message, fits_never=False))
    freed = bench.tell(PagesReleased(number=99, request_id=RequestId(99)))

    granted = bench.grant(freed)

    assert [message.request_id for message in sent(granted, ReservePages)] == [1, 2]


def test_a_deadline_fails_a_microbatch(bench: RouterBench) -> None:
    effects = bench.grant(bench.submit(line(0)))
    (timer,) = of_kind(effects, SetTimer)

    again = bench.tell(TimerFired(timer.key))

    assert len(sent(again, ForwardMicrobatch)) == 1
    (longer,) = of_kind(again, SetTimer)
    assert longer.at_s == 2 * timer.at_s


def test_a_request_that_failed_twice_travels_alone(bench: RouterBench) -> None:
    first = bench.run(line(0))
    bench.grant(bench.submit(line(1)))
    merged = sent(bench.tell(failed(first)), ForwardMicrobatch)[0]

    alone = sent(bench.tell(failed(merged)), ForwardMicrobatch)[0]

    assert merged.entries.shape[0] == 2
    assert alone.entries.numpy()[:, 0].tolist() == [0]


def test_a_request_that_failed_four_times_ends_as_an_error_line(bench: RouterBench) -> None:
    microbatch = bench.run(line(0))
    for _ in range(3):
        microbatch = sent(bench.tell(failed(microbatch)), ForwardMicrobatch)[0]

    effects = bench.tell(failed(microbatch))

    (failure,) = of_kind(effects, LineFailed)
    assert "4 failed microbatches" in failure.message
    assert len(sent(effects, ReleasePages)) == 1


def test_logits_that_are_not_finite_end_the_line(bench: RouterBench) -> None:
    microbatch = bench.run(line(0))

    effects = bench.come_home(microbatch, finite=Tensor.of(np.zeros(1, np.int8)))

    (failure,) = of_kind(effects, LineFailed)
    assert failure.code == "logits_not_finite"
    assert len(sent(effects, ReleasePages)) == 1


def test_pages_of_a_cancelled_request_return_when_its_microbatch_is_home(
    bench: RouterBench,
) -> None:
    microbatch = bench.run(line(0))

    cancelled = bench.tell(JobCancelled(job_id=line(0).job_id))
    home = bench.come_home(microbatch)

    assert sent(cancelled, ReleasePages) == []
    assert len(sent(home, ReleasePages)) == 1
    assert of_kind(home, LineFinished) == []


def test_oldest_live_names_the_oldest_microbatch() -> None:
    bench = RouterBench(in_flight=2)
    bench.join_all()
    effects = bench.grant(bench.submit(*(line(number) for number in range(4))))
    first, second = sent(effects, ForwardMicrobatch)

    third = sent(bench.come_home(first), ForwardMicrobatch)[0]

    assert second.oldest_live == first.microbatch_id
    assert third.oldest_live == second.microbatch_id


def test_logprobs_come_home_with_the_tokens(bench: RouterBench) -> None:
    sampling = line(0).sampling
    wanting = type(sampling)(**{**_fields(sampling), "num_logprobs": 1})
    microbatch = bench.run(line(0, sampling=wanting, stop=stop_after(1)))
    message = homecoming(
        microbatch,
        top_tokens=Tensor.of(np.array([[5, 6]], np.int32)),
        top_logprobs=Tensor.of(np.array([[-0.25, -0.75]], np.float32)),
    )

    (finished,) = of_kind(bench.tell(message), LineFinished)

    logprobs = finished.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.chosen == (-0.5,)
    assert logprobs.top_tokens == ((5,),)
    assert logprobs.top_logprobs == ((-0.25,),)


def test_microbatch_ids_carry_the_term(bench: RouterBench) -> None:
    microbatch = bench.run(line(0))

    assert microbatch.microbatch_id == MicrobatchId(1 << 40)


def _fields(record: object) -> dict[str, object]:
    return {name: getattr(record, name) for name in type(record).__slots__}
