"""A job's report counts what was done during the job, and nothing else."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from services.admin.report import JobReport, Tally, make_report


def result(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return {"response": {"status_code": 200, "body": {"usage": usage}}, "error": None}


def failed() -> dict[str, Any]:
    body = {"error": {"message": "too long"}}
    return {"response": {"status_code": 400, "body": body}, "error": {"message": "too long"}}


def jsonl(*results: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in results)


def worker(name: str, role: str, busy_s: float, **links: int) -> dict[str, Any]:
    return {
        "worker_id": name,
        "epoch": 7,
        "role": role,
        "kernel_path": "cpu-torch",
        "busy_s": busy_s,
        "links": links,
    }


def status(*workers: dict[str, Any]) -> dict[str, Any]:
    return {"workers": list(workers)}


@pytest.fixture
def tally() -> Tally:
    tally = Tally()
    tally.add(jsonl(result(10, 30), failed()))
    tally.add(jsonl(result(5, 10)))
    return tally


def test_a_tally_counts_rows_failures_and_tokens(tally: Tally) -> None:
    assert tally == Tally(rows=3, failed=1, prompt_tokens=15, generated_tokens=40)


def test_a_report_counts_only_what_was_done_during_the_job(tally: Tally) -> None:
    before = status(worker("l0", "layer_worker", 1.0, a0=100), worker("kv", "kv_manager", 0.0))
    after = status(worker("l0", "layer_worker", 3.0, a0=350), worker("kv", "kv_manager", 0.0))

    report = make_report(tally, before, after, wall_s=4.0)

    assert report.tier1_busy == pytest.approx(0.5)
    assert report.bytes_per_link == {"l0 -> a0": 250}


def test_a_worker_that_came_during_the_job_counts_from_nothing(tally: Tally) -> None:
    report = make_report(
        tally, status(), status(worker("a1", "attention_worker", 2.0, l0=80)), wall_s=4.0
    )

    assert report.tier2_busy == pytest.approx(0.5)
    assert report.bytes_per_link == {"a1 -> l0": 80}


def test_a_new_life_of_a_worker_counts_from_nothing(tally: Tally) -> None:
    before = status(worker("a0", "attention_worker", 50.0, l0=9000))
    after = status({**worker("a0", "attention_worker", 1.0, l0=80), "epoch": 8})

    report = make_report(tally, before, after, wall_s=4.0)

    assert report.tier2_busy == pytest.approx(0.25)
    assert report.bytes_per_link == {"a0 -> l0": 80}


def test_the_busy_share_of_a_tier_is_the_average_of_its_workers(tally: Tally) -> None:
    after = status(worker("a0", "attention_worker", 4.0), worker("a1", "attention_worker", 2.0))

    report = make_report(tally, status(), after, wall_s=4.0)

    assert report.tier2_busy == pytest.approx(0.75)


def test_throughput_is_generated_tokens_over_wall_time(tally: Tally) -> None:
    report = make_report(tally, status(), status(), wall_s=4.0)

    assert report.output_tokens_per_s == pytest.approx(10.0)


def test_a_report_survives_its_file(tally: Tally, tmp_path: Path) -> None:
    after = status(worker("l0", "layer_worker", 2.0, a0=100))
    report = make_report(tally, status(), after, wall_s=4.0)

    report.write(tmp_path / "report.json")

    read = json.loads((tmp_path / "report.json").read_text())
    assert JobReport(**{**read, "kernel_paths": tuple(read["kernel_paths"])}) == report


def test_a_report_for_people_names_failures_and_the_busiest_link(tally: Tally) -> None:
    after = status(worker("l0", "layer_worker", 2.0, a0=1_500_000, a1=7))
    out = io.StringIO()

    make_report(tally, status(), after, wall_s=4.0).print(out)

    assert "3 (1 failed)" in out.getvalue()
    assert "l0 -> a0, 2 MB" in out.getvalue()
