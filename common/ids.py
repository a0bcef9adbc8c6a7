"""The names that things go by, so that no two kinds of number can be mixed up."""

from typing import NewType

RequestId = NewType("RequestId", int)
"""One sequence of tokens being generated; a line with `n = 3` is three requests. Fits an int32."""

MicrobatchId = NewType("MicrobatchId", int)
"""Rises and is never used again; the router's term is in the high bits (`first_microbatch_id`)."""

PageId = NewType("PageId", int)
"""A page's index in the pool of the attention worker that holds it. Fits an int32."""

WorkerId = NewType("WorkerId", str)
"""A process's own name, for example its host and role; stable over restarts."""

ROUTER_ID = WorkerId("router")
"""The router's name on every wire; only its word raises the term."""

Epoch = NewType("Epoch", int)
"""A random number drawn when a process or its page pool starts: one life of a worker."""

Term = NewType("Term", int)
"""One life of the router: a number in the job store, raised at each start."""

JobId = NewType("JobId", str)
"""One batch file that was submitted."""

Endpoint = NewType("Endpoint", str)
"""A ZeroMQ address such as `tcp://10.0.0.7:5555` or `ipc:///run/glinthawk/router`."""

TERM_SHIFT = 40
"""Microbatches of one term: 2**40, enough for a thousand a second over thirty years."""


def first_microbatch_id(term: Term) -> MicrobatchId:
    """Give the id below all microbatches of a term and above all of earlier terms."""
    return MicrobatchId(term << TERM_SHIFT)
