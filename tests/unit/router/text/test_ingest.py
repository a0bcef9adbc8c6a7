"""The ingest process answers as its reader does, and never outlives the router."""

import json
import os
import signal
import subprocess
import sys

import pytest

from services.router.lines import LineFailed
from services.router.text.ingest import (
    Ingest,
    IngestLost,
    ParseLines,
    Reader,
    RenderLines,
    read_defaults,
)
from tests.support.jobs import (
    chat,
    completion,
    facts,
    finished,
    logprobs,
    parsed_line,
    served,
    write_model,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return served(write_model(tmp_path_factory.mktemp("model")))


def parse_question():
    texts = [completion("ä", prompt="é€"), "{", chat("b", stop=["x"], logit_bias={"1": 2})]
    return ParseLines(job=facts(), lines=tuple(enumerate(texts)))


def render_question():
    columns = logprobs((-0.5, (65,), (float("-inf"),)))
    failed = LineFailed(line=parsed_line(1), code="server_error", message="broke")
    stopped = finished(parsed_line(2), 65, finish_reason="stop", stop_reason=65)
    return RenderLines(
        outcomes=(finished(parsed_line(), 65, logprobs=columns), failed, stopped), created=5
    )


def test_lines_that_cannot_run_become_error_lines(model):
    answer = Reader(model).parse(parse_question())

    assert [line.number for line in answer.lines] == [0, 2]
    (refused,) = answer.refused
    assert (refused.number, refused.ok) == (1, False)


def test_defaults_come_from_the_generation_config(tmp_path):
    config = {"temperature": 0.6, "top_k": None, "eos_token_id": 3, "max_new_tokens": 9}
    (tmp_path / "generation_config.json").write_text(json.dumps(config))

    defaults = read_defaults(tmp_path)

    assert (defaults.temperature, defaults.top_k, defaults.max_new_tokens) == (0.6, 0, 9)


@pytest.mark.slow
async def test_the_process_answers_as_its_reader_does(model):
    reader = Reader(model)
    ingest = Ingest(model)
    try:
        assert await ingest.parse(parse_question()) == reader.parse(parse_question())
        assert await ingest.render(render_question()) == reader.render(render_question())
    finally:
        ingest.close()


@pytest.mark.slow
async def test_a_lost_process_is_told(model):
    ingest = Ingest(model)
    try:
        os.kill(ingest.pid, signal.SIGKILL)

        with pytest.raises(IngestLost):
            await ingest.parse(parse_question())
    finally:
        ingest.close()


@pytest.mark.slow
def test_the_process_ends_when_the_router_is_gone():
    ended = subprocess.run(
        [sys.executable, "-m", "services.router.text.ingest"], input=b"", check=True
    )

    assert ended.returncode == 0
