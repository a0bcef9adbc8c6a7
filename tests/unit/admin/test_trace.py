"""Traces of several processes become one timeline."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.ids import Term, first_microbatch_id
from services.admin.trace import TraceUnreadable, merge_traces

MICROBATCH = first_microbatch_id(Term(2)) + 7


def write(directory: Path, worker_id: str, offset_s: float, *marks: tuple[Any, ...]) -> None:
    trace = {"wall_clock_offset_s": offset_s, "marks": marks}
    (directory / f"{worker_id}.json").write_text(json.dumps(trace))


def merged(directory: Path) -> list[dict[str, Any]]:
    output = directory.parent / "trace.json"
    merge_traces(directory, output)
    events: list[dict[str, Any]] = json.loads(output.read_text())["traceEvents"]
    return events


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    directory = tmp_path / "traces"
    directory.mkdir()
    return directory


def test_clocks_are_aligned_and_begin_with_the_first_mark(traces: Path) -> None:
    write(traces, "a", 1000.0, ("End", MICROBATCH, 3, 1.0, 1.5))
    write(traces, "b", 2000.0, ("step.sampled", MICROBATCH, None, -998.25, None))

    work, arrival = (event for event in merged(traces) if event["ph"] != "M")

    assert (work["ph"], work["ts"], work["dur"]) == ("X", 0.0, 500_000.0)
    assert (arrival["ph"], arrival["ts"]) == ("i", 750_000.0)
    assert work["pid"] != arrival["pid"]


def test_every_process_has_its_name(traces: Path) -> None:
    write(traces, "layer-worker-0", 0.0, ("Begin", MICROBATCH, 0, 1.0, 2.0))
    write(traces, "kv-manager", 0.0)

    events = merged(traces)

    named = [event["args"]["name"] for event in events if event["name"] == "process_name"]
    assert named == ["kv-manager", "layer-worker-0"]


@pytest.mark.parametrize(
    ("work", "name"),
    [
        ("Begin", "pre 3"),
        ("Advance", "post 3 + pre 4"),
        ("End", "post 3"),
        ("Attend", "attend 3"),
        ("Else", "Else"),
    ],
)
def test_work_is_named_by_its_stages(traces: Path, work: str, name: str) -> None:
    write(traces, "a", 0.0, (work, MICROBATCH, 3, 1.0, 2.0))

    (event,) = (event for event in merged(traces) if event["ph"] == "X")

    assert event["name"] == name
    assert event["args"] == {"term": 2, "microbatch": 7, "layer": 3}


def test_work_of_no_microbatch_has_a_name_too(traces: Path) -> None:
    write(traces, "a", 0.0, ("LoadRange", None, None, 1.0, 2.0))

    (event,) = (event for event in merged(traces) if event["ph"] == "X")

    assert (event["name"], event["args"]) == ("load weights", {})


def test_a_folder_without_traces_is_refused(traces: Path) -> None:
    with pytest.raises(TraceUnreadable, match="--trace-directory"):
        merge_traces(traces, traces / "trace.out")


@pytest.mark.parametrize("text", ["{", "[]", '{"wall_clock_offset_s": 0, "marks": [[1]]}'])
def test_a_damaged_trace_is_named(traces: Path, text: str) -> None:
    (traces / "a.json").write_text(text)

    with pytest.raises(TraceUnreadable, match=r"a\.json is no trace"):
        merge_traces(traces, traces / "trace.out")

    assert not (traces / "trace.out").exists()
