"""The live microbatches: made here, tracked until they come home or fail, never repaired."""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from common.ids import MicrobatchId, WorkerId
from common.messages import (
    ForwardMicrobatch,
    Hop,
    Route,
    SampledTokens,
    Shard,
    StageTimes,
    Tensor,
)
from common.messages.entries import (
    FLAGS,
    NUM_PAGES,
    NUM_ROWS,
    REQUEST_ID,
    SAMPLE,
    Entries,
)
from services.router.advances import Advances
from services.router.requests import Request
from services.router.sampling_columns import sampling_columns

_REMEMBERED_PASSES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """One live microbatch."""

    microbatch_id: MicrobatchId
    route: Route
    requests: tuple[Request, ...]
    """Those of the entries, in their order."""
    entries: Entries
    sent_s: float

    @property
    def num_rows(self) -> int:
        """Token rows of all entries."""
        return int(self.entries[:, NUM_ROWS].sum())

    def expects(self, message: SampledTokens) -> bool:
        """Say whether this is what it looks like when this microbatch comes home."""
        num_sampled = int(np.count_nonzero(self.entries[:, FLAGS] & SAMPLE))
        named = message.request_ids.numpy()
        return np.array_equal(named, self.entries[:, REQUEST_ID]) and (
            message.tokens.shape[0] == num_sampled
        )

    def hops(self) -> list[Hop]:
        """List every process on its way."""
        return [*self.route.layer_workers, *(shard.worker for shard in self.route.shards)]


@dataclass(frozen=True, slots=True)
class Step:
    """A microbatch that came home: when, and where its time went."""

    microbatch_id: MicrobatchId
    num_rows: int
    sent_s: float
    home_s: float
    times: StageTimes


@dataclass(slots=True)
class Flights:
    """All live microbatches, and how long the last ones took."""

    next_id: MicrobatchId
    live: dict[MicrobatchId, Flight] = field(default_factory=dict)
    passes: deque[tuple[float, int]] = field(
        default_factory=lambda: deque(maxlen=_REMEMBERED_PASSES)
    )
    """Seconds and rows of the microbatches that came home last."""
    steps: deque[Step] = field(default_factory=lambda: deque(maxlen=_REMEMBERED_PASSES))
    """The same microbatches, for those who watch."""

    @property
    def oldest_live(self) -> MicrobatchId:
        """Microbatches below it have ended."""
        return min(self.live, default=self.next_id)

    def launch(
        self, advances: Advances, layer_workers: tuple[Hop, ...], now: float
    ) -> tuple[Flight, ForwardMicrobatch]:
        """Make a microbatch.

        Args:
            advances: Its requests and their entries.
            layer_workers: One per range.
            now: Monotonic seconds.
        """
        microbatch_id = self.next_id
        self.next_id = MicrobatchId(microbatch_id + 1)
        requests, entries = advances.requests, advances.entries
        flight = Flight(
            microbatch_id=microbatch_id,
            route=Route(layer_workers=layer_workers, shards=_shards(requests, entries)),
            requests=requests,
            entries=entries,
            sent_s=now,
        )
        self.live[microbatch_id] = flight
        return flight, self._message(flight)

    def _message(self, flight: Flight) -> ForwardMicrobatch:
        requests = flight.requests
        num_rows, num_pages, flags = flight.entries[:, (NUM_ROWS, NUM_PAGES, FLAGS)].T.tolist()
        tables = [request.pages[:pages] for request, pages in zip(requests, num_pages, strict=True)]
        tokens = [
            request.tokens[request.num_computed : request.num_computed + rows]
            for request, rows in zip(requests, num_rows, strict=True)
        ]
        sampled = [request for request, flag in zip(requests, flags, strict=True) if flag & SAMPLE]
        return ForwardMicrobatch(
            microbatch_id=flight.microbatch_id,
            oldest_live=self.oldest_live,
            route=flight.route,
            entries=Tensor.of(flight.entries),
            page_table=Tensor.of(np.concatenate(tables)),
            token_ids=Tensor.of(np.concatenate(tokens)),
            sampling=sampling_columns(sampled),
        )

    def land(self, flight: Flight, times: StageTimes, now: float) -> None:
        """End a microbatch that came home."""
        del self.live[flight.microbatch_id]
        self.passes.append((now - flight.sent_s, flight.num_rows))
        self.steps.append(Step(flight.microbatch_id, flight.num_rows, flight.sent_s, now, times))

    def fail(self, microbatch_id: MicrobatchId) -> Flight | None:
        """End a microbatch that cannot come home; None if it is not live."""
        return self.live.pop(microbatch_id, None)

    def through(self, hop: Hop) -> list[Flight]:
        """List the microbatches whose way leads through this life of a worker."""
        return [flight for flight in self.live.values() if hop in flight.hops()]

    def load(self) -> Counter[WorkerId]:
        """Count the microbatches per layer worker."""
        return Counter(
            hop.worker_id for flight in self.live.values() for hop in flight.route.layer_workers
        )


def _shards(requests: Sequence[Request], entries: Entries) -> tuple[Shard, ...]:
    """Cut the entries where their attention worker changes."""
    row_stops = np.cumsum(entries[:, NUM_ROWS])
    page_stops = np.cumsum(entries[:, NUM_PAGES])
    shards, start, start_row, start_page = [], 0, 0, 0
    for home, group in groupby([request.home for request in requests]):
        assert home is not None, "a request without pages was put into a microbatch"
        stop = start + len(list(group))
        stop_row, stop_page = int(row_stops[stop - 1]), int(page_stops[stop - 1])
        shards.append(
            Shard(
                worker=home,
                start_entry=start,
                stop_entry=stop,
                start_row=start_row,
                stop_row=stop_row,
                start_page=start_page,
                stop_page=stop_page,
            )
        )
        start, start_row, start_page = stop, stop_row, stop_page
    return tuple(shards)
