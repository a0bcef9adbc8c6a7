"""Read a batch line or a call's body: checked, rendered, tokenised, defaults filled in. Pure."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, Field
from pydantic_core import from_json

from common.errors import LineRefused
from common.ids import JobId
from services.router.lines import ParsedLine, SamplingParameters, StopRules, Streaming
from services.router.text.bodies import MAX_CHOICES, Body, ChatBody, CompletionBody, check
from services.router.text.grammars import read_grammar
from services.router.text.tokens import Tokenizer

Url = Literal["/v1/completions", "/v1/chat/completions"]
COMPLETIONS_URL: Final = "/v1/completions"
CHAT_URL: Final = "/v1/chat/completions"
MAX_LINE_BYTES: Final = 16 * 2**20

_DEFAULT_COMPLETION_TOKENS: Final = 16
_GREEDY_BELOW: Final = 1e-5
_LEAST_TEMPERATURE: Final = 0.01
_MAX_BIAS: Final = 100.0

Prompts = tuple[tuple[int, ...], ...]
Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """What lines are checked against."""

    names: tuple[str, ...]
    """What `model` may say, the first one in reports; empty = anything."""
    directory: str
    max_model_len: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LineDefaults:
    """What `generation_config.json` says about parameters that a line leaves out."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_new_tokens: int | None = None
    """A limit for every line, as in vLLM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFacts:
    """What a job says about all of its lines."""

    job_id: JobId
    endpoint: str | None
    """The one url that its lines may have; None = each as it likes."""
    seed: int
    """For lines without one."""


class BatchLine(BaseModel):
    """A line of OpenAI's batch format; other fields than these are the user's own notes."""

    custom_id: str = Field(min_length=1)
    method: Literal["POST"]
    url: Url
    body: dict[str, Any]


class LineParser:
    """Reads lines for one model."""

    def __init__(
        self, served: ServedModel, tokenizer: Tokenizer, defaults: LineDefaults | None = None
    ) -> None:
        self._served = served
        self._tokenizer = tokenizer
        self._defaults = defaults or LineDefaults()

    def parse(self, job: JobFacts, number: int, text: str) -> ParsedLine:
        """Read a line.

        Raises:
            LineRefused: The line cannot be run; whatever the text, nothing else is raised.
        """
        line = check(BatchLine, read_object(text))
        if job.endpoint not in (None, line.url):
            message = f"'url' is {line.url}, but the batch is for {job.endpoint}"
            raise LineRefused(message, param="url")
        parsed = self._parse_body(job, number, line)
        if parsed.streaming is not None:
            message = "'stream' is not for lines of a batch: leave it out"
            raise LineRefused(message, param="stream")
        return parsed

    def parse_call(self, call_id: JobId, url: Url, body: bytes, seed: int) -> ParsedLine:
        """Read the body of a call, which becomes a job of one line.

        Args:
            call_id: The job's id.
            url: The endpoint that was called.
            body: JSON.
            seed: For a body that brings none.

        Raises:
            LineRefused: The call cannot be answered; whatever the body, nothing else is raised.
        """
        line = BatchLine(custom_id=call_id, method="POST", url=url, body=dict(read_object(body)))
        return self._parse_body(JobFacts(job_id=call_id, endpoint=url, seed=seed), 0, line)

    def _parse_body(self, job: JobFacts, number: int, line: BatchLine) -> ParsedLine:
        body: Body
        if line.url == CHAT_URL:
            body = chat = check(ChatBody, line.body)
            prompts = self._chat_prompt(chat)
            asked = chat.max_completion_tokens or chat.max_tokens
            num_logprobs = chat.top_logprobs if chat.logprobs else None
        else:
            body = completion = check(CompletionBody, line.body)
            prompts = self._completion_prompts(completion)
            asked = completion.max_tokens
            num_logprobs = completion.logprobs
        prompts = self._truncated(prompts, body.truncate_prompt_tokens)
        self._check_body(body, prompts)
        return ParsedLine(
            job_id=job.job_id,
            number=number,
            custom_id=line.custom_id,
            kind="chat" if line.url == CHAT_URL else "completion",
            model=body.model or next(iter(self._served.names), ""),
            prompts=prompts,
            n=body.n,
            sampling=self._sampling(body, num_logprobs, _seed(body.seed, job.seed, number)),
            stop=self._stop(body, self._max_tokens(asked, prompts, line.url)),
            skip_special_tokens=body.skip_special_tokens,
            return_token_ids=body.return_token_ids,
            grammar=read_grammar(body),
            streaming=(
                Streaming(include_usage=body.stream_options.include_usage) if body.stream else None
            ),
        )

    def _truncated(self, prompts: Prompts, num_kept: int | None) -> Prompts:
        """Keep the ends of prompts, and of each as much as leaves room for a token."""
        if num_kept is None:
            return prompts
        most = self._served.max_model_len - 1
        kept = most if num_kept == -1 else min(num_kept, most)
        return tuple(prompt[max(len(prompt) - kept, 0) :] for prompt in prompts)

    def _chat_prompt(self, body: ChatBody) -> Prompts:
        effort = (
            {} if body.reasoning_effort is None else {"reasoning_effort": body.reasoning_effort}
        )
        variables = {
            **effort,
            **body.chat_template_kwargs,
            "tools": body.tools,
            "documents": body.documents,
            "add_generation_prompt": body.add_generation_prompt,
        }
        messages = [_flat_message(message) for message in body.messages]
        text = self._tokenizer.render_chat(messages, variables)
        return (self._tokenizer.encode(text, add_special_tokens=body.add_special_tokens),)

    def _completion_prompts(self, body: CompletionBody) -> Prompts:
        """Take a text, a list of token ids, or a list of either."""
        given = body.prompt
        several = isinstance(given, list) and not all(_is_token(item) for item in given)
        return tuple(
            self._completion_prompt(prompt, body.add_special_tokens)
            for prompt in (given if several else [given])
        )

    def _completion_prompt(self, prompt: Any, add_special_tokens: bool) -> tuple[int, ...]:
        if isinstance(prompt, str):
            return self._tokenizer.encode(prompt, add_special_tokens=add_special_tokens)
        if not isinstance(prompt, list) or not all(_is_token(item) for item in prompt):
            message = "'prompt' must be a text, a list of token ids, or a list of either"
            raise LineRefused(message, param="prompt")
        self._check_tokens("prompt", prompt)
        return tuple(prompt)

    def _check_body(self, body: Body, prompts: Prompts) -> None:
        names = self._served.names
        if body.model and names and body.model not in names:
            message = f"the model '{body.model}' is not served here: '{names[0]}' is"
            raise LineRefused(message, code="model_not_found", param="model")
        if not all(prompts) or not prompts:
            message = "the prompt is empty: give at least one token"
            raise LineRefused(message, param="prompt")
        if len(prompts) * body.n > MAX_CHOICES:
            message = f"{len(prompts)} prompts x n = {body.n} are more than {MAX_CHOICES} choices"
            raise LineRefused(message, param="n")
        if body.stop and not self._tokenizer.knows_text:
            message = "'stop' needs text and the model has no tokenizer.json: use 'stop_token_ids'"
            raise LineRefused(message, param="stop")
        self._check_tokens("stop_token_ids", body.stop_token_ids)
        self._check_tokens("logit_bias", list(body.logit_bias))

    def _check_tokens(self, param: str, token_ids: list[int]) -> None:
        for token_id in token_ids:
            if not 0 <= token_id < self._served.vocab_size:
                message = (
                    f"'{param}' names token {token_id}, "
                    f"the model has 0 to {self._served.vocab_size - 1}"
                )
                raise LineRefused(message, param=param)

    def _max_tokens(self, asked: int | None, prompts: Prompts, url: str) -> int:
        """Give the limit for every prompt of the line, by the longest."""
        longest = max(len(prompt) for prompt in prompts)
        room = self._served.max_model_len - longest
        if room < max(1, asked or 1):
            wanted = f"max_tokens = {asked}" if asked else "at least one more"
            hint = f"ask for at most {room}" if room > 0 else "shorten the prompt"
            message = (
                f"the prompt's {longest} tokens and {wanted} do not fit "
                f"max_model_len = {self._served.max_model_len}: {hint}"
            )
            raise LineRefused(message, code="context_length_exceeded", param="max_tokens")
        if asked is None and url == COMPLETIONS_URL:
            asked = _DEFAULT_COMPLETION_TOKENS
        return min(room, asked or room, self._defaults.max_new_tokens or room)

    def _sampling(self, body: Body, num_logprobs: int | None, seed: int) -> SamplingParameters:
        defaults = self._defaults
        temperature = _given(body.temperature, defaults.temperature)
        greedy = temperature < _GREEDY_BELOW
        return SamplingParameters(
            temperature=0.0 if greedy else max(temperature, _LEAST_TEMPERATURE),
            top_p=1.0 if greedy else _given(body.top_p, defaults.top_p),
            top_k=0 if greedy else max(0, _given(body.top_k, defaults.top_k)),
            min_p=0.0 if greedy else _given(body.min_p, defaults.min_p),
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            repetition_penalty=_given(body.repetition_penalty, defaults.repetition_penalty),
            logit_bias=tuple(
                (token, min(_MAX_BIAS, max(-_MAX_BIAS, bias)))
                for token, bias in body.logit_bias.items()
            ),
            seed=seed,
            num_logprobs=num_logprobs,
        )

    def _stop(self, body: Body, max_tokens: int) -> StopRules:
        if body.min_tokens > max_tokens:
            message = f"'min_tokens' is {body.min_tokens}, more than max_tokens = {max_tokens}"
            raise LineRefused(message, param="min_tokens")
        return StopRules(
            max_tokens=max_tokens,
            min_tokens=body.min_tokens,
            eos_token_ids=() if body.ignore_eos else self._served.eos_token_ids,
            token_ids=tuple(body.stop_token_ids),
            strings=tuple(body.stop),
            include_in_text=body.include_stop_str_in_output,
        )


def read_object(text: str | bytes) -> Mapping[str, Any]:
    """Read a JSON object.

    Raises:
        LineRefused: The text is not one.
    """
    if len(text) > MAX_LINE_BYTES:
        message = f"it is longer than {MAX_LINE_BYTES} bytes"
        raise LineRefused(message)
    try:
        given = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        message = f"it is not valid JSON: {error}"
        raise LineRefused(message) from None
    if not isinstance(given, dict):
        message = "it is not a JSON object"
        raise LineRefused(message)
    return given


def find_custom_id(text: str | bytes) -> str | None:
    """Give a line's `custom_id` if it has one, whatever else is wrong with it."""
    try:
        custom_id = read_object(text).get("custom_id")
    except LineRefused:
        return None
    return custom_id if isinstance(custom_id, str) and custom_id else None


def _flat_message(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Make one text of a content that comes in parts; templates expect a string."""
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return {**message, "content": "\n".join(_part_text(part) for part in content)}


def _part_text(part: Any) -> str:
    text = part.get("text") if isinstance(part, dict) else part
    if not isinstance(text, str):
        message = "only text is served: every part of 'content' must have a 'text'"
        raise LineRefused(message, param="messages")
    return text


def _is_token(item: Any) -> bool:
    return isinstance(item, int) and not isinstance(item, bool)


def _given(value: Number | None, default: Number) -> Number:
    return default if value is None else value


def _seed(own: int | None, of_job: int, number: int) -> int:
    """A line without a seed gets one of its own, and the same one in every run of the job."""
    if own is not None:
        return own % 2**63
    digest = hashlib.sha256(f"{of_job}/{number}".encode()).digest()
    return int.from_bytes(digest[:8], "little") % 2**63
