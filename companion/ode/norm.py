"""The size of an error, in units of what the tolerances allow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from companion.ode.field import Leaves

#: From the leaves of a state to a 0-dim tensor.
Norm = Callable[[Leaves], Tensor]
#: One tolerance for everything, or one a leaf, each a number or a tensor that the leaf's shape
#: can be broadcast with.
Tolerance = float | Sequence[float | Tensor]


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


def in_tolerances(
    errors: Leaves, rtol: Tolerance, atol: Tolerance, sizes: Leaves, factor: float = 1.0
) -> Leaves:
    """Errors divided by ``factor * (atol + rtol * size)``, with the magnitudes of the state.

    Half-precision states are compared in float32: the quotient can exceed what they can hold.
    """
    scaled = []
    for i, (error, size) in enumerate(zip(errors, sizes, strict=False)):
        if error.dtype in (torch.float16, torch.bfloat16):
            error = error.float()
        r, a = of_leaf(rtol, i) * factor, of_leaf(atol, i) * factor
        scaled.append(error / (size.to(error.abs().dtype) * r).add_(a))
    return scaled


def of_leaf(tolerance: Tolerance, i: int) -> float | Tensor:
    """The tolerance of leaf number i."""
    return tolerance[i] if isinstance(tolerance, Sequence) else tolerance


def error_ratio(
    norm: Norm, error: Leaves, rtol: Tolerance, atol: Tolerance, sizes: Leaves
) -> float:
    """The norm of an error in units of the tolerances, read back: the one wait of a step."""
    if norm is rms_norm and len(error) == 1:
        # The division by sqrt(n) goes into the tolerances, where it costs no operation.
        root = math.sqrt(max(error[0].numel(), 1))
        return float(torch.linalg.vector_norm(*in_tolerances(error, rtol, atol, sizes, root)))
    return float(norm(in_tolerances(error, rtol, atol, sizes)))
