"""Work that a device does by itself goes on beside the engine's thread, and comes back in order."""

from collections.abc import Iterator
from queue import SimpleQueue
from threading import Event

import pytest

from common.errors import PageFault
from common.runtime.effects import WorkFailed
from common.runtime.engine_thread import EngineThread, Launched

WAIT_S = 5.0


class Rig:
    """A thread whose launches end when their gate opens."""

    def __init__(self) -> None:
        self.begun: SimpleQueue[int] = SimpleQueue()
        self.results: SimpleQueue[tuple[object, float]] = SimpleQueue()
        self.gates = {1: Event(), 2: Event()}
        self.thread = EngineThread(self.compute, lambda *result: self.results.put(result))
        self.thread.start()

    def compute(self, work: int) -> Launched[int]:
        self.begun.put(work)
        return Launched(lambda: self.finish(work))

    def finish(self, work: int) -> int:
        assert self.gates[work].wait(WAIT_S)
        if work == 2:
            raise PageFault("2 cannot be done")
        return work * 10


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    for gate in rig.gates.values():
        gate.set()
    assert rig.thread.close(WAIT_S)


def test_the_next_work_begins_while_a_device_is_busy_with_the_last(rig):
    rig.thread.submit(1)
    rig.thread.submit(2)

    begun = [rig.begun.get(timeout=WAIT_S) for _ in range(2)]

    assert begun == [1, 2]
    assert rig.results.empty()


def test_results_come_in_the_order_of_the_launches_and_errors_with_their_work(rig):
    rig.thread.submit(1)
    rig.thread.submit(2)
    rig.gates[2].set()
    rig.gates[1].set()

    first, second = (rig.results.get(timeout=WAIT_S)[0] for _ in range(2))

    assert first == 10
    assert isinstance(second, WorkFailed)
    assert (second.work, str(second.error)) == (2, "2 cannot be done")


def test_seconds_in_which_launches_overlap_count_once(rig):
    rig.thread.submit(1)
    rig.thread.submit(2)
    [rig.begun.get(timeout=WAIT_S) for _ in range(2)]
    Event().wait(0.05)  # both are under way, and are waited for in turn
    rig.gates[1].set()
    rig.gates[2].set()

    first_s, second_s = (rig.results.get(timeout=WAIT_S)[1] for _ in range(2))

    assert first_s >= 0.05
    assert second_s < 0.05
