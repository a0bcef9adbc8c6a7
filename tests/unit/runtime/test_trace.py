"""A trace has a mark of everything a process computed or received, and costs nothing when off."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from common.config import ServiceSettings
from common.errors import SettingsError
from common.ids import Epoch, MicrobatchId, WorkerId
from common.messages import AttentionResult, RouterHeartbeat, Tensor
from common.runtime.counters import Counters
from common.runtime.effects import Run, Stop
from common.runtime.engine_thread import Launched
from common.runtime.fence import WorkerFence
from common.runtime.loop import ServiceLoop
from common.runtime.mailbox import Mailbox
from common.runtime.process import Identity
from common.runtime.trace import Mark, Trace, watch
from tests.support.loop import ScriptedState
from tests.support.transport import FakeTransport

IDENTITY = Identity(worker_id=WorkerId("rack/node"), epoch=Epoch(7))
RESULT = AttentionResult(
    log_sums=None,
    microbatch_id=MicrobatchId(5),
    layer=3,
    shard=0,
    output=Tensor(dtype="fp32", shape=(0, 4), memory=memoryview(b"")),
    engine_s=0.0,
    queue_s=0.0,
)


@dataclass(frozen=True)
class Work:
    """A piece of work of a microbatch."""

    microbatch_id: int = 5
    layer: int = 2


@dataclass(frozen=True)
class Answer:
    """A piece of work that is about a message."""

    request: Work


@pytest.fixture
def settings(tmp_path: Path) -> ServiceSettings:
    return ServiceSettings(trace_directory=tmp_path / "traces")


def marks(settings: ServiceSettings) -> list[Mark]:
    assert settings.trace_directory
    (path,) = settings.trace_directory.iterdir()
    assert path.name == "rack-node.json"
    return [Mark(*row) for row in json.loads(path.read_text())["marks"]]


def fail(work: object) -> object:
    raise ValueError(work)


def test_without_a_folder_nothing_is_wrapped() -> None:
    carrier = FakeTransport(epoch=Epoch(7))

    watched = watch(ServiceSettings(), IDENTITY, carrier, fail)

    assert watched == (carrier, fail, ())


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = ServiceSettings(trace_directory=tmp_path / "file" / "traces")

    with pytest.raises(SettingsError, match="cannot be made"):
        watch(settings, IDENTITY, FakeTransport(epoch=Epoch(7)))


@pytest.mark.parametrize("work", [Work(), Answer(Work())])
def test_work_leaves_a_mark_with_its_microbatch_and_layer(tmp_path: Path, work: object) -> None:
    trace = Trace(tmp_path / "rack-node.json")

    given = trace.around(lambda done: done)(work)

    trace.write()
    (mark,) = marks(ServiceSettings(trace_directory=tmp_path))
    assert given is work
    assert mark[:3] == (type(work).__name__, 5, 2)
    assert mark.stop_s is not None
    assert mark.start_s <= mark.stop_s


def test_work_that_a_device_does_by_itself_leaves_its_mark_when_it_ends(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "rack-node.json")

    launched = trace.around(lambda _: Launched(lambda: "result"))(Work())
    trace.write()
    before = marks(ServiceSettings(trace_directory=tmp_path))
    result = launched.finish()

    trace.write()
    assert (before, result) == ([], "result")
    assert len(marks(ServiceSettings(trace_directory=tmp_path))) == 1


def test_work_that_fails_leaves_a_mark_too(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "rack-node.json")

    with pytest.raises(ValueError, match="Work"):
        trace.around(fail)(Work())

    trace.write()
    assert len(marks(ServiceSettings(trace_directory=tmp_path))) == 1


async def test_a_service_writes_its_trace_when_it_ends(settings: ServiceSettings) -> None:
    transport = FakeTransport(epoch=Epoch(7))
    watched = watch(settings, IDENTITY, transport, lambda work: work)
    answers: dict[type, Any] = {
        AttentionResult: lambda _: [Run(Work())],
        Work: lambda _: [Stop("the work is done")],
    }
    service = ServiceLoop(
        ScriptedState([], answers).at,
        Mailbox(watched.carrier, WorkerFence(Epoch(7)), Counters()),
        compute=watched.compute,
        parts=(*watched.parts, deliver_through(transport)),
    )

    exit_code = await service.run()

    assert exit_code == 0
    arrival, work = marks(settings)
    assert (arrival.name, arrival.layer, arrival.stop_s) == ("step.attended", 3, None)
    assert work.name == "Work"


def deliver_through(transport: FakeTransport) -> Any:
    """A part that brings a message without a microbatch, and one with."""

    async def part(_: ServiceLoop) -> None:
        transport.deliver(RouterHeartbeat(oldest_live=MicrobatchId(0)))
        transport.deliver(RESULT)

    return part
