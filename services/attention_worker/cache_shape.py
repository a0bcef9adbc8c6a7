"""How large the KV cache of a model is, told without torch, so that config may ask."""

from dataclasses import dataclass

from common.messages.tensor import DTYPE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheShape:
    """What decides the size of a page: K and V of `page_size` tokens in all layers."""

    num_layers: int
    num_kv_heads: int
    head_size: int
    page_size: int
    dtype: str
    """`bf16`, `fp16`, `fp32`, or `int8` with a scale per token and head."""

    @property
    def bytes_per_page(self) -> int:
        """The memory that one page takes."""
        numbers_per_token = 2 * self.num_layers * self.num_kv_heads * self.head_size
        return self.page_size * numbers_per_token * DTYPE_BYTES[self.dtype]
