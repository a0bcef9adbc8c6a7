"""What all tests of the layer worker's state have."""

from collections.abc import Iterator

import pytest

from services.layer_worker.state import LayerWorkerState
from services.layer_worker.work import (
    RangeLoaded,
)
from tests.support.layer_worker import (
    ME,
    WHOLE,
)
from tests.support.step import (
    PATIENCE,
    ROUTER,
    nothing_measured,
    register_of,
    registered,
)


@pytest.fixture
def states() -> Iterator[list[LayerWorkerState]]:
    made: list[LayerWorkerState] = []
    yield made
    for state in made:
        state.check()


@pytest.fixture
def make(states):
    """Make a worker that has loaded its layers."""

    def make_state(role=WHOLE, **changes) -> LayerWorkerState:
        state = LayerWorkerState(
            register_of(ME, "layer_worker"), ROUTER, PATIENCE, nothing_measured, **changes
        )
        states.append(state)
        state.start(0.0)
        state.handle(registered(role), 0.0)
        state.handle(RangeLoaded(role=role), 0.0)
        return state

    return make_state


@pytest.fixture
def state(make) -> LayerWorkerState:
    return make()
