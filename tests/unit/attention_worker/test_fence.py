"""Which pages a microbatch writes, against a reference that goes token by token."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from common.ids import MicrobatchId
from services.attention_worker.fence import PageFence
from tests.support.step import attention_request, entry

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

    pages = fence.claim(attention_request(1, entries, page_table))

    expected, first_cell = [], 0
    for _, start, num_rows, num_pages, *_ in entries:
        cells = {position // page_size for position in range(start, start + num_rows)}
        expected += [page_table[first_cell + cell] for cell in sorted(cells)]
        first_cell += num_pages
    assert pages.tolist() == expected


def claims(fence, microbatch_id, page_table, **fields):
    """Let an entry claim the second page of its table; gives the claimed pages, None if it is late."""
    pages = fence.claim(
        attention_request(microbatch_id, [entry(0, 20, num_pages=2)], page_table, **fields)
    )
    return None if pages is None else pages.tolist()


def test_only_a_lower_microbatch_than_the_last_writer_is_kept_out():
    fence = PageFence(NUM_PAGES, 16)
    claims(fence, 7, [3, 4])

    claimed = [claims(fence, microbatch_id, [5, 4]) for microbatch_id in (6, 7, 8)]

    assert claimed == [None, [4], [4]]


def test_a_later_layer_claims_the_same_again_unless_a_higher_one_came_between():
    fence = PageFence(NUM_PAGES, 16)
    first = claims(fence, 7, [3, 4], layer=0)
    second = claims(fence, 7, [3, 4], layer=1)
    claims(fence, 8, [3, 4])

    third = claims(fence, 7, [3, 4], layer=2)

    assert (first, second, third) == ([4], [4], None)


def test_other_pages_in_a_later_layer_are_looked_up_anew():
    fence = PageFence(NUM_PAGES, 16)
    claims(fence, 7, [3, 4], layer=0)

    assert claims(fence, 7, [3, 5], layer=1) == [5]


def test_it_knows_whether_other_microbatches_are_live():
    fence = PageFence(NUM_PAGES, 16)
    claims(fence, 7, [3, 4])
    claims(fence, 8, [5, 6])

    before = [fence.knows_only(MicrobatchId(number)) for number in (7, 8)]
    fence.forget_older(MicrobatchId(8))

    assert before == [False, False]
    assert fence.knows_only(MicrobatchId(8))


def test_writers_are_remembered_beyond_the_end_of_their_microbatch():
    fence = PageFence(NUM_PAGES, 16)
    claims(fence, 7, [3, 4])

    fence.forget_older(MicrobatchId(9))

    assert claims(fence, 6, [3, 4]) is None
