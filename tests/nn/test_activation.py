"""Rectifiers, dropout and flattening, explicit and default, against torch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from companion import nn
from companion.nn.functional.activation import relu, relu6
from companion.nn.functional.dropout import dropout

PAIRS = [(nn.ReLU, torch.nn.ReLU), (nn.ReLU6, torch.nn.ReLU6)]

#: Every corner: both kinks from both sides, both zeros, infinities and NaN.
CORNERS = [
    -math.inf, -1.0, -1e-300, -0.0, 0.0, 1e-300, 1.0, math.nextafter(6, 0), 6.0,
    math.nextafter(6, 7), 7.0, math.inf, math.nan,
]  # fmt: skip


def output_and_gradient(layer, x, G):
    x = x.clone().requires_grad_()
    before = x * 1  # a layer in place may not touch a leaf
    y = layer(before)
    assert (y is before) == layer.inplace
    return y.detach(), *torch.autograd.grad(y, x, G)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
@settings(deadline=None, max_examples=50)
@given(values=st.lists(st.sampled_from(CORNERS) | st.floats(-10, 10), max_size=8))
def test_outputs_and_gradients(ours, theirs, inplace, values):
    x = torch.tensor(values, dtype=torch.float64)
    G = torch.randn_like(x)
    if theirs is torch.nn.ReLU6:  # torch's gradient at NaN is G or 0, as the place in memory goes
        G[x.isnan()] = 0
    expected = output_and_gradient(theirs(inplace), x, G)
    default = output_and_gradient(ours(inplace), x, G)
    with nn.explicit():
        by_the_book = output_and_gradient(ours(inplace), x, G)
    for got in (default, by_the_book):
        torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_in_place_on_a_leaf_is_an_error_as_in_torch(ours, theirs):
    x = torch.randn(3, requires_grad=True)
    for layer in (ours(True), theirs(True)):
        with nn.explicit(), pytest.raises(RuntimeError, match="leaf Variable"):
            layer(x)


@pytest.mark.parametrize("function", [relu, relu6])
def test_derivatives_of_any_order_in_any_mode(function):
    x = torch.tensor([[-1.0, 2.0], [5.0, 7.0]], dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(
        function, x, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )
    torch.autograd.gradgradcheck(
        lambda x: function(x) ** 2, x, check_fwd_over_rev=True, check_batched_grad=True
    )
    torch.testing.assert_close(torch.vmap(function)(x), function(x))


@pytest.mark.parametrize("layer", [nn.ReLU(), nn.ReLU6(), nn.Dropout()], ids=repr)
def test_the_layout_stays(layer):
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    with nn.explicit():
        assert layer(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_dropout_draws_what_torch_draws(p, inplace, training):
    x, G = torch.randn(2, 50, dtype=torch.float64)
    results = []
    for layer, context in (
        (torch.nn.Dropout(p, inplace), torch.enable_grad),
        (nn.Dropout(p, inplace), torch.enable_grad),
        (nn.Dropout(p, inplace), nn.explicit),
    ):
        torch.manual_seed(7)
        with context():
            leaf = x.clone().requires_grad_()
            y = layer.train(training)(leaf * 1)
            results.append((y.detach(), *torch.autograd.grad(y, leaf, G)))
    theirs, *ours = results
    for got in ours:
        torch.testing.assert_close(got, theirs, rtol=1e-15, atol=0)


def test_explicit_dropout_is_its_own_function_and_in_place_where_asked():
    x = torch.ones(20, requires_grad=True)
    with nn.explicit():
        assert type(nn.Dropout()(x).grad_fn).__name__ == "_MaskBackward"
        before = x * 1
        assert nn.Dropout(inplace=True)(before) is before
        assert nn.Dropout().eval()(x) is x


def test_dropout_keeps_the_mean():
    torch.manual_seed(0)
    x = torch.ones(20_000)
    y = dropout(x, 0.25)
    assert set(y.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert abs(y.mean() - 1) < 4 * math.sqrt(0.25 / 0.75 / len(x))  # four standard deviations


def test_derivatives_of_dropout():
    def dropped(x):
        torch.manual_seed(3)
        return dropout(x, 0.5)

    x = torch.randn(6, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(dropped, x, check_forward_ad=True, check_batched_grad=True)
    torch.autograd.gradgradcheck(lambda x: dropped(x) ** 2, x, check_fwd_over_rev=True)
    torch.manual_seed(0)
    rows = torch.vmap(dropout, randomness="different")(torch.ones(2, 64))
    assert not torch.equal(*rows)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 3), min_size=2, max_size=4), st.booleans())
def test_flatten(shape, explicit):
    x = torch.randn(shape)
    with nn.explicit() if explicit else torch.enable_grad():
        assert torch.equal(nn.Flatten()(x), x.reshape(shape[0], -1))
        assert torch.equal(nn.Flatten(0, 1)(x), x.flatten(0, 1))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_on_a_gpu(ours, theirs):
    x = torch.tensor(CORNERS[:-1], device="cuda")
    expected = output_and_gradient(theirs(), x, torch.ones_like(x))
    with nn.explicit():
        got = output_and_gradient(ours(), x, torch.ones_like(x))
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)
