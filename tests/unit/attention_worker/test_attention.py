"""Paged attention against a dense reference, and the promise that no bit depends on the company."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.attention_worker.engine import AttentionEngine
from services.attention_worker.torch_tensor import TO_TORCH
from tests.support import paged_attention
from tests.support.paged_attention import (
    KERNELS,
    PagedRequest,
    advance,
    dense_attention,
    random_qkv,
    run_alone,
)

WIDTH = (4 + 2 * 2) * 16
"""Of q, k and v in the default engine."""

TOLERANCE = {"fp32": 2e-5, "fp16": 4e-3, "bf16": 3e-2}


MakeEngine = Callable[..., AttentionEngine]


@pytest.fixture(scope="module", params=["torch", *KERNELS])
def make_engine(request: pytest.FixtureRequest) -> MakeEngine:
    """Make engines that compute with one instruction set."""
    return partial(paged_attention.make_engine, kernel=request.param)


@pytest.fixture(scope="module", params=["gather", "torch", "triton", *KERNELS])
def make_any_engine(request: pytest.FixtureRequest) -> MakeEngine:
    """Make engines of those kinds and of the one whose last bits depend on the company."""
    return partial(paged_attention.make_engine, kernel=request.param)


@pytest.fixture(autouse=True)
def _same_threads_afterwards() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


def pages_for(num_tokens: int, page_size: int = 16, first: int = 0) -> range:
    return range(first, first - -num_tokens // page_size)


@st.composite
def cut(draw: st.DrawFn, total: int) -> list[int]:
    """Cut a number of tokens into chunks."""
    ends = draw(st.sets(st.integers(1, total), max_size=5)) | {total}
    return [stop - start for start, stop in zip([0, *sorted(ends)], sorted(ends), strict=False)]


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_any_mix_of_chunks_and_pages_attends_as_the_dense_reference(
    make_any_engine: MakeEngine, data: st.DataObject
) -> None:
    num_kv_heads = data.draw(st.sampled_from([1, 2, 3]))
    num_heads = num_kv_heads * data.draw(st.sampled_from([1, 2, 3, 5]))
    head_size = data.draw(st.sampled_from([16, 32, 64, 80, 96]))
    page_size = data.draw(st.sampled_from([1, 16, 48, 64, 256]))
    window = data.draw(st.sampled_from([None, 1, 17, 64, 90]))
    dtype = data.draw(st.sampled_from(sorted(TOLERANCE)))
    lengths = data.draw(st.lists(st.integers(1, 200), min_size=1, max_size=4))
    num_pages = sum(len(pages_for(length, page_size)) for length in lengths)
    free = data.draw(st.permutations(range(num_pages)))
    engine = make_any_engine(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_size=head_size,
        page_size=page_size,
        num_pages=num_pages,
        dtype=dtype,
        windows=(window,),
    )
    width = (num_heads + 2 * num_kv_heads) * head_size
    requests, chunks = [], []
    for seed, length in enumerate(lengths):
        pages = [free.pop() for _ in pages_for(length, page_size)]
        qkv = random_qkv(length, width, seed=seed, dtype=TO_TORCH[dtype])
        requests.append(PagedRequest(qkv, data.draw(st.integers(0, length)), pages))
        chunks.append(data.draw(cut(length)))
    outputs: list[list[torch.Tensor]] = [[] for _ in requests]

    for turn in range(max(map(len, chunks))):
        moving = [index for index in range(len(requests)) if turn < len(chunks[index])]
        moves = [(requests[index], chunks[index][turn]) for index in moving]
        for index, output in zip(moving, advance(engine, moves), strict=True):
            outputs[index].append(output)

    for request, parts in zip(requests, outputs, strict=True):
        expected = dense_attention(request.qkv, num_heads, num_kv_heads, window)
        torch.testing.assert_close(
            torch.cat(parts).double(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype]
        )


@pytest.mark.parametrize("head_size", [64, 80, 96, 128, 256])
def test_every_common_head_size_attends_as_the_dense_reference(
    make_any_engine: MakeEngine, head_size: int
) -> None:
    qkv = random_qkv(70, 6 * head_size)
    request = PagedRequest(qkv, 60, pages_for(70))

    output = run_alone(make_any_engine(head_size=head_size, num_heads=2), request, [30, 30, 10])

    expected = dense_attention(qkv, 2, 2)
    torch.testing.assert_close(output.double(), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("length", [1, 15, 16, 17, 63, 64, 65, 128, 129])
@pytest.mark.parametrize("num_prompt", [0, 1000])
def test_lengths_around_page_and_tile_ends_attend_as_the_dense_reference(
    make_any_engine: MakeEngine, length: int, num_prompt: int
) -> None:
    qkv = random_qkv(length, WIDTH)
    request = PagedRequest(qkv, num_prompt, pages_for(length))

    output = run_alone(make_any_engine(), request, [length])

    torch.testing.assert_close(output.double(), dense_attention(qkv, 4, 2), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("window", [1, 16, 64, 70, 75, 90, 300])
@pytest.mark.parametrize("num_prompt", [0, 200])
def test_windows_that_begin_anywhere_in_a_tile_attend_as_the_dense_reference(
    make_any_engine: MakeEngine, window: int, num_prompt: int
) -> None:
    qkv = random_qkv(200, WIDTH)
    request = PagedRequest(qkv, num_prompt, pages_for(200))

    output = run_alone(make_any_engine(windows=(window,)), request, [200])

    expected = dense_attention(qkv, 4, 2, window)
    torch.testing.assert_close(output.double(), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("window", [None, 5, 70])
@pytest.mark.parametrize("num_heads", [2, 6, 10, 14])
def test_company_changes_no_bit(
    make_engine: MakeEngine, num_heads: int, window: int | None
) -> None:
    width = (num_heads + 4) * 16
    qkv = random_qkv(150, width)
    company = [
        PagedRequest(random_qkv(200, width, seed=seed), 90, pages_for(200, first=13 * seed))
        for seed in (1, 2, 3)
    ]
    alone = run_alone(
        make_engine(num_heads=num_heads, windows=(window,)),
        PagedRequest(qkv, 100, pages_for(150)),
        [100, *[1] * 50],
    )
    engine = make_engine(num_heads=num_heads, windows=(window,))
    request = PagedRequest(qkv, 100, pages_for(150))
    outputs = []

    for turn, rows in enumerate([100, *[1] * 50]):
        moves = [
            (company[0], 3),
            (request, rows),
            *((other, 1 + turn % 2) for other in company[1:]),
        ]
        outputs.append(advance(engine, moves)[1])

    assert torch.equal(torch.cat(outputs), alone)


@pytest.mark.parametrize("window", [None, 5, 70])
@pytest.mark.parametrize("chunks", [[1] * 150, [7, 43, 64, 36], [16, 64, 70], [149, 1]])
def test_how_a_prompt_is_cut_changes_no_bit(
    make_engine: MakeEngine, chunks: list[int], window: int | None
) -> None:
    qkv = random_qkv(150, WIDTH, dtype=torch.bfloat16)
    engine = make_engine(dtype="bf16", windows=(window,))
    whole = run_alone(engine, PagedRequest(qkv, 150, pages_for(150)), [150])

    pieces = run_alone(engine, PagedRequest(qkv, 150, pages_for(150)), chunks)

    assert torch.equal(pieces, whole)


def test_recomputing_generated_positions_in_one_chunk_changes_no_bit(
    make_engine: MakeEngine,
) -> None:
    qkv = random_qkv(150, WIDTH)
    engine = make_engine()
    generated = run_alone(engine, PagedRequest(qkv, 40, pages_for(150)), [40, *[1] * 110])

    recomputed = run_alone(engine, PagedRequest(qkv, 40, pages_for(150)), [130, 20])

    assert torch.equal(recomputed, generated)


@pytest.mark.parametrize("page_size", [1, 16, 64, 256])
def test_where_pages_lie_changes_no_bit(make_engine: MakeEngine, page_size: int) -> None:
    qkv = random_qkv(200, WIDTH)
    pages = pages_for(200, page_size)
    in_order = run_alone(make_engine(num_pages=13), PagedRequest(qkv, 150, range(13)), [150, 50])
    engine = make_engine(page_size=page_size, num_pages=2 * len(pages))

    output = run_alone(
        engine, PagedRequest(qkv, 150, [2 * page for page in pages][::-1]), [150, 50]
    )

    assert torch.equal(output, in_order)


@pytest.mark.parametrize("num_heads", [1, 3, 4, 5, 7, 9, 11, 16])
def test_the_number_of_threads_changes_no_bit(make_engine: MakeEngine, num_heads: int) -> None:
    qkv = random_qkv(70, (num_heads + 2) * 16)
    outputs = []

    for num_threads in (1, 2):
        request = PagedRequest(qkv, 60, pages_for(70))
        engine = make_engine(num_heads=num_heads, num_kv_heads=1, num_threads=num_threads)
        outputs.append(run_alone(engine, request, [60, 8, 1, 1]))

    assert torch.equal(*outputs)


def test_what_an_earlier_request_left_in_a_page_does_not_matter(make_engine: MakeEngine) -> None:
    qkv = random_qkv(20, WIDTH)
    clean = run_alone(make_engine(), PagedRequest(qkv, 20, [0, 1]), [20])
    engine = make_engine()
    run_alone(engine, PagedRequest(torch.full((32, WIDTH), torch.nan), 32, [0, 1]), [32])

    output = run_alone(engine, PagedRequest(qkv, 20, [0, 1]), [20])

    assert torch.equal(output, clean)


def test_a_page_shared_by_two_requests_is_read_by_both(make_engine: MakeEngine) -> None:
    qkv = random_qkv(40, WIDTH)
    engine = make_engine()
    whole = run_alone(engine, PagedRequest(qkv, 40, [0, 1, 2]), [40])
    second = PagedRequest(qkv, 40, [0, 1, 3])
    second.num_cached = 32

    (output,) = advance(engine, [(second, 8)])

    assert torch.equal(output, whole[32:])
