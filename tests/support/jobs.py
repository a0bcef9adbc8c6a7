"""A model directory with a byte-level tokenizer, batch lines, and the fakes around the desk."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from common.ids import JobId
from services.router.lines import (
    GREEDY,
    ChoiceOutcome,
    LineFinished,
    ParsedLine,
    StopRules,
    TokenLogprobs,
)
from services.router.text.ingest import LinesParsed, LinesRendered, ParseLines, Reader, RenderLines
from services.router.text.line_parser import JobFacts, ServedModel

JOB = JobId("job")
EOS = 256
TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% if mood is defined %}{{ mood }}{% endif %}"
    "{% if add_generation_prompt %}<answer>{% endif %}"
)


def write_model(
    directory: Path, *, template: str | None = TEMPLATE, tokenizer: bool = True
) -> Path:
    """Write a model without weights: a token is a byte, token 256 ends the sequence."""
    directory.mkdir(parents=True, exist_ok=True)
    if tokenizer:
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {letter: number for number, letter in enumerate(letters)}
        made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        made.decoder = decoders.ByteLevel()
        made.add_special_tokens([AddedToken("</s>", special=True)])
        made.save(str(directory / "tokenizer.json"))
    config = {"eos_token": {"content": "</s>"}, "chat_template": template}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


def served(directory: Path, **changes: Any) -> ServedModel:
    """Say what is served from a directory."""
    facts: dict[str, Any] = {
        "names": ("tiny",),
        "directory": str(directory),
        "max_model_len": 100,
        "vocab_size": 257,
        "eos_token_ids": (EOS,),
    }
    return ServedModel(**{**facts, **changes})


def facts(**changes: Any) -> JobFacts:
    """Say what a job says about its lines."""
    return JobFacts(**{"job_id": JOB, "endpoint": None, "seed": 7, **changes})


def completion(custom_id: str = "a", **body: Any) -> str:
    """Write a line for `/v1/completions`."""
    return _line(custom_id, "/v1/completions", {"model": "tiny", "prompt": "abc", **body})


def chat(custom_id: str = "a", **body: Any) -> str:
    """Write a line for `/v1/chat/completions`."""
    messages = [{"role": "user", "content": "hi"}]
    return _line(custom_id, "/v1/chat/completions", {"model": "tiny", "messages": messages, **body})


def _line(custom_id: str, url: str, body: dict[str, Any]) -> str:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body})


def parsed_line(number: int = 0, **changes: Any) -> ParsedLine:
    """Make a line that is ready to run."""
    line: dict[str, Any] = {
        "job_id": JOB,
        "number": number,
        "custom_id": f"line-{number}",
        "kind": "completion",
        "model": "tiny",
        "prompts": ((1, 2, 3),),
        "n": 1,
        "sampling": replace(GREEDY, seed=7),
        "stop": stop_rules(),
        "skip_special_tokens": True,
        "return_token_ids": False,
    }
    return ParsedLine(**{**line, **changes})


def stop_rules(**changes: Any) -> StopRules:
    """Make the rules of a line that says nothing about stopping."""
    rules: dict[str, Any] = {
        "max_tokens": 16,
        "min_tokens": 0,
        "eos_token_ids": (EOS,),
        "token_ids": (),
        "strings": (),
        "include_in_text": False,
    }
    return StopRules(**{**rules, **changes})


def finished(line: ParsedLine, *token_ids: int, **changes: Any) -> LineFinished:
    """End every choice of a line with these tokens."""
    choice: dict[str, Any] = {
        "token_ids": token_ids,
        "finish_reason": "length",
        "stop_reason": None,
        "logprobs": None,
    }
    return LineFinished(
        line=line, choices=(ChoiceOutcome(**{**choice, **changes}),) * line.num_choices
    )


def logprobs(*rows: tuple[float, tuple[int, ...], tuple[float, ...]]) -> TokenLogprobs:
    """Make columns of (chosen, top tokens, top log-probabilities)."""
    chosen, tokens, top = zip(*rows, strict=True)
    return TokenLogprobs(chosen=chosen, top_tokens=tokens, top_logprobs=top)


class FakeIngest:
    """Reads and writes in this process."""

    def __init__(self, model: ServedModel) -> None:
        self._reader = Reader(model)
        self.parsed: list[ParseLines] = []

    async def parse(self, question: ParseLines) -> LinesParsed:
        """Have lines read."""
        self.parsed.append(question)
        return self._reader.parse(question)

    async def render(self, question: RenderLines) -> LinesRendered:
        """Have results written."""
        return self._reader.render(question)
