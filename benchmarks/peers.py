"""The same workload through this system and through other engines, in one run, with ratios.

    python -m benchmarks.peers --workload A --venv vllm=/opt/vllm --venv openvino=/opt/openvino
    python -m benchmarks.peers --workload A --engine glinthawk --engine openvino --venv …

The clock runs from handing in all prompts to the last token, prefill included; starting and loading
are not in it. Each engine runs alone, in bf16, after a warm-up of two tokens per prompt. Of several
runs the middle one counts. transformers is in this environment; another engine needs an environment
that has it (`benchmarks/README.md` says how to make one).
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated, Any, Literal

import typer

from benchmarks.peer_engines import ENGINES
from services.admin.bench.workloads import Workload, choose_workload, find_model, make_prompts

_OWN = "glinthawk"

_MODULES = {"vllm": "vllm", "openvino": "openvino_genai"}
"""What an environment must have, by the first word of an engine's name."""

_ENGINES = Path(__file__).with_name("peer_engines.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of an engine's runs."""

    engine: str
    output_tokens_per_s: float
    """Of the middle run; of two, the slower."""
    least: float
    most: float


def main(  # noqa: PLR0913 - one argument per option
    workload: Literal["A", "B", "C"] = "A",
    model: str | None = None,
    requests: int | None = None,
    prompt_tokens: int | None = None,
    output_tokens: int | None = None,
    runs: int = 1,
    quantization: Annotated[str, typer.Option(help="Of this system's layers.")] = "none",
    engine: Annotated[
        list[str] | None, typer.Option(help="Only this one; repeatable. `glinthawk` is one, too.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Of every engine.")] = 2,
    venv: Annotated[
        list[str] | None, typer.Option(help="NAME=PATH of an engine's environment; repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Measure this system and every engine that is installed."""
    chosen = choose_workload(
        workload,
        model=model,
        num_requests=requests,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
    )
    wanted = engine or [_OWN, *ENGINES]
    pythons = {name: python for name, python in _installed(venv or []).items() if name in wanted}
    results = [_measure_own(chosen, runs, threads, quantization)] if _OWN in wanted else []
    job = _make_job(chosen, runs, threads)
    results += filter(None, (_measure_peer(name, pythons[name], job) for name in pythons))
    if as_json:
        print(json.dumps([asdict(each) for each in results]))
        return
    own = next((each.output_tokens_per_s for each in results if each.engine == _OWN), None)
    for each in results:
        rate = each.output_tokens_per_s
        ratio = f"; {_OWN} is {own / rate:.2f} x" if own else ""
        print(
            f"{each.engine:<13} {rate:8.1f} tokens/s ({each.least:.1f} to {each.most:.1f}){ratio}"
        )


def _installed(venvs: list[str]) -> dict[str, Path]:
    """Find the engines that can be run, each with the Python that has it."""
    pythons = {"transformers": Path(sys.executable)} if find_spec("transformers") else {}
    for name, _, path in (each.partition("=") for each in venvs):
        if name not in _MODULES:
            raise typer.BadParameter(f"{name} is no engine; {', '.join(_MODULES)} are")
        python = Path(path) / "bin" / "python"
        look = f"import importlib.util as u; raise SystemExit(not u.find_spec('{_MODULES[name]}'))"
        if not python.exists() or subprocess.run([python, "-c", look], check=False).returncode:
            sys.stderr.write(f"{name} is not installed in {path}, so it is left out\n")
            continue
        pythons |= {engine: python for engine in ENGINES if engine.split("-")[0] == name}
    return pythons


def _make_job(workload: Workload, runs: int, threads: int) -> dict[str, Any]:
    """Say what every peer is to do, see `peer_engines`."""
    model = Path(find_model(workload.model))
    vocab_size = json.loads((model / "config.json").read_text())["vocab_size"]
    return {
        "model": str(model),
        "prompts": make_prompts(workload, vocab_size, seed=0),
        "output_tokens": workload.output_tokens,
        "threads": threads,
        "runs": runs,
    }


def _measure_own(workload: Workload, runs: int, threads: int, quantization: str) -> Result:
    options = {
        "model": workload.model,
        "requests": workload.num_requests,
        "prompt-tokens": workload.prompt_tokens,
        "output-tokens": workload.output_tokens,
        "threads": threads,
        "runs": runs,
        "quantization": quantization,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "services.admin", "bench", "throughput", "--json", *words]
    figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    least, most = figures["spread"]["output_tokens_per_s"]
    return Result(
        engine=_OWN,
        output_tokens_per_s=figures["output_tokens_per_s"],
        least=least,
        most=most,
    )


def _measure_peer(engine: str, python: Path, job: dict[str, Any]) -> Result | None:
    """Run an engine in a process of its own; what it writes about a failure is passed on."""
    with NamedTemporaryFile() as answer:
        done = subprocess.run(
            [python, _ENGINES, engine, answer.name],
            input=json.dumps(job),
            env=_environment(python, job["threads"]),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.stderr.write(f"{engine} failed, so it is left out:\n{done.stderr[-2000:]}\n")
            return None
        seconds = json.load(answer)
    num_tokens = len(job["prompts"]) * job["output_tokens"]
    rates = sorted(num_tokens / each for each in seconds)
    middle = rates[(len(rates) - 1) // 2]
    return Result(engine=engine, output_tokens_per_s=middle, least=rates[0], most=rates[-1])


def _environment(python: Path, threads: int) -> dict[str, str]:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "VLLM_CPU_KVCACHE_SPACE": "4",
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}",
    }
    openmp = python.parent.parent / "lib" / "libiomp5.so"  # vLLM wants it, if it is there
    return {**environment, "LD_PRELOAD": str(openmp)} if openmp.exists() else environment


if __name__ == "__main__":
    typer.run(main)
