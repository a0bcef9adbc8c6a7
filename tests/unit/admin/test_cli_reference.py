"""The commands' document is what the commands say of themselves."""

from pathlib import Path

from services.admin.cli_reference import cli_reference

ROOT = Path(__file__).parents[3]


def test_the_document_is_what_the_commands_say() -> None:
    document = (ROOT / "docs/cli.md").read_text()

    assert document == cli_reference(), "python -m services.admin.cli_reference > docs/cli.md"
