"""In which order a job's lines run."""

import json
import sqlite3

import pytest

from common.ids import JobId
from services.router.store.line_order import SCHEMA, LineOrder, outline

JOB = JobId("job")


def line(prompt: object, max_tokens: object = 16) -> str:
    return json.dumps({"custom_id": "a", "body": {"prompt": prompt, "max_tokens": max_tokens}})


def order(*texts: str) -> list[int]:
    connection = sqlite3.connect(":memory:")
    connection.executescript(SCHEMA)
    lines = LineOrder(connection)
    for number, text in enumerate(texts):
        lines.note(JOB, number, text)
    lines.settle(JOB)
    rows = connection.execute("SELECT place, number FROM places ORDER BY place").fetchall()
    assert [place for place, _ in rows] == list(range(len(texts)))
    return [number for _, number in rows]


def test_long_lines_run_early() -> None:
    assert order(line("a", 10), line("b", 1000), line("c" * 400, 50)) == [1, 2, 0]


def test_lines_that_begin_alike_run_together() -> None:
    one, other = "x" * 300, "y" * 300

    texts = [line(one + "1", 9), line(other + "1", 9), line(one + "2", 90), line(other + "2", 900)]

    assert order(*texts) == [3, 1, 2, 0]


def test_the_closer_the_beginning_the_closer_they_run() -> None:
    common, deep = "x" * 300, "z" * 900

    texts = [line(common + "a", 50), line(common + deep + "b", 40), line(common + "c", 45),
             line(common + deep + "d", 10)]  # fmt: skip

    ranked = order(*texts)
    assert abs(ranked.index(1) - ranked.index(3)) == 1


def test_lines_that_hardly_differ_keep_their_order() -> None:
    texts = [line(text * 10, limit) for text, limit in zip("abcdef", range(20, 26), strict=True)]

    assert order(*texts) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"body": 7}', '{"body": {}}', line(None), line([[1, 2]], "many")]
)
def test_whatever_a_line_is_it_has_a_place(text: str) -> None:
    assert order(text, line("a")) in ([0, 1], [1, 0])


def test_the_messages_of_a_chat_are_its_beginning() -> None:
    def chat(text: str) -> str:
        messages = [{"role": "system", "content": "s" * 300}, {"role": "user", "content": text}]
        return json.dumps({"body": {"messages": messages, "max_completion_tokens": 7}})

    (size, one), (_, other) = outline(chat("hi")), outline(chat("you"))

    assert one[0] == other[0]
    assert one[1] != other[1]
    assert size == 7  # 64 to 127 tokens
