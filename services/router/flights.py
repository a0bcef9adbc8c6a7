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
    LOCAL,
    LOCAL_ALIGNMENT,
    NUM_COLUMNS,
    NUM_PAGES,
    NUM_PROMPT,
    NUM_ROWS,
    REQUEST_ID,
    SAMPLE,
    START,
    Entries,
    is_written,
)
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
        self,
        advances: Sequence[tuple[Request, int]],
        layer_workers: tuple[Hop, ...],
        page_size: int,
        now: float,
        *,
        local: bool,
    ) -> tuple[Flight, ForwardMicrobatch]:
        """Make a microbatch of requests and the rows each advances by.

        Args:
            advances: Ordered by attention worker.
            layer_workers: One per range.
            page_size: Tokens per page.
            now: Monotonic seconds.
            local: Chunks of prompts attend among themselves on tier 1.
        """
        microbatch_id = self.next_id
        self.next_id = MicrobatchId(microbatch_id + 1)
        entries = _entries(advances, page_size)
        if local:
            advances, entries = _localize(advances, entries)
        requests = tuple(request for request, _ in advances)
        flight = Flight(
            microbatch_id=microbatch_id,
            route=Route(layer_workers=layer_workers, shards=_shards(requests, entries)),
            requests=requests,
            entries=entries,
            sent_s=now,
        )
        self.live[microbatch_id] = flight
        return flight, self._message(flight, advances)

    def _message(
        self, flight: Flight, advances: Sequence[tuple[Request, int]]
    ) -> ForwardMicrobatch:
        tables = [
            request.pages[:num_pages]
            for request, num_pages in zip(
                flight.requests, flight.entries[:, NUM_PAGES], strict=True
            )
        ]
        tokens = [
            request.tokens[request.num_computed : request.num_computed + num_rows]
            for request, num_rows in advances
        ]
        return ForwardMicrobatch(
            microbatch_id=flight.microbatch_id,
            oldest_live=self.oldest_live,
            route=flight.route,
            entries=Tensor.of(flight.entries),
            page_table=Tensor.of(np.concatenate(tables)),
            token_ids=Tensor.of(np.concatenate(tokens)),
            sampling=sampling_columns([r for r, rows in advances if rows == r.num_missing]),
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


def _entries(advances: Sequence[tuple[Request, int]], page_size: int) -> Entries:
    rows = [
        (
            request.request_id,
            request.num_computed,
            num_rows,
            -(-(request.num_computed + num_rows) // page_size),
            request.num_prompt,
            SAMPLE if num_rows == request.num_missing else 0,
        )
        for request, num_rows in advances
    ]
    return np.array(rows, np.int32).reshape(-1, NUM_COLUMNS)


def _localize(
    advances: Sequence[tuple[Request, int]], entries: Entries
) -> tuple[Sequence[tuple[Request, int]], Entries]:
    """Flag the chunks that attend on tier 1; of each worker's, those that are only written go last."""
    stops = entries[:, START] + entries[:, NUM_ROWS]
    aligned = entries[:, START] % LOCAL_ALIGNMENT == 0
    prompt = (stops <= entries[:, NUM_PROMPT]) & (entries[:, NUM_ROWS] > 1)
    entries[aligned & prompt, FLAGS] |= LOCAL
    written = is_written(entries).tolist()
    order = sorted(
        range(len(advances)), key=lambda index: (_home_of(advances[index][0]), written[index])
    )
    return [advances[index] for index in order], entries[order]


def _home_of(request: Request) -> WorkerId:
    assert request.home is not None, "a request without pages was put into a microbatch"
    return request.home.worker_id


def _shards(requests: Sequence[Request], entries: Entries) -> tuple[Shard, ...]:
    """Cut the entries where their attention worker changes."""
    row_stops = np.cumsum(entries[:, NUM_ROWS])
    page_stops = np.cumsum(entries[:, NUM_PAGES])
    shards, start, start_row, start_page = [], 0, 0, 0
    for home, group in groupby(requests, key=lambda request: request.home):
        assert home is not None, "a request without pages was put into a microbatch"
        stop = start + sum(1 for _ in group)
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
