"""The verbs of `glinthawk jobs`."""

import sys
from contextlib import closing
from typing import Annotated

import typer

from services.admin.access import HERE, RouterUrl
from services.admin.client import RouterClient
from services.admin.jobs import cancel_job, list_jobs, resume_job, show_job

_JOB = Annotated[str, typer.Argument(help="As `glinthawk jobs list` names it.")]


def add_commands(app: typer.Typer) -> None:
    """Add the verbs about jobs to the command line."""
    jobs = typer.Typer(help="Jobs of a running cluster.", no_args_is_help=True)
    jobs.command("list")(_list_command)
    jobs.command("show")(_show_command)
    jobs.command("cancel")(_cancel_command)
    jobs.command("resume")(_resume_command)
    app.add_typer(jobs, name="jobs")


def _list_command(
    url: RouterUrl = HERE,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """List all jobs, in the order they came."""
    with closing(RouterClient(url)) as client:
        list_jobs(client, sys.stdout, as_json=as_json)


def _show_command(job: _JOB, url: RouterUrl = HERE) -> None:
    """Say all that is known about a job, as JSON."""
    with closing(RouterClient(url)) as client:
        show_job(client, job, sys.stdout)


def _cancel_command(job: _JOB, url: RouterUrl = HERE) -> None:
    """Stop a job; what is finished stays, and `resume` goes on with it."""
    with closing(RouterClient(url)) as client:
        cancel_job(client, job, sys.stdout)


def _resume_command(job: _JOB, url: RouterUrl = HERE) -> None:
    """Let a cancelled job go on, and try a paused one at once."""
    with closing(RouterClient(url)) as client:
        resume_job(client, job, sys.stdout)
