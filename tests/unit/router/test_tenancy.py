"""Who holds pages: growth ahead of need, preemption, common prefixes, and what is given back."""

import numpy as np
import pytest

from common.ids import Epoch, PageId, RequestId, WorkerId
from common.messages import (
    ForwardMicrobatch,
    PagesFilled,
    PagesReleased,
    PagesReserved,
    PrefixAwaited,
    ReleasePages,
    ReservePages,
    ReserveRefused,
    StepFailed,
    Tensor,
)
from common.messages.entries import NUM_PAGES, START
from common.messages.kv import HASH_BYTES
from services.router.lines import JobCancelled, LineFinished
from services.router.page_rules import PageRules
from services.router.requests import Standing
from tests.support.router import RouterBench, line, of_kind, sent, stop_after

LONG = stop_after(60)
PROMPT = tuple(range(1, 10))
"""Two full pages and a token."""
FOUR = PROMPT[:4]
"""With five pages it asks for more after its first step, and starves after 16 more."""


@pytest.fixture
def bench() -> RouterBench:
    bench = RouterBench()
    bench.join_all()
    return bench


def granted(asked: ReservePages, pages: range, num_found: int = 0) -> PagesReserved:
    return PagesReserved(
        number=asked.number,
        request_id=asked.request_id,
        worker_id=WorkerId("attention-0"),
        epoch=Epoch(1),
        new_pages=tuple(map(PageId, pages)),
        num_found=num_found,
    )


def refused(asked: ReservePages, *victims: int, fits_never: bool = False) -> ReserveRefused:
    return ReserveRefused(
        number=asked.number,
        request_id=asked.request_id,
        needed=1,
        available=0,
        fits_never=fits_never,
        victims=tuple(map(RequestId, victims)),
    )


def awaited(asked: ReservePages, leader: int, num_pages: int) -> PrefixAwaited:
    return PrefixAwaited(
        number=asked.number,
        request_id=asked.request_id,
        leader=RequestId(leader),
        num_pages=num_pages,
    )


def standing(bench: RouterBench, request_id: int) -> Standing:
    request = bench.state.scheduler.requests.find(RequestId(request_id))
    assert request is not None
    return request.standing


def decode(bench: RouterBench, microbatch: ForwardMicrobatch, num_steps: int) -> list[object]:
    """Let microbatches come home so often; give the effects of the last time."""
    effects: list[object] = []
    for _ in range(num_steps):
        effects = bench.come_home(microbatch)
        microbatch = (sent(effects, ForwardMicrobatch) or [microbatch])[0]
    return effects


def hungry(bench: RouterBench) -> tuple[ForwardMicrobatch, ReservePages]:
    """Let request 0 grow beside the younger request 1, both in flight."""
    lines = line(0, FOUR, stop=LONG), line(1, stop=LONG)
    asked = sent(bench.submit(*lines), ReservePages)
    effects = bench.tell(granted(asked[0], range(5)))
    (alone,) = sent(effects, ForwardMicrobatch)
    bench.tell(granted(asked[1], range(5, 11)))
    effects = bench.come_home(alone)
    (growth,) = sent(effects, ReservePages)
    (microbatch,) = sent(effects, ForwardMicrobatch)
    return microbatch, growth


# Moving in


def test_a_request_asks_for_its_prompt_and_a_little_more(bench: RouterBench) -> None:
    (asked,) = sent(bench.submit(line(0, stop=LONG)), ReservePages)

    assert asked.moves_in
    assert (asked.num_tokens, asked.expected_tokens, asked.max_tokens) == (3 + 16, 63, 63)


def test_guaranteed_reserves_up_to_the_limit() -> None:
    bench = RouterBench(pages=PageRules(policy="guaranteed"))
    bench.join_all()

    (asked,) = sent(bench.submit(line(0, stop=LONG)), ReservePages)

    assert (asked.num_tokens, asked.max_tokens) == (63, 63)


def test_what_requests_use_is_learnt(bench: RouterBench) -> None:
    stop = stop_after(40, eos_token_ids=(7,))
    for number in range(8):
        bench.come_home(bench.run(line(number, stop=stop)))

    (asked,) = sent(bench.submit(line(9, stop=stop)), ReservePages)

    assert asked.expected_tokens == asked.num_tokens == 3 + 16


# Growing


def test_growth_is_asked_for_ahead_of_need(bench: RouterBench) -> None:
    asked = sent(bench.submit(line(0, FOUR, stop=LONG)), ReservePages)[0]
    (first,) = sent(bench.tell(granted(asked, range(5))), ForwardMicrobatch)

    effects = bench.come_home(first)

    (growth,) = sent(effects, ReservePages)
    assert (growth.moves_in, growth.num_tokens) == (False, 21)
    assert len(sent(effects, ForwardMicrobatch)) == 1


def test_a_grant_extends_the_table_while_the_request_travels(bench: RouterBench) -> None:
    microbatch, growth = hungry(bench)

    bench.tell(granted(growth, range(20, 30)))

    assert standing(bench, 0) is Standing.IN_FLIGHT
    effects = decode(bench, microbatch, 16)
    later = sent(effects, ForwardMicrobatch)[0].entries.numpy()[0]
    assert (later[START], later[NUM_PAGES]) == (20, 6)


def test_without_a_slot_a_request_stays_behind_and_keeps_its_pages(bench: RouterBench) -> None:
    microbatch, growth = hungry(bench)
    bench.tell(refused(growth))

    effects = decode(bench, microbatch, 16)

    assert standing(bench, 0) is Standing.STARVING
    assert sent(effects, ReleasePages) == []
    assert [int(row[0]) for row in sent(effects, ForwardMicrobatch)[0].entries.numpy()] == [1]


def test_a_starving_request_goes_on_with_its_grant(bench: RouterBench) -> None:
    microbatch, growth = hungry(bench)
    bench.tell(refused(growth))
    decode(bench, microbatch, 16)
    freed = bench.tell(PagesReleased(number=99, request_id=RequestId(99)))
    (again,) = sent(freed, ReservePages)

    bench.tell(granted(again, range(40, 45)))

    assert standing(bench, 0) is Standing.READY


# Making room


def test_a_victim_in_flight_makes_room_when_it_is_home(bench: RouterBench) -> None:
    microbatch, growth = hungry(bench)

    at_once = bench.tell(refused(growth, 1))
    at_home = bench.come_home(microbatch)

    assert sent(at_once, ReleasePages) == []
    assert [release.request_id for release in sent(at_home, ReleasePages)] == [1]


def test_a_victim_keeps_its_tokens_and_its_place_in_line(bench: RouterBench) -> None:
    microbatch, growth = hungry(bench)
    bench.submit(line(2))
    bench.tell(refused(growth, 1))

    effects = bench.come_home(microbatch, token=5)

    (again,) = [each for each in sent(effects, ReservePages) if each.request_id == 1]
    assert (again.moves_in, again.num_tokens) == (True, 3 + 1 + 16)
    victim = bench.state.scheduler.requests.find(RequestId(1))
    assert victim is not None
    assert victim.output_ids() == [5]


def test_the_asker_asks_again_when_the_victims_pages_are_back(bench: RouterBench) -> None:
    microbatch, growth = hungry(bench)
    bench.tell(refused(growth, 1))
    (release,) = sent(bench.come_home(microbatch), ReleasePages)

    effects = bench.tell(PagesReleased(number=release.number, request_id=release.request_id))

    assert 0 in [asked.request_id for asked in sent(effects, ReservePages)]


def test_a_victim_that_ends_on_its_way_home_is_no_loss(bench: RouterBench) -> None:
    asked = sent(bench.submit(line(0, FOUR, stop=LONG), line(1, stop=stop_after(1))), ReservePages)
    (alone,) = sent(bench.tell(granted(asked[0], range(5))), ForwardMicrobatch)
    bench.tell(granted(asked[1], range(5, 6)))
    effects = bench.come_home(alone)
    bench.tell(refused(sent(effects, ReservePages)[0], 1))

    home = bench.come_home(sent(effects, ForwardMicrobatch)[0])

    assert len(of_kind(home, LineFinished)) == 1
    assert bench.state.scheduler.tenancy.totals.preemptions == 0


def test_a_victim_whose_microbatch_fails_makes_room_then(bench: RouterBench) -> None:
    microbatch, growth = hungry(bench)
    bench.tell(refused(growth, 1))

    failed = bench.tell(
        StepFailed(
            microbatch_id=microbatch.microbatch_id,
            worker_id=WorkerId("layer-0"),
            reason="fate",
            blames=None,
        )
    )

    assert [release.request_id for release in sent(failed, ReleasePages)] == [1]


def test_recomputed_tokens_are_counted_by_their_cause(bench: RouterBench) -> None:
    microbatch, growth = hungry(bench)
    bench.tell(refused(growth, 1))
    effects = bench.come_home(microbatch)
    (again,) = [each for each in sent(effects, ReservePages) if each.request_id == 1]

    bench.tell(granted(again, range(30, 36)))

    totals = bench.state.scheduler.tenancy.totals
    assert (totals.preemptions, totals.recomputed_tokens) == (1, {"preempted": 3})


def test_an_answer_to_what_was_asked_before_is_void(bench: RouterBench) -> None:
    microbatch, growth = hungry(bench)
    bench.tell(refused(growth, 1))
    home = bench.come_home(microbatch)
    (release,) = sent(home, ReleasePages)
    (again,) = [each for each in sent(home, ReservePages) if each.request_id == 1]

    bench.tell(PagesReleased(number=release.number, request_id=release.request_id))

    assert standing(bench, 1) is Standing.RESERVING
    bench.tell(granted(again, range(30, 36)))
    assert standing(bench, 1) is not Standing.RESERVING


# Common prefixes


def test_a_request_names_the_pages_that_it_may_find(bench: RouterBench) -> None:
    (exact,) = sent(bench.submit(line(0, PROMPT[:8])), ReservePages)
    (longer,) = sent(bench.submit(line(1, PROMPT)), ReservePages)

    # The last token must be computed, or there is nothing to sample from.
    assert len(exact.page_hashes) == HASH_BYTES
    assert longer.page_hashes[:HASH_BYTES] == exact.page_hashes
    assert len(longer.page_hashes) == 2 * HASH_BYTES


def test_nothing_is_shared_if_it_is_switched_off() -> None:
    bench = RouterBench(pages=PageRules(share_prefixes=False))
    bench.join_all()

    effects = bench.submit(line(0, PROMPT))
    home = bench.come_home(sent(bench.grant(effects), ForwardMicrobatch)[0])

    assert sent(effects, ReservePages)[0].page_hashes == b""
    assert sent(home, PagesFilled) == []


def test_pages_that_were_found_are_not_computed(bench: RouterBench) -> None:
    (asked,) = sent(bench.submit(line(0, PROMPT)), ReservePages)

    (microbatch,) = sent(bench.tell(granted(asked, range(3), 2)), ForwardMicrobatch)

    assert microbatch.token_ids.numpy().tolist() == [9]
    assert microbatch.page_table.numpy().tolist() == [0, 1, 2]


def test_full_pages_are_told_when_they_are_home(bench: RouterBench) -> None:
    asked = bench.submit(line(0, PROMPT))
    (microbatch,) = sent(bench.grant(asked), ForwardMicrobatch)

    (told,) = sent(bench.come_home(microbatch), PagesFilled)

    (filled,) = told.filled
    assert (filled.request_id, filled.first_page) == (0, 0)
    assert filled.page_hashes == sent(asked, ReservePages)[0].page_hashes


def test_generated_pages_are_told_too_before_they_are_given_back(bench: RouterBench) -> None:
    microbatch = bench.run(line(0, stop=stop_after(6)))

    effects = decode(bench, microbatch, 6)

    told, _ = sent(effects, PagesFilled | ReleasePages)
    assert told.filled[0].first_page == 1


def test_equal_tokens_computed_otherwise_have_another_hash(bench: RouterBench) -> None:
    as_prompt = sent(bench.submit(line(0, (1, 2, 3, 7, 7), stop=LONG)), ReservePages)[0].page_hashes
    microbatch = sent(bench.grant(bench.submit(line(1, stop=LONG))), ForwardMicrobatch)[0]

    effects = decode(bench, microbatch, 2)

    (told,) = sent(effects, PagesFilled)
    assert told.filled[0].page_hashes != as_prompt


def test_a_follower_asks_again_when_the_pages_are_sealed(bench: RouterBench) -> None:
    asked = sent(bench.submit(line(0, PROMPT), line(1, PROMPT)), ReservePages)
    (microbatch,) = sent(bench.tell(granted(asked[0], range(7))), ForwardMicrobatch)
    bench.tell(awaited(asked[1], 0, 2))
    assert standing(bench, 1) is Standing.FOLLOWING

    effects = bench.come_home(microbatch)

    assert [each.request_id for each in sent(effects, ReservePages)] == [1]
    assert isinstance(sent(effects, PagesFilled | ReservePages)[0], PagesFilled)


def test_a_follower_takes_the_place_of_a_leader_that_is_gone(bench: RouterBench) -> None:
    other = line(5, PROMPT)
    asked = sent(bench.submit(line(0, PROMPT), other), ReservePages)
    (microbatch,) = sent(bench.tell(granted(asked[0], range(7))), ForwardMicrobatch)
    bench.tell(awaited(asked[1], 0, 2))

    effects = bench.come_home(microbatch, finite=Tensor.of(np.zeros(1, np.int8)))

    assert [each.request_id for each in sent(effects, ReservePages)] == [1]


def test_who_would_follow_somebody_that_has_ended_asks_at_once(bench: RouterBench) -> None:
    asked = sent(bench.submit(line(0, PROMPT)), ReservePages)

    effects = bench.tell(awaited(asked[0], 77, 2))

    assert [each.request_id for each in sent(effects, ReservePages)] == [0]


def test_a_follower_can_be_cancelled(bench: RouterBench) -> None:
    asked = sent(bench.submit(line(0, PROMPT), line(1, PROMPT)), ReservePages)
    (microbatch,) = sent(bench.tell(granted(asked[0], range(7))), ForwardMicrobatch)
    bench.tell(awaited(asked[1], 0, 2))

    bench.tell(JobCancelled(job_id=line(0).job_id))
    effects = bench.come_home(microbatch)

    assert [release.request_id for release in sent(effects, ReleasePages)] == [0]
    assert sent(effects, ReservePages) == []


def test_a_refusal_from_before_a_pool_came_keeps_nobody_waiting(bench: RouterBench) -> None:
    (asked,) = sent(bench.submit(line(0)), ReservePages)
    bench.join("attention-1", "attention_worker")

    effects = bench.tell(refused(asked))

    assert len(sent(effects, ReservePages)) == 1
