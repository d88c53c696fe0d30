"""The layers: each is a subclass of ``torch.nn``'s layer of the same name, and drop-in for it.

Those of networks that are flows, `TimeConv2d`, `Residual` and `Augment`, have no namesake there.
"""

from companion.nn.layers.activation import ReLU, ReLU6
from companion.nn.layers.augment import Augment
from companion.nn.layers.conv import Conv2d
from companion.nn.layers.dropout import Dropout
from companion.nn.layers.flatten import Flatten
from companion.nn.layers.linear import Linear
from companion.nn.layers.loss import CrossEntropyLoss
from companion.nn.layers.norm import BatchNorm2d
from companion.nn.layers.pool import AdaptiveAvgPool2d, AvgPool2d, GlobalAvgPool2d, MaxPool2d
from companion.nn.layers.residual import Residual
from companion.nn.layers.sequential import Sequential
from companion.nn.layers.time_conv import TimeConv2d

__all__ = [
    "AdaptiveAvgPool2d",
    "Augment",
    "AvgPool2d",
    "BatchNorm2d",
    "Conv2d",
    "CrossEntropyLoss",
    "Dropout",
    "Flatten",
    "GlobalAvgPool2d",
    "Linear",
    "MaxPool2d",
    "ReLU",
    "ReLU6",
    "Residual",
    "Sequential",
    "TimeConv2d",
]
