"""What a layer worker tells Prometheus, beyond what every service does."""

from collections.abc import Iterator
from typing import Final

from common.runtime.metrics import Metric, Reading
from services.layer_worker.state import LayerWorkerState

VISITS = Metric(
    name="visits", kind="gauge", about="Microbatches that are inside the layer worker now."
)
READY_VISITS = Metric(
    name="ready_visits", kind="gauge", about="Of those, the ones that wait for the engine."
)
LAYER_WORKER_METRICS: Final = (VISITS, READY_VISITS)


def layer_worker_readings(state: LayerWorkerState) -> Iterator[Reading]:
    """Read a layer worker's state."""
    yield VISITS(state.num_visits)
    yield READY_VISITS(state.num_ready)
