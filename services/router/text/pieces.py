"""The pieces of a streamed answer, OpenAI's chunks, from tokens as they are generated. Pure.

The texts of a choice's pieces, one after the other, are the text that its whole answer would have.
"""

from collections.abc import Callable
from typing import Any

from services.router.lines import ChoiceOutcome, LineFinished, ParsedLine, TokenStreamed
from services.router.text.results import choice_text, count_tokens, logprobs_object, usage
from services.router.text.tokens import Tokenizer

Piece = dict[str, Any]


class PieceWriter:
    """Writes the pieces of one streamed line."""

    def __init__(self, line: ParsedLine, tokenizer: Tokenizer, created: int) -> None:
        """Begin the answer.

        Args:
            line: Streamed.
            tokenizer: The model's.
            created: Unix seconds.
        """
        assert line.streaming is not None, "nobody listens to this line"
        self._line = line
        self._tokenizer = tokenizer
        self._include_usage = line.streaming.include_usage
        self._head: Piece = {
            "id": line.answer_id,
            "object": "chat.completion.chunk" if line.kind == "chat" else "text_completion",
            "created": created,
            "model": line.model,
        }
        self._texts = [_StreamedText(line, tokenizer) for _ in range(line.num_choices)]

    def first(self) -> list[Piece]:
        """Give what comes before any token: in a chat, who speaks."""
        if self._line.kind == "completion":
            return []
        role = {"delta": {"role": "assistant", "content": ""}}
        return [self._choice(choice, role) for choice in range(len(self._texts))]

    def token(self, event: TokenStreamed) -> list[Piece]:
        """Give what is certain now that a choice has one more token."""
        line, text = self._line, self._texts[event.choice]
        offset = text.num_told
        told = text.take(event.token_id) if event.ended is None else text.end(event.ended)
        fields: Piece = {"delta": {"content": told}} if line.kind == "chat" else {"text": told}
        if event.logprobs is not None:
            shown = logprobs_object(
                line.kind, (event.token_id,), event.logprobs, self._tokenizer, offset
            )
            fields["logprobs"] = shown
        if line.return_token_ids:
            fields["token_ids"] = [event.token_id]
        if event.ended is not None:
            fields["finish_reason"] = event.ended.finish_reason
            fields["stop_reason"] = event.ended.stop_reason
        elif not told and not {"logprobs", "token_ids"} & fields.keys():
            return []
        return [self._choice(event.choice, fields)]

    def last(self, outcome: LineFinished) -> list[Piece]:
        """Give what comes behind the last choice: the token counts, if they are wanted."""
        if not self._include_usage:
            return []
        return [{**self._head, "choices": [], "usage": usage(*count_tokens(outcome))}]

    def _choice(self, index: int, fields: Piece) -> Piece:
        choice = {"index": index, "logprobs": None, "finish_reason": None, **fields}
        piece = {**self._head, "choices": [choice]}
        return {**piece, "usage": None} if self._include_usage else piece


class _StreamedText:
    """The text of one choice, told piece by piece."""

    def __init__(self, line: ParsedLine, tokenizer: Tokenizer) -> None:
        self._line = line
        self._tokenizer = tokenizer
        self._decode: Callable[[int], str] = tokenizer.stream(line.skip_special_tokens)
        self._held = ""
        """What may be the beginning of a stop string."""
        self.num_told = 0
        """Characters told so far."""

    def take(self, token_id: int) -> str:
        """Give the text that a token makes certain."""
        text = self._held + self._decode(token_id)
        sure = len(text) - _longest_beginning(text, self._line.stop.strings)
        self._held = text[sure:]
        self.num_told += sure
        return text[:sure]

    def end(self, outcome: ChoiceOutcome) -> str:
        """Give the rest of the text of a choice that has ended."""
        return choice_text(self._line, outcome, self._tokenizer)[self.num_told :]


def _longest_beginning(text: str, strings: tuple[str, ...]) -> int:
    """Count the last characters of a text that may become one of these strings."""
    return max(
        (
            length
            for string in strings
            for length in range(1, len(string))
            if text.endswith(string[:length])
        ),
        default=0,
    )
