"""The attention that a benchmark computes: its shape, and what it costs."""

from dataclasses import dataclass
from math import ceil
from typing import Literal

from common.errors import SettingsError
from common.messages.tensor import DTYPE_BYTES

MIN_BYTES = 1 << 30
"""Of caches that are visited in turn, so that they come from memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionWork:
    """What is computed: a decode step of a batch, or a chunk of one prompt."""

    phase: Literal["decode", "prefill"]
    batch: int
    context: int
    """Tokens of each request, those at hand included."""
    chunk: int
    """Rows of each request in prefill."""
    q_heads: int
    kv_heads: int
    head_dim: int
    kv_dtype: str
    page_size: int

    def check(self) -> None:
        """Refuse what no model can ask for.

        Raises:
            SettingsError: It cannot.
        """
        if self.q_heads % self.kv_heads:
            raise SettingsError(f"{self.q_heads} query heads cannot share {self.kv_heads} KV heads")
        if self.num_rows > self.context:
            raise SettingsError(f"a chunk of {self.chunk} does not fit a context of {self.context}")

    @property
    def num_rows(self) -> int:
        """Rows of each request."""
        return self.chunk if self.phase == "prefill" else 1

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values that one layer holds for all requests."""
        numbers = 2 * self.batch * self.context * self.kv_heads * self.head_dim
        return numbers * DTYPE_BYTES[self.kv_dtype]

    @property
    def num_layers(self) -> int:
        """Layers whose caches are visited in turn."""
        return max(2, ceil(MIN_BYTES / self.kv_bytes))

    @property
    def operations(self) -> int:
        """Floating point operations of one layer: two products with all keys that a row sees."""
        seen = sum(range(self.context - self.num_rows + 1, self.context + 1))
        return 4 * self.batch * seen * self.q_heads * self.head_dim
