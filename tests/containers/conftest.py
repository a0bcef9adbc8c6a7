"""A cluster in containers, for the tests that need a Docker engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.containers import TARGETS, Compose, build

OVERRIDE = """
services:
  router:
    environment:
      GLINTHAWK_ROUTER__MAX_NUM_SEQS: "8"
  attention-worker:
    environment:
      GLINTHAWK_ATTENTION_WORKER__KV_MEMORY: 32MiB
"""
"""Few requests at once, so that a job goes on for long enough to be disturbed."""


@pytest.fixture(scope="session")
def images() -> tuple[str, ...]:
    """Build all images; give their names."""
    build()
    return tuple(f"glinthawk-{target}" for target in TARGETS)


@pytest.fixture(scope="module")
def compose(images: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """Give a cluster that is not up yet; in the end nothing of it is left."""
    override = Path(tmp_path_factory.mktemp("compose")) / "override.yaml"
    override.write_text(OVERRIDE)
    cluster = Compose(override)
    yield cluster
    cluster("down", "--volumes", "--timeout", "5")
