"""Check a results file by program: `python -m examples.tiny.check BATCH RESULTS`."""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.tiny.tasks import check, task_of
from examples.tiny.vocabulary import ASSISTANT, USER, decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of one line of the batch file."""

    custom_id: str
    prompt: str
    answer: str | None
    """What the model wrote; `None` if the line failed or is missing."""

    @property
    def task(self) -> str:
        """Name the task asked for."""
        return task_of(self.prompt)

    @property
    def is_right(self) -> bool:
        """Say whether the answer is exactly the one a program computes."""
        return self.answer is not None and check(self.prompt, self.answer)


def prompt_of(body: Mapping[str, Any]) -> str:
    """Find the question in a request body: a chat's last message, or a completion's last turn."""
    if "messages" in body:
        return str(body["messages"][-1]["content"])
    prompt = body["prompt"]
    text = prompt if isinstance(prompt, str) else decode(prompt)
    return text.rpartition(USER)[2].removesuffix(ASSISTANT)


def answer_of(result: Mapping[str, Any]) -> str | None:
    """Find the text a result carries, if it carries one."""
    if result["error"] is not None or result["response"]["status_code"] != 200:
        return None
    choice = result["response"]["body"]["choices"][0]
    return str(choice["message"]["content"] if "message" in choice else choice["text"])


def judge(batch_file: Path, results_file: Path) -> list[Verdict]:
    """Judge every line of the batch file, in its order."""
    answers = {result["custom_id"]: answer_of(result) for result in _read_lines(results_file)}
    return [
        Verdict(
            custom_id=line["custom_id"],
            prompt=prompt_of(line["body"]),
            answer=answers.get(line["custom_id"]),
        )
        for line in _read_lines(batch_file)
    ]


def count_per_task(verdicts: list[Verdict]) -> dict[str, tuple[int, int]]:
    """Count right answers and lines, per task."""
    counts: dict[str, tuple[int, int]] = {}
    for verdict in verdicts:
        num_right, num_lines = counts.get(verdict.task, (0, 0))
        counts[verdict.task] = (num_right + verdict.is_right, num_lines + 1)
    return counts


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    """Print the right answers per task and every wrong one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("batch", type=Path)
    parser.add_argument("results", type=Path)
    arguments = parser.parse_args()
    verdicts = judge(arguments.batch, arguments.results)
    for task, (num_right, num_lines) in count_per_task(verdicts).items():
        print(f"{task:8} {num_right:3} of {num_lines:3} right")
    for verdict in verdicts:
        if not verdict.is_right:
            print(f"{verdict.custom_id}: {verdict.prompt!r} got {verdict.answer!r}")


if __name__ == "__main__":
    main()
