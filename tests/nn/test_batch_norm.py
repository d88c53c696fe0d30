"""Batch normalisation, explicit and default, against torch and against its theorems."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from companion import nn
from companion.nn.functional.batch_norm import batch_norm

CASES = settings(max_examples=100, deadline=None)


@st.composite
def cases(draw):
    """(one of our layers with a history, torch's with the same, an image)."""
    channels = draw(st.integers(1, 3))
    options = {
        "eps": draw(st.sampled_from([1e-5, 0.1])),
        "momentum": draw(st.sampled_from([0.1, 1.0, None])),
        "affine": draw(st.booleans()),
        "track_running_stats": draw(st.booleans()),
    }
    torch.manual_seed(draw(st.integers(0, 99)))
    peer = torch.nn.BatchNorm2d(channels, **options).double()
    for tensor in peer.state_dict().values():
        if tensor.is_floating_point():
            torch.nn.init.uniform_(tensor, 0.5, 2)
    layer = nn.BatchNorm2d(channels, **options).double()
    layer.load_state_dict(peer.state_dict())
    training = draw(st.booleans())
    shape = (draw(st.integers(0, 3)), channels, draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    x = 3 * torch.randn(shape, dtype=torch.float64) + 2
    if draw(st.booleans()):
        x = x.contiguous(memory_format=torch.channels_last)
    return layer.train(training), peer.train(training), x.requires_grad_()


def agree(ours, theirs, inputs, peers_inputs):
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    G = torch.randn_like(theirs)
    by_us = torch.autograd.grad(ours, inputs, G)
    by_them = torch.autograd.grad(theirs, peers_inputs, G)
    torch.testing.assert_close(by_us, by_them, rtol=1e-12, atol=1e-12)


@CASES
@given(cases())
def test_outputs_gradients_and_statistics(case):
    layer, peer, x = case
    assume(x.numel() != x.shape[1])
    default = copy.deepcopy(layer)
    second = (2 * x + 1).detach().requires_grad_()  # it meets the statistics of the first
    for batch in (x, second):
        theirs = peer(batch)
        with nn.explicit():
            ours = layer(batch)
        agree(ours, theirs, [batch, *layer.parameters()], [batch, *peer.parameters()])
        assert ours.stride() == theirs.stride() or not x.numel()
        assert torch.equal(default(batch), theirs)
        for mine in (layer, default):
            torch.testing.assert_close(mine.state_dict(), peer.state_dict(), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("training", [True, False])
def test_without_a_bias(training):
    running, x, gamma = torch.rand(2, 3), torch.randn(2, 3, 4, 4), torch.randn(3)
    ours = batch_norm(x, *running.clone(), weight=gamma, training=training)
    theirs = torch.nn.functional.batch_norm(x, *running.clone(), weight=gamma, training=training)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("training", [True, False])
def test_derivatives_of_any_order_in_any_mode(training):
    torch.manual_seed(0)
    x = (3 * torch.randn(2, 2, 2, 2, dtype=torch.float64) + 5).requires_grad_()
    gamma, beta = torch.randn(2, 2, dtype=torch.float64).requires_grad_()
    running = torch.rand(2, 2, dtype=torch.float64) + 0.5

    def normalised(x, gamma, beta):
        statistics = (None, None) if training else running
        return batch_norm(x, *statistics, gamma, beta, training, eps=0.1)

    inputs = (x, gamma, beta)
    torch.autograd.gradcheck(normalised, inputs, check_forward_ad=True, check_batched_grad=True)
    torch.autograd.gradgradcheck(
        normalised,
        inputs,
        check_fwd_over_rev=True,
        check_rev_over_rev=True,
        check_batched_grad=True,
    )
    batches = torch.stack([x, x**2])
    torch.testing.assert_close(
        torch.vmap(normalised, (0, None, None))(batches, gamma, beta),
        torch.stack([normalised(batch, gamma, beta) for batch in batches]),
    )


def test_third_derivatives():
    x = torch.randn(2, 1, 2, 1, dtype=torch.float64, requires_grad=True)

    def second(x):
        y = batch_norm(x, training=True, eps=0.1)
        (first,) = torch.autograd.grad((y**3).sum(), x, create_graph=True)
        return torch.autograd.grad((first**2).sum(), x, create_graph=True)[0]

    torch.autograd.gradcheck(second, x)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 99), st.sampled_from([1e-5, 1e-2, 1.0]))
def test_what_the_gradient_is_orthogonal_to(seed, eps):
    """Σ dx = 0, and Σ dx x̂ = γ ε (v + ε)^(-3/2) Σ G x̂, which vanishes with ε."""
    torch.manual_seed(seed)
    x = torch.randn(4, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    gamma = torch.randn(1, dtype=torch.float64)
    G = torch.randn_like(x)
    (x_bar,) = torch.autograd.grad(batch_norm(x, weight=gamma, training=True, eps=eps), x, G)
    v = x.var(unbiased=False)
    x_hat = (x - x.mean()) / torch.sqrt(v + eps)
    expected = gamma * eps * (v + eps) ** -1.5 * (G * x_hat).sum()
    torch.testing.assert_close(x_bar.sum(), torch.zeros(()).double(), rtol=0, atol=1e-13)
    torch.testing.assert_close((x_bar * x_hat).sum(), expected[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("own", ["float32", "of the input"])
def test_half_precision_is_normalised_in_float32(training, dtype, own):
    torch.manual_seed(0)
    layer = nn.BatchNorm2d(3).train(training)
    x = (100 + torch.randn(4, 3, 5, 5)).to(dtype).requires_grad_()
    if own != "float32":
        layer.to(dtype)
    theirs = copy.deepcopy(layer).double()(x.double())
    with nn.explicit():
        ours = layer(x)
    torch.testing.assert_close(ours, theirs.to(dtype))  # torch itself rounds the mean of 100
    assert ours.dtype is copy.deepcopy(layer)(x).dtype
    assert torch.autograd.grad(ours.sum(), layer.weight)[0].dtype is layer.weight.dtype


@pytest.mark.parametrize("context", [nn.explicit, torch.enable_grad])
@pytest.mark.parametrize("track", [True, False])
def test_a_single_value_has_no_variance(context, track):
    layer, x = nn.BatchNorm2d(3, track_running_stats=track), torch.randn(1, 3, 1, 1)
    with context():
        with pytest.raises(ValueError, match=r"BatchNorm2d\(3, .*drop_last=True.* or call eval"):
            layer(x)
        if track:
            layer.eval()(x)
            assert layer.num_batches_tracked == 0  # the refused batch did not count
        else:
            with pytest.raises(ValueError, match="more than one value"):
                layer.eval()(x)


@pytest.mark.parametrize("context", [nn.explicit, torch.enable_grad])
@pytest.mark.parametrize(
    ("x", "error", "said"),
    [
        (torch.zeros(3, 4, 4), ValueError, r"expected a batch of images \(N, 3, H, W\), got"),
        (torch.zeros(2, 4, 5, 5), ValueError, "expected 3 channels, got 4"),
        (torch.zeros(2, 3, 5, 5).double(), TypeError, r"float32 .* got torch.float64; convert"),
        (torch.zeros(2, 3, 5, 5).int(), TypeError, "floating-point image, got torch.int32"),
    ],
)
@pytest.mark.parametrize("affine", [True, False])
def test_other_wrong_inputs(context, x, error, said, affine):
    layer = nn.BatchNorm2d(3, affine=affine)
    with context(), pytest.raises(error, match=said) as raised:
        layer(x)
    assert str(raised.value).startswith(f"{layer}: ")


def test_half_precision_does_not_go_with_a_double_layer():
    with pytest.raises(TypeError, match=r"float64 as the layer's own numbers, got torch.float16"):
        nn.BatchNorm2d(3).double()(torch.zeros(2, 3, 5, 5).half())


@pytest.mark.parametrize("training", [True, False])
def test_tracking_may_be_switched_off_later(training):
    layer, x = nn.BatchNorm2d(3).train(training), torch.randn(4, 3, 2, 2)
    layer.track_running_stats = False
    x[0, 0, 0, 0] = torch.nan  # not even that reaches the statistics
    before, theirs = copy.deepcopy(layer.state_dict()), layer(x)
    with nn.explicit():
        torch.testing.assert_close(layer(x), theirs, equal_nan=True)
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)


def test_the_function_says_what_it_needs():
    with pytest.raises(ValueError, match="batch_norm: expected running statistics"):
        batch_norm(torch.randn(2, 3, 4, 4))
    with pytest.raises(ValueError, match="batch_norm: expected more than one value"):
        batch_norm(torch.randn(1, 3, 1, 1), training=True)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("training", [True, False])
def test_on_a_gpu(training):
    layer = nn.BatchNorm2d(3).double().cuda().train(training)
    peer = copy.deepcopy(layer)
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64, device="cuda", requires_grad=True)
    with nn.explicit():
        ours = layer(x)
    agree(ours, peer(x), [x, *layer.parameters()], [x, *peer.parameters()])
    torch.testing.assert_close(layer.state_dict(), peer.state_dict())
