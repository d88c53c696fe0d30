"""Times that are meant to be an end of a solve, but were rounded."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def at_ends(times: Sequence[float], t0: float, t1: float) -> list[float]:
    """The times; one outside of the solve that single precision does not tell from an end is it.

    ``torch.linspace(0, 0.1, 5)`` ends at 0.10000000149, and float32 times from 0 to 0.7 end at
    0.69999998808.
    """
    asked = torch.tensor(times, dtype=torch.float64, device="cpu")
    nearest = asked.clamp(min(t0, t1), max(t0, t1))
    return torch.where(asked.float() == nearest.float(), nearest, asked).tolist()
