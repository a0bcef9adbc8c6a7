"""What the router tells about the cluster is JSON."""

import json

import pytest

from services.router.overview import Overview
from tests.support.router import RouterBench, line


@pytest.fixture
def bench() -> RouterBench:
    bench = RouterBench()
    bench.join_all()
    return bench


def status(bench: RouterBench) -> dict:
    overview = Overview("tiny", 100, post=lambda _: None)
    overview.watch(bench.state)
    return json.loads(json.dumps(overview.status()))


def test_tokens_that_are_computed_again_are_told_by_cause(bench: RouterBench) -> None:
    bench.run(line(0))
    bench.state.scheduler.tenancy.totals.recomputed_tokens["preempted"] += 3

    told = status(bench)

    assert told["pages"]["recomputed_tokens"] == {"preempted": 3}
    assert told["ready"]
    assert told["requests"]["in_flight"] == 1
