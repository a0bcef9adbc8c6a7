"""`docs/cli.md`, from the commands' own help: python -m services.admin.cli_reference > docs/cli.md."""

import sys

import typer
from typer.cli import get_docs_for_click


def cli_reference() -> str:
    """Give the text of `docs/cli.md`."""
    from services.admin.commands import app

    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="glinthawk")
    text = get_docs_for_click(obj=command, ctx=context, name="glinthawk", title="Commands")
    return f"{text.strip()}\n"


if __name__ == "__main__":
    sys.stdout.write(cli_reference())
