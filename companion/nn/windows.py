"""Which windows the layers of torch put on an image."""

from __future__ import annotations

from torch import nn

from companion.nn.sizes import Pair, Window, paddings

# Each value of the output depends on the values at its own place alone, in evaluation mode.
_POINTWISE = (
    nn.Identity, nn.modules.dropout._DropoutNd, nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.LeakyReLU,
    nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh, nn.Softplus,
    nn.Softsign, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.LogSigmoid, nn.Threshold,
)  # fmt: skip


def windows(layer: nn.Module, size: Pair) -> tuple[Window, Window] | None:
    """The windows that a layer puts on an image, vertically and horizontally.

    Args:
        layer: Any module; it is taken to be in evaluation mode.
        size: Height and width of its input.

    Returns:
        A window for each axis, or None for a layer that is not known to look through one.
    """
    if isinstance(layer, _POINTWISE):
        return Window(1), Window(1)
    if isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros":
        return _sliding(size, layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    if isinstance(layer, nn.MaxPool2d):
        return _sliding(size, layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    if isinstance(layer, nn.AvgPool2d):
        return _sliding(size, layer.kernel_size, layer.stride, layer.padding, 1)
    if isinstance(layer, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
        return _adaptive(size, _pair(layer.output_size))
    return None


def _sliding(size: Pair, kernel, stride, padding, dilation) -> tuple[Window, Window]:
    sides = paddings(size, kernel, stride, padding, dilation)
    vertical, horizontal = map(Window, _pair(kernel), _pair(stride), _pair(dilation), sides)
    return vertical, horizontal


def _adaptive(size: Pair, output) -> tuple[Window, Window] | None:
    # The windows of adaptive pooling are of one size only where the output's divides the input's.
    counts = [n if m is None else m for n, m in zip(size, output, strict=True)]
    if any(n % m for n, m in zip(size, counts, strict=True)):
        return None
    vertical, horizontal = (Window(n // m, n // m) for n, m in zip(size, counts, strict=True))
    return vertical, horizontal


def _pair(value) -> tuple:
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)
