"""Watching a solve step by step: callbacks and the progress bar."""

from __future__ import annotations

import math

from tqdm import tqdm

from companion.ode.field import Leaves


class Observer:
    """Is told about every step; the methods do nothing unless overridden.

    All get the time and the state at the beginning of the step, and its size, which is negative
    when time runs backwards.
    """

    def tried(self, t: float, y: Leaves, h: float) -> None:
        """A step is about to be computed."""

    def accepted(self, t: float, y: Leaves, h: float) -> None:
        """The step was accepted."""

    def rejected(self, t: float, y: Leaves, h: float) -> None:
        """The step was thrown away."""

    def finished(self) -> None:
        """The solve has ended, with a solution or with an error."""


class ProgressBar(Observer):
    """A tqdm bar over the span of time; over the steps where the span has no end.

    Args:
        t0, t1: first and last time; the last may be infinite.
    """

    def __init__(self, t0: float, t1: float) -> None:
        self._bounded = math.isfinite(t1)
        self._span = abs(t1 - t0)
        if self._bounded:
            form = "{l_bar}{bar}| t = {postfix} [{elapsed}<{remaining}]"
            self._bar = tqdm(total=1.0, desc="solve", bar_format=form, postfix=f"{t0:.4g}")
        else:
            self._bar = tqdm(desc="solve", unit=" steps")

    def accepted(self, t: float, y: Leaves, h: float) -> None:
        if self._bounded:
            self._bar.postfix = f"{t + h:.4g}"
            # Rounding must not carry the bar past its end.
            self._bar.update(min(abs(h) / self._span, 1.0 - self._bar.n))
        else:
            self._bar.update(1)

    def finished(self) -> None:
        self._bar.close()
