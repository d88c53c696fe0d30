"""The linear layer, explicit and default, against torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from companion import nn
from companion.nn.functional.linear import linear

widths = st.integers(0, 5)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=3), widths, st.integers(1, 5), st.booleans())
def test_outputs_and_gradients(batch, features, outputs, bias):
    torch.manual_seed(0)
    x = torch.randn(*batch, features, dtype=torch.float64, requires_grad=True)
    W = torch.randn(outputs, features, dtype=torch.float64, requires_grad=True)
    b = torch.randn(outputs, dtype=torch.float64, requires_grad=True) if bias else None
    inputs = [t for t in (x, W, b) if t is not None]
    theirs = F.linear(x, W, b)
    G = torch.randn_like(theirs)
    ours = linear(x, W, b)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(ours, inputs, G),
        torch.autograd.grad(theirs, inputs, G),
        rtol=1e-12,
        atol=1e-12,
    )


@pytest.mark.parametrize("bias", [True, False])
def test_derivatives_of_any_order_in_any_mode(bias):
    torch.manual_seed(0)
    shapes = [(2, 3), (4, 3), (4,)][: 3 if bias else 2]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    torch.autograd.gradcheck(linear, inputs, check_forward_ad=True, check_batched_grad=True)
    torch.autograd.gradgradcheck(
        linear, inputs, check_fwd_over_rev=True, check_rev_over_rev=True, check_batched_grad=True
    )


def test_vmap_over_weights():
    x, W = torch.randn(2, 3), torch.randn(6, 4, 3)
    by_weight = torch.stack([x @ w.T for w in W])
    torch.testing.assert_close(torch.vmap(linear, (None, 0))(x, W), by_weight)


@pytest.mark.parametrize("context", [nn.explicit, torch.enable_grad])
def test_autocast(context):
    layer, x = nn.Linear(3, 4), torch.randn(2, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16), context():
        y = layer(x)
    assert y.dtype is torch.bfloat16
    y.sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(2, 3), rtol=2e-2, atol=2e-2)
    assert layer.weight.grad.dtype is torch.float32
    with torch.autocast("cpu", torch.bfloat16), context():
        torch.testing.assert_close(layer(x.bfloat16()), y)  # two dtypes, one under autocast


def test_the_layer_takes_the_function_when_asked():
    layer, x = nn.Linear(3, 4), torch.randn(2, 3)
    with nn.explicit():
        assert type(layer(x).grad_fn).__name__ == "ViewBackward0"  # of _Linear's rows
    assert type(layer(x).grad_fn).__name__ == "AddmmBackward0"


WRONG = [
    (torch.zeros(2, 13), ValueError, "expected 12 features .* got 13 .*size of the image.*Flatten"),
    (torch.zeros(2, 3, 2, 2), ValueError, r"got 2 in .*\(2, 3, 2, 2\).*x.flatten\(1\)"),
    (torch.zeros(2, 3, 5, 5), ValueError, r"got 5 in an input of shape \(2, 3, 5, 5\)$"),
    (torch.zeros(7), ValueError, r"expected 12 features .* got 7 in an input of shape \(7,\)$"),
    (torch.zeros(()), ValueError, r"got none in an input of shape \(\)"),
    (torch.zeros(2, 12).double(), TypeError, "of one dtype, got torch.float64 and torch.float32"),
    (torch.zeros(2, 12).long(), TypeError, r"floating-point input, got torch.int64.*x.float\(\)"),
    ([0.0] * 12, TypeError, "expected a torch.Tensor, got builtins.list"),
]


@pytest.mark.parametrize("context", [nn.explicit, torch.enable_grad])
@pytest.mark.parametrize(("x", "error", "said"), WRONG)
def test_wrong_inputs(x, error, said, context):
    layer = nn.Linear(12, 5)
    with context(), pytest.raises(error, match=said) as raised:
        layer(x)
    assert str(raised.value).startswith("Linear(in_features=12, out_features=5, bias=True): ")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu():
    layer = nn.Linear(3, 4).double().cuda()
    x = torch.randn(2, 3, dtype=torch.float64, device="cuda", requires_grad=True)
    inputs = [x, *layer.parameters()]
    with nn.explicit():
        ours = torch.autograd.grad(layer(x).square().sum(), inputs)
    torch.testing.assert_close(ours, torch.autograd.grad(layer(x).square().sum(), inputs))
