"""Weights found by running the model again, without a gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from companion.cam.images import upsample

# How many changed inputs go through the model at once.
_ROWS = 32

Again = Callable[[Tensor, Tensor | None, Tensor], Tensor]
"""``again(images, activation, image)``: the scores of R inputs, shape ``(R,)``; where
``activation`` is not None the layer puts it out instead of its own; ``image`` says to which of the
N images each row belongs."""


def score_cam(activation: Tensor, images: Tensor, score: Tensor, again: Again) -> Tensor:
    r"""The score that is left when only what a map lights up is shown (Wang et al., 2020).

    :math:`w_k = \mathrm{softmax}_k\, y^c(x \odot \hat A_k)` with :math:`\hat A_k` the map,
    upsampled, then stretched to [0, 1].  A constant map shows nothing.

    Args:
        activation: Shape ``(N, C, h, w)``.
        images: Shape ``(N, channels, H, W)``.
        score: :math:`y^c` of the images, shape ``(N,)``; not needed here.
        again: Runs the model.

    Returns:
        Shape ``(N, C, 1, 1)``.
    """

    def masked(image: Tensor, channel: Tensor) -> Tensor:
        maps = activation[image, channel][:, None]
        masks = _stretched(upsample(maps, tuple(images.shape[-2:]))).to(images.dtype)
        return again(images[image] * masks, None, image)

    scores = _for_each_channel(activation, masked)
    return scores.softmax(dim=1)[:, :, None, None]


def ablation_cam(activation: Tensor, images: Tensor, score: Tensor, again: Again) -> Tensor:
    r"""The share of the score that is lost without a map (Desai and Ramaswamy, 2020).

    :math:`w_k = (y^c - y^c_k) / y^c` with :math:`y^c_k` the score when :math:`A_k` is set to zero;
    zero where the score is.  Arguments and result as for :func:`score_cam`.
    """

    def ablated(image: Tensor, channel: Tensor) -> Tensor:
        changed = activation[image].clone()
        changed[torch.arange(len(image), device=changed.device), channel] = 0
        return again(images[image], changed, image)

    lost = score[:, None] - _for_each_channel(activation, ablated)
    none = score[:, None] == 0
    weights = lost / torch.where(none, torch.ones_like(score[:, None]), score[:, None])
    return torch.where(none, torch.zeros_like(weights), weights)[:, :, None, None]


def _for_each_channel(activation: Tensor, scores: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """``scores(image, channel)`` for all of them, a few rows at a time; shape ``(N, C)``."""
    count, channels = activation.shape[:2]
    rows = torch.arange(count * channels, device=activation.device)
    parts = [scores(part // channels, part % channels) for part in rows.split(_ROWS)]
    return torch.cat(parts).to(activation.dtype).reshape(count, channels)


def _stretched(maps: Tensor) -> Tensor:
    """Each map stretched to [0, 1]; a constant map to zeros."""
    low = maps.amin(dim=(2, 3), keepdim=True)
    range_ = maps.amax(dim=(2, 3), keepdim=True) - low
    return (maps - low) / torch.where(range_ > 0, range_, torch.ones_like(range_))
