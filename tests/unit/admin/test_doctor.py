"""What the doctor makes of machines, from trees of files like theirs."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from services.admin.doctor import Finding, examine, verdicts
from tests.support.processes import SHIPPED

HEALTHY = {
    "proc/cpuinfo": "flags\t\t: fpu avx2 fma f16c avx512f avx512_bf16\n",
    "proc/meminfo": "MemAvailable: 16777216 kB\n",
    "proc/self/status": "Mems_allowed_list:\t0\n",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
    "sys/devices/system/node/node0/cpulist": "0-255\n",
}


def look(root: Path, changes: Mapping[str, str], **wanted: str) -> dict[str, Finding]:
    for name, text in {**HEALTHY, **changes}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {finding.about: finding for finding in examine(root=root, **wanted)}


def test_a_healthy_machine_has_nothing_wrong(tmp_path: Path) -> None:
    found = look(tmp_path, {}, model=str(SHIPPED))

    for about in ("processor", "threads", "NUMA", "memory", "huge pages", "model"):
        assert found[about].verdict == "ok", found[about]


@pytest.mark.parametrize(
    ("changes", "about", "advice"),
    [
        ({"proc/cpuinfo": "flags : fpu sse2\n"}, "processor", "AVX2"),
        ({"sys/fs/cgroup/cpu.max": "50000 100000\n"}, "threads", "--threads 1"),
        ({"proc/meminfo": "MemAvailable: 1000 kB\n"}, "memory", "free some"),
        (
            {"sys/kernel/mm/transparent_hugepage/enabled": "always madvise [never]\n"},
            "huge pages",
            "echo madvise",
        ),
    ],
)
def test_what_slows_a_machine_down_is_said_with_what_to_do(
    tmp_path: Path, changes: Mapping[str, str], about: str, advice: str
) -> None:
    finding = look(tmp_path, changes)[about]

    assert finding.verdict == "warn"
    assert advice in finding.advice


def test_cpus_of_several_nodes_are_a_wrong_binding(tmp_path: Path) -> None:
    first, *others = sorted(os.sched_getaffinity(0))
    if not others:
        others = [first]
    nodes = {
        "sys/devices/system/node/node0/cpulist": f"{first}\n",
        "sys/devices/system/node/node1/cpulist": ",".join(map(str, others)),
    }

    finding = look(tmp_path, nodes)["NUMA"]

    assert finding.verdict == "warn"
    assert "numactl --cpunodebind" in finding.advice


def test_memory_of_another_node_is_bad(tmp_path: Path) -> None:
    nodes = {
        "sys/devices/system/node/node1/cpulist": "256-511\n",
        "proc/self/status": "Mems_allowed_list:\t1\n",
    }

    finding = look(tmp_path, nodes)["NUMA"]

    assert (finding.verdict, "--membind=0" in finding.advice) == ("bad", True)


def test_memory_spread_over_all_nodes_is_a_wrong_binding(tmp_path: Path) -> None:
    nodes = {
        "sys/devices/system/node/node1/cpulist": "256-511\n",
        "proc/self/status": "Mems_allowed_list:\t0-1\n",
        "proc/self/numa_maps": "7f00 interleave:0-1 anon=1\n",
    }

    finding = look(tmp_path, nodes)["NUMA"]

    assert (finding.verdict, "interleave:0-1" in finding.found) == ("warn", True)


def test_a_model_that_does_not_fit_is_bad(tmp_path: Path) -> None:
    finding = look(tmp_path, {"proc/meminfo": "MemAvailable: 1000 kB\n"}, model=str(SHIPPED))[
        "model"
    ]

    assert finding.verdict == "bad"
    assert "GiB of weights" in finding.found


def test_a_model_that_is_not_there_is_bad(tmp_path: Path) -> None:
    assert look(tmp_path, {}, model="/none/such")["model"].verdict == "bad"


def test_a_router_that_does_not_answer_has_no_clock(tmp_path: Path) -> None:
    finding = look(tmp_path, {}, url="http://127.0.0.1:9")["clock"]

    assert "not compared" in finding.found


def test_advice_stands_under_what_it_is_about() -> None:
    lines = list(verdicts([Finding("memory", "warn", "little", "free some")]))

    assert lines == ["warn  memory  little\n              → free some"]
