"""What can go wrong in a solve: one exception a cause, each with a cure in its message."""

from __future__ import annotations


class SolverError(RuntimeError):
    """A solve could not be finished.

    Attributes:
        t: the time at which the solver stopped.
        h: the step size it tried last, negative when time runs backwards; 0 where no step of its
            own is to blame.
        steps: the number of steps tried so far, accepted and rejected.
    """

    def __init__(self, message: str, *, t: float, h: float, steps: int) -> None:
        super().__init__(f"{message} (t = {t:.6g}, h = {h:.3g}, after {steps} steps)")
        self.t = t
        self.h = h
        self.steps = steps


class StepSizeUnderflow(SolverError):
    """The step size that the tolerance asks for is below the resolution of t."""


class TooManySteps(SolverError):
    """``max_steps`` steps did not reach the last time."""


class NonFiniteState(SolverError):
    """The state, or the value of f, became infinite or NaN."""


class NotConverged(SolverError):
    """The equations of an implicit step could not be solved."""


class GrazingEvent(SolverError):
    """The condition of an event touches zero: its time has no derivative."""
