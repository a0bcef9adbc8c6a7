"""What the router's edge and its state say to each other about jobs and their lines.

The desk hands over parsed lines (`LinesReady`) and bounds how many are unfinished; the state ends
each of them with exactly one effect, `LineFinished` or `LineFailed`. A line of a cancelled job ends
without one. A call is a job of one line, which goes before the lines of batches; if it is streamed,
the state tells each of its tokens at once (`TokenStreamed`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from common.ids import JobId

FinishReason = Literal["stop", "length"]
LineKind = Literal["completion", "chat"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParameters:
    """How the tokens of a line are chosen; every default is already filled in."""

    temperature: float
    """0 = greedy."""
    top_p: float
    """In (0, 1]."""
    top_k: int
    """0 = all."""
    min_p: float
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    """1 = none; always positive."""
    logit_bias: tuple[tuple[int, float], ...]
    """(token id, what is added to its logit)."""
    seed: int
    """In [0, 2**63). The line's own seed, or one made of the job's and the line's number: a random
    number depends on this, the choice and the position, and on nothing else."""
    num_logprobs: int | None
    """None = none wanted; else the number of alternatives beside the token's own, 0 included."""


GREEDY: Final = SamplingParameters(
    temperature=0.0,
    top_p=1.0,
    top_k=0,
    min_p=0.0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    repetition_penalty=1.0,
    logit_bias=(),
    seed=0,
    num_logprobs=None,
)
"""The likeliest token each time, and nothing told beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRules:
    """When a choice ends."""

    max_tokens: int
    """At least 1; with the longest prompt it fits into the model length."""
    min_tokens: int
    """Until so many tokens are out, no end-of-sequence or stop token is sampled and no stop string
    is looked for."""
    eos_token_ids: tuple[int, ...]
    """The model's; empty with `ignore_eos`. They end a choice with `stop_reason` None."""
    token_ids: tuple[int, ...]
    """The line's own; they end a choice with their id as `stop_reason`."""
    strings: tuple[str, ...]
    """They end a choice with the string as `stop_reason`, see `services.router.text.stop_strings`."""
    include_in_text: bool
    """Whether the text keeps the stop string, or the text of the stop token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Streaming:
    """How a call wants its answer told while it is generated."""

    include_usage: bool
    """Whether the token counts come behind the last choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprobs:
    """Columns with one element per generated token of a choice."""

    chosen: tuple[float, ...]
    """Log-probability of the token itself."""
    top_tokens: tuple[tuple[int, ...], ...]
    """The likeliest tokens, best first; `num_logprobs` of them."""
    top_logprobs: tuple[tuple[float, ...], ...]

    def extended(self, more: "TokenLogprobs") -> "TokenLogprobs":
        """Give these columns and more below them."""
        return TokenLogprobs(
            chosen=self.chosen + more.chosen,
            top_tokens=self.top_tokens + more.top_tokens,
            top_logprobs=self.top_logprobs + more.top_logprobs,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoicePrefix:
    """What an earlier life of the router had generated of a choice."""

    choice: int
    token_ids: tuple[int, ...]
    logprobs: TokenLogprobs | None = None

    def extended(self, token_ids: Sequence[int], logprobs: TokenLogprobs | None) -> "ChoicePrefix":
        """Give this prefix and what follows it."""
        if self.logprobs is not None and logprobs is not None:
            logprobs = self.logprobs.extended(logprobs)
        return replace(self, token_ids=(*self.token_ids, *token_ids), logprobs=logprobs)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedLine:
    """One line of a job, ready to run; the choices of one prompt are adjacent."""

    job_id: JobId
    number: int
    """Its place in the job's file, from 0."""
    custom_id: str
    kind: LineKind
    model: str
    """As the body spells it, to be given back."""
    prompts: tuple[tuple[int, ...], ...]
    """Token ids; none is empty."""
    n: int
    sampling: SamplingParameters
    stop: StopRules
    skip_special_tokens: bool
    return_token_ids: bool
    prefixes: tuple[ChoicePrefix, ...] = ()
    """Of the choices that go on from an earlier life of the router; at most one of each."""
    grammar: str | None = None
    """What the text of every choice must be, as llguidance spells it; None = anything."""
    streaming: Streaming | None = None
    """None = told when it has ended; so are all lines of batches."""

    @property
    def num_choices(self) -> int:
        """Sequences that are generated of it."""
        return len(self.prompts) * self.n

    @property
    def answer_id(self) -> str:
        """What the answer is called in OpenAI's format."""
        prefix = "chatcmpl" if self.kind == "chat" else "cmpl"
        return f"{prefix}-{self.job_id}-{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceOutcome:
    """What was generated for one choice of a line."""

    token_ids: tuple[int, ...]
    """The end-of-sequence or stop token included, if one ended it."""
    finish_reason: FinishReason
    stop_reason: int | str | None
    logprobs: TokenLogprobs | None
    """None unless the line wants them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinesReady:
    """Desk or calls → state: run these lines, in this order."""

    lines: tuple[ParsedLine, ...]
    interactive: bool = False
    """Somebody waits for them: they go before the lines of batches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCancelled:
    """Desk or calls → state: forget all lines of this job; say nothing more about them."""

    job_id: JobId


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStreamed:
    """State → calls: a choice of a streamed line has one more token."""

    job_id: JobId
    choice: int
    token_id: int
    logprobs: TokenLogprobs | None
    """Of this token alone; None unless the line wants them."""
    ended: ChoiceOutcome | None
    """The whole choice, if this token is its last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixGrown:
    """State → desk: a choice of an unfinished line has come further; keep what is new."""

    job_id: JobId
    number: int
    choice: int
    start: int
    """Tokens of the choice that were kept before."""
    token_ids: tuple[int, ...]
    logprobs: TokenLogprobs | None
    """Of these tokens; None unless the line wants them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineFinished:
    """State → desk or calls: every choice of the line has ended."""

    line: ParsedLine
    choices: tuple[ChoiceOutcome, ...]
    """`line.num_choices` of them; choice `i` of prompt `i // n`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineFailed:
    """State → desk or calls: the line cannot be run, or could not be finished."""

    line: ParsedLine
    code: str
    """Such as `server_error`, `context_length_exceeded`, `logits_not_finite`."""
    message: str
    """What happened, with the figures, and what to do."""
    status_code: int = 500


LineOutcome = LineFinished | LineFailed

LineNews = LineOutcome | PrefixGrown | TokenStreamed
"""Effects of the router's own: what its edge is told of lines."""
