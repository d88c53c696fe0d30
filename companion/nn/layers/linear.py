"""The linear layer."""

from __future__ import annotations

import torch
from torch import Tensor

from companion.nn.choice import is_explicit
from companion.nn.functional.linear import linear
from companion.nn.layers.checks import require_features


class Linear(torch.nn.Linear):
    """y = x Wᵀ + b: :class:`torch.nn.Linear`, explicitly :func:`~companion.nn.functional.linear`.

    Shapes: (..., in_features) -> (..., out_features).

    Raises:
        TypeError: the input is no floating-point tensor, or of another dtype than the weight.
        ValueError: the input has another number of features.
    """

    def forward(self, input: Tensor) -> Tensor:
        require_features(self, input, self.in_features, self.weight.dtype)
        if is_explicit():
            return linear(input, self.weight, self.bias)
        return super().forward(input)
