"""States against depth: a residual network's polygons on the flow that they approximate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from matplotlib.artist import Artist
from torch import Tensor

from companion.figures.style import COLORS
from companion.ode import FixedStep
from companion.solve import solve

Field = Callable[[Tensor, Tensor], Tensor]


def draw_flow(
    ax: Any,
    f: Field,
    starts: Tensor,
    *,
    depth: float = 1.0,
    width: tuple[float, float] | None = None,
    density: int = 19,
) -> None:
    r"""A flow of one state: short strokes along :math:`(f(t, z), 1)`, and its exact curves.

    The state is on the horizontal axis and depth runs upwards, as in Figure 1 of Chen et al.,
    *Neural Ordinary Differential Equations*, 2018.

    Args:
        ax: Matplotlib axes.
        f: the field :math:`dz/dt = f(t, z)`, for a 0-dim time and a batch of states of shape (N,).
        starts: the states at depth 0 from which the curves begin, shape (N,), floating point.
        depth: where the curves end.
        width: range of the states on the axis; by default a little more than the curves need.
        density: strokes along each side.
    """
    times = torch.linspace(0, depth, 101, dtype=torch.float64)
    with torch.no_grad():
        curves = solve(f, starts, times, rtol=1e-8, atol=1e-10).y.cpu().numpy()
    if width is None:
        margin = 0.1 * np.ptp(curves)
        width = (curves.min() - margin, curves.max() + margin)
    _draw_strokes(ax, f, starts, depth, width, density)
    heights = np.broadcast_to(times.numpy()[:, None], curves.shape)
    ax.plot(*map(_one_line, (curves, heights)), color=COLORS["data"], lw=1)
    ax.set(xlim=width, ylim=(-0.02 * depth, 1.02 * depth), xlabel="state $z$", ylabel="depth $t$")
    ax.grid(False)


def draw_layers(
    ax: Any, f: Field, starts: Tensor, layers: int, *, depth: float = 1.0
) -> list[Artist]:
    r"""A residual network that takes the flow in ``layers`` steps, with a dot at each evaluation.

    Layer k maps z to :math:`z + h f(kh, z)` with :math:`h = \text{depth} / \text{layers}`, which is
    a step of Euler's method.

    Args:
        ax: Matplotlib axes, on which :func:`draw_flow` has drawn the field.
        f, starts, depth: as for :func:`draw_flow`.
        layers: how many; at least 1.

    Returns:
        What was drawn: one frame of a :func:`companion.figures.slider`.

    Raises:
        ValueError: ``layers`` is less than 1.
    """
    if layers < 1:
        raise ValueError(f"layers is {layers}; a network needs at least 1")
    depths = torch.linspace(0, depth, layers + 1, dtype=torch.float64)
    with torch.no_grad():
        states = solve(f, starts, depths, method="euler", control=FixedStep(depth / layers)).y
    states = states.cpu().numpy()
    heights = np.broadcast_to(depths.numpy()[:, None], states.shape)
    dots = {"ms": 4, "color": COLORS["adjoint"], "zorder": 4}
    return [
        *ax.plot(*map(_one_line, (states, heights)), color=COLORS["state"], zorder=3),
        *ax.plot(states[:-1].ravel(), heights[:-1].ravel(), "o", **dots),
    ]


def _draw_strokes(
    ax: Any, f: Field, like: Tensor, depth: float, width: tuple[float, float], density: int
) -> None:
    """The directions of the field, on a grid, all of one length on a square drawing."""
    states = torch.linspace(*width, density, dtype=like.dtype, device=like.device)
    levels = torch.linspace(0, depth, density, dtype=torch.float64)
    with torch.no_grad():
        slopes = torch.stack([f(t.to(like), states) for t in levels]).cpu().numpy()
    across, up = (width[1] - width[0]) / density, depth / density
    length = 0.7 / np.hypot(slopes / across, 1 / up)
    z, t = np.broadcast_arrays(states.cpu().numpy(), levels.numpy()[:, None])
    strokes = np.stack([z - length * slopes / 2, z + length * slopes / 2]).reshape(2, -1)
    heights = np.stack([t - length / 2, t + length / 2]).reshape(2, -1)
    ax.plot(*map(_one_line, (strokes, heights)), color=COLORS["field"], alpha=0.7, lw=0.8)


def _one_line(columns: np.ndarray) -> np.ndarray:
    """Columns one after the other, with a gap after each where the pen is lifted."""
    return np.pad(columns, ((0, 1), (0, 0)), constant_values=np.nan).ravel(order="F")
