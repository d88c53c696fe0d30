"""Pooling layers."""

from __future__ import annotations

import torch
from torch import Tensor

from companion.nn.choice import is_explicit
from companion.nn.functional.pooling import (
    adaptive_avg_pool2d,
    avg_pool2d,
    global_avg_pool2d,
    max_pool2d,
)
from companion.nn.functional.pooling_windows import check_divisor, check_output_size, check_windows
from companion.nn.layers.checks import require_image


class MaxPool2d(torch.nn.MaxPool2d):
    """Maximum pooling: :class:`torch.nn.MaxPool2d`, explicitly
    :func:`~companion.nn.functional.max_pool2d`.

    Shapes: (N, C, H, W) -> (N, C, H', W'), or without N.  With ``return_indices`` the positions
    of the maxima come along.

    Raises:
        TypeError: the input is not a floating-point tensor.
        ValueError: the input is no image, or the windows do not fit it.
    """

    def forward(self, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        require_image(self, input)
        if self.dilation != 1:  # torch corrupts memory where a window sees no pixel
            self._check_windows(input)
        if is_explicit():
            self._check_windows(input)
            maxima, positions = max_pool2d(
                input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
            )
            return (maxima, positions) if self.return_indices else maxima
        try:
            return super().forward(input)
        except RuntimeError:
            self._check_windows(input)  # says it better, if it was the windows
            raise

    def _check_windows(self, x: Tensor) -> None:
        check_windows(
            self,
            x.shape[-2:],
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
        )


class AvgPool2d(torch.nn.AvgPool2d):
    """Average pooling: :class:`torch.nn.AvgPool2d`, explicitly
    :func:`~companion.nn.functional.avg_pool2d`.

    Shapes: (N, C, H, W) -> (N, C, H', W'), or without N.

    Raises:
        TypeError: the input is not a floating-point tensor.
        ValueError: the input is no image, or the windows do not fit it.
    """

    def forward(self, input: Tensor) -> Tensor:
        require_image(self, input)
        if is_explicit():
            self._check_windows(input)
            return avg_pool2d(
                input,
                self.kernel_size,
                self.stride,
                self.padding,
                self.ceil_mode,
                self.count_include_pad,
                self.divisor_override,
            )
        try:
            return super().forward(input)
        except RuntimeError:
            self._check_windows(input)  # says it better, if it was the windows
            raise

    def _check_windows(self, x: Tensor) -> None:
        check_windows(
            self, x.shape[-2:], self.kernel_size, self.stride, self.padding, 1, self.ceil_mode
        )
        check_divisor(self, self.divisor_override)


class AdaptiveAvgPool2d(torch.nn.AdaptiveAvgPool2d):
    """Average pooling to a given size: :class:`torch.nn.AdaptiveAvgPool2d`.

    Shapes: (N, C, H, W) -> (N, C, H', W'), or without N; (H', W') is ``output_size``.  Explicitly
    it is :func:`~companion.nn.functional.adaptive_avg_pool2d`.

    Raises:
        TypeError: the input is not a floating-point tensor.
        ValueError: the input is no image, or the output size is negative; explicitly, or 0.
    """

    def forward(self, input: Tensor) -> Tensor:
        require_image(self, input)
        if is_explicit():
            check_output_size(self, self.output_size)
            return adaptive_avg_pool2d(input, self.output_size)
        try:
            return super().forward(input)
        except RuntimeError:
            check_output_size(self, self.output_size)  # says it better, if it was that
            raise


class GlobalAvgPool2d(torch.nn.Module):
    """The average of each channel over the whole image, (N, C, H, W) -> (N, C), or without N.

    It joins the convolutions to a linear layer whatever the size of the image is; Keras calls it
    ``GlobalAveragePooling2D``.

    Raises:
        TypeError: the input is not a floating-point tensor.
        ValueError: the input is no image.

    Example:
        >>> GlobalAvgPool2d()(torch.ones(2, 3, 8, 8)).shape
        torch.Size([2, 3])
    """

    def forward(self, input: Tensor) -> Tensor:
        require_image(self, input)
        return global_avg_pool2d(input) if is_explicit() else input.mean((-2, -1))
