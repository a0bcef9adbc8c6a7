"""The router's settings that depend on the model."""

import pytest

from common.errors import SettingsError
from services.router.config import RouterSettings, count_layers


def test_ranges_differ_by_at_most_one_layer_unless_they_are_counted() -> None:
    assert count_layers(RouterSettings(layer_workers=3), 8) == (2, 3, 3)


def test_ranges_have_the_layers_that_they_are_given() -> None:
    assert count_layers(RouterSettings(layer_workers=2, layer_counts="7,1"), 8) == (7, 1)


@pytest.mark.parametrize("counts", ["8", "4,3", "8,0", "2,3,3"])
def test_counts_that_do_not_come_to_the_model_are_refused(counts: str) -> None:
    with pytest.raises(SettingsError, match=f"--layer-counts {counts} must be 2 numbers"):
        count_layers(RouterSettings(layer_workers=2, layer_counts=counts), 8)
