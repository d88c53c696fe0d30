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
        self._span = abs(t1 - t0)
        self._bar: tqdm | None = None

    def tried(self, t: float, y: Leaves, h: float) -> None:
        # Not earlier: what fails before the first step would leave an open bar behind.
        if self._bar is not None:
            return
        if math.isfinite(self._span):
            form = "{l_bar}{bar}| {n:.4g} of {total:.4g} [{elapsed}<{remaining}]"
            self._bar = tqdm(total=self._span, desc="solve", bar_format=form)
        else:
            self._bar = tqdm(desc="solve", unit=" steps")

    def accepted(self, t: float, y: Leaves, h: float) -> None:
        if math.isfinite(self._span):
            # Rounding must not carry the bar past its end.
            self._bar.update(min(abs(h), self._span - self._bar.n))
        else:
            self._bar.update(1)

    def finished(self) -> None:
        if self._bar is not None:
            self._bar.close()
