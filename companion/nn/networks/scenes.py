"""A small network that says which digits are in a scene of 64 x 64 pixels."""

from __future__ import annotations

from collections import OrderedDict

from companion.nn.layers import (
    BatchNorm2d,
    Conv2d,
    GlobalAvgPool2d,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
)


def scene_classifier() -> Sequential:
    """A network for the scenes of :func:`companion.data.scenes`, with a logit for each digit.

    Four convolutions, each with batch normalisation and ReLU, make 32 maps of 16 x 16 places that
    see 27 pixels each way, as much as a digit has; then come global average pooling and one dense
    layer.  So for every class the map of Grad-CAM adds up to the logit less its bias.  There are
    16 366 parameters, with random values.

    Several digits are in a scene: a class is taken to be there if its logit is positive, and the
    loss to train with is ``torch.nn.BCEWithLogitsLoss()`` (``examples/train_scenes.py`` does).

    Returns:
        ``features``, ``pool`` and ``classifier``, one after the other, which make logits (N, 10) of
        images (N, 1, 64, 64).
    """
    features = Sequential(
        *_convolution(1, 12, kernel=5, stride=2),
        *_convolution(12, 16),
        MaxPool2d(2),
        *_convolution(16, 32),
        *_convolution(32, 32),
    )
    parts = {"features": features, "pool": GlobalAvgPool2d(), "classifier": Linear(32, 10)}
    return Sequential(OrderedDict(parts))


def _convolution(
    channels: int, width: int, kernel: int = 3, stride: int = 1
) -> tuple[Conv2d, BatchNorm2d, ReLU]:
    # No bias: the normalisation would subtract it again.
    convolution = Conv2d(channels, width, kernel, stride=stride, padding=kernel // 2, bias=False)
    return convolution, BatchNorm2d(width), ReLU()
