"""The explicit convolution against PyTorch's, against its own adjoints, and within its memory."""

from __future__ import annotations

import itertools
import math
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

from benchmarks.live_bytes import LiveBytes
from companion.nn.functional import by_blocks, convolution
from companion.nn.functional.convolution import conv2d, conv2d_input, conv2d_weight
from companion.nn.functional.geometry import fit
from companion.nn.functional.patches import add_col2im, blocks, im2col
from tests.nn.convolutions import CLOSE, F64, Case, blocks_of, cases, pulled_back

#: One of everything: stride, uneven padding, dilation, groups, an even and an odd kernel.
RICH = Case((2, 4, 5, 6), 6, (3, 2), (2, 1), ((1, 0), (0, 2)), (1, 2), 2, True, 300)


@settings(max_examples=100, deadline=None)
@given(cases())
def test_values_and_gradients_are_those_of_torch(case: Case) -> None:
    operands = case.operands()
    with blocks_of(case.block_bytes):
        y = conv2d(*operands, **_options(case))
        gradients = pulled_back(y, operands)
    expected = case.torch(*operands)
    torch.testing.assert_close(y, expected, **CLOSE)
    torch.testing.assert_close(gradients, pulled_back(expected, operands), **CLOSE)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_the_three_maps_are_the_factors_of_one_form(case: Case) -> None:
    x, weight, *_ = (operand.detach() for operand in case.operands())
    with blocks_of(case.block_bytes):
        y = conv2d(x, weight, None, *case.options)
        g = torch.randn_like(y)
        by_input = conv2d_input(x.shape, weight, g, *case.options)
        by_weight = conv2d_weight(x, weight.shape, g, *case.options)
    assert by_input.shape == x.shape
    assert by_weight.shape == weight.shape
    form = (g * y).sum()
    torch.testing.assert_close((x * by_input).sum(), form, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close((weight * by_weight).sum(), form, rtol=1e-10, atol=1e-10)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_col2im_is_the_adjoint_of_im2col(case: Case) -> None:
    x = case.operands()[0].detach()
    geometry = _geometry(case)
    moved = torch.zeros_like(x)
    left = torch.zeros((), dtype=F64)
    for block in blocks(len(x), geometry.places, 5):
        columns = im2col(x, geometry, block)
        weighting = torch.randn_like(columns)
        left += (columns * weighting).sum()
        add_col2im(moved, weighting, geometry, block)
    torch.testing.assert_close((x * moved).sum(), left, **CLOSE)


def test_im2col_is_unfold() -> None:
    x = torch.randn(1, 6, 7, 8)
    geometry = fit("test", x.shape, (4, 3, 3, 2), (2, 1), (1, 0), (1, 3), groups=2)
    whole = 0, *geometry.places
    columns = im2col(x, geometry, (range(1), *map(range, whole[1:])))
    expected = F.unfold(x, (3, 2), (1, 3), (1, 0), (2, 1))
    assert columns.shape == (2, 3 * 6, math.prod(geometry.places))
    assert torch.equal(columns.flatten(0, 1)[None], expected)


@given(
    samples=st.integers(0, 5),
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    most=st.integers(1, 200),
)
def test_blocks_cover_every_place_once(samples: int, rows: int, columns: int, most: int) -> None:
    found = []
    for block in blocks(samples, (rows, columns), most):
        places = list(itertools.product(*block))
        assert 0 < len(places) <= most
        found += places
    everywhere = itertools.product(range(samples), range(rows), range(columns))
    assert sorted(found) == list(everywhere)


def test_few_blocks_where_much_fits() -> None:
    assert len(list(blocks(8, (10, 10), 799))) == 2
    assert len(list(blocks(8, (10, 10), 800))) == 1
    assert len(list(blocks(1, (10, 10), 59))) == 2
    assert len(list(blocks(1, (10, 10), 5))) == 20


def test_second_derivatives_in_every_mode() -> None:
    case = Case((1, 2, 3, 3), 2, (2, 2), (2, 1), ((1, 0), (0, 1)), (1, 2), 2, True, 100)
    operands = case.operands()

    def convolve(*operands: Tensor) -> Tensor:
        return conv2d(*operands, *case.options)

    with blocks_of(case.block_bytes):
        assert torch.autograd.gradcheck(convolve, operands, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(convolve, operands, check_fwd_over_rev=True)


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 1), (1, 2)])
def test_no_gradient_is_computed_that_nobody_needs(needed: tuple[int, ...]) -> None:
    operands = [operand.detach() for operand in RICH.operands()]
    for i in needed:
        operands[i].requires_grad_()
    with (
        mock.patch.object(convolution, "input_gradient", wraps=by_blocks.input_gradient) as of_x,
        mock.patch.object(convolution, "weight_gradient", wraps=by_blocks.weight_gradient) as of_w,
    ):
        conv2d(*operands, *RICH.options).sum().backward()
    assert (of_x.called, of_w.called) == (0 in needed, 1 in needed)


@pytest.mark.parametrize("along", [(0,), (1,), (2,), (0, 2)])
def test_forward_mode_computes_only_what_varies(along: tuple[int, ...]) -> None:
    operands = [operand.detach() for operand in RICH.operands()]
    varying = [operands[i] for i in along]
    directions = [torch.randn_like(operand) for operand in varying]

    def along_them(convolve):
        def function(*some: Tensor) -> Tensor:
            given = list(operands)
            for i, operand in zip(along, some, strict=True):
                given[i] = operand
            return convolve(*given)

        return jvp(function, tuple(varying), tuple(directions))

    with mock.patch.object(convolution, "convolve", wraps=by_blocks.convolve) as convolve:
        found = along_them(_explicit)
    assert convolve.call_count == 1 + sum(i < 2 for i in along)
    torch.testing.assert_close(found, along_them(RICH.torch), **CLOSE)


@pytest.mark.parametrize(
    "dims",
    [d for d in itertools.product((None, 0, 1), repeat=3) if any(axis is not None for axis in d)],
)
def test_vmap(dims: tuple[int | None, ...]) -> None:
    operands = [
        operand.detach() if dim is None else torch.stack([operand.detach()] * 3, dim)
        for operand, dim in zip(RICH.operands(), dims, strict=True)
    ]
    operands = [operand * torch.rand_like(operand) for operand in operands]
    torch.testing.assert_close(
        vmap(_explicit, dims)(*operands), vmap(RICH.torch, dims)(*operands), **CLOSE
    )
    found, expected = (
        vmap(grad(_cubed(convolve), (0, 1, 2)), dims)(*operands)
        for convolve in (_explicit, RICH.torch)
    )
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_vmap_of_images_makes_no_copies_of_the_weights() -> None:
    x, weight, _ = (operand.detach() for operand in RICH.operands())
    with mock.patch.object(convolution, "convolve", wraps=by_blocks.convolve) as convolve:
        vmap(lambda x: conv2d(x, weight, None, *RICH.options))(torch.stack([x] * 4))
    assert convolve.call_args.args[0].shape == (8, *x.shape[1:])
    assert convolve.call_args.args[1].shape == weight.shape


def test_jacobians_and_hessians() -> None:
    operands = tuple(operand.detach() for operand in RICH.operands())
    for transform in (jacrev, jacfwd):
        found, expected = (
            transform(convolve, (0, 1, 2))(*operands) for convolve in (_explicit, RICH.torch)
        )
        torch.testing.assert_close(found, expected, **CLOSE)
    found, expected = (
        hessian(_cubed(convolve), (0, 1))(*operands) for convolve in (_explicit, RICH.torch)
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("padding", ["valid", "same", 1, (2, 0)])
@pytest.mark.parametrize("kernel", [(3, 3), (2, 5)])
def test_padding_as_torch_takes_it(padding, kernel: tuple[int, int]) -> None:
    x, weight = torch.randn(2, 3, 8, 9, dtype=F64), torch.randn(4, 3, *kernel, dtype=F64)
    expected = F.conv2d(x, weight, padding=padding)
    torch.testing.assert_close(conv2d(x, weight, padding=padding), expected, **CLOSE)


def test_one_image() -> None:
    x, weight, bias = RICH.operands()
    one = conv2d(x[1], weight, bias, *RICH.options)
    torch.testing.assert_close(one, conv2d(x, weight, bias, *RICH.options)[1], **CLOSE)


@pytest.mark.parametrize("convolve", [conv2d, F.conv2d])
def test_channels_last_stays(convolve) -> None:
    x = torch.randn(2, 3, 5, 6).to(memory_format=torch.channels_last).requires_grad_()
    y = convolve(x, torch.randn(4, 3, 3, 3))
    assert y.is_contiguous(memory_format=torch.channels_last)
    for images in (x.detach().contiguous(), torch.randn(2, 3, 1, 1)):
        assert convolve(images, torch.randn(4, 3, 3, 3), padding=2).is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autocast_casts_as_torch_does(dtype: torch.dtype) -> None:
    operands = [operand.detach().requires_grad_() for operand in RICH.operands(dtype)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, expected = _explicit(*operands), RICH.torch(*operands)
    assert y.dtype == expected.dtype
    torch.testing.assert_close(y, expected, rtol=2e-2, atol=2e-2)
    gradients = pulled_back(y, operands)
    assert [g.dtype for g in gradients] == [dtype] * 3
    torch.testing.assert_close(gradients, pulled_back(expected, operands), rtol=3e-2, atol=5e-2)


def test_a_backward_pass_within_autocast_is_not_cast() -> None:
    operands = RICH.operands(torch.float32)
    outside = pulled_back(_explicit(*operands), operands)
    y = _explicit(*operands)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = pulled_back(y, operands)
    torch.testing.assert_close(inside, outside, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_of_low_precision_are_kept_in_float32(dtype: torch.dtype) -> None:
    """Sums of 4096 ones in blocks of five, and of 1 and eight quarters of an eps."""
    eps = torch.finfo(dtype).eps
    x = torch.ones(1, 1, 64, 64, dtype=dtype, requires_grad=True)
    weight = torch.full((1, 1, 3, 3), eps / 4, dtype=dtype)
    weight[..., 2, 2] = 1  # the first that is added to a pixel
    weight.requires_grad_()
    with blocks_of(5 * 9 * 2):
        y = conv2d(x, weight, padding=1)
        y.backward(torch.ones_like(y))
    assert weight.grad[0, 0, 1, 1] == 4096
    assert x.grad[0, 0, 32, 32] == 1 + 2 * eps


@pytest.mark.parametrize(("channels", "filters"), [(8, 8), (1, 64)])
def test_memory_is_bounded(channels: int, filters: int) -> None:
    """Beyond its results, no pass keeps more than a block, however large the image is."""
    weight, bias = torch.randn(filters, channels, 3, 3), torch.randn(filters)
    extra = {}
    for size in (256, 512):
        x, g = torch.randn(1, channels, size, size), torch.randn(1, filters, size, size)
        assert 9 * x.nbytes + g.nbytes > 4 * by_blocks.BLOCK_BYTES["cpu"]
        for name, run in {
            "forward": lambda x=x: conv2d(x, weight, bias, padding=1),
            "input": lambda x=x, g=g: conv2d_input(x.shape, weight, g, padding=1),
            "weight": lambda x=x, g=g: conv2d_weight(x, weight.shape, g, padding=1),
        }.items():
            with LiveBytes() as count:
                result = run()
            extra[name, size] = count.peak - result.nbytes
    for (name, size), found in extra.items():
        assert found < 1.3 * by_blocks.BLOCK_BYTES["cpu"], (name, size)
        assert found < 1.1 * extra[name, 256]


def test_long_rows_are_cut_too() -> None:
    with blocks_of(10_000), LiveBytes() as count:
        y = conv2d(torch.randn(1, 1, 3, 50_000), torch.randn(1, 1, 3, 3))
    assert count.peak - y.nbytes - 3 * 50_000 * 4 < 20_000


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": torch.ones(1, 4, 8, 8)}, ValueError, "expected 3 channels.*got 4"),
        ({"x": torch.ones(8, 8)}, ValueError, r"\(N, C, H, W\), got \(8, 8\)"),
        ({"x": torch.ones(1, 3, 2, 8)}, ValueError, "kernel of size 3 does not fit .* size 2"),
        ({"x": torch.ones(1, 3, 8, 8).int()}, TypeError, "x of floating point, got torch.int32"),
        ({"x": torch.ones(1, 3, 8, 8).cfloat()}, TypeError, "of real numbers, got torch.complex64"),
        ({"x": torch.ones(1, 3, 8, 8).double()}, TypeError, "float64 for x, torch.float32 for w"),
        ({"x": [[1.0]]}, TypeError, "x to be a torch.Tensor, got list"),
        ({"x": None}, TypeError, "x to be a torch.Tensor, got NoneType"),
        ({"weight": torch.ones(4, 3, 3)}, ValueError, r"\(F, C/groups, K1, K2\), got \(4, 3, 3\)"),
        ({"bias": torch.ones(3)}, ValueError, r"bias of shape \(4,\).*got \(3,\)"),
        ({"stride": 0}, ValueError, "stride is 0"),
        ({"stride": 1.5}, TypeError, "stride is 1.5"),
        ({"dilation": -1}, ValueError, "dilation is -1"),
        ({"padding": -1}, ValueError, "padding is -1"),
        ({"padding": "full"}, ValueError, "padding is 'full'"),
        ({"groups": 2}, ValueError, "groups is 2, expected a divisor of in_channels, 3"),
        ({"groups": 3}, ValueError, "groups is 3, expected a divisor of out_channels, 4"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, error: type[Exception], message: str) -> None:
    fitting = {"x": torch.ones(1, 3, 8, 8), "weight": torch.ones(4, 3, 3, 3)}
    with pytest.raises(error, match=f"conv2d: .*{message}"):
        conv2d(**fitting | arguments)


def test_a_gradient_of_another_shape_is_refused() -> None:
    x, weight, g = torch.ones(1, 3, 8, 8), torch.ones(4, 3, 3, 3), torch.ones(1, 4, 5, 5)
    with pytest.raises(ValueError, match=r"conv2d_input: .*\(1, 4, 6, 6\), got \(1, 4, 5, 5\)"):
        conv2d_input(x.shape, weight, g)
    with pytest.raises(ValueError, match=r"conv2d_weight: .*\(1, 4, 6, 6\), got \(1, 4, 5, 5\)"):
        conv2d_weight(x, weight.shape, g)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@settings(max_examples=40, deadline=None)
@given(cases())
def test_cuda(case: Case) -> None:
    operands = case.operands()
    there = [operand.detach().cuda().requires_grad_() for operand in operands]
    y, expected = conv2d(*there, **_options(case)), case.torch(*operands)
    torch.testing.assert_close(y.cpu(), expected, **CLOSE)
    g = torch.randn_like(expected)
    gradients = [t.cpu() for t in torch.autograd.grad(y, there, g.cuda())]
    torch.testing.assert_close(gradients, list(torch.autograd.grad(expected, operands, g)), **CLOSE)


def _options(case: Case) -> dict:
    return dict(zip(("stride", "padding", "dilation", "groups"), case.options, strict=True))


def _geometry(case: Case):
    weight = case.filters, case.shape[1] // case.groups, *case.kernel
    return fit("test", case.shape, weight, *case.options)


def _explicit(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return conv2d(x, weight, bias, *RICH.options)


def _cubed(convolve):
    return lambda *operands: convolve(*operands).pow(3).sum()
