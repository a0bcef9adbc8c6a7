"""The KV manager is lost: requests go on with the pages they have, and its next life is told of them."""

from typing import Any

import pytest

from common.ids import Epoch, WorkerId
from common.messages import (
    ForwardMicrobatch,
    Message,
    PagesFilled,
    PagesReserved,
    ReleasePages,
    ReservePages,
    Tables,
    TablesWanted,
    WorkerJoined,
    WorkerLeaving,
    WorkerReady,
)
from common.runtime.effects import Send
from services.router.drains import DrainWorker
from services.router.lines import JobCancelled
from tests.support.router import (
    PAGE_SIZE,
    RouterBench,
    hop,
    line,
    link_lost,
    register,
    sent,
    stop_after,
)

NEXT = hop("kv", 2)
WANTED = TablesWanted(worker_id=NEXT.worker_id, epoch=NEXT.epoch)


@pytest.fixture
def bench() -> RouterBench:
    bench = RouterBench()
    bench.join_all()
    return bench


def long_line(number: int, **changes: Any) -> Any:
    return line(number, stop=stop_after(40), **changes)


def begin(bench: RouterBench) -> list[Any]:
    """Let the next manager register, and ask."""
    bench.tell(register("kv", "kv_manager", epoch=2))
    return bench.tell(WANTED)


def be_ready(bench: RouterBench) -> list[Any]:
    return bench.tell(
        WorkerReady(worker_id=NEXT.worker_id, epoch=NEXT.epoch, num_pages=0, layers=None)
    )


def said(effects: list[Any]) -> list[Message]:
    return [each.message for each in effects if isinstance(each, Send) and each.to == NEXT]


def test_what_is_under_way_comes_home_and_leaves_again_without_a_manager(
    bench: RouterBench,
) -> None:
    first = bench.run(long_line(0))

    lost = bench.tell(link_lost("kv"))
    home = bench.come_home(first)

    assert sent(lost, ForwardMicrobatch) == []
    [again] = sent(home, ForwardMicrobatch)
    assert again.token_ids.numpy().tolist() == [7]


def test_the_next_manager_is_told_the_pools_and_then_who_holds_what(bench: RouterBench) -> None:
    microbatch = bench.run(long_line(0))
    bench.tell(link_lost("kv"))
    bench.come_home(microbatch)

    joined, told = said(begin(bench))

    assert isinstance(joined, WorkerJoined)
    assert isinstance(told, Tables)
    [table] = told.tables
    held = bench.state.scheduler.requests.all()[0]
    assert (table.worker_id, table.epoch) == ("attention-0", 1)
    assert table.pages == tuple(held.pages.tolist())
    assert (table.num_sealed, len(table.page_hashes)) == (0, 0)
    assert table.num_tokens == 4 <= len(table.pages) * PAGE_SIZE


def test_sealed_pages_are_told_with_their_content(bench: RouterBench) -> None:
    bench.come_home(bench.run(long_line(0, prompt=tuple(range(1, 10)))))
    bench.tell(link_lost("kv"))

    *_, told = said(begin(bench))

    assert isinstance(told, Tables)
    assert (told.tables[0].num_sealed, len(told.tables[0].page_hashes)) == (2, 32)


def test_who_ended_while_a_microbatch_carries_it_still_holds_its_pages(bench: RouterBench) -> None:
    microbatch = bench.run(long_line(0))
    bench.tell(link_lost("kv"))
    bench.tell(JobCancelled(job_id=line(0).job_id))

    *_, told = said(begin(bench))
    be_ready(bench)
    home = bench.come_home(microbatch)

    assert isinstance(told, Tables)
    assert len(told.tables) == 1
    assert [type(each) for each in said(home)] == [ReleasePages]


def test_nobody_asks_for_pages_before_the_next_manager_is_ready(bench: RouterBench) -> None:
    bench.tell(link_lost("kv"))

    early = [*bench.submit(line(0)), *begin(bench)]
    ready = be_ready(bench)

    assert sent(early, ReservePages) == []
    assert len(sent(ready, ReservePages)) == 1


def test_who_waited_for_an_answer_asks_the_next_manager_and_the_late_answer_is_void(
    bench: RouterBench,
) -> None:
    [asked] = sent(bench.submit(line(0)), ReservePages)
    bench.tell(link_lost("kv"))
    late = PagesReserved(
        number=asked.number,
        request_id=asked.request_id,
        worker_id=WorkerId("attention-0"),
        epoch=Epoch(1),
        new_pages=(),
        num_found=0,
    )

    void = bench.tell(late)
    begin(bench)
    [again] = sent(be_ready(bench), ReservePages)

    assert sent(void, ForwardMicrobatch) == []
    assert again.number > asked.number
    assert again.moves_in


def test_who_was_about_to_grow_asks_the_next_manager(bench: RouterBench) -> None:
    microbatch = bench.run(long_line(0))
    while not (asked := sent(home := bench.come_home(microbatch), ReservePages)):
        [microbatch] = sent(home, ForwardMicrobatch)

    bench.tell(link_lost("kv"))
    begin(bench)
    [again] = sent(be_ready(bench), ReservePages)

    assert again.request_id == asked[0].request_id
    assert again.number > asked[0].number
    assert not again.moves_in


def test_what_was_sealed_after_the_tables_is_told_when_the_manager_is_ready(
    bench: RouterBench,
) -> None:
    microbatch = bench.run(long_line(0, prompt=tuple(range(1, 10))))
    bench.tell(link_lost("kv"))
    begin(bench)
    bench.come_home(microbatch)

    [told] = sent(be_ready(bench), PagesFilled)

    assert (told.filled[0].first_page, len(told.filled[0].page_hashes)) == (0, 32)


def test_a_worker_that_leaves_is_told_as_one_that_leaves(bench: RouterBench) -> None:
    bench.join("attention-1", "attention_worker")
    bench.tell(DrainWorker(worker_id=WorkerId("attention-0"), deadline_s=60.0))
    bench.tell(link_lost("kv"))

    told = said(begin(bench))

    assert [type(each) for each in told] == [WorkerJoined, WorkerJoined, WorkerLeaving, Tables]


def test_tables_are_for_the_manager_alone_and_only_before_it_is_ready(bench: RouterBench) -> None:
    stranger = hop("attention-0")

    for_another = bench.tell(TablesWanted(worker_id=stranger.worker_id, epoch=stranger.epoch))
    for_the_ready = bench.tell(TablesWanted(worker_id=WorkerId("kv"), epoch=Epoch(1)))

    assert for_another == for_the_ready == []


def test_many_tables_are_told_in_parts() -> None:
    bench = RouterBench(page_size=1)
    bench.join_all()
    prompt = tuple(number % 50 for number in range(40_000))
    bench.grant(bench.submit(*(line(number, prompt=prompt) for number in range(3))))
    bench.tell(link_lost("kv"))

    parts = [each for each in said(begin(bench)) if isinstance(each, Tables)]

    assert len(parts) > 1
    assert [each.part for each in parts] == list(range(len(parts)))
    assert {each.num_parts for each in parts} == {len(parts)}
    assert len([table for each in parts for table in each.tables]) == 3
