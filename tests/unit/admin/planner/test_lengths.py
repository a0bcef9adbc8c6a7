"""Lengths come from a batch file or a histogram; what cannot be used is named by its line."""

import json
from pathlib import Path

import pytest

from common.errors import SettingsError
from services.admin.planner.lengths import Lengths, read_lengths

SHIPPED = Path(__file__).parents[4] / "examples/tiny"


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def request(**body: object) -> dict[str, object]:
    return {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": body}


def test_a_bar_of_a_histogram_is_as_many_requests(tmp_path: Path) -> None:
    path = write(
        tmp_path / "bars.jsonl",
        {"prompt_tokens": 7, "output_tokens": 3, "count": 2},
        {"prompt_tokens": 1, "output_tokens": 1, "max_tokens": 5},
    )

    assert read_lengths(path, "llama-3-8b") == [
        Lengths(7, 3, 3),
        Lengths(7, 3, 3),
        Lengths(1, 1, 5),
    ]


def test_without_a_tokenizer_four_characters_are_a_token(tmp_path: Path) -> None:
    path = write(
        tmp_path / "in.jsonl",
        request(prompt="12345678", max_tokens=5),
        request(prompt=[1, 2, 3], max_tokens=5, n=2),
        request(messages=[{"role": "user", "content": "123456"}], max_completion_tokens=9),
    )

    lengths = read_lengths(path, "llama-3-8b")

    assert lengths == [Lengths(2, 5), Lengths(3, 5), Lengths(3, 5), Lengths(2, 9)]


def test_a_checkpoint_counts_with_its_own_tokenizer_and_template() -> None:
    lengths = read_lengths(SHIPPED / "batch.jsonl", str(SHIPPED / "model"))

    assert len(lengths) == 60
    assert lengths[0].output == 24
    assert lengths[0].prompt > len("sort: guitar") / 4


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("nonsense", "line 1"),
        ('{"prompt_tokens": 0, "output_tokens": 1}', "line 1.*above zero"),
        ('{"prompt_tokens": 1}', "line 1.*above zero"),
        ('{"prompt_tokens": 1, "output_tokens": 2, "max_tokens": 1}', "line 1.*less than"),
        ('{"custom_id": "a"}', "line 1.*neither"),
    ],
)
def test_a_file_without_lengths_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(text)

    with pytest.raises(SettingsError, match=reason):
        read_lengths(path, "llama-3-8b")
