"""Result lines and answers in OpenAI's format, from what was generated. Pure."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

from common.errors import LineRefused
from common.ids import JobId
from services.router.lines import (
    ChoiceOutcome,
    LineFailed,
    LineFinished,
    LineKind,
    LineOutcome,
    ParsedLine,
    TokenLogprobs,
)
from services.router.text.stop_strings import StopStrings
from services.router.text.tokens import Tokenizer

LEAST_LOGPROB: Final = -9999.0
"""JSON knows no -inf; vLLM's users expect this number."""

TokenText = Callable[[int], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultLine:
    """What is kept of a finished line."""

    job_id: JobId
    number: int
    ok: bool
    prompt_tokens: int
    generated_tokens: int
    text: str
    """One line of JSON, without its newline."""


def render(outcome: LineOutcome, tokenizer: Tokenizer, created: int) -> ResultLine:
    """Give the result line of a line that was run."""
    line = outcome.line
    if isinstance(outcome, LineFailed):
        refusal = LineRefused(outcome.message, code=outcome.code)
        return refuse(line.job_id, line.number, line.custom_id, refusal, outcome.status_code)
    prompt_tokens, generated_tokens = count_tokens(outcome)
    return ResultLine(
        job_id=line.job_id,
        number=line.number,
        ok=True,
        prompt_tokens=prompt_tokens,
        generated_tokens=generated_tokens,
        text=_text(
            line.job_id,
            line.number,
            line.custom_id,
            _response(200, answer_body(outcome, tokenizer, created)),
            None,
        ),
    )


def answer_body(outcome: LineFinished, tokenizer: Tokenizer, created: int) -> dict[str, Any]:
    """Give the body that answers a line or a call in OpenAI's format."""
    line = outcome.line
    body: dict[str, Any] = {
        "id": line.answer_id,
        "object": "chat.completion" if line.kind == "chat" else "text_completion",
        "created": created,
        "model": line.model,
        "choices": _choices(outcome, tokenizer),
        "usage": usage(*count_tokens(outcome)),
    }
    if line.return_token_ids and line.kind == "chat":
        body["prompt_token_ids"] = line.prompts[0]
    return body


def count_tokens(outcome: LineFinished) -> tuple[int, int]:
    """Count prompt and generated tokens."""
    prompt_tokens = sum(len(prompt) for prompt in outcome.line.prompts)
    return prompt_tokens, sum(len(choice.token_ids) for choice in outcome.choices)


def usage(prompt_tokens: int, generated_tokens: int) -> dict[str, int]:
    """Give OpenAI's `usage`."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": generated_tokens,
        "total_tokens": prompt_tokens + generated_tokens,
    }


def error_object(
    status_code: int, message: str, code: str | None, param: str | None
) -> dict[str, Any]:
    """Give what stands under `error` in a body, in OpenAI's words."""
    kind = "server_error" if status_code >= 500 else "invalid_request_error"
    return {
        "message": message,
        "type": "rate_limit_error" if status_code == 429 else kind,
        "param": param,
        "code": code,
    }


def refuse(
    job_id: JobId, number: int, custom_id: str | None, refusal: LineRefused, status_code: int = 400
) -> ResultLine:
    """Give the result line of a line that could not be run, or not to its end."""
    message = f"line {number + 1}: {refusal}"
    body = {"error": error_object(status_code, message, refusal.code, refusal.param)}
    response = _response(status_code, body)
    error = {"code": refusal.code, "message": message}
    return ResultLine(
        job_id=job_id,
        number=number,
        ok=False,
        prompt_tokens=0,
        generated_tokens=0,
        text=_text(job_id, number, custom_id, response, error),
    )


def _name(job_id: JobId, number: int) -> str:
    return f"{job_id}-{number}"


def _response(status_code: int, body: Mapping[str, Any]) -> dict[str, Any]:
    return {"status_code": status_code, "body": body}


def _text(
    job_id: JobId,
    number: int,
    custom_id: str | None,
    response: Mapping[str, Any],
    error: Mapping[str, Any] | None,
) -> str:
    name = _name(job_id, number)
    result = {
        "id": f"batch_req_{name}",
        "custom_id": custom_id,
        "response": {"request_id": name, **response},
        "error": error,
    }
    return json.dumps(result, ensure_ascii=False, allow_nan=False)


def _choices(outcome: LineFinished, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    line = outcome.line
    choices: list[dict[str, Any]] = []
    for index, choice in enumerate(outcome.choices):
        text = choice_text(line, choice, tokenizer)
        content: dict[str, Any] = (
            {"message": {"role": "assistant", "content": text}}
            if line.kind == "chat"
            else {"text": text}
        )
        entry = {
            "index": index,
            **content,
            "logprobs": choice.logprobs
            and logprobs_object(line.kind, choice.token_ids, choice.logprobs, tokenizer),
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }
        if line.return_token_ids:
            entry["token_ids"] = choice.token_ids
            if line.kind == "completion":
                entry["prompt_token_ids"] = line.prompts[index // line.n]
        choices.append(entry)
    return choices


def choice_text(line: ParsedLine, choice: ChoiceOutcome, tokenizer: Tokenizer) -> str:
    """Give the text of a choice that has ended, cut where its stop string says."""
    decode = tokenizer.decoder(line.skip_special_tokens)
    if isinstance(choice.stop_reason, str):
        strings = StopStrings(decode, line.stop.strings)
        return strings.cut(choice.token_ids, choice.stop_reason, include=line.stop.include_in_text)
    stopped = choice.finish_reason == "stop" and not line.stop.include_in_text
    return decode(choice.token_ids[:-1] if stopped else choice.token_ids)


def logprobs_object(
    kind: LineKind,
    token_ids: Sequence[int],
    columns: TokenLogprobs,
    tokenizer: Tokenizer,
    offset: int = 0,
) -> dict[str, Any]:
    """Give the logprobs of tokens as the endpoint shows them.

    Args:
        kind: The endpoint.
        token_ids: Of one choice, consecutive.
        columns: Of these tokens.
        tokenizer: The model's.
        offset: Where in the choice's text they begin.
    """
    if kind == "chat":
        return _chat_logprobs(token_ids, columns, tokenizer.token_text)
    return _completion_logprobs(token_ids, columns, tokenizer.token_text, offset)


def _completion_logprobs(
    token_ids: Sequence[int], columns: TokenLogprobs, token_text: TokenText, offset: int
) -> dict[str, Any]:
    tokens = [token_text(token_id) for token_id in token_ids]
    chosen = [max(logprob, LEAST_LOGPROB) for logprob in columns.chosen]
    top: list[dict[str, float]] = []
    for row, (ids, logprobs) in enumerate(
        zip(columns.top_tokens, columns.top_logprobs, strict=True)
    ):
        # The token itself is always among them; the better of two that share a text is kept.
        named = {tokens[row]: chosen[row]}
        for token_id, logprob in zip(ids, logprobs, strict=True):
            named.setdefault(token_text(token_id), max(logprob, LEAST_LOGPROB))
        top.append(named)
    offsets = list(accumulate((len(token) for token in tokens), initial=offset))
    return {
        "text_offset": offsets[:-1],
        "token_logprobs": chosen,
        "tokens": tokens,
        "top_logprobs": top,
    }


def _chat_logprobs(
    token_ids: Sequence[int], columns: TokenLogprobs, token_text: TokenText
) -> dict[str, Any]:
    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        text = token_text(token_id)
        return {
            "token": text,
            "logprob": max(logprob, LEAST_LOGPROB),
            "bytes": list(text.encode()),
        }

    rows = zip(token_ids, columns.chosen, columns.top_tokens, columns.top_logprobs, strict=True)
    return {
        "content": [
            {
                **entry(token_id, logprob),
                "top_logprobs": [entry(*pair) for pair in zip(ids, logprobs, strict=True)],
            }
            for token_id, logprob, ids, logprobs in rows
        ]
    }
