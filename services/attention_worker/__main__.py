"""The attention worker's command line: `python -m services.attention_worker --help`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from common.config import load_settings
from common.flags import with_flags
from common.runtime.process import one_line_errors, run_service
from services.attention_worker.config import AttentionWorkerSettings
from services.attention_worker.service import build

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
@with_flags(AttentionWorkerSettings, typer.Option)
def main(
    config: Annotated[Path | None, typer.Option(help="A YAML file with settings.")] = None,
    **flags: Any,
) -> None:
    """Hold keys and values, and attend to them."""
    with one_line_errors():
        settings = load_settings(AttentionWorkerSettings, flags, config)
    raise typer.Exit(run_service(build, settings))


if __name__ == "__main__":
    app()
