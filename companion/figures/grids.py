"""Images as tables of numbers, and which of their pixels a convolution reads."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from matplotlib.patches import Rectangle

from companion.figures.style import COLORS
from companion.nn.sizes import output_size

Place = tuple[int, int]


def draw_grid(
    ax: Any,
    values: Sequence[Sequence[object]],
    at: tuple[float, float] = (0.0, 0.0),
    color: str = COLORS["state"],
    marked: Collection[Place] = (),
) -> None:
    """A table of squares with a number in each, as a small image or a kernel is written down.

    A square has side 1; rows run downwards, so the axes are turned upside down.

    Args:
        ax: Matplotlib axes; they lose their frame.
        values: rows of what is written, nested sequences or a tensor's ``tolist()``; an empty
            string leaves a square empty.
        at: the upper left corner, to the right and down.
        color: of the marked squares and of all outlines.
        marked: rows and columns of the squares that are coloured.
    """
    left, top = at
    for i, row in enumerate(values):
        for j, entry in enumerate(row):
            face = color if (i, j) in marked else "none"
            ax.add_patch(Rectangle((left + j, top + i), 1, 1, fc=face, ec="none", alpha=0.3))
            ax.add_patch(Rectangle((left + j, top + i), 1, 1, fc="none", ec=color, lw=1))
            ax.text(left + j + 0.5, top + i + 0.5, str(entry), ha="center", va="center")
    ax.autoscale_view()
    ax.set_aspect("equal")
    ax.yaxis.set_inverted(True)
    ax.axis("off")


def window(corner: Place, kernel: Place, dilation: int = 1) -> set[Place]:
    """Rows and columns that a kernel reads, if its first entry lies on ``corner``.

    >>> sorted(window((1, 0), (1, 3), dilation=2))
    [(1, 0), (1, 2), (1, 4)]
    """
    (top, left), (rows, columns) = corner, kernel
    return {(top + dilation * a, left + dilation * b) for a in range(rows) for b in range(columns)}


def draw_taps(
    ax: Any,
    n: int,
    kernel: int,
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
    dilation: int = 1,
) -> None:
    """Which inputs each output of a convolution reads, along one axis.

    Inputs are squares at 0, 1, ..., n - 1, zeros of the padding are open squares beside them.
    Each output is a dot above the middle of its window, joined to all that it reads.

    Args:
        ax: Matplotlib axes; they lose their frame.
        n, kernel, stride, padding, dilation: as in :func:`companion.nn.output_size`, the padding
            as zeros before and after.
    """
    before, after = padding
    middles = []
    for i in range(output_size(n, kernel, stride, padding, dilation)):
        read = [stride * i - before + dilation * a for a in range(kernel)]
        middles.append((read[0] + read[-1]) / 2)
        for place in read:
            ax.plot([place, middles[-1]], [0, 1], color=COLORS["field"], lw=0.9, zorder=1)
    zeros = [*range(-before, 0), *range(n, n + after)]
    ax.scatter(range(n), [0] * n, marker="s", s=40, c=COLORS["state"])
    ax.scatter(
        zeros, [0] * len(zeros), marker="s", s=40, facecolors="white", edgecolors=COLORS["state"]
    )
    ax.scatter(middles, [1] * len(middles), s=40, c=COLORS["adjoint"])
    ax.set(xlim=(-before - 0.6, n + after - 0.4), ylim=(-0.3, 1.3))
    ax.axis("off")
