"""`glinthawk`: run batches, run clusters, look at them."""

import json
import os
import signal
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from common.runtime.process import one_line_errors
from services.admin.options import make_plan, with_cluster_options

app = typer.Typer(
    name="glinthawk",
    help="Offline LLM inference in two tiers: GPUs hold weights, CPU machines hold the KV cache.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(help="Settings.", no_args_is_help=True)
app.add_typer(config_app, name="config")

_EXIT_INTERRUPTED = 130
_SERVICES = ("router", "layer_worker", "attention_worker", "kv_manager")


@app.command("run-batch")
@with_cluster_options
def run_batch_command(
    input_file: Annotated[Path, typer.Option("-i", "--input-file", help="JSONL file of requests.")],
    output_file: Annotated[Path, typer.Option("-o", "--output-file", help="Results, same order.")],
    report: Annotated[Path | None, typer.Option(help="Write the report as JSON, too.")] = None,
    url: Annotated[
        str | None, typer.Option(help="Use the cluster at this URL instead of starting one.")
    ] = None,
    **cluster: Any,
) -> None:
    """Run a file of requests in OpenAI's batch format.

    Starts a cluster on this machine, unless --url names one, and stops it afterwards.

    Exit codes: 0 all lines have a result (some may be error lines), 2 the job cannot run,
    130 interrupted.

    Example: glinthawk run-batch -i in.jsonl -o out.jsonl --model ./my-checkpoint
    """
    from services.admin.run_batch import BatchFiles, print_report, run_batch

    files = BatchFiles(input=input_file, output=output_file, report=report)
    files.check()
    print_report(run_batch(files, url or make_plan(cluster)), files)


@app.command("up")
@with_cluster_options
def up_command(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the HTTP API.")] = 8000,
    data_directory: Annotated[
        Path | None,
        typer.Option(help="Keeps jobs over restarts.", show_default="none are kept"),
    ] = None,
    **cluster: Any,
) -> None:
    """Keep a cluster running on this machine until Ctrl-C.

    Example: glinthawk up --model ./my-checkpoint --attention-workers 2
    """
    from services.admin.up import up

    options = {**cluster, "data_directory": data_directory}
    up(make_plan(options, http_port=port, logs_to_terminal=True))


@app.command("status")
def status_command(
    url: Annotated[str, typer.Option(help="Of the router.")] = "http://127.0.0.1:8000",
) -> None:
    """Say what a running cluster is doing, as JSON."""
    from services.admin.client import RouterClient

    with closing(RouterClient(url)) as client:
        sys.stdout.write(json.dumps(client.status(), indent=2) + "\n")


@config_app.command("show")
def config_show_command(
    config: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Show every setting, its value here, and where the value comes from."""
    from services.admin.config import gather, show

    show(gather(config), sys.stdout, as_json=as_json)


def _add_service(service: str) -> None:
    name = service.replace("_", "-")

    @app.command(
        name,
        help=f"Run the {name} service in the foreground; see `glinthawk {name} --help`.",
        context_settings={
            "allow_extra_args": True,
            "ignore_unknown_options": True,
            "help_option_names": [],
        },
    )
    def run(context: typer.Context) -> None:
        # A process of its own: thread counts must be set before its engine is imported.
        os.execv(sys.executable, [sys.executable, "-m", f"services.{service}", *context.args])


for _service in _SERVICES:
    _add_service(_service)


def main() -> None:
    """Run a command; what was refused is one line on stderr."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the same as Ctrl-C
    try:
        with one_line_errors():
            exit_code = app(standalone_mode=False)
    except TyperException as error:
        # Without a command the help was shown, and there is nothing to add.
        if message := error.format_message():
            sys.stderr.write(f"glinthawk: {message}\n")
        exit_code = error.exit_code
    if exit_code == _EXIT_INTERRUPTED:
        sys.stderr.write("glinthawk: interrupted; nothing is left running\n")
    raise SystemExit(exit_code)


if __name__ == "__main__":
    main()
