"""How sure a mean is."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Estimate(NamedTuple):
    """A mean with its confidence interval.

    Attributes:
        mean: The mean of the values.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    mean: float
    low: float
    high: float


_Z95 = 1.959963984540054  # the standard normal's 97.5 % quantile


def proportion(hits: Tensor) -> Estimate:
    """The share of hits with its 95 % interval (Wilson, 1927), which stays within [0, 1].

    Args:
        hits: Boolean, shape ``(N,)``; independent trials.
    """
    if hits.dtype != torch.bool or hits.ndim != 1 or len(hits) == 0:
        raise ValueError(
            f"hits: expected booleans of shape (N,), got {hits.dtype} of shape {tuple(hits.shape)}"
        )
    n = len(hits)
    share = int(hits.sum()) / n
    centre = (share + _Z95**2 / (2 * n)) / (1 + _Z95**2 / n)
    half = _Z95 / (1 + _Z95**2 / n) * math.sqrt(share * (1 - share) / n + _Z95**2 / (4 * n * n))
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half))


def mean(values: Tensor) -> Estimate:
    """The mean with its 95 % interval, by the central limit theorem (some tens of values).

    Args:
        values: Shape ``(N,)``, N at least 2; independent.
    """
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"values: expected at least two, shape (N,); got {tuple(values.shape)}")
    exact = values.double()
    centre = float(exact.mean())
    half = _Z95 * float(exact.std()) / math.sqrt(len(exact))
    return Estimate(centre, centre - half, centre + half)
