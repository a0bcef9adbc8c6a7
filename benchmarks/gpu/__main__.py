"""All figures that need a GPU: checks against float32 on the processor, then measurements.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --dry-run

Prints a line of JSON per figure. Without a GPU it says so and ends well. `--dry-run` takes the processor and
a tiny model through all of it; its figures mean nothing.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Final

import torch
import typer

from benchmarks.gpu.attention import measure_attention
from benchmarks.gpu.checks import check_attention, check_int4, check_int8, check_logits
from benchmarks.gpu.rig import Rig
from benchmarks.gpu.stages import measure_overlap, measure_stages
from benchmarks.gpu.tiers import measure_tiers
from common.log import set_up_logs

_FIGURES: Final[Mapping[str, tuple[str, Callable[[Rig], Iterator[dict[str, Any]]]]]] = {
    "logits": ("error against float32 on the processor <= 0.02", check_logits),
    "attention": ("error against the processor's <= 0.02", check_attention),
    "int8": ("error against what the weights stand for <= 0.02", check_int8),
    "int4": ("error against what the weights stand for <= 0.02", check_int4),
    "stages": (">= 0.8 of the roofline at 1, 64, 256, 1024 rows", measure_stages),
    "attention-speed": (">= 0.75 of the read bandwidth at 8K, and in batches", measure_attention),
    "overlap": ("the device computes >= 0.9 of the time", measure_overlap),
    "tiers": ("two tiers >= 1.3 x, hybrid >= 1.0 x of a single tier", measure_tiers),
}


def main(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="On the processor.")] = False,
    device: str = "cuda:0",
    layers: Annotated[int, typer.Option(help="Of the model with 8B width.")] = 8,
    figure: Annotated[list[str] | None, typer.Option(help="Only these; may be repeated.")] = None,
) -> None:
    """Check and measure a GPU."""
    wanted = figure or list(_FIGURES)
    if not dry_run and not torch.cuda.is_available():
        for name in wanted:
            sys.stdout.write(f"{name} ({_FIGURES[name][0]}): no GPU: not measured\n")
        return
    set_up_logs("warning", "console")  # stdout is for figures
    rig = Rig(name="cpu" if dry_run else device, is_dry=dry_run, num_layers=layers)
    for name in wanted:
        for found in _FIGURES[name][1](rig):
            line = {"figure": name, "bar": _FIGURES[name][0], **found}
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    typer.run(main)
