"""A GPU: computing on one stream, copies in and out on streams of their own, beside it."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any, Final, TypeVar

import torch

from common.runtime.engine_thread import Launched
from services.layer_worker.device import Captured, Compute, Finished, Wrap

T_co = TypeVar("T_co", covariant=True)

_WARM_UPS: Final = 2
"""Calls before a capture: libraries take their memory in the first one."""

_MAX_LAUNCHED: Final = 3
"""One computes, the next one's rows come in, and the last one's go out or are being noticed."""


class CudaDevice:
    """A `Device`. All computing is on one stream, so that what stays needs no events.

    Pinned memory comes from torch's own cache, which has it back once the copy is over and nobody
    refers to it: what was taken out may be with the wire for a while.
    """

    max_launched = _MAX_LAUNCHED
    captures = True

    def __init__(self, place: torch.device, cuda: Any = torch.cuda) -> None:
        """Take a GPU.

        Args:
            place: Which one.
            cuda: What knows of streams, events and graphs; a test's stands in for a GPU.
        """
        self.place = place
        self._cuda = cuda
        cuda.set_device(place)
        self._computing, self._incoming, self._outgoing = (cuda.Stream(place) for _ in range(3))
        self._idle = cuda.default_stream(place)
        self._pins = cuda.is_available()
        self._spare: deque[Any] = deque()
        """Events of launches that are over; taken on one thread and given on another."""
        self._pool = cuda.graph_pool_handle()

    def launch(
        self,
        arrived: Sequence[Sequence[torch.Tensor]],
        compute: Compute,
        wrap: Wrap[T_co],
    ) -> Launched[T_co]:
        """See `Device`."""
        started_s = perf_counter()
        self._cuda.set_device(self.place)  # a thread has its own
        staged = [self._stage(parts) for parts in arrived]
        # Not as contexts: entering and leaving three of them takes as long as a small launch.
        self._cuda.set_stream(self._incoming)
        inputs = [each.to(self.place, non_blocking=True) for each in staged]
        are_in = self._mark()
        self._cuda.set_stream(self._computing)
        self._computing.wait_event(are_in)
        begun = self._mark()
        kept, outputs = compute(inputs)
        ended = self._mark()
        self._cuda.set_stream(self._outgoing)
        self._outgoing.wait_event(ended)
        taken = tuple(self._take(each) for each in outputs)
        are_out = self._mark()
        self._cuda.set_stream(self._idle)  # what is copied between launches must not wait for them
        # Memory of one stream that another one uses must not be given away before: it is held here.
        return Launched(
            partial(
                self._finish,
                wrap,
                (are_in, begun, ended, are_out),
                Finished(kept, taken, perf_counter() - started_s),
            ),
            holds=(staged, inputs, outputs, compute),
        )

    def capture(self, function: Callable[[], None]) -> Captured:
        """See `Device`."""
        self.settle()
        with self._cuda.stream(self._computing):
            for _ in range(_WARM_UPS):
                function()
        self.settle()
        graph = self._cuda.CUDAGraph()
        with self._cuda.graph(graph, pool=self._pool, stream=self._computing):
            function()
        replay: Captured = graph.replay
        return replay

    def settle(self) -> None:
        """See `Device`."""
        self._cuda.synchronize(self.place)

    def _stage(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Join rows in pinned memory: only from there can a copy go on beside the processor."""
        num_rows = sum(map(len, parts))
        staged = torch.empty(
            (num_rows, *parts[0].shape[1:]), dtype=parts[0].dtype, pin_memory=self._pins
        )
        torch.cat([*parts], out=staged)
        return staged

    def _take(self, output: torch.Tensor) -> torch.Tensor:
        home = torch.empty(output.shape, dtype=output.dtype, pin_memory=self._pins)
        return home.copy_(output, non_blocking=True)

    def _mark(self) -> Any:
        """Record an event on the present stream; to make one takes longer than to record it."""
        event = (
            self._spare.pop()
            if self._spare
            else self._cuda.Event(enable_timing=True, blocking=True)
        )
        event.record()
        return event

    def _finish(self, wrap: Wrap[T_co], events: Sequence[Any], finished: Finished) -> T_co:
        _, begun, ended, are_out = events
        are_out.synchronize()
        seconds = max(begun.elapsed_time(ended) / 1000, finished.seconds)
        self._spare.extend(events)
        return wrap(replace(finished, seconds=seconds))
