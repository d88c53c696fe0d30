"""Pooling, explicit and default, against torch and against its definition."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from companion import nn
from companion.nn.functional.pooling import (
    adaptive_avg_pool2d,
    avg_pool2d,
    global_avg_pool2d,
    max_pool2d,
)
from companion.nn.functional.pooling_windows import check_windows, dual

CASES = settings(max_examples=100, deadline=None)

sizes = st.integers(1, 9)


@st.composite
def images(draw, values="normal"):
    """(x, needing gradients): of any layout, and where asked for with ties, infinities and NaN."""
    shape = draw(st.tuples(st.integers(1, 2), st.integers(1, 3), sizes, sizes))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    if values == "ties":
        x = torch.randint(-2, 3, shape, generator=generator).double()
        x[torch.rand(shape, generator=generator) < 0.1] = -torch.inf
        if draw(st.booleans()):
            x[torch.rand(shape, generator=generator) < 0.1] = torch.nan
    else:
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
    if draw(st.booleans()):
        x = x.contiguous(memory_format=torch.channels_last)
    return x.requires_grad_()


@st.composite
def geometries(draw, dilated=False):
    """Arguments of a pooling layer: numbers or pairs, now and then impossible ones."""

    def maybe_pair(low, high):
        number = st.integers(low, high)
        return draw(number | st.tuples(number, number))

    arguments = {
        "kernel_size": maybe_pair(1, 4),
        "stride": draw(st.none()) or maybe_pair(1, 4),
        "padding": maybe_pair(0, 2),
        "ceil_mode": draw(st.booleans()),
    }
    return arguments | ({"dilation": maybe_pair(1, 3)} if dilated else {})


def agree(ours, theirs, x):
    """Outputs equal, and gradients for a random gradient of the output."""
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12, equal_nan=True)
    G = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(1), dtype=theirs.dtype)
    (by_us,) = torch.autograd.grad(ours, x, G)
    (by_them,) = torch.autograd.grad(theirs, x, G, retain_graph=True)
    torch.testing.assert_close(by_us, by_them, rtol=1e-12, atol=1e-12, equal_nan=True)


def refuse_together(layer, peer, x):
    """Where torch refuses, so does each of our paths, by a ValueError that names the layer."""
    for context in (nn.explicit, torch.enable_grad):
        with context(), pytest.raises(ValueError, match=r"Pool2d\(kernel_size="):
            layer(x)
    with pytest.raises(RuntimeError):
        peer(x)


@CASES
@given(images("ties"), geometries(dilated=True))
def test_the_maximum_its_place_and_its_gradient(x, arguments):
    layer = nn.MaxPool2d(**arguments, return_indices=True)
    peer = torch.nn.MaxPool2d(**arguments, return_indices=True)
    try:
        check_windows("", x.shape[-2:], *_window_arguments(layer))
    except ValueError as error:
        if "nothing but padding" not in str(error):  # where torch goes on, into undefined memory
            refuse_together(layer, peer, x)
        return
    theirs, places = peer(x)
    default, by_default = layer(x)
    with nn.explicit():
        ours, by_the_book = layer(x)
    assert torch.equal(by_the_book, places)
    assert torch.equal(by_default, places)
    agree(ours, theirs, x)
    agree(default, theirs, x)


def _window_arguments(layer):
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    return (getattr(layer, name) for name in names)


def test_without_indices_the_maxima_alone():
    x = torch.randn(1, 2, 4, 4)
    layer = nn.MaxPool2d(2)
    with nn.explicit():
        assert torch.equal(layer(x), F.max_pool2d(x, 2))


def test_the_first_of_equal_maxima_gets_the_gradient():
    x = torch.zeros(1, 1, 2, 4, requires_grad=True)
    with nn.explicit():
        nn.MaxPool2d(2)(x).sum().backward()
    assert x.grad.tolist() == [[[[1, 0, 1, 0], [0, 0, 0, 0]]]]


def test_windows_that_see_no_pixel_are_refused_and_no_others():
    """There torch returns -inf and an index beyond the image; its backward pass writes there."""
    ranges = range(1, 8), range(1, 5), range(1, 5), range(1, 4), (False, True)
    for n, k, s, d, ceil_mode in itertools.product(*ranges):
        for p in range(k // 2 + 1):
            arguments = (1, k), (1, s), (0, p), (1, d), ceil_mode
            message = ""
            try:
                check_windows("", (1, n), *arguments)
            except ValueError as error:
                message = str(error)
            if "larger than" in message:
                continue
            count = F.max_pool2d(torch.zeros(1, 1, n), *arguments).shape[-1]
            blind = not all(any(0 <= i * s - p + a * d < n for a in range(k)) for i in range(count))
            assert blind == ("nothing but padding" in message)


def test_both_paths_refuse_windows_that_see_no_pixel():
    layer = nn.MaxPool2d(2, padding=1, dilation=3)
    for context in (nn.explicit, torch.enable_grad):
        with context(), pytest.raises(ValueError, match="lower the dilation"):
            layer(torch.zeros(1, 1, 2, 2))


@CASES
@given(images(), geometries(), st.booleans(), st.sampled_from([None, 1, 3, -2]))
def test_the_average_and_its_gradient(x, arguments, count_include_pad, divisor):
    options = {"count_include_pad": count_include_pad, "divisor_override": divisor}
    layer = nn.AvgPool2d(**arguments, **options)
    peer = torch.nn.AvgPool2d(**arguments, **options)
    try:
        theirs = peer(x)
    except RuntimeError:
        refuse_together(layer, peer, x)
        return
    with nn.explicit():
        agree(layer(x), theirs, x)
    agree(layer(x), theirs, x)


def test_the_average_along_one_axis_in_every_small_case():
    for n, k, s in itertools.product(range(1, 7), range(1, 5), range(1, 5)):
        x = torch.arange(1, n + 1, dtype=torch.float64)[None, None]
        for p, ceil_mode, counted in itertools.product(range(k // 2 + 1), *2 * [(False, True)]):
            arguments = (1, k), (1, s), (0, p), ceil_mode, counted
            try:
                theirs = F.avg_pool2d(x, *arguments)
            except RuntimeError:
                continue
            torch.testing.assert_close(avg_pool2d(x, *arguments), theirs, rtol=1e-15, atol=0)


counts = st.none() | st.integers(1, 12)


@CASES
@given(images(), counts | st.tuples(counts, counts))
def test_the_average_over_adapted_windows_and_its_gradient(x, output_size):
    assume(output_size is not None)
    layer = nn.AdaptiveAvgPool2d(output_size)
    theirs = torch.nn.AdaptiveAvgPool2d(output_size)(x)
    with nn.explicit():
        agree(layer(x), theirs, x)
    agree(layer(x), theirs, x)


@settings(deadline=None, max_examples=50)
@given(images())
def test_the_average_of_each_channel(x):
    layer = nn.GlobalAvgPool2d()
    theirs = torch.nn.Flatten()(torch.nn.AdaptiveAvgPool2d(1)(x))
    with nn.explicit():
        agree(layer(x), theirs, x)
        assert layer(x[0]).shape == x.shape[1:2]
    agree(layer(x), theirs, x)
    assert layer(x[0]).shape == x.shape[1:2]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=6), st.integers(1, 12))
def test_the_dual_windows_are_those_that_contain_a_pixel(steps, size):
    windows, start, stop = [], 0, 0
    for move, length in steps:
        start = start + move
        stop = max(stop, start + length)
        windows.append(range(start, stop))
    containing = [[i for i, w in enumerate(windows) if pixel in w] for pixel in range(size)]
    assert [list(d) for d in dual(windows, size)] == containing


SMOOTH = {
    "maximum": lambda x: max_pool2d(x, 3, 2, 1)[0],
    "average": lambda x: avg_pool2d(x, (3, 2), 2, 1, count_include_pad=False),
    "adaptive average": lambda x: adaptive_avg_pool2d(x, (2, 4)),
    "global average": global_avg_pool2d,
}


@pytest.mark.parametrize("pool", SMOOTH.values(), ids=SMOOTH.keys())
def test_derivatives_of_any_order_in_any_mode(pool):
    x = torch.randn(2, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(
        pool, x, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )
    # Pooling is linear where it is smooth: squared, it has a second derivative.
    torch.autograd.gradgradcheck(
        lambda x: pool(x) ** 2,
        x,
        check_fwd_over_rev=True,
        check_rev_over_rev=True,
        check_batched_grad=True,
    )
    by_sample = torch.vmap(torch.func.jacrev(pool))(x)
    torch.testing.assert_close(torch.vmap(torch.func.jacfwd(pool))(x), by_sample)
    torch.testing.assert_close(torch.vmap(pool)(x), pool(x))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "layer", [nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d((3, 2))], ids=repr
)
def test_the_layout_stays(layer, memory_format):
    x = torch.randn(2, 3, 8, 6).contiguous(memory_format=memory_format).requires_grad_()
    G = layer(x).detach().clone()
    with nn.explicit():
        y = layer(x)
    (x_bar,) = torch.autograd.grad(y, x, G)
    assert y.is_contiguous(memory_format=memory_format)
    assert x_bar.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("shape", [(3, 8, 6), (0, 3, 8, 6)])
@pytest.mark.parametrize(
    "layer", [nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d((3, 2))], ids=repr
)
def test_one_image_and_no_image(layer, shape):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    theirs = layer(x)
    with nn.explicit():
        agree(layer(x), theirs, x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_lower_precisions(dtype):
    x = torch.randn(2, 3, 9, 9).to(dtype)
    with nn.explicit():
        ours = [nn.MaxPool2d(3)(x), nn.AvgPool2d(3)(x), nn.AdaptiveAvgPool2d(2)(x)]
    theirs = [F.max_pool2d(x, 3), F.avg_pool2d(x, 3), F.adaptive_avg_pool2d(x, 2)]
    for by_us, by_them in zip(ours, theirs, strict=True):
        torch.testing.assert_close(by_us, by_them)  # of one dtype too
    assert torch.equal(ours[0], theirs[0])


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (nn.MaxPool2d(2, stride=0), "expected stride of at least 1, got 0"),
        (nn.MaxPool2d(2, dilation=-1), "expected dilation of at least 1, got -1"),
        (nn.MaxPool2d((3, 0)), "expected kernel_size of at least 1, got 0"),
        (nn.MaxPool2d(3, padding=(1, 2)), "expected padding .* between 0 and 1, got 2 in width"),
        (nn.AvgPool2d((2, 9)), r"9 against 8 \+ 2·0 = 8 pixels in width; give the network"),
        (nn.AvgPool2d(2, divisor_override=0), "expected a divisor_override other than 0"),
        (nn.AdaptiveAvgPool2d((2, -1)), r"expected output_size of at least 1 .* got \(2, -1\)"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("context", [nn.explicit, torch.enable_grad])
def test_windows_that_cannot_be(layer, said, context):
    with context(), pytest.raises(ValueError, match=said) as raised:
        layer(torch.zeros(1, 1, 8, 8))
    assert str(raised.value).startswith(f"{layer}: ")


def test_other_errors_of_torch_come_through():
    """The default path reads an error only for what it can say better."""

    class Broken(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            if "pool2d" in getattr(function, "__name__", ""):
                raise RuntimeError("no memory")
            return super().__torch_function__(function, types, args, kwargs)

    x = torch.zeros(1, 1, 8, 8).as_subclass(Broken)
    for layer in (nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(2)):
        with pytest.raises(RuntimeError, match="no memory"):
            layer(x)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize(
    "layer",
    [nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1), nn.AdaptiveAvgPool2d((3, 2))],
    ids=repr,
)
def test_on_a_gpu(layer):
    x = torch.randn(2, 3, 8, 6, dtype=torch.float64, device="cuda", requires_grad=True)
    theirs = layer(x)
    with nn.explicit():
        agree_on_gpu = layer(x)
    G = torch.randn_like(theirs)
    torch.testing.assert_close(agree_on_gpu, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(agree_on_gpu, x, G), torch.autograd.grad(theirs, x, G)
    )
