r"""Step-size control: from the size of an error to the size of the next step.

Control runs on the host with Python floats; it costs one read-back from the device a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from itertools import pairwise
from numbers import Real

History = tuple[float, float]

#: What a controller remembers before the first step.
START: History = (1.0, 1.0)


def require_number(name: str, value: object) -> None:
    """Raise TypeError unless ``value`` is a real number (and not a bool)."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")


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
        require_number("FixedStep: size", self.size)
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
class FixedGrid:
    """Steps from each of the given times to the next; what is asked for in between is interpolated.

    Args:
        times: where steps begin and end, strictly monotone, from the initial time to the last.
        interpolation: "linear", or "cubic" (the Hermite polynomial, one order better but one
            more evaluation of f a step), or "method" for the method's own dense output.
        one_sided: evaluate f strictly inside every step, so that a jump of f at a grid point is
            seen from the step's side only.

    Raises:
        TypeError, ValueError: if a time is no finite number, if the times are not monotone, or
            if the interpolation is unknown.
    """

    times: tuple[float, ...]
    interpolation: str = "method"
    one_sided: bool = False

    def __post_init__(self) -> None:
        for time in self.times:
            require_number("FixedGrid: times", time)
        if not all(map(math.isfinite, self.times)):
            raise ValueError("FixedGrid: all times must be finite")
        steps = [b - a for a, b in pairwise(self.times)]
        if not self.times or not (all(h > 0 for h in steps) or all(h < 0 for h in steps)):
            raise ValueError(
                "FixedGrid: times must be strictly increasing or strictly decreasing, from the "
                f"initial time to the last, got {self.times[:4]}..."
            )
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"unknown interpolation {self.interpolation!r}: choose one of "
                f"{', '.join(INTERPOLATIONS)}"
            )


#: What `FixedGrid` can interpolate by.
INTERPOLATIONS = ("linear", "cubic", "method")


@dataclass(frozen=True)
class PID:
    r"""Proportional-integral-derivative control; the default is I control.

    With r the error of a step in units of the tolerance, a step is accepted if
    :math:`r_n \le 1`, and the next is the present one times

    .. math:: s\, r_n^{-(p+i+d)/k}\; r_{n-1}^{(p+2d)/k}\; r_{n-2}^{-d/k}, \qquad k = \hat p + 1,

    with the order :math:`\hat p` of the embedded method, clipped to
    [``min_factor``, ``max_factor``], and at least 1 after an accepted step when only the
    integral term is used (Soderlind, *Numerical Algorithms* 31 (2002) 281; Hairer and Wanner,
    *Solving ODEs II*, IV.2).  (p, i, d) = (0, 1, 0) is the classical controller; `PRESETS` holds
    the field's named ones.

    Args:
        pcoeff, icoeff, dcoeff: p, i and d above.
        safety: s above.
        min_factor, max_factor: the least and the largest change of the step size.
        min_step: no step is made smaller than this, unless an output or stop time cuts it short;
            a step of this size is accepted whatever its error.
        max_step: no step is larger.

    Raises:
        TypeError, ValueError: if an argument is no number, if the sum of the coefficients is not
            positive, or unless 0 < safety <= 1, 0 < min_factor < 1 < max_factor and
            0 <= min_step <= max_step with max_step > 0.
    """

    pcoeff: float = 0.0
    icoeff: float = 1.0
    dcoeff: float = 0.0
    safety: float = 0.9
    min_factor: float = 0.2
    max_factor: float = 10.0
    min_step: float = 0.0
    max_step: float = math.inf

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            require_number(f"PID: {field.name}", value)
            if not math.isfinite(value) and field.name != "max_step":
                raise ValueError(f"PID: {field.name} must be finite, got {value}")
        if not (0 <= self.min_step <= self.max_step and self.max_step > 0):
            raise ValueError(
                "PID: expected 0 <= min_step <= max_step and max_step > 0, got "
                f"{self.min_step} and {self.max_step}"
            )
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


#: The field's named controllers (Soderlind, *ACM Trans. Math. Software* 29 (2003) 1, table II;
#: Gustafsson, *ACM Trans. Math. Software* 17 (1991) 533 for the first PI controller).
PRESETS: dict[str, PID] = {
    "I": PID(),
    "PI3040": PID(pcoeff=0.4, icoeff=0.3),
    "PI3333": PID(pcoeff=1 / 3, icoeff=1 / 3),
    "PI4020": PID(pcoeff=0.2, icoeff=0.4),
    "H211PI": PID(pcoeff=-1 / 6, icoeff=1 / 3),
    "H312PID": PID(pcoeff=-2 / 9, icoeff=2 / 9, dcoeff=1 / 18),
}
