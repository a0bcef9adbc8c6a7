"""What an attention worker tells Prometheus, beyond what every service does."""

from collections.abc import Iterator
from typing import Final

from common.runtime.metrics import Metric, Reading
from services.attention_worker.state import AttentionWorkerState

READY_SHARDS = Metric(
    name="ready_shards", kind="gauge", about="Shards that wait for the attention worker's engine."
)
ATTENTION_WORKER_METRICS: Final = (READY_SHARDS,)


def attention_worker_readings(state: AttentionWorkerState) -> Iterator[Reading]:
    """Read an attention worker's state."""
    yield READY_SHARDS(state.num_ready)
