"""A job's account counts what was done during the job, and nothing else."""

from itertools import pairwise

import pytest

from services.router.job_account import JobAccount, Pace
from tests.support.accounts import counts, report, status, worker


def test_a_report_counts_only_what_was_done_during_the_job():
    before = status(worker("l0", "layer_worker", 1.0, a0=100), worker("kv", "kv_manager", 0.0))
    after = status(worker("l0", "layer_worker", 3.0, a0=350), worker("kv", "kv_manager", 0.0))

    made = report(before, after)

    assert made.tier1_busy == pytest.approx(0.5)
    assert made.bytes_per_link == {"l0 -> a0": 250}


def test_a_worker_that_came_during_the_job_counts_from_nothing():
    made = report(status(), status(worker("a1", "attention_worker", 2.0, l0=80)))

    assert made.tier2_busy == pytest.approx(0.5)
    assert made.bytes_per_link == {"a1 -> l0": 80}


def test_a_new_life_of_a_worker_counts_from_nothing():
    before = status(worker("a0", "attention_worker", 50.0, l0=9000))
    after = status({**worker("a0", "attention_worker", 1.0, l0=80), "epoch": 8})

    made = report(before, after)

    assert made.tier2_busy == pytest.approx(0.25)
    assert made.bytes_per_link == {"a0 -> l0": 80}


def test_the_busy_share_of_a_tier_is_the_average_of_its_workers():
    after = status(worker("a0", "attention_worker", 4.0), worker("a1", "attention_worker", 2.0))

    made = report(status(), after)

    assert made.tier2_busy == pytest.approx(0.75)


def test_what_was_done_between_several_looks_adds_up():
    account = JobAccount()
    looks = [
        status(
            worker("l0", "layer_worker", 1.0 * turn, a0=100 * turn),
            found_tokens=10 * turn,
            wanted_tokens=40 * turn,
            preemptions=turn,
            recomputed_tokens={"preempted": 5 * turn},
        )
        for turn in range(3)
    ]
    for before, after in pairwise(looks):
        account.add(before, after, 2.0, {})

    made = account.report(counts())

    assert (made.wall_s, made.tier1_busy, made.bytes_per_link) == (4.0, 0.5, {"l0 -> a0": 200})
    assert (made.prefix_hit_rate, made.preemptions) == (0.25, 2)
    assert made.recomputed_tokens == {"preempted": 10}


def test_throughput_is_generated_tokens_over_wall_time():
    made = report(status(), status(), lines=counts(generated_tokens=40))

    assert made.output_tokens_per_s == pytest.approx(10.0)


def test_cost_is_what_the_workers_that_were_there_cost():
    after = status(worker("l0", "layer_worker", 0.0), worker("a0", "attention_worker", 0.0))

    made = report(status(), after, wall_s=1800.0, layer_worker=2.0, attention_worker=0.5)

    assert made.cost == pytest.approx(1.25)
    assert made.cost_per_million_tokens == pytest.approx(1.25 / 40 * 1e6)


def test_without_prices_there_is_no_cost():
    made = report(status(), status(worker("l0", "layer_worker", 0.0)))

    assert (made.cost, made.cost_per_million_tokens) == (None, None)


def test_the_last_interval_of_the_pace_counts_only_as_long_as_it_was():
    account = JobAccount()
    account.add(status(tokens=0), status(tokens=30), 1.0, {})
    account.add(status(tokens=30), status(tokens=40), 0.5, {})

    made = account.report(counts())

    assert (made.interval_s, made.tokens_per_s) == (1.0, (30.0, 20.0))


def test_a_long_jobs_pace_stays_short_and_loses_no_token():
    pace = Pace()

    for second in range(10_000):
        pace.add(float(second), 3)

    assert len(pace.tokens) <= 240
    assert sum(pace.tokens) == 30_000
    assert set(pace.tokens[:-1]) == {3 * pace.interval_s}
