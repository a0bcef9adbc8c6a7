"""Sampling on the processor, in one call."""

import torch

from common.messages import Sampling
from services.layer_worker.sampler import Allowed, Choices, Sampler


def sample(logits: torch.Tensor, sampling: Sampling, allowed: Allowed | None = None) -> Choices:
    sampler = Sampler(sampling, logits.shape[1], allowed)
    return sampler.choose(logits, sampler.inputs)
