"""Error norms and step-size control with one number a sample, on the device of the state."""

from __future__ import annotations

import math
from functools import reduce

import torch
from torch import Tensor

from companion.ode.control import PID
from companion.ode.field import Leaves
from companion.ode.method import Method
from companion.ode.norm import in_tolerances, of_leaf


def sample_norms(errors: Leaves, sizes: Leaves, method: Method) -> Tensor:
    """For every sample the `rms_norm` of its errors in units of the tolerances, shape (B,).

    Args:
        errors: leaves of shape (B, ...).
        sizes: the magnitudes of the state, see `in_tolerances`.
        method: holds the tolerances.
    """
    norms = []
    for i, (error, size) in enumerate(zip(errors, sizes, strict=True)):
        rtol, atol = of_leaf(method.rtol, i), of_leaf(method.atol, i)
        count = error[0].numel()
        # The division by sqrt(n) goes into the tolerances, where it costs no operation.
        root = math.sqrt(max(count, 1))
        (scaled,) = in_tolerances([error], rtol, atol, [size], root)
        norms.append(torch.linalg.vector_norm(scaled.reshape(len(error), count), dim=1))
    return reduce(torch.maximum, norms)


class BatchedPID:
    """`PID.judge` for every sample, each with its history.

    Args:
        control: the coefficients.
        order: order of the error estimate.
    """

    def __init__(self, control: PID, order: int) -> None:
        self.control = control
        p, i, d = (x / (order + 1) for x in (control.pcoeff, control.icoeff, control.dcoeff))
        self._exponents = -(p + i + d), p + 2 * d, -d
        self._integral = p == d == 0
        #: Errors of the last two accepted steps; None before the first step.
        self._history: tuple[Tensor, Tensor] | None = None

    def judge(self, ratio: Tensor) -> tuple[Tensor, Tensor]:
        """Accept or reject, and by what factor to change the step sizes.

        Args:
            ratio: the errors in units of the tolerance, shape (B,); a NaN counts as infinite.
        """
        control = self.control
        ratio = ratio.clamp(min=1e-10)
        accepted = ratio <= 1
        factor = ratio.pow(self._exponents[0]).mul_(control.safety)
        if self._integral:
            # At least 1 after an accepted step; a NaN becomes 0, and then the least factor.
            factor = torch.fmax(factor, accepted)
        else:
            factor = self._with_history(factor, ratio, accepted)
        return accepted, factor.clamp_(control.min_factor, control.max_factor)

    def _with_history(self, factor: Tensor, ratio: Tensor, accepted: Tensor) -> Tensor:
        last, before = self._history or (torch.ones_like(ratio), torch.ones_like(ratio))
        self._history = torch.where(accepted, ratio, last), torch.where(accepted, last, before)
        _, one, two = self._exponents
        factor = factor.mul_(last.pow(one)).mul_(before.pow(two))
        # After a rejection the step must shrink, whatever the history says.
        shrunk = factor.nan_to_num(nan=0.0).clamp_(max=self.control.safety)
        return torch.where(accepted, factor, shrunk)
