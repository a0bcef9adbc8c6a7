"""The engine that any machine can have: attention in plain torch."""

import numpy as np
import torch
from numpy.typing import NDArray

from common.messages.entries import Entries
from services.attention_worker.attention import attend
from services.attention_worker.cache_shape import CacheShape
from services.attention_worker.device_engine import DeviceEngine
from services.attention_worker.plan import AttentionPlan


class TorchEngine(DeviceEngine[AttentionPlan]):
    """A row's bits depend on what it sees alone."""

    @staticmethod
    def _compute_dtype(shape: CacheShape) -> torch.dtype:
        return torch.float32

    def _make_plan(self, entries: Entries, page_table: NDArray[np.int32]) -> AttentionPlan:
        return AttentionPlan(
            entries, page_table, self._store.shape.page_size, self._store.num_pages
        )

    def attend_on_device(
        self, layer: int, plan: AttentionPlan, qkv: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `DeviceEngine`."""
        queries = qkv[:, : self._num_heads]
        return attend(self._store, layer, plan, self._windows[layer], queries)
