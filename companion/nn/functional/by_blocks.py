"""The three products of a convolution, computed block by block in bounded memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from companion.nn.functional.autocast import is_autocast
from companion.nn.functional.geometry import Geometry
from companion.nn.functional.patches import Block, add_col2im, blocks, im2col

#: The bytes of the im2col matrix of a block.  On a CPU it should stay in the cache between the
#: copy and the product, and have columns enough for an efficient product: from 1 MiB (few
#: channels) or 2 MiB (many) to 8 MiB the times differ little.  Elsewhere few launches count.
BLOCK_BYTES = {"cpu": 4 * 2**20}
BLOCK_BYTES_ELSEWHERE = 64 * 2**20


def _as_given(algorithm: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Compute in the dtype of the operands, though a backward pass may run within autocast."""

    @functools.wraps(algorithm)
    def run(first: Tensor, *args) -> Tensor:
        if not is_autocast(first.device):
            return algorithm(first, *args)
        with torch.autocast(first.device.type, enabled=False):
            return algorithm(first, *args)

    return run


@_as_given
def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """``W U(x) + b``, block by block."""
    matrix = weight.reshape(geometry.groups, len(weight) // geometry.groups, -1)
    y = _empty((len(x), len(weight), *geometry.places), x, x.dtype)
    for block in _blocks(x, len(weight), geometry):
        product = (matrix @ im2col(x, geometry, block)).view(len(weight), *map(len, block))
        if bias is not None:
            product += bias[:, None, None, None]
        _at(y, block).copy_(product)
        del product  # before the next one is made
    return y


@_as_given
def input_gradient(g: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """col2im of ``W^T G``, block by block."""
    matrix = weight.reshape(geometry.groups, len(weight) // geometry.groups, -1).mT
    shape = len(g), geometry.groups * weight.shape[1], *geometry.size
    x = _empty(shape, g, _accumulator(g)).zero_()
    for block in _blocks(x, len(weight), geometry):
        add_col2im(x, matrix @ _grouped(g, block, geometry), geometry, block)
    return x.to(g.dtype)


@_as_given
def weight_gradient(x: Tensor, g: Tensor, geometry: Geometry) -> Tensor:
    """``G U(x)^T``, summed over the blocks."""
    filters, channels = g.shape[1], x.shape[1] // geometry.groups
    exact = _accumulator(g)
    weight = g.new_zeros(filters, channels, *geometry.kernel, dtype=exact)
    matrix = weight.view(geometry.groups, filters // geometry.groups, -1)
    for block in _blocks(x, filters, geometry):
        matrix.baddbmm_(
            _grouped(g, block, geometry).to(exact), im2col(x, geometry, block).mT.to(exact)
        )
    return weight.to(g.dtype)


def _blocks(x: Tensor, filters: int, geometry: Geometry) -> Iterator[Block]:
    """Blocks in which the larger of a product's matrices has bytes that suit the device of x."""
    allowed = BLOCK_BYTES.get(x.device.type, BLOCK_BYTES_ELSEWHERE)
    rows = max(x.shape[1] * geometry.kernel[0] * geometry.kernel[1], filters)
    return blocks(len(x), geometry.places, max(1, allowed // (rows * x.element_size())))


def _at(y: Tensor, block: Block) -> Tensor:
    """The values of an output at the places of a block, a view of shape (F, n, i, j)."""
    n, i, j = (slice(piece.start, piece.stop) for piece in block)
    return y[n, :, i, j].transpose(0, 1)


def _grouped(g: Tensor, block: Block, geometry: Geometry) -> Tensor:
    """The values of g at the places of a block, as a matrix for each group."""
    part = _at(g, block)
    return part.reshape(geometry.groups, len(part) // geometry.groups, -1)


def _empty(shape: tuple[int, ...], like: Tensor, dtype: torch.dtype) -> Tensor:
    """An uninitialised tensor, with the channels last in memory if ``like`` has them so."""
    channels_last = like.shape[1] > 1 and like.stride(1) == 1 and not like.is_contiguous()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=layout)


def _accumulator(x: Tensor) -> torch.dtype:
    """Sums over blocks and taps are kept in float32 at least."""
    return torch.promote_types(x.dtype, torch.float32)
