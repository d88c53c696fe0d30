"""VGG16 and VGG19 of Simonyan and Zisserman, with and without batch normalisation."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torch import Tensor, nn

from companion.nn.layers import (
    AdaptiveAvgPool2d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
)
from companion.nn.networks.initial import he_normal
from companion.nn.pretrained.preprocess import IMAGENET
from companion.nn.pretrained.weights import Download, pretrained, require_imagenet_classes

#: Channels of the five stages.  Each stage ends in a max-pooling that halves height and width.
WIDTHS = (64, 128, 256, 512, 512)
#: How many 3x3 convolutions each stage has, for every depth (layers with weights, 3 of them dense).
CONVOLUTIONS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}

_HOST = "https://download.pytorch.org/models"
#: torchvision's official files, by depth and batch normalisation.
OFFICIAL = {
    (16, False): Download(f"{_HOST}/vgg16-397923af.pth"),
    (16, True): Download(f"{_HOST}/vgg16_bn-6c64b313.pth"),
    (19, False): Download(f"{_HOST}/vgg19-dcbb9e9d.pth"),
    (19, True): Download(f"{_HOST}/vgg19_bn-c79401a0.pth"),
}


class VGG(nn.Module):
    """The network; its state_dict has torchvision's keys and shapes.

    ``features`` are the convolutions, ``avgpool`` makes their maps 7x7 whatever the size of the
    image, ``classifier`` has the three dense layers.  The ReLUs are not in place, so that a hook on
    a convolution keeps seeing what the convolution computed.

    Source: Simonyan, Zisserman, *Very deep convolutional networks for large-scale image
    recognition*, ICLR 2015, table 1, columns D and E.

    Args:
        depth: 16 or 19.
        batch_norm: whether each convolution is followed by batch normalisation.
        classes: number of logits.
    """

    def __init__(self, depth: int, *, batch_norm: bool = False, classes: int = 1000) -> None:
        super().__init__()
        self.features = _features(CONVOLUTIONS[depth], batch_norm)
        self.avgpool = AdaptiveAvgPool2d((7, 7))
        self.flatten = Flatten()
        self.classifier = Sequential(
            Linear(WIDTHS[-1] * 7 * 7, 4096),
            ReLU(),
            Dropout(),
            Linear(4096, 4096),
            ReLU(),
            Dropout(),
            Linear(4096, classes),
        )
        self.preprocess = IMAGENET
        he_normal(self.features)
        for layer in self.classifier:
            if isinstance(layer, Linear):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of images ``(N, 3, H, W)``, H and W at least 32."""
        return self.classifier(self.flatten(self.avgpool(self.features(x))))


def _features(convolutions: tuple[int, ...], batch_norm: bool) -> Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for width, count in zip(WIDTHS, convolutions, strict=True):
        for _ in range(count):
            layers.append(Conv2d(channels, width, kernel_size=3, padding=1))
            if batch_norm:
                layers.append(BatchNorm2d(width))
            layers.append(ReLU())
            channels = width
        layers.append(MaxPool2d(kernel_size=2, stride=2))
    return Sequential(*layers)


def _vgg(depth: int, weights: str | Path | None, batch_norm: bool, classes: int) -> VGG:
    build = partial(VGG, depth, batch_norm=batch_norm, classes=classes)
    if weights is None:
        return build()
    if weights == "imagenet":
        require_imagenet_classes(f"vgg{depth}", classes, last="model.classifier[6]", features=4096)
    return pretrained(build, weights, OFFICIAL[depth, batch_norm])


def vgg16(
    weights: str | Path | None = None, *, batch_norm: bool = False, classes: int = 1000
) -> VGG:
    """VGG16: 13 convolutions of 3x3 and 3 dense layers, 138 357 544 parameters.

    Args:
        weights: None for random ones, ``"imagenet"`` for torchvision's (a file of 528 MB, see
            ``companion.nn.pretrained.weights``), or the path of a file with a state_dict.
        batch_norm: whether each convolution is followed by batch normalisation.
        classes: number of logits.

    Returns:
        The network, in training mode; call ``.eval()`` before you ask it for classes.

    Raises:
        WeightsError: the weights cannot be had, or are another network's.
        ValueError: ImageNet's weights and another number of classes.
    """
    return _vgg(16, weights, batch_norm, classes)


def vgg19(
    weights: str | Path | None = None, *, batch_norm: bool = False, classes: int = 1000
) -> VGG:
    """VGG19: 16 convolutions of 3x3 and 3 dense layers, 143 667 240 parameters.

    Args:
        weights: None for random ones, ``"imagenet"`` for torchvision's (a file of 548 MB, see
            ``companion.nn.pretrained.weights``), or the path of a file with a state_dict.
        batch_norm: whether each convolution is followed by batch normalisation.
        classes: number of logits.

    Returns:
        The network, in training mode; call ``.eval()`` before you ask it for classes.

    Raises:
        WeightsError: the weights cannot be had, or are another network's.
        ValueError: ImageNet's weights and another number of classes.
    """
    return _vgg(19, weights, batch_norm, classes)
