"""A cluster in one process says what is wrong as a real one does."""

from collections.abc import Iterator

import pytest

from common.errors import GlinthawkError
from services.router.lines import LineFailed
from tests.support.checkpoints import cached_checkpoint
from tests.support.inline import lines_for, make_cluster, one_thread, tokens

FAMILY = "llama31"
BYTES_PER_TOKEN = 1024

pytestmark = pytest.mark.slow  # the first of them makes the checkpoint


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    with one_thread():
        yield


def test_a_line_that_fits_nowhere_fails_alone() -> None:
    cluster = make_cluster(cached_checkpoint(FAMILY)[0], kv_memory=32 * BYTES_PER_TOKEN)

    first, second, third = cluster.generate(lines_for([[5], [6] * 40, [7]], 2))

    assert isinstance(second, LineFailed)
    assert second.code == "kv_memory_exceeded"
    assert [len(choice) for choice in tokens([first, third])] == [2, 2]


def test_a_pool_without_room_for_a_page_ends_the_run() -> None:
    cluster = make_cluster(cached_checkpoint(FAMILY)[0], kv_memory=BYTES_PER_TOKEN)

    with pytest.raises(GlinthawkError, match="give more --kv-memory"):
        cluster.generate(lines_for([[5]], 2))


def test_one_cluster_runs_many_batches() -> None:
    cluster = make_cluster(cached_checkpoint(FAMILY)[0])
    lines = lines_for([[5, 6], [7]], 3)

    said = [tokens(cluster.generate(lines)) for _ in range(2)]

    assert said[0] == said[1]
