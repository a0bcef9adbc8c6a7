"""Rows of local entries meet only what was before their chunk; the chunk itself is merged elsewhere."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from common.errors import PageFault
from common.messages.entries import LOCAL
from services.attention_worker.torch_tensor import from_torch, to_torch
from services.layer_worker.local_attention import (
    LocalResult,
    attend_locally,
    find_local_rows,
    merge,
)
from tests.support.paged_attention import (
    KERNELS,
    PagedRequest,
    advance,
    dense_attention,
    make_engine,
    random_qkv,
)

HEADS, KV_HEADS, SIZE = 4, 2, 16
WIDTH = (HEADS + 2 * KV_HEADS) * SIZE
QUERY_WIDTH = HEADS * SIZE
PAGES = list(range(20))

each_kernel = pytest.mark.parametrize("kernel", ["torch", "gather", "triton", *KERNELS])
each_window = pytest.mark.parametrize("window", [None, 7, 100])


def local_entry(start, num_rows, num_prompt):
    return np.array([(0, start, num_rows, len(PAGES), num_prompt, LOCAL)], np.int32)


def take_local_chunk(engine, qkv, start, stop, window):
    """Take a chunk through both tiers, as a layer worker and an attention worker do."""
    entries = local_entry(start, stop - start, len(qkv))
    rows = find_local_rows(entries, torch.device("cpu"))
    chunk = qkv[start:stop]
    local = attend_locally(chunk.view(len(chunk), -1, SIZE), rows, KV_HEADS, window)
    table = np.array(PAGES, np.int32)
    if start == 0:
        engine.write(0, entries, table, from_torch(chunk[:, QUERY_WIDTH:].contiguous()))
        return merge(local, rows, torch.empty(0, QUERY_WIDTH), torch.empty(0, HEADS))
    sums = np.empty((len(chunk), HEADS), np.float32)
    earlier = to_torch(engine.attend(0, entries, table, from_torch(chunk), sums))
    return merge(local, rows, earlier, torch.from_numpy(sums))


@each_kernel
@each_window
@pytest.mark.parametrize("cuts", [(), (64,), (128,), (64, 192), (128, 192, 256)])
def test_local_chunks_say_what_whole_prompts_say(kernel, window, cuts):
    qkv = random_qkv(300, WIDTH)
    engine = make_engine(kernel=kernel, windows=(window,))
    bounds = [0, *cuts, 300]

    parts = [take_local_chunk(engine, qkv, start, stop, window) for start, stop in pairwise(bounds)]

    expected = dense_attention(qkv, HEADS, KV_HEADS, window=window)
    torch.testing.assert_close(torch.cat(parts).double(), expected, atol=1e-5, rtol=1e-5)


@each_kernel
def test_what_was_only_written_is_met_by_those_who_come_later(kernel):
    qkv = random_qkv(70, WIDTH)
    engine = make_engine(kernel=kernel)
    kv = from_torch(qkv[:69, QUERY_WIDTH:].contiguous())
    engine.write(0, local_entry(0, 69, 69), np.array(PAGES, np.int32), kv)
    request = PagedRequest(qkv, 69, PAGES)
    request.num_cached = 69

    (output,) = advance(engine, [(request, 1)])

    expected = dense_attention(qkv, HEADS, KV_HEADS)[-1:]
    torch.testing.assert_close(output.double(), expected, atol=1e-5, rtol=1e-5)


@each_kernel
def test_a_single_row_is_written_too(kernel):
    qkv = random_qkv(2, WIDTH)
    engine = make_engine(kernel=kernel)
    kv = from_torch(qkv[:1, QUERY_WIDTH:].contiguous())
    engine.write(0, local_entry(0, 1, 1), np.array(PAGES, np.int32), kv)
    request = PagedRequest(qkv, 1, PAGES)
    request.num_cached = 1

    (output,) = advance(engine, [(request, 1)])

    expected = dense_attention(qkv, HEADS, KV_HEADS)[-1:]
    torch.testing.assert_close(output.double(), expected, atol=1e-5, rtol=1e-5)


@each_kernel
@pytest.mark.parametrize("entry", [(10, 20, 40), (64, 20, 80)], ids=["unaligned", "generated"])
def test_what_cannot_be_local_is_refused(kernel, entry):
    engine = make_engine(kernel=kernel)
    qkv = from_torch(random_qkv(entry[1], WIDTH))

    with pytest.raises(PageFault, match="a local entry"):
        engine.attend(0, local_entry(*entry), np.array(PAGES, np.int32), qkv)


def test_rows_that_are_not_local_are_left_as_tier_2_gave_them():
    entries = np.array([(0, 5, 1, 1, 3, 0), (1, 0, 3, 1, 3, LOCAL)], np.int32)
    rows = find_local_rows(entries, torch.device("cpu"))
    local = LocalResult(torch.full((4, HEADS, SIZE), 7.0), torch.zeros(4, HEADS))

    merged = merge(local, rows, torch.ones(1, QUERY_WIDTH), torch.empty(0, HEADS))

    assert merged[:, 0].tolist() == [1.0, 7.0, 7.0, 7.0]


def test_entries_of_many_lengths_do_not_see_each_other():
    counts = [3, 64, 65, 10, 130]
    entries = np.array(
        [(index, 0, count, 3, count, LOCAL) for index, count in enumerate(counts)], np.int32
    )
    qkv = random_qkv(sum(counts), WIDTH)
    rows = find_local_rows(entries, torch.device("cpu"))

    found = attend_locally(qkv.view(len(qkv), -1, SIZE), rows, KV_HEADS, None).output

    expected = [dense_attention(part, HEADS, KV_HEADS) for part in torch.split(qkv, counts)]
    torch.testing.assert_close(found.flatten(1).double(), torch.cat(expected), atol=1e-5, rtol=1e-5)
