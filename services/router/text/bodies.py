"""What the body of a line may say: the parameters of vLLM's OpenAI endpoints, checked one by one."""

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import ErrorDetails

from common.errors import LineRefused

MAX_CHOICES: Final = 1024
"""Choices of one line, over all its prompts."""

_TOKENS_SCHEMA: Final = {"type": "array", "items": {"type": "integer"}, "minItems": 1}
_TEXT_SCHEMA: Final = {"type": "string", "minLength": 1}
_PROMPT_SCHEMA: Final = {
    "anyOf": [
        _TEXT_SCHEMA,
        _TOKENS_SCHEMA,
        {"type": "array", "items": {"anyOf": [_TEXT_SCHEMA, _TOKENS_SCHEMA]}, "minItems": 1},
    ]
}

Checked = TypeVar("Checked", bound=BaseModel)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class JsonSchema(BaseModel):
    """`json_schema` of a `response_format`."""

    model_config = ConfigDict(extra="forbid")

    name: str = ""
    description: str = ""
    strict: bool | None = None
    """Of no consequence: a schema is always kept to."""
    schema_: dict[str, Any] = Field(alias="schema")


class ResponseFormat(BaseModel):
    """`response_format`."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("needs 'json_schema' exactly if its type is json_schema")
        return self


class StructuredOutputs(BaseModel):
    """`structured_outputs`, vLLM's way to ask for a form."""

    model_config = ConfigDict(extra="forbid")

    json_: dict[str, Any] | str | None = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = Field(None, min_length=1)
    grammar: str | None = None
    json_object: bool = False


class StreamOptions(BaseModel):
    """`stream_options`."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False
    include_obfuscation: bool = False
    """Of no consequence: chunks are as long as they are."""


class Body(BaseModel):
    """What both endpoints share. None, also as JSON's null, means: not given."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: str = ""
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    min_tokens: int = Field(0, ge=0, lt=2**31)
    temperature: float | None = Field(None, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, lt=2**31)
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float = Field(0, ge=-2, le=2)
    frequency_penalty: float = Field(0, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0)
    logit_bias: dict[int, float] = {}
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    stop: Annotated[
        list[Annotated[str, Field(min_length=1)]], Field(max_length=16), BeforeValidator(_listed)
    ] = []
    stop_token_ids: list[int] = Field([], max_length=64)
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    return_token_ids: bool = False
    truncate_prompt_tokens: int | None = Field(None, ge=-1, lt=2**31)
    """Keep only so many tokens, the last ones; -1 as many as the model can tell apart."""
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    response_format: ResponseFormat = ResponseFormat(type="text")
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = Field(None, min_length=1)
    guided_grammar: str | None = None
    """As older clients of vLLM spell `structured_outputs`."""

    # What clients send along, and what changes nothing here.
    user: str = ""
    metadata: dict[str, str] = {}
    store: bool = False
    service_tier: Literal["auto", "default", "flex"] = "auto"
    safety_identifier: str = ""
    prompt_cache_key: str = ""
    request_id: str = ""
    cache_salt: str = ""
    include_reasoning: bool = True
    priority: int = 0
    spaces_between_special_tokens: Literal[True] = True
    use_beam_search: Literal[False] = False
    echo: Literal[False] = False
    bad_words: list[str] = Field([], max_length=0)
    return_tokens_as_token_ids: Literal[False] = False
    length_penalty: float = 1.0
    guided_decoding_backend: str = ""
    logits_processors: list[str] = Field([], max_length=0)
    kv_transfer_params: dict[str, Any] = Field({}, max_length=0)
    vllm_xargs: dict[str, Any] = Field({}, max_length=0)
    best_of: Literal[1] = 1


class CompletionBody(Body):
    """`/v1/completions`."""

    prompt: Annotated[Any, WithJsonSchema(_PROMPT_SCHEMA)]
    add_special_tokens: bool = True
    logprobs: int | None = Field(None, ge=0, le=20)
    suffix: Literal[""] = ""


class ChatBody(Body):
    """`/v1/chat/completions`."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    add_special_tokens: bool = False
    add_generation_prompt: bool = True
    chat_template_kwargs: dict[str, Any] = {}
    documents: list[dict[str, str]] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["none", "auto"] = "none"
    """The template sees the tools; a call that the model makes stays in the text."""
    parallel_tool_calls: bool = True
    continue_final_message: Literal[False] = False
    reasoning_effort: str | None = None
    """For templates that know it."""
    mm_processor_kwargs: dict[str, Any] = Field({}, max_length=0)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)


def check(kind: type[Checked], given: Mapping[str, Any]) -> Checked:
    """Read a body, or any other JSON object, as its model.

    Raises:
        LineRefused: A parameter is missing, unknown or out of its range; names it.
    """
    try:
        return kind.model_validate(
            {key: value for key, value in given.items() if value is not None}
        )
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)[0]
        raise _refusal(kind, details) from None


def _refusal(kind: type[BaseModel], details: ErrorDetails) -> LineRefused:
    param = ".".join(str(step) for step in details["loc"])
    if details["type"] == "extra_forbidden":
        near = difflib.get_close_matches(param, kind.model_fields, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else "; leave it out"
        return LineRefused(f"unknown parameter '{param}'{hint}", param=param)
    if details["type"] == "missing":
        return LineRefused(f"'{param}' is missing", param=param)
    reason = details["msg"].removeprefix("Input ")
    given = repr(details["input"])
    shown = given if len(given) <= 60 else f"{given[:57]}..."
    return LineRefused(f"'{param}' {reason}, not {shown}", param=param)
