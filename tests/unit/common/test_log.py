"""Log lines are JSON for machines and columns for people, and say who wrote them."""

import io
import json
import logging

import pytest
import structlog

from common.log import get_logger, set_up_logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class ClosedPipe(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


pytestmark = pytest.mark.usefixtures("logs_restored")


def test_a_line_for_a_machine_is_json_with_bound_fields():
    stream = io.StringIO()
    set_up_logs("info", "auto", stream)

    with structlog.contextvars.bound_contextvars(worker="w", epoch=7):
        get_logger().info("joined", num_pages=3)

    line = json.loads(stream.getvalue())
    assert line.pop("timestamp")
    assert line == {
        "event": "joined",
        "level": "info",
        "worker": "w",
        "epoch": 7,
        "num_pages": 3,
    }


def test_a_line_for_a_person_is_not_json():
    stream = Terminal()
    set_up_logs("info", "auto", stream)

    get_logger().info("joined")

    assert "joined" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


def test_lines_below_the_level_are_not_written():
    stream = io.StringIO()
    set_up_logs("warning", "json", stream)

    get_logger().info("joined")

    assert stream.getvalue() == ""


def test_an_exception_is_written_with_its_traceback():
    stream = io.StringIO()
    set_up_logs("info", "json", stream)

    try:
        raise KeyError("bug")
    except KeyError:
        get_logger().exception("failed")

    assert "Traceback" in json.loads(stream.getvalue())["exception"]


def test_lines_of_libraries_look_like_ours():
    stream = io.StringIO()
    set_up_logs("info", "json", stream)

    logging.getLogger("uvicorn").warning("slow %s", "client")

    line = json.loads(stream.getvalue())
    assert (line["event"], line["logger"], line["level"]) == ("slow client", "uvicorn", "warning")


def test_a_reader_that_went_away_does_not_end_the_process():
    set_up_logs("info", "json", ClosedPipe())

    get_logger().info("joined")
