"""The size of an error, in units of what the tolerances allow."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from companion.ode.field import Leaves

#: From the leaves of a state to a 0-dim tensor.
Norm = Callable[[Leaves], Tensor]


def rms_norm(leaves: Leaves) -> Tensor:
    r"""Root mean square :math:`\sqrt{\tfrac1n \sum |x_i|^2}` of a tensor; of several, the largest.

    An empty tensor has norm zero.
    """
    norms = [
        torch.linalg.vector_norm(leaf) / math.sqrt(max(leaf.numel(), 1)) for leaf in leaves
    ]
    largest = norms[0]
    for norm in norms[1:]:
        largest = torch.maximum(largest, norm.to(largest))
    return largest


def in_tolerances(errors: Leaves, rtol: float, atol: float, *states: Leaves) -> Leaves:
    """Errors divided by ``atol + rtol * |y|``, with the larger of the given states for y.

    Half-precision states are compared in float32: the quotient can exceed what they can hold.
    """
    scaled = []
    for i, error in enumerate(errors):
        if error.dtype in (torch.float16, torch.bfloat16):
            error = error.float()
        size = states[0][i].abs()
        for state in states[1:]:
            size = torch.maximum(size, state[i].abs())
        scaled.append(error / (size.to(error.abs().dtype) * rtol).add_(atol))
    return scaled
