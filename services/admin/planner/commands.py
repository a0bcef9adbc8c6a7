"""The verbs of planning: what they may be told; what they do is in the modules beside."""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from services.admin.planner.circulation import Order

_MODEL = "A name the planner knows, or a checkpoint's directory; weights need not be there."
_FROM_JOB = "Take lengths from this batch file or histogram."


def add_commands(app: typer.Typer) -> None:
    """Add the verbs of planning to the command line."""
    app.command("profile")(profile_command)
    app.command("plan")(plan_command)
    app.command("simulate")(simulate_command)


def profile_command(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder, or a roofline's file.")],
    model: Annotated[
        str, typer.Option(help="A checkpoint with its weights, or random:llama-300m.")
    ] = "random:llama-300m",
    device: Annotated[
        str | None, typer.Option(help="Not this machine but the roofline of t4, cpu and so on.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Of weights and activations.")] = "auto",
    kv_dtype: Annotated[str, typer.Option(help="Of keys and values.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, show_default="one per processor")] = None,
    pin: Annotated[bool, typer.Option("--pin", help="Keep each tier on one core.")] = False,
    max_rows: Annotated[int, typer.Option(min=2, help="Of a layer's grid.")] = 2048,
    max_context: Annotated[int, typer.Option(min=64, help="Of attention's grid.")] = 4096,
    max_tokens: Annotated[int, typer.Option(min=2, help="Of a request to the services.")] = 120,
) -> None:
    """Measure this machine as each kind of node; takes minutes, and nothing else may run.

    Example: glinthawk profile --model random:llama-300m --threads 1 -o profiles
    """
    if device is not None:
        _write_roofline(device, model, kv_dtype, output)
        return
    from services.admin.planner.measure import Measuring, measure

    wanted = Measuring(
        model=model,
        dtype=dtype,
        kv_dtype=kv_dtype,
        threads=threads,
        pin=pin,
        max_rows=max_rows,
        max_context=max_context,
        max_tokens=max_tokens,
    )
    paths = measure(wanted, output, _say)
    sys.stdout.write("".join(f"{path}\n" for path in paths))


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _write_roofline(device: str, model: str, kv_dtype: str, output: Path) -> None:
    from common.policy.profile import write_profile
    from services.admin.planner.devices import find_device, roofline
    from services.admin.planner.models import find_model
    from services.admin.planner.plan import parse_kv_dtypes

    found = find_device(device)
    wanted = find_model(model) if found.tier == 1 else None
    dtype = parse_kv_dtypes(["bf16" if kv_dtype == "auto" else kv_dtype])[0]
    write_profile(roofline(found, wanted, dtype), output)
    sys.stdout.write(f"{output}\n")


def plan_command(
    hardware: Annotated[Path, typer.Option(help="YAML list of machines, prices and network.")],
    model: Annotated[str, typer.Option(help=_MODEL)],
    from_job: Annotated[Path | None, typer.Option(help=_FROM_JOB)] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Of every request.")] = 512,
    output_tokens: Annotated[int, typer.Option(min=1, help="Of every request.")] = 256,
    kv_dtype: Annotated[
        list[str] | None, typer.Option(help="Keys and values to try.", show_default="bf16, int8")
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="Entries of a microbatch.")] = 1024,
    max_price: Annotated[float | None, typer.Option(help="Of the cluster, per hour.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw a figure, .png or .svg.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Find the clusters worth having, and say whether two tiers pay.

    Example: glinthawk plan --model llama-3-8b --hardware examples/planning/t4-and-cpus.yaml
    """
    from services.admin.planner.demand import Demand
    from services.admin.planner.hardware import read_hardware
    from services.admin.planner.lengths import Lengths, read_lengths
    from services.admin.planner.models import find_model
    from services.admin.planner.plan import Wanted, make_plan, parse_kv_dtypes
    from services.admin.planner.plan_output import plot_plan, print_plan, write_plan_json

    lengths = read_lengths(from_job, model) if from_job else [Lengths(prompt_tokens, output_tokens)]
    wanted = Wanted(
        model=find_model(model),
        hardware=read_hardware(hardware),
        demand=Demand.of_lengths(lengths),
        kv_dtypes=parse_kv_dtypes(kv_dtype or ["bf16", "int8"]),
        max_batch=max_batch,
        max_price=max_price,
    )
    plan = make_plan(wanted)
    if plot is not None:
        plot_plan(plan, plot)
    (write_plan_json if as_json else print_plan)(plan, sys.stdout)


def simulate_command(
    config: Annotated[Path, typer.Option(help="The cluster: YAML, or JSON of given delays.")],
    model: Annotated[
        Literal["services", "glinthawk"],
        typer.Option(help="`services` decides as they do; `glinthawk` is the original's model."),
    ] = "services",
    from_job: Annotated[Path | None, typer.Option(help=_FROM_JOB)] = None,
    requests: Annotated[int, typer.Option(min=1, help="All alike, without --from-job.")] = 1000,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Of every request.")] = 512,
    output_tokens: Annotated[int, typer.Option(min=1, help="Of every request.")] = 256,
    shared_prefix: Annotated[int, typer.Option(min=0, help="Tokens all prompts begin with.")] = 0,
    order: Annotated[Order, typer.Option(help="In which engines serve.")] = "deepest-first",
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Simulate a cluster and a job, event by event.

    Example: glinthawk simulate --config examples/planning/nine-t4s.yaml --requests 500

    Example: glinthawk simulate --model glinthawk --config examples/planning/stations.json --json
    """
    if model == "glinthawk":
        _simulate_published(config, order, as_json=as_json)
        return
    from common.policy.ordering import deepest_first, oldest_first
    from services.admin.planner.cluster_file import read_cluster
    from services.admin.planner.lengths import Lengths, read_lengths
    from services.admin.planner.simulation import simulate

    cluster = read_cluster(config)
    alike = [Lengths(prompt_tokens, output_tokens)] * requests
    lengths = read_lengths(from_job, cluster.model) if from_job else alike
    orders = {"deepest-first": deepest_first, "first-come": oldest_first}
    report = simulate(cluster, lengths, orders[order], shared_prefix)
    (report.write_json if as_json else report.print)(sys.stdout)


def _simulate_published(config: Path, order: Order, *, as_json: bool) -> None:
    from services.admin.planner.published_events import read_published_cluster

    cluster = read_published_cluster(config)
    wraps_ms = cluster.simulate(order).wraps(cluster.wraps)
    if as_json:
        sys.stdout.write(json.dumps({"wraps_ms": wraps_ms}) + "\n")
        return
    sys.stdout.write("".join(f"{number}: {at:.3f} ms\n" for number, at in enumerate(wraps_ms, 1)))
