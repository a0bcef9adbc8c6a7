"""What the cluster did while a job ran: the job's account, and the report that is made of it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

Status = Mapping[str, Any]
"""What `Overview.status` gives."""

TIERS: Final = ("layer_worker", "attention_worker")

_MAX_INTERVALS: Final = 240
_HOUR_S: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LineCounts:
    """What came of a job's lines."""

    rows: int
    failed: int
    prompt_tokens: int
    generated_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobReport:
    """The figures of one job. What is not of its lines is the whole cluster's while the job ran."""

    rows: int
    failed: int
    prompt_tokens: int
    generated_tokens: int
    wall_s: float
    """From the start of the first line to the last result; time without a router is left out."""
    output_tokens_per_s: float
    tier1_busy: float
    """Share of the wall time that the layer workers' engines computed, averaged over them."""
    tier2_busy: float
    """The same of the attention workers."""
    bytes_per_link: dict[str, int]
    """Bytes of tensors by `sender -> receiver`."""
    kernel_paths: tuple[str, ...]
    """How the workers computed; more than one per tier means that bits may differ."""
    prefix_hit_rate: float
    """Share of the tokens of requests that moved in whose keys and values were found."""
    preemptions: int
    recomputed_tokens: dict[str, int]
    """Tokens that were computed again, by cause."""
    cost: float | None
    """Of the workers, in the currency of their prices; None without prices."""
    cost_per_million_tokens: float | None
    """Generated ones."""
    interval_s: float
    tokens_per_s: tuple[float, ...]
    """Generated per second in each of these intervals; the last one may be shorter."""


@dataclass(slots=True, kw_only=True)
class Pace:
    """Tokens over time, in a bounded number of equal intervals."""

    interval_s: float = 1.0
    tokens: list[int] = field(default_factory=list)

    def add(self, at_s: float, num_tokens: int) -> None:
        """Count tokens of a moment; where there are too many intervals, pairs of them become one."""
        while (index := int(at_s / self.interval_s)) >= _MAX_INTERVALS:
            self.interval_s *= 2
            self.tokens = [sum(self.tokens[i : i + 2]) for i in range(0, len(self.tokens), 2)]
        self.tokens += [0] * (index + 1 - len(self.tokens))
        self.tokens[index] += num_tokens

    def per_s(self, until_s: float) -> tuple[float, ...]:
        """Give the tokens per second of each interval; the last one may not be over."""
        seconds = (
            min(self.interval_s, max(until_s - place * self.interval_s, 1e-9))
            for place in range(len(self.tokens))
        )
        return tuple(round(num / s, 1) for num, s in zip(self.tokens, seconds, strict=True))


@dataclass(slots=True, kw_only=True)
class JobAccount:
    """Adds up what the cluster did from one look at it to the next, over all lives of the router."""

    seconds: float = 0.0
    busy_s: dict[str, float] = field(default_factory=dict)
    """Engine seconds by tier, averaged over its workers."""
    link_bytes: dict[str, int] = field(default_factory=dict)
    kernel_paths: list[str] = field(default_factory=list)
    wanted_tokens: int = 0
    found_tokens: int = 0
    preemptions: int = 0
    recomputed_tokens: dict[str, int] = field(default_factory=dict)
    cost: float | None = None
    pace: Pace = field(default_factory=Pace)

    def add(
        self, before: Status, after: Status, seconds: float, prices: Mapping[str, float]
    ) -> None:
        """Add what was done between two looks.

        Args:
            before: The cluster then.
            after: The cluster now.
            seconds: Of the job, in between.
            prices: What a worker costs per hour, by role.
        """
        then, now = before["totals"], after["totals"]
        self.pace.add(self.seconds, now["generated_tokens"] - then["generated_tokens"])
        self.seconds += seconds
        self._add_workers(before, after)
        self._add_pages(before["pages"], after["pages"])
        if prices:
            hours = seconds / _HOUR_S
            per_hour = sum(prices.get(worker["role"], 0.0) for worker in after["workers"])
            self.cost = (self.cost or 0.0) + hours * per_hour

    def _add_workers(self, before: Status, after: Status) -> None:
        workers = _changes(before, after)
        for role in TIERS:
            busy_s = [worker["busy_s"] for worker in workers if worker["role"] == role]
            if busy_s:
                self.busy_s[role] = self.busy_s.get(role, 0.0) + sum(busy_s) / len(busy_s)
        paths = {
            f"{each['role']} {each['kernel_path']}" for each in workers if each["role"] in TIERS
        }
        self.kernel_paths = sorted(paths.union(self.kernel_paths))
        for worker in workers:
            for peer, size in worker["links"].items():
                if size:
                    link = f"{worker['worker_id']} -> {peer}"
                    self.link_bytes[link] = self.link_bytes.get(link, 0) + size

    def _add_pages(self, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        self.wanted_tokens += now["wanted_tokens"] - then["wanted_tokens"]
        self.found_tokens += now["found_tokens"] - then["found_tokens"]
        self.preemptions += now["preemptions"] - then["preemptions"]
        for cause, num in now["recomputed_tokens"].items():
            if more := num - then["recomputed_tokens"].get(cause, 0):
                self.recomputed_tokens[cause] = self.recomputed_tokens.get(cause, 0) + more

    def report(self, lines: LineCounts) -> JobReport:
        """Sum up a job."""
        wall_s = max(self.seconds, 1e-9)
        generated, cost = lines.generated_tokens, self.cost
        return JobReport(
            rows=lines.rows,
            failed=lines.failed,
            prompt_tokens=lines.prompt_tokens,
            generated_tokens=generated,
            wall_s=self.seconds,
            output_tokens_per_s=generated / wall_s,
            # What a worker did just before a short job is told of after it has begun.
            tier1_busy=min(self.busy_s.get("layer_worker", 0.0) / wall_s, 1.0),
            tier2_busy=min(self.busy_s.get("attention_worker", 0.0) / wall_s, 1.0),
            bytes_per_link=dict(sorted(self.link_bytes.items())),
            kernel_paths=tuple(self.kernel_paths),
            prefix_hit_rate=self.found_tokens / self.wanted_tokens if self.wanted_tokens else 0.0,
            preemptions=self.preemptions,
            recomputed_tokens=dict(self.recomputed_tokens),
            cost=cost,
            cost_per_million_tokens=(
                cost / generated * 1e6 if cost is not None and generated else None
            ),
            interval_s=self.pace.interval_s,
            tokens_per_s=self.pace.per_s(self.seconds),
        )


def _changes(before: Status, after: Status) -> list[dict[str, Any]]:
    """Give the workers with what they did in between; a worker that is new began at nothing."""
    earlier = {(worker["worker_id"], worker["epoch"]): worker for worker in before["workers"]}
    changed = []
    for worker in after["workers"]:
        start = earlier.get((worker["worker_id"], worker["epoch"]), {"busy_s": 0.0, "links": {}})
        links = {peer: size - start["links"].get(peer, 0) for peer, size in worker["links"].items()}
        changed.append({**worker, "busy_s": worker["busy_s"] - start["busy_s"], "links": links})
    return changed
