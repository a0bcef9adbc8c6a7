"""Layer and attention workers that compute nothing: each stage takes what a profile says."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields

from common.ids import WorkerId
from common.messages import (
    AttentionRole,
    ForwardMicrobatch,
    LayerRole,
    Shard,
    StageTimes,
)
from common.messages.entries import FLAGS, NUM_ROWS, SAMPLE, START, Entries
from common.messages.tensor import DTYPE_BYTES
from common.policy.ordering import ATTENTION, POST_ATTENTION, PRE_ATTENTION, Depth
from common.policy.profile import AttentionTimes, AttentionWork, LayerTimes, MessageTimes
from services.admin.planner.virtual_clock import VirtualClock
from services.admin.planner.virtual_stations import Engine, Port, transfer

NO_COST = MessageTimes(message_s=0.0, bytes_per_s=1e30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A process of the virtual cluster: where it computes, and how it is connected."""

    engine: Engine
    port: Port


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What everything takes, in seconds."""

    layer: LayerTimes
    attention: AttentionTimes
    role: AttentionRole
    hidden_size: int
    dtype: str
    """Of activations."""
    latency_s: float
    """Of a message between the tiers, one way."""
    slice_latency_s: float
    """Of any other message."""
    layer_messages: MessageTimes = NO_COST
    """What sending and receiving takes of a layer worker's engine."""
    attention_messages: MessageTimes = NO_COST
    """The same of an attention worker's."""

    def row_bytes(self, width: int) -> int:
        """Give the bytes of a row that travels."""
        return width * DTYPE_BYTES[self.dtype]

    @property
    def query_size(self) -> int:
        """Numbers in a row of queries."""
        return self.role.num_heads * self.role.head_size

    @property
    def kv_size(self) -> int:
        """Numbers in a row of keys, and of values."""
        return self.role.num_kv_heads * self.role.head_size

    def attend(self, entries: Entries, window: int | None) -> float:
        """Give the seconds of a shard's attention in one layer."""
        work = AttentionWork.of(
            entries[:, START],
            entries[:, NUM_ROWS],
            window,
            query_size=self.query_size,
            kv_bytes_per_token=2 * self.kv_size * DTYPE_BYTES[self.role.kv_dtype],
        )
        return self.attention.attend(work)


_NO_STAY = (0.0, 0.0)
"""Seconds of a shard in an attention engine, and waiting for it."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Part:
    """The part of a microbatch on one attention worker."""

    place: Place
    out_bytes: int
    back_bytes: int
    seconds: Mapping[int | None, float]
    """Of the worker's engine in one layer, by window."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Pass:
    """A microbatch on its way through the ranges."""

    message: ForwardMicrobatch
    num_rows: int
    parts: list[_Part]
    begin_s: float
    """Of a layer worker's engine, when the microbatch has come; so are the next three."""
    advance_s: float
    leave_s: float
    finish_s: float
    layer: int = 0
    range_index: int = 0
    since_s: float = 0.0
    missing: int = 0
    slowest: tuple[float, float] = _NO_STAY
    times: dict[str, float] = field(
        default_factory=lambda: {each.name: 0.0 for each in fields(StageTimes)}
    )

    def depth(self, stage: int) -> Depth:
        return Depth(layer=self.layer, stage=stage, microbatch_id=self.message.microbatch_id)


class VirtualWorkers:
    """The workers of both tiers.

    Attributes:
        most_rows: The most rows that any microbatch had.
    """

    def __init__(
        self,
        clock: VirtualClock,
        costs: Costs,
        ranges: tuple[LayerRole, ...],
        places: Mapping[WorkerId, Place],
        home: Callable[[ForwardMicrobatch, StageTimes], None],
    ) -> None:
        """Let nothing be under way.

        Args:
            clock: Has the time.
            costs: What everything takes.
            ranges: Of the layer workers on every route.
            places: Of all workers.
            home: Is told when a microbatch arrives at the router.
        """
        self.most_rows = 0
        self._clock = clock
        self._costs = costs
        self._ranges = ranges
        self._places = places
        self._home = home

    def forward(self, message: ForwardMicrobatch) -> None:
        """Take a microbatch that the router has sent."""
        microbatch = self._make_pass(message)
        at_s = self._clock.now + self._costs.slice_latency_s
        self._clock.call_at(at_s, self._arrive, microbatch)

    def _make_pass(self, message: ForwardMicrobatch) -> _Pass:
        costs, layer = self._costs, self._costs.layer
        entries = message.entries.numpy()
        num_rows = int(entries[:, NUM_ROWS].sum())
        self.most_rows = max(self.most_rows, num_rows)
        num_sampled = int(((entries[:, FLAGS] & SAMPLE) != 0).sum())
        parts = [self._make_part(shard, entries) for shard in message.route.shards]
        pre_s, post_s = layer.pre(num_rows), layer.post(num_rows)
        own, num_parts = costs.layer_messages, len(parts)
        out_s = num_parts * own.message_s + sum(part.out_bytes for part in parts) / own.bytes_per_s
        back_s = (
            num_parts * own.message_s + sum(part.back_bytes for part in parts) / own.bytes_per_s
        )
        hidden_s = own.message_s + num_rows * costs.row_bytes(costs.hidden_size) / own.bytes_per_s
        return _Pass(
            message=message,
            num_rows=num_rows,
            parts=parts,
            begin_s=hidden_s + pre_s + out_s,
            advance_s=back_s + post_s + pre_s + out_s,
            leave_s=back_s + post_s + hidden_s,
            finish_s=back_s + layer.post(num_sampled) + layer.classify(num_sampled) + own.message_s,
        )

    def _make_part(self, shard: Shard, entries: Entries) -> _Part:
        costs, own = self._costs, self._costs.attention_messages
        num_rows = shard.stop_row - shard.start_row
        out_bytes = num_rows * costs.row_bytes(costs.query_size + 2 * costs.kv_size)
        back_bytes = num_rows * costs.row_bytes(costs.query_size)
        message_s = 2 * own.message_s + (out_bytes + back_bytes) / own.bytes_per_s
        mine = entries[shard.start_entry : shard.stop_entry]
        windows = set(costs.role.sliding_windows)
        return _Part(
            place=self._places[shard.worker.worker_id],
            out_bytes=out_bytes,
            back_bytes=back_bytes,
            seconds={window: message_s + costs.attend(mine, window) for window in windows},
        )

    # Tier 1

    def _layer_worker(self, microbatch: _Pass) -> Place:
        hop = microbatch.message.route.layer_workers[microbatch.range_index]
        return self._places[hop.worker_id]

    def _arrive(self, microbatch: _Pass) -> None:
        microbatch.layer = self._ranges[microbatch.range_index].start
        self._visit(microbatch, PRE_ATTENTION, microbatch.begin_s, self._scatter)

    def _visit(
        self, microbatch: _Pass, stage: int, seconds: float, then: Callable[[_Pass], None]
    ) -> None:
        microbatch.since_s = self._clock.now
        engine = self._layer_worker(microbatch).engine
        engine.work(microbatch.depth(stage), seconds, self._visited, microbatch, seconds, then)

    def _visited(self, microbatch: _Pass, seconds: float, then: Callable[[_Pass], None]) -> None:
        times = microbatch.times
        times["tier1_s"] += seconds
        times["queue_s"] += max(0.0, self._clock.now - microbatch.since_s - seconds)
        then(microbatch)

    def _scatter(self, microbatch: _Pass) -> None:
        clock = self._clock
        microbatch.missing, microbatch.slowest = len(microbatch.parts), _NO_STAY
        microbatch.since_s = clock.now
        port = self._layer_worker(microbatch).port
        for part in microbatch.parts:
            sent_s = transfer(port, part.place.port, part.out_bytes, clock.now)
            clock.call_at(sent_s + self._costs.latency_s, self._attend, microbatch, part)

    def _gather(self, microbatch: _Pass) -> None:
        microbatch.missing -= 1
        if microbatch.missing:
            return
        engine_s, queue_s = microbatch.slowest
        times = microbatch.times
        times["tier2_s"] += engine_s
        times["attention_queue_s"] += queue_s
        times["wait_s"] += self._clock.now - microbatch.since_s
        role = self._ranges[microbatch.range_index]
        if microbatch.layer + 1 < role.stop:
            self._visit(microbatch, POST_ATTENTION, microbatch.advance_s, self._advance)
        elif role.last:
            self._visit(microbatch, POST_ATTENTION, microbatch.finish_s, self._finish)
        else:
            self._visit(microbatch, POST_ATTENTION, microbatch.leave_s, self._leave)

    def _advance(self, microbatch: _Pass) -> None:
        microbatch.layer += 1
        self._scatter(microbatch)

    def _leave(self, microbatch: _Pass) -> None:
        port = self._layer_worker(microbatch).port
        microbatch.range_index += 1
        size_bytes = microbatch.num_rows * self._costs.row_bytes(self._costs.hidden_size)
        sent_s = transfer(port, self._layer_worker(microbatch).port, size_bytes, self._clock.now)
        self._clock.call_at(sent_s + self._costs.slice_latency_s, self._arrive, microbatch)

    def _finish(self, microbatch: _Pass) -> None:
        at_s = self._clock.now + self._costs.slice_latency_s
        times = StageTimes(**microbatch.times)
        self._clock.call_at(at_s, self._home, microbatch.message, times)

    # Tier 2

    def _attend(self, microbatch: _Pass, part: _Part) -> None:
        seconds = part.seconds[self._costs.role.sliding_windows[microbatch.layer]]
        depth = microbatch.depth(ATTENTION)
        since_s = self._clock.now
        part.place.engine.work(depth, seconds, self._attended, microbatch, part, seconds, since_s)

    def _attended(self, microbatch: _Pass, part: _Part, seconds: float, since_s: float) -> None:
        stay = (seconds, max(0.0, self._clock.now - since_s - seconds))
        microbatch.times["attention_s"] += seconds
        microbatch.slowest = max(microbatch.slowest, stay, key=sum)
        port = self._layer_worker(microbatch).port
        sent_s = transfer(part.place.port, port, part.back_bytes, self._clock.now)
        self._clock.call_at(sent_s + self._costs.latency_s, self._gather, microbatch)
