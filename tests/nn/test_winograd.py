"""Winograd's F(2x2, 3x3) against PyTorch's convolution, and its matrices exactly."""

from __future__ import annotations

from fractions import Fraction
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from companion.nn.functional.convolution import conv2d
from companion.nn.functional.winograd import (
    INPUT_TRANSFORM,
    KERNEL_TRANSFORM,
    OUTPUT_TRANSFORM,
    winograd_conv2d,
)
from tests.nn.convolutions import CLOSE, F64, pulled_back

fractions = st.fractions(min_value=-9, max_value=9, max_denominator=9)


def times(matrix, vector):
    return [sum(entry * x for entry, x in zip(row, vector, strict=True)) for row in matrix]


@given(g=st.tuples(*[fractions] * 3), d=st.tuples(*[fractions] * 4))
def test_four_products_make_two_outputs_exactly(g, d) -> None:
    transformed = zip(times(KERNEL_TRANSFORM, g), times(INPUT_TRANSFORM, d), strict=True)
    products = [a * b for a, b in transformed]
    outputs = times(OUTPUT_TRANSFORM, products)
    assert outputs == [sum(g[a] * d[i + a] for a in range(3)) for i in range(2)]
    assert all(isinstance(output, Fraction) for output in outputs)


@settings(max_examples=80, deadline=None)
@given(
    counts=st.tuples(*[st.integers(1, 3)] * 3),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    extra=st.tuples(st.integers(0, 7), st.integers(0, 7)),
    bias=st.booleans(),
)
def test_values_and_gradients_are_those_of_torch(counts, padding, extra, bias) -> None:
    samples, channels, filters = counts
    size = (max(3 - 2 * p, 1) + more for p, more in zip(padding, extra, strict=True))
    shapes = [(samples, channels, *size), (filters, channels, 3, 3), *[(filters,)] * bias]
    operands = [torch.randn(shape, dtype=F64, requires_grad=True) for shape in shapes]
    y = winograd_conv2d(*operands, padding=padding)
    expected = F.conv2d(*operands, padding=padding)
    torch.testing.assert_close(y, expected, **CLOSE)
    torch.testing.assert_close(pulled_back(y, operands), pulled_back(expected, operands), **CLOSE)


@pytest.mark.parametrize("padding", [((1, 0), (0, 3)), "same", "valid"])
def test_padding_of_every_form_and_one_image(padding) -> None:
    x, weight = torch.randn(3, 6, 7, dtype=F64), torch.randn(2, 3, 3, 3, dtype=F64)
    expected = conv2d(x, weight, padding=padding)
    torch.testing.assert_close(winograd_conv2d(x, weight, padding=padding), expected, **CLOSE)


def test_sixteen_products_for_each_channel_and_tile() -> None:
    """The product of the transforms is that of 16 matrices; the definition has 36 products."""
    x, weight = torch.randn(2, 3, 6, 8), torch.randn(5, 3, 3, 3)
    matmul, seen = torch.Tensor.__matmul__, []

    def counted(a, b):
        seen.append((tuple(a.shape), tuple(b.shape)))
        return matmul(a, b)

    with mock.patch.object(torch.Tensor, "__matmul__", counted):
        winograd_conv2d(x, weight)
    tiles = 2 * 2 * 3  # images, and tiles in the 4x6 outputs
    assert ((4, 4, 5, 3), (4, 4, 3, tiles)) in seen


def test_gradgradcheck() -> None:
    shapes = (1, 1, 4, 5), (2, 1, 3, 3), (2,)
    operands = [torch.randn(shape, dtype=F64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(winograd_conv2d, operands)
    assert torch.autograd.gradgradcheck(winograd_conv2d, operands)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"weight": torch.ones(4, 3, 5, 5)}, ValueError, "kernels of 3x3, got .*(4, 3, 5, 5)"),
        ({"x": torch.ones(1, 4, 8, 8)}, ValueError, "expected 3 channels"),
        ({"x": torch.ones(1, 3, 2, 8)}, ValueError, "kernel of size 3 does not fit"),
        ({"x": torch.ones(1, 3, 8, 8).int()}, TypeError, "floating point, got torch.int32"),
        ({"bias": torch.ones(3)}, ValueError, r"bias of shape \(4,\)"),
    ],
)
def test_what_does_not_fit_is_refused(given, error: type[Exception], message: str) -> None:
    fitting = {"x": torch.ones(1, 3, 8, 8), "weight": torch.ones(4, 3, 3, 3)}
    with pytest.raises(error, match=f"winograd_conv2d: .*{message}"):
        winograd_conv2d(**fitting | given)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_cuda() -> None:
    x, weight = torch.randn(2, 3, 6, 7, dtype=F64), torch.randn(2, 3, 3, 3, dtype=F64)
    y = winograd_conv2d(x.cuda(), weight.cuda(), padding=1)
    torch.testing.assert_close(y.cpu(), F.conv2d(x, weight, padding=1), **CLOSE)
