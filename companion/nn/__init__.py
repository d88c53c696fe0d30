"""Convolutional networks: layers that are drop-in for ``torch.nn``, and the book's algorithms.

Every layer calls the same kernel as its namesake in ``torch.nn``, or, within :func:`explicit`, the
algorithm that the book derives, with its derived backward pass.
"""

from companion.nn import functional
from companion.nn.choice import explicit, is_explicit
from companion.nn.layers import (
    AdaptiveAvgPool2d,
    Augment,
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    CrossEntropyLoss,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    Linear,
    MaxPool2d,
    ReLU,
    ReLU6,
    Residual,
    Sequential,
    TimeConv2d,
)
from companion.nn.networks import (
    NETWORKS,
    ConvField,
    ODENet,
    digit_classifier,
    efficientnet_lite0,
    residual_net,
    resnet,
    resnet20,
    resnet32,
    resnet44,
    resnet56,
    scene_classifier,
    vgg16,
    vgg19,
)
from companion.nn.ode_block import ODEBlock
from companion.nn.pretrained.imagenet import Prediction, imagenet_classes, top
from companion.nn.pretrained.preprocess import Preprocess
from companion.nn.pretrained.weights import WeightsError
from companion.nn.sizes import (
    multiply_adds,
    output_shape,
    output_size,
    parameter_count,
    receptive_field,
    same_padding,
)
from companion.nn.summary import Summary, summary
from companion.nn.train import History, accuracy, fit

__all__ = [
    "NETWORKS",
    "AdaptiveAvgPool2d",
    "Augment",
    "AvgPool2d",
    "BatchNorm2d",
    "Conv2d",
    "ConvField",
    "CrossEntropyLoss",
    "Dropout",
    "Flatten",
    "GlobalAvgPool2d",
    "History",
    "Linear",
    "MaxPool2d",
    "ODEBlock",
    "ODENet",
    "Prediction",
    "Preprocess",
    "ReLU",
    "ReLU6",
    "Residual",
    "Sequential",
    "Summary",
    "TimeConv2d",
    "WeightsError",
    "accuracy",
    "digit_classifier",
    "efficientnet_lite0",
    "explicit",
    "fit",
    "functional",
    "imagenet_classes",
    "is_explicit",
    "multiply_adds",
    "output_shape",
    "output_size",
    "parameter_count",
    "receptive_field",
    "residual_net",
    "resnet",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "same_padding",
    "scene_classifier",
    "summary",
    "top",
    "vgg16",
    "vgg19",
]
