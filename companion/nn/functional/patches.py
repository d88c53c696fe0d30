"""What a kernel sees of an image, as a matrix (im2col), and the adjoint of that map (col2im)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

from torch import Tensor

from companion.nn.functional.geometry import Geometry
from companion.nn.sizes import Pair

#: Samples, rows and columns of an output: a part of it that is computed at once.
Block = tuple[range, range, range]


def blocks(samples: int, places: Pair, most: int) -> Iterator[Block]:
    """Cut an output into blocks of at most ``most`` places.

    They are as many whole images as fit, else whole rows of one image, else parts of one row.
    """
    rows, columns = places
    return product(
        _pieces(samples, most // (rows * columns)),
        _pieces(rows, most // columns),
        _pieces(columns, most),
    )


def im2col(x: Tensor, geometry: Geometry, block: Block) -> Tensor:
    r"""The matrix :math:`U(x)` whose columns are what the kernel sees at the places of a block.

    Its row :math:`(c, a, b)` is channel c of the image, moved so that each place finds the pixel
    that its weight :math:`(a, b)` meets.  So ``weight.reshape(F, -1) @ U`` is the convolution.

    Args:
        x: Images, shape (N, C, H, W).
        geometry: Which pixel meets which weight.
        block: The places.

    Returns:
        With G groups, K1·K2 weights per channel and P places, shape (G, C/G·K1·K2, P).
    """
    images, *_ = block
    columns = x.new_zeros(x.shape[1], *geometry.kernel, *map(len, block))
    for tap, places, pixels in _meetings(geometry, block):
        columns[:, *tap, :, *places] = x[_slice(images), :, *pixels].transpose(0, 1)
    return columns.reshape(geometry.groups, -1, math.prod(map(len, block)))


def add_col2im(x: Tensor, columns: Tensor, geometry: Geometry, block: Block) -> None:
    r"""Add :math:`U^\top` of a matrix to images: the adjoint of :func:`im2col`.

    Where im2col copies a pixel to a place, this adds the place to the pixel:
    :math:`\langle U(x), V \rangle = \langle x, U^\top(V) \rangle`.

    Args:
        x: Images, shape (N, C, H, W); changed in place.
        columns: A matrix of the shape that :func:`im2col` returns.
        geometry: Which pixel meets which weight.
        block: The places.
    """
    images, *_ = block
    columns = columns.reshape(x.shape[1], *geometry.kernel, *map(len, block))
    for tap, places, pixels in _meetings(geometry, block):
        x[_slice(images), :, *pixels] += columns[:, *tap, :, *places].transpose(0, 1)


def _pieces(n: int, most: int) -> list[range]:
    """Cut ``range(n)`` into pieces of nearly equal length, at most ``most`` but at least 1."""
    count = -(-n // max(most, 1))
    length = -(-n // max(count, 1))
    return [range(i, min(i + length, n)) for i in range(0, n, max(length, 1))]


def _meetings(
    geometry: Geometry, block: Block
) -> Iterator[tuple[Pair, tuple[slice, slice], tuple[slice, slice]]]:
    """For each tap the places in the block where it meets pixels, and these pixels."""
    _, i, j = block
    for a, b in geometry.taps:
        rows, columns = _along(0, geometry, i, a), _along(1, geometry, j, b)
        if rows and columns:
            yield (a, b), (rows[0], columns[0]), (rows[1], columns[1])


def _along(axis: int, geometry: Geometry, places: range, tap: int) -> tuple[slice, slice] | None:
    """The places i with 0 <= s i + d a - p < n, counted in the block, and these pixels."""
    stride = geometry.stride[axis]
    shift = geometry.dilation[axis] * tap - geometry.padding[axis][0]
    first = max(places.start, -(shift // stride))  # the least i with s i + shift >= 0
    stop = min(places.stop, -((shift - geometry.size[axis]) // stride))  # ... with >= n
    if first >= stop:
        return None
    pixels = slice(stride * first + shift, stride * (stop - 1) + shift + 1, stride)
    return slice(first - places.start, stop - places.start), pixels


def _slice(piece: range) -> slice:
    return slice(piece.start, piece.stop)
