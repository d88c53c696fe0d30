"""Which depths are explained: so many, or just these."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from companion.ode.at_ends import at_ends

Depths = int | Sequence[float] | Tensor | None

#: Times of an ODE block where nothing is said.
DEFAULT_TIMES = 9


def require_depths(depths: Any) -> int | list[float] | None:
    """``depths`` as a number of them, as a list of numbers, or None.

    Raises:
        TypeError: They are none of these.
        ValueError: There is none, or one that is not finite.
    """
    depths = _plain(depths)
    if depths is None or (isinstance(depths, Integral) and not isinstance(depths, bool)):
        return depths
    if isinstance(depths, str | bytes | bool) or not isinstance(depths, Iterable):
        raise TypeError(
            "depths: expected how many, or a sequence of them such as [0.0, 0.5, 1.0], got "
            f"{depths!r}"
        )
    values = [_plain(one) for one in depths]
    if not values:
        raise ValueError("depths: got an empty sequence; ask for at least one depth")
    for one in values:
        if isinstance(one, bool) or not isinstance(one, Real):
            raise TypeError(f"depths: expected numbers, got {one!r}")
        if not math.isfinite(one):
            raise ValueError(f"depths: expected finite numbers, got {one}")
    return values


def times_of(depths: int | list[float] | None, t0: float, t1: float) -> list[float]:
    """The times asked for of a solve from t0 to t1, in the order in which it passes them.

    Raises:
        ValueError: A time outside of the solve, out of order, or fewer than two evenly spaced.
    """
    count = DEFAULT_TIMES if depths is None else depths
    if isinstance(count, Integral):
        _require_both_ends(count, t1)
        return torch.linspace(t0, t1, int(count), dtype=torch.float64).tolist()
    times = at_ends([float(t) for t in depths], t0, t1)
    for t in times:
        if not min(t0, t1) <= t <= max(t0, t1):
            raise ValueError(f"depths: {t} is outside the times of the block, {t0} to {t1}")
    _require_order(times, forwards=t1 > t0)
    return times


def layers_of(depths: int | list[float] | None, count: int) -> list[int]:
    """The depths asked for of ``count`` layers, each from 0 to ``count``; all for None.

    Raises:
        TypeError: A depth that is no integer.
        ValueError: A depth that does not exist, out of order, or more or fewer evenly spaced
            ones than there can be.
    """
    if depths is None:
        return list(range(count + 1))
    if isinstance(depths, Integral):
        _require_both_ends(depths, count)
        if depths > count + 1:
            raise ValueError(
                f"depths: asked for {depths}, and {count} layers have {count + 1}; leave depths "
                "out for all of them"
            )
        last = int(depths) - 1
        return [(2 * i * count + last) // (2 * last) for i in range(last + 1)]  # the nearest
    for n in depths:
        if not isinstance(n, Integral):
            raise TypeError(f"depths: expected numbers of layers, integers, got {n!r}")
        if not 0 <= n <= count:
            raise ValueError(
                f"depths: {n} does not exist; {count} layers have the depths 0 to {count}"
            )
    _require_order(depths, forwards=True)
    return [int(n) for n in depths]


def _require_both_ends(count: int, end: float) -> None:
    if count < 2:
        raise ValueError(
            f"depths: evenly spaced depths include both ends and are at least 2, got {count}; "
            f"for one depth give it in a list, such as [{end}]"
        )


def _require_order(depths: Sequence[float], forwards: bool) -> None:
    for one, other in pairwise(depths):
        if not (one < other if forwards else one > other):
            raise ValueError(
                f"depths: expected strictly {'increasing' if forwards else 'decreasing'} depths, "
                f"as the block passes them, got {other} after {one}"
            )


def _plain(value: Any) -> Any:
    """Tensors, and the arrays and numbers of NumPy, as lists and numbers of Python."""
    return value.tolist() if hasattr(value, "tolist") else value
