"""The router's processor time per generated token, among workers that compute nothing.

    python -m benchmarks.router_cost --layer-workers 9 --attention-workers 27 --entries 255

All processes are real and share this machine's cores, so tokens per second say little here, but
the router does for each token what it does in a large cluster. The model is narrow: activations
never pass through the router.
"""

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import psutil
import typer

from common.policy.in_flight import starting_in_flight
from common.policy.profile import AttentionTimes, LayerTimes, ModelShape, Profile
from services.admin.bench.workloads import Workload, make_prompts, write_batch
from services.admin.local_cluster import ClusterPlan, LocalCluster
from services.admin.run_batch import BatchFiles, run_batch

_SHAPE = ModelShape(
    hidden_size=64,
    intermediate_size=64,
    num_heads=2,
    num_kv_heads=1,
    head_size=32,
    vocab_size=32000,
)


def main(
    layer_workers: int = 3,
    attention_workers: int = 3,
    entries: Annotated[int, typer.Option(help="Of each microbatch.")] = 255,
    prompt_tokens: int = 32,
    output_tokens: int = 128,
    stage_ms: Annotated[float, typer.Option(help="What every stage of tier 1 takes.")] = 0.0,
) -> None:
    """Run one job whose microbatches are full, and print what it cost the router."""
    num_requests = entries * starting_in_flight(layer_workers, shares_cores=False)
    with TemporaryDirectory() as name:
        folder = Path(name)
        plan = ClusterPlan(
            layer_workers=layer_workers,
            attention_workers=attention_workers,
            router={
                "model": _write_model(folder / "model", layer_workers),
                "compute": "emulated",
                "max-num-seqs": num_requests,
                "max-num-batched-tokens": max(2048, entries),
                # On a few cores, one of dozens of processes may not get its turn for seconds.
                "lease-s": 60,
                "kv-patience-s": 60,
            },
            layer=_emulated(_layer_profile(folder, stage_ms / 1000)),
            attention={**_emulated(_attention_profile(folder)), "kv-memory": "64GiB"},
            threads=1,
        )
        workload = Workload(
            model="emulated",
            num_requests=num_requests,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
        )
        prompts = make_prompts(workload, _SHAPE.vocab_size, seed=0)
        batch = write_batch(folder / "in.jsonl", workload, prompts)
        files = BatchFiles(input=batch, output=folder / "out.jsonl", report=None)
        print(json.dumps(_measure(plan, files)))


def _measure(plan: ClusterPlan, files: BatchFiles) -> dict[str, float]:
    with LocalCluster(plan) as cluster:
        cluster.wait_until_ready().close()
        router = psutil.Process(cluster.processes()["router"])
        before, started_s = router.cpu_times(), time.monotonic()
        report = run_batch(files, cluster.url)
        after, wall_s = router.cpu_times(), time.monotonic() - started_s
    user_s, system_s = after.user - before.user, after.system - before.system
    return {
        "generated_tokens": report.generated_tokens,
        "failed": report.failed,
        "wall_s": round(wall_s, 1),
        "output_tokens_per_s": round(report.output_tokens_per_s),
        "router_user_s": round(user_s, 2),
        "router_system_s": round(system_s, 2),
        "router_us_per_token": round((user_s + system_s) / report.generated_tokens * 1e6, 1),
    }


def _emulated(profile: Path) -> dict[str, str | Path]:
    return {"compute": "emulated", "profile": profile}


def _write_model(directory: Path, num_layers: int) -> Path:
    config = {
        "model_type": "llama",
        "hidden_size": _SHAPE.hidden_size,
        "intermediate_size": _SHAPE.intermediate_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": _SHAPE.num_heads,
        "num_key_value_heads": _SHAPE.num_kv_heads,
        "vocab_size": _SHAPE.vocab_size,
        "max_position_embeddings": 4096,
        "eos_token_id": 2,
    }
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def _layer_profile(folder: Path, stage_s: float) -> Path:
    times = (stage_s, stage_s)
    layer = LayerTimes(rows=(1, 2), pre_s=times, post_s=times, classify_s=times)
    return _write(folder / "layer.json", layer=layer, model=_SHAPE)


def _attention_profile(folder: Path) -> Path:
    times = AttentionTimes(kv_bytes_per_s=1e15, flops_per_s=1e18, overhead_s=0.0)
    return _write(folder / "attention.json", attention=times)


def _write(path: Path, **parts: ModelShape | LayerTimes | AttentionTimes) -> Path:
    profile = Profile.model_validate(
        {
            "version": 1,
            "node": "free",
            "source": "roofline",
            "assumptions": {"all": "nothing takes time"},
            "dtype": "bf16",
            **parts,
        }
    )
    path.write_text(profile.model_dump_json())
    return path


if __name__ == "__main__":
    typer.run(main)
