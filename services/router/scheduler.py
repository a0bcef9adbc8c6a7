"""Requests in, microbatches out: the part of the router's state that decides each step."""

from dataclasses import dataclass, field

from common.ids import MicrobatchId
from common.messages import (
    Hop,
    ReserveRefused,
    SampledTokens,
    StageTimes,
    Tables,
)
from common.messages.entries import FLAGS, NUM_ROWS, SAMPLE
from common.policy.batching import choose, is_worth_sending
from common.policy.patience import deadline_s
from common.policy.prefill import attends_on_tier1
from common.runtime.effects import CancelTimer, Note, Send, SetTimer
from services.router.advances import Advances, ready_columns
from services.router.effects import Effects
from services.router.flights import Flight, Flights
from services.router.lines import JobCancelled, LineFailed, LineFinished, LinesReady
from services.router.membership import Members
from services.router.requests import Line, Request, Requests, Standing
from services.router.tenancy import Tenancy
from services.router.throttle import Rules, Throttle

_MAX_FAILURES = 4


@dataclass(slots=True)
class Totals:
    """What was done since the router started."""

    prompt_tokens: int = 0
    generated_tokens: int = 0
    lines: int = 0
    microbatches: int = 0
    failed_microbatches: int = 0
    tier1_s: float = 0.0
    """Seconds in layer engines, summed over the microbatches that came home; so are the others."""
    tier2_s: float = 0.0
    """Seconds in attention engines, of each layer's slowest shard."""
    wait_s: float = 0.0
    """Seconds between handing out a layer's shards and having the last one back."""
    queue_s: float = 0.0
    """Seconds spent ready, waiting for a layer engine."""

    def take(self, times: StageTimes) -> None:
        """Count a microbatch that came home."""
        self.microbatches += 1
        self.tier1_s += times.tier1_s
        self.tier2_s += times.tier2_s
        self.wait_s += times.wait_s
        self.queue_s += times.queue_s


@dataclass(slots=True)
class Scheduler:
    """Requests, their reservations and their microbatches, against the members there are."""

    members: Members
    rules: Rules
    requests: Requests
    flights: Flights
    totals: Totals = field(default_factory=Totals)
    closed: bool = False
    """Nothing new is started: the router is about to stop."""
    tenancy: Tenancy = field(init=False)
    throttle: Throttle = field(init=False)

    def __post_init__(self) -> None:
        """Begin with nobody holding pages, and with nothing measured."""
        self.tenancy = Tenancy(self.members, self.requests, self.rules.pages)
        self.throttle = Throttle(self.members, self.rules)

    def pump(self, now: float) -> Effects:
        """Start whatever can be started; called after every event."""
        if self.closed:
            return []
        # Who has pages needs no KV manager to go on, and no worker that his way does not lead to.
        asks = [] if self.members.missing() else self.tenancy.ask(now)
        return [*asks, *self._launch(now)]

    # Lines

    def lines_ready(self, event: LinesReady, now: float) -> Effects:
        """Take lines of a job; they wait for pages in this order."""
        ends = [self.requests.add(line, interactive=event.interactive) for line in event.lines]
        return [effect for end in ends if end is not None for effect in self._finish(end)]

    def _finish(self, finished: LineFinished) -> Effects:
        self.totals.lines += 1
        self.totals.prompt_tokens += sum(map(len, finished.line.prompts))
        return [finished]

    def checkpoint(self) -> Effects:
        """Have everything kept that was generated."""
        return [grown for request in self.requests.all() for grown in request.checkpoint()]

    def job_cancelled(self, event: JobCancelled, now: float) -> Effects:
        """Forget all lines of a job."""
        lines = [line for (job, _), line in self.requests.lines.items() if job == event.job_id]
        return [effect for line in lines for effect in self._drop(line, now)]

    def _drop(self, line: Line, now: float) -> Effects:
        effects: Effects = []
        for request in self.requests.end_line(line):
            effects += self._let_go(request, now)
        return effects

    def _let_go(self, request: Request, now: float) -> Effects:
        # Pages return only when their request is in no live microbatch.
        return [] if request.standing is Standing.IN_FLIGHT else self.tenancy.release(request, now)

    def _fail_line(
        self, request: Request, code: str, message: str, now: float, status_code: int = 500
    ) -> Effects:
        self.totals.lines += 1
        failed = LineFailed(
            line=request.line.parsed, code=code, message=message, status_code=status_code
        )
        return [*self._drop(request.line, now), failed]

    def reserve_refused(self, message: ReserveRefused, now: float) -> Effects:
        """Let a request wait for pages that come back, or fail its line if they never can."""
        effects, hopeless = self.tenancy.refused(message, now)
        if hopeless is None:
            return effects
        reason = (
            f"{hopeless.max_tokens} tokens (prompt and max_tokens) need {message.needed} pages, "
            "more than any attention worker has: lower max_tokens or raise --kv-memory"
        )
        return self._fail_line(hopeless, "kv_memory_exceeded", reason, now, status_code=400)

    # Microbatches

    def _launch(self, now: float) -> Effects:
        effects: Effects = []
        while len(self.flights.live) < self.throttle.in_flight:
            layer_workers = self.members.pipeline(self.flights.load())
            advances = self._choose() if layer_workers else None
            if layer_workers is None or advances is None:
                break
            for request in advances.requests:
                self.requests.move(request, Standing.IN_FLIGHT)
            kernel_paths = self.members.kernel_paths(layer_workers)
            if attends_on_tier1(self.rules.prefill_attention, kernel_paths):
                advances = advances.localized()
            flight, message = self.flights.launch(advances, layer_workers, now)
            effects += [Send(layer_workers[0], message), self._deadline(flight, now)]
        return effects

    def _choose(self) -> Advances | None:
        """Choose what leaves next; None if that is nothing, for now."""
        ready = list(self.requests.by_standing[Standing.READY].values())
        if not ready:
            return None
        limits = self.throttle.limits(self.requests.num_active)
        columns = ready_columns(ready)
        choice = choose(columns, limits)
        if not is_worth_sending(choice, limits, len(self.flights.live)):
            return None
        return Advances.of(ready, columns, choice, self.members.shape.attention.page_size)

    def _deadline(self, flight: Flight, now: float) -> SetTimer:
        num_retries = max(request.num_failures for request in flight.requests)
        allowed_s = deadline_s(tuple(self.flights.passes), flight.num_rows, num_retries)
        return SetTimer(("deadline", flight.microbatch_id), now + allowed_s)

    def sampled(self, message: SampledTokens, now: float) -> Effects:
        """Take a microbatch home: tokens are appended, choices end, the others are ready again."""
        flight = self.flights.live.get(message.microbatch_id)
        if flight is None:
            return []
        if not flight.expects(message):
            reason = "its homecoming names other entries"
            return self.microbatch_failed(flight.microbatch_id, reason, now)
        self.flights.land(flight, message.times, now)
        self.members.blames.praise(flight.route)
        self.totals.take(message.times)
        self.throttle.come_home(flight, message.times, self.requests.num_active, now)
        effects: Effects = [CancelTimer(("deadline", flight.microbatch_id))]
        tokens = _Homecoming(message)
        columns = flight.entries[:, (NUM_ROWS, FLAGS)].tolist()
        for request, (num_rows, flags) in zip(flight.requests, columns, strict=True):
            place = tokens.take() if flags & SAMPLE else None
            if request.has_ended:
                effects += self.tenancy.release(request, now)
                continue
            self.requests.move(request, Standing.READY)
            request.num_computed += num_rows
            if place is not None:
                effects += self._append(request, tokens, place, now)
        return [*effects, *self.tenancy.settle(flight.requests, now)]

    def _append(self, request: Request, tokens: "_Homecoming", place: int, now: float) -> Effects:
        if not tokens.finite[place]:
            return self._fail_line(request, "logits_not_finite", _no_token(request), now)
        request.append(tokens.tokens[place])
        tokens.note_logprobs(request, place)
        self.totals.generated_tokens += 1
        ending = request.ending()
        if ending is None:
            return [*request.streamed(None), *request.checkpoint(self.rules.checkpoint_tokens)]
        outcome = request.outcome(*ending)
        self.requests.end(request)
        finished = request.line.finish(request.choice, outcome)
        effects: Effects = [*request.streamed(outcome), *self.tenancy.end(request, now)]
        if finished is None:
            return [*effects, *request.checkpoint()]
        self.requests.end_line(request.line)
        return [*effects, *self._finish(finished)]

    # Failure: a microbatch that cannot come home is never repaired

    def microbatch_failed(self, microbatch_id: MicrobatchId, reason: str, now: float) -> Effects:
        """End a microbatch that failed; its requests travel again."""
        flight = self.flights.fail(microbatch_id)
        if flight is None:
            return []
        self.totals.failed_microbatches += 1
        fields = {"microbatch_id": microbatch_id, "reason": reason}
        effects: Effects = [
            CancelTimer(("deadline", microbatch_id)),
            Note("microbatch failed", fields, "warning"),
        ]
        for request in flight.requests:
            if request.has_ended:
                effects += self.tenancy.release(request, now)
            else:
                effects += self._travel_again(request, reason, now)
        return [*effects, *self.tenancy.settle(flight.requests, now)]

    def _travel_again(self, request: Request, reason: str, now: float) -> Effects:
        self.requests.move(request, Standing.READY)
        request.num_failures += 1
        if request.num_failures < _MAX_FAILURES:
            return []
        message = f"the request was in {request.num_failures} failed microbatches, last: {reason}"
        return self._fail_line(request, "server_error", message, now)

    def worker_lost(self, hop: Hop, now: float) -> Effects:
        """Fail what was under way through a worker; recompute what lived on it."""
        self.tenancy.pools_changed()
        effects: Effects = []
        for flight in self.flights.through(hop):
            reason = f"{hop.worker_id} was lost"
            effects += self.microbatch_failed(flight.microbatch_id, reason, now)
        self.tenancy.lose(self.requests.living_on(hop), "worker_lost")
        return effects

    def tables(self) -> list[Tables]:
        """Draw up who holds what: all who live somewhere, and who ended but is not home yet."""
        flying = (request for flight in self.flights.live.values() for request in flight.requests)
        ended = [request for request in flying if request.has_ended]
        return self.tenancy.tables(
            request for request in (*self.requests.all(), *ended) if request.home is not None
        )


def _no_token(request: Request) -> str:
    after = f"after {request.num_tokens} tokens"
    if request.line.parsed.grammar is not None:
        return f"no token {after} fits the grammar, or the logits are not finite: simplify it"
    return f"the logits {after} are not finite: check the model"


class _Homecoming:
    """The columns of a `SampledTokens`, as Python numbers, taken in order."""

    def __init__(self, message: SampledTokens) -> None:
        self.tokens: list[int] = message.tokens.numpy().tolist()
        self.finite: list[int] = message.finite.numpy().tolist()
        self._message = message
        self._next = 0

    def take(self) -> int:
        """Give the place of the next sampled entry."""
        self._next += 1
        return self._next - 1

    def note_logprobs(self, request: Request, place: int) -> None:
        """Append the token's logprobs to the request's, if it wants them."""
        wanted = request.sampling.num_logprobs
        if request.logprobs is None or wanted is None:
            return
        message = self._message
        request.logprobs.chosen.append(float(message.logprobs.numpy()[place]))
        request.logprobs.top_tokens.append(
            tuple(message.top_tokens.numpy()[place, :wanted].tolist())
        )
        request.logprobs.top_logprobs.append(
            tuple(message.top_logprobs.numpy()[place, :wanted].tolist())
        )
