"""What a convolutional network looks at: banks of filters and feature maps, and its mistakes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.colors import LinearSegmentedColormap
from torch import Tensor

from companion.figures.style import COLORS

#: Blue below zero, white at zero, orange above.
SIGNED = LinearSegmentedColormap.from_list(
    "signed", [COLORS["state"], "white", COLORS["adjoint"]]
).with_extremes(bad="white")

#: Ink on paper: white at zero, dark above.
INK = LinearSegmentedColormap.from_list("ink", ["white", "black"]).with_extremes(bad="white")


def tile(images: Tensor, columns: int | None = None) -> Tensor:
    """Images side by side in one, row after row, with a gap of one pixel between neighbours.

    Args:
        images: shape (N, h, w).
        columns: images in a row; by default as many as make the whole nearly square.

    Returns:
        One image of shape ``(rows * (h + 1) - 1, columns * (w + 1) - 1)``, on the CPU; what no
        image covers is NaN.

    Raises:
        ValueError: There is no image, or the shape is another.
    """
    if images.ndim != 3 or not len(images):
        raise ValueError(
            f"images has shape {tuple(images.shape)}; expected (N, h, w) with N >= 1: one channel "
            "each, say weight[:, 0] of a first layer or maps[0] of a batch"
        )
    images = images.detach().cpu()
    count, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    whole = images.new_full((rows * (height + 1), columns * (width + 1)), math.nan)
    for position, image in enumerate(images):
        top, left = position // columns * (height + 1), position % columns * (width + 1)
        whole[top : top + height, left : left + width] = image
    return whole[:-1, :-1]


def draw_bank(ax: Any, images: Tensor, columns: int | None = None) -> Any:
    """A bank of images on one colour scale, so that they can be compared with one another.

    Filters, with numbers of both signs, are blue below zero, white at zero and orange above;
    images and feature maps without negative numbers are ink on paper.

    Args:
        ax: Matplotlib axes.
        images: shape (N, h, w), floating point, on any device.
        columns: images in a row; by default as many as make the whole nearly square.

    Returns:
        The Matplotlib image, for a colour bar.
    """
    images = images.detach()
    most = float(images.abs().max()) or 1.0
    signed = bool((images < 0).any())
    drawn = ax.imshow(
        tile(images, columns).numpy(),
        cmap=SIGNED if signed else INK,
        vmin=-most if signed else 0.0,
        vmax=most,
        interpolation="nearest",
    )
    ax.set_axis_off()
    return drawn


def draw_confusion(ax: Any, counts: Tensor, names: Sequence[str] | None = None) -> None:
    """How often an example of one class (row) was taken for another (column).

    The mistakes are coloured, and each square with an entry shows its number.  The diagonal has
    numbers only: it is so much larger that it would drown the rest.

    Args:
        ax: Matplotlib axes.
        counts: shape (K, K), integers: ``counts[i, j]`` examples of class i were taken for j.
        names: of the classes; by default 0, 1, ...
    """
    counts = counts.detach().cpu()
    names = [str(k) for k in range(len(counts))] if names is None else names
    mistakes = counts - torch.diag(counts.diagonal())
    most = max(int(mistakes.max()), 1)
    cmap = LinearSegmentedColormap.from_list("mistakes", ["white", COLORS["adjoint"]])
    ax.imshow(mistakes.numpy(), cmap=cmap, vmin=0, vmax=most)
    for i, row in enumerate(counts.tolist()):
        for j, count in enumerate(row):
            if count:
                color = COLORS["field"] if i == j else "black"
                ax.text(j, i, str(count), ha="center", va="center", color=color, size="small")
    ax.set(xlabel="answer", ylabel="truth")
    ax.set_xticks(range(len(names)), names)
    ax.set_yticks(range(len(names)), names)
    ax.grid(False)
