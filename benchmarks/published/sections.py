"""The parts of docs/planning.md that are about the paper: each a table, some with a figure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.published.configurations import Assumptions, Configuration, read_configurations
from services.admin.planner.circulation import Order
from services.admin.planner.figures import Series, draw

FIXED = "fixed"
ROOFLINES = ("fixed", "low", "high")
CONFIGURATIONS = read_configurations()


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A ratio of the paper, and a pair of configurations that it may be about."""

    what: str
    paper: float
    two_tiers: str
    single: str
    per_price: str | None = None
    """`equipment` or `cloud` if it is a ratio of prices per token, else of tokens/s."""


_NINE = "E2E/double/OPT_L70B_9xT4_27xCPU_B255"
_SIXTEEN = "E2E/double/OPT_L70B_16xT4_48xCPU_B246"
_TWENTY = "E2E/double/OPT_L70B_20xT4_60xCPU_B243"
_SINGLE_16, _SINGLE_80 = "E2E/single/L70B_16xT4_B14", "E2E/single/L70B_80xT4_B35"
_SINGLE_80_BEST = "E2E/single/OPT_L70B_80xT4_B45"
_SINGLE_40_BEST = "E2E/single/OPT_L70B_40xT4_B55"

CLAIMS = (
    Claim(what="throughput, 2K", paper=5.9, two_tiers=_SIXTEEN, single=_SINGLE_16),
    Claim(what="throughput, 2K", paper=5.9, two_tiers=_NINE, single=_SINGLE_16),
    *(
        Claim(what="cost, 2K", paper=2.8, two_tiers=two_tiers, single=single, per_price=price)
        for price in ("cloud", "equipment")
        for two_tiers, single in (
            (_NINE, _SINGLE_16),
            (_TWENTY, _SINGLE_80),
            (_TWENTY, _SINGLE_80_BEST),
            (_TWENTY, _SINGLE_40_BEST),
        )
    ),
    *(
        Claim(what=f"throughput, {length}", paper=16.3, two_tiers=two_tiers, single=single)
        for length, two_tiers, single in (
            ("8K", "seq_len/8K/L70B_9xT4_144xCPU_B64", "seq_len/8K/L70B_16xT4_B3"),
            ("16K", "seq_len/16K/L70B_9xT4_144xCPU_B32", "seq_len/16K/L70B_16xT4_B2"),
        )
    ),
    *(
        Claim(what=f"cost, {length}", paper=2.4, two_tiers=two, single=single, per_price=price)
        for price in ("cloud", "equipment")
        for length, two, single in (
            ("8K", "seq_len/8K/L70B_9xT4_144xCPU_B64", "seq_len/8K/L70B_80xT4_B6"),
            ("16K", "seq_len/16K/L70B_9xT4_144xCPU_B32", "seq_len/16K/L70B_80xT4_B3"),
        )
    ),
)


@cache
def tokens_per_s(name: str, roofline: str = FIXED) -> float:
    """Simulate a published configuration; each only once."""
    return CONFIGURATIONS[name].tokens_per_s(Assumptions.read(roofline))


def price_per_token(name: str, kind: str, roofline: str = FIXED) -> float:
    """Give a configuration's price over its tokens/s."""
    cluster = CONFIGURATIONS[name]
    price = Assumptions.read(roofline).price(kind, cluster.num_slices, cluster.num_tier2)
    return price / tokens_per_s(name, roofline)


def ratio(claim: Claim, roofline: str) -> float:
    """Give how much better two tiers are."""
    if claim.per_price:
        costs = [
            price_per_token(name, claim.per_price, roofline)
            for name in (claim.single, claim.two_tiers)
        ]
        return costs[0] / costs[1]
    return tokens_per_s(claim.two_tiers, roofline) / tokens_per_s(claim.single, roofline)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Give a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def short(name: str) -> str:
    """Give a configuration's name without its folder and its model."""
    last = name.rsplit("/", 1)[-1]
    own = last.rpartition("ms_")[2]
    return own.replace("OPT_", "").replace("L70B_", "").replace("_", " ")


def claims_section(folder: Path) -> str:
    """Compare the headline ratios, each with its baseline."""
    rows = [
        [
            claim.what + (f" ({claim.per_price} prices)" if claim.per_price else ""),
            short(claim.two_tiers),
            short(claim.single),
            f"{claim.paper} ×",
            *(f"{ratio(claim, roofline):.1f} ×" for roofline in ROOFLINES),
        ]
        for claim in CLAIMS
    ]
    return table(("what", "two tiers", "against", "paper", *ROOFLINES), rows)


def sizes_section(folder: Path) -> str:
    """Draw throughput against price for all configurations of Llama-2-70B at 2K."""
    assumptions = Assumptions.read()
    groups = {"two tiers": "E2E/double/", "single tier": "E2E/single/", "two tiers, 9 T4": "t2_co"}
    series = []
    for label, prefix in groups.items():
        found = [each for name, each in CONFIGURATIONS.items() if name.startswith(prefix)]
        points = [
            (
                assumptions.price("cloud", each.num_slices, each.num_tier2) / 1000,
                tokens_per_s(each.name),
            )
            for each in found
        ]
        series.append(Series(label=label, points=points, line=False))
    draw(
        folder / "sizes.png",
        series,
        title="Llama-2-70B, 2K, the original's design",
        x="price of the cluster (thousands, cloud price file)",
        y="tokens/s",
    )
    rows = [
        [
            name,
            str(each.in_flight),
            f"{tokens_per_s(name):.0f}",
            *(f"{price_per_token(name, kind):.2f}" for kind in ("cloud", "equipment")),
        ]
        for name, each in CONFIGURATIONS.items()
    ]
    header = ("configuration", "in flight", "tokens/s", "cloud price per token/s", "equipment")
    text = table(header, rows)
    (folder / "configurations.md").write_text(_ALL_CONFIGURATIONS + text)
    return f"All {len(rows)}: [configurations](planning/configurations.md).\n"


_ALL_CONFIGURATIONS = """# The published configurations

Written by `python -m benchmarks.paper`: what each configuration of `benchmarks/published/configs.csv`
comes to by simulation, under `fixed` of `benchmarks/published/assumptions.yaml`.

"""


def lengths_section(folder: Path) -> str:
    """Compare sequence lengths."""
    kinds = {"9 T4 and CPUs": "CPU", "16 T4": "16xT4", "80 T4": "80xT4"}
    found = {
        kind: sorted(
            (each.max_tokens // 1024, tokens_per_s(name), name)
            for name, each in CONFIGURATIONS.items()
            if name.startswith("seq_len/") and part in name
        )
        for kind, part in kinds.items()
    }
    draw(
        folder / "lengths.png",
        [Series(label=kind, points=[each[:2] for each in rows]) for kind, rows in found.items()],
        title="Llama-2-70B by sequence length, static, the original's design",
        x="thousands of tokens per prompt",
        y="tokens/s",
    )
    header = ("length", *found, "against 16 T4", "against 80 T4, cloud price per token")
    rows = []
    for two_tiers, single, large in zip(*found.values(), strict=True):
        costs = [price_per_token(each[2], "cloud") for each in (large, two_tiers)]
        rows.append(
            [
                f"{two_tiers[0]}K",
                *(f"{each[1]:.0f}" for each in (two_tiers, single, large)),
                f"{two_tiers[1] / single[1]:.1f} ×",
                f"{costs[0] / costs[1]:.1f} ×",
            ]
        )
    return table(header, rows)


def latency_section(folder: Path) -> str:
    """Compare latencies between the tiers: the same cluster, and clusters cut for it."""
    found: dict[str, list[tuple[float, float, str]]] = {}
    for name, each in CONFIGURATIONS.items():
        if name.startswith("micro_latency/") and each.added_rtt_ms is not None:
            kind = _latency_kind(each)
            found.setdefault(kind, []).append((each.added_rtt_ms, tokens_per_s(name), name))
    draw(
        folder / "latency.png",
        [
            Series(label=kind, points=[each[:2] for each in sorted(points)])
            for kind, points in found.items()
        ],
        title="Llama-2-70B, 9 T4: round trip between the tiers",
        x="round trip (ms)",
        y="tokens/s",
        log_x=True,
    )
    best = max(rate for points in found.values() for _, rate, _ in points)
    rows = [
        [short(name), f"{rtt_ms:.0f} ms", f"{rate:.0f}", f"{rate / best:.0%}"]
        for rtt_ms, rate, name in sorted(each for points in found.values() for each in points)
    ]
    return table(("cluster", "round trip", "tokens/s", "of the best"), rows)


def _latency_kind(cluster: Configuration) -> str:
    if cluster.num_tier2 != 27:
        return "18 to 81 CPUs, smaller batches"
    return "27 CPUs" if cluster.batch == 255 else "27 CPUs, smaller batches"


def tier2_section(folder: Path) -> str:
    """Sweep the number of CPU machines behind nine T4s."""
    found = sorted(
        (each.num_tier2, tokens_per_s(name), name)
        for name, each in CONFIGURATIONS.items()
        if name.startswith("t2_count/")
    )
    draw(
        folder / "tier2.png",
        [Series(label="9 T4", points=[each[:2] for each in found])],
        title="Llama-2-70B, 2K, the original's design: machines of tier 2",
        x="CPU machines",
        y="tokens/s",
    )
    rows = [
        [
            str(count),
            f"{rate:.0f}",
            *(f"{price_per_token(name, kind):.2f}" for kind in ("cloud", "equipment")),
        ]
        for count, rate, name in found
    ]
    return table(("CPU machines", "tokens/s", "cloud price per token/s", "equipment"), rows)


def order_section(folder: Path) -> str:
    """Compare the deepest-first order with first come, first served."""
    assumptions = Assumptions.read()
    gains = []
    for name, each in CONFIGURATIONS.items():
        if each.num_tier2 > 0 and each.in_flight > 1:
            rates = [each.tokens_per_s(assumptions, order, _ROUNDS) for order in _ORDERS]
            gains.append((rates[0] / rates[1] - 1, name))
    gains.sort()
    middle = gains[len(gains) // 2][0]
    wins = sum(gain > 0.005 for gain, _ in gains)
    losses = sum(gain < -0.005 for gain, _ in gains)
    early = [
        tokens_per_s(name) / each.tokens_per_s(assumptions, "first-come") - 1
        for name, each in CONFIGURATIONS.items()
        if each.num_tier2 > 0 and each.in_flight > 1
    ]
    rows = [
        ["two-tier configurations", str(len(gains))],
        ["deepest first is better by more than 0.5 %", str(wins)],
        ["worse by more than 0.5 %", str(losses)],
        ["median gain", f"{middle:+.1%}"],
        ["largest gain", f"{gains[-1][0]:+.1%} ({short(gains[-1][1])})"],
        [f"largest gain in rounds 4 to 8 instead of {_ROUNDS + 1} to 21", f"{max(early):+.1%}"],
        ["largest loss", f"{gains[0][0]:+.1%} ({short(gains[0][1])})"],
    ]
    return table(("deepest first against first come", ""), rows)


_ORDERS: tuple[Order, Order] = ("deepest-first", "first-come")
_ROUNDS = 16
"""First come takes longer to settle."""

SECTIONS: dict[str, Callable[[Path], str]] = {
    "claims": claims_section,
    "sizes": sizes_section,
    "lengths": lengths_section,
    "latency": latency_section,
    "tier2": tier2_section,
    "order": order_section,
}
"""By the name of their place in docs/planning.md."""
