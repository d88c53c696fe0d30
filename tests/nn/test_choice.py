"""The choice of algorithm: whose it is, how long it holds, and what is computed after it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.utils.checkpoint import CheckpointError, checkpoint

from companion.nn import Conv2d, explicit, is_explicit


def test_blocks_are_nested_and_end_with_an_error_too() -> None:
    assert not is_explicit()
    with explicit():
        with pytest.raises(KeyError), explicit():
            raise KeyError
        assert is_explicit()
    assert not is_explicit()


def test_a_function_may_be_decorated() -> None:
    asked = explicit()(is_explicit)
    assert (asked(), is_explicit(), asked()) == (True, False, True)


def test_the_choice_is_the_threads_own() -> None:
    with ThreadPoolExecutor(1) as other:
        with explicit():
            assert not other.submit(is_explicit).result()
        assert other.submit(explicit()(is_explicit)).result()
        assert not other.submit(is_explicit).result()
    assert not is_explicit()


def test_a_choice_in_a_hook_ends_with_the_hook() -> None:
    layer, x, seen = Conv2d(1, 1, 2), torch.rand(1, 1, 4, 4), []

    def hook(gradient: torch.Tensor) -> None:
        with explicit(), torch.enable_grad():
            seen.append(type(layer(x).grad_fn).__name__)

    y = layer(x)
    y.register_hook(hook)
    y.sum().backward()
    assert seen == ["ConvolutionBackward"]  # the explicit one; the vendor's ends in a 0
    assert not is_explicit()


def test_what_is_computed_again_is_computed_within_the_block() -> None:
    layer = Conv2d(2, 3, 3, 2, "same")
    x = torch.rand(1, 2, 7, 8, requires_grad=True)
    (expected,) = torch.autograd.grad(layer(x).square().sum(), x)
    with explicit():
        y = checkpoint(layer, x, use_reentrant=False).square().sum()
        (gradient,) = torch.autograd.grad(y, x)
        outside = checkpoint(layer, x, use_reentrant=False).square().sum()
    torch.testing.assert_close(gradient, expected)
    with pytest.raises(CheckpointError):
        torch.autograd.grad(outside, x)
