"""What is read about processors and memory from a made-up system."""

from pathlib import Path

import pytest

from services.attention_worker.host import Host, huge_page_bytes, parse_numbers


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make a host of two nodes that takes memory from the second."""
    for path, text in {
        "sys/devices/system/node/node0/cpulist": "0-3,8\n",
        "sys/devices/system/node/node1/cpulist": "4-7\n",
        "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
        "proc/self/status": "Name:\tx\nMems_allowed_list:\t1\n",
        "proc/self/numa_maps": "7f00 bind:1 anon=1\n",
        "proc/self/smaps_rollup": "Rss: 9 kB\nAnonHugePages:     4096 kB\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def test_nodes_memory_and_huge_pages_are_read(root: Path) -> None:
    host = Host.read(root)

    assert host.nodes == {0: frozenset({0, 1, 2, 3, 8}), 1: frozenset({4, 5, 6, 7})}
    assert (host.memory_nodes, host.memory_policy) == ({1}, "bind:1")
    assert host.huge_pages == "madvise"
    assert huge_page_bytes(root) == 4 << 20


def test_the_nodes_of_some_cpus_are_named(root: Path) -> None:
    host = Host.read(root)

    assert host.nodes_of((3,)) == (0,)
    assert host.nodes_of((3, 4)) == (0, 1)


def test_a_system_that_tells_nothing_is_no_error(tmp_path: Path) -> None:
    host = Host.read(tmp_path)

    assert (host.nodes, host.memory_policy, host.huge_pages) == ({}, "default", "unknown")
    assert huge_page_bytes(tmp_path) == 0


def test_an_empty_set_of_numbers_is_empty() -> None:
    assert parse_numbers("\n") == frozenset()
