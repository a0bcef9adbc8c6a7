"""A cluster in virtual time does what its stages add up to, and what the services would decide."""

from pathlib import Path

import pytest

from common.errors import PoolTooLarge
from common.policy.ordering import deepest_first
from common.policy.profile import AttentionPoint
from services.admin.planner.cluster_file import ClusterFile, Tier
from services.admin.planner.hardware import Links
from services.admin.planner.lengths import Lengths
from services.admin.planner.simulation import SimulationReport, make_virtual, simulate
from services.admin.planner.virtual_job import VirtualJob
from tests.support.emulation import (
    ATTENTION_PROFILE,
    LAYER_PROFILE,
    NUM_LAYERS,
    write_config,
    write_profile,
)

LAYER = LAYER_PROFILE.layer
ATTENTION = ATTENTION_PROFILE.attention
ONE_TOKEN_S = ATTENTION.overhead_s
"""Of attention to a few positions: the tester's overhead is most of it."""
RTT_S = 0.2


@pytest.fixture
def cluster(tmp_path: Path) -> ClusterFile:
    """Two ranges and two attention workers of the tests' emulated model, quick links."""
    return ClusterFile(
        model=str(write_config(tmp_path / "model")),
        tier1=Tier(
            device=str(write_profile(tmp_path / "layer.json", LAYER_PROFILE)),
            nodes=2,
            memory_gib=1,
        ),
        tier2=Tier(
            device=str(write_profile(tmp_path / "attention.json", ATTENTION_PROFILE)),
            nodes=2,
            memory_gib=1,
        ),
        network=Links(bandwidth_gbps=1e6, rtt_ms=1000 * RTT_S),
        kv_dtype="fp32",
        router={"block_size": 4, "max_model_len": 64},
    )


def changed(cluster: ClusterFile, **router: object) -> ClusterFile:
    return cluster.model_copy(update={"router": {**cluster.router, **router}})


def test_one_request_takes_the_sum_of_its_stages(cluster: ClusterFile) -> None:
    report = simulate(cluster, [Lengths(1, 3)])

    visits_s = NUM_LAYERS * (LAYER.pre(1) + LAYER.post(1)) + LAYER.classify(1)
    links_s = NUM_LAYERS * RTT_S + 3 * RTT_S / 2  # router, between the ranges, home
    one_pass_s = visits_s + NUM_LAYERS * ONE_TOKEN_S + links_s
    reserving_s = RTT_S  # to the KV manager and back
    assert report.generated_tokens == 3
    assert report.wall_s == pytest.approx(3 * one_pass_s + reserving_s, rel=0.01)


def test_requests_on_two_workers_overlap(cluster: ClusterFile) -> None:
    alone = simulate(changed(cluster, in_flight=1), [Lengths(1, 4)] * 2)
    together = simulate(changed(cluster, in_flight=2), [Lengths(1, 4)] * 2)

    assert together.wall_s < 0.8 * alone.wall_s


def test_an_answer_may_end_before_its_limit(cluster: ClusterFile) -> None:
    report = simulate(cluster, [Lengths(5, 3, 20), Lengths(5, 20, 20)])

    assert report.generated_tokens == 23


def test_who_finds_no_pages_waits_and_is_served(cluster: ClusterFile) -> None:
    small = cluster.model_copy(
        update={"tier2": cluster.tier2.model_copy(update={"memory_gib": 3e-5})}
    )

    report = simulate(small, [Lengths(8, 8)] * 8)

    assert report.pages < 8 * 4
    assert (report.rows, report.failed, report.generated_tokens) == (8, 0, 64)


def test_a_request_that_fits_nowhere_fails(cluster: ClusterFile) -> None:
    small = cluster.model_copy(
        update={"tier2": cluster.tier2.model_copy(update={"memory_gib": 1e-5})}
    )

    assert simulate(small, [Lengths(30, 30), Lengths(1, 1)]).failed == 1


def test_memory_for_no_page_is_refused(cluster: ClusterFile) -> None:
    small = cluster.model_copy(
        update={"tier2": cluster.tier2.model_copy(update={"memory_gib": 1e-7})}
    )

    with pytest.raises(PoolTooLarge, match="memory_gib"):
        simulate(small, [Lengths(1, 1)])


def test_the_same_cluster_gives_the_same_times_also_with_jitter(cluster: ClusterFile) -> None:
    def run(jitter: float) -> SimulationReport:
        shaky = cluster.model_copy(update={"jitter": jitter})
        return simulate(shaky, [Lengths(3, 5)] * 6)

    assert run(0.2).wall_s == run(0.2).wall_s != run(0.0).wall_s


def test_processes_that_share_a_core_take_turns(cluster: ClusterFile, tmp_path: Path) -> None:
    def run(**more: object) -> float:
        wanted = changed(cluster, in_flight=4)
        virtual, _ = make_virtual(wanted, Path(wanted.model), deepest_first, **more)
        job = VirtualJob([Lengths(1, 8)] * 8)
        assert virtual.run(job)
        return job.ended_s

    assert run(core_of=lambda _: "one") > 1.5 * run()


def test_rows_beyond_the_profile_are_marked(cluster: ClusterFile) -> None:
    assert simulate(cluster, [Lengths(30, 1)]).extrapolated
    assert not simulate(cluster, [Lengths(3, 1)]).extrapolated


def test_contexts_beyond_the_profile_are_marked(cluster: ClusterFile, tmp_path: Path) -> None:
    point = AttentionPoint(entries=1, rows=1, context=10, p50_s=0.1, p90_s=0.1)
    measured = ATTENTION_PROFILE.model_copy(update={"attention_points": (point,)})
    device = str(write_profile(tmp_path / "measured.json", measured))
    known = cluster.model_copy(
        update={"tier2": cluster.tier2.model_copy(update={"device": device})}
    )

    assert simulate(known, [Lengths(5, 7)]).extrapolated
    assert not simulate(known, [Lengths(5, 6)]).extrapolated
