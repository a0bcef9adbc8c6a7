"""How fast this worker attends, measured where tokens are generated: there memory is the bound."""

from math import inf

from common.ids import MicrobatchId
from common.messages import AttentionRequest
from common.messages.entries import NUM_ROWS, START, Entries

_FORGET = 0.99
"""Of what was measured before, at each shard: some hundred of them count."""


class Speed:
    """Tokens of one layer that were attended to, over the engine's seconds."""

    def __init__(self) -> None:
        """Begin with nothing measured."""
        self._tokens = 0.0
        self._seconds = 0.0
        self._counted: tuple[MicrobatchId, int] | None = None
        """The shard that was counted last: it is the same in all layers."""
        self._num_counted: int | None = None

    @property
    def tokens_per_s(self) -> float:
        """The speed of the last shards; 0 until there was one."""
        return self._tokens / self._seconds if self._seconds > 0 else 0.0

    def note(self, request: AttentionRequest, engine_s: float) -> None:
        """Learn from a shard; one with rows of a prompt says nothing about generating."""
        if (num_tokens := self._num_tokens(request)) is not None:
            self._tokens = self._tokens * _FORGET + num_tokens
            self._seconds = self._seconds * _FORGET + engine_s

    def expected_s(self, request: AttentionRequest) -> float:
        """Give the seconds that a shard will probably take; infinity where nothing is known."""
        num_tokens = self._num_tokens(request)
        if num_tokens is None or not self._tokens:
            return inf
        return num_tokens * self._seconds / self._tokens

    def _num_tokens(self, request: AttentionRequest) -> int | None:
        shard = (request.microbatch_id, request.shard)
        if shard != self._counted:
            self._counted, self._num_counted = shard, _count(request.entries.numpy())
        return self._num_counted


def _count(entries: Entries) -> int | None:
    """Count the tokens that a shard attends to; None if it has rows of a prompt."""
    if (entries[:, NUM_ROWS] != 1).any():
        return None
    return int(entries[:, START].sum()) + len(entries)
