"""Find the string that ends a choice, token by token, and cut the text there. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Decode = Callable[[Sequence[int]], str]
"""Token ids to text."""

_MARGIN_TOKENS: Final = 4
"""A tail of tokens may begin inside a character of up to four bytes."""


@dataclass(frozen=True, slots=True)
class StopStrings:
    """The stop strings of a line, asked after each token of each of its choices."""

    decode: Decode
    """With the line's own `skip_special_tokens`."""
    strings: tuple[str, ...]

    def found(self, token_ids: "Sequence[int] | NDArray[np.int32]") -> str | None:
        """Give the string that the last of these tokens completes; the first in the line's order.

        Only a tail is decoded: each token is at least one byte of text.
        """
        longest = max(len(string.encode()) for string in self.strings)
        tail = [int(token_id) for token_id in token_ids[-(longest + _MARGIN_TOKENS) :]]
        text = self.decode(tail)
        for string in self.strings:
            if string in text and self._start(tail, string) is not None:
                return string
        return None

    def cut(self, token_ids: Sequence[int], string: str, *, include: bool) -> str:
        """Give the text of tokens whose last completes `string`, up to it or with it."""
        text = self.decode(token_ids)
        start = self._start(token_ids, string)
        if start is None:
            return text
        return text[: start + len(string)] if include else text[:start]

    def _start(self, token_ids: Sequence[int], string: str) -> int | None:
        """Where the string begins in the text, if it ends in the text of the last token."""
        text = self.decode(token_ids)
        # An unfinished character decodes to U+FFFD, and counts as text of the last token.
        before = len(self.decode(token_ids[:-1]).rstrip("\ufffd"))
        start = text.find(string, max(0, before - len(string) + 1))
        return None if start < 0 else start
