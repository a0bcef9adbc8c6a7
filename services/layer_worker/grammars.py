"""Which tokens an entry's grammar lets it choose next.

A grammar's position is a function of the tokens that were generated, and of nothing else. The
matchers kept here save the way there: one that lags behind catches up, and one that went another
way, or is missing, is made anew.
"""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from numpy.typing import NDArray

from common.errors import ModelRefused, WireError
from common.messages import Grammars
from services.layer_worker.sampler import Allowed

Key = TypeVar("Key")
Kept = TypeVar("Kept")

MAX_MATCHERS: Final = 4096
"""Matchers that are kept, of requests and of grammars; then those go that were not used longest."""


class _Position:
    """Where one request is in its grammar."""

    __slots__ = ("matcher", "text", "tokens")

    def __init__(self, text: str, matcher: LLMatcher) -> None:
        self.text = text
        self.matcher = matcher
        self.tokens: list[int] = []
        """What the matcher has seen."""


class GrammarMasks:
    """Answers for whole microbatches. Not thread-safe."""

    def __init__(self, directory: Path, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        """Read the model's tokenizer.

        Args:
            directory: Of the checkpoint.
            vocab_size: Width of the logits.
            eos_token_ids: Tokens that are allowed where the grammar is complete.

        Raises:
            ModelRefused: The tokenizer is missing, or of a kind that grammars cannot use.
        """
        path = directory / "tokenizer.json"
        try:
            text = path.read_text(encoding="utf-8")
            self._tokenizer = LLTokenizer(text, vocab_size, list(eos_token_ids) or None)
        except (OSError, ValueError) as error:
            message = f"grammars need a tokenizer: {path} cannot be used ({error})"
            raise ModelRefused(message) from error
        self._vocab_size = vocab_size
        self._positions: OrderedDict[int, _Position] = OrderedDict()
        """By request; a request of an earlier router may have had the same id."""
        self._beginnings: OrderedDict[str, LLMatcher] = OrderedDict()
        """Matchers that have seen nothing, by grammar: copying one is quicker than making it."""

    def allowed(self, grammars: Grammars) -> Allowed:
        """Say which tokens come next. An entry that cannot go on may choose none.

        Raises:
            WireError: A grammar is not text, or a token is outside the vocabulary.
        """
        entries = grammars.entries.numpy()  # [C, 4]
        generated = grammars.tokens.numpy()
        if len(generated) and generated.max() >= self._vocab_size:
            message = f"a generated token {generated.max()}, the model has {self._vocab_size}"
            raise WireError(message)
        texts = _split_texts(grammars)
        bits = allocate_token_bitmask(len(entries), self._vocab_size)  # [C, ceil(V / 32)]
        stops = entries[:, 3].cumsum()
        for row, (_, request_id, grammar, count) in enumerate(entries.tolist()):
            tokens = generated[stops[row] - count : stops[row]].tolist()
            position = self._find(request_id, texts[grammar], tokens)
            if _follow(position, tokens):
                fill_next_token_bitmask(position.matcher, bits, row)
            else:
                bits[row] = 0
        return Allowed(
            rows=torch.from_numpy(entries[:, 0].astype(np.int64)),
            tokens=torch.from_numpy(_unpack(bits, self._vocab_size)),
        )

    def _find(self, request_id: int, text: str, tokens: list[int]) -> _Position:
        """Give a position from which these tokens can be reached."""
        position = self._positions.get(request_id)
        if (
            position is None
            or position.text != text
            or position.tokens != tokens[: len(position.tokens)]
        ):
            position = _Position(text, self._beginning(text).deep_copy())
            _keep(self._positions, request_id, position)
        self._positions.move_to_end(request_id)
        return position

    def _beginning(self, text: str) -> LLMatcher:
        matcher = self._beginnings.get(text)
        if matcher is None:
            matcher = LLMatcher(self._tokenizer, text, log_level=0)
            _keep(self._beginnings, text, matcher)
        self._beginnings.move_to_end(text)
        return matcher


def _follow(position: _Position, tokens: list[int]) -> bool:
    """Let a matcher see the tokens that it has not seen; False if they are not in its grammar."""
    matcher, unseen = position.matcher, tokens[len(position.tokens) :]
    for token in unseen:
        if matcher.is_stopped():
            break  # behind the end, where a line that ignores it goes on, nothing is in the grammar
        matcher.consume_token(token)
    position.tokens += unseen
    return not matcher.is_error()


def _keep(kept: OrderedDict[Key, Kept], key: Key, value: Kept) -> None:
    kept[key] = value
    if len(kept) > MAX_MATCHERS:
        kept.popitem(last=False)


def _split_texts(grammars: Grammars) -> list[str]:
    joined = grammars.texts.numpy().tobytes()
    stops = grammars.text_sizes.numpy().cumsum()
    starts = stops - grammars.text_sizes.numpy()
    try:
        return [joined[start:stop].decode() for start, stop in zip(starts, stops, strict=True)]
    except UnicodeDecodeError as error:
        message = f"a grammar is not UTF-8: {error}"
        raise WireError(message) from error


def _unpack(bits: NDArray[np.int32], size: int) -> NDArray[np.bool_]:
    """Turn bits into truth values.

    Shapes:
        bits: [C, ceil(V / 32)] -> [C, V]
    """
    columns = np.unpackbits(bits.view(np.uint8), axis=1, count=size, bitorder="little")
    return columns.view(np.bool_)
