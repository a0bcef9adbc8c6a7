"""`glinthawk`: run batches, run clusters, look at them."""

import json
import os
import signal
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from common.errors import GlinthawkError
from common.runtime.process import one_line_errors
from services.admin.local_cluster import ClusterPlan

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

_Model = Annotated[
    str, typer.Option(help="Directory of a Hugging Face checkpoint, or a hub id ORG/NAME.")
]
_LayerWorkers = Annotated[int, typer.Option(min=1, help="Layer ranges, a process each.")]
_AttentionWorkers = Annotated[int, typer.Option(min=1, help="Processes that hold KV pages.")]
_InFlight = Annotated[
    int | None, typer.Option(min=1, help="Microbatches at once. [default: chosen]")
]
_KvMemory = Annotated[
    str | None,
    typer.Option(help="KV memory of each attention worker, such as 4GiB. [default: a share]"),
]
_Threads = Annotated[
    int | None, typer.Option(min=1, help="Threads per worker. [default: cores shared out]")
]
_MaxModelLen = Annotated[
    int | None, typer.Option(min=1, help="Tokens of prompt and output. [default: the model's]")
]
_Dtype = Annotated[str, typer.Option(help="auto, bfloat16 (bf16), float16 (fp16), float32 (fp32).")]
_KvDtype = Annotated[str, typer.Option(help="auto, bf16, fp16 or fp32.")]
_BlockSize = Annotated[int, typer.Option(min=1, help="Tokens per KV page.")]
_MaxNumSeqs = Annotated[int, typer.Option(min=1, help="Requests that hold KV pages at once.")]
_MaxTokens = Annotated[int, typer.Option(min=1, help="Token rows of one microbatch.")]
_Seed = Annotated[int | None, typer.Option(min=0, help="For lines without one. [default: drawn]")]


def _plan(
    *,
    layer_workers: int,
    attention_workers: int,
    kv_memory: str | None,
    threads: int | None,
    http_port: int = 0,
    keep_logs: bool = False,
    **router: Any,
) -> ClusterPlan:
    """Check the model and the options before anything starts."""
    from common.config import load_settings
    from services.admin.preflight import check_model
    from services.router.config import RouterSettings

    router = {name: value for name, value in router.items() if value is not None}
    load_settings(RouterSettings, router)
    check_model(router["model"])
    return ClusterPlan(
        layer_workers=layer_workers,
        attention_workers=attention_workers,
        router={name.replace("_", "-"): value for name, value in router.items()},
        attention={"kv-memory": kv_memory},
        threads=threads,
        http_port=http_port,
        keep_logs=keep_logs,
    )


@app.command("run-batch")
def run_batch_command(
    input_file: Annotated[Path, typer.Option("-i", "--input-file", help="JSONL file of requests.")],
    output_file: Annotated[Path, typer.Option("-o", "--output-file", help="Results, same order.")],
    model: _Model = "",
    layer_workers: _LayerWorkers = 1,
    attention_workers: _AttentionWorkers = 1,
    in_flight: _InFlight = None,
    kv_memory: _KvMemory = None,
    threads: _Threads = None,
    max_model_len: _MaxModelLen = None,
    dtype: _Dtype = "auto",
    kv_cache_dtype: _KvDtype = "auto",
    block_size: _BlockSize = 64,
    max_num_seqs: _MaxNumSeqs = 256,
    max_num_batched_tokens: _MaxTokens = 2048,
    seed: _Seed = None,
    report: Annotated[Path | None, typer.Option(help="Write the report as JSON, too.")] = None,
    url: Annotated[
        str | None, typer.Option(help="Use the cluster at this URL instead of starting one.")
    ] = None,
) -> None:
    """Run a file of requests in OpenAI's batch format.

    Starts a cluster on this machine, unless --url names one, and stops it afterwards. Exit codes:
    0 all lines have a result (some may be error lines), 2 the job cannot run, 130 interrupted.

    Example: glinthawk run-batch -i in.jsonl -o out.jsonl --model ./my-checkpoint
    """
    from services.admin.run_batch import BatchFiles, print_report, run_batch

    files = BatchFiles(input=input_file, output=output_file, report=report)
    files.check()
    cluster: ClusterPlan | str = url or _plan(
        model=_need(model),
        layer_workers=layer_workers,
        attention_workers=attention_workers,
        kv_memory=kv_memory,
        threads=threads,
        in_flight=in_flight,
        max_model_len=max_model_len,
        dtype=dtype,
        kv_cache_dtype=kv_cache_dtype,
        block_size=block_size,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        seed=seed,
    )
    print_report(run_batch(files, cluster), files)


@app.command("up")
def up_command(
    model: _Model = "",
    layer_workers: _LayerWorkers = 1,
    attention_workers: _AttentionWorkers = 1,
    in_flight: _InFlight = None,
    kv_memory: _KvMemory = None,
    threads: _Threads = None,
    max_model_len: _MaxModelLen = None,
    dtype: _Dtype = "auto",
    kv_cache_dtype: _KvDtype = "auto",
    block_size: _BlockSize = 64,
    max_num_seqs: _MaxNumSeqs = 256,
    max_num_batched_tokens: _MaxTokens = 2048,
    seed: _Seed = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the HTTP API.")] = 8000,
    data_directory: Annotated[
        Path | None, typer.Option(help="Keeps jobs over restarts. [default: none are kept]")
    ] = None,
) -> None:
    """Keep a cluster running on this machine until Ctrl-C.

    Example: glinthawk up --model ./my-checkpoint --attention-workers 2
    """
    from services.admin.up import up

    plan = _plan(
        model=_need(model),
        layer_workers=layer_workers,
        attention_workers=attention_workers,
        kv_memory=kv_memory,
        threads=threads,
        http_port=port,
        keep_logs=True,
        in_flight=in_flight,
        max_model_len=max_model_len,
        dtype=dtype,
        kv_cache_dtype=kv_cache_dtype,
        block_size=block_size,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        seed=seed,
        data_directory=data_directory,
    )
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    up(plan, stopped)


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


def _need(model: str) -> str:
    if not model:
        message = "no model: give --model DIRECTORY (examples/tiny/model is shipped)"
        raise GlinthawkError(message)
    return model


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
    try:
        with one_line_errors():
            app()
    except KeyboardInterrupt:
        sys.stderr.write("glinthawk: interrupted; nothing is left running\n")
        raise SystemExit(_EXIT_INTERRUPTED) from None


if __name__ == "__main__":
    main()
