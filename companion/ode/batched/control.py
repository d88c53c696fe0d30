"""Error norms and step-size control with one number a sample, on the device of the state."""

from __future__ import annotations

import math
from functools import reduce

import torch
from torch import Tensor

from companion.ode.batched.step import number_dtype
from companion.ode.control import PID
from companion.ode.field import Leaves
from companion.ode.method import Method
from companion.ode.norm import of_leaf


class SampleNorms:
    """For every sample the `rms_norm` of its errors in units of their `Allowance`.

    Args:
        method: holds the tolerances.
        y0: leaves of a state, each of shape (B, ...).
    """

    def __init__(self, method: Method, y0: Leaves) -> None:
        #: For every leaf the tolerances, and its shape as a matrix with one row a sample.
        self._leaves = []
        for i, leaf in enumerate(y0):
            count = leaf[0].numel()
            # The division by sqrt(n) goes into the tolerances, where it costs no operation.
            root = math.sqrt(max(count, 1))
            # Numbers become tensors, so that one operation takes both.
            rtol, atol = (
                torch.as_tensor(
                    of_leaf(tolerance, i) * root, dtype=number_dtype(leaf), device=leaf.device
                )
                for tolerance in (method.rtol, method.atol)
            )
            self._leaves.append((rtol, atol, (len(leaf), count)))

    def __call__(self, errors: Leaves, magnitudes: Leaves) -> Tensor:
        """The norms, shape (B,).

        Args:
            errors: leaves of shape (B, ...), of half-precision states in float32.
            magnitudes: absolute values of the state's entries.
        """
        norms = []
        for error, size, leaf in zip(errors, magnitudes, self._leaves, strict=True):
            rtol, atol, shape = leaf
            scaled = error / torch.addcmul(atol, rtol, size.to(rtol.dtype))
            norms.append(torch.linalg.vector_norm(scaled.reshape(shape), dim=1))
        return reduce(torch.maximum, norms)


#: A smaller error counts as this one, as in `PID.judge`.
LEAST_RATIO = 1e-10


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
        #: Only integral control, which needs no history.
        self._integral = p == d == 0
        self._largest = control.max_factor
        if self._integral:
            # Instead of a least error: an operation less.
            most = control.safety * LEAST_RATIO ** self._exponents[0]
            self._largest = min(self._largest, most)
        #: Errors of the last two accepted steps; None before the first step.
        self._history: tuple[Tensor, Tensor] | None = None

    def judge(self, ratio: Tensor) -> tuple[Tensor, Tensor]:
        """Accept or reject, and by what factor to change the step sizes.

        Args:
            ratio: the errors in units of the tolerance, shape (B,); a NaN counts as infinite.
        """
        accepted = ratio <= 1
        if self._integral:
            factor = ratio.pow(self._exponents[0]).mul_(self.control.safety)
            # At least 1 after an accepted step; a NaN becomes 0, and then the least factor.
            factor = torch.fmax(factor, accepted)
        else:
            factor = self._with_history(ratio.clamp(min=LEAST_RATIO), accepted)
        return accepted, factor.clamp_(self.control.min_factor, self._largest)

    def _with_history(self, ratio: Tensor, accepted: Tensor) -> Tensor:
        last, before = self._history or (torch.ones_like(ratio), torch.ones_like(ratio))
        self._history = torch.where(accepted, ratio, last), torch.where(accepted, last, before)
        now, one, two = self._exponents
        factor = ratio.pow(now).mul_(self.control.safety).mul_(last.pow(one)).mul_(before.pow(two))
        # After a rejection the step must shrink, whatever the history says.
        shrunk = factor.nan_to_num(nan=0.0).clamp_(max=self.control.safety)
        return torch.where(accepted, factor, shrunk)
