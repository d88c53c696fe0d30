r"""Step-size control: from the size of an error to the size of the next step.

Control runs on the host with Python floats; it costs one read-back from the device a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Real

History = tuple[float, float]

#: What a controller remembers before the first step.
START: History = (1.0, 1.0)


@dataclass(frozen=True)
class FixedStep:
    """Steps of one size between two output times, without error control.

    Every interval between output times is divided into the least number of equal steps that
    are not larger than ``size``, so that each output time is the end of a step.

    Args:
        size: largest step, positive.  The default takes one step an interval.

    Raises:
        TypeError, ValueError: if ``size`` is not a positive number.
    """

    size: float = math.inf

    def __post_init__(self) -> None:
        require_number("size", self.size)
        if not self.size > 0:
            raise ValueError(f"FixedStep: size must be positive, got {self.size}")

    def count(self, interval: float) -> int:
        """Number of steps for an interval; rounding does not add a step of size 1e-17.

        Raises:
            ValueError: if there are more than 1e15.
        """
        steps = abs(interval) / self.size * (1 - 1e-12)
        if not steps < 1e15:
            raise ValueError(
                f"FixedStep: an interval of {abs(interval):g} has too many steps of size "
                f"{self.size:g}: choose a larger size"
            )
        return max(1, math.ceil(steps))


@dataclass(frozen=True)
class PID:
    r"""Proportional-integral-derivative control; the default is I control.

    With r the error of a step in units of the tolerance, a step is accepted if
    :math:`r_n \le 1`, and the next is the present one times

    .. math:: s\, r_n^{-(p+i+d)/k}\; r_{n-1}^{(p+2d)/k}\; r_{n-2}^{-d/k}, \qquad k = \hat p + 1,

    with the order :math:`\hat p` of the embedded method, clipped to
    [``min_factor``, ``max_factor``], and at least 1 after an accepted step when only the
    integral term is used (Soderlind, *Numerical Algorithms* 31 (2002) 281; Hairer and Wanner,
    *Solving ODEs II*, IV.2).  (p, i, d) = (0, 1, 0) is the classical controller;
    (0.4, 0.3, 0) is a PI controller that rejects fewer steps on mildly stiff problems.

    Args:
        pcoeff, icoeff, dcoeff: p, i and d above.
        safety: s above.
        min_factor, max_factor: the least and the largest change of the step size.

    Raises:
        TypeError, ValueError: if a coefficient is no finite number, if all three are zero, or
            unless 0 < safety <= 1 and 0 < min_factor < 1 < max_factor.
    """

    pcoeff: float = 0.0
    icoeff: float = 1.0
    dcoeff: float = 0.0
    safety: float = 0.9
    min_factor: float = 0.2
    max_factor: float = 10.0

    def __post_init__(self) -> None:
        for field in fields(self):
            require_number(field.name, getattr(self, field.name))
            if not math.isfinite(getattr(self, field.name)):
                raise ValueError(f"PID: {field.name} must be finite")
        if self.pcoeff + self.icoeff + self.dcoeff <= 0:
            raise ValueError("PID: pcoeff + icoeff + dcoeff must be positive")
        if not 0 < self.safety <= 1:
            raise ValueError(f"PID: safety must lie in (0, 1], got {self.safety}")
        if not 0 < self.min_factor < 1 < self.max_factor:
            raise ValueError(
                "PID: expected 0 < min_factor < 1 < max_factor, got "
                f"{self.min_factor} and {self.max_factor}"
            )

    def judge(self, ratio: float, order: int, history: History) -> tuple[bool, float, History]:
        """Accept or reject, and by what factor to change the step size.

        Args:
            ratio: the error in units of the tolerance; a NaN counts as infinite.
            order: order of the embedded method.
            history: what the last call returned, `START` before the first.

        Returns:
            (accepted, factor, history for the next call).
        """
        if not math.isfinite(ratio):
            return False, self.min_factor, history
        # A step without any error would make the power below infinite.
        ratio = max(ratio, 1e-10)
        last, before = history
        k = order + 1
        p, i, d = self.pcoeff, self.icoeff, self.dcoeff
        factor = self.safety * ratio ** (-(p + i + d) / k)
        factor *= last ** ((p + 2 * d) / k) * before ** (-d / k)
        accepted = ratio <= 1
        least = 1.0 if accepted and p == d == 0 else self.min_factor
        # After a rejection the step must shrink, whatever the history says.
        most = self.max_factor if accepted else self.safety
        factor = min(max(factor, least), most)
        return accepted, factor, (ratio, last) if accepted else history


def require_number(name: str, value: object) -> None:
    """Raise TypeError unless ``value`` is a real number (and not a bool)."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
