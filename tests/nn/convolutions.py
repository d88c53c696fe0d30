"""Convolutions of all kinds, for property tests, and what torch makes of them."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

from companion.nn.functional import by_blocks

F64 = torch.float64
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


@contextmanager
def blocks_of(size: int):
    """Let the im2col matrix of a block have this many bytes."""
    before = dict(by_blocks.BLOCK_BYTES)
    by_blocks.BLOCK_BYTES["cpu"] = size
    try:
        yield
    finally:
        by_blocks.BLOCK_BYTES.update(before)


@dataclass(frozen=True)
class Case:
    """Arguments of a convolution."""

    shape: tuple[int, int, int, int]
    filters: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int]
    groups: int
    bias: bool
    block_bytes: int

    @property
    def options(self) -> tuple:
        return self.stride, self.padding, self.dilation, self.groups

    def operands(self, dtype: torch.dtype = F64) -> list[Tensor]:
        """Random images, weights and, where there is one, bias."""
        generator = torch.Generator().manual_seed(0)
        weight = self.filters, self.shape[1] // self.groups, *self.kernel
        shapes = [self.shape, weight] + [(self.filters,)] * self.bias
        return [
            torch.randn(shape, generator=generator, dtype=F64).to(dtype).requires_grad_()
            for shape in shapes
        ]

    def torch(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """What PyTorch computes."""
        (top, bottom), (left, right) = self.padding
        x = F.pad(x, (left, right, top, bottom))
        return F.conv2d(x, weight, bias, self.stride, 0, self.dilation, self.groups)


@st.composite
def cases(draw) -> Case:
    """Every kind of convolution, with images as small as a kernel allows."""

    def pair(least: int, most: int) -> tuple[int, int]:
        number = st.integers(least, most)
        return draw(st.tuples(number, number))

    groups = draw(st.integers(1, 3))
    kernel, dilation, stride = pair(1, 4), pair(1, 3), pair(1, 3)
    padding = pair(0, 4), pair(0, 4)
    size = (
        max(1, d * (k - 1) + 1 - sum(p)) + extra
        for d, k, p, extra in zip(dilation, kernel, padding, pair(0, 5), strict=True)
    )
    return Case(
        shape=(draw(st.integers(0, 3)), groups * draw(st.integers(1, 2)), *size),
        filters=groups * draw(st.integers(1, 2)),
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
        block_bytes=draw(st.sampled_from([1, 400, 3000, 10**6])),
    )


def pulled_back(y: Tensor, operands: list[Tensor]) -> list[Tensor]:
    """The gradients of all operands for a random weighting of y."""
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=F64).to(y.dtype)
    return list(torch.autograd.grad(y, operands, g))
