"""Random numbers that depend on what a token is, never on when or where it is sampled.

SplitMix64 as a counter-based generator: mix(key + position × golden ratio).
Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def request_key(seed: int, choice: int) -> int:
    """Give the key of one choice; the seed is the line's, or made of the job's and its number."""
    both = np.array([seed, choice], np.uint64)
    return int(_mix(_mix(both[:1]) + both[1:] * _GOLDEN)[0])


def uniforms(keys: Sequence[int], positions: Sequence[int]) -> NDArray[np.float64]:
    """Give one number in [0, 1) per (key, position).

    Shapes:
        keys [S], positions [S] -> [S]
    """
    states = np.array(keys, np.uint64) + np.array(positions, np.uint64) * _GOLDEN
    return (_mix(states) >> np.uint64(11)).astype(np.float64) * 2.0**-53
