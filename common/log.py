"""Where log lines go: to stderr, as JSON for machines and in columns for people."""

import logging
import sys
from contextlib import suppress
from typing import Literal, TextIO, cast

import structlog
from structlog.typing import FilteringBoundLogger, Processor

LogFormat = Literal["auto", "json", "console"]


class SafeStream:
    """A stream whose reader may go away: what can no longer be read is not worth dying for."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what still can be written."""
        with suppress(BrokenPipeError):
            return self._stream.write(text)
        return 0

    def flush(self) -> None:
        """Flush what still can be flushed."""
        with suppress(BrokenPipeError):
            self._stream.flush()


class ForwardToStructlog(logging.Handler):
    """Makes lines of libraries look like our own."""

    def emit(self, record: logging.LogRecord) -> None:
        """Say the record again through structlog."""
        log = get_logger()
        log.log(record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info)


def set_up_logs(level: str, log_format: LogFormat, stream: TextIO | None = None) -> None:
    """Decide how this process logs, libraries included.

    Args:
        level: The least important level to write; libraries write warnings and above.
        log_format: `auto` is `console` on a terminal, otherwise `json`.
        stream: Defaults to stderr.
    """
    stream = stream or sys.stderr
    console = log_format == "console" or (log_format == "auto" and stream.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *_renderers(console, colors=stream.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", SafeStream(stream))),
    )
    logging.basicConfig(level=logging.WARNING, handlers=[ForwardToStructlog()], force=True)


def get_logger() -> FilteringBoundLogger:
    """Give a logger: a constant event and fields, as in `log.info("joined", worker=...)`."""
    return cast("FilteringBoundLogger", structlog.get_logger())


def _renderers(console: bool, *, colors: bool) -> list[Processor]:
    if console:
        plain = structlog.dev.plain_traceback
        return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
