"""Who may move in, and how far ahead of its need a request asks for pages."""

GROWTH_AHEAD_TOKENS = 16
"""A request asks for its next page when so many slots are left: a grant takes less than a step."""

COVERED_GROWTH = 0.25
"""Part of the growth to be expected that must find pages when a request moves in. Requests end at
different times, so that not all of them are at their largest at once."""

_OBSERVED_BEFORE_BELIEF = 8
_FORGET = 0.998


def may_move_in(*, lacking: int, available: int, growth: int, is_empty: bool) -> bool:
    """Say whether a pool has room for one more request.

    Args:
        lacking: Pages that the request needs at once.
        available: Pages that nobody holds.
        growth: Pages that all who live there, this one included, will probably need beside these.
        is_empty: Nobody lives there: then only what it needs at once counts.
    """
    return lacking + (0 if is_empty else COVERED_GROWTH * growth) <= available


class OutputShare:
    """How much of their `max_tokens` requests use, learnt from those that have ended."""

    def __init__(self) -> None:
        """Begin with nothing known: then requests are expected to use all."""
        self._num_observed = 0
        self._used = 0.0
        self._allowed = 0.0

    def observe(self, num_output: int, max_tokens: int) -> None:
        """Learn from a request that has ended; older ones count less and less."""
        self._num_observed += 1
        self._used = self._used * _FORGET + num_output
        self._allowed = self._allowed * _FORGET + max_tokens

    def expected(self, max_tokens: int) -> int:
        """Give the tokens that a request with this limit will probably generate; at least one."""
        if self._num_observed < _OBSERVED_BEFORE_BELIEF:
            return max_tokens
        return max(1, round(max_tokens * self._used / self._allowed))
