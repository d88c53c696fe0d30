"""The convolution by Fourier transforms against PyTorch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from companion.nn.functional.convolution import conv2d
from companion.nn.functional.fourier import fourier_conv2d
from tests.nn.convolutions import CLOSE, F64, pulled_back


def pairs(least: int, most: int):
    return st.tuples(st.integers(least, most), st.integers(least, most))


@settings(max_examples=80, deadline=None)
@given(
    counts=st.tuples(*[st.integers(1, 3)] * 3),
    kernel=pairs(1, 6),
    padding=pairs(0, 3),
    extra=pairs(0, 6),
    bias=st.booleans(),
)
def test_values_and_gradients_are_those_of_torch(counts, kernel, padding, extra, bias) -> None:
    samples, channels, filters = counts
    size = (max(k - 2 * p, 1) + more for k, p, more in zip(kernel, padding, extra, strict=True))
    shapes = [(samples, channels, *size), (filters, channels, *kernel), *[(filters,)] * bias]
    operands = [torch.randn(shape, dtype=F64, requires_grad=True) for shape in shapes]
    y = fourier_conv2d(*operands, padding=padding)
    expected = F.conv2d(*operands, padding=padding)
    torch.testing.assert_close(y, expected, **CLOSE)
    torch.testing.assert_close(pulled_back(y, operands), pulled_back(expected, operands), **CLOSE)


@pytest.mark.parametrize("padding", [((1, 0), (0, 3)), "same", "valid"])
def test_padding_of_every_form_and_one_image(padding) -> None:
    x, weight = torch.randn(3, 6, 7, dtype=F64), torch.randn(2, 3, 4, 3, dtype=F64)
    expected = conv2d(x, weight, padding=padding)
    torch.testing.assert_close(fourier_conv2d(x, weight, padding=padding), expected, **CLOSE)


def test_it_is_not_circular() -> None:
    """An impulse at the end meets the kernel once, and not again at the beginning."""
    x = torch.zeros(1, 1, 1, 8, dtype=F64)
    x[..., -1] = 1
    y = fourier_conv2d(x, torch.ones(1, 1, 1, 3, dtype=F64), padding=(0, 1))
    torch.testing.assert_close(
        y.flatten(), torch.tensor([0, 0, 0, 0, 0, 0, 1.0, 1.0], dtype=F64), **CLOSE
    )


def test_gradgradcheck() -> None:
    shapes = (1, 2, 4, 5), (2, 2, 2, 3), (2,)
    operands = [torch.randn(shape, dtype=F64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(fourier_conv2d, operands)
    assert torch.autograd.gradgradcheck(fourier_conv2d, operands)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"x": torch.ones(1, 4, 8, 8)}, ValueError, "expected 3 channels"),
        ({"x": torch.ones(1, 3, 2, 8)}, ValueError, "kernel of size 3 does not fit"),
        ({"x": torch.ones(1, 3, 8, 8).int()}, TypeError, "floating point, got torch.int32"),
        ({"bias": torch.ones(3)}, ValueError, r"bias of shape \(4,\)"),
    ],
)
def test_what_does_not_fit_is_refused(given, error: type[Exception], message: str) -> None:
    fitting = {"x": torch.ones(1, 3, 8, 8), "weight": torch.ones(4, 3, 3, 3)}
    with pytest.raises(error, match=f"fourier_conv2d: .*{message}"):
        fourier_conv2d(**fitting | given)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_cuda() -> None:
    x, weight = torch.randn(2, 3, 6, 7, dtype=F64), torch.randn(2, 3, 4, 3, dtype=F64)
    y = fourier_conv2d(x.cuda(), weight.cuda(), padding=1)
    torch.testing.assert_close(y.cpu(), F.conv2d(x, weight, padding=1), **CLOSE)
