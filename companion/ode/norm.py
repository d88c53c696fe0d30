"""The size of an error, in units of what the tolerances allow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from companion.ode.field import Leaves
from companion.ode.read_back import read_back

#: From the leaves of a state to a 0-dim tensor.
Norm = Callable[[Leaves], Tensor]
#: One tolerance for everything, or one a leaf, each a number or a tensor that the leaf's shape
#: can be broadcast with.
Tolerance = float | Sequence[float | Tensor]


def rms_norm(leaves: Leaves) -> Tensor:
    r"""Root mean square :math:`\sqrt{\tfrac1n \sum |x_i|^2}` of a tensor; of several, the largest.

    An empty tensor has norm zero.
    """
    norms = [torch.linalg.vector_norm(leaf) / math.sqrt(max(leaf.numel(), 1)) for leaf in leaves]
    largest = norms[0]
    for norm in norms[1:]:
        largest = torch.maximum(largest, norm.to(largest))
    return largest


class Allowance:
    """What the tolerances allow an error to be at a state: ``atol + rtol * abs(y)``.

    Half-precision states are judged in float32: the quotient of an error and its allowance can
    exceed what they can hold.

    Args:
        rtol, atol: the tolerances.
        y: leaves of a state, for their devices and dtypes.
    """

    def __init__(self, rtol: Tolerance, atol: Tolerance, y: Leaves) -> None:
        #: For every leaf both tolerances as tensors, so that one operation takes both.
        self._tolerances = [
            (_as_tensor(of_leaf(rtol, i), leaf), _as_tensor(of_leaf(atol, i), leaf))
            for i, leaf in enumerate(y)
        ]

    def __call__(self, y: Leaves) -> Leaves:
        """The allowances at a state, constants for any gradient."""
        # Detached one by one: no_grad would cost as much as two operations, in every step.
        allowed = []
        for leaf, (rtol, atol) in zip(y, self._tolerances, strict=True):
            size = (leaf.detach() if leaf.requires_grad else leaf).abs()
            if size.dtype != rtol.dtype:
                size = size.to(rtol.dtype)
            allowed.append(torch.addcmul(atol, rtol, size))
        return allowed


def _as_tensor(tolerance: float | Tensor, leaf: Tensor) -> Tensor:
    dtype = leaf.dtype.to_real()
    if dtype in (torch.float16, torch.bfloat16):
        dtype = torch.float32
    if isinstance(tolerance, Tensor):
        return tolerance.to(dtype=dtype, device=leaf.device)
    return leaf.new_full((), tolerance, dtype=dtype)


def quotients(errors: Leaves, allowed: Leaves) -> Leaves:
    """Errors divided by what is allowed; leaves that nothing is said about are left out."""
    return [error / most for error, most in zip(errors, allowed, strict=False)]


def of_leaf(tolerance: Tolerance, i: int) -> float | Tensor:
    """The tolerance of leaf number i."""
    return tolerance[i] if isinstance(tolerance, Sequence) else tolerance


def error_ratio(norm: Norm, errors: Leaves, allowed: Leaves) -> float:
    """The norm of errors in units of what is allowed, read back: the one wait of a step."""
    scaled = quotients(errors, allowed)
    if norm is rms_norm and len(scaled) == 1:
        # The division by sqrt(n) costs no operation on the host.
        length = torch.linalg.vector_norm(scaled[0])
        return read_back(length) / math.sqrt(max(scaled[0].numel(), 1))
    return read_back(norm(scaled))
