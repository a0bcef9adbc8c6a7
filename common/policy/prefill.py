"""Where the rows of a prompt's chunk attend to each other: on tier 2 like all else, or on tier 1."""

from collections.abc import Iterable
from typing import Literal

PrefillAttention = Literal["auto", "tier1", "tier2"]


def attends_on_tier1(wanted: PrefillAttention, kernel_paths: Iterable[str]) -> bool:
    """Say whether chunks attend among themselves on the layer workers of a route.

    A GPU does it in a fraction of the time that the rest of the layer takes there, and of a prompt in
    one chunk only keys and values travel. On CPU both tiers are equally fast, and only tier 2 gives
    the same bits however a prompt is cut into chunks.

    Args:
        wanted: `auto` decides by what the workers compute on.
        kernel_paths: Of the route's layer workers, as they registered.
    """
    if wanted != "auto":
        return wanted == "tier1"
    return all(path.startswith("cuda") for path in kernel_paths)
