"""What `glinthawk` can do: run batches, run clusters, look at them."""

import json
import os
import sys
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.exceptions import TyperException

from common.log import set_up_logs
from common.runtime.process import one_line_errors
from services.admin.access import HERE, URL_VARIABLE, RouterUrl
from services.admin.bench.commands import add_commands as add_bench_commands
from services.admin.job_commands import add_commands as add_job_commands
from services.admin.options import make_plan, with_cluster_options
from services.admin.planner.commands import add_commands as add_planner_commands
from services.admin.talk_commands import add_commands as add_talk_commands
from services.admin.talk_commands import validate_command
from services.admin.up_commands import add_commands as add_up_commands

app = typer.Typer(
    name="glinthawk",
    help="Offline LLM inference in two tiers: GPUs hold weights, CPU machines hold the KV cache.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"glinthawk {metadata.version('glinthawk')}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Say which version this is."
        ),
    ] = False,
) -> None:
    pass


config_app = typer.Typer(help="Settings.", no_args_is_help=True)
app.add_typer(config_app, name="config")
keys_app = typer.Typer(help="Keys of links and of the HTTP API.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
workers_app = typer.Typer(help="The cluster's workers.", no_args_is_help=True)
app.add_typer(workers_app, name="workers")

_SERVICES = ("router", "layer_worker", "attention_worker", "kv_manager")


@app.command("run-batch")
@with_cluster_options
def run_batch_command(
    input_file: Annotated[Path, typer.Option("-i", "--input-file", help="JSONL file of requests.")],
    output_file: Annotated[Path, typer.Option("-o", "--output-file", help="Results, same order.")],
    report: Annotated[Path | None, typer.Option(help="Write the report as JSON, too.")] = None,
    url: Annotated[
        str | None,
        typer.Option(envvar=URL_VARIABLE, help="Use the cluster at this URL, do not start one."),
    ] = None,
    **cluster: Any,
) -> None:
    """Run a file of requests in OpenAI's batch format.

    Starts a cluster on this machine, unless --url names one, and stops it afterwards. A command that
    was interrupted goes on where it was when it is given again.

    Exit codes: 0 all lines have a result (some may be error lines), 2 the job cannot run,
    130 interrupted.

    Example: glinthawk run-batch -i in.jsonl -o out.jsonl --model ./my-checkpoint
    """
    from services.admin.run_batch import BatchFiles, run_batch, tell

    files = BatchFiles(input=input_file, output=output_file, report=report)
    files.check()
    tell(run_batch(files, url or make_plan(cluster)), files)


@app.command("status")
def status_command(
    url: RouterUrl = HERE,
) -> None:
    """Say what a running cluster is doing, as JSON."""
    from services.admin.client import RouterClient

    with closing(RouterClient(url)) as client:
        sys.stdout.write(json.dumps(client.status(), indent=2) + "\n")


@workers_app.command("list")
def workers_list_command(
    url: RouterUrl = HERE,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Show the workers and how full their pools are."""
    from services.admin.client import RouterClient
    from services.admin.workers import list_workers

    with closing(RouterClient(url)) as client:
        if as_json:
            sys.stdout.write(json.dumps(client.status()["workers"]) + "\n")
        else:
            list_workers(client, sys.stdout)


@workers_app.command("drain")
def workers_drain_command(
    worker_id: Annotated[str, typer.Argument(help="As `workers list` shows it.")],
    deadline_s: Annotated[
        float, typer.Option(min=0, help="So long its requests may take to end where they are.")
    ] = 60.0,
    url: RouterUrl = HERE,
) -> None:
    """Let a worker leave: nothing new goes there, and what has not ended is computed elsewhere.

    Example: glinthawk workers drain attention-worker-1 --deadline-s 600
    """
    from services.admin.client import RouterClient
    from services.admin.workers import drain

    with closing(RouterClient(url)) as client:
        drain(client, worker_id, deadline_s, sys.stdout)


@config_app.command("show")
def config_show_command(
    config: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Show every setting, its value here, and where the value comes from."""
    from services.admin.config import gather, show

    show(gather(config), sys.stdout, as_json=as_json)


@keys_app.command("create")
def keys_create_command(
    directory: Annotated[Path, typer.Argument(help="For the keys; made if it is not there.")],
    beside: Annotated[
        Path | None, typer.Option(help="Keys to be replaced; the new public files allow both.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave keys that are there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Make a pair of keys for each role, to encrypt the links between machines.

    Only the owner can read the files. Nothing is ever overwritten.

    Example: glinthawk keys create ./keys
    """
    from services.admin.keys import create

    create(directory, beside, sys.stdout, keep=keep, as_json=as_json)


@keys_app.command("api-key")
def keys_api_key_command(
    file: Annotated[Path, typer.Argument(help="The router's --api-key-file; the key is added.")],
    name: Annotated[str, typer.Option(help="Whose key it is; one word.")],
    scope: Annotated[
        Literal["api", "admin"], typer.Option(help="`admin` may do everything.")
    ] = "api",
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Make a key of the HTTP API and show it, once: the file has only its hash.

    Example: glinthawk keys api-key ./api-keys --name alice
    """
    from services.admin.keys import show_api_key

    show_api_key(file, name, scope, sys.stdout, as_json=as_json)


@app.command("trace")
def trace_command(
    directory: Annotated[Path, typer.Argument(help="What --trace-directory was.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="To write.")] = Path("trace.json"),
) -> None:
    """Merge the traces of a cluster's processes into one timeline.

    chrome://tracing and ui.perfetto.dev show it.

    Example: glinthawk trace ./traces -o trace.json
    """
    from services.admin.trace import merge_traces

    num_marks = merge_traces(directory, output)
    sys.stdout.write(f"{output}: {num_marks} marks\n")


add_up_commands(app)
add_job_commands(app)
add_bench_commands(app)
add_planner_commands(app)
add_talk_commands(app)
config_app.command("validate")(validate_command)


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


def run_command() -> int:
    """Run the command that the user typed; what was refused is one line on stderr.

    Returns:
        The process's exit code.
    """
    # An engine may run in this process, too, and stdout is for results.
    set_up_logs("warning", "console")
    try:
        with one_line_errors():
            return int(app(standalone_mode=False) or 0)
    except TyperException as error:
        # Without a command the help was shown, and there is nothing to add.
        if message := error.format_message():
            sys.stderr.write(f"glinthawk: {message}\n")
        return error.exit_code
