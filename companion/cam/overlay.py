"""A heatmap in colour, over the image."""

from __future__ import annotations

import torch
from torch import Tensor

from companion.cam.images import superimpose


def colour(heatmap: Tensor, cmap: str = "inferno") -> Tensor:
    """Values in [0, 1] as colours.

    The default is perceptually uniform and readable by the colour-blind: equal steps of the
    heatmap look equal.  Matplotlib's other maps go by their names.

    Args:
        heatmap: Values in [0, 1], shape ``(..., H, W)``.
        cmap: A colormap of Matplotlib.

    Returns:
        Colours in [0, 1], shape ``(..., 3, H, W)``, float32.

    Raises:
        ValueError: A value outside [0, 1] (or NaN), or an unknown colormap.
    """
    import matplotlib

    if cmap not in matplotlib.colormaps:
        raise ValueError(f"cmap: Matplotlib has no colormap named {cmap!r}")
    values = heatmap.detach().float().cpu()
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise ValueError(
            f"heatmap: expected values in [0, 1], got {values.min():.3g} to {values.max():.3g}; "
            "companion.cam.normalise divides a map by its largest value"
        )
    colours = torch.from_numpy(matplotlib.colormaps[cmap](values.numpy())[..., :3]).float()
    return colours.movedim(-1, -3).to(heatmap.device)


def overlay(
    image: Tensor, heatmap: Tensor, *, cmap: str = "inferno", opacity: float = 0.5
) -> Tensor:
    """The heatmap's colours over the image: a convex combination, so pictures can be compared.

    Args:
        image: ``uint8``, or floating point in [0, 1]; shape ``(..., 3, H, W)`` or, grey,
            ``(..., 1, H, W)``.
        heatmap: Values in [0, 1], shape ``(..., H, W)``, as of :meth:`CAM.heatmap`.
        cmap: A colormap of Matplotlib.
        opacity: Share of the colours, in [0, 1].

    Returns:
        Values in [0, 1], shape ``(..., 3, H, W)``, float32.

    Raises:
        ValueError: Image and heatmap differ in size, or values lie outside their range.
    """
    if image.shape[-2:] != heatmap.shape[-2:]:
        raise ValueError(
            f"heatmap: its size {tuple(heatmap.shape[-2:])} is not the image's "
            f"{tuple(image.shape[-2:])}; companion.cam.upsample enlarges it"
        )
    if image.ndim < 3 or image.shape[-3] not in (1, 3):
        raise ValueError(f"image: expected 1 or 3 channels, got shape {tuple(image.shape)}")
    picture = image.float() / 255 if image.dtype == torch.uint8 else image.float()
    if not bool(((picture >= 0) & (picture <= 1)).all()):
        raise ValueError(
            f"image: expected uint8 or values in [0, 1], got {picture.min():.3g} to "
            f"{picture.max():.3g}; give the image as it was before it was standardised"
        )
    return superimpose(picture, colour(heatmap, cmap), opacity)
