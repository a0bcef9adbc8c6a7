"""By what angles queries and keys are rotated at each position.

Source: RoFormer, Su et al. 2021, section 3.4 (arXiv:2104.09864), in the layout of Hugging Face's
checkpoints, where number i of a head is paired with number i + D/2.
"""

import math

import torch

from common.rope_spec import LinearScaling, Llama3Scaling, RopeSpec, YarnScaling


def rotation_table(rope: RopeSpec, head_size: int, max_len: int) -> torch.Tensor:
    """Tabulate the cosines, then the sines, of the positions `[0, max_len)`.

    Shapes:
        -> [L, D], float32
    """
    positions = torch.arange(max_len, dtype=torch.float32)
    angles = torch.outer(positions, inverse_frequencies(rope, head_size))  # [L, D/2]
    table = torch.cat((angles.cos(), angles.sin()), dim=1)  # [L, D]
    if isinstance(rope.scaling, YarnScaling):
        table *= rope.scaling.attention_factor
    return table


def inverse_frequencies(rope: RopeSpec, head_size: int) -> torch.Tensor:
    """Compute the angle per position of each pair of numbers.

    Shapes:
        -> [D/2], float32
    """
    wavelengths = rope.theta ** (torch.arange(0, head_size, 2, dtype=torch.float32) / head_size)
    frequencies = 1.0 / wavelengths
    match rope.scaling:
        case None:
            return frequencies
        case LinearScaling(factor=factor):
            return frequencies / factor
        case Llama3Scaling() as scaling:
            return _stretch_long(frequencies, scaling)
        case YarnScaling() as scaling:
            return _interpolate_slow(frequencies, scaling, rope.theta, head_size)


def _stretch_long(frequencies: torch.Tensor, scaling: Llama3Scaling) -> torch.Tensor:
    """Divide by `factor` what turns rarely within the trained length, and blend towards it.

    Source: The Llama 3 Herd of Models, section 3.4.1 (arXiv:2407.21783), and Meta's released code.
    """
    turns = scaling.original_max_len * frequencies / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return kept * frequencies + (1.0 - kept) * frequencies / scaling.factor


def _interpolate_slow(
    frequencies: torch.Tensor, scaling: YarnScaling, theta: float, head_size: int
) -> torch.Tensor:
    """Keep the fast frequencies, divide the slow ones by `factor`, with a ramp between.

    Source: YaRN, Peng et al. 2023, section 3.2 (arXiv:2309.00071).
    """

    def dimension(turns: float) -> float:
        turned = math.log(scaling.original_max_len / (turns * 2 * math.pi))
        return head_size * turned / (2 * math.log(theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_size - 1)
    width = max(high - low, 0.001)
    divided = ((torch.arange(head_size // 2) - low) / width).clamp(0.0, 1.0)
    return frequencies * (1.0 - divided) + frequencies / scaling.factor * divided
