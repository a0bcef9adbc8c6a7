"""Devices for tests: one that does everything as late as it may, and streams that keep a record."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from common.runtime.engine_thread import Launched
from services.layer_worker.device import Captured, Compute, Finished, Wrap


class LateDevice:
    """A `Device` that has done nothing until somebody waits for it, and replays what it captured."""

    place = torch.device("cpu")
    max_launched = 2
    captures = True

    def __init__(self) -> None:
        self._queue: list[Callable[[], None]] = []
        self.num_replays = 0

    def launch(
        self, arrived: Sequence[Sequence[torch.Tensor]], compute: Compute, wrap: Wrap[Any]
    ) -> Launched[Any]:
        inputs = [torch.cat([*parts]) for parts in arrived]
        results: list[Any] = []

        @torch.inference_mode()
        def run() -> None:
            kept, taken = compute(inputs)
            results.append(wrap(Finished(kept, tuple(each.clone() for each in taken), 0.001)))

        def finish() -> Any:
            while not results:
                self._queue.pop(0)()
            return results[0]

        self._queue.append(run)
        return Launched(finish)

    def capture(self, function: Callable[[], None]) -> Captured:
        self.settle()
        function()

        def replay() -> None:
            self.num_replays += 1
            function()

        return replay

    def settle(self) -> None:
        assert not self._queue, "weights and captures must be alone on the device"


class RecordedCuda:
    """Stands in for `torch.cuda`: work is done at once, and what waits for what is written down."""

    def __init__(self) -> None:
        self.record: list[tuple[str, ...]] = []
        self._stream = "everybody's stream"
        self._names = ["computing", "incoming", "outgoing"]

    def set_device(self, device: torch.device) -> None:
        assert device.type == "cpu"

    def is_available(self) -> bool:
        return False

    def Stream(self, device: torch.device) -> "_Stream":  # noqa: N802 - torch's name
        return _Stream(self, self._names.pop(0))

    def Event(self, *, enable_timing: bool, blocking: bool) -> "_Event":  # noqa: N802
        assert blocking, "waiting must leave the processor to others"
        return _Event(self, timed=enable_timing)

    def default_stream(self, device: torch.device) -> "_Stream":
        return _Stream(self, self._stream)

    def set_stream(self, stream: "_Stream") -> None:
        self._stream = stream.name

    @contextmanager
    def stream(self, stream: "_Stream") -> Iterator[None]:
        before, self._stream = self._stream, stream.name
        yield
        self._stream = before

    def CUDAGraph(self) -> "_Graph":  # noqa: N802
        return _Graph(self)

    @contextmanager
    def graph(self, graph: "_Graph", *, pool: Any, stream: "_Stream") -> Iterator[None]:
        self.record.append((stream.name, "captures into", pool))
        yield

    def graph_pool_handle(self) -> str:
        return "pool"

    def synchronize(self, device: torch.device) -> None:
        self.record.append(("all", "waited for"))

    def now_on(self) -> str:
        return self._stream

    def note(self, *words: str) -> None:
        self.record.append(words)


class _Stream:
    def __init__(self, cuda: RecordedCuda, name: str) -> None:
        self._cuda, self.name = cuda, name

    def wait_event(self, event: "_Event") -> None:
        assert event.recorded_on, "what was not recorded is waited for by nobody"
        self._cuda.note(self.name, "waits for", event.recorded_on)


class _Event:
    def __init__(self, cuda: RecordedCuda, *, timed: bool) -> None:
        self._cuda, self._timed = cuda, timed
        self.recorded_on = ""

    def record(self) -> None:
        self.recorded_on = self._cuda.now_on()

    def synchronize(self) -> None:
        self._cuda.note("host", "waits for", self.recorded_on)

    def elapsed_time(self, end: "_Event") -> float:
        assert self._timed
        assert end._timed
        return 3.0


class _Graph:
    def __init__(self, cuda: RecordedCuda) -> None:
        self._cuda = cuda

    def replay(self) -> None:
        self._cuda.note(self._cuda.now_on(), "replays")
