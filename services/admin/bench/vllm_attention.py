"""vLLM's CPU kernel beside ours: in a process of its own, since it wants an environment of its own."""

import json
import os
import subprocess
from dataclasses import asdict
from pathlib import Path
from tempfile import NamedTemporaryFile

from common.errors import SettingsError
from services.admin.bench.attention_work import AttentionWork

_CHILD = Path(__file__).with_name("vllm_layers.py")


def vllm_ms(python: Path, work: AttentionWork, num_threads: int, num_runs: int) -> float:
    """Measure the milliseconds of one layer, in bf16.

    Args:
        python: The interpreter of an environment that has vLLM for CPUs.
        work: What is computed; its caches are visited in turn, as ours are.
        num_threads: Of OpenMP.
        num_runs: Their median counts.

    Raises:
        SettingsError: It does not run there; says why.
    """
    job = asdict(work) | {
        "num_rows": work.num_rows,
        "num_layers": work.num_layers,
        "threads": num_threads,
        "num_runs": num_runs,
    }
    environment = {**os.environ, "OMP_NUM_THREADS": str(num_threads)}
    openmp = python.parent.parent / "lib" / "libiomp5.so"  # vLLM wants it, if it is there
    if openmp.exists():
        environment["LD_PRELOAD"] = str(openmp)
    with NamedTemporaryFile("r", suffix=".json") as answer:
        command = [str(python), str(_CHILD), json.dumps(job), answer.name]
        try:
            subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
        except OSError as error:
            raise SettingsError(f"--vllm-python {python} cannot be started: {error}") from error
        except subprocess.CalledProcessError as error:
            message = f"vLLM's attention failed under {python}:\n{error.stderr[-2000:]}"
            raise SettingsError(message) from error
        return float(json.load(answer))
