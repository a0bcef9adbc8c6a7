"""The messages that `bench transport` measures, and what it says about them."""

import io
import json

import pytest

from common.messages.checks import check
from services.admin.bench.step_messages import StepSize, step_messages
from services.admin.bench.transport import bench_transport, print_costs


@pytest.mark.parametrize("num_entries", [1, 255])
def test_every_message_of_a_step_is_one_that_may_be_sent(num_entries: int) -> None:
    messages = step_messages(StepSize(num_entries=num_entries))

    for message in messages:
        check(message)
    assert [message.TAG for message in messages] == [
        "step.forward",
        "step.attend",
        "step.attended",
        "step.hidden",
        "step.sampled",
    ]


@pytest.mark.slow
def test_sending_and_receiving_take_at_least_as_long_as_their_parts() -> None:
    out = io.StringIO()

    print_costs(bench_transport(StepSize(num_entries=4), 50), out, as_json=True)

    for cost in json.loads(out.getvalue()):
        assert cost["send_us"] >= 0.5 * cost["encode_us"] > 0
        assert cost["receive_us"] >= 0.5 * cost["decode_us"] > 0
