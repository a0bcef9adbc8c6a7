"""Result lines as OpenAI's and vLLM's users expect them."""

import json

import pytest

from common.errors import LineRefused
from services.router.lines import LineFailed
from services.router.text.results import refuse, render
from services.router.text.tokens import Tokenizer
from tests.support.jobs import EOS, JOB, finished, logprobs, parsed_line, stop_rules, write_model


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer(write_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def tokens(tokenizer):
    return lambda text: tokenizer.encode(text, add_special_tokens=False)


def body(outcome, tokenizer):
    return json.loads(render(outcome, tokenizer, 123).text)["response"]["body"]


def choice(outcome, tokenizer):
    return body(outcome, tokenizer)["choices"][0]


def test_a_completion_is_a_text_completion(tokenizer, tokens):
    outcome = finished(parsed_line(4), *tokens("né"))

    result = render(outcome, tokenizer, 123)

    assert (result.ok, result.prompt_tokens, result.generated_tokens) == (True, 3, 3)
    assert json.loads(result.text) == {
        "id": "batch_req_job-4",
        "custom_id": "line-4",
        "response": {
            "request_id": "job-4",
            "status_code": 200,
            "body": {
                "id": "cmpl-job-4",
                "object": "text_completion",
                "created": 123,
                "model": "tiny",
                "choices": [
                    {
                        "index": 0,
                        "text": "né",
                        "logprobs": None,
                        "finish_reason": "length",
                        "stop_reason": None,
                    }
                ],
                "usage": {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6},
            },
        },
        "error": None,
    }


def test_a_chat_has_a_message(tokenizer, tokens):
    outcome = finished(parsed_line(kind="chat"), *tokens("hi"), EOS, finish_reason="stop")

    assert body(outcome, tokenizer)["object"] == "chat.completion"
    assert choice(outcome, tokenizer)["message"] == {"role": "assistant", "content": "hi"}


@pytest.mark.parametrize(("include", "text"), [(False, "ab"), (True, "ab.")])
def test_a_stop_token_is_text_only_where_asked_for(tokenizer, tokens, include, text):
    line = parsed_line(stop=stop_rules(token_ids=tokens("."), include_in_text=include))
    outcome = finished(line, *tokens("ab."), finish_reason="stop", stop_reason=tokens(".")[0])

    assert choice(outcome, tokenizer)["text"] == text


@pytest.mark.parametrize(("include", "text"), [(False, "ab"), (True, "ab--")])
def test_a_stop_string_cuts_the_text(tokenizer, tokens, include, text):
    line = parsed_line(stop=stop_rules(strings=("--",), include_in_text=include))
    outcome = finished(line, *tokens("ab--"), finish_reason="stop", stop_reason="--")

    assert choice(outcome, tokenizer)["text"] == text


def test_several_prompts_and_n_number_their_choices(tokenizer, tokens):
    line = parsed_line(prompts=((1,), (2,)), n=2, return_token_ids=True)

    choices = body(finished(line, 5), tokenizer)["choices"]

    assert [one["index"] for one in choices] == [0, 1, 2, 3]
    assert [one["prompt_token_ids"] for one in choices] == [[1], [1], [2], [2]]
    assert choices[0]["token_ids"] == [5]


def test_completion_logprobs_are_columns(tokenizer, tokens):
    a, b = tokens("ab")
    columns = logprobs((-0.5, (a, b), (-0.5, -1.0)), (-2.0, (a, b), (float("-inf"), -2.0)))

    assert choice(finished(parsed_line(), a, b, logprobs=columns), tokenizer)["logprobs"] == {
        "text_offset": [0, 1],
        "token_logprobs": [-0.5, -2.0],
        "tokens": ["a", "b"],
        "top_logprobs": [{"a": -0.5, "b": -1.0}, {"a": -9999.0, "b": -2.0}],
    }


def test_chat_logprobs_are_rows(tokenizer, tokens):
    (a,) = tokens("a")
    line = parsed_line(kind="chat")

    (row,) = choice(finished(line, a, logprobs=logprobs((-0.5, (a,), (-0.5,)))), tokenizer)[
        "logprobs"
    ]["content"]

    entry = {"token": "a", "logprob": -0.5, "bytes": [97]}
    assert row == {**entry, "top_logprobs": [entry]}


def test_a_failed_line_is_an_error_line(tokenizer):
    outcome = LineFailed(line=parsed_line(2), code="server_error", message="it broke")

    result = render(outcome, tokenizer, 123)

    told = json.loads(result.text)
    assert (result.ok, told["custom_id"]) == (False, "line-2")
    assert told["response"]["status_code"] == 500
    assert told["error"] == {"code": "server_error", "message": "line 3: it broke"}


def test_a_refused_line_is_a_bad_request():
    result = refuse(JOB, 0, None, LineRefused("'n' is wrong", param="n"))

    told = json.loads(result.text)
    assert told["custom_id"] is None
    assert told["response"]["status_code"] == 400
    assert told["response"]["body"]["error"] == {
        "message": "line 1: 'n' is wrong",
        "type": "invalid_request_error",
        "param": "n",
        "code": "invalid_request",
    }
