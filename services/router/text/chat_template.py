"""A model's chat template: messages in, the text of a prompt out, as transformers renders it."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from common.errors import LineRefused, ModelRefused

TEMPLATE_FAILURES: Final = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What a template may raise over messages that it does not expect."""


class ChatTemplate:
    """A compiled template. It comes with a checkpoint, so it runs in a sandbox."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Compile it.

        Args:
            source: Jinja.
            special_tokens: `bos_token`, `eos_token`, … as the template may use them.

        Raises:
            ModelRefused: The template is not valid.
        """
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self._special_tokens = dict(special_tokens)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            message = f"the model's chat template is not valid: {error}; correct it"
            raise ModelRefused(message) from error

    def render(self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
        """Render a conversation.

        Raises:
            LineRefused: The template does not take these messages.
        """
        try:
            return self._template.render(
                {**self._special_tokens, **variables, "messages": messages}
            )
        except TEMPLATE_FAILURES as error:
            message = f"the model's chat template does not take these messages: {error}"
            raise LineRefused(message, param="messages") from error


class _GenerationTag(Extension):
    """`{% generation %}` marks the assistant's part for training; here only its content counts."""

    tags = {"generation"}  # noqa: RUF012 jinja2 declares it as an instance's set

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    """Unlike jinja2's own filter: no HTML escapes, and letters stay letters."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
