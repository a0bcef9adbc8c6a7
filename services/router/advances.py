"""Which requests advance in a microbatch, and by how many rows: what batching chose from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from common.ids import WorkerId
from common.messages.entries import (
    FLAGS,
    LOCAL,
    LOCAL_ALIGNMENT,
    NUM_COLUMNS,
    NUM_PAGES,
    NUM_PROMPT,
    NUM_ROWS,
    REQUEST_ID,
    SAMPLE,
    START,
    Entries,
    is_written,
)
from common.policy.batching import Choice, Ready
from services.router.requests import Request

_FAILURES_BEFORE_ALONE = 2


def ready_columns(requests: Sequence[Request]) -> Ready:
    """Tell batching about requests; all of them hold pages."""
    workers = _homes(requests)
    numbers = {worker_id: number for number, worker_id in enumerate(sorted(set(workers)))}
    starts = np.array([request.num_computed for request in requests], np.int64)
    failures = [request.num_failures for request in requests]
    return Ready(
        request_ids=np.array([request.request_id for request in requests], np.int64),
        workers=np.array([numbers[worker_id] for worker_id in workers], np.int64),
        starts=starts,
        num_missing=np.array([request.num_tokens for request in requests], np.int64) - starts,
        alone=np.array(failures, np.int64) >= _FAILURES_BEFORE_ALONE,
    )


@dataclass(frozen=True, slots=True)
class Advances:
    """A microbatch to be: its requests, ordered by attention worker, and their entries."""

    requests: tuple[Request, ...]
    entries: Entries
    """[R, 6]"""

    @classmethod
    def of(cls, ready: Sequence[Request], columns: Ready, choice: Choice, page_size: int) -> Self:
        """Take the chosen ones of the ready requests.

        Args:
            ready: All of them.
            columns: What batching was told about these.
            choice: What it chose.
            page_size: Tokens per page.
        """
        requests = tuple([ready[place] for place in choice.places.tolist()])
        starts, num_rows = columns.starts[choice.places], choice.num_rows
        entries = np.empty((len(requests), NUM_COLUMNS), np.int32)
        entries[:, REQUEST_ID] = columns.request_ids[choice.places]
        entries[:, START] = starts
        entries[:, NUM_ROWS] = num_rows
        entries[:, NUM_PAGES] = -(-(starts + num_rows) // page_size)
        entries[:, NUM_PROMPT] = [request.num_prompt for request in requests]
        is_whole = num_rows == columns.num_missing[choice.places]
        entries[:, FLAGS] = np.where(is_whole, SAMPLE, 0)
        return cls(requests, entries)

    def localized(self) -> Self:
        """Flag the chunks that attend on tier 1; of each worker's, those only written go last."""
        entries = self.entries.copy()
        stops = entries[:, START] + entries[:, NUM_ROWS]
        aligned = entries[:, START] % LOCAL_ALIGNMENT == 0
        prompt = (stops <= entries[:, NUM_PROMPT]) & (entries[:, NUM_ROWS] > 1)
        entries[aligned & prompt, FLAGS] |= LOCAL
        written = is_written(entries).tolist()
        homes = _homes(self.requests)
        order = sorted(range(len(homes)), key=lambda place: (homes[place], written[place]))
        return type(self)(tuple([self.requests[place] for place in order]), entries[order])


def _homes(requests: Sequence[Request]) -> list[WorkerId]:
    homes = [request.home.worker_id for request in requests if request.home is not None]
    assert len(homes) == len(requests), "a request without pages cannot advance"
    return homes
