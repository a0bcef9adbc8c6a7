"""What a job did: rows, tokens, tokens per second, how busy each tier was, bytes per link."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO


@dataclass(frozen=True, slots=True, kw_only=True)
class JobReport:
    """The figures of one job; `--report` writes them as JSON."""

    rows: int
    failed: int
    prompt_tokens: int
    generated_tokens: int
    wall_s: float
    """From the upload of the input to the last line of the output."""
    output_tokens_per_s: float
    tier1_busy: float
    """Share of the wall time that the layer workers' engines computed, averaged over them."""
    tier2_busy: float
    """The same of the attention workers."""
    bytes_per_link: dict[str, int]
    """Bytes of tensors by `sender -> receiver`."""
    kernel_paths: tuple[str, ...]
    """How the workers computed; more than one per tier means that bits may differ."""

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    def print(self, out: TextIO) -> None:
        """Write the report for a person."""
        sizes = self.bytes_per_link
        busiest = max(sizes, key=lambda link: sizes[link], default="-")
        rows = {
            "rows": f"{self.rows} ({self.failed} failed)",
            "tokens": f"{self.prompt_tokens} prompt, {self.generated_tokens} generated",
            "wall time": f"{self.wall_s:.1f} s",
            "throughput": f"{self.output_tokens_per_s:.1f} output tokens/s",
            "busy": f"tier 1 {self.tier1_busy:.0%}, tier 2 {self.tier2_busy:.0%}",
            "kernels": ", ".join(self.kernel_paths) or "-",
            "links": f"{len(sizes)}, {_bytes(sum(sizes.values()))} of tensors",
            "busiest": f"{busiest}, {_bytes(sizes.get(busiest, 0))}",
        }
        for name, value in rows.items():
            out.write(f"  {name:<11} {value}\n")


@dataclass(slots=True)
class Tally:
    """Counts results while they are written."""

    rows: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0

    def add(self, chunk: bytes) -> None:
        """Count the lines of a piece of the output."""
        for text in chunk.splitlines():
            result = json.loads(text)
            self.rows += 1
            self.failed += result["error"] is not None
            usage = ((result.get("response") or {}).get("body") or {}).get("usage") or {}
            self.prompt_tokens += usage.get("prompt_tokens", 0)
            self.generated_tokens += usage.get("completion_tokens", 0)


def make_report(
    tally: Tally, before: Mapping[str, Any], after: Mapping[str, Any], wall_s: float
) -> JobReport:
    """Sum up a job from its results and the cluster's status before and after it."""
    workers = _changes(before, after)
    return JobReport(
        rows=tally.rows,
        failed=tally.failed,
        prompt_tokens=tally.prompt_tokens,
        generated_tokens=tally.generated_tokens,
        wall_s=wall_s,
        output_tokens_per_s=tally.generated_tokens / wall_s,
        tier1_busy=_busy(workers, "layer_worker") / wall_s,
        tier2_busy=_busy(workers, "attention_worker") / wall_s,
        bytes_per_link={
            f"{worker['worker_id']} -> {peer}": size
            for worker in workers
            for peer, size in sorted(worker["links"].items())
            if size
        },
        kernel_paths=tuple(
            sorted({f"{w['role']} {w['kernel_path']}" for w in workers if w["role"] in _TIERS})
        ),
    )


_TIERS = ("layer_worker", "attention_worker")


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Give the workers with what they did in between; a worker that is new began at nothing."""
    earlier = {(worker["worker_id"], worker["epoch"]): worker for worker in before["workers"]}
    changed = []
    for worker in after["workers"]:
        start = earlier.get((worker["worker_id"], worker["epoch"]), {"busy_s": 0.0, "links": {}})
        links = {peer: size - start["links"].get(peer, 0) for peer, size in worker["links"].items()}
        changed.append({**worker, "busy_s": worker["busy_s"] - start["busy_s"], "links": links})
    return changed


def _busy(workers: list[dict[str, Any]], role: str) -> float:
    """Average the engine seconds of a role."""
    seconds = [worker["busy_s"] for worker in workers if worker["role"] == role]
    return sum(seconds) / len(seconds) if seconds else 0.0


def _bytes(size: float) -> str:
    for unit in ("B", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
