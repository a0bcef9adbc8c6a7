"""Calls of the HTTP API: taken in, answered whole or streamed, and forgotten when nobody listens."""

import json

import anyio
import httpx
import pytest

from services.router.calls import Calls
from services.router.http.app import create_app
from services.router.lines import JobCancelled, LineFailed
from services.router.text.ingest import Reader
from tests.support.http import TOKENS, FakeCluster, FakeState, router_metrics
from tests.support.jobs import served, write_model

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return Reader(served(write_model(tmp_path_factory.mktemp("model"))))


@pytest.fixture
def state():
    return FakeState()


@pytest.fixture
def cluster():
    return FakeCluster()


@pytest.fixture
def calls(reader, state):
    state.calls = Calls(reader, state.post, max_calls=2)
    yield state.calls
    state.calls.close()


@pytest.fixture
def client(calls, cluster):
    transport = httpx.ASGITransport(create_app(None, calls, cluster, router_metrics()))
    return httpx.AsyncClient(transport=transport, base_url="http://router")


def completion(**body):
    return {"model": "tiny", "prompt": "abc", **body}


def chat(**body):
    return {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], **body}


def events(response):
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


async def test_a_completion_is_answered_whole(client):
    answer = (await client.post("/v1/completions", json=completion())).json()

    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
    assert answer["id"].startswith("cmpl-")


async def test_a_call_goes_before_the_lines_of_batches(client, state):
    await client.post("/v1/chat/completions", json=chat(seed=5))

    (event,) = state.events
    assert event.interactive
    assert (event.lines[0].kind, event.lines[0].sampling.seed) == ("chat", 5)


async def test_a_streamed_answer_is_the_whole_one_in_pieces(client):
    whole = (await client.post("/v1/chat/completions", json=chat(n=2))).json()
    body = chat(n=2, stream=True, stream_options={"include_usage": True})

    response = await client.post("/v1/chat/completions", json=body)

    chunks = events(response)
    assert response.headers["content-type"].startswith("text/event-stream")
    texts = ["", ""]
    for chunk in chunks[:-1]:
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == [choice["message"]["content"] for choice in whole["choices"]]
    assert chunks[-1]["usage"] == whole["usage"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_fails_at_once_has_a_status(client, state, stream):
    state.failure = {"status_code": 400}

    answer = await client.post("/v1/completions", json=completion(stream=stream))

    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "message": "no", "type": "invalid_request_error", "param": None, "code": "no",
    }  # fmt: skip


async def test_a_stream_that_fails_says_so(client, calls, state):
    state.num_tokens = 1

    async def fail():
        await state.asked.wait()
        line = state.events[0].lines[0]
        calls.takes(LineFailed(line=line, code="server_error", message="it broke"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fail)
        response = await client.post("/v1/completions", json=completion(stream=True))

    assert events(response)[-1]["error"]["message"] == "it broke"


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"{", 400, None),
        (b'{"prompt": "a", "tempature": 1}', 400, "tempature"),
        (b'{"prompt": "a", "model": "other"}', 404, "model"),
    ],
)
async def test_a_call_that_cannot_be_answered_is_refused(client, body, status, param):
    answer = await client.post("/v1/completions", content=body)

    assert answer.status_code == status
    assert answer.json()["error"]["param"] == param


async def test_calls_wait_until_the_cluster_is_there(client, cluster):
    cluster.lacks = ["the KV manager"]

    answer = await client.post("/v1/completions", json=completion())

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_one_call_too_many_is_told_to_come_again(client, calls, state):
    state.num_tokens = 0
    body = json.dumps(completion()).encode()
    open_calls = [await calls.open("/v1/completions", body) for _ in range(2)]

    refused = await client.post("/v1/completions", json=completion())
    calls.hang_up(open_calls[0])
    state.num_tokens = len(TOKENS)
    taken = await client.post("/v1/completions", json=completion())

    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert refused.json()["error"]["code"] == "queue_full"
    assert taken.status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_hangs_up_is_forgotten_by_the_state(client, state, calls, stream):
    state.num_tokens = 1 if stream else 0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask_until_asked, client, state, stream)

    (ready, cancelled) = state.events
    assert cancelled == JobCancelled(job_id=ready.lines[0].job_id)
    assert len(calls) == 0


async def ask_until_asked(client, state, stream):
    """Call as a server would: the client is gone once the state has been asked."""
    app = client._transport.app
    body = json.dumps(completion(stream=stream)).encode()
    told = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        if told:
            return told.pop()
        await state.asked.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        pass

    scope = {
        "type": "http", "method": "POST", "path": "/v1/completions", "headers": [],
        "query_string": b"", "asgi": {"version": "3.0", "spec_version": "2.3"},
    }  # fmt: skip
    await app(scope, receive, send)


async def test_a_bad_chat_is_refused_in_the_words_of_a_batch_line(client):
    answer = await client.post("/v1/chat/completions", json=chat(top_p=2))

    assert answer.json()["error"]["param"] == "top_p"
