"""Does the score depend on what the heatmap shows?  Measured by changing the image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Probability = Callable[[Tensor], Tensor]
"""From images, shape ``(N, channels, H, W)``, to the explained class's probability, ``(N,)``."""


def deletion(
    probability: Probability,
    images: Tensor,
    heatmaps: Tensor,
    *,
    baseline: Tensor | None = None,
    steps: int = 20,
) -> Tensor:
    """The area under the probability while the brightest pixels vanish; small is good.

    Pixels are ranked by the heatmap at the image's resolution, ties in reading order; at share
    t = 0, 1/steps, ..., 1 of them the brightest are replaced by the baseline; the area is the
    trapezoidal rule's (Petsiuk, Das and Saenko, 2018, "RISE").

    Args:
        probability: The model, to the probability of the class that the heatmap explains.
        images: Shape ``(N, channels, H, W)``.
        heatmaps: Shape ``(N, H, W)``.
        baseline: What replaces a pixel, broadcastable to the images; zeros by default.
        steps: Number of steps.

    Returns:
        Shape ``(N,)``.
    """
    empty = _baseline(images, baseline)
    return _area(probability, images, empty, heatmaps, steps)


def insertion(
    probability: Probability,
    images: Tensor,
    heatmaps: Tensor,
    *,
    baseline: Tensor | None = None,
    steps: int = 20,
) -> Tensor:
    """The area under the probability while the brightest pixels appear; large is good.

    As :func:`deletion`, from the baseline to the image.
    """
    empty = _baseline(images, baseline)
    return _area(probability, empty, images, heatmaps, steps)


def average_drop(probability: Probability, images: Tensor, heatmaps: Tensor) -> Tensor:
    """The share of the probability that is lost when the image is dimmed by its heatmap.

    ``max(0, p - p') / p`` with ``p'`` the probability for the image times its heatmap, in [0, 1]
    (Chattopadhay et al., 2018).

    Returns:
        Values in [0, 1], shape ``(N,)``; 0 where p is.
    """
    with torch.no_grad():
        before = probability(images)
        after = probability(images * heatmaps[:, None])
    none = before == 0
    drop = (before - after).clamp(min=0) / torch.where(none, torch.ones_like(before), before)
    return torch.where(none, torch.zeros_like(drop), drop)


def _baseline(images: Tensor, baseline: Tensor | None) -> Tensor:
    return torch.zeros_like(images) if baseline is None else baseline.expand_as(images)


def _area(
    probability: Probability, start: Tensor, end: Tensor, heatmaps: Tensor, steps: int
) -> Tensor:
    if heatmaps.shape != (len(start), *start.shape[-2:]):
        raise ValueError(
            f"heatmaps: expected shape {(len(start), *start.shape[-2:])}, got "
            f"{tuple(heatmaps.shape)}"
        )
    if steps < 1:
        raise ValueError(f"steps: expected a positive number, got {steps}")
    order = heatmaps.flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1).reshape(heatmaps.shape)
    pixels = rank[0].numel()
    with torch.no_grad():
        curve = torch.stack(
            [
                probability(torch.where((rank < pixels * k // steps)[:, None], end, start))
                for k in range(steps + 1)
            ]
        )
    return torch.trapezoid(curve, dx=1 / steps, dim=0)
