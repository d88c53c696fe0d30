"""The convolution by the convolution theorem."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from torch.fft import irfft2, rfft2

from companion.nn.functional.geometry import Padding, fit, require_operands


def fourier_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, padding: Padding = 0
) -> Tensor:
    r"""The convolution with stride 1, as a product of Fourier transforms.

    .. math::

        y_{nf} = b_f + \mathcal F^{-1}\Bigl[
            \sum_c \mathcal F[x_{nc}] \cdot \overline{\mathcal F[w_{fc}]} \Bigr]

    A product of discrete Fourier transforms is that of a circular convolution, and the conjugate
    makes it a correlation (of real weights).  Circular and linear correlation agree where the
    kernel does not reach beyond the end, which is at the first :math:`n - k + 1` places of
    :math:`n`: those of the output.  So transforms of the size of the padded images are enough.

    With images of n x n pixels, each of the NC + FC + NF transforms takes
    :math:`O(n^2 \log n)` operations and each of the NFC products :math:`O(n^2)`, however large
    the kernel is; all spectra are in memory at once.  It is the algorithm for large kernels and
    few channels.

    Args:
        x: Images, shape (N, C, H, W), or one image, shape (C, H, W).
        weight: Kernels, shape (F, C, K1, K2).
        bias: Shape (F,), or None.
        padding: As in :func:`companion.nn.functional.conv2d`.

    Returns:
        Shape (N, F, H', W') or (F, H', W').

    Raises:
        TypeError: A tensor is not of floating point, or the dtypes differ.
        ValueError: The shapes do not fit.
    """
    require_operands("fourier_conv2d", x, weight, bias)
    if x.dim() == 3:
        return fourier_conv2d(x[None], weight, bias, padding)[0]
    geometry = fit("fourier_conv2d", x.shape, weight.shape, padding=padding)
    (top, bottom), (left, right) = geometry.padding
    x = F.pad(x, (left, right, top, bottom))
    size = x.shape[-2:]
    product = _sum_over_channels(rfft2(x), rfft2(weight, s=size).conj())
    rows, columns = geometry.places
    y = irfft2(product, s=size)[..., :rows, :columns]
    return y if bias is None else y + bias[:, None, None]


def _sum_over_channels(x: Tensor, weight: Tensor) -> Tensor:
    """At every frequency a matrix product: (N, C, ·, ·) and (F, C, ·, ·) make (N, F, ·, ·)."""
    return (x.permute(2, 3, 0, 1) @ weight.permute(2, 3, 1, 0)).permute(2, 3, 0, 1)
