"""How fast this worker attends, measured where tokens are generated: there memory is the bound."""

from common.messages.entries import NUM_ROWS, START, Entries

_FORGET = 0.99
"""Of what was measured before, at each shard: some hundred of them count."""


class Speed:
    """Tokens of one layer that were attended to, over the engine's seconds."""

    def __init__(self) -> None:
        """Begin with nothing measured."""
        self._tokens = 0.0
        self._seconds = 0.0

    @property
    def tokens_per_s(self) -> float:
        """The speed of the last shards; 0 until there was one."""
        return self._tokens / self._seconds if self._seconds > 0 else 0.0

    def note(self, entries: Entries, engine_s: float) -> None:
        """Learn from a shard; one with rows of a prompt says nothing about generating."""
        if (entries[:, NUM_ROWS] != 1).any():
            return
        num_tokens = int(entries[:, START].sum()) + len(entries)
        self._tokens = self._tokens * _FORGET + num_tokens
        self._seconds = self._seconds * _FORGET + engine_s
