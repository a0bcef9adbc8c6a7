"""Which pages a microbatch writes, against a reference that goes token by token."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from common.ids import MicrobatchId
from services.attention_worker.fence import PageFence
from tests.support.step import entry, int32

NUM_PAGES = 1000


@st.composite
def shards(draw):
    page_size = draw(st.sampled_from([1, 2, 16]))
    entries = [
        entry(
            index,
            start,
            num_rows,
            num_pages=-(-(start + num_rows) // page_size) + spare,
        )
        for index, (start, num_rows, spare) in enumerate(
            draw(
                st.lists(
                    st.tuples(st.integers(0, 40), st.integers(1, 40), st.integers(0, 3)),
                    min_size=1,
                    max_size=5,
                )
            )
        )
    ]
    num_cells = sum(each[3] for each in entries)
    page_table = np.random.default_rng(num_cells).permutation(NUM_PAGES)[:num_cells]
    return page_size, entries, page_table


@settings(max_examples=20)
@given(shards())
def test_the_pages_written_are_those_of_the_rows(shard):
    page_size, entries, page_table = shard
    fence = PageFence(NUM_PAGES, page_size)

    pages = fence.written_pages(int32(entries).numpy(), int32(page_table).numpy())

    expected, first_cell = [], 0
    for _, start, num_rows, num_pages, *_ in entries:
        cells = {position // page_size for position in range(start, start + num_rows)}
        expected += [page_table[first_cell + cell] for cell in sorted(cells)]
        first_cell += num_pages
    assert pages.tolist() == expected


def test_only_a_lower_microbatch_than_the_last_writer_is_kept_out():
    fence = PageFence(NUM_PAGES, 16)
    fence.record(np.array([3, 4], np.int32), MicrobatchId(7))

    admitted = [fence.admits(np.array([2, 3], np.int32), MicrobatchId(each)) for each in (6, 7, 8)]

    assert admitted == [False, True, True]
