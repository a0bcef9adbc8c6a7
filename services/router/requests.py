"""The requests: their tokens, their pages, and where each of them stands.

waiting ──ReservePages──▶ reserving ──PagesReserved──▶ ready ◀──home or failed──┐
   ▲ ▲                        │  │                       │ ▲ └──ForwardMicrobatch──▶ in flight
   │ └─ sealed ── following ◀─┘  │              no slot  ▼ │ PagesReserved            │
   └── refused for now ──────────┘                    starving       ended ◀── stop, length, failure
   ▲
   └── preempted, or its worker is lost
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import IntEnum, auto
from itertools import pairwise
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from common.ids import JobId, PageId, RequestId
from common.messages.step import Hop
from services.router.lines import (
    ChoiceOutcome,
    ChoicePrefix,
    FinishReason,
    LineFinished,
    ParsedLine,
    PrefixGrown,
    SamplingParameters,
    StopRules,
    TokenStreamed,
)
from services.router.logprobs import Logprobs
from services.router.text.stop_strings import Decode, StopStrings
from services.router.uniforms import request_key

FIRST_BATCH_ID: Final = 2**30
"""Requests of batch lines count from here and those of calls from 0, so that in every queue and for
every policy a call is older than any batch line. Ids fit an int32."""

Cause = Literal["preempted", "drained", "worker_lost"]
"""Why a request has lost its pages."""


class Standing(IntEnum):
    """Where a request stands; a number, since each token looks it up and numbers hash faster."""

    WAITING = auto()
    FOLLOWING = auto()
    """Another one fills pages that it shares."""
    RESERVING = auto()
    STARVING = auto()
    """Its next token has no slot, and its growth was refused."""
    READY = auto()
    IN_FLIGHT = auto()


@dataclass(slots=True)
class Line:
    """A line of a job that is being run: it ends when its last choice does."""

    parsed: ParsedLine
    outcomes: list[ChoiceOutcome | None]
    requests: "dict[RequestId, Request]"
    """Those that have not ended."""

    def finish(self, choice: int, outcome: ChoiceOutcome) -> LineFinished | None:
        """Take a choice's outcome; give the line's once all are there."""
        self.outcomes[choice] = outcome
        done = tuple(outcome for outcome in self.outcomes if outcome is not None)
        if len(done) < len(self.outcomes):
            return None
        return LineFinished(line=self.parsed, choices=done)


@dataclass(slots=True, eq=False)
class Request:
    """One sequence of tokens being generated."""

    request_id: RequestId
    line: Line
    choice: int
    sampling: SamplingParameters
    """How its tokens are chosen."""
    stop: StopRules
    """When it ends."""
    num_prompt: int
    key: int
    """What its random numbers depend on, together with the position."""
    tokens: NDArray[np.int32]
    """[num_prompt + max_tokens]; the first `num_tokens` are known."""
    num_tokens: int
    stop_strings: StopStrings | None
    logprobs: Logprobs | None
    standing: Standing = Standing.WAITING
    num_computed: int = 0
    """Tokens whose keys and values are in the pages."""
    pages: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    home: Hop | None = None
    """The attention worker that holds the pages."""
    num_failures: int = 0
    """Failed microbatches it was in since its last token."""
    num_kept: int = 0
    """Generated tokens that the job store has."""
    page_hashes: bytearray = field(default_factory=bytearray)
    """Of its first full pages, as far as they were needed; see `services.router.page_hashes`."""
    num_sealed: int = 0
    """Pages that were found, or told to be full."""
    sealed_in: int = 0
    """Number of the message that last told it."""
    due_at: int = 0
    """Computed tokens at which something must be done about its pages."""
    leaves_because: Cause | None = None
    """Why it has to give up its pages as soon as it is home, if it has to."""
    loss: tuple[Cause, int] | None = None
    """Why it lost its pages, and how many tokens were in them, until it has others."""

    @property
    def has_ended(self) -> bool:
        """It was let go while a microbatch still carried it."""
        return self.request_id not in self.line.requests

    @property
    def num_output(self) -> int:
        """Tokens generated so far."""
        return self.num_tokens - self.num_prompt

    @property
    def num_missing(self) -> int:
        """Known tokens that are not in the pages yet."""
        return self.num_tokens - self.num_computed

    @property
    def max_tokens(self) -> int:
        """The most tokens it can come to hold, prompt included."""
        return len(self.tokens)

    def forget_pages(self) -> None:
        """Go back to where nothing is computed; the tokens stay."""
        self.num_computed, self.home = 0, None
        self.num_sealed, self.leaves_because = 0, None
        self.pages = np.empty(0, np.int32)

    def grow(self, home: Hop, new_pages: tuple[PageId, ...]) -> None:
        """Append pages to the table."""
        self.home = home
        self.pages = np.concatenate([self.pages, np.array(new_pages, np.int32)])

    def append(self, token: int) -> None:
        """Take a generated token: whatever failed before, the request has come further."""
        self.tokens[self.num_tokens] = token
        self.num_tokens += 1
        self.num_failures = 0

    def resume(self, prefix: ChoicePrefix) -> None:
        """Go on from where an earlier life of the router had come to."""
        for token_id in prefix.token_ids:
            self.append(token_id)
        if self.logprobs is not None and prefix.logprobs is not None:
            self.logprobs.extend(prefix.logprobs)
        self.num_kept = self.num_output

    def checkpoint(self, least_tokens: int = 1) -> list[PrefixGrown]:
        """Have the newest tokens kept, if there are as many as make it worth while."""
        start = self.num_kept
        if self.num_output - start < least_tokens:
            return []
        self.num_kept = self.num_output
        line = self.line.parsed
        return [
            PrefixGrown(
                job_id=line.job_id,
                number=line.number,
                choice=self.choice,
                start=start,
                token_ids=tuple(self.output_ids(start)),
                logprobs=self.logprobs.freeze(start) if self.logprobs is not None else None,
            )
        ]

    def ending(self) -> tuple[FinishReason, int | str | None] | None:
        """Say whether the newest token ends the choice: (finish_reason, stop_reason).

        As vLLM does it: no end before `min_tokens`, then end of sequence, stop token, stop
        string, length.
        """
        stop, token = self.stop, self.tokens.item(self.num_tokens - 1)
        num_output = self.num_output
        if num_output >= stop.min_tokens:
            if token in stop.eos_token_ids:
                return "stop", None
            if token in stop.token_ids:
                return "stop", token
            if self.stop_strings is not None:
                found = self.stop_strings.found(self.tokens[self.num_prompt : self.num_tokens])
                if found is not None:
                    return "stop", found
        return ("length", None) if num_output >= stop.max_tokens else None

    def output_ids(self, start: int = 0) -> list[int]:
        """Give the tokens generated so far, from one of them on."""
        return list(map(int, self.tokens[self.num_prompt + start : self.num_tokens]))

    def outcome(self, finish_reason: FinishReason, stop_reason: int | str | None) -> ChoiceOutcome:
        """Give what was generated, when it has ended."""
        return ChoiceOutcome(
            token_ids=tuple(self.output_ids()),
            finish_reason=finish_reason,
            stop_reason=stop_reason,
            logprobs=self.logprobs.freeze() if self.logprobs is not None else None,
        )

    def streamed(self, outcome: ChoiceOutcome | None) -> list[TokenStreamed]:
        """Tell the newest token, if somebody listens; `outcome` if it is the last."""
        line = self.line.parsed
        if line.streaming is None:
            return []
        return [
            TokenStreamed(
                job_id=line.job_id,
                choice=self.choice,
                token_id=int(self.tokens[self.num_tokens - 1]),
                logprobs=self.logprobs.newest() if self.logprobs is not None else None,
                ended=outcome,
            )
        ]


def _no_requests() -> dict[Standing, dict[RequestId, Request]]:
    return {standing: {} for standing in Standing}


@dataclass(slots=True)
class Requests:
    """All requests that have not ended, by where they stand, and the lines they belong to."""

    decoder: Callable[[bool], Decode]
    """Gives the decoder for a `skip_special_tokens`."""
    by_standing: dict[Standing, dict[RequestId, Request]] = field(default_factory=_no_requests)
    """The waiting ones in order of age, which is their place in line."""
    lines: dict[tuple[JobId, int], Line] = field(default_factory=dict)
    next_call_id: int = 0
    next_batch_id: int = FIRST_BATCH_ID

    def add(self, parsed: ParsedLine, *, interactive: bool = False) -> LineFinished | None:
        """Make a request per prompt and choice of a line, waiting for pages.

        Returns:
            The line's end, if an earlier life of the router had come to the end of every choice.
        """
        line = Line(parsed, [None] * parsed.num_choices, {})
        self.lines[parsed.job_id, parsed.number] = line
        for choice in range(parsed.num_choices):
            request = self._make(line, choice, self._take_id(interactive))
            line.requests[request.request_id] = request
            self.by_standing[Standing.WAITING][request.request_id] = request
        if interactive:
            self._restore_order()
        ends = [self._resume(line, prefix) for prefix in parsed.prefixes]
        return next((end for end in ends if end is not None), None)

    def _resume(self, line: Line, prefix: ChoicePrefix) -> LineFinished | None:
        request = next(each for each in line.requests.values() if each.choice == prefix.choice)
        request.resume(prefix)
        ending = request.ending()
        if ending is None:
            return None
        self.end(request)
        finished = line.finish(request.choice, request.outcome(*ending))
        if finished is not None:
            self.end_line(line)
        return finished

    def _take_id(self, interactive: bool) -> RequestId:
        if interactive:
            self.next_call_id += 1
            return RequestId(self.next_call_id - 1)
        self.next_batch_id += 1
        return RequestId(self.next_batch_id - 1)

    def _make(self, line: Line, choice: int, request_id: RequestId) -> Request:
        parsed = line.parsed
        prompt = parsed.prompts[choice // parsed.n]
        tokens = np.zeros(len(prompt) + parsed.stop.max_tokens, np.int32)
        tokens[: len(prompt)] = prompt
        return Request(
            request_id=request_id,
            line=line,
            choice=choice,
            sampling=parsed.sampling,
            stop=parsed.stop,
            num_prompt=len(prompt),
            key=request_key(parsed.sampling.seed, choice),
            tokens=tokens,
            num_tokens=len(prompt),
            stop_strings=self._stop_strings(parsed),
            logprobs=Logprobs() if parsed.sampling.num_logprobs is not None else None,
        )

    def _stop_strings(self, parsed: ParsedLine) -> StopStrings | None:
        strings = parsed.stop.strings
        return StopStrings(self.decoder(parsed.skip_special_tokens), strings) if strings else None

    def find(self, request_id: RequestId) -> Request | None:
        """Find a request; None if it has ended."""
        for requests in self.by_standing.values():
            if request_id in requests:
                return requests[request_id]
        return None

    def num(self, *standings: Standing) -> int:
        """Count the requests that stand there."""
        return sum(len(self.by_standing[standing]) for standing in standings)

    @property
    def num_running(self) -> int:
        """Requests that hold pages."""
        return self.num(Standing.STARVING, Standing.READY, Standing.IN_FLIGHT)

    @property
    def num_active(self) -> int:
        """Requests that travel, or will in a moment: microbatches share these."""
        return self.num(Standing.RESERVING, Standing.READY, Standing.IN_FLIGHT)

    def all(self) -> list[Request]:
        """List every request that has not ended."""
        return [request for requests in self.by_standing.values() for request in requests.values()]

    def move(self, request: Request, standing: Standing) -> None:
        """Let a request stand somewhere else."""
        del self.by_standing[request.standing][request.request_id]
        request.standing = standing
        self.by_standing[standing][request.request_id] = request

    def put_back(self, requests: Iterable[Request]) -> None:
        """Let requests wait for pages again, each at its old place in line."""
        for request in requests:
            request.forget_pages()
            self.move(request, Standing.WAITING)
        self._restore_order()

    def _restore_order(self) -> None:
        waiting = self.by_standing[Standing.WAITING]
        if any(earlier > later for earlier, later in pairwise(waiting)):
            self.by_standing[Standing.WAITING] = dict(sorted(waiting.items()))

    def living_on(self, home: Hop) -> list[Request]:
        """List the requests whose pages are on this life of a worker."""
        return [request for request in self.all() if request.home == home]

    def end(self, request: Request) -> None:
        """Forget a request; what is under way of it is looked up by nobody."""
        del self.by_standing[request.standing][request.request_id]
        del request.line.requests[request.request_id]

    def end_line(self, line: Line) -> list[Request]:
        """Forget a line and give those of its requests that had not ended."""
        del self.lines[line.parsed.job_id, line.parsed.number]
        left = list(line.requests.values())
        for request in left:
            self.end(request)
        return left
