"""Emulated attention: pages without memory, outputs of the right shape, a profile's durations."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.errors import PoolTooLarge, SettingsError
from common.messages import AttentionRole, Tensor
from common.policy.profile import Profile
from common.runtime.emulation import EmulatedTime
from services.attention_worker.config import AttentionWorkerSettings
from services.attention_worker.emulated_engine import EmulatedCompute
from services.attention_worker.work import AllocatePool, Attend, Attended, PoolAllocated
from tests.support.emulation import ATTENTION_PROFILE, LAYER_PROFILE
from tests.support.step import attention_request, entry

ROLE = AttentionRole(
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_size=16,
    sliding_windows=(None, 8),
    page_size=4,
    kv_dtype="bf16",
    useful_pages=10**9,
)
BYTES_PER_PAGE = 4 * 2 * 2 * 2 * 16 * 2
TEBIBYTE = 2**40


def make_compute(profile: Profile = ATTENTION_PROFILE, kv_memory: str = "1TiB") -> EmulatedCompute:
    settings = AttentionWorkerSettings(
        compute="emulated", profile=Path("profile.json"), kv_memory=kv_memory
    )
    return EmulatedCompute(settings, profile, EmulatedTime(2.0, sleep=lambda _: None))


def test_a_pool_may_be_larger_than_this_machine() -> None:
    allocated = make_compute()(AllocatePool(role=ROLE))

    pages = TEBIBYTE // BYTES_PER_PAGE
    assert allocated == PoolAllocated(role=ROLE, num_pages=min(pages, ROLE.useful_pages))


def test_a_pool_of_no_page_is_refused() -> None:
    with pytest.raises(PoolTooLarge):
        make_compute(kv_memory="100")(AllocatePool(role=ROLE))


def test_by_default_a_pool_is_a_share_of_this_machine() -> None:
    role = replace(ROLE, useful_pages=3)

    allocated = make_compute(kv_memory="auto")(AllocatePool(role=role))

    assert allocated == PoolAllocated(role=role, num_pages=3)


@pytest.mark.parametrize(("layer", "tokens_read"), [(0, 12), (1, 8)])
def test_a_shard_takes_the_time_of_its_keys_and_values(layer: int, tokens_read: int) -> None:
    compute = make_compute()
    compute(AllocatePool(role=ROLE))
    qkv = Tensor.of(np.zeros((1, 8 * 16), np.float16))
    request = attention_request(1, [entry(1, 11)], [0, 1, 2], layer=layer, qkv=qkv)

    attended = compute(Attend(request=request))

    assert isinstance(attended, Attended)
    assert attended.request is request
    assert (attended.output.dtype, attended.output.shape) == ("fp16", (1, 4 * 16))
    # 4 bytes x 2 heads x 16 numbers of K and V per token, 4 x 64 products; both at 1e6 per second.
    slower = max(tokens_read * 2 * 2 * 16 * 2, tokens_read * 4 * 64)
    assert attended.engine_s == pytest.approx(2.0 * (0.5 + slower / 1e6))


def test_a_profile_of_layers_is_refused() -> None:
    with pytest.raises(SettingsError, match="has no attention"):
        make_compute(LAYER_PROFILE)
