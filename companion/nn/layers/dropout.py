"""Dropout as a layer."""

from __future__ import annotations

import torch
from torch import Tensor

from companion.nn.choice import is_explicit
from companion.nn.functional.dropout import dropout


class Dropout(torch.nn.Dropout):
    """Dropout: :class:`torch.nn.Dropout`, explicitly :func:`~companion.nn.functional.dropout`.

    In evaluation mode it is the identity.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not (is_explicit() and self.training):
            return super().forward(input)
        dropped = dropout(input, self.p)
        return input.copy_(dropped) if self.inplace else dropped
