"""How large a pool may be: what the host and its cgroups leave, and what the settings say."""

import pytest

from common.config import load_settings
from common.errors import PoolTooLarge, SettingsError
from services.attention_worker.compute import count_pages
from services.attention_worker.config import AttentionWorkerSettings
from services.attention_worker.memory import free_memory_bytes

GIB = 1024**3


@pytest.fixture
def root(tmp_path):
    """Make a host with 8 GiB available and no cgroups."""
    write(tmp_path / "proc/meminfo", f"MemTotal: 99 kB\nMemAvailable: {8 * GIB // 1024} kB\n")
    return tmp_path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_without_cgroups_the_hosts_memory_counts(root):
    assert free_memory_bytes(root) == 8 * GIB


def test_the_tightest_cgroup_counts_and_idle_file_pages_are_free(root):
    write(root / "proc/self/cgroup", "0::/outer/inner\n")
    for group, limit in (("outer", str(4 * GIB)), ("outer/inner", "max")):
        write(root / f"sys/fs/cgroup/{group}/memory.max", limit)
        write(root / f"sys/fs/cgroup/{group}/memory.current", str(3 * GIB))
        write(root / f"sys/fs/cgroup/{group}/memory.stat", f"anon 1\ninactive_file {GIB}\n")

    assert free_memory_bytes(root) == 2 * GIB


def test_a_container_of_cgroup_version_1_finds_its_group_at_the_mount(root):
    write(root / "proc/self/cgroup", "4:memory:/of/the/host\n0::/\n")
    group = root / "sys/fs/cgroup/memory"
    write(group / "memory.limit_in_bytes", str(2 * GIB))
    write(group / "memory.usage_in_bytes", str(GIB))
    write(group / "memory.stat", "total_inactive_file 0\n")

    assert free_memory_bytes(root) == GIB


def test_a_group_over_its_limit_leaves_nothing(root):
    write(root / "proc/self/cgroup", "0::/\n")
    write(root / "sys/fs/cgroup/memory.max", "1")
    write(root / "sys/fs/cgroup/memory.current", "2")
    write(root / "sys/fs/cgroup/memory.stat", "")

    assert free_memory_bytes(root) == 0


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("1000", 1000),
        ("4GiB", 4 * GIB),
        ("4G", 4_000_000_000),
        ("1.5KiB", 1536),
        ("500 MB", 500_000_000),
        ("auto", "auto"),
    ],
)
def test_sizes_are_read_with_their_units(size, expected):
    assert load_settings(AttentionWorkerSettings, {"kv_memory": size}).kv_memory == expected


@pytest.mark.parametrize("size", ["0", "-1", "4GiBs", "many", "4Z"])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(SettingsError, match="kv-memory"):
        load_settings(AttentionWorkerSettings, {"kv_memory": size})


@pytest.mark.parametrize(
    ("kv_memory", "expected"), [("auto", 50), ("305", 30), ("999", 60), ("9999", 60)]
)
def test_the_pool_has_as_many_whole_pages_as_fit_and_are_useful(kv_memory, expected):
    settings = load_settings(AttentionWorkerSettings, {"kv_memory": kv_memory})

    assert count_pages(10, 60, settings, free_bytes=1009) == expected


@pytest.mark.parametrize(
    ("kv_memory", "reason"),
    [("1010", "asks for 1010 bytes, 1009 are free"), ("9", "a page takes 10 bytes, the pool 9")],
)
def test_a_pool_without_memory_or_pages_is_refused(kv_memory, reason):
    settings = load_settings(AttentionWorkerSettings, {"kv_memory": kv_memory})

    with pytest.raises(PoolTooLarge, match=reason):
        count_pages(10, 1000, settings, free_bytes=1009)
