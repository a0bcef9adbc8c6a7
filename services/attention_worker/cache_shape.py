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
        scale_bytes = DTYPE_BYTES["fp32"] if self.dtype == "int8" else 0
        bytes_per_head = self.head_size * DTYPE_BYTES[self.dtype] + scale_bytes
        return self.page_size * 2 * self.num_layers * self.num_kv_heads * bytes_per_head
