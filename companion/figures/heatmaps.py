"""A photograph, and beside it the same photograph under a heatmap."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from companion.cam import overlay
from companion.figures.style import WIDTH


def draw_image(axes: Any, image: Tensor, title: str = "") -> None:
    """An image without axes.

    Args:
        axes: Matplotlib's axes.
        image: ``(3, H, W)`` or, grey, ``(1, H, W)`` or ``(H, W)``; uint8, or values in [0, 1].
        title: Above it.
    """
    picture = image.detach().cpu()
    grey = picture.ndim == 2 or picture.shape[0] == 1
    if grey:
        white = 255 if picture.dtype == torch.uint8 else 1  # else Matplotlib stretches the greys
        axes.imshow(
            picture.reshape(picture.shape[-2:]).numpy(),
            cmap="gray",
            vmin=0,
            vmax=white,
            interpolation="nearest",
        )
    else:
        axes.imshow(picture.movedim(0, -1).numpy(), interpolation="nearest")
    axes.set_title(title)
    axes.set_axis_off()


def draw_explanation(
    image: Tensor, heatmap: Tensor, title: str, *, cmap: str = "inferno", opacity: float = 0.5
) -> Any:
    """The image, and the heatmap over the image.

    Args:
        image: ``(3, H, W)``, uint8 or values in [0, 1].
        heatmap: Values in [0, 1], shape ``(H, W)``.
        title: Above the second picture.
        cmap: A colormap of Matplotlib.
        opacity: Share of the heatmap's colours, in [0, 1].

    Returns:
        Matplotlib's figure.
    """
    drawing, (left, right) = plt.subplots(
        1, 2, figsize=(WIDTH, WIDTH / 2 + 0.6), layout="constrained"
    )
    draw_image(left, image, "Original image")
    draw_image(right, overlay(image, heatmap, cmap=cmap, opacity=opacity), title)
    return drawing
