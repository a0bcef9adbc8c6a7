"""The protocol's document and the declarations agree."""

from pathlib import Path

import pytest

from common.messages import MESSAGES
from common.wire.describe import protocol

DOCUMENT = Path(__file__).parents[3] / "docs" / "protocol.md"


def test_the_protocol_document_is_what_the_declarations_say() -> None:
    assert DOCUMENT.read_text() == protocol(), "python -m common.wire.describe > docs/protocol.md"


@pytest.mark.parametrize("tag", sorted(MESSAGES))
def test_every_tag_is_described_with_its_direction(tag: str) -> None:
    (line,) = [line for line in protocol().splitlines() if line.startswith(f"| `{tag}` |")]

    assert " → " in line
