"""The original's memory formulas give the microbatches that its authors ran."""

import csv
from pathlib import Path

import pytest

from services.admin.planner.models import MODELS
from services.admin.planner.published_slots import (
    GIB,
    PAGED,
    STATIC,
    PublishedSizes,
    cut,
    in_flight,
    tier1_slots,
    tier2_slots,
)

CONFIGS = Path(__file__).parents[4] / "benchmarks/published/configs.csv"
MODEL = MODELS["llama-2-70b"]

with CONFIGS.open() as file:
    ROWS = {row["config"]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize("name", [name for name in ROWS if name.startswith("E2E/double/OPT_")])
def test_paged_configurations_have_as_many_microbatches_as_fit(name: str) -> None:
    row = ROWS[name]
    sizes = PublishedSizes(model=MODEL, max_tokens=2048, bytes_per_number=4)

    slots = tier2_slots(sizes, int(row["slices"]), 110 * GIB, PAGED)

    batch = int(row["attention_batch_per_tier2_node"])
    assert in_flight(slots, batch) == int(row["in_flight"])


@pytest.mark.parametrize("name", [name for name in ROWS if name.startswith("seq_len/")])
def test_static_configurations_have_as_many_on_every_slice(name: str) -> None:
    row = ROWS[name]
    max_tokens = 1024 * int(name.split("/")[1].removesuffix("K"))
    num_slices = int(row["slices"])
    if batch := int(row["attention_batch_per_tier2_node"]):
        sizes = PublishedSizes(model=MODEL, max_tokens=max_tokens, bytes_per_number=4)
        slots = tier2_slots(sizes, num_slices, 108 * GIB, STATIC)
    else:
        batch = int(row["tier1_batch"])
        sizes = PublishedSizes(model=MODEL, max_tokens=max_tokens, bytes_per_number=2)
        slots = tier1_slots(sizes, num_slices, 15 * GIB, STATIC)

    assert in_flight(slots, batch, multiple_of=num_slices) == int(row["in_flight"])


def test_the_last_slice_takes_the_rest_of_the_layers() -> None:
    assert cut(80, 9) == (9, 9, 9, 9, 9, 9, 9, 9, 8)


def test_more_slices_than_can_be_filled_are_no_cut() -> None:
    assert cut(32, 30) == ()


def test_weights_that_do_not_fit_leave_less_than_no_slots() -> None:
    sizes = PublishedSizes(model=MODEL, max_tokens=2048, bytes_per_number=2)

    assert tier1_slots(sizes, 4, 15 * GIB, PAGED) == -1
