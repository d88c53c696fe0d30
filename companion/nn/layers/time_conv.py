"""The convolution of a vector field that depends on time."""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor

from companion.nn.layers.checks import require_image
from companion.nn.layers.conv import Conv2d
from companion.nn.sizes import Pair


class TimeConv2d(Conv2d):
    r"""A convolution of feature maps at a time: time is one more channel, before the others.

    .. math::

        y = W * [t\,\mathbf 1,\; z] + b

    where :math:`t\,\mathbf 1` is a map with the value t at every place.  Where the maps are padded
    with zeros, so is that of time.  Explicitly it is that of :class:`Conv2d`.

    Shapes: t a number, a tensor of no axes, or (N,) with a time for each sample (which is what
    ``solve(batched=True)`` has), z (N, C, H, W) -> (N, F, H', W'), or without N; the weights are
    (F, C + 1, kH, kW).

    The layer that neural ODEs are usually made of, as in Chen, Rubanova, Bettencourt and Duvenaud,
    *Neural ordinary differential equations*, NeurIPS 2018, whose code calls it ``ConcatConv2d``.

    Args:
        in_channels: C, without that of time.
        out_channels: F.
        kernel_size, stride, padding, dilation, bias, padding_mode, device, dtype: As for
            :class:`Conv2d`.

    Raises:
        TypeError, ValueError: As :class:`Conv2d` does; on a call, t is not as above.

    Example:
        >>> layer = TimeConv2d(16, 16, 3, padding=1)
        >>> tuple(layer.weight.shape), tuple(layer(0.5, torch.rand(2, 16, 7, 7)).shape)
        ((16, 17, 3, 3), (2, 16, 7, 7))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair | str = 0,
        dilation: int | Pair = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check_channels(in_channels)
        super().__init__(
            in_channels + 1,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            1,
            bias,
            padding_mode,
            device,
            dtype,
        )
        self.in_channels = in_channels  # as it was given: what repr and messages are to say

    def forward(self, t: float | Tensor, z: Tensor) -> Tensor:
        require_image(self, z, self.in_channels, self.weight.dtype)
        time = torch.ones_like(z[..., :1, :, :]) * self._broadcast(t, z)
        return super().forward(torch.cat([time, z], dim=-3))

    def _broadcast(self, t: float | Tensor, z: Tensor) -> float | Tensor:
        """The time, or those of the samples along the axis of these, not along the width."""
        if not isinstance(t, Tensor) or t.ndim == 0:
            return t
        if t.shape != z.shape[:-3]:
            raise ValueError(
                f"{self}: expected a time for all samples (a number or a tensor of no axes) or "
                f"one for each, got t of shape {tuple(t.shape)} with maps of shape "
                f"{tuple(z.shape)}"
            )
        return t[:, None, None, None]

    def _check_input(self, x: Tensor) -> None:
        super()._check_input(x[..., 1:, :, :])  # of what was put together, the maps


def _check_channels(in_channels: int) -> None:
    """Now, since with one more, that of time, the next check would tell another number."""
    message = f"TimeConv2d: in_channels is {in_channels!r}, expected an integer of at least 1"
    if isinstance(in_channels, bool) or not isinstance(in_channels, Integral):
        raise TypeError(message)
    if in_channels < 1:
        raise ValueError(message)
