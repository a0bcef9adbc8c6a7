"""Text to token ids and back: the tokenizer and chat template of a checkpoint."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers.decoders import DecodeStream

from common.errors import LineRefused, ModelRefused
from services.router.text.chat_template import ChatTemplate
from services.router.text.stop_strings import Decode

SpecialTokens = dict[str, str]


class Tokenizer:
    """What a checkpoint says about text; one without `tokenizer.json` knows only token ids."""

    def __init__(self, directory: Path) -> None:
        """Read `tokenizer.json`, `tokenizer_config.json` and the chat template, where they exist.

        Raises:
            ModelRefused: One of the files cannot be read.
        """
        config = read_json(directory / "tokenizer_config.json")
        self._tokenizer = _read_tokenizer(directory / "tokenizer.json")
        self._templates = _read_templates(directory, config)

    @property
    def knows_text(self) -> bool:
        """Whether there is a tokenizer at all."""
        return self._tokenizer is not None

    def encode(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        """Give the token ids of a text.

        Raises:
            LineRefused: There is no tokenizer.
        """
        if self._tokenizer is None:
            message = "the model has no tokenizer.json: give the prompt as token ids, or add one"
            raise LineRefused(message, param="prompt")
        return tuple(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Give the text of token ids; without a tokenizer it is empty."""
        if self._tokenizer is None:
            return ""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens)

    def decoder(self, skip_special_tokens: bool) -> Decode:
        """Give `decode` as the function that `StopStrings` wants."""
        return partial(self.decode, skip_special_tokens=skip_special_tokens)

    def stream(self, skip_special_tokens: bool) -> Callable[[int], str]:
        """Give a function that turns the tokens of one text, one by one, into its pieces.

        A piece is whole characters: it is empty while one is unfinished.
        """
        tokenizer = self._tokenizer
        if tokenizer is None:
            return lambda token_id: ""
        decoding = DecodeStream(skip_special_tokens=skip_special_tokens)
        return lambda token_id: decoding.step(tokenizer, token_id) or ""

    def token_text(self, token_id: int) -> str:
        """Give one token as log-probabilities name it."""
        if self._tokenizer is None:
            return f"token_id:{token_id}"
        return self.decode((token_id,), skip_special_tokens=False)

    def render_chat(
        self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]
    ) -> str:
        """Give the text of a conversation's prompt.

        Raises:
            LineRefused: There is no template, or it does not take these messages.
        """
        name = "tool_use" if variables.get("tools") and "tool_use" in self._templates else "default"
        if name not in self._templates:
            message = (
                "the model has no chat template: use /v1/completions, "
                "or put a chat_template.jinja beside its tokenizer.json"
            )
            raise LineRefused(message, param="messages")
        return self._templates[name].render(messages, variables)


def _read_tokenizer(path: Path) -> tokenizers.Tokenizer | None:
    if not path.exists():
        return None
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        message = f"{path} cannot be read: {error}; download it again"
        raise ModelRefused(message) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _read_templates(directory: Path, config: Mapping[str, Any]) -> dict[str, ChatTemplate]:
    """A file of its own goes before the configuration's entry, which may be a list of named ones."""
    entry = config.get("chat_template") or []
    sources = (
        {"default": entry}
        if isinstance(entry, str)
        else {named["name"]: named["template"] for named in entry}
    )
    path = directory / "chat_template.jinja"
    if path.exists():
        sources["default"] = path.read_text(encoding="utf-8")
    special_tokens = _special_tokens(config)
    return {name: ChatTemplate(source, special_tokens) for name, source in sources.items()}


def _special_tokens(config: Mapping[str, Any]) -> SpecialTokens:
    """Each is spelled as a string, or as an object with its string as `content`."""
    found: SpecialTokens = {}
    for name, value in config.items():
        if name.endswith("_token"):
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str):
                found[name] = text
    return found


def read_json(path: Path) -> dict[str, Any]:
    """Read one of a checkpoint's JSON objects; empty if the file does not exist.

    Raises:
        ModelRefused: The file is not JSON.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        message = f"{path} is not JSON: {error}; download it again"
        raise ModelRefused(message) from error
    return content if isinstance(content, dict) else {}
