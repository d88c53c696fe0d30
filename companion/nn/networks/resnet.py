"""Residual networks for small images: the ResNet-20 family of He et al."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import pad

from companion.nn.layers import (
    BatchNorm2d,
    Conv2d,
    GlobalAvgPool2d,
    Linear,
    ReLU,
    Sequential,
)
from companion.nn.networks.initial import he_normal

#: Channels of the three stages.
WIDTHS = (16, 32, 64)


class Shortcut(nn.Module):
    """The identity where shapes agree, and what stands in for it where they do not.

    Every second pixel is taken in both directions, and the new channels are zero: option A of the
    paper, which has no parameters, so that all paths through the network are of one kind.

    Args:
        new_channels: how many channels of zeros to append.
        stride: distance between the pixels that are kept.
    """

    def __init__(self, new_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels = new_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1 and self.new_channels == 0:
            return x
        kept = x[..., :: self.stride, :: self.stride]
        return pad(kept, (0, 0, 0, 0, 0, self.new_channels))

    def extra_repr(self) -> str:
        return f"new_channels={self.new_channels}, stride={self.stride}"


class ResidualBlock(nn.Module):
    """y = relu(x + r(x)), where r is two 3x3 convolutions with batch normalisation."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.residual = Sequential(
            Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
            BatchNorm2d(out_channels),
            ReLU(),
            Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            BatchNorm2d(out_channels),
        )
        self.shortcut = Shortcut(out_channels - in_channels, stride)
        self.activation = ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.shortcut(x) + self.residual(x))


class ResNet(nn.Module):
    """The network; see :func:`resnet`."""

    def __init__(self, depth: int, channels: int, classes: int) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(
                "resnet: depth must be 6n + 2 (three stages of n blocks of two convolutions, the "
                f"first convolution and the dense layer), such as 20, 32, 44 or 56, got {depth}"
            )
        self.stem = Sequential(
            Conv2d(channels, WIDTHS[0], 3, padding=1, bias=False), BatchNorm2d(WIDTHS[0]), ReLU()
        )
        self.stages = Sequential(
            *(
                _stage(before, width, blocks=(depth - 2) // 6)
                for before, width in zip((WIDTHS[0], *WIDTHS), WIDTHS, strict=False)
            )
        )
        self.pool = GlobalAvgPool2d()
        self.classifier = Linear(WIDTHS[-1], classes)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of images ``(N, channels, H, W)`` of any size."""
        return self.classifier(self.pool(self.stages(self.stem(x))))


def _stage(in_channels: int, out_channels: int, blocks: int) -> Sequential:
    """The first block halves height and width where it widens; the others keep the shape."""
    stride = 1 if in_channels == out_channels else 2
    first = ResidualBlock(in_channels, out_channels, stride)
    return Sequential(
        first, *(ResidualBlock(out_channels, out_channels, 1) for _ in range(blocks - 1))
    )


def resnet(depth: int, channels: int = 3, classes: int = 10) -> ResNet:
    """A residual network for images of 32x32 or 28x28 pixels, with random weights.

    Three stages of n = (depth - 2) / 6 blocks with 16, 32 and 64 channels, on maps of the image's
    size, a half and a quarter of it (rounded up), then global average pooling and one dense layer.
    The shortcuts are option A of the paper.  ResNet-20 has 269 722 parameters for three channels
    and ten classes.

    Source: He, Zhang, Ren, Sun, *Deep residual learning for image recognition*, CVPR 2016,
    section 4.2.

    Args:
        depth: layers with weights, 6n + 2.
        channels: 3 for colour, 1 for grey images.
        classes: number of logits.

    Raises:
        ValueError: the depth is not 6n + 2 with a positive n.
    """
    return ResNet(depth, channels, classes)


def resnet20(channels: int = 3, classes: int = 10) -> ResNet:
    """:func:`resnet` of depth 20."""
    return resnet(20, channels, classes)


def resnet32(channels: int = 3, classes: int = 10) -> ResNet:
    """:func:`resnet` of depth 32."""
    return resnet(32, channels, classes)


def resnet44(channels: int = 3, classes: int = 10) -> ResNet:
    """:func:`resnet` of depth 44."""
    return resnet(44, channels, classes)


def resnet56(channels: int = 3, classes: int = 10) -> ResNet:
    """:func:`resnet` of depth 56."""
    return resnet(56, channels, classes)
