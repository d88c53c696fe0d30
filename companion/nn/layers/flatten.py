"""Feature maps as vectors."""

from __future__ import annotations

import torch


class Flatten(torch.nn.Flatten):
    """(N, C, H, W) -> (N, C·H·W): :class:`torch.nn.Flatten`.

    It moves no number, so there is nothing to choose: its adjoint is the reshape back.
    """
