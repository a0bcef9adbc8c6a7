"""Clients that stream a completion and do nothing else, cheap enough to be a thousand."""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit


@dataclass(slots=True)
class Stream:
    """What one client saw."""

    asked_s: float
    told_s: list[float] = field(default_factory=list)
    """When each token came."""
    ended: bool = False


async def ask(url: str, body: dict[str, Any], stream: Stream | None = None) -> Stream:
    """Stream one answer; the pieces are counted, not read.

    Args:
        url: Of the router.
        body: What is asked.
        stream: Told of each piece as it comes, for those who cannot wait for the end.
    """
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: {place.netloc}\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    stream = stream or Stream(asked_s=time.monotonic())
    writer.write(head.encode() + content)
    while line := await reader.readline():
        if line.startswith(b"data: {"):
            stream.told_s.append(time.monotonic())
        elif line.startswith(b"data: [DONE]"):
            stream.ended = True
    writer.close()
    return stream
