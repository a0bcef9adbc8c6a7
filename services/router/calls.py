"""Calls: requests of clients who wait for the answer, beside the jobs of the desk.

A call is a job of one line that is kept nowhere: it lives as long as its client listens. It shares
the reading of bodies and the writing of answers with the lines of batches, but not the ingest
process, where a call would wait behind them: short prompts in a thread of their own.
"""

import asyncio
import secrets
import time
import uuid
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from common.errors import GlinthawkError
from common.ids import JobId
from services.router.lines import (
    JobCancelled,
    LineFinished,
    LineOutcome,
    LinesReady,
    ParsedLine,
    TokenStreamed,
)
from services.router.text.ingest import Reader
from services.router.text.line_parser import Url
from services.router.text.pieces import PieceWriter

News = TokenStreamed | LineOutcome
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class TooManyCalls(GlinthawkError):
    """As many calls are under way as may be; nothing was taken in."""


class Call:
    """One call under way: what the state tells about it waits here for whoever answers it."""

    def __init__(self, line: ParsedLine, asked_at: float) -> None:
        """Begin with nothing to tell.

        Args:
            line: The call as the state knows it.
            asked_at: When it arrived, by the monotonic clock.
        """
        self.line = line
        self.created = int(time.time())
        self.asked_at = asked_at
        self.told_at: dict[int, float] = {}
        """When the client was last told a token of a choice, by the monotonic clock."""
        self._untold: deque[News] = deque()
        self._has_news = asyncio.Event()

    def tell(self, news: News) -> None:
        """Add what comes next; the last is a `LineOutcome`."""
        self._untold.append(news)
        self._has_news.set()

    async def news(self) -> list[News]:
        """Wait for news, and give all there are."""
        await self._has_news.wait()
        self._has_news.clear()
        news = list(self._untold)
        self._untold.clear()
        return news


class Calls:
    """All calls under way, between the HTTP API and the state."""

    def __init__(
        self,
        reader: Reader,
        post: Callable[[LinesReady | JobCancelled], None],
        *,
        max_calls: int,
        seed: int | None = None,
    ) -> None:
        """Begin with none.

        Args:
            reader: Reads bodies and writes answers, on the thread of the calls alone.
            post: Tells the state, on the router's loop.
            max_calls: Calls at once, running and waiting.
            seed: For calls that bring none; by default drawn for each.
        """
        self._reader = reader
        self._post = post
        self._max_calls = max_calls
        self._seed = seed
        self._live: dict[JobId, Call] = {}
        self._num_opening = 0
        self._thread = ThreadPoolExecutor(1, "calls")

    def __len__(self) -> int:
        """Count the calls under way, those whose bodies are being read included."""
        return len(self._live) + self._num_opening

    async def open(self, url: Url, body: bytes) -> Call:
        """Take a call in; `hang_up` must follow, whatever happens.

        Raises:
            TooManyCalls: There are as many as may be.
            LineRefused: The call cannot be answered.
        """
        if len(self) >= self._max_calls:
            message = f"{self._max_calls} calls are under way, as many as may be: try again later"
            raise TooManyCalls(message)
        asked_at = time.monotonic()
        seed = secrets.randbits(63) if self._seed is None else self._seed
        call_id = JobId(uuid.uuid4().hex)
        self._num_opening += 1
        try:
            line = await self._off_the_loop(self._reader.parse_call, call_id, url, body, seed)
        finally:
            self._num_opening -= 1
        call = self._live[call_id] = Call(line, asked_at)
        self._post(LinesReady(lines=(line,), interactive=True))
        return call

    def hang_up(self, call: Call) -> None:
        """Forget a call; if it has not ended the state forgets it too, and its pages come back."""
        if self._live.pop(call.line.job_id, None) is not None:
            self._post(JobCancelled(job_id=call.line.job_id))

    def takes(self, news: News) -> bool:
        """Tell what the state says to the call that it is about; False if it is about none.

        News of a call that was hung up meanwhile are nobody's: its line is in no job.
        """
        if isinstance(news, TokenStreamed):
            call = self._live.get(news.job_id)
        else:
            call = self._live.pop(news.line.job_id, None)
        if call is not None:
            call.tell(news)
        return call is not None

    def piece_writer(self, call: Call) -> PieceWriter:
        """Begin the answer to a streamed call."""
        return self._reader.piece_writer(call.line, call.created)

    async def answer(self, call: Call, outcome: LineFinished) -> bytes:
        """Write the whole answer to a call."""
        return await self._off_the_loop(self._reader.answer, outcome, call.created)

    def close(self) -> None:
        """End the thread; what is under way is left unanswered."""
        self._thread.shutdown(cancel_futures=True)

    async def _off_the_loop(
        self, work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, partial(work, *args, **kwargs))
