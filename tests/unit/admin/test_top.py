"""What `glinthawk top` makes of two samples."""

from copy import deepcopy
from io import StringIO

from rich.console import Console

from services.admin.top import Sample, draw

STATUS = {
    "ready": True,
    "missing": [],
    "model": "tiny",
    "workers": [
        {
            "worker_id": "layer-worker-0", "role": "layer_worker", "epoch": 1, "ready": True,
            "layers": [0, 4], "busy_s": 1.0, "visits": 10,
        },
        {
            "worker_id": "attention-worker-0", "role": "attention_worker", "epoch": 2,
            "ready": True, "layers": None, "busy_s": 2.0, "visits": 20,
            "pool": {"held": 30, "shared": 1, "cached": 40, "free": 1000},
        },
    ],
    "requests": {
        "waiting": 4, "following": 1, "reserving": 1,
        "starving": 1, "ready": 1, "in_flight": 8,
    },
    "in_flight": {"now": 3, "limit": 4},
    "totals": {
        "generated_tokens": 100, "lines": 7, "failed_microbatches": 0,
        "tier1_s": 1.0, "tier2_s": 1.0, "wait_s": 1.0, "queue_s": 0.0,
    },
}  # fmt: skip


def later(**totals):
    status = deepcopy(STATUS)
    status["totals"] |= totals
    status["workers"][0] |= {"busy_s": 2.0, "visits": 50}
    return status


def shown(before, now):
    out = StringIO()
    Console(file=out, width=120).print(draw(Sample(before, 10.0), Sample(now, 12.0)))
    return out.getvalue()


def test_rates_are_differences_over_time():
    text = shown(STATUS, later(generated_tokens=300))

    assert "100 tokens/s" in text
    assert "3 of 4 microbatches in flight" in text
    assert "10 requests running, 6 waiting" in text


def test_each_worker_has_a_row():
    text = shown(STATUS, later())

    assert "layer-worker-0      layers 0 to 3      50%        20" in text
    assert "30      40  1,000" in text


def test_bubbles_are_the_share_of_time_in_which_nobody_computed():
    text = shown(STATUS, later(tier1_s=2.0, tier2_s=1.5, wait_s=2.0))

    assert "bubbles 25%" in text


def test_a_worker_that_came_since_has_no_rates_yet():
    now = later()
    now["workers"][1]["epoch"] = 9

    assert "attention-worker-0  attention worker    0%" in shown(STATUS, now)


def test_a_cluster_that_is_not_ready_says_what_it_waits_for():
    status = {**STATUS, "ready": False, "missing": ["a KV manager"]}

    assert "tiny: waiting for a KV manager" in shown(status, status)
