"""A file that was written for vLLM's `run-batch` runs as it is."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import SHIPPED, run

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(120)]

MODEL = "meta-llama/Meta-Llama-3-8B-Instruct"
ASKED = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "sort: banana"},
]
SAMPLING: dict[str, Any] = {
    "frequency_penalty": 0.0,
    "ignore_eos": False,
    "include_stop_str_in_output": False,
    "logit_bias": {"7": -1.5},
    "min_p": 0.0,
    "min_tokens": 0,
    "n": 1,
    "presence_penalty": 0.0,
    "repetition_penalty": 1.0,
    "seed": 17,
    "skip_special_tokens": True,
    "stop": ["\n\n"],
    "stop_token_ids": [100],
    "stream": False,
    "temperature": 0.0,
    "top_k": -1,
    "top_p": 1.0,
}
"""What every line may say about its tokens, for both endpoints."""

UNUSED: dict[str, Any] = {
    "add_special_tokens": True,
    "allowed_token_ids": None,
    "bad_words": [],
    "cache_salt": None,
    "kv_transfer_params": None,
    "length_penalty": 1.0,
    "logits_processors": None,
    "priority": 0,
    "prompt_logprobs": None,
    "request_id": "a-request",
    "return_token_ids": None,
    "return_tokens_as_token_ids": None,
    "spaces_between_special_tokens": True,
    "stream_options": None,
    "structured_outputs": None,
    "truncate_prompt_tokens": None,
    "use_beam_search": False,
    "user": "somebody",
    "vllm_xargs": None,
}
"""The further fields of both, at what they are when nobody sets them."""

CHAT: dict[str, Any] = {
    **SAMPLING,
    **UNUSED,
    "add_generation_prompt": True,
    "chat_template": None,
    "chat_template_kwargs": {"enable_thinking": False},
    "continue_final_message": False,
    "documents": [{"title": "a", "text": "b"}],
    "echo": False,
    "include_reasoning": True,
    "logprobs": True,
    "max_completion_tokens": None,
    "max_tokens": 16,
    "mm_processor_kwargs": None,
    "parallel_tool_calls": True,
    "reasoning_effort": "low",
    "response_format": {"type": "text"},
    "tool_choice": "none",
    "tools": None,
    "top_logprobs": 2,
}
COMPLETION: dict[str, Any] = {
    **SAMPLING,
    **UNUSED,
    "best_of": None,
    "echo": False,
    "logprobs": 2,
    "max_tokens": 16,
    "prompt_embeds": None,
    "response_format": {"type": "text"},
    "suffix": None,
}


def line(custom_id: str, url: str, body: dict[str, Any]) -> str:
    asked = {"model": MODEL, **body}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": asked})


LINES = [
    line("short-chat", "/v1/chat/completions", {"messages": ASKED, "max_completion_tokens": 100}),
    line("whole-chat", "/v1/chat/completions", {"messages": ASKED, **CHAT}),
    line("short-text", "/v1/completions", {"prompt": "Hello my name is", "max_tokens": 8}),
    line("whole-text", "/v1/completions", {"prompt": "Hello my name is", **COMPLETION}),
    line("some-texts", "/v1/completions", {"prompt": ["a", "b"], "n": 2, "max_tokens": 4}),
    line("token-ids", "/v1/completions", {"prompt": [1, 5, 9], "max_tokens": 4}),
    line(
        "a-choice",
        "/v1/chat/completions",
        {"messages": ASKED, "structured_outputs": {"choice": ["yes", "no"]}},
    ),
    line(
        "a-schema",
        "/v1/chat/completions",
        {
            "messages": ASKED,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": {"enum": [1, 2]}},
            },
        },
    ),
    line("an-old-choice", "/v1/completions", {"prompt": "a", "guided_choice": ["red", "blue"]}),
]


def test_every_line_has_an_answer_in_the_form_of_its_endpoint(
    temporary: Path, tmp_path: Path
) -> None:
    asked, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    asked.write_text("".join(f"{text}\n" for text in LINES))

    code, _, error = run(temporary, "run-batch", "-i", asked, "-o", output, "--model", SHIPPED)

    assert code == 0, error
    results = [json.loads(text) for text in output.read_text().splitlines()]
    assert [result["error"] for result in results] == [None] * len(LINES)
    bodies = {result["custom_id"]: result["response"]["body"] for result in results}
    assert {body["model"] for body in bodies.values()} == {MODEL}
    assert [len(body["choices"]) for body in bodies.values()] == [1, 1, 1, 1, 4, 1, 1, 1, 1]
    whole = bodies["whole-chat"]["choices"][0]
    assert whole["message"]["role"] == "assistant"
    assert {len(each["top_logprobs"]) for each in whole["logprobs"]["content"]} == {2}
    assert (
        len(bodies["whole-text"]["choices"][0]["logprobs"]["tokens"])
        == (bodies["whole-text"]["usage"]["completion_tokens"])
    )
    assert bodies["a-choice"]["choices"][0]["message"]["content"] in ("yes", "no")
    assert bodies["a-schema"]["choices"][0]["message"]["content"] in ("1", "2")
    assert bodies["an-old-choice"]["choices"][0]["text"] in ("red", "blue")
