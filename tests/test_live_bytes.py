"""The counter behind the memory benchmark counts every storage once, and only while it lives."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

FILE = Path(__file__).resolve().parents[1] / "benchmarks" / "live_bytes.py"
SPEC = importlib.util.spec_from_file_location("live_bytes", FILE)
live_bytes = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(live_bytes)

#: Bytes of a tensor of a hundred numbers.
ONE = 800


@pytest.fixture
def x() -> torch.Tensor:
    return torch.ones(100, dtype=torch.float64)


def test_what_was_there_before_is_not_counted(x: torch.Tensor) -> None:
    with live_bytes.LiveBytes() as count:
        x.view(10, 10).t()
        x.add_(1)
    assert count.peak == 0


def test_views_and_writes_in_place_add_nothing(x: torch.Tensor) -> None:
    with live_bytes.LiveBytes() as count:
        y = x + 1
        views = [y.view(10, 10), y[:50], y.mul_(2)]
        assert count.now == ONE
        del y
        assert count.now == ONE
        del views
        assert count.now == 0


def test_the_peak_outlives_what_made_it(x: torch.Tensor) -> None:
    with live_bytes.LiveBytes() as count:
        y, z = x + 1, x + 2
        del y
        w = x + 3
        del w
    assert count.peak == 2 * ONE
    assert count.now == ONE
    del z
    assert count.now == 0


def test_an_address_that_is_used_again_counts_again(x: torch.Tensor) -> None:
    with live_bytes.LiveBytes() as count:
        for _ in range(300):
            y = x + 1
            assert count.now == ONE
            del y
            assert count.now == 0


def test_lists_of_tensors_are_seen(x: torch.Tensor) -> None:
    with live_bytes.LiveBytes() as count:
        made = torch._foreach_add([x, x], 1.0)
        assert count.now == 2 * ONE
        both = torch.stack(made)
        assert count.now == 4 * ONE
    assert both.shape == (2, 100)


@pytest.mark.parametrize("steps", [10, 20])
def test_a_graph_holds_what_it_saved(x: torch.Tensor, steps: int) -> None:
    x.requires_grad_()
    x.grad = torch.zeros_like(x)
    with live_bytes.LiveBytes() as count:
        y = x
        for _ in range(steps):
            y = y.sin()
        loss = y.sum()
        # Every sine saves its argument; the last value is y itself.
        assert count.now == steps * ONE + 8
        loss.backward()
        assert count.now == ONE + 8
    assert steps * ONE < count.peak <= (steps + 3) * ONE + 16


def test_what_a_function_saves_is_counted_until_its_graph_is_gone(x: torch.Tensor) -> None:
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x + 1)
            return 2 * x

        @staticmethod
        def backward(ctx, grad):
            return 2 * grad

    with live_bytes.LiveBytes() as count:
        y = Double.apply(x.requires_grad_())
        assert count.now == 2 * ONE
        del y
        assert count.now == 0
