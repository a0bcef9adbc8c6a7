"""A job's report, for a file and for people."""

import io
import json
from dataclasses import asdict
from pathlib import Path

from services.admin.report import print_report, write_report
from tests.support.accounts import report, status, worker


def printed(*given: dict, **prices: float) -> str:
    out = io.StringIO()
    print_report(report(*given, **prices), out)
    return out.getvalue()


def test_a_report_survives_its_file(tmp_path: Path) -> None:
    made = report(status(), status(worker("l0", "layer_worker", 2.0, a0=100)))

    write_report(made, tmp_path / "report.json")

    read = json.loads((tmp_path / "report.json").read_text())
    assert read == json.loads(json.dumps(asdict(made)))


def test_a_report_for_people_names_failures_and_the_busiest_link() -> None:
    text = printed(status(), status(worker("l0", "layer_worker", 2.0, a0=1_500_000, a1=7)))

    assert "3 (1 failed)" in text
    assert "l0 -> a0, 2 MB" in text


def test_what_did_not_happen_is_not_in_a_report_for_people() -> None:
    text = printed(status(), status())

    assert not [word for word in ("prefix", "recomputed", "cost") if word in text]


def test_a_report_for_people_names_hits_recomputation_and_cost() -> None:
    pages = {"found_tokens": 3, "wanted_tokens": 4, "recomputed_tokens": {"preempted": 12}}

    text = printed(status(), status(worker("l0", "layer_worker", 2.0), **pages), layer_worker=3600)

    assert "75% of the tokens of prompts" in text
    assert "12 (preempted) tokens" in text
    assert "4.0000, 100000.00 per million generated tokens" in text
