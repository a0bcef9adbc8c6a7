"""What the KV manager brings: shared prefixes, preemption, balance, and workers that join.

    python -m benchmarks.kv sharing
    python -m benchmarks.kv policies
    python -m benchmarks.kv balance
    python -m benchmarks.kv elastic

All but `elastic` run on emulated engines in virtual time (`benchmarks.virtual`): a T4 with
Llama-3-8B and CPU machines. `elastic` computes, with the shipped model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.virtual import line, t4_cluster, watch
from common.messages import ForwardMicrobatch
from common.messages.entries import NUM_ROWS, START
from services.admin.inline import InlineCluster
from services.router.config import RouterSettings
from services.router.lines import LineFinished, ParsedLine
from services.router.page_rules import PageTotals
from services.router.requests import Standing

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

_TINY_POOL_BYTES = 3 << 20
_JOIN_AT_S = 1.0


@dataclass(slots=True)
class Watch:
    """What a run looks like from the router, microbatch by microbatch."""

    cluster: InlineCluster
    times: list[float] = field(default_factory=list)
    running: list[int] = field(default_factory=list)
    """Requests that hold pages."""
    waiting: list[int] = field(default_factory=list)
    num_rows: int = 0
    shards: list[list[int]] = field(default_factory=list)
    """Tokens that each attention worker attends to, per microbatch while others wait."""

    def __call__(self, message: ForwardMicrobatch, now: float) -> None:
        """Take a microbatch that is sent."""
        requests, members = self.cluster.router.scheduler.requests, self.cluster.router.members
        self.times.append(now)
        self.running.append(requests.num_running)
        self.waiting.append(requests.num(Standing.WAITING))
        entries = message.entries.numpy()
        self.num_rows += int(entries[:, NUM_ROWS].sum())
        if not self.waiting[-1]:
            return
        ends = entries[:, START] + entries[:, NUM_ROWS]
        tokens = dict.fromkeys(
            (worker.hop.worker_id for worker in members.ready_workers("attention_worker")), 0
        )
        for shard in message.route.shards:
            tokens[shard.worker.worker_id] = int(ends[shard.start_entry : shard.stop_entry].sum())
        self.shards.append(list(tokens.values()))

    def mean_running(self) -> float:
        """Average the requests that hold pages over the time in which others waited."""
        times, running = np.array(self.times), np.array(self.running)
        crowded = np.array(self.waiting[:-1]) > 0
        weights = np.diff(times) * crowded
        return float((running[:-1] * weights).sum() / weights.sum())


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a run."""

    wall_s: float
    generated: int
    watch: Watch
    pages: PageTotals

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens per virtual second."""
        return self.generated / self.wall_s


def run(cluster: InlineCluster, lines: Sequence[ParsedLine]) -> Run:
    """Run lines to their end; each must end well."""
    watcher = Watch(cluster)
    watch(cluster, watcher)
    outcomes = cluster.generate(lines)
    assert all(isinstance(each, LineFinished) for each in outcomes), "a line has failed"
    scheduler = cluster.router.scheduler
    return Run(
        wall_s=cluster.bus.clock.now() - watcher.times[0],
        generated=scheduler.totals.generated_tokens,
        watch=watcher,
        pages=scheduler.tenancy.totals,
    )


@app.command()
def sharing(rows: int = 1000, prefix: int = 1024, tail: int = 32, output: int = 32) -> None:
    """Compute rows with a common prefix, with sharing and without."""
    draw = np.random.default_rng(0)
    common = draw.integers(3, 128, prefix).tolist()
    tails = draw.integers(3, 128, (rows, tail)).tolist()
    lines = [line(number, common + own, output) for number, own in enumerate(tails)]
    print(
        f"{rows} rows: {prefix} common, {tail} own and {output} output tokens; 2 attention workers"
    )
    print("sharing | prompt tokens computed | of tails + a prefix per worker | rows/s")
    for shares in (True, False):
        with t4_cluster(
            pool_tokens=300_000,
            speeds=(1.0, 1.0),
            in_flight=3,
            max_num_seqs=256,
            enable_prefix_caching=shares,
        ) as cluster:
            came = run(cluster, lines)
        computed = came.watch.num_rows - (came.generated - rows)
        least = rows * tail + 2 * prefix
        name = "on" if shares else "off"
        print(f"{name} | {computed} | {computed / least:.3f} | {rows / came.wall_s:.2f}")


@app.command()
def policies(
    rows: int = 1024, requests: int = 256, share: float = 0.25, sigma: float = 0.6, seed: int = 0
) -> None:
    """Compare who may hold pages, with memory for a part of the worst case."""
    max_model_len, max_tokens = 1024, 896
    draw = np.random.default_rng(seed)
    prompts = np.exp(draw.uniform(np.log(32), np.log(128), rows)).astype(int)
    typical = np.log(max_tokens / 3) - sigma**2 / 2  # so that the mean is a third
    outputs = np.minimum(draw.lognormal(typical, sigma, rows), max_tokens)
    lines = [
        line(
            number, draw.integers(3, 128, num_prompt).tolist(), max(1, int(num_output)), max_tokens
        )
        for number, (num_prompt, num_output) in enumerate(zip(prompts, outputs, strict=True))
    ]
    pool_tokens = int(share * requests * max_model_len)
    print(
        f"{rows} lines, max_tokens {max_tokens}, mean output {outputs.mean():.0f}, "
        f"pages for {share:.0%} of {requests} requests of {max_model_len} tokens"
    )
    print("policy | requests in flight | tokens/s | preemptions | computed again | of all computed")
    print(f"static (no pages) | {pool_tokens // max_model_len} | - | - | - | -")
    for policy in ("guaranteed", "max-utilization"):
        with t4_cluster(
            pool_tokens=pool_tokens,
            in_flight=3,
            max_num_seqs=requests,
            max_model_len=max_model_len,
            kv_policy=policy,
        ) as cluster:
            came = run(cluster, lines)
        again = sum(came.pages.recomputed_tokens.values())
        print(
            f"{policy} | {came.watch.mean_running():.1f} | {came.tokens_per_s:.1f} | "
            f"{came.pages.preemptions} | {again} | {again / came.watch.num_rows:.1%}"
        )


@app.command()
def balance(rows: int = 1500, requests: int = 192, seed: int = 0) -> None:
    """See how evenly the shards of a microbatch are filled, with lengths like those of chats."""
    draw = np.random.default_rng(seed)
    prompts = np.clip(draw.lognormal(np.log(220) - 0.6, 1.1, rows), 4, 2048).astype(int)
    outputs = np.clip(draw.lognormal(np.log(190) - 0.5, 1.0, rows), 1, 1024).astype(int)
    lines = [
        line(number, draw.integers(3, 128, num_prompt).tolist(), int(num_output), 1024)
        for number, (num_prompt, num_output) in enumerate(zip(prompts, outputs, strict=True))
    ]
    print(
        f"{rows} lines, log-normal: {prompts.mean():.0f} + {outputs.mean():.0f} tokens on average"
    )
    print("speeds | tokens per worker | of a pass, p50 | p95 | of a microbatch, p50 | p95")
    in_flight = 2
    for speeds in ((1.0, 1.0, 1.0), (1.0, 2.0)):
        with t4_cluster(
            pool_tokens=80_000, speeds=speeds, in_flight=in_flight, max_num_seqs=requests
        ) as cluster:
            came = run(cluster, lines)
        shards = np.array(came.watch.shards)  # [microbatches, workers]
        shards = shards[len(shards) // 4 :]  # speeds are measured first
        parts = " : ".join(f"{each:.2f}" for each in shards.sum(axis=0) / shards[:, 0].sum())
        passes = np.lib.stride_tricks.sliding_window_view(shards, in_flight, axis=0).sum(axis=-1)
        print(f"{speeds} | {parts} | {_excess(passes, speeds)} | {_excess(shards, speeds)}")


@app.command()
def elastic(rows: int = 120, output: int = 64) -> None:
    """Let two attention workers join one that is full, and compare what is said."""
    draw = np.random.default_rng(0)
    lines = [line(number, draw.integers(3, 101, 48).tolist(), output) for number in range(rows)]
    alone, _ = _compute(lines, join_at_s=None)
    joined, watcher = _compute(lines, join_at_s=_JOIN_AT_S)
    times, running = np.array(watcher.times), np.array(watcher.running)
    crowded = np.array(watcher.waiting) > 0
    before = running[(times > _JOIN_AT_S / 2) & (times < _JOIN_AT_S)].mean()
    after = running[(times > 1.25 * _JOIN_AT_S) & crowded].mean()
    print("attention workers | requests in flight | outputs as without the change")
    print(f"1 | {before:.1f} | -")
    print(f"3 | {after:.1f} ({after / before:.2f} x) | {joined == alone}")


def _compute(
    lines: Sequence[ParsedLine], *, join_at_s: float | None
) -> tuple[list[tuple[int, ...]], Watch]:
    """Run lines on the shipped model, with memory for some of them on each attention worker."""
    settings = RouterSettings(model="examples/tiny/model", block_size=16, max_num_seqs=256)
    cluster = InlineCluster(settings, kv_memory=_TINY_POOL_BYTES)
    watcher = Watch(cluster)
    watch(cluster, watcher)
    if join_at_s is not None:
        for index in (1, 2):
            cluster.bus.clock.call_at(join_at_s, partial(cluster.add_attention_worker, index))
    outcomes = cluster.generate(lines)
    choices = [each.choices[0] for each in outcomes if isinstance(each, LineFinished)]
    assert len(choices) == len(lines), "a line has failed"
    return [choice.token_ids for choice in choices], watcher


def _excess(tokens: NDArray[np.int64], speeds: Sequence[float]) -> str:
    """Give how much more than its fair part the busiest worker has, median and 95th percentile.

    Shapes:
        tokens: [times, workers]
    """
    fair = tokens.sum(axis=1, keepdims=True) * np.array(speeds) / sum(speeds)
    p50, p95 = np.percentile((tokens / fair).max(axis=1) - 1, (50, 95))
    return f"{p50:.1%} | {p95:.1%}"


if __name__ == "__main__":
    app()
