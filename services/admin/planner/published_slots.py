"""The original's memory formulas: how many prompts fit, and so how many microbatches circulate.

Source: Glinthawk (arXiv:2501.11779) and its prototype. A slot holds one prompt's keys and values for
the layers of one node. Prompts that are paged take a third of the longest on average, static ones
all of it.
"""

from dataclasses import dataclass
from math import ceil, floor

from services.admin.planner.models import PlannedModel

GIB = 2**30
PAGED, STATIC = 3.0, 1.0
"""How many prompts share the room of the longest one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedSizes:
    """Bytes of a model's parts, counted as the original counts them."""

    model: PlannedModel
    max_tokens: int
    """Of one prompt, its answer included."""
    bytes_per_number: int

    def base(self, *, embeds: bool, classifies: bool, attends: bool = True) -> int:
        """Give the bytes that a node needs besides layers."""
        shape, table = self.model.shape, self.model.table_weights
        numbers = (
            embeds * table
            + classifies * (shape.hidden_size + table)
            + attends * self.max_tokens * shape.head_size
        )
        return self.bytes_per_number * numbers

    def layer(self) -> int:
        """Give the bytes of one layer's weights."""
        return self.bytes_per_number * self.model.layer_weights

    def slot(self, num_layers: int, sharing: float) -> float:
        """Give the bytes of one prompt's keys and values."""
        per_layer = 2 * self.bytes_per_number * self.model.kv_size * self.max_tokens
        return per_layer * num_layers / sharing


def cut(num_layers: int, num_slices: int) -> tuple[int, ...]:
    """Cut the layers as the original does: all slices as long as the first, the last takes the rest.

    Returns:
        Layers per slice; empty if nothing is left for the last one.
    """
    each = ceil(num_layers / num_slices)
    last = num_layers - each * (num_slices - 1)
    return (*(each,) * (num_slices - 1), last) if last > 0 else ()


def tier1_slots(sizes: PublishedSizes, num_slices: int, memory: float, sharing: float) -> int:
    """Count the prompts that fit beside the weights: of the first and the last node, the fewer.

    Args:
        sizes: In the dtype of tier 1.
        num_slices: Nodes of tier 1.
        memory: Bytes of each.
        sharing: `PAGED` or `STATIC`.

    Returns:
        Less than zero if the weights do not fit.
    """
    slices = cut(sizes.model.num_layers, num_slices)
    ends = {0: slices[0], num_slices - 1: slices[-1]}
    free = {
        num_layers: memory
        - sizes.base(embeds=index == 0, classifies=index == num_slices - 1)
        - sizes.layer() * num_layers
        for index, num_layers in ends.items()
    }
    if min(free.values()) < 0:
        return -1
    return min(floor(room / sizes.slot(num_layers, sharing)) for num_layers, room in free.items())


def tier2_slots(sizes: PublishedSizes, num_slices: int, memory: float, sharing: float) -> int:
    """Count the prompts that fit on a node of tier 2.

    A node keeps room for embedding and classifier, too: the in-flight numbers of the published
    configurations come out with it, and not without.
    """
    room = memory - sizes.base(embeds=True, classifies=True)
    return floor(room / sizes.slot(ceil(sizes.model.num_layers / num_slices), sharing))


def in_flight(slots: int, batch: int, multiple_of: int = 1) -> int:
    """Count the microbatches that the slots of a node are enough for.

    Args:
        slots: Of one node.
        batch: Prompts of one microbatch on that node.
        multiple_of: The number of slices, where each is to have as many microbatches as the others.
    """
    return slots // (batch * multiple_of) * multiple_of
