"""Flows in the plane."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from companion.figures.style import COLORS


def draw_field(
    ax: Any,
    f: Callable[[Tensor, Tensor], Tensor],
    *,
    t: float = 0.0,
    x: tuple[float, float] = (-2.0, 2.0),
    y: tuple[float, float] = (-2.0, 2.0),
    density: int = 17,
) -> None:
    """The directions of a planar vector field on a grid, all arrows of one length.

    Args:
        ax: Matplotlib axes.
        f: ``f(t, z)`` for a batch of states of shape (N, 2).
        t: the time at which to draw it.
        x, y: ranges of the plane.
        density: arrows along each side.
    """
    grid = torch.meshgrid(
        torch.linspace(*x, density, dtype=torch.float64),
        torch.linspace(*y, density, dtype=torch.float64),
        indexing="xy",
    )
    points = torch.stack([axis.flatten() for axis in grid], dim=1)
    with torch.no_grad():
        arrows = f(torch.tensor(t, dtype=torch.float64), points)
    arrows = arrows / arrows.norm(dim=1, keepdim=True).clamp_min(1e-12)
    ax.quiver(*points.T, *arrows.T, color=COLORS["field"], alpha=0.6, width=0.003, scale=32)
    ax.set(xlim=x, ylim=y, aspect="equal", xlabel="$z_1$", ylabel="$z_2$")


def draw_trajectories(ax: Any, states: Tensor, color: str = COLORS["state"], **kwargs: Any) -> None:
    """Curves in the plane with a dot where each begins.

    Args:
        ax: Matplotlib axes.
        states: shape (T, 2) for one curve or (T, N, 2) for N of them, on any device.
        color: of curves and dots.
        kwargs: for ``ax.plot``; a label names the first curve only.
    """
    curves = states.detach().cpu().reshape(states.shape[0], -1, 2)
    label = kwargs.pop("label", None)
    for i in range(curves.shape[1]):
        ax.plot(*curves[:, i].T, color=color, label=label if i == 0 else None, **kwargs)
    ax.scatter(*curves[0].T, color=color, s=14, zorder=3)


def draw_arrows(
    ax: Any, points: Tensor, arrows: Tensor, color: str = COLORS["adjoint"], scale: float = 1.0
) -> None:
    """Arrows attached to points of the plane, such as adjoints to states.

    Args:
        ax: Matplotlib axes.
        points, arrows: shape (N, 2), on any device.
        color: of the arrows.
        scale: length in the plane of an arrow of length 1.
    """
    points, arrows = points.detach().cpu(), arrows.detach().cpu() * scale
    ax.quiver(
        *points.T, *arrows.T, color=color, angles="xy", scale_units="xy", scale=1, width=0.006
    )
