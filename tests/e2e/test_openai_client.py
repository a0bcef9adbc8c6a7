"""The official `openai` client runs against a cluster as it would against OpenAI."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.e2e.test_up import url_of
from tests.support.processes import SHIPPED, eventually, start

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(120)]

MODEL = "tiny"
QUESTION = [{"role": "user", "content": "sort: banana"}]
ANSWER = "aaabnn"


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    """One cluster for all: what it did for a test before changes no answer."""
    with (
        tempfile.TemporaryDirectory(prefix="gh-") as folder,
        start(Path(folder), "up", "--model", SHIPPED, "--port", 0) as cluster,
    ):
        try:
            url = f"{url_of(cluster)}/v1"
            with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as made:
                yield made
        finally:
            cluster.terminate()
            cluster.communicate(timeout=60)


def test_models_are_listed(client: openai.OpenAI) -> None:
    (model,) = client.models.list()

    assert client.models.retrieve(model.id) == model


def test_a_chat_is_answered_whole(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, logprobs=True, top_logprobs=2
    )

    (choice,) = answer.choices
    assert (choice.message.content, choice.finish_reason) == (ANSWER, "stop")
    assert choice.logprobs.content[0].token == ANSWER[0]
    assert len(choice.logprobs.content[0].top_logprobs) == 2
    assert answer.usage.completion_tokens == len(ANSWER) + 1


def test_a_chat_is_streamed(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        temperature=0,
        n=2,
        stream=True,
        stream_options={"include_usage": True},
    )

    *chunks, last = stream
    texts = ["", ""]
    for chunk in chunks:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [ANSWER, ANSWER]
    assert [c.choices[0].finish_reason for c in chunks].count("stop") == 2
    assert last.usage.completion_tokens == 2 * (len(ANSWER) + 1)


def test_the_clients_own_helper_puts_a_stream_together(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model=MODEL, messages=QUESTION, temperature=0) as stream:
        answer = stream.get_final_completion()

    assert answer.choices[0].message.content == ANSWER


def test_a_completion_is_the_same_whole_and_streamed(client: openai.OpenAI) -> None:
    asked = {"model": MODEL, "prompt": "abc", "max_tokens": 9, "seed": 5, "logprobs": 1}

    whole = client.completions.create(**asked).choices[0]
    pieces = [chunk.choices[0] for chunk in client.completions.create(**asked, stream=True)]

    assert "".join(piece.text for piece in pieces) == whole.text
    assert [lp for piece in pieces for lp in piece.logprobs.token_logprobs] == (
        whole.logprobs.token_logprobs
    )
    assert [at for piece in pieces for at in piece.logprobs.text_offset] == (
        whole.logprobs.text_offset
    )


def test_a_stop_string_ends_a_stream_before_it(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, stop="bn", stream=True
    )

    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "aaa"


def test_an_answer_keeps_to_its_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"enum": ["ann", "bob"]}, "age": {"type": "integer", "maximum": 99}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        n=8,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )

    people = [json.loads(choice.message.content) for choice in answer.choices]
    assert {frozenset(person) for person in people} == {frozenset({"name", "age"})}
    assert {choice.finish_reason for choice in answer.choices} == {"stop"}


def test_an_answer_is_one_of_the_choices(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL,
        prompt="a",
        n=4,
        extra_body={"structured_outputs": {"choice": ["red", "blue"]}},
    )

    assert {choice.text for choice in answer.choices} <= {"red", "blue"}


def test_a_bad_parameter_is_a_bad_request(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=QUESTION, top_p=2)

    assert (caught.value.param, caught.value.type) == ("top_p", "invalid_request_error")


def test_a_prompt_that_is_too_long_has_openais_code(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=MODEL, prompt=[5] * 600)

    assert caught.value.code == "context_length_exceeded"


def test_what_is_not_there_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_none")


def test_a_batch_runs_from_upload_to_output(client: openai.OpenAI) -> None:
    body = {"model": MODEL, "messages": QUESTION, "temperature": 0}
    lines = [
        {
            "custom_id": name,
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {**body, **own},
        }
        for name, own in [("good", {}), ("bad", {"top_p": 7})]
    ]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()

    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"who": "a test"},
    )
    eventually(lambda: client.batches.retrieve(batch.id).status == "completed")

    batch = client.batches.retrieve(batch.id)
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 1)
    assert batch.expires_at == batch.created_at + 24 * 3600
    assert batch.metadata == {"who": "a test"}
    output = json.loads(client.files.content(batch.output_file_id).text)
    error = json.loads(client.files.content(batch.error_file_id).text)
    assert output["response"]["body"]["choices"][0]["message"]["content"] == ANSWER
    assert (error["custom_id"], error["response"]["status_code"]) == ("bad", 400)
    assert [found.id for found in client.batches.list(limit=1)][:1] == [batch.id]
    assert client.files.content(file.id).content == content
    assert client.files.retrieve(batch.output_file_id).purpose == "batch_output"
    assert [found.id for found in client.files.list()] == [file.id]
    assert client.files.delete(file.id).deleted


def test_a_running_batch_is_cancelled(client: openai.OpenAI) -> None:
    line = {"method": "POST", "url": "/v1/completions"}
    body = {"prompt": "a", "max_tokens": 400, "ignore_eos": True, "n": 64}
    content = "".join(
        json.dumps({"custom_id": str(number), **line, "body": body}) + "\n" for number in range(50)
    )
    file = client.files.create(file=("in.jsonl", content.encode()), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/completions", completion_window="24h"
    )

    cancelled = client.batches.cancel(batch.id)

    assert cancelled.status == "cancelled"
    assert cancelled.cancelled_at is not None
