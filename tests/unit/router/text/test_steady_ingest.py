"""The ingest process may die on a line: the others are read, and only that one has an error line."""

import json

import pytest

from services.router.text.ingest import IngestLost, ParseLines, Reader, RenderLines
from services.router.text.steady_ingest import SteadyIngest
from tests.support.jobs import completion, facts, finished, parsed_line, served, write_model

pytestmark = pytest.mark.anyio


@pytest.fixture
def reader(tmp_path):
    return Reader(served(write_model(tmp_path / "model")))


class MortalIngest:
    """Dies when it sees a line whose number is deadly."""

    def __init__(self, reader, deadly, lives):
        self._reader = reader
        self._deadly = deadly
        self.is_alive = True
        lives.append(self)

    async def parse(self, question):
        self._face(number for number, _ in question.lines)
        return self._reader.parse(question)

    async def render(self, question):
        self._face(outcome.line.number for outcome in question.outcomes)
        return self._reader.render(question)

    def close(self):
        self.is_alive = False

    def _face(self, numbers):
        assert self.is_alive
        for number in numbers:
            if self._deadly.get(number, 0) > 0:
                self._deadly[number] -= 1
                raise IngestLost("it died")


@pytest.fixture
def make(reader):
    """Give what makes a steady ingest and the list of its processes."""

    def make_one(deadly):
        lives = []
        return SteadyIngest(lambda: MortalIngest(reader, deadly, lives)), lives

    return make_one


def question():
    texts = [completion("a"), completion("b"), completion("c")]
    return ParseLines(job=facts(), lines=tuple(enumerate(texts)))


async def test_a_process_that_died_for_no_reason_of_ours_is_asked_again(make):
    steady, lives = make({1: 1})

    answer = await steady.parse(question())

    assert [line.custom_id for line in answer.lines] == ["a", "b", "c"]
    assert answer.refused == ()
    assert [life.is_alive for life in lives] == [False, True]


async def test_a_line_that_is_deadly_to_read_gets_an_error_line(make):
    steady, lives = make({1: 99})

    answer = await steady.parse(question())

    assert [line.custom_id for line in answer.lines] == ["a", "c"]
    (refused,) = answer.refused
    result = json.loads(refused.text)
    assert (refused.number, result["custom_id"]) == (1, "b")
    assert "ended the ingest process twice" in result["error"]["message"]
    assert len(lives) == 4


async def test_a_result_that_is_deadly_to_write_becomes_an_error_line(make):
    steady, _ = make({1: 99})
    outcomes = tuple(finished(parsed_line(number), 65) for number in range(3))

    answer = await steady.render(RenderLines(outcomes=outcomes, created=5))

    assert [(result.number, result.ok) for result in answer.results] == [
        (0, True),
        (1, False),
        (2, True),
    ]


async def test_a_process_that_does_not_even_start_refuses_no_line(reader):
    class Stillborn(MortalIngest):
        def _face(self, numbers):
            raise IngestLost("it cannot start")

    steady = SteadyIngest(lambda: Stillborn(reader, {}, []))

    with pytest.raises(IngestLost):
        await steady.parse(question())
