"""Rectifiers as layers; their input may have any shape."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from companion.nn.choice import is_explicit
from companion.nn.functional.activation import relu, relu6


class ReLU(torch.nn.ReLU):
    """max(x, 0): :class:`torch.nn.ReLU`, explicitly :func:`~companion.nn.functional.relu`."""

    def forward(self, input: Tensor) -> Tensor:
        if is_explicit():
            return _rectify(relu, input, self.inplace)
        return super().forward(input)


class ReLU6(torch.nn.ReLU6):
    """min(max(x, 0), 6): :class:`torch.nn.ReLU6`, explicitly
    :func:`~companion.nn.functional.relu6`."""

    def forward(self, input: Tensor) -> Tensor:
        if is_explicit():
            return _rectify(relu6, input, self.inplace)
        return super().forward(input)


def _rectify(function: Callable[[Tensor], Tensor], x: Tensor, inplace: bool) -> Tensor:
    return x.copy_(function(x)) if inplace else function(x)
