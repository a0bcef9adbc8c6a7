"""An ingest process that is started again when it dies, so that no line can stop the others.

Whatever it was asked when it died is asked again, line by line. A line that kills it twice on its
own gets an error line.
"""

from collections.abc import Awaitable, Callable, Sequence
from itertools import chain
from typing import Final, TypeVar

from common.errors import LineRefused
from common.log import get_logger
from services.router.lines import LineOutcome
from services.router.text.ingest import (
    Ingest,
    IngestLost,
    LinesParsed,
    LinesRendered,
    ParseLines,
    RenderLines,
)
from services.router.text.line_parser import JobFacts, find_custom_id
from services.router.text.results import ResultLine, refuse

_TRIES_ALONE: Final = 2
_DEADLY: Final = "reading it ended the ingest process twice, or took far too long"
_UNWRITABLE: Final = "writing its result ended the ingest process twice, or took far too long"

Part = TypeVar("Part")
Answer = TypeVar("Answer")

log = get_logger()


class SteadyIngest:
    """Answers as `services.router.text.ingest.Ingest` does, and outlives it."""

    def __init__(self, start: Callable[[], Ingest]) -> None:
        """Start the process.

        Args:
            start: Starts one.
        """
        self._start = start
        self._ingest = start()

    async def parse(self, question: ParseLines) -> LinesParsed:
        """Have lines read.

        Raises:
            IngestLost: The process does not even start.
        """

        async def ask(lines: Sequence[tuple[int, str]]) -> LinesParsed:
            return await self._ingest.parse(ParseLines(job=question.job, lines=tuple(lines)))

        answers = await self._ask(
            question.lines, ask, lambda line: _refuse_line(question.job, *line)
        )
        return LinesParsed(
            lines=tuple(chain.from_iterable(answer.lines for answer in answers)),
            refused=tuple(chain.from_iterable(answer.refused for answer in answers)),
        )

    async def render(self, question: RenderLines) -> LinesRendered:
        """Have results written.

        Raises:
            IngestLost: The process does not even start.
        """

        async def ask(outcomes: Sequence[LineOutcome]) -> LinesRendered:
            asked = RenderLines(outcomes=tuple(outcomes), created=question.created)
            return await self._ingest.render(asked)

        answers = await self._ask(question.outcomes, ask, _refuse_outcome)
        return LinesRendered(results=tuple(chain.from_iterable(each.results for each in answers)))

    def close(self) -> None:
        """End the process; what it was asked is left unanswered."""
        self._ingest.close()

    async def _ask(
        self,
        parts: Sequence[Part],
        ask: Callable[[Sequence[Part]], Awaitable[Answer]],
        give_up: Callable[[Part], Answer],
    ) -> list[Answer]:
        """Ask about all parts at once or, if that is deadly, about each."""
        try:
            return [await ask(parts)]
        except IngestLost as error:
            await self._start_again(error)
        return [await self._ask_alone(part, ask, give_up) for part in parts]

    async def _ask_alone(
        self,
        part: Part,
        ask: Callable[[Sequence[Part]], Awaitable[Answer]],
        give_up: Callable[[Part], Answer],
    ) -> Answer:
        for _ in range(_TRIES_ALONE):
            try:
                return await ask([part])
            except IngestLost as error:
                await self._start_again(error)
        return give_up(part)

    async def _start_again(self, error: IngestLost) -> None:
        log.warning("ingest process is started again", reason=str(error))
        self._ingest.close()
        self._ingest = self._start()
        # One that cannot even answer this would make an error line of every line.
        await self._ingest.render(RenderLines(outcomes=(), created=0))


def _refuse_line(job: JobFacts, number: int, text: str) -> LinesParsed:
    refused = refuse(job.job_id, number, find_custom_id(text), LineRefused(_DEADLY))
    return LinesParsed(lines=(), refused=(refused,))


def _refuse_outcome(outcome: LineOutcome) -> LinesRendered:
    line = outcome.line
    refusal = LineRefused(_UNWRITABLE, code="server_error")
    refused: ResultLine = refuse(line.job_id, line.number, line.custom_id, refusal, 500)
    return LinesRendered(results=(refused,))
