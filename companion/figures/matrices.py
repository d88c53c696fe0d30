"""The matrix of a convolution, coloured by which weight stands where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb

from companion.figures.style import COLORS

#: One colour for each row of the kernel, in turn.
_HUES = tuple(COLORS[name] for name in ("state", "adjoint", "model"))
_PALEST = 0.3


def weight_color(row: int, column: int, columns: int) -> tuple[float, float, float]:
    """The colour of a weight: a hue for its row of the kernel, paler from column to column."""
    strength = 1 - (1 - _PALEST) * column / max(columns - 1, 1)
    return tuple(1 - strength * (1 - part) for part in to_rgb(_HUES[row % len(_HUES)]))


def draw_matrix(
    ax: Any,
    entries: Sequence[Sequence[int]],
    columns: int,
    block: tuple[int, int],
) -> None:
    """A sparse matrix of which each entry is one of the weights of a kernel, or zero.

    Args:
        ax: Matplotlib axes.
        entries: rows of integers: 0 where the matrix is zero (white), else the number of the
            weight, counted from 1 along the rows of the kernel.
        columns: number of columns of the kernel.
        block: rows and columns of the blocks, between which lines are drawn.
    """
    numbers = np.asarray(entries)
    colors = np.ones((*numbers.shape, 3))
    for number in range(1, numbers.max() + 1):
        row, column = divmod(number - 1, columns)
        colors[numbers == number] = weight_color(row, column, columns)
    ax.imshow(colors, interpolation="nearest")
    rows, wide = numbers.shape
    for line, size, step in ((ax.axhline, rows, block[0]), (ax.axvline, wide, block[1])):
        for place in range(step, size, step):
            line(place - 0.5, color=COLORS["field"], lw=0.6)
    ax.grid(False)
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(visible=True, color=COLORS["field"])
