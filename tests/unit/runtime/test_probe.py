"""A probe for images without a shell."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from common.runtime import probe


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(int(self.path.strip("/")))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    """Give the address of a server that answers with the status it is asked for."""
    with HTTPServer(("127.0.0.1", 0), _Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("status", "exit_code"), [(200, 0), (503, 1), (404, 1)])
def test_the_exit_code_is_the_answer(url: str, status: int, exit_code: int) -> None:
    assert probe.main(f"{url}/{status}") == exit_code


def test_nobody_there_is_a_failure() -> None:
    assert probe.main("http://127.0.0.1:1/livez") == 1
