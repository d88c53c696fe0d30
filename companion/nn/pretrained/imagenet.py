"""What the 1000 outputs of a network trained on ImageNet stand for."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import NamedTuple

from torch import Tensor


@cache
def imagenet_classes() -> tuple[str, ...]:
    """The names of the 1000 classes of ImageNet (ILSVRC 2012), in the order of the logits.

    They are torchvision's, no two alike; the source and its licence stand at the head of
    ``imagenet_classes.txt``.

    Example:
        >>> imagenet_classes()[652]
        'military uniform'
    """
    text = (
        resources.files("companion.nn.pretrained")
        .joinpath("imagenet_classes.txt")
        .read_text("utf-8")
    )
    return tuple(line for line in text.splitlines() if not line.startswith("#"))


class Prediction(NamedTuple):
    """One class that a network considers.

    Attributes:
        index: which of the 1000 logits.
        name: its name, see :func:`imagenet_classes`.
        probability: its softmax probability among all classes.
    """

    index: int
    name: str
    probability: float


def top(logits: Tensor, k: int = 5) -> list[Prediction]:
    r"""The k most probable classes of one image, the most probable first.

    Their probabilities are :math:`p_i = e^{y_i} / \sum_j e^{y_j}`, computed in float64.

    Args:
        logits: the network's output y for one image, of shape ``(1000,)`` or ``(1, 1000)``.
        k: how many classes, 1 to 1000.

    Raises:
        TypeError: logits is not a floating-point tensor.
        ValueError: logits has another shape, holds nan or infinity, or holds probabilities
            instead of logits; or k is out of range.

    Example:
        >>> import torch
        >>> top(20 * torch.eye(1000)[652], k=1)  # doctest: +ELLIPSIS
        [Prediction(index=652, name='military uniform', probability=0.999...)]
    """
    names = imagenet_classes()
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        came = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
        raise TypeError(f"top: logits must be a floating-point tensor, got {came}")
    if tuple(logits.shape) not in {(len(names),), (1, len(names))}:
        raise ValueError(_shape_message(logits, len(names)))
    if not 1 <= k <= len(names):
        raise ValueError(f"top: k must be between 1 and {len(names)}, got {k}")
    y = logits.detach().flatten().double()
    if not y.isfinite().all():
        raise ValueError("top: the logits hold nan or infinity; is the network's input finite?")
    if y.min() >= 0 and abs(y.sum() - 1) < 1e-3:
        raise ValueError(
            "top: the logits are non-negative and sum to 1, as probabilities do; "
            "pass the network's output before the softmax"
        )
    best = y.softmax(0).topk(k)
    return [
        Prediction(i, names[i], p)
        for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def _shape_message(logits: Tensor, classes: int) -> str:
    shape = tuple(logits.shape)
    cure = "these names fit networks with ImageNet's classes only"
    if logits.dim() == 2 and shape[1] == classes:
        cure = "several images? Ask for each: [top(row) for row in logits]"
    return f"top: expected logits of shape ({classes},) or (1, {classes}), got {shape}; {cure}"
