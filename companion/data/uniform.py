"""Random numbers that are the same on every machine and in every release."""

from __future__ import annotations

import numpy as np


def uniform(seed: int, *shape: int) -> np.ndarray:
    """Random numbers in [0, 1), float64 of the given shape.

    They come from the one generator that is promised never to change: NumPy's ``RandomState``, the
    Mersenne twister with 53 bits a number (NEP 19).  ``torch.Generator`` promises nothing between
    releases and devices.  A longer first axis continues the same numbers.

    Raises:
        TypeError, ValueError: ``seed`` is no integer from 0 to 2**32 - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise TypeError(f"seed must be an integer, got {seed!r}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be from 0 to 2**32 - 1, got {seed}")
    return np.random.RandomState(seed).random_sample(shape)
