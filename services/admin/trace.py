"""`glinthawk trace`: one timeline of all processes, in the Chrome trace event format.

chrome://tracing and ui.perfetto.dev show it. Times are microseconds since the first mark of any
process; the processes' clocks are aligned by the wall clock, so they must run on one machine.
"""

import json
from pathlib import Path
from typing import Any

from common.errors import GlinthawkError
from common.ids import TERM_SHIFT
from common.runtime.trace import Mark

_ENGINE, _INBOX = 1, 2
_THREADS = {_ENGINE: "engine", _INBOX: "inbox"}
_NAMES = {
    "Begin": "pre {layer}",
    "Advance": "post {layer} + pre {next}",
    "End": "post {layer}",
    "Attend": "attend {layer}",
    "Write": "write {layer}",
    "LoadRange": "load weights",
    "AllocatePool": "allocate pages",
}
"""Work, as a timeline calls it."""


class TraceUnreadable(GlinthawkError):
    """There are no traces, or one of them is damaged; nothing was written."""


def merge_traces(directory: Path, output: Path) -> int:
    """Merge the traces of a cluster's processes.

    Args:
        directory: What `--trace-directory` was.
        output: The file to write.

    Returns:
        The number of marks.

    Raises:
        TraceUnreadable: Nothing was written.
    """
    traces = {path.stem: _read(path) for path in sorted(directory.glob("*.json"))}
    starts_s = [mark.start_s for marks in traces.values() for mark in marks]
    if not starts_s:
        raise TraceUnreadable(
            f"{directory} has no traces: run with --trace-directory {directory}, to the end"
        )
    events: list[dict[str, Any]] = []
    for pid, (worker_id, marks) in enumerate(traces.items(), 1):
        events += _names(pid, worker_id)
        events += (_event(pid, mark, min(starts_s)) for mark in marks)
    try:
        with output.open("w", encoding="utf-8") as file:
            json.dump({"traceEvents": events, "displayTimeUnit": "ms"}, file)
    except OSError as error:
        raise TraceUnreadable(f"{output} cannot be written: {error.strerror}") from error
    return len(starts_s)


def _read(path: Path) -> list[Mark]:
    """Read a process's marks; their times become those of the wall clock."""
    try:
        trace = json.loads(path.read_text(encoding="utf-8"))
        offset_s = trace["wall_clock_offset_s"]
        marks = [Mark(*row) for row in trace["marks"]]
        return [
            mark._replace(
                start_s=mark.start_s + offset_s,
                stop_s=None if mark.stop_s is None else mark.stop_s + offset_s,
            )
            for mark in marks
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TraceUnreadable(f"{path} is no trace of a process ({error})") from error


def _names(pid: int, worker_id: str) -> list[dict[str, Any]]:
    process = {"name": "process_name", "ph": "M", "pid": pid, "args": {"name": worker_id}}
    threads = (
        {"name": "thread_name", "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}
        for tid, name in _THREADS.items()
    )
    return [process, *threads]


def _event(pid: int, mark: Mark, origin_s: float) -> dict[str, Any]:
    event = {
        "name": _name(mark),
        "pid": pid,
        "ts": _microseconds(mark.start_s - origin_s),
        "args": _arguments(mark),
    }
    if mark.stop_s is None:
        return {**event, "ph": "i", "s": "t", "tid": _INBOX}
    return {**event, "ph": "X", "tid": _ENGINE, "dur": _microseconds(mark.stop_s - mark.start_s)}


def _name(mark: Mark) -> str:
    pattern = _NAMES.get(mark.name, mark.name)
    return pattern.format(layer=mark.layer, next=None if mark.layer is None else mark.layer + 1)


def _arguments(mark: Mark) -> dict[str, int]:
    arguments = {}
    if mark.microbatch_id is not None:
        arguments["term"] = mark.microbatch_id >> TERM_SHIFT
        arguments["microbatch"] = mark.microbatch_id & ((1 << TERM_SHIFT) - 1)
    if mark.layer is not None:
        arguments["layer"] = mark.layer
    return arguments


def _microseconds(seconds: float) -> float:
    return round(seconds * 1e6, 1)
