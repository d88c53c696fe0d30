"""Networks of continuous depth, and the residual networks that they are the limits of."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

from companion.nn.layers import (
    Augment,
    BatchNorm2d,
    Conv2d,
    GlobalAvgPool2d,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
    TimeConv2d,
)
from companion.nn.layers.checks import require_count
from companion.nn.ode_block import ODEBlock, span

#: Channels of the stem's first two convolutions; the third has the width of the network.
STEM = (8, 16)


class ConvField(nn.Module):
    r"""The vector field :math:`f(t, z) = W_2 * [t, \sigma(W_1 * [t, z])]`, of two 3x3 convolutions
    that know the time.

    The activation is SiLU, :math:`\sigma(x) = x / (1 + e^{-x})`.  It is smooth, so that methods
    have their order, and its slope is bounded, so that the field is Lipschitz with one constant
    everywhere and trajectories exist for all times.

    Shapes: z (N, channels, H, W), and so f(t, z).

    Args:
        channels: Of the state.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = TimeConv2d(channels, channels, 3, padding=1)
        self.activation = nn.SiLU()
        self.conv2 = TimeConv2d(channels, channels, 3, padding=1)

    def forward(self, t: float | Tensor, z: Tensor) -> Tensor:
        return self.conv2(t, self.activation(self.conv1(t, z)))


class ODENet(Sequential):
    r"""A network of continuous depth for small images.

    ``stem``: three 3x3 convolutions, each with batch normalisation and ReLU, and two poolings make
    ``width`` maps of a quarter of the image's size, in which a place sees 14 pixels each way;
    ``block``: an :class:`~companion.nn.ODEBlock` with a
    :class:`ConvField`; ``pool``: global average pooling; ``classifier``: one dense layer.  So a
    logit less its bias is the mean of its class activation map over the places of z(t1).

    Shapes: (N, in_channels, H, W) -> logits (N, classes).

    Args:
        in_channels: 1 for grey images, 3 for colour.
        classes: Number of logits.
        width: Channels of the stem.
        augment: Channels of zeros that the block appends to them.
        **solver: Settings of the :class:`~companion.nn.ODEBlock`, such as ``method="rk4"``,
            ``gradient="backsolve"`` or ``t=(0, 2)``.

    Raises:
        TypeError, ValueError: An argument is not as above.

    Example:
        >>> import torch
        >>> model = ODENet(rtol=1e-2, atol=1e-2)
        >>> tuple(model(torch.rand(2, 1, 28, 28)).shape)
        (2, 10)
    """

    def __init__(
        self,
        in_channels: int = 1,
        classes: int = 10,
        width: int = 24,
        *,
        augment: int = 0,
        **solver: Any,
    ) -> None:
        require_count("augment", augment, least=0)
        block = ODEBlock(ConvField(width + augment), augment=augment, **solver)
        super().__init__(
            OrderedDict(
                stem=_stem(in_channels, width),
                block=block,
                pool=GlobalAvgPool2d(),
                classifier=Linear(width + augment, classes),
            )
        )

    def as_residual_net(self, layers: int) -> Sequential:
        r"""The residual network whose limit this is, with the same weights.

        Its ``block`` has ``layers`` residual layers :math:`z + h f(t_n, z)`,
        :math:`h = (t_1 - t_0) / N`, :math:`t_n = t_0 + n h`, which all have the one field: Euler's
        method.  Modules are shared, not copied, so that both networks are trained when one is.

        Args:
            layers: N, at least 1.

        Raises:
            TypeError, ValueError: ``layers`` is no positive integer, or the block's times are not
                increasing.
        """
        require_count("layers", layers, least=1)
        t0, t1 = span(self.block.t)
        h = (t1 - t0) / layers
        steps = (Residual(self.block.f, t0 + n * h, h) for n in range(layers))
        stem = self.stem
        if self.block.augment:
            stem = Sequential(*stem, Augment(self.block.augment))
        return _network(stem, Sequential(*steps), self.classifier)


def residual_net(
    layers: int, in_channels: int = 1, classes: int = 10, width: int = 24
) -> Sequential:
    r"""The residual network of the width of an :class:`ODENet`, with stem and head like its.

    Its ``block`` has N residual layers :math:`z + h f_n(t_n, z)` with :math:`h = 1/N`,
    :math:`t_n = n/N`, and each a :class:`ConvField` of its own.  So the weights are those of an
    ODE-Net whose field may be another one in each of N parts of the time.

    Shapes: (N, in_channels, H, W) -> logits (N, classes).

    Args:
        layers: N, at least 1.
        in_channels: 1 for grey images, 3 for colour.
        classes: Number of logits.
        width: Channels of the state.

    Raises:
        TypeError, ValueError: ``layers`` is no positive integer.
    """
    require_count("layers", layers, least=1)
    steps = (Residual(ConvField(width), n / layers, 1 / layers) for n in range(layers))
    return _network(_stem(in_channels, width), Sequential(*steps), Linear(width, classes))


def _network(stem: nn.Module, block: nn.Module, classifier: nn.Module) -> Sequential:
    parts = {"stem": stem, "block": block, "pool": GlobalAvgPool2d(), "classifier": classifier}
    return Sequential(OrderedDict(parts))


def _stem(in_channels: int, width: int) -> Sequential:
    return Sequential(
        *_convolution(in_channels, STEM[0]),
        MaxPool2d(2),
        *_convolution(STEM[0], STEM[1]),
        *_convolution(STEM[1], width),
        MaxPool2d(2),
    )


def _convolution(channels: int, width: int) -> tuple[Conv2d, BatchNorm2d, ReLU]:
    # No bias: the normalisation would subtract it again.
    return Conv2d(channels, width, 3, padding=1, bias=False), BatchNorm2d(width), ReLU()
