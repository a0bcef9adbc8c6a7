"""What is set about pages, and what came of it."""

from collections import Counter
from dataclasses import dataclass, field

from services.router.config import KvPolicy
from services.router.requests import Cause


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRules:
    """The settings about pages."""

    policy: KvPolicy = "max-utilization"
    """`guaranteed` reserves up to max_tokens and never preempts; `max-utilization` reserves as a
    request grows."""
    share_prefixes: bool = True
    max_requests: int = 256
    """Requests that hold pages, or are about to, at once."""
    max_reserving: int = 64
    """Requests that ask to move in at once."""


@dataclass(slots=True)
class PageTotals:
    """What happened about pages since the router started."""

    admissions: int = 0
    admission_waits: int = 0
    """Refusals of requests that wanted to move in: each is a wait until pages come back."""
    wanted_tokens: int = 0
    """Known tokens of all that moved in."""
    found_tokens: int = 0
    """Those of them that were in sealed pages; over `wanted_tokens` this is the hit rate."""
    preemptions: int = 0
    recomputed_tokens: Counter[Cause] = field(default_factory=Counter)
    """Tokens that had been computed, were lost, and were not found again."""
