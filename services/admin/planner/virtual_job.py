"""A job of requests that have lengths and no words, and what came of it."""

from collections.abc import Sequence

import numpy as np

from common.ids import JobId
from common.messages import ForwardMicrobatch, SampledTokens, StageTimes, Tensor
from common.messages.entries import FLAGS, NUM_ROWS, REQUEST_ID, SAMPLE, START
from services.admin.planner.lengths import Lengths
from services.router.lines import (
    GREEDY,
    LineFailed,
    LineFinished,
    LinesReady,
    ParsedLine,
    StopRules,
)
from services.router.requests import FIRST_BATCH_ID

_END, _OTHER = 1, 0
"""The token that ends a request, and all others."""


class VirtualJob:
    """Lines of given lengths; must be the first job of its cluster.

    Attributes:
        submitted_s: When it was handed in.
        ended_s: When its last line ended.
        num_unfinished: Lines without a result.
        failures: Why lines failed.
    """

    def __init__(self, lengths: Sequence[Lengths], shared_prefix: int = 0) -> None:
        """Plan the lines.

        Args:
            lengths: Of each line.
            shared_prefix: Tokens that all prompts begin with, as far as they are that long.
        """
        self.lengths = lengths
        self.submitted_s = self.ended_s = 0.0
        self.num_unfinished = len(lengths)
        self.failures: list[str] = []
        self._shared_prefix = shared_prefix
        self._last_positions = np.array([each.prompt + each.output - 1 for each in lengths])
        """Of each line, the tokens that are in the pages when its last one is chosen."""

    def lines(self) -> LinesReady:
        """Give the lines as the router takes them."""
        return LinesReady(lines=tuple(map(self._line, range(len(self.lengths)))))

    def _line(self, number: int) -> ParsedLine:
        length = self.lengths[number]
        stop = StopRules(
            max_tokens=length.limit,
            min_tokens=0,
            eos_token_ids=(_END,),
            token_ids=(),
            strings=(),
            include_in_text=False,
        )
        return ParsedLine(
            job_id=JobId("virtual"),
            number=number,
            custom_id=str(number),
            kind="completion",
            model="virtual",
            prompts=(self._prompt(number, length.prompt),),
            n=1,
            sampling=GREEDY,
            stop=stop,
            skip_special_tokens=True,
            return_token_ids=False,
        )

    def _prompt(self, number: int, num_tokens: int) -> tuple[int, ...]:
        """Make a prompt that has no more in common with others than it should."""
        shared = min(self._shared_prefix, num_tokens - 1)
        own = num_tokens - shared
        return (_OTHER,) * shared + (number + 2,) + (_OTHER,) * (own - 1)

    def sample(self, message: ForwardMicrobatch, times: StageTimes) -> SampledTokens:
        """Choose the tokens of a microbatch that comes home."""
        entries = message.entries.numpy()
        sampled = entries[(entries[:, FLAGS] & SAMPLE) != 0]
        lines = sampled[:, REQUEST_ID] - FIRST_BATCH_ID
        positions = sampled[:, START] + sampled[:, NUM_ROWS]
        tokens = np.where(positions >= self._last_positions[lines], _END, _OTHER)
        count = len(tokens)
        return SampledTokens(
            microbatch_id=message.microbatch_id,
            request_ids=Tensor.of(np.ascontiguousarray(entries[:, REQUEST_ID])),
            tokens=Tensor.of(tokens.astype(np.int32)),
            finite=Tensor.of(np.ones(count, np.int8)),
            logprobs=Tensor.of(np.zeros(count, np.float32)),
            top_tokens=Tensor.of(np.zeros((count, 0), np.int32)),
            top_logprobs=Tensor.of(np.zeros((count, 0), np.float32)),
            times=times,
        )

    def end(self, outcome: LineFinished | LineFailed, now: float) -> None:
        """Take a line's result."""
        self.num_unfinished -= 1
        self.ended_s = now
        if isinstance(outcome, LineFailed):
            self.failures.append(outcome.message)
