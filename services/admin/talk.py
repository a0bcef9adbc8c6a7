"""`glinthawk chat` and `glinthawk complete`: say something, and read the answer as it comes."""

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

from rich.console import Console

from services.admin.client import RouterClient
from services.admin.local_cluster import ClusterPlan
from services.admin.reach import reach

_YOU = "you> "

Sampling = Mapping[str, Any]
"""Fields of the request, as OpenAI's API has them; None is left out."""


def complete(cluster: ClusterPlan | str, prompt: str, sampling: Sampling, out: TextIO) -> None:
    """Write the continuation of a prompt.

    Raises:
        GlinthawkError: There is no cluster, or it refuses the request.
    """
    with reach(cluster, _say) as client:
        body = _body(sampling, prompt=prompt)
        _write(client, "/v1/completions", body, lambda choice: choice["text"], out)


def chat(cluster: ClusterPlan | str, system: str | None, sampling: Sampling, out: TextIO) -> None:
    """Answer what is typed, turn by turn, until the end of input; piped input is one turn.

    Raises:
        GlinthawkError: There is no cluster, or it refuses the request.
    """
    with reach(cluster, _say) as client:
        messages = [{"role": "system", "content": system}] if system else []
        for said in _turns():
            messages.append({"role": "user", "content": said})
            body = _body(sampling, messages=messages)
            answer = _write(client, "/v1/chat/completions", body, _delta, out)
            messages.append({"role": "assistant", "content": answer})


def _turns() -> Iterator[str]:
    if not sys.stdin.isatty():
        if said := sys.stdin.read().strip():
            yield said
        return
    console = Console(stderr=True)
    console.print("End with Ctrl-D.", style="dim")
    while True:
        try:
            said = console.input(_YOU).strip()
        except EOFError:
            return
        if said:
            yield said


def _write(
    client: RouterClient,
    path: str,
    body: dict[str, Any],
    text_of: Callable[[dict[str, Any]], str],
    out: TextIO,
) -> str:
    said = []
    for piece in client.stream(path, body):
        new = "".join(text_of(choice) for choice in piece["choices"])
        said.append(new)
        out.write(new)
        out.flush()
    out.write("\n")
    return "".join(said)


def _delta(choice: dict[str, Any]) -> str:
    return choice["delta"].get("content") or ""


def _body(sampling: Sampling, **fields: Any) -> dict[str, Any]:
    given = {name: value for name, value in sampling.items() if value is not None}
    return {**fields, **given, "stream": True}


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
