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

    Raises:
        ValueError: ``heatmaps`` do not fit the images or hold NaN, ``probability`` does not return
            one number to an image, or ``steps`` is not positive.
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

    ``max(0, p - p') / p`` with ``p'`` the probability for the image times its heatmap
    (Chattopadhay et al., 2018).

    Args:
        probability: As for :func:`deletion`.
        images: Shape ``(N, channels, H, W)``.
        heatmaps: Values in [0, 1], shape ``(N, H, W)``.

    Returns:
        Values in [0, 1], shape ``(N,)``; 0 where p is.

    Raises:
        ValueError: As for :func:`deletion`, or a heatmap leaves [0, 1].
    """
    _require_heatmaps(heatmaps, images)
    if not bool(((heatmaps >= 0) & (heatmaps <= 1)).all()):
        raise ValueError("heatmaps: expected values in [0, 1]; companion.cam.normalise them")
    before = _one_each(probability, images)
    after = _one_each(probability, images * heatmaps[:, None].to(images.dtype))
    none = before == 0
    drop = (before - after).clamp(min=0) / torch.where(none, torch.ones_like(before), before)
    return torch.where(none, torch.zeros_like(drop), drop)


def _baseline(images: Tensor, baseline: Tensor | None) -> Tensor:
    return torch.zeros_like(images) if baseline is None else baseline.to(images).expand_as(images)


def _area(
    probability: Probability, start: Tensor, end: Tensor, heatmaps: Tensor, steps: int
) -> Tensor:
    _require_heatmaps(heatmaps, start)
    if steps < 1:
        raise ValueError(f"steps: expected a positive number, got {steps}")
    order = heatmaps.flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1).reshape(heatmaps.shape)
    pixels = rank[0].numel()
    curve = torch.stack(
        [
            _one_each(probability, torch.where((rank < pixels * k // steps)[:, None], end, start))
            for k in range(steps + 1)
        ]
    )
    return torch.trapezoid(curve, dx=1 / steps, dim=0)


def _require_heatmaps(heatmaps: Tensor, images: Tensor) -> None:
    expected = (len(images), *images.shape[-2:])
    if heatmaps.shape != expected:
        raise ValueError(f"heatmaps: expected shape {expected}, got {tuple(heatmaps.shape)}")
    if bool(heatmaps.isnan().any()):
        raise ValueError("heatmaps: expected no NaN")


def _one_each(probability: Probability, images: Tensor) -> Tensor:
    with torch.no_grad():
        values = probability(images)
    if values.shape != (len(images),):
        raise ValueError(
            f"probability: expected one value for each of {len(images)} images, got shape "
            f"{tuple(values.shape)}; for example: lambda x: model(x).softmax(1)[:, 3]"
        )
    return values
