"""One stay of a microbatch on this worker: where it is, and what it waits for."""

from dataclasses import dataclass, field
from typing import Any

from common.ids import Endpoint, Epoch, MicrobatchId, WorkerId
from common.messages import (
    AttentionRequest,
    AttentionResult,
    ForwardMicrobatch,
    HiddenStates,
    Hop,
    LayerRole,
    Route,
    SampledTokens,
    Sampling,
    Tensor,
    WriteRequest,
    Written,
)
from common.messages.entries import REQUEST_ID
from common.policy.ordering import POST_ATTENTION, PRE_ATTENTION, Depth
from common.runtime.effects import Send
from services.layer_worker.parts import ShardParts, cut_shards
from services.layer_worker.stopwatch import Stopwatch
from services.layer_worker.work import (
    Advance,
    Attended,
    Begin,
    End,
    LayerBegun,
    RangeEnded,
    TokensChosen,
)

MAX_UNWRITTEN = 4
"""Layers of which writes may be under way while the microbatch goes on without waiting for them."""


@dataclass(slots=True, kw_only=True)
class Visit:
    """A microbatch between its arrival and the message that sends it on.

    It is ready (for the engine), or being computed, or out (waiting for its shards). Nobody waits
    for shards that are only written, except that the microbatch cannot leave before they are.
    """

    microbatch_id: MicrobatchId
    route: Route
    range_index: int
    entries: Tensor
    page_table: Tensor
    sampling: Sampling
    arrived: Tensor | None
    """Token ids or hidden rows; given to the engine with the first work."""
    clock: Stopwatch
    layer: int
    """The layer that it is in."""
    since_s: float
    """When it became what it is: ready, or out."""
    carry: Any = None
    parts: tuple[ShardParts, ...]
    """Of each shard of the route."""
    missing: set[int] = field(default_factory=set)
    """Shards of this layer whose attention is still out."""
    unwritten: set[tuple[int, int]] = field(default_factory=set)
    """Layers and shards that are to be written and of which that has not been heard."""
    parting: Send | None = None
    """The message that sends it on, waiting for all to be written."""
    attention: list[Attended | None] = field(default_factory=list)
    """What came back from the shards of this layer."""
    slowest: AttentionResult | None = None
    """Of those that came back from this layer, the one that stayed away longest."""

    @classmethod
    def of(cls, message: ForwardMicrobatch | HiddenStates, layer: int, now: float) -> "Visit":
        """Take in a microbatch that has just come, to begin with this layer."""
        if isinstance(message, ForwardMicrobatch):
            range_index, arrived, clock = 0, message.token_ids, Stopwatch()
        else:
            range_index, arrived = message.range_index, message.hidden
            clock = Stopwatch.going_on(message.times)
        return cls(
            microbatch_id=message.microbatch_id,
            route=message.route,
            range_index=range_index,
            entries=message.entries,
            page_table=message.page_table,
            sampling=message.sampling,
            arrived=arrived,
            clock=clock,
            layer=layer,
            since_s=now,
            parts=cut_shards(message.route, message.entries, message.page_table),
        )

    @property
    def is_out(self) -> bool:
        """Whether it waits for tier 2."""
        if self.parting:
            return bool(self.unwritten)
        unwritten_layers = {layer for layer, _ in self.unwritten}
        return bool(self.missing) or len(unwritten_layers) > MAX_UNWRITTEN

    @property
    def here(self) -> Hop:
        """This worker, as the route names it."""
        return self.route.layer_workers[self.range_index]

    @property
    def depth(self) -> Depth:
        """How far the work is that it is ready for."""
        stage = POST_ATTENTION if self.arrived is None else PRE_ATTENTION
        return Depth(layer=self.layer, stage=stage, microbatch_id=self.microbatch_id)

    def peer_at(self, endpoint: Endpoint, epoch: Epoch) -> WorkerId | None:
        """Name the peer whose life this is if it still needs it: a shard's, or the next range's."""
        peers = [shard.worker for shard in self.route.shards]
        peers += self.route.layer_workers[self.range_index + 1 :][:1]
        life = (endpoint, epoch)
        return next((p.worker_id for p in peers if (p.endpoint, p.epoch) == life), None)

    def waits_for(self) -> set[WorkerId]:
        """Name the attention workers whose answers are missing."""
        shards = self.missing | {shard for _, shard in self.unwritten}
        return {self.route.shards[index].worker.worker_id for index in shards}

    def take_work(self, role: LayerRole, now: float) -> Begin | Advance | End:
        """Give the work that it is ready for; what the work holds is no longer kept here."""
        self.clock.queue_s += now - self.since_s
        if self.arrived is not None:
            arrived, self.arrived = self.arrived, None
            return Begin(
                microbatch_id=self.microbatch_id,
                layer=self.layer,
                entries=self.entries,
                arrived=arrived,
            )
        carry, self.carry = self.carry, None
        attention = tuple(output for output in self.attention if output is not None)
        self.attention = []
        if self.layer + 1 < role.stop:
            self.layer += 1
            return Advance(
                microbatch_id=self.microbatch_id,
                layer=self.layer - 1,
                carry=carry,
                attention=attention,
            )
        return End(
            microbatch_id=self.microbatch_id,
            layer=self.layer,
            carry=carry,
            attention=attention,
            entries=self.entries,
            sampling=self.sampling if role.last else None,
        )

    def scatter(self, begun: LayerBegun, oldest_live: MicrobatchId, now: float) -> list[Send]:
        """Hand out the shards of a layer; afterwards the visit is out, or ready again."""
        self.clock.tier1_s += begun.engine_s
        self.carry, self.since_s, self.slowest = begun.carry, now, None
        self.attention = [None] * len(self.parts)
        self.missing = {index for index, parts in enumerate(self.parts) if parts.attends}
        written = {index for index, parts in enumerate(self.parts) if parts.written}
        self.unwritten |= {(self.layer, index) for index in written}
        return [
            *(self._attend(index, begun.qkv, oldest_live) for index in sorted(self.missing)),
            *(self._write(index, begun.written_kv, oldest_live) for index in sorted(written)),
        ]

    def _attend(self, index: int, qkv: Tensor, oldest_live: MicrobatchId) -> Send:
        part = self.parts[index].attends
        assert part
        request = AttentionRequest(
            microbatch_id=self.microbatch_id,
            oldest_live=oldest_live,
            layer=self.layer,
            shard=index,
            reply_to=self.here,
            entries=part.entries,
            page_table=part.page_table,
            qkv=qkv.rows(part.start_row, part.stop_row),
        )
        return Send(self.route.shards[index].worker, request)

    def _write(self, index: int, kv: Tensor | None, oldest_live: MicrobatchId) -> Send:
        part, first = self.parts[index].written, self.parts[index].first_written
        assert part
        assert kv
        request = WriteRequest(
            microbatch_id=self.microbatch_id,
            oldest_live=oldest_live,
            layer=self.layer,
            shard=index,
            reply_to=self.here,
            entries=part.entries,
            page_table=part.page_table,
            kv=kv.rows(first, first + part.num_rows),
        )
        return Send(self.route.shards[index].worker, request)

    def gather(self, answer: AttentionResult | Written, now: float) -> bool:
        """Take back one shard that it wants; True if that was what the visit waited for."""
        was_out = self.is_out
        if isinstance(answer, Written):
            self.unwritten.remove((answer.layer, answer.shard))
        else:
            self._gather_attention(answer, now)
        if not was_out or self.is_out:
            return False
        self.since_s = now
        return True

    def _gather_attention(self, result: AttentionResult, now: float) -> None:
        self.missing.remove(result.shard)
        self.attention[result.shard] = Attended(output=result.output, log_sums=result.log_sums)
        self.clock.attention_s += result.engine_s
        if self.slowest is None or _stay_s(result) > _stay_s(self.slowest):
            self.slowest = result
        if not self.missing:
            self.clock.note_wait(now - self.since_s, self.slowest)

    def wants(self, answer: AttentionResult | Written) -> bool:
        """Say whether this is the answer of a shard that is out."""
        if isinstance(answer, Written):
            return (answer.layer, answer.shard) in self.unwritten
        if answer.layer != self.layer or answer.shard not in self.missing:
            return False
        part = self.parts[answer.shard].attends
        return part is not None and answer.output.shape[0] == part.num_rows

    def leave(self, ended: RangeEnded, oldest_live: MicrobatchId) -> Send:
        """Go on to the next range; there must be one."""
        self.clock.tier1_s += ended.engine_s
        message = HiddenStates(
            microbatch_id=self.microbatch_id,
            oldest_live=oldest_live,
            route=self.route,
            range_index=self.range_index + 1,
            entries=self.entries,
            page_table=self.page_table,
            sampling=self.sampling,
            hidden=ended.hidden,
            times=self.clock.read(),
        )
        return Send(self.route.layer_workers[self.range_index + 1], message)

    def go_home(self, chosen: TokensChosen) -> SampledTokens:
        """Tell the router every entry's end of this step."""
        self.clock.tier1_s += chosen.engine_s
        return SampledTokens(
            microbatch_id=self.microbatch_id,
            request_ids=Tensor.of(self.entries.numpy()[:, REQUEST_ID]),
            tokens=chosen.tokens,
            finite=chosen.finite,
            logprobs=chosen.logprobs,
            top_tokens=chosen.top_tokens,
            top_logprobs=chosen.top_logprobs,
            times=self.clock.read(),
        )


def _stay_s(result: AttentionResult) -> float:
    return result.engine_s + result.queue_s
