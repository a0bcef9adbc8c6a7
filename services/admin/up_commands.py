"""The verbs that keep a cluster running on this machine."""

from pathlib import Path
from typing import Annotated, Any

import typer

from services.admin.options import make_plan, with_cluster_options

_Port = Annotated[int, typer.Option(min=0, max=65535, help="Of the HTTP API.")]
_Data = Annotated[
    Path | None, typer.Option(help="Keeps jobs over restarts.", show_default="none are kept")
]
_Bind = Annotated[
    str | None,
    typer.Option(
        help="tcp://IP:PORT, where workers of other machines may join.", show_default="none may"
    ),
]


def add_commands(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    app.command("up")(with_cluster_options(up_command))
    app.command("serve")(with_cluster_options(serve_command))


def up_command(
    port: _Port = 8000,
    data_directory: _Data = None,
    bind: _Bind = None,
    emulate: Annotated[
        Path | None, typer.Option(help="A cluster file, whose engines only let time pass.")
    ] = None,
    **cluster: Any,
) -> None:
    """Keep a cluster running on this machine until Ctrl-C.

    Example: glinthawk up --model ./my-checkpoint --attention-workers 2

    Example: glinthawk up --emulate examples/planning/nine-t4s.yaml
    """
    if emulate is not None:
        from services.admin.planner.emulation import up_emulated

        up_emulated(emulate, {**cluster, "bind": bind}, http_port=port, data=data_directory)
        return
    _up(port, {**cluster, "data_directory": data_directory, "bind": bind})


def serve_command(
    model: Annotated[
        str, typer.Argument(help="Directory of a Hugging Face checkpoint, or a hub id.")
    ],
    port: _Port = 8000,
    data_directory: _Data = None,
    bind: _Bind = None,
    **cluster: Any,
) -> None:
    """Serve a model on this machine until Ctrl-C: `up`, as users of vLLM spell it.

    Example: glinthawk serve ./my-checkpoint --port 8000
    """
    _up(port, {**cluster, "model": model, "data_directory": data_directory, "bind": bind})


def _up(port: int, options: dict[str, Any]) -> None:
    from services.admin.up import up

    up(make_plan(options, http_port=port, logs_to_terminal=True))
