"""What a body says about the form of the answer, as a grammar that the last layer range can follow.

Needs the extra `structured`, here and where the last layers are.
"""

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

from common.errors import LineRefused
from services.router.text.bodies import Body

MAX_GRAMMAR_BYTES: Final = 64 * 1024
"""Of one grammar as it travels with each microbatch."""

_CHECKED_GRAMMARS: Final = 256
_ANY_OBJECT: Final = {"type": "object"}
_WHITESPACE: Final[Any] = {"whitespace_pattern": r"[ \n\r\t]{0,20}"}
"""As a model may indent, but not without end."""


def read_grammar(body: Body) -> str | None:
    """Give the grammar of a body; None if it asks for free text.

    Raises:
        LineRefused: It asks for two at once, or for one that cannot be followed.
    """
    wanted = [(param, kind, text) for param, kind, text in _wishes(body) if text is not None]
    if not wanted:
        return None
    param, kind, text = wanted[0]
    if len(wanted) > 1:
        message = f"'{param}' and '{wanted[1][0]}' exclude each other: give one"
        raise LineRefused(message, param=param)
    if body.min_tokens:
        message = (
            f"'min_tokens' would keep a complete answer from ending: leave it out with '{param}'"
        )
        raise LineRefused(message, param="min_tokens")
    try:
        return _checked(kind, text)
    except ValueError as error:
        message = f"'{param}' cannot be followed: {error}"
        raise LineRefused(message, param=param) from None


def _wishes(body: Body) -> Iterator[tuple[str, str, str | None]]:
    """List every way to ask for a form: (parameter, format in llguidance's words, text)."""
    asked, wish = body.response_format, body.structured_outputs
    schema = asked.json_schema.schema_ if asked.json_schema is not None else None
    yield "response_format", "json_schema", _json(schema)
    if asked.type == "json_object":
        yield "response_format", "json_schema", _json(_ANY_OBJECT)
    if wish is not None:
        yield "structured_outputs.json", "json_schema", _json(wish.json_)
        yield "structured_outputs.regex", "regex", wish.regex
        yield "structured_outputs.choice", "choice", _json(wish.choice)
        yield "structured_outputs.grammar", "grammar", wish.grammar
        if wish.json_object:
            yield "structured_outputs.json_object", "json_schema", _json(_ANY_OBJECT)
    yield "guided_json", "json_schema", _json(body.guided_json)
    yield "guided_regex", "regex", body.guided_regex
    yield "guided_choice", "choice", _json(body.guided_choice)
    yield "guided_grammar", "grammar", body.guided_grammar


def _json(value: Any) -> str | None:
    """Write a value as JSON; a schema may have come as text already."""
    return value if value is None or isinstance(value, str) else json.dumps(value)


@lru_cache(_CHECKED_GRAMMARS)
def _checked(kind: Any, text: str) -> str:
    """Give a grammar that llguidance accepts; jobs use a few of them over and over.

    Raises:
        ValueError: It does not, or the grammar is too large, or there is no llguidance.
    """
    try:
        import llguidance
    except ImportError:
        message = "llguidance is not installed; pip install 'glinthawk[structured]'"
        raise ValueError(message) from None
    if kind == "json_schema":
        grammar = llguidance.LLMatcher.grammar_from_json_schema(text, overrides=_WHITESPACE)
    else:
        grammar = llguidance.grammar_from(kind, text)
    if len(grammar.encode()) > MAX_GRAMMAR_BYTES:
        message = f"it comes to more than {MAX_GRAMMAR_BYTES} bytes"
        raise ValueError(message)
    if problem := llguidance.LLMatcher.validate_grammar(grammar):
        raise ValueError(problem)
    return grammar
