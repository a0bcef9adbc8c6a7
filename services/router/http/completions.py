"""What the answers to calls look like, for the API's own document."""

from typing import Any, Literal

from pydantic import BaseModel


class Usage(BaseModel):
    """Tokens of a call; those of the prompt count once, whatever `n`."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Choice(BaseModel):
    """One of the answers."""

    index: int
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length"]
    stop_reason: int | str | None
    token_ids: list[int] | None = None


class TextChoice(Choice):
    """A text that goes on after the prompt."""

    text: str
    prompt_token_ids: list[int] | None = None


class Message(BaseModel):
    """What the assistant says."""

    role: Literal["assistant"]
    content: str


class ChatChoice(Choice):
    """What comes next in the conversation."""

    message: Message


class Completion(BaseModel):
    """An answer."""

    id: str
    created: int
    model: str
    usage: Usage


class TextCompletion(Completion):
    """`/v1/completions`."""

    object: Literal["text_completion"]
    choices: list[TextChoice]


class ChatCompletion(Completion):
    """`/v1/chat/completions`."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    prompt_token_ids: list[int] | None = None
