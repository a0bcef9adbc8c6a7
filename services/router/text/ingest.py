"""A process of its own that reads lines and writes results, away from the router's loop.

It answers one question at a time over its standard input and output, each a length and then JSON,
and ends when its input does: it cannot outlive the router.
"""

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Final, TypeVar

from pydantic import ConfigDict, TypeAdapter
from pydantic_core import to_json

from common.errors import GlinthawkError, LineRefused
from common.ids import JobId
from services.router.lines import LineFinished, LineOutcome, ParsedLine
from services.router.text.line_parser import (
    JobFacts,
    LineDefaults,
    LineParser,
    ServedModel,
    Url,
    find_custom_id,
)
from services.router.text.pieces import PieceWriter
from services.router.text.results import ResultLine, answer_body, refuse, render
from services.router.text.tokens import Tokenizer, read_json


@dataclass(frozen=True, slots=True, kw_only=True)
class ParseLines:
    """Router → ingest: read these lines of a job."""

    job: JobFacts
    lines: tuple[tuple[int, str], ...]
    """(number, text)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinesParsed:
    """Ingest → router: the lines that can run, and the error lines of the others."""

    lines: tuple[ParsedLine, ...]
    refused: tuple[ResultLine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderLines:
    """Router → ingest: write the results of these."""

    outcomes: tuple[LineOutcome, ...]
    created: int
    """Unix seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinesRendered:
    """Ingest → router: the result lines, in the order asked."""

    results: tuple[ResultLine, ...]


Question = ParseLines | RenderLines
Answer = TypeVar("Answer")

LINES_PER_QUESTION: Final = 256
"""The process serves both directions; fewer would let short lines run in small microbatches."""
SIZE_PER_QUESTION: Final = 2**18
"""Characters of lines, or tokens of results, after which a question is long enough: its answer is
read in one piece, for which the router's loop waits."""
ANSWER_TIMEOUT_S: Final = 120.0
"""A process that takes longer hangs, and is ended: a question is answered in moments."""

_LENGTH_BYTES: Final = 8
_QUESTION: Final[TypeAdapter[Question]] = TypeAdapter(
    Question, config=ConfigDict(ser_json_inf_nan="constants")
)
_PARSED: Final = TypeAdapter(LinesParsed)
_RENDERED: Final = TypeAdapter(LinesRendered)
_SERVED: Final = TypeAdapter(ServedModel)


def one_question(ended: Sequence[LineOutcome]) -> Sequence[LineOutcome]:
    """Give the first of these, as many as make one question."""
    size = 0
    for number, outcome in enumerate(ended[:LINES_PER_QUESTION], 1):
        size += sum(map(len, outcome.line.prompts))
        if isinstance(outcome, LineFinished):
            size += sum(len(choice.token_ids) for choice in outcome.choices)
        if size >= SIZE_PER_QUESTION:
            return ended[:number]
    return ended[:LINES_PER_QUESTION]


class IngestLost(GlinthawkError):
    """The ingest process has ended; what it was asked is unanswered."""


class Reader:
    """What the process does: answers questions. Synchronous and without input or output.

    The router has one of its own, for calls.
    """

    def __init__(self, served: ServedModel, tokenizer: Tokenizer | None = None) -> None:
        directory = Path(served.directory)
        self._tokenizer = tokenizer or Tokenizer(directory)
        self._parser = LineParser(served, self._tokenizer, read_defaults(directory))

    def parse(self, question: ParseLines) -> LinesParsed:
        """Read lines; those that cannot run become error lines."""
        lines: list[ParsedLine] = []
        refused: list[ResultLine] = []
        for number, text in question.lines:
            try:
                lines.append(self._parser.parse(question.job, number, text))
            except LineRefused as refusal:
                custom_id = find_custom_id(text)
                refused.append(refuse(question.job.job_id, number, custom_id, refusal))
        return LinesParsed(lines=tuple(lines), refused=tuple(refused))

    def render(self, question: RenderLines) -> LinesRendered:
        """Write results."""
        return LinesRendered(
            results=tuple(
                render(outcome, self._tokenizer, question.created) for outcome in question.outcomes
            )
        )

    def parse_call(self, call_id: JobId, url: Url, body: bytes, seed: int) -> ParsedLine:
        """Read the body of a call, see `LineParser.parse_call`."""
        return self._parser.parse_call(call_id, url, body, seed)

    def answer(self, outcome: LineFinished, created: int) -> bytes:
        """Write the body that answers a call."""
        return to_json(answer_body(outcome, self._tokenizer, created))

    def piece_writer(self, line: ParsedLine, created: int) -> PieceWriter:
        """Give what writes the pieces of a streamed call."""
        return PieceWriter(line, self._tokenizer, created)


class Ingest:
    """The router's end: starts the process, and asks it from a thread of its own."""

    def __init__(self, served: ServedModel) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "services.router.text.ingest"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._pipes = Pipes(self._process.stdout, self._process.stdin)
        self._thread = ThreadPoolExecutor(1, "ingest")
        self._thread.submit(self._pipes.write, _SERVED.dump_json(served))

    @property
    def pid(self) -> int:
        """The process, for whoever watches it."""
        return self._process.pid

    async def parse(self, question: ParseLines) -> LinesParsed:
        """Have lines read.

        Raises:
            IngestLost: The process has ended.
        """
        return await self._ask(question, _PARSED)

    async def render(self, question: RenderLines) -> LinesRendered:
        """Have results written.

        Raises:
            IngestLost: The process has ended.
        """
        return await self._ask(question, _RENDERED)

    def close(self) -> None:
        """End the process; what it was asked is left unanswered."""
        self._process.kill()
        self._process.wait()
        self._thread.shutdown()
        self._pipes.close()

    async def _ask(self, question: Question, answer: "TypeAdapter[Answer]") -> Answer:
        def exchange() -> Answer:
            self._pipes.write(_QUESTION.dump_json(question))
            return answer.validate_json(self._pipes.read())

        loop = asyncio.get_running_loop()
        too_late = loop.call_later(ANSWER_TIMEOUT_S, self._process.kill)
        try:
            return await loop.run_in_executor(self._thread, exchange)
        except (EOFError, OSError) as error:
            message = "the ingest process has ended; see its last words above"
            raise IngestLost(message) from error
        finally:
            too_late.cancel()


class Pipes:
    """Two pipes that carry JSON, each time its length before it."""

    def __init__(self, incoming: IO[bytes], outgoing: IO[bytes]) -> None:
        self._incoming = incoming
        self._outgoing = outgoing

    def read(self) -> bytes:
        """Wait for what the other end writes next.

        Raises:
            EOFError: The other end has closed.
        """
        size = int.from_bytes(self._exactly(_LENGTH_BYTES), "little")
        return self._exactly(size)

    def write(self, text: bytes) -> None:
        """Write, and wait until the other end has room for it."""
        self._outgoing.write(len(text).to_bytes(_LENGTH_BYTES, "little"))
        self._outgoing.write(text)
        self._outgoing.flush()

    def close(self) -> None:
        """Close both; what was not taken is lost."""
        with contextlib.suppress(BrokenPipeError):
            self._outgoing.close()
        self._incoming.close()

    def _exactly(self, size: int) -> bytes:
        read = self._incoming.read(size)
        if len(read) < size:
            raise EOFError
        return read


def read_defaults(directory: Path) -> LineDefaults:
    """Read what `generation_config.json` says about sampling, if it is there."""
    given = read_json(directory / "generation_config.json")
    names = {field.name for field in fields(LineDefaults)}
    return LineDefaults(
        **{name: value for name, value in given.items() if name in names and value is not None}
    )


def main() -> None:
    """Answer the router until it closes its end."""
    # Ctrl-C reaches the whole terminal; the router decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipes = Pipes(sys.stdin.buffer, sys.stdout.buffer)
    with contextlib.suppress(EOFError, BrokenPipeError):
        reader = Reader(_SERVED.validate_json(pipes.read()))
        while True:
            question = _QUESTION.validate_json(pipes.read())
            if isinstance(question, ParseLines):
                pipes.write(_PARSED.dump_json(reader.parse(question)))
            else:
                pipes.write(_RENDERED.dump_json(reader.render(question)))


if __name__ == "__main__":
    main()
