"""Pooling by the book: the maximum and the average of windows, with their adjoints.

Both are written for images ``(..., H, W)``.  Given where the maxima lie, maximum pooling is linear:
it *gathers* values, and its adjoint *scatters* gradients.  Average pooling sums windows, and so
does its adjoint.  Each of these maps is the derivative of its partner, so that gradients of any
order exist.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function

from companion.nn.functional.pooling_windows import (
    Pair,
    adaptive,
    check_divisor,
    check_output_size,
    check_windows,
    clipped,
    dual,
    pair,
    tiled,
    window_count,
)
from companion.nn.functional.real import require_real


def max_pool2d(
    x: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""The largest value of each window, and where it lies.

    .. math:: y_{ij} = \max_{a,b} x_{is_1 + ad_1 - p_1,\; js_2 + bd_2 - p_2}

    The gradient goes to the first position (in row-major order) that attains the maximum:

    .. math:: \frac{\partial L}{\partial x_{uv}} = \sum_{ij:\ \mathrm{argmax}_{ij} = (u,v)} G_{ij}

    That is one element of the subdifferential where several positions tie, and PyTorch's choice.
    A window that contains NaN yields its last NaN, as in PyTorch.

    Args:
        x: floating-point images (..., H, W).
        kernel_size, stride, padding, dilation, ceil_mode: as of :class:`torch.nn.MaxPool2d`;
            ``stride=None`` means ``kernel_size``.

    Returns:
        The maxima (..., H', W') and their positions :math:`uW + v`, int64, of the same shape.

    Raises:
        ValueError: the windows do not fit the image.

    Example:
        >>> image = torch.tensor([[1.0, 2.0, 2.0, 0.0], [0.0, 1.0, 3.0, 3.0]])
        >>> maxima, positions = max_pool2d(image, 2)
        >>> maxima.tolist(), positions.tolist()
        ([[2.0, 3.0]], [[1, 6]])
    """
    require_real("max_pool2d", x=x)
    stride = kernel_size if stride is None else stride
    check_windows("max_pool2d", x.shape[-2:], kernel_size, stride, padding, dilation, ceil_mode)
    geometry = tuple(map(pair, (kernel_size, stride, padding, dilation)))
    return _Maxima.apply(x, geometry, ceil_mode)


def _argmax(x: Tensor, geometry: tuple, ceil_mode: bool) -> tuple[Tensor, Tensor]:
    """The maxima of the windows and their positions, one comparison per window element.

    It runs through the K1·K2 elements (a, b) of all windows at once: those are a strided slice of
    the padded image.  No copy of the image is K1·K2 times as large, and the layout stays.
    """
    *_, height, width = x.shape
    (k1, k2), (s1, s2), (p1, p2), (d1, d2) = geometry
    rows = window_count(height, k1, s1, p1, d1, ceil_mode)
    columns = window_count(width, k2, s2, p2, d2, ceil_mode)
    # What the last window needs below and to the right of the image: with ceil_mode it may be more
    # than the padding; it is negative, and crops, where the stride leaves the last pixels out.
    below = (rows - 1) * s1 + d1 * (k1 - 1) + 1 - p1 - height
    right = (columns - 1) * s2 + d2 * (k2 - 1) + 1 - p2 - width
    padded = torch.nn.functional.pad(x, (p2, right, p1, below), value=-torch.inf)

    top = torch.arange(rows, device=x.device)[:, None] * s1 - p1
    left = torch.arange(columns, device=x.device) * s2 - p2
    # A window of nothing but -inf reports its first element on the image.
    position = _first_inside(top, d1) * width + _first_inside(left, d2)
    best = torch.tensor(-torch.inf, dtype=x.dtype, device=x.device)
    for a in range(k1):
        for b in range(k2):
            value = padded[..., a * d1 :: s1, b * d2 :: s2][..., :rows, :columns]
            better = (value > best) | value.isnan()
            best = torch.where(better, value, best)
            position = torch.where(better, (top + a * d1) * width + (left + b * d2), position)
    return best, position


def _first_inside(start: Tensor, dilation: int) -> Tensor:
    """The first of start, start + dilation, ... that is not negative."""
    return torch.where(start < 0, start % dilation, start)


class _Maxima(Function):
    """Maximum pooling; linear in x once the positions are known."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, geometry, ceil_mode):
        return _argmax(x, geometry, ceil_mode)

    @staticmethod
    def setup_context(ctx, inputs, outputs):
        x, _, _ = inputs
        _, position = outputs
        ctx.mark_non_differentiable(position)
        ctx.save_for_backward(position)
        ctx.save_for_forward(position)
        ctx.size, ctx.channels_last = tuple(x.shape[-2:]), _is_channels_last(x)

    @staticmethod
    def backward(ctx, G, _):
        (position,) = ctx.saved_tensors
        return _Scatter.apply(G, position, ctx.size, ctx.channels_last), None, None

    @staticmethod
    def jvp(ctx, x_dot, *_):
        (position,) = ctx.saved_tensors
        return _Gather.apply(x_dot, position), None


class _Gather(Function):
    """y_ij = x at position_ij."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, position):
        return _flat(x).gather(-1, _flat(position)).view(position.shape)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, position = inputs
        ctx.save_for_backward(position)
        ctx.save_for_forward(position)
        ctx.size, ctx.channels_last = tuple(x.shape[-2:]), _is_channels_last(x)

    @staticmethod
    def backward(ctx, G):
        (position,) = ctx.saved_tensors
        return _Scatter.apply(G, position, ctx.size, ctx.channels_last), None

    @staticmethod
    def jvp(ctx, x_dot, _):
        (position,) = ctx.saved_tensors
        return _Gather.apply(x_dot, position)


class _Scatter(Function):
    """x_uv = sum of the G_ij whose position is (u, v): the adjoint of :class:`_Gather`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(G, position, size, channels_last):
        zeros = _flat(G.new_zeros(*G.shape[:-2], *size))
        x = zeros.scatter_add(-1, _flat(position), _flat(G)).view(*G.shape[:-2], *size)
        return _channels_last(x) if channels_last else x

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, position, ctx.size, ctx.channels_last = inputs
        ctx.save_for_backward(position)
        ctx.save_for_forward(position)

    @staticmethod
    def backward(ctx, x_bar):
        (position,) = ctx.saved_tensors
        return _Gather.apply(x_bar, position), None, None, None

    @staticmethod
    def jvp(ctx, G_dot, *_):
        (position,) = ctx.saved_tensors
        return _Scatter.apply(G_dot, position, ctx.size, ctx.channels_last)


def _flat(x: Tensor) -> Tensor:
    *batch, height, width = x.shape
    return x.reshape(*batch, height * width)


def _is_channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and x.shape[1] > 1 and x.stride(1) == 1


def _channels_last(x: Tensor) -> Tensor:
    # Not contiguous(memory_format=torch.channels_last), which vmap cannot do.
    return x.movedim(-3, -1).contiguous().movedim(-1, -3)


def avg_pool2d(
    x: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    r"""The average of each window.

    .. math:: y_{ij} = \frac{1}{D_{ij}} \sum_{(u,v) \in W_{ij}} x_{uv}, \qquad
        \frac{\partial L}{\partial x_{uv}} = \sum_{ij:\ (u,v) \in W_{ij}} \frac{G_{ij}}{D_{ij}}

    :math:`D_{ij}` counts the pixels of the window: those on the image and on the padding, or
    without ``count_include_pad`` on the image alone; or it is ``divisor_override``.

    Args:
        x: floating-point images (..., H, W).
        kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override: as of
            :class:`torch.nn.AvgPool2d`; ``stride=None`` means ``kernel_size``.

    Returns:
        The averages (..., H', W').

    Raises:
        ValueError: the windows do not fit the image, or ``divisor_override`` is 0.
    """
    require_real("avg_pool2d", x=x)
    stride = kernel_size if stride is None else stride
    check_windows("avg_pool2d", x.shape[-2:], kernel_size, stride, padding, 1, ceil_mode)
    check_divisor("avg_pool2d", divisor_override)
    windows, counted = [], []
    for axis, n in enumerate(x.shape[-2:]):
        k, s, p = (pair(value)[axis] for value in (kernel_size, stride, padding))
        tiles = tiled(n, k, s, p, ceil_mode)
        windows.append(clipped(tiles, n))
        counted.append(tiles if count_include_pad else windows[axis])
    return _average(x, *windows, divisor_override or _areas(*counted, device=x.device))


def adaptive_avg_pool2d(x: Tensor, output_size: Pair | tuple[int | None, int | None]) -> Tensor:
    r"""The averages of H' times W' windows that cover the image as evenly as pixels allow.

    Along each axis window i is :math:`[\lfloor in/n' \rfloor, \lceil (i+1)n/n' \rceil)`; the
    formulas are those of :func:`avg_pool2d`.

    Args:
        x: floating-point images (..., H, W).
        output_size: (H', W') or one number for both; None keeps the size of that axis.

    Returns:
        The averages (..., H', W').

    Raises:
        ValueError: ``output_size`` is below 1.

    Example:
        >>> adaptive_avg_pool2d(torch.tensor([[1.0, 2.0, 4.0]]), (1, 2)).tolist()
        [[1.5, 3.0]]
    """
    require_real("adaptive_avg_pool2d", x=x)
    check_output_size("adaptive_avg_pool2d", output_size)
    windows = [
        adaptive(n, n if count is None else count)
        for n, count in zip(x.shape[-2:], pair(output_size), strict=True)
    ]
    return _average(x, *windows, _areas(*windows, device=x.device))


def global_avg_pool2d(x: Tensor) -> Tensor:
    r"""The average of each channel, (..., H, W) -> (...): every gradient is :math:`G / (HW)`."""
    return adaptive_avg_pool2d(x, 1).flatten(-3)


def _areas(rows: list[range], columns: list[range], device: torch.device) -> Tensor:
    heights = torch.tensor([len(row) for row in rows], device=device)
    widths = torch.tensor([len(column) for column in columns], device=device)
    return heights[:, None] * widths


def _average(x: Tensor, rows: list[range], columns: list[range], divisor: Tensor | int) -> Tensor:
    """The sums of the windows over a divisor, half precision by way of float32."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (_WindowSums.apply(wide, rows, columns) / divisor).to(x.dtype)


class _WindowSums(Function):
    """y_ij = sum of x_uv over u in rows_i and v in columns_j, first over v and then over u.

    Its adjoint x_uv = sum of the G_ij with u in rows_i and v in columns_j is a sum over windows as
    well, since the windows that contain a pixel are an interval (:func:`dual`).
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x, rows, columns):
        y = _sums(_sums(x, columns, -1), rows, -2)
        return _channels_last(y) if _is_channels_last(x) else y

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.rows, ctx.columns = inputs
        ctx.height, ctx.width = x.shape[-2:]

    @staticmethod
    def backward(ctx, G):
        duals = dual(ctx.rows, ctx.height), dual(ctx.columns, ctx.width)
        return _WindowSums.apply(G, *duals), None, None

    @staticmethod
    def jvp(ctx, x_dot, *_):
        return _WindowSums.apply(x_dot, ctx.rows, ctx.columns)


def _sums(x: Tensor, windows: list[range], axis: int) -> Tensor:
    parts = [x.narrow(axis, w.start, len(w)).sum(axis, keepdim=True) for w in windows]
    return torch.cat(parts, axis)
