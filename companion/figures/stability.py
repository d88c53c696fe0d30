"""Stability regions in the complex plane."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from companion.figures.style import COLORS


def draw_stability(
    ax: Any,
    function: Callable[[np.ndarray], np.ndarray],
    color: str = COLORS["state"],
    *,
    x: tuple[float, float] = (-5.0, 5.0),
    y: tuple[float, float] = (-5.0, 5.0),
    points: int = 301,
    fill: bool = True,
    label: str | None = None,
) -> None:
    r"""Where a one-step method does not amplify: :math:`|R(w)| \le 1` with its boundary.

    Args:
        ax: Matplotlib axes.
        function: the stability function R, from an array of complex numbers to another, such as
            `companion.ode.stability.stability_function` gives.
        color: of the boundary, and lighter of the region.
        x, y: ranges of the real and of the imaginary part of :math:`w = h \lambda`.
        points: samples along each side.
        fill: whether to colour the region, or to draw its boundary alone.
        label: name of the boundary in a legend.
    """
    real, imaginary = np.meshgrid(np.linspace(*x, points), np.linspace(*y, points))
    size = np.abs(function(real + 1j * imaginary))
    if fill:
        ax.contourf(real, imaginary, size, levels=[0, 1], colors=[color], alpha=0.25)
    ax.contour(real, imaginary, size, levels=[1], colors=[color], linewidths=1.5)
    if label is not None:
        ax.plot([], [], color=color, label=label)
    for line in (ax.axhline, ax.axvline):
        line(0, color=COLORS["data"], lw=0.6)
    ax.set(xlim=x, ylim=y, aspect="equal", xlabel=r"Re $w$", ylabel=r"Im $w$")
