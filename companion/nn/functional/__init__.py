"""The algorithms that the book derives, as functions: forward passes with their backward passes.

The names and arguments are those of ``torch.nn.functional``, as far as they have a namesake there.
The layers of :mod:`companion.nn` run these within :func:`companion.nn.explicit`.  All are for real
numbers, and raise a TypeError for complex ones.
"""

from companion.nn.functional.activation import relu, relu6
from companion.nn.functional.batch_norm import batch_norm
from companion.nn.functional.convolution import conv2d, conv2d_input, conv2d_weight
from companion.nn.functional.cross_entropy import cross_entropy
from companion.nn.functional.dropout import dropout
from companion.nn.functional.fourier import fourier_conv2d
from companion.nn.functional.linear import linear
from companion.nn.functional.pooling import (
    adaptive_avg_pool2d,
    avg_pool2d,
    global_avg_pool2d,
    max_pool2d,
)
from companion.nn.functional.winograd import winograd_conv2d

__all__ = [
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "batch_norm",
    "conv2d",
    "conv2d_input",
    "conv2d_weight",
    "cross_entropy",
    "dropout",
    "fourier_conv2d",
    "global_avg_pool2d",
    "linear",
    "max_pool2d",
    "relu",
    "relu6",
    "winograd_conv2d",
]
