"""The KV manager's command line: `python -m services.kv_manager --help`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from common.config import load_settings
from common.flags import with_flags
from common.runtime.process import one_line_errors, run_service
from services.kv_manager.config import KvManagerSettings
from services.kv_manager.service import build

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
@with_flags(KvManagerSettings, typer.Option)
def main(
    config: Annotated[Path | None, typer.Option(help="A YAML file with settings.")] = None,
    **flags: Any,
) -> None:
    """Decide which request may hold which page of which attention worker."""
    with one_line_errors():
        settings = load_settings(KvManagerSettings, flags, config)
    raise typer.Exit(run_service(build, settings))


if __name__ == "__main__":
    app()
