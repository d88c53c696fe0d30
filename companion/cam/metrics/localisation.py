"""Does a heatmap point at the object?  Measured against its box.

A heatmap has shape ``(N, H, W)`` and no negative, infinite or undefined values.  A box is four
integers ``(left, top, right, bottom)``, half-open: ``image[..., top:bottom, left:right]`` is what
it holds.  Every function returns one value to an image, so that means, intervals and tests are the
caller's.
"""

from __future__ import annotations

import torch
from torch import Tensor


def inside(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The boxes as masks.

    Args:
        boxes: Integers, shape ``(N, 4)``.
        size: Height and width of the image.

    Returns:
        Boolean, shape ``(N, *size)``.

    Raises:
        ValueError: A box that is empty or leaves the image, or ``boxes`` is not of that shape.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.is_floating_point():
        raise ValueError(
            f"boxes: expected integers of shape (N, 4), got {boxes.dtype} of shape "
            f"{tuple(boxes.shape)}"
        )
    height, width = size
    left, top, right, bottom = boxes.unbind(-1)
    fits = (top >= 0) & (top < bottom) & (bottom <= height)
    fits &= (left >= 0) & (left < right) & (right <= width)
    if not bool(fits.all()):
        wrong = boxes[~fits][0].tolist()
        raise ValueError(
            f"boxes: {wrong} is not a box (left, top, right, bottom) within {height} x {width}"
        )
    rows = torch.arange(height, device=boxes.device)
    columns = torch.arange(width, device=boxes.device)
    within_rows = (rows >= top[:, None]) & (rows < bottom[:, None])
    within_columns = (columns >= left[:, None]) & (columns < right[:, None])
    return within_rows[:, :, None] & within_columns[:, None, :]


def pointing_game(heatmaps: Tensor, boxes: Tensor) -> Tensor:
    """Whether the heatmap's maximum lies in the box (Zhang et al., 2016, without a margin).

    Of several maxima the first in reading order counts.  A heatmap of zeros points nowhere: a
    miss.  A point drawn at random hits with probability ``area(box) / (H W)``.

    Returns:
        Boolean, shape ``(N,)``.
    """
    masks, maps = _pair(heatmaps, boxes)
    flat = maps.flatten(1)
    hit = masks.flatten(1).gather(1, flat.argmax(dim=1, keepdim=True))[:, 0]
    return hit & (flat.amax(dim=1) > 0)


def energy(heatmaps: Tensor, boxes: Tensor) -> Tensor:
    r"""The share of the heatmap within the box (the energy-based pointing game of Score-CAM).

    :math:`\sum_{B} L / \sum L`, and 0 for a heatmap of zeros.  With another object's box it is
    what leaks there.  A uniform heatmap has ``area(box) / (H W)``.

    Returns:
        Values in [0, 1], shape ``(N,)``; float64 for such heatmaps, else float32.
    """
    masks, maps = _pair(heatmaps, boxes)
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))  # half would overflow
    total = maps.sum(dim=(1, 2))
    share = (maps * masks).sum(dim=(1, 2)) / torch.where(total > 0, total, torch.ones_like(total))
    return torch.where(total > 0, share, torch.zeros_like(share))


def intersection_over_union(heatmaps: Tensor, boxes: Tensor, threshold: float = 0.5) -> Tensor:
    r"""How well the bright part fills the box: :math:`|P \cap B| / |P \cup B|`.

    :math:`P = \{L > \tau \max L\}`; a heatmap of zeros has none.

    Args:
        heatmaps: Shape ``(N, H, W)``.
        boxes: Shape ``(N, 4)``.
        threshold: :math:`\tau` in [0, 1).

    Returns:
        Values in [0, 1], shape ``(N,)``.
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold: expected a number in [0, 1), got {threshold}")
    masks, maps = _pair(heatmaps, boxes)
    bright = maps > threshold * maps.amax(dim=(1, 2), keepdim=True)
    both = (bright & masks).sum(dim=(1, 2))
    either = (bright | masks).sum(dim=(1, 2))
    return both / either


def _pair(heatmaps: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    if heatmaps.ndim != 3:
        raise ValueError(f"heatmaps: expected shape (N, H, W), got {tuple(heatmaps.shape)}")
    masks = inside(boxes, tuple(heatmaps.shape[-2:]))
    if len(boxes) != len(heatmaps):
        raise ValueError(f"boxes: got {len(boxes)} for {len(heatmaps)} heatmaps")
    if not bool(((heatmaps >= 0) & heatmaps.isfinite()).all()):
        raise ValueError("heatmaps: expected no negative values, no infinity and no NaN")
    return masks, heatmaps
