"""The verbs of `glinthawk bench`: what they may be told; what they do is in the modules beside."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from services.admin.options import with_cluster_options


def add_commands(app: typer.Typer) -> None:
    """Add the verbs."""
    bench = typer.Typer(help="Measure what a cluster or an engine can do.", no_args_is_help=True)
    app.add_typer(bench, name="bench")
    bench.command("throughput")(throughput_command)
    bench.command("transport")(transport_command)
    bench.command("attention")(attention_command)


@with_cluster_options
def throughput_command(
    workload: Annotated[
        Literal["A", "B", "C"], typer.Option(help="What the next four options are by default.")
    ] = "A",
    model: Annotated[
        str | None,
        typer.Option(help="A checkpoint, or random:llama-300m, random:stories-110m and so on."),
    ] = None,
    requests: Annotated[int | None, typer.Option(min=1, help="All submitted at once.")] = None,
    prompt_tokens: Annotated[int | None, typer.Option(min=1, help="Of each request.")] = None,
    output_tokens: Annotated[int | None, typer.Option(min=2, help="Of each request.")] = None,
    compute: Annotated[
        Literal["real", "inline", "emulated"],
        typer.Option(help="`inline` is everything in one process, to compare with."),
    ] = "real",
    runs: Annotated[int, typer.Option(min=1, help="More than one: their median.")] = 1,
    trace: Annotated[Path | None, typer.Option(help="Write a timeline of all runs.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line, for scripts.")] = False,
    **cluster: Any,
) -> None:
    """Measure tokens per second of a whole job, and where the time goes.

    Example: glinthawk bench throughput --workload A --runs 3
    """
    from services.admin.bench.throughput import bench_throughput
    from services.admin.bench.workloads import choose_workload

    chosen = choose_workload(
        workload,
        model=model,
        num_requests=requests,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
    )
    measured = bench_throughput(chosen, cluster, compute=compute, num_runs=runs, trace=trace)
    (measured.write_json if as_json else measured.print)(sys.stdout)


def transport_command(
    entries: Annotated[int, typer.Option(min=1, help="Of the microbatch.")] = 64,
    context: Annotated[int, typer.Option(min=1, help="Tokens of each request.")] = 320,
    messages: Annotated[int, typer.Option(min=1, help="Of each kind.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="One line, for scripts.")] = False,
) -> None:
    """Measure what the messages of a step cost in processor time, at both ends.

    Example: glinthawk bench transport --entries 255
    """
    from services.admin.bench.step_messages import StepSize
    from services.admin.bench.transport import bench_transport, print_costs

    costs = bench_transport(StepSize(num_entries=entries, context=context), messages)
    print_costs(costs, sys.stdout, as_json=as_json)


def attention_command(
    phase: Annotated[
        Literal["decode", "prefill"], typer.Option(help="A step of a batch, or a prompt's chunk.")
    ] = "decode",
    batch: Annotated[int, typer.Option(min=1, help="Requests.")] = 32,
    context: Annotated[int, typer.Option(min=1, help="Tokens of each request.")] = 1024,
    chunk: Annotated[int, typer.Option(min=1, help="Rows of each request, in prefill.")] = 256,
    q_heads: Annotated[int, typer.Option(min=1)] = 32,
    kv_heads: Annotated[int, typer.Option(min=1)] = 8,
    head_dim: Annotated[int, typer.Option(min=1)] = 128,
    kv_dtype: Annotated[Literal["bf16", "fp16", "fp32", "int8"], typer.Option()] = "bf16",
    page_size: Annotated[int, typer.Option(min=1, help="Tokens per page.")] = 64,
    threads: Annotated[int | None, typer.Option(min=1, show_default="one per core")] = None,
    kernel: Annotated[str, typer.Option(help="Instructions to use, or torch.")] = "auto",
    runs: Annotated[int, typer.Option(min=1, help="Their median counts.")] = 7,
    compare: Annotated[bool, typer.Option("--compare", help="Do it in torch, too.")] = False,
    vllm_python: Annotated[
        Path | None, typer.Option(help="With --compare: Python of an environment that has vLLM.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line, for scripts.")] = False,
) -> None:
    """Measure attention on pages, against the speed of memory.

    Example: glinthawk bench attention --batch 1 --context 32768 --compare
    """
    from common.config import load_settings
    from services.admin.bench.attention import bench_attention
    from services.admin.bench.attention_work import AttentionWork
    from services.attention_worker.config import AttentionWorkerSettings
    from services.attention_worker.machine import find_machine

    settings = load_settings(AttentionWorkerSettings, {"threads": threads, "kernel": kernel})
    work = AttentionWork(
        phase=phase,
        batch=batch,
        context=context,
        chunk=chunk,
        q_heads=q_heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        kv_dtype=kv_dtype,
        page_size=page_size,
    )
    measured = bench_attention(
        work,
        find_machine(settings),
        num_runs=runs,
        compare=compare,
        vllm_python=vllm_python,
    )
    (measured.write_json if as_json else measured.print)(sys.stdout)
