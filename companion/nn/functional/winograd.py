"""Winograd's minimal filtering: a convolution with 16 products where the definition has 36."""

from __future__ import annotations

from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from companion.nn.functional.geometry import Padding, fit, require_operands

Matrix = tuple[tuple[Fraction, ...], ...]


def _matrix(*rows: tuple[int | Fraction, ...]) -> Matrix:
    return tuple(tuple(Fraction(entry) for entry in row) for row in rows)


_HALF = Fraction(1, 2)

#: :math:`B^\top`: four neighbouring values of the input, before the products.
INPUT_TRANSFORM = _matrix((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
#: :math:`G`: the three weights, before the products.
KERNEL_TRANSFORM = _matrix((1, 0, 0), (_HALF, _HALF, _HALF), (_HALF, -_HALF, _HALF), (0, 0, 1))
#: :math:`A^\top`: the two values of the output, from the four products.
OUTPUT_TRANSFORM = _matrix((1, 1, 1, 0), (0, 1, -1, -1))


def winograd_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, padding: Padding = 0
) -> Tensor:
    r"""The convolution with 3x3 kernels and stride 1 by Winograd's F(2x2, 3x3).

    Along one axis, two neighbouring outputs of three weights g and four inputs d are
    :math:`A^\top[(G g) \odot (B^\top d)]`, with 4 products where the definition has 6.  Used
    along both axes, 4x4 tiles of the input, two apart, make the 2x2 tiles of the output,

    .. math::

        Y = A^\top \Bigl[ \sum_c (G\, w_{fc}\, G^\top) \odot (B^\top x_{nc}\, B) \Bigr] A,

    with 16 products for each channel where the definition has 36.  (S. Winograd, Arithmetic
    Complexity of Computations, 1980; A. Lavin and S. Gray, Fast Algorithms for Convolutional
    Neural Networks, CVPR 2016.)  The transformed tiles are four times as large as the images.

    Args:
        x: Images, shape (N, C, H, W), or one image, shape (C, H, W).
        weight: Kernels, shape (F, C, 3, 3).
        bias: Shape (F,), or None.
        padding: As in :func:`companion.nn.functional.conv2d`.

    Returns:
        Shape (N, F, H', W') or (F, H', W').

    Raises:
        TypeError: A tensor is not of floating point, or the dtypes differ.
        ValueError: The kernels are not 3x3, or the shapes do not fit.
    """
    require_operands("winograd_conv2d", x, weight, bias)
    if x.dim() == 3:
        return winograd_conv2d(x[None], weight, bias, padding)[0]
    geometry = fit("winograd_conv2d", x.shape, weight.shape, padding=padding)
    if geometry.kernel != (3, 3):
        raise ValueError(
            f"winograd_conv2d: expected kernels of 3x3, got weights of shape {tuple(weight.shape)}"
        )
    rows, columns = geometry.places
    (top, bottom), (left, right) = geometry.padding
    # A tile makes two outputs along each axis; of an odd number of them, the last is cut off.
    x = F.pad(x, (left, right + columns % 2, top, bottom + rows % 2))
    tiles = x.unfold(2, 4, 2).unfold(3, 4, 2).permute(4, 5, 1, 0, 2, 3)  # (4, 4, C, N, ., .)
    products = _transform(KERNEL_TRANSFORM, weight.permute(2, 3, 0, 1)) @ _transform(
        INPUT_TRANSFORM, tiles.flatten(3)
    )  # (4, 4, F, C) @ (4, 4, C, P)
    y = _transform(OUTPUT_TRANSFORM, products).unflatten(3, (tiles.shape[3:]))
    y = y.permute(3, 2, 4, 0, 5, 1).flatten(4, 5).flatten(2, 3)[..., :rows, :columns]
    return y if bias is None else y + bias[:, None, None]


def _transform(matrix: Matrix, tiles: Tensor) -> Tensor:
    """``M X M^T`` for every tile X, whose axes are the first two: one product, with M kron M."""
    entries = [[float(entry) for entry in row] for row in matrix]
    m = torch.tensor(entries, dtype=tiles.dtype, device=tiles.device)
    result = torch.kron(m, m) @ tiles.reshape(len(m[0]) ** 2, -1)
    return result.view(len(m), len(m), *tiles.shape[2:])
