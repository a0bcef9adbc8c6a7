"""A cluster in one process around a tiny checkpoint, and what comes out of it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from services.admin.inline import InlineCluster
from services.router.config import RouterSettings
from services.router.lines import ChoiceOutcome, LineFinished, LineOutcome, ParsedLine
from tests.support.router import line, stop_after

KV_MEMORY = 4 << 20
"""Bytes of a page pool: room for all requests of a test on any one worker."""


def make_cluster(
    directory: Path,
    shape: tuple[int, int] = (1, 1),
    *,
    kv_memory: int = KV_MEMORY,
    **changes: Any,
) -> InlineCluster:
    """A cluster of so many layer workers and attention workers, in fp32 unless changed."""
    layer_workers, attention_workers = shape
    fields: dict[str, Any] = {
        "model": str(directory),
        "layer_workers": layer_workers,
        "attention_workers": attention_workers,
        "dtype": "fp32",
        "block_size": 16,
        "max_num_seqs": 16,
        "max_num_batched_tokens": 64,
    }
    settings = RouterSettings(**{**fields, **changes})
    return InlineCluster(settings, kv_memory=kv_memory)


def lines_for(prompts: Sequence[Sequence[int]], num_steps: int, **changes: Any) -> list[ParsedLine]:
    """A line per prompt, greedy unless changed; each choice generates so many tokens."""
    stop = stop_after(num_steps)
    return [line(number, prompt, stop=stop, **changes) for number, prompt in enumerate(prompts)]


def choices(outcomes: Sequence[LineOutcome]) -> list[ChoiceOutcome]:
    """Every choice of lines, one after the other; none of the lines may have failed."""
    finished = [outcome for outcome in outcomes if isinstance(outcome, LineFinished)]
    assert finished == list(outcomes)
    return [choice for outcome in finished for choice in outcome.choices]


def tokens(outcomes: Sequence[LineOutcome]) -> list[tuple[int, ...]]:
    """The tokens of every choice of lines."""
    return [choice.token_ids for choice in choices(outcomes)]


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: with tiny products, more of them only wait for each other."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
