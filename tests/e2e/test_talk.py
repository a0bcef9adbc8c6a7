"""`glinthawk chat` and its kin, as a user runs them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT, SHIPPED, run

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(120)]

FIRST_LINE = json.loads((ROOT / "examples/tiny/batch.jsonl").read_text().splitlines()[0])
QUESTION = FIRST_LINE["body"]["messages"][0]["content"]
"""`sort: WORD`"""


def test_piped_input_is_one_turn(temporary: Path) -> None:
    words = ["chat", "--model", str(SHIPPED), "--temperature", "0", "--max-tokens", "24"]

    answer = subprocess.run(
        [sys.executable, "-m", "services.admin", *words],
        cwd=ROOT,
        input=QUESTION,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )

    assert answer.stdout.strip() == "".join(sorted(QUESTION.partition(": ")[2]))


def test_a_prompt_is_continued(temporary: Path) -> None:
    code, out, _ = run(
        temporary, "complete", "--model", SHIPPED, "--max-tokens", 4, "--temperature", 0, "sort: a"
    )

    assert code == 0
    assert out.endswith("\n")
