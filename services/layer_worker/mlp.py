"""The second half of a layer: a gated MLP, or a router that shares the rows out among several."""

from dataclasses import dataclass
from itertools import pairwise

import torch

from services.layer_worker.linear import Linear, LinearLayer, pad_rows
from services.layer_worker.row_math import RowMath


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedMlp:
    """`down(silu(gate(x)) * up(x))`. d is the hidden size, F the inner one."""

    gate_up: LinearLayer
    """d -> 2F: gate, then up."""

    down: LinearLayer
    """F -> d"""

    def __call__(self, rows: torch.Tensor, math: RowMath) -> torch.Tensor:
        """Apply it.

        Shapes:
            rows: [T, d] -> [T, d], T at least `MIN_ROWS`
        """
        return self.down(math.gate(self.gate_up(rows)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertMlp:
    """A mixture of experts: each row goes through the few MLPs that its router scores highest.

    A row's sum runs over its experts by falling score, and each expert's rows are padded like any
    others, so that a row's bits do not depend on which rows it shares an expert with.
    """

    router: Linear
    """d -> E scores"""

    experts: tuple[GatedMlp, ...]
    num_chosen: int
    """Experts per row."""

    normalized: bool
    """The chosen experts' probabilities are scaled to a sum of 1."""

    def __call__(self, rows: torch.Tensor, math: RowMath) -> torch.Tensor:
        """Apply it.

        Shapes:
            rows: [T, d] -> [T, d], contiguous, T at least `MIN_ROWS`
        """
        probabilities = self.router(rows).softmax(dim=1, dtype=torch.float32)  # [T, E]
        weights, experts = probabilities.topk(self.num_chosen, dim=1)  # [T, C] each
        if self.normalized:
            weights /= weights.sum(dim=1, keepdim=True)
        outputs = self._through_experts(rows, experts, math) * weights.to(rows.dtype)[:, :, None]
        total = outputs[:, 0].contiguous()
        for place in range(1, self.num_chosen):
            total += outputs[:, place]
        return total

    def _through_experts(
        self, rows: torch.Tensor, experts: torch.Tensor, math: RowMath
    ) -> torch.Tensor:
        """Compute every chosen pair of a row and an expert, one expert at a time.

        Shapes:
            rows: [T, d], experts: [T, C] -> [T, C, d]
        """
        chosen = experts.flatten()
        order = chosen.argsort(stable=True)
        gathered = rows[order // self.num_chosen]  # [T C, d], expert by expert
        counts = chosen.bincount(minlength=len(self.experts))
        bounds = [0, *counts.cumsum(0).tolist()]
        outputs = torch.empty_like(gathered)
        for expert, (start, stop) in zip(self.experts, pairwise(bounds), strict=True):
            if start < stop:
                found = expert(pad_rows(gathered[start:stop]), math)
                outputs[order[start:stop]] = found[: stop - start]
        return outputs.view(*experts.shape, -1)
