"""From a raw map to a picture, one step to a function.

The order is the reader's to choose and matters: ReLU before upsampling is never smaller than ReLU
after it (bilinear upsampling takes convex combinations, and ReLU is convex).  The overlays of
this package take ReLU first, then upsample, then divide by the maximum.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def normalise(maps: Tensor) -> Tensor:
    """Each map divided by its largest absolute value; a map of zeros stays a map of zeros.

    Zero stays zero and signs stay, so that "no evidence" looks the same in every map.  There is
    no epsilon: the result does not depend on the scale of the scores.

    Args:
        maps: Shape ``(..., h, w)``.

    Returns:
        Values in [0, 1] for maps without negative values, else in [-1, 1]; same shape and dtype.

    Raises:
        ValueError: A value is infinite or not a number.
    """
    largest = maps.abs().amax(dim=(-2, -1), keepdim=True)
    if not bool(largest.isfinite().all()):
        raise ValueError("maps: a value is infinite or not a number")
    return maps / torch.where(largest > 0, largest, torch.ones_like(largest))


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear interpolation between the centres of the map's cells.

    Args:
        maps: Shape ``(..., h, w)``.
        size: Height and width wanted.

    Returns:
        Maps of shape ``(..., *size)``.  Each value is a convex combination of at most four values
        of the map, so its range is kept.
    """
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    large = F.interpolate(flat, size=size, mode="bilinear", align_corners=False)
    # The weights add up to one but for rounding.
    low, high = flat.amin(dim=(2, 3), keepdim=True), flat.amax(dim=(2, 3), keepdim=True)
    return large.clamp(low, high).reshape(*maps.shape[:-2], *size)


def superimpose(image: Tensor, colours: Tensor, opacity: float = 0.5) -> Tensor:
    """The convex combination ``(1 - opacity) * image + opacity * colours``; nothing is rescaled.

    Args:
        image: Values in [0, 1], shape ``(..., 3, H, W)``.
        colours: The same.
        opacity: In [0, 1].

    Raises:
        ValueError: ``opacity`` lies outside [0, 1].
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity: expected a number in [0, 1], got {opacity}")
    return (1 - opacity) * image + opacity * colours
