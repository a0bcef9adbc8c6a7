"""What travels is bounded by what was learned, and a cluster that falls apart teaches nothing."""

import pytest

from common.messages import ForwardMicrobatch, StageTimes
from tests.support.router import RouterBench, drain_wanted, line, sent, stop_after

TIMES = StageTimes(
    tier1_s=0.01, tier2_s=0.01, wait_s=0.01, attention_s=0.01, queue_s=0.0, attention_queue_s=0.0
)


@pytest.mark.parametrize("worker", ["layer-0", "attention-0"])
def test_a_microbatch_comes_home_from_a_tier_whose_last_worker_leaves(worker: str) -> None:
    bench = RouterBench(in_flight=None)
    bench.join_all()
    microbatch = bench.run(line(0, stop=stop_after(9)))
    bench.now = 1.0
    (microbatch,) = sent(bench.come_home(microbatch, times=TIMES), ForwardMicrobatch)
    bench.tell(drain_wanted(worker))
    bench.now = 9.0

    bench.come_home(microbatch, times=TIMES)

    request = bench.state.scheduler.requests.all()[0]
    assert request.output_ids() == [7, 7]
