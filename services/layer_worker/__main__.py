"""The layer worker's command line: `python -m services.layer_worker --help`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from common.config import load_settings
from common.flags import with_flags
from common.runtime.process import one_line_errors, run_service
from services.layer_worker.config import LayerWorkerSettings
from services.layer_worker.service import build

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
@with_flags(LayerWorkerSettings, typer.Option)
def main(
    config: Annotated[Path | None, typer.Option(help="A YAML file with settings.")] = None,
    **flags: Any,
) -> None:
    """Compute a range of layers, all but their attention."""
    with one_line_errors():
        settings = load_settings(LayerWorkerSettings, flags, config)
    raise typer.Exit(run_service(build, settings))


if __name__ == "__main__":
    app()
