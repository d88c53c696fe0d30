"""The convolution layer."""

from __future__ import annotations

from numbers import Integral

import torch
import torch.nn.functional as F
from torch import Tensor

from companion.nn.choice import is_explicit
from companion.nn.functional.convolution import conv2d
from companion.nn.layers.checks import require_image
from companion.nn.sizes import Pair, output_shape, paddings


class Conv2d(torch.nn.Conv2d):
    r"""Convolution: :class:`torch.nn.Conv2d`, explicitly :func:`companion.nn.functional.conv2d`.

    Shapes: (N, C, H, W) -> (N, F, H', W'), or without N; H' and W' are those of
    :func:`companion.nn.sizes.output_shape`.

    Args:
        in_channels: C, the number of channels of the images.
        out_channels: F, the number of filters.
        kernel_size: Height and width of the kernel, or one number for both.
        stride: One number, or one for each axis; likewise ``dilation``.
        padding: Zeros on both sides of each axis, a number or one for each axis; ``"valid"`` for
            none; or ``"same"`` for an output of size :math:`\lceil n/s \rceil`, which torch allows
            with stride 1 only.  As in Keras and TensorFlow, the odd one of these zeros comes after
            the image (:func:`companion.nn.sizes.same_padding`).
        dilation: Distance between the pixels that neighbouring weights meet.
        groups: Number of groups of channels that do not see each other; ``in_channels`` for a
            depthwise convolution.
        bias: Whether each filter has a bias.
        padding_mode: ``"zeros"``, ``"reflect"``, ``"replicate"`` or ``"circular"``.
        device: Where the weights are.
        dtype: Of the weights.

    Raises:
        TypeError: An argument is not an integer; on a call, the images are not of floating point,
            or not of the weights' dtype.
        ValueError: An argument is out of range; on a call, the images have another number of
            channels, or are smaller than the kernel.

    Example:
        >>> layer = Conv2d(3, 10, 5)
        >>> tuple(layer(torch.rand(1, 3, 200, 200)).shape)
        (1, 10, 196, 196)
        >>> sum(p.numel() for p in layer.parameters())
        760
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair | str = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check_numbers(in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
        same = padding == "same"
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            1 if same else stride,  # torch refuses "same" with another; it goes in below
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        if same:
            self.stride = (stride, stride) if isinstance(stride, Integral) else tuple(stride)

    def forward(self, input: Tensor) -> Tensor:
        # An input that fits pays for no check: what was refused is explained afterwards.
        try:
            if is_explicit():
                return self._by_the_book(input)
            if self.padding == "same" and not self._is_same_in_torch():
                return self._same(input)
            return self._conv_forward(input, self.weight, self.bias)  # torch's forward, inlined
        except Exception:
            self._check_input(input)
            raise

    def _by_the_book(self, x: Tensor) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            x, padding = self._padded(x), 0
        return conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def _is_same_in_torch(self) -> bool:
        """Whether torch pads by "same" without ado: it refuses a stride, and warns of the copy that
        it takes to put more zeros after the image than before."""
        (k1, k2), (d1, d2) = self.kernel_size, self.dilation
        return self.stride == (1, 1) and d1 * (k1 - 1) % 2 == 0 and d2 * (k2 - 1) % 2 == 0

    def _same(self, x: Tensor) -> Tensor:
        x = self._padded(x)
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)

    def _padded(self, x: Tensor) -> Tensor:
        size = tuple(x.shape[-2:])
        rows, columns = paddings(size, self.kernel_size, self.stride, self.padding, self.dilation)
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return F.pad(x, (*columns, *rows), mode)

    def _check_input(self, x: Tensor) -> None:
        """Raise an error that says why this input does not fit, if that is the reason."""
        require_image(self, x, self.in_channels, self.weight.dtype)
        try:
            output_shape(
                tuple(x.shape[-2:]), self.kernel_size, self.stride, self.padding, self.dilation
            )
        except ValueError as error:
            raise ValueError(f"{self}: {error} (input of shape {tuple(x.shape)})") from None


def _check_numbers(
    in_channels: int,
    out_channels: int,
    kernel_size: int | Pair,
    stride: int | Pair,
    padding: int | Pair | str,
    dilation: int | Pair,
    groups: int,
) -> None:
    """Raise an error that names the argument of a layer that no image would fit."""
    _check("in_channels", in_channels, least=1, pairs=False)
    _check("out_channels", out_channels, least=1, pairs=False)
    _check("kernel_size", kernel_size, least=1)
    _check("stride", stride, least=1)
    _check("dilation", dilation, least=1)
    _check("groups", groups, least=1, pairs=False)
    if not isinstance(padding, str):
        _check("padding", padding, least=0)
    for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
        if channels % groups:
            raise ValueError(
                f"Conv2d: groups is {groups}, expected a divisor of {name}, {channels}"
            )


def _check(name: str, value: int | Pair, least: int, pairs: bool = True) -> None:
    is_pair = pairs and isinstance(value, (tuple, list))
    numbers = value if is_pair else (value,)
    expected = f"an integer of at least {least}" + (" or a pair of them" if pairs else "")
    message = f"Conv2d: {name} is {value!r}, expected {expected}"
    if not all(isinstance(n, Integral) and not isinstance(n, bool) for n in numbers):
        raise TypeError(message)
    if (is_pair and len(numbers) != 2) or min(numbers) < least:
        raise ValueError(message)
