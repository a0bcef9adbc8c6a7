"""Whatever decodes is handled: no message, in any order, ends a service (design invariant 8)."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.messages import (
    AttentionRole,
    Drain,
    LayerRole,
    Registered,
    RegisterRefused,
    WorkerLost,
)
from common.runtime.counters import Measured
from common.runtime.effects import Stop
from common.runtime.member import Patience
from services.attention_worker.state import AttentionWorkerState
from services.attention_worker.work import PoolAllocated
from services.kv_manager.state import KvManagerState
from services.layer_worker.state import LayerWorkerState
from services.layer_worker.work import RangeLoaded
from tests.support.messages import all_messages
from tests.support.router import PAGE_SIZE, RouterBench, hop, line, register

LAYERS = LayerRole(start=0, stop=4, first=True, last=True, dtype="fp32", quantization="none")
ATTENTION = AttentionRole(
    num_layers=4,
    num_heads=2,
    num_kv_heads=1,
    head_size=8,
    sliding_windows=(None,) * 4,
    page_size=PAGE_SIZE,
    kv_dtype="fp32",
    useful_pages=64,
)
ENDINGS = (RegisterRefused, WorkerLost, Drain)
"""What the router ends a worker with."""
PATIENCE = Patience(register_interval_s=1.0, router_silence_s=3.0, stop_timeout_s=10.0)


def nothing_measured() -> Measured:
    return Measured(progress=0, busy_s=0.0)


def busy_router() -> Any:
    bench = RouterBench(in_flight=2)
    bench.join_all(attention_workers=2)
    bench.run(line(0), line(1), line(2))
    return bench.state


def layer_worker() -> Any:
    state = LayerWorkerState(
        register("layer-0", "layer_worker"), hop("router"), PATIENCE, nothing_measured
    )
    state.handle(Registered(layers=LAYERS, attention=None, heartbeat_s=1.0), 0.0)
    state.handle(RangeLoaded(role=LAYERS), 0.0)
    return state


def attention_worker() -> Any:
    state = AttentionWorkerState(
        register("attention-0", "attention_worker"), hop("router"), PATIENCE, nothing_measured
    )
    state.handle(Registered(layers=None, attention=ATTENTION, heartbeat_s=1.0), 0.0)
    state.handle(PoolAllocated(role=ATTENTION, num_pages=64), 0.0)
    return state


def kv_manager() -> Any:
    return KvManagerState(register("kv", "kv_manager"), hop("router"), PATIENCE, nothing_measured)


@pytest.mark.slow
@pytest.mark.parametrize("make", [busy_router, layer_worker, attention_worker, kv_manager])
def test_no_message_ends_a_service(make: Callable[[], Any]) -> None:
    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @given(messages=st.lists(all_messages(), min_size=1, max_size=4))
    def survives(messages: list[Any]) -> None:
        state = make()
        for now, message in enumerate(messages):
            effects = state.handle(message, float(now))
            if any(isinstance(effect, Stop) for effect in effects):
                assert isinstance(message, ENDINGS)
                return

    survives()
