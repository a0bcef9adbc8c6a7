"""The demo's batch file: well formed, held out, and judged from its own prompts."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from examples.tiny.check import count_per_task, judge, prompt_of
from examples.tiny.make_batch import BATCH_FILE, make_lines
from examples.tiny.tasks import SOLVERS, is_held_out, solve, task_of


@pytest.fixture
def lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in BATCH_FILE.read_text(encoding="utf-8").splitlines()]


def result(line: dict[str, Any], answer: str) -> dict[str, Any]:
    is_chat = "messages" in line["body"]
    choice = {"message": {"role": "assistant", "content": answer}} if is_chat else {"text": answer}
    response = {"status_code": 200, "request_id": "r", "body": {"choices": [choice]}}
    return {"id": "b", "custom_id": line["custom_id"], "response": response, "error": None}


def write_results(path: Path, results: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in results), encoding="utf-8")
    return path


def test_the_shipped_file_is_what_its_script_makes(lines: list[dict[str, Any]]) -> None:
    assert lines == make_lines(seed=0)


def test_every_line_is_a_request_with_an_id_of_its_own(lines: list[dict[str, Any]]) -> None:
    assert len({line["custom_id"] for line in lines}) == len(lines)
    assert {line["method"] for line in lines} == {"POST"}
    for line in lines:
        form = "messages" if line["url"] == "/v1/chat/completions" else "prompt"
        assert set(line["body"]) == {"model", "max_tokens", "temperature", form}


def test_every_prompt_is_held_out_and_asked_once(lines: list[dict[str, Any]]) -> None:
    prompts = [prompt_of(line["body"]) for line in lines]

    assert all(map(is_held_out, prompts))
    assert len(set(prompts)) == len(prompts)


def test_every_task_is_asked_in_every_form(lines: list[dict[str, Any]]) -> None:
    forms = Counter(
        (
            task_of(prompt_of(line["body"])),
            type(line["body"].get("prompt")).__name__,
            len(line["body"].get("messages", ())),
        )
        for line in lines
    )

    per_task = {("NoneType", 1): 6, ("NoneType", 2): 1, ("NoneType", 5): 2}
    per_task |= {("str", 0): 2, ("list", 0): 1}
    assert forms == {(task, *form): num for task in SOLVERS for form, num in per_task.items()}


def test_right_answers_are_all_counted_as_right(
    lines: list[dict[str, Any]], tmp_path: Path
) -> None:
    results = [result(line, solve(prompt_of(line["body"]))) for line in lines]

    verdicts = judge(BATCH_FILE, write_results(tmp_path / "out.jsonl", results))

    assert count_per_task(verdicts) == dict.fromkeys(SOLVERS, (12, 12))


def test_wrong_failed_and_missing_lines_are_not_right(
    lines: list[dict[str, Any]], tmp_path: Path
) -> None:
    wrong = result(lines[0], "no")
    failed = result(lines[1], "no") | {"response": None, "error": {"message": "too long"}}
    refused = result(lines[2], "no")
    refused["response"]["status_code"] = 400

    verdicts = judge(BATCH_FILE, write_results(tmp_path / "out.jsonl", [wrong, failed, refused]))

    assert [verdict.answer for verdict in verdicts[:4]] == ["no", None, None, None]
    assert not any(verdict.is_right for verdict in verdicts)
