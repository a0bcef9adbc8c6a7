"""What a job did, for its reader: as JSON in a file, and in a few lines on the terminal."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from services.router.job_account import JobReport


def write_report(report: JobReport, path: Path) -> None:
    """Write a report as JSON."""
    path.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")


def print_report(report: JobReport, out: TextIO) -> None:
    """Write a report for a person."""
    out.writelines(f"  {name:<11} {value}\n" for name, value in _rows(report))


def _rows(report: JobReport) -> Iterator[tuple[str, str]]:
    sizes = report.bytes_per_link
    busiest = max(sizes, key=lambda link: sizes[link], default="-")
    yield "rows", f"{report.rows} ({report.failed} failed)"
    yield "tokens", f"{report.prompt_tokens} prompt, {report.generated_tokens} generated"
    yield "wall time", f"{report.wall_s:.1f} s"
    yield "throughput", f"{report.output_tokens_per_s:.1f} output tokens/s"
    yield "busy", f"tier 1 {report.tier1_busy:.0%}, tier 2 {report.tier2_busy:.0%}"
    yield "kernels", ", ".join(report.kernel_paths) or "-"
    yield "links", f"{len(sizes)}, {_bytes(sum(sizes.values()))} of tensors"
    yield "busiest", f"{busiest}, {_bytes(sizes.get(busiest, 0))}"
    if report.prefix_hit_rate:
        yield "prefix hits", f"{report.prefix_hit_rate:.0%} of the tokens of prompts"
    if report.recomputed_tokens:
        causes = (f"{num} ({cause})" for cause, num in sorted(report.recomputed_tokens.items()))
        yield "recomputed", f"{', '.join(causes)} tokens"
    if report.cost is not None:
        per_million = report.cost_per_million_tokens
        rate = "" if per_million is None else f", {per_million:.2f} per million generated tokens"
        yield "cost", f"{report.cost:.4f}{rate}"


def _bytes(size: float) -> str:
    for unit in ("B", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
