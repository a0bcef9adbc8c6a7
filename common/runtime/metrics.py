"""What a process counts and measures, for Prometheus: declared once, read when it is asked for.

Nothing is counted twice: a metric is read from the counters and the state that the service keeps
anyway, at the moment somebody scrapes. Only distributions are kept here.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from common.config import ServiceSettings
from common.runtime.counters import Counters
from common.runtime.health import Health
from common.runtime.loop import Part

PREFIX: Final = "glinthawk_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric as it is declared, for scrapes and for `docs/metrics.md`."""

    name: str
    """Without `glinthawk_`; counters end in `_total`."""
    kind: Literal["counter", "gauge", "histogram"]
    about: str
    labels: tuple[str, ...] = ()
    twin: str = ""
    """The metric of vLLM with this meaning, if there is one."""

    def __call__(self, value: float, *labels: str) -> "Reading":
        """Give a reading of it."""
        return Reading(self, value, labels)


@dataclass(frozen=True, slots=True)
class Reading:
    """A metric's value at this moment."""

    metric: Metric
    value: float
    labels: tuple[str, ...]
    """In the order in which the metric names them."""


Source = Callable[[], Iterable[Reading]]

VISITS = Metric(
    name="engine_visits_total", kind="counter", about="Pieces of work that the engine has done."
)
BUSY = Metric(
    name="engine_busy_seconds_total", kind="counter", about="Seconds that the engine computed."
)
RECEIVED = Metric(
    name="messages_received_total", kind="counter", about="Messages that were taken in."
)
REJECTED = Metric(
    name="frames_rejected_total",
    kind="counter",
    about="Arrivals that the wire kept out, by kind of error.",
    labels=("kind",),
)
DROPPED = Metric(
    name="messages_dropped_total",
    kind="counter",
    about="Messages of another life or term, by reason.",
    labels=("reason",),
)
LINK_BYTES = Metric(
    name="link_bytes_total",
    kind="counter",
    about="Bytes of tensors that were sent, by receiver.",
    labels=("peer",),
)
PROCESS_METRICS: Final = (VISITS, BUSY, RECEIVED, REJECTED, DROPPED, LINK_BYTES)
"""What every service has."""


class Metrics:
    """All metrics of one process."""

    def __init__(self, counters: Counters) -> None:
        """Begin with what every service has, and what the operating system says of the process."""
        self.registry = CollectorRegistry()
        self._sources: list[Source] = [lambda: process_readings(counters)]
        self.registry.register(_Scrape(self._sources))
        ProcessCollector(registry=self.registry)

    def add(self, source: Source) -> None:
        """Ask this source, too."""
        self._sources.append(source)

    def histogram(self, metric: Metric, buckets: tuple[float, ...]) -> Histogram:
        """Make a distribution; `buckets` are the upper bounds."""
        name = PREFIX + metric.name
        return Histogram(name, metric.about, metric.labels, buckets=buckets, registry=self.registry)

    def parts(
        self, settings: ServiceSettings, is_ready: Callable[[], bool] = lambda: True
    ) -> tuple[Part, ...]:
        """Serve them beside the service, with its health, if the settings give a port."""
        port = settings.metrics_port
        if port is None:
            return ()
        health = Health(self.registry, is_ready)
        return (lambda _: health.serve(settings.metrics_host, port),)


def process_readings(counters: Counters) -> Iterator[Reading]:
    """Read what every service counts."""
    yield VISITS(counters.visits)
    yield BUSY(counters.busy_s)
    yield RECEIVED(counters.received)
    # Copies: a scrape has a thread of its own.
    yield from (REJECTED(count, kind) for kind, count in counters.rejected.copy().items())
    yield from (DROPPED(count, reason) for reason, count in counters.dropped.copy().items())
    yield from (LINK_BYTES(size, peer) for peer, size in counters.sent_bytes.copy().items())


class _Scrape(Collector):
    """Gives the readings of this moment as Prometheus wants them."""

    def __init__(self, sources: Iterable[Source]) -> None:
        self._sources = sources

    def describe(self) -> Iterable[Family]:
        """Name nothing before the first scrape: there may be no state yet."""
        return ()

    def collect(self) -> Iterator[Family]:
        """Ask every source."""
        families: dict[Metric, CounterMetricFamily | GaugeMetricFamily] = {}
        for source in list(self._sources):
            for reading in source():
                metric = reading.metric
                family = families.get(metric) or families.setdefault(metric, _family(metric))
                family.add_metric(reading.labels, reading.value)
        yield from families.values()


def _family(metric: Metric) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    return kind(PREFIX + metric.name, metric.about, labels=metric.labels)
