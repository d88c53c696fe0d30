"""Networks one meets, built of the layers of :mod:`companion.nn`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from companion.nn.networks.digits import digit_classifier
from companion.nn.networks.efficientnet_lite import efficientnet_lite0
from companion.nn.networks.ode_net import ConvField, ODENet, residual_net
from companion.nn.networks.resnet import resnet, resnet20, resnet32, resnet44, resnet56
from companion.nn.networks.scenes import scene_classifier
from companion.nn.networks.vgg import vgg16, vgg19

#: Every network by its name; the value makes one with random weights when called without arguments.
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "vgg16": vgg16,
    "vgg16_bn": partial(vgg16, batch_norm=True),
    "vgg19": vgg19,
    "vgg19_bn": partial(vgg19, batch_norm=True),
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet44": resnet44,
    "resnet56": resnet56,
    "efficientnet_lite0": efficientnet_lite0,
    "digit_classifier": digit_classifier,
    "scene_classifier": scene_classifier,
}

__all__ = [
    "NETWORKS",
    "ConvField",
    "ODENet",
    "digit_classifier",
    "efficientnet_lite0",
    "residual_net",
    "resnet",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "scene_classifier",
    "vgg16",
    "vgg19",
]
