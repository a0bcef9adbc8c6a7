"""The page pool's memory."""

import pytest
import torch

from common.errors import PoolTooLarge
from services.attention_worker.cache_shape import CacheShape
from services.attention_worker.page_store import PageStore

SHAPE = CacheShape(num_layers=2, num_kv_heads=3, head_size=8, page_size=4, dtype="fp32")


def test_a_page_counts_keys_and_values_of_all_layers_and_heads() -> None:
    assert SHAPE.bytes_per_page == 2 * 2 * 3 * 8 * 4 * 4


def test_what_is_written_to_slots_is_gathered_by_runs() -> None:
    store = PageStore(SHAPE, num_pages=5)
    written_keys, written_values = torch.randn(2, 4, 3, 8)

    store.write(1, torch.tensor([18, 19, 6, 7]), written_keys, written_values)
    keys, values = store.gather(1, torch.tensor([[9, 3]]), run_length=2)

    assert torch.equal(keys, written_keys.transpose(0, 1))
    assert torch.equal(values, written_values.transpose(0, 1))


def test_clearing_a_page_touches_no_other_page_or_layer() -> None:
    store = PageStore(SHAPE, num_pages=2)
    ones = torch.ones(8, 3, 8)
    for layer in (0, 1):
        store.write(layer, torch.arange(8), ones, ones)

    store.clear(0, torch.tensor([1]))

    sums = [store.gather(layer, torch.tensor([[0, 1]]), 4)[1].sum((0, 2)) for layer in (0, 1)]
    assert sums[0].tolist() == [24] * 4 + [0] * 4
    assert sums[1].tolist() == [24] * 8


def test_a_pool_that_the_system_refuses_is_an_error_with_its_size() -> None:
    with pytest.raises(PoolTooLarge, match="need 1536000000000000000 bytes"):
        PageStore(SHAPE, num_pages=10**15)
