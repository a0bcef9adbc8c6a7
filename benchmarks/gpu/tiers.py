"""Tokens per second of whole jobs where the card's memory bounds the pages: one tier, two, and both."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from benchmarks.gpu.rig import Rig
from common.model_spec import ModelSpec, read_model_spec
from services.admin.bench.sites import ClusterSite, InlineSite, Site
from services.admin.bench.workloads import Workload, make_prompts, write_batch
from services.admin.device_split import weigh
from services.admin.local_cluster import ClusterPlan, Devices, LocalCluster
from services.admin.options import make_plan
from services.router.config import RouterSettings

_CARD_BYTES: Final = 16 * 10**9
_WHOLE_LAYERS: Final = 32
"""Of the model that the card is to hold; with fewer layers, card and model shrink alike."""
_QUANTIZATION: Final = "w8a16"
"""In bf16 the weights alone would fill the card."""
_USABLE: Final = 0.9
_TWO_TIER_BAR, _HYBRID_BAR = 1.3, 1.0
_ATTENTION_WORKERS: Final = 1

_WORKLOAD: Final = Workload(
    model="random 8B shape", num_requests=96, prompt_tokens=1792, output_tokens=256
)
_DRY_WORKLOAD: Final = replace(_WORKLOAD, num_requests=4, prompt_tokens=24, output_tokens=3)
_DRY_KV_BYTES: Final = 4 << 20


def measure_tiers(rig: Rig) -> Iterator[dict[str, Any]]:
    """Run one job three times: pages on the card alone, on the processor alone, and on both."""
    workload = _DRY_WORKLOAD if rig.is_dry else _WORKLOAD
    spec = read_model_spec(rig.directory)
    kv_bytes = _DRY_KV_BYTES if rig.is_dry else kv_bytes_of_card(rig.directory, spec)
    paces = {
        name: _run(rig, workload, num_workers, each)
        for name, num_workers, each in (
            ("single tier", 0, kv_bytes),
            ("two tiers", _ATTENTION_WORKERS, 0),
            ("hybrid", _ATTENTION_WORKERS, kv_bytes),
        )
    }
    paces["one process"] = _run_inline(rig, workload, kv_bytes)
    for name, bar in (("two tiers", _TWO_TIER_BAR), ("hybrid", _HYBRID_BAR)):
        ratio = paces[name] / paces["single tier"]
        yield {
            "pages": name,
            "output_tokens_per_s": paces[name],
            "single_tier_tokens_per_s": paces["single tier"],
            "ratio": ratio,
            "met": ratio >= bar,
            "ratio_to_one_process": paces[name] / paces["one process"],
        }


def kv_bytes_of_card(directory: Path, spec: ModelSpec) -> int:
    """Give what the weights leave of a card of 16 GB, for as many layers as there are."""
    weights = weigh(RouterSettings(dtype="bf16", quantization=_QUANTIZATION), directory, spec)
    share = spec.num_layers / _WHOLE_LAYERS
    in_layers = weights.layer_bytes * spec.num_layers
    ends = (weights.first_bytes + weights.last_bytes) * share
    return int(_CARD_BYTES * _USABLE * share - in_layers - ends)


def _run(rig: Rig, workload: Workload, attention_workers: int, kv_bytes: int) -> float:
    devices = Devices(names=(rig.name,), kv_bytes=kv_bytes)
    plan = replace(_plan(rig, workload), attention_workers=attention_workers, devices=devices)
    with LocalCluster(plan) as cluster:
        return _pace(ClusterSite(cluster, plan), rig, workload)


def _run_inline(rig: Rig, workload: Workload, kv_bytes: int) -> float:
    """Run a single tier in this process, with no messages to send: the best that these kernels do."""
    plan = replace(_plan(rig, workload), attention={"kv_memory": kv_bytes})
    return _pace(InlineSite(plan, rig.name), rig, workload)


def _plan(rig: Rig, workload: Workload) -> ClusterPlan:
    return make_plan(
        {
            "model": str(rig.directory),
            "dtype": "bf16",
            "quantization": _QUANTIZATION,
            "max_model_len": workload.prompt_tokens + workload.output_tokens,
            "max_num_seqs": workload.num_requests,
        }
    )


def _pace(site: Site, rig: Rig, workload: Workload) -> float:
    prompts = make_prompts(workload, read_model_spec(rig.directory).vocab_size, seed=0)
    short = replace(workload, output_tokens=2)
    with TemporaryDirectory(prefix="glinthawk-bench-") as name:
        site.run(write_batch(Path(name) / "first.jsonl", short, prompts[:2]))
        report = site.run(write_batch(Path(name) / "job.jsonl", workload, prompts))
    assert not report.failed, "a figure of a job that failed means nothing"
    return report.output_tokens_per_s
