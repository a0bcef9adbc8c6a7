"""An answer in pieces, as the commands read it."""

from collections.abc import Callable
from contextlib import closing

import httpx
import pytest

from services.admin.client import RouterClient, RouterRefused, RouterUnreachable

Answer = Callable[[httpx.Request], httpx.Response]


def pieces(answer: Answer) -> list[dict[str, object]]:
    with closing(RouterClient("http://router")) as client:
        client._http = httpx.Client(base_url="http://router", transport=httpx.MockTransport(answer))
        return list(client.stream("/v1/completions", {}))


def test_each_piece_is_given_and_the_end_is_not_one() -> None:
    text = 'data: {"choices": []}\n\ndata: {"usage": 1}\n\ndata: [DONE]\n\n'

    assert pieces(lambda _: httpx.Response(200, text=text)) == [{"choices": []}, {"usage": 1}]


def test_an_error_on_the_way_is_ours() -> None:
    text = 'data: {"error": {"message": "the worker was lost"}}\n\n'

    with pytest.raises(RouterRefused, match="the worker was lost"):
        pieces(lambda _: httpx.Response(200, text=text))


def test_a_refusal_is_ours() -> None:
    refusal = {"error": {"message": "no such model"}}

    with pytest.raises(RouterRefused, match="no such model"):
        pieces(lambda _: httpx.Response(404, json=refusal))


def test_an_answer_that_breaks_off_is_no_router() -> None:
    def break_off(_: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("gone")

    with pytest.raises(RouterUnreachable, match="gone"):
        pieces(break_off)
