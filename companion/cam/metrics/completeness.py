"""Does the map add up to the score?"""

from __future__ import annotations

import torch
from torch import Tensor


def completeness_defect(maps: Tensor, scores: Tensor, biases: Tensor | float = 0.0) -> Tensor:
    r"""How far the map's sum is from the score that it explains, in units of the score.

    :math:`|\sum_{ij} M_{ij} - (y - b)| / |y - b|`.  It is zero for HiResCAM if the head is affine
    in the layer's output, with b its value at zero, and for Grad-CAM if moreover the gradient is
    constant in space (global average pooling and one linear layer).

    Args:
        maps: Raw maps, shape ``(N, h, w)``.
        scores: :math:`y`, shape ``(N,)``.
        biases: :math:`b`, what the head gives for an output of zeros; broadcastable to ``(N,)``.

    Returns:
        Shape ``(N,)``; infinite where :math:`y = b` and the map's sum is not zero.
    """
    if maps.ndim != 3 or scores.shape != (len(maps),):
        raise ValueError(
            f"scores: expected shape ({len(maps)},) for maps of shape (N, h, w), got "
            f"{tuple(scores.shape)} for {tuple(maps.shape)}"
        )
    explained = scores - torch.as_tensor(biases, dtype=scores.dtype, device=scores.device)
    defect = (maps.sum(dim=(1, 2)) - explained).abs()
    return torch.where(defect == 0, torch.zeros_like(defect), defect / explained.abs())
