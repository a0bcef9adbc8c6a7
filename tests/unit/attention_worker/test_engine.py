"""What the engine refuses, and that a refusal leaves the pages as they were."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import PageFault
from services.attention_worker.engine import AttentionEngine
from services.attention_worker.torch_tensor import from_torch
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
GOOD_ENTRY = (0, 0, 20, 2, 20, 0)
"""Twenty rows from position 0 in two pages of 16, all of them prompt."""

MakeEngine = Callable[..., AttentionEngine]


@pytest.fixture(params=["torch", "gather", *KERNELS[-1:]])
def make_engine(request: pytest.FixtureRequest) -> MakeEngine:
    """Make engines of each kind."""
    return partial(paged_attention.make_engine, kernel=request.param)


@pytest.mark.parametrize(
    ("entry", "pages", "num_rows", "layer"),
    [
        pytest.param(GOOD_ENTRY, [0, 64], 20, 0, id="a page after the last"),
        pytest.param(GOOD_ENTRY, [-1, 0], 20, 0, id="a page before the first"),
        pytest.param(GOOD_ENTRY, [0], 20, 0, id="a table shorter than declared"),
        pytest.param(GOOD_ENTRY, [0, 1, 2], 20, 0, id="a table longer than declared"),
        pytest.param((0, 13, 20, 2, 20, 0), [0, 1], 20, 0, id="rows after the last page"),
        pytest.param((0, -1, 20, 2, 20, 0), [0, 1], 20, 0, id="a position before the first"),
        pytest.param((0, 0, 2**31 - 1, 2, 20, 0), [0, 1], 20, 0, id="more rows than a pool holds"),
        pytest.param((0, 2**31 - 1, 20, 2, 20, 0), [0, 1], 20, 0, id="a position far away"),
        pytest.param(GOOD_ENTRY[:5], [0, 1], 20, 0, id="a column too few"),
        pytest.param(GOOD_ENTRY, [[0], [1]], 20, 0, id="a table of two dimensions"),
        pytest.param(GOOD_ENTRY, [0, 1], 21, 0, id="more rows than declared"),
        pytest.param(GOOD_ENTRY, [0, 1], 19, 0, id="fewer rows than declared"),
        pytest.param(GOOD_ENTRY, [0, 1], 20, 1, id="a layer after the last"),
        pytest.param(GOOD_ENTRY, [0, 1], 20, -1, id="a layer before the first"),
    ],
)
def test_a_refusal_leaves_the_pages_as_they_were(
    make_engine: MakeEngine, entry: tuple[int, ...], pages: list[Any], num_rows: int, layer: int
) -> None:
    engine, untouched = make_engine(), make_engine()
    qkv = random_qkv(20, WIDTH)
    request, twin = PagedRequest(qkv, 20, [0, 1]), PagedRequest(qkv, 20, [0, 1])
    advance(engine, [(request, 10)])
    advance(untouched, [(twin, 10)])
    entries, page_table = np.array([entry], np.int32), np.array(pages, np.int32)

    with pytest.raises(PageFault):
        engine.attend(layer, entries, page_table, from_torch(random_qkv(num_rows, WIDTH, seed=1)))

    assert torch.equal(advance(engine, [(request, 10)])[0], advance(untouched, [(twin, 10)])[0])


def test_q_k_and_v_of_another_model_are_refused(make_engine: MakeEngine) -> None:
    request = PagedRequest(random_qkv(20, WIDTH + 16), 20, [0, 1])

    with pytest.raises(PageFault, match=r"\(20, 144\), its entries declare \(20, 128\)"):
        advance(make_engine(), [(request, 20)])


def test_layers_have_pages_and_windows_of_their_own(make_engine: MakeEngine) -> None:
    engine = make_engine(windows=(None, 7))
    first, second = (random_qkv(30, WIDTH, seed=seed) for seed in (1, 2))

    (seen_first,) = advance(engine, [(PagedRequest(first, 30, [0, 1]), 30)], layer=0)
    (seen_second,) = advance(engine, [(PagedRequest(second, 30, [0, 1]), 30)], layer=1)

    expected = dense_attention(first, 4, 2), dense_attention(second, 4, 2, window=7)
    torch.testing.assert_close(seen_first.double(), expected[0], atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(seen_second.double(), expected[1], atol=2e-5, rtol=2e-5)


def test_the_same_entries_with_other_pages_are_not_mixed_up(make_engine: MakeEngine) -> None:
    engine = make_engine()
    first, second = (random_qkv(20, WIDTH, seed=seed) for seed in (1, 2))
    run_alone(engine, PagedRequest(first, 20, [0, 1]), [19])
    run_alone(engine, PagedRequest(second, 20, [2, 3]), [19])
    request = PagedRequest(first, 20, [0, 1])
    request.num_cached = 19

    (output,) = advance(engine, [(request, 1)])

    expected = dense_attention(first, 4, 2)[-1:]
    torch.testing.assert_close(output.double(), expected, atol=2e-5, rtol=2e-5)


def test_a_microbatch_without_entries_gives_no_rows(make_engine: MakeEngine) -> None:
    entries, page_table = np.empty((0, 6), np.int32), np.empty(0, np.int32)

    output = make_engine().attend(0, entries, page_table, from_torch(torch.empty(0, WIDTH)))

    assert output.shape == (0, 64)


def test_the_answer_has_the_dtype_of_the_question(make_engine: MakeEngine) -> None:
    qkv = random_qkv(20, WIDTH, dtype=torch.bfloat16)
    engine = make_engine(dtype="fp16")

    output = run_alone(engine, PagedRequest(qkv, 20, [0, 1]), [20])

    assert output.dtype == torch.bfloat16
