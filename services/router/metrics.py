"""What the router tells Prometheus, with the names that users of vLLM know where it means the same."""

from collections import Counter
from collections.abc import Iterator
from time import monotonic
from typing import Final

from prometheus_client import generate_latest

from common.runtime.metrics import Metric, Metrics, Reading, Source
from services.router.calls import Call, Calls
from services.router.lines import LineFailed, LineFinished, LineOutcome
from services.router.page_rules import PageTotals
from services.router.requests import Standing
from services.router.scheduler import Totals
from services.router.state import RouterState

_LATENCY_BUCKETS_S: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)

RUNNING = Metric(
    name="num_requests_running",
    kind="gauge",
    about="Requests that hold pages.",
    twin="vllm:num_requests_running",
)
WAITING = Metric(
    name="num_requests_waiting",
    kind="gauge",
    about="Requests that wait for pages.",
    twin="vllm:num_requests_waiting",
)
KV_USAGE = Metric(
    name="kv_cache_usage_perc",
    kind="gauge",
    about="Pages of requests over all pages; 1 = full.",
    twin="vllm:kv_cache_usage_perc",
)
PROMPT_TOKENS = Metric(
    name="prompt_tokens_total",
    kind="counter",
    about="Prompt tokens of the lines that have finished.",
    twin="vllm:prompt_tokens_total",
)
GENERATION_TOKENS = Metric(
    name="generation_tokens_total",
    kind="counter",
    about="Tokens that were generated.",
    twin="vllm:generation_tokens_total",
)
SUCCESS = Metric(
    name="request_success_total",
    kind="counter",
    about="Choices that have ended, by the reason.",
    labels=("finished_reason",),
    twin="vllm:request_success_total",
)
TIME_TO_FIRST_TOKEN = Metric(
    name="time_to_first_token_seconds",
    kind="histogram",
    about="From the arrival of a streamed call to its first token.",
    twin="vllm:time_to_first_token_seconds",
)
INTER_TOKEN_LATENCY = Metric(
    name="inter_token_latency_seconds",
    kind="histogram",
    about="Between two tokens of a choice of a streamed call.",
    twin="vllm:inter_token_latency_seconds",
)
E2E_LATENCY = Metric(
    name="e2e_request_latency_seconds",
    kind="histogram",
    about="From the arrival of a call to its last token.",
    twin="vllm:e2e_request_latency_seconds",
)
FAILURES = Metric(
    name="lines_failed_total",
    kind="counter",
    about="Lines and calls that failed while they ran, by the error's code.",
    labels=("code",),
)
CALLS = Metric(name="num_calls", kind="gauge", about="Calls under way.")
IN_FLIGHT = Metric(name="in_flight_microbatches", kind="gauge", about="Microbatches under way.")
IN_FLIGHT_LIMIT = Metric(
    name="in_flight_limit", kind="gauge", about="The most microbatches that travel at once now."
)
MICROBATCHES = Metric(
    name="microbatches_total",
    kind="counter",
    about="Microbatches that have ended: home or failed.",
    labels=("outcome",),
)
STAGE_SECONDS = Metric(
    name="stage_seconds_total",
    kind="counter",
    about="Where the time of the microbatches that came home went: tier1 and tier2 computed, wait is "
    "between a layer's shards leaving and the last one being back, queue is for a layer engine.",
    labels=("stage",),
)
WORKERS = Metric(
    name="workers", kind="gauge", about="Workers that are ready, by role.", labels=("role",)
)
LEASE_AGE = Metric(
    name="worker_lease_age_seconds",
    kind="gauge",
    about="Since a worker was last heard.",
    labels=("worker",),
)
TIER_BUSY = Metric(
    name="tier_busy_seconds_total",
    kind="counter",
    about="Seconds that a worker's engine computed, as its heartbeats tell.",
    labels=("tier", "worker"),
)
TIER_LINK_BYTES = Metric(
    name="tier_link_bytes_total",
    kind="counter",
    about="Bytes of tensors that workers sent to each other, as their heartbeats tell.",
    labels=("sender", "receiver"),
)
POOL_PAGES = Metric(
    name="pool_pages",
    kind="gauge",
    about="Pages of an attention worker: free, held by one request, shared by several, or cached.",
    labels=("worker", "state"),
)
PREFIX_QUERIES = Metric(
    name="prefix_cache_queries_total",
    kind="counter",
    about="Tokens of requests that moved in; their keys and values were looked for.",
    twin="vllm:prefix_cache_queries_total",
)
PREFIX_HITS = Metric(
    name="prefix_cache_hits_total",
    kind="counter",
    about="Tokens of them that were found in sealed pages.",
    twin="vllm:prefix_cache_hits_total",
)
PREEMPTIONS = Metric(
    name="num_preemptions_total",
    kind="counter",
    about="Requests that had to make room for an older one.",
    twin="vllm:num_preemptions_total",
)
RECOMPUTED = Metric(
    name="recomputed_tokens_total",
    kind="counter",
    about="Tokens that were lost with their pages and not found again, by the cause.",
    labels=("cause",),
)
ADMISSION_WAITS = Metric(
    name="admission_waits_total",
    kind="counter",
    about="Refusals of requests that wanted pages; each waits until pages come back.",
)
ROUTER_METRICS: Final = (
    *(RUNNING, WAITING, KV_USAGE, PROMPT_TOKENS, GENERATION_TOKENS, SUCCESS, FAILURES),
    *(TIME_TO_FIRST_TOKEN, INTER_TOKEN_LATENCY, E2E_LATENCY, CALLS, IN_FLIGHT, IN_FLIGHT_LIMIT),
    *(POOL_PAGES, PREFIX_QUERIES, PREFIX_HITS, PREEMPTIONS, RECOMPUTED, ADMISSION_WAITS),
    *(MICROBATCHES, STAGE_SECONDS, WORKERS, LEASE_AGE, TIER_BUSY, TIER_LINK_BYTES),
)

_TIERS: Final = {"layer_worker": "1", "attention_worker": "2"}


class RouterMetrics:
    """Counts what ends, times the calls, and reads the rest from the state."""

    def __init__(self, metrics: Metrics) -> None:
        """Add to the metrics of the process."""
        self._metrics = metrics
        metrics.add(self._outcomes)
        self._first_token = metrics.histogram(TIME_TO_FIRST_TOKEN, _LATENCY_BUCKETS_S)
        self._between_tokens = metrics.histogram(INTER_TOKEN_LATENCY, _LATENCY_BUCKETS_S)
        self._whole = metrics.histogram(E2E_LATENCY, _LATENCY_BUCKETS_S)
        self._ended: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()

    def text(self) -> bytes:
        """Give all metrics of the process as Prometheus reads them."""
        return generate_latest(self._metrics.registry)

    def watch(self, source: Source) -> None:
        """Ask this source, too: there is a state now."""
        self._metrics.add(source)

    def line_ended(self, outcome: LineOutcome) -> None:
        """Count how a line or a call has ended."""
        match outcome:
            case LineFinished(choices=choices):
                self._ended.update(choice.finish_reason for choice in choices)
            case LineFailed(code=code):
                self._failed[code] += 1

    def token_told(self, call: Call, choice: int) -> None:
        """Note that a streamed call's client is told a token now."""
        now = monotonic()
        before = call.told_at.get(choice)
        if before is None:
            self._first_token.observe(now - call.asked_at)
        else:
            self._between_tokens.observe(now - before)
        call.told_at[choice] = now

    def call_answered(self, call: Call) -> None:
        """Note that a call's client has its whole answer now."""
        self._whole.observe(monotonic() - call.asked_at)

    def _outcomes(self) -> Iterator[Reading]:
        yield from (SUCCESS(count, reason) for reason, count in self._ended.copy().items())
        yield from (FAILURES(count, code) for code, count in self._failed.copy().items())


def router_readings(state: RouterState, calls: Calls, now: float) -> Iterator[Reading]:
    """Read the router's state."""
    requests, totals = state.scheduler.requests, state.scheduler.totals
    yield RUNNING(requests.num_running)
    yield WAITING(requests.num(Standing.WAITING, Standing.FOLLOWING, Standing.RESERVING))
    yield CALLS(len(calls))
    yield IN_FLIGHT(len(state.scheduler.flights.live))
    yield IN_FLIGHT_LIMIT(state.scheduler.throttle.in_flight)
    yield from _totals(totals)
    yield from _pages(state.scheduler.tenancy.totals)
    yield from _workers(state, now)


def _totals(totals: Totals) -> Iterator[Reading]:
    yield PROMPT_TOKENS(totals.prompt_tokens)
    yield GENERATION_TOKENS(totals.generated_tokens)
    yield MICROBATCHES(totals.microbatches, "home")
    yield MICROBATCHES(totals.failed_microbatches, "failed")
    yield STAGE_SECONDS(totals.tier1_s, "tier1")
    yield STAGE_SECONDS(totals.tier2_s, "tier2")
    yield STAGE_SECONDS(totals.wait_s, "wait")
    yield STAGE_SECONDS(totals.queue_s, "queue")


def _pages(totals: PageTotals) -> Iterator[Reading]:
    yield PREFIX_QUERIES(totals.wanted_tokens)
    yield PREFIX_HITS(totals.found_tokens)
    yield PREEMPTIONS(totals.preemptions)
    yield ADMISSION_WAITS(totals.admission_waits)
    for cause, num_tokens in totals.recomputed_tokens.copy().items():
        yield RECOMPUTED(num_tokens, cause)


def _workers(state: RouterState, now: float) -> Iterator[Reading]:
    workers = list(state.members.workers.values())
    pools = [worker.pool for worker in workers if worker.pool is not None]
    num_pages = sum(pool.free + pool.held + pool.shared + pool.cached for pool in pools)
    num_held = sum(pool.held + pool.shared for pool in pools)
    yield KV_USAGE(num_held / num_pages if num_pages else 0.0)
    for pool in pools:
        for name in ("free", "held", "shared", "cached"):
            yield POOL_PAGES(getattr(pool, name), pool.worker_id, name)
    ready = Counter(worker.role for worker in workers if worker.ready)
    for role in ("layer_worker", "attention_worker", "kv_manager"):
        yield WORKERS(ready[role], role)
    for worker in workers:
        name = worker.hop.worker_id
        yield LEASE_AGE(now - worker.last_heard_s, name)
        if worker.role in _TIERS:
            yield TIER_BUSY(worker.busy_s, _TIERS[worker.role], name)
        yield from (TIER_LINK_BYTES(link.sent_bytes, name, link.peer) for link in worker.links)
