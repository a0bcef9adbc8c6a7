"""The verbs for people: talk to a cluster, watch it, and say what machine this is."""

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from services.admin.access import HERE, URL_VARIABLE, RouterUrl
from services.admin.options import make_plan, with_cluster_options

_Url = Annotated[
    str | None,
    typer.Option(
        envvar=URL_VARIABLE,
        help="Of a running cluster; without it one is started on this machine.",
    ),
]
_MaxTokens = Annotated[int | None, typer.Option(min=1, help="The longest answer.")]
_Temperature = Annotated[float | None, typer.Option(min=0, help="0 takes the likeliest token.")]


def add_commands(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    app.command("chat")(with_cluster_options(chat_command))
    app.command("complete")(with_cluster_options(complete_command))
    app.command("top")(top_command)
    app.command("collect-env")(collect_env_command)
    app.command("doctor")(doctor_command)


def chat_command(
    url: _Url = None,
    system: Annotated[str | None, typer.Option(help="What the model is told first.")] = None,
    max_tokens: _MaxTokens = None,
    temperature: _Temperature = None,
    **cluster: Any,
) -> None:
    """Talk with the model until Ctrl-D; piped input is one turn.

    Example: glinthawk chat --model ./my-checkpoint
    """
    from services.admin.talk import chat

    sampling = {"max_tokens": max_tokens, "temperature": temperature}
    chat(url or make_plan(cluster), system, sampling, sys.stdout)


def complete_command(
    prompt: Annotated[str, typer.Argument(help="What the model goes on from.")],
    url: _Url = None,
    max_tokens: _MaxTokens = None,
    temperature: _Temperature = None,
    **cluster: Any,
) -> None:
    """Write what the model makes of a prompt.

    Example: glinthawk complete --model ./my-checkpoint "Once upon a time"
    """
    from services.admin.talk import complete

    sampling = {"max_tokens": max_tokens, "temperature": temperature}
    complete(url or make_plan(cluster), prompt, sampling, sys.stdout)


def top_command(
    url: RouterUrl = HERE,
) -> None:
    """Watch a running cluster until Ctrl-C; piped, show it once.

    Example: glinthawk top --url http://127.0.0.1:8000
    """
    from services.admin.client import RouterClient
    from services.admin.top import top

    with closing(RouterClient(url)) as client:
        top(client, sys.stdout)


def collect_env_command(
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Say what a report of a problem should say about this machine; nothing secret.

    Example: glinthawk collect-env
    """
    from services.admin.environment import collect

    found = collect()
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    width = max(map(len, found))
    sys.stdout.writelines(f"{name.ljust(width)}  {value}\n" for name, value in found.items())


def doctor_command(
    model: Annotated[
        str | None, typer.Option(help="A checkpoint that is to fit; a directory or a hub id.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="A router to compare clocks with.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Look at this machine: what is wrong, and what to do. Changes nothing.

    Exit codes: 0 nothing is bad, 1 something is.

    Example: glinthawk doctor --model ./my-checkpoint
    """
    from services.admin.doctor import as_rows, examine, verdicts

    findings = examine(model, url)
    if as_json:
        sys.stdout.write(json.dumps(as_rows(findings), indent=2) + "\n")
    else:
        sys.stdout.writelines(f"{line}\n" for line in verdicts(findings))
    if any(finding.verdict == "bad" for finding in findings):
        raise typer.Exit(1)


def validate_command(
    config: Annotated[Path, typer.Argument(help="YAML file of settings.")],
) -> None:
    """Check a file of settings; the first thing that is wrong is said in one line.

    Example: glinthawk config validate glinthawk.yaml
    """
    from services.admin.config import gather

    given = [setting for setting in gather(config) if str(config) in setting.origin]
    sys.stdout.write(f"{config} is fine; it decides {len(given)} settings\n")
