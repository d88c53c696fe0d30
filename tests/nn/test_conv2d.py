"""The convolution layer: torch.nn's, by two algorithms, with Keras's "same" for every stride."""

from __future__ import annotations

import contextlib
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from companion.nn import explicit
from companion.nn.functional.convolution import Convolution
from companion.nn.layers.conv import Conv2d
from tests.nn.convolutions import CLOSE, F64, pulled_back

ALGORITHMS = {"default": contextlib.nullcontext, "explicit": explicit}
by_each_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS)


@st.composite
def arguments(draw) -> tuple[dict, tuple[int, ...]]:
    """Arguments of torch.nn.Conv2d, and the shape of an input, with or without a batch axis."""

    def number_or_pair(least: int, most: int):
        number = st.integers(least, most)
        return draw(number | st.tuples(number, number))

    groups = draw(st.integers(1, 3))
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    stride = number_or_pair(1, 3)
    numbers = st.integers(0, 2)
    named = st.sampled_from(["valid", "same"] if stride in (1, (1, 1)) else ["valid"])
    given = {
        "in_channels": groups * draw(st.integers(1, 2)),
        "out_channels": groups * draw(st.integers(1, 2)),
        "kernel_size": number_or_pair(1, 4),
        "stride": stride,
        "padding": draw(numbers | st.tuples(numbers, numbers) | named),
        "dilation": number_or_pair(1, 2),
        "groups": groups,
        "bias": draw(st.booleans()),
        "padding_mode": mode,
    }
    # A kernel spans at most 7 pixels, and reflections need more pixels than padding.
    shape = given["in_channels"], draw(st.integers(7, 10)), draw(st.integers(7, 10))
    return given, draw(st.sampled_from([shape, (2, *shape)]))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # theirs
@by_each_algorithm
@settings(max_examples=80, deadline=None)
@given(case=arguments())
def test_it_is_torch_nn(algorithm, case: tuple[dict, tuple[int, ...]]) -> None:
    given, shape = case
    theirs = torch.nn.Conv2d(**given, dtype=F64)
    ours = Conv2d(**given, dtype=F64)
    assert repr(ours) == repr(theirs)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(shape, dtype=F64, requires_grad=True)
    with algorithm():
        y = ours(x)
    expected = theirs(x)
    torch.testing.assert_close(y, expected, **CLOSE)
    torch.testing.assert_close(
        pulled_back(y, [x, *ours.parameters()]),
        pulled_back(expected, [x, *theirs.parameters()]),
        **CLOSE,
    )


@by_each_algorithm
@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.integers(1, 4),
    dilation=st.integers(1, 2),
    groups=st.integers(1, 2),
)
def test_same_is_that_of_keras(algorithm, size, kernel, stride, dilation, groups) -> None:
    if stride > 1 and dilation > 1:
        dilation = 1  # Keras has not both
    layer = Conv2d(2, 4, kernel, stride, "same", dilation, groups, dtype=F64)
    x = torch.randn(2, 2, *size, dtype=F64)
    with algorithm():
        y = layer(x)
    expected = _keras().ops.conv(
        x.permute(0, 2, 3, 1),
        layer.weight.detach().permute(2, 3, 1, 0),
        strides=stride,
        padding="same",
        data_format="channels_last",
        dilation_rate=dilation,
    )
    assert y.shape[-2:] == tuple(-(-n // stride) for n in size)
    torch.testing.assert_close(y, expected.permute(0, 3, 1, 2) + layer.bias[:, None, None], **CLOSE)


@by_each_algorithm
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_same_with_a_stride_pads_in_every_mode(algorithm, mode: str) -> None:
    layer = Conv2d(2, 3, (3, 2), (2, 3), "same", padding_mode=mode, dtype=F64)
    x = torch.randn(2, 2, 8, 7, dtype=F64)
    # Rows: 4 outputs span 9 pixels of 8; columns: 3 outputs span 8 of 7.
    padded = torch.nn.functional.pad(x, (0, 1, 0, 1), mode)
    expected = torch.nn.functional.conv2d(padded, layer.weight, layer.bias, (2, 3))
    with algorithm():
        torch.testing.assert_close(layer(x), expected, **CLOSE)


@pytest.mark.parametrize(("kernel", "dilation"), [(2, 1), ((3, 4), 1), (2, 3), ((1, 4), (2, 1))])
def test_an_even_kernel_and_same_are_nothing_to_warn_of(kernel, dilation) -> None:
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # else torch warns once, of the first layer of the process
    try:
        with warnings.catch_warnings(action="error"):
            y = Conv2d(1, 1, kernel, padding="same", dilation=dilation)(torch.rand(1, 1, 9, 9))
    finally:
        torch.set_warn_always(before)
    assert y.shape == (1, 1, 9, 9)


def test_the_layer_of_the_article() -> None:
    layer = Conv2d(3, 10, 5)
    assert layer(torch.rand(1, 3, 200, 200)).shape == (1, 10, 196, 196)
    assert sum(parameter.numel() for parameter in layer.parameters()) == 760


def test_the_choice_is_that_of_the_forward_pass() -> None:
    layer, x = Conv2d(2, 3, 3), torch.randn(1, 2, 5, 5)
    with explicit():
        y = layer(x)
    assert isinstance(y.grad_fn, Convolution._backward_cls)
    y.sum().backward()
    by_the_book = layer.weight.grad.clone()
    layer.zero_grad()
    y = layer(x)
    assert not isinstance(y.grad_fn, Convolution._backward_cls)
    with explicit():
        y.sum().backward()
    torch.testing.assert_close(layer.weight.grad, by_the_book)


def test_state_dicts_go_both_ways() -> None:
    ours, theirs = Conv2d(4, 6, 3, groups=2), torch.nn.Conv2d(4, 6, 3, groups=2)
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(theirs.weight, ours.weight)
    ours.load_state_dict(torch.nn.Conv2d(4, 6, 3, groups=2).state_dict())
    assert not torch.equal(theirs.weight, ours.weight)


def test_initial_weights_are_those_of_torch_nn() -> None:
    layers = []
    for kind in (Conv2d, torch.nn.Conv2d):
        torch.manual_seed(3)
        layers.append(kind(3, 8, 3))
    assert torch.equal(layers[0].weight, layers[1].weight)
    assert torch.equal(layers[0].bias, layers[1].bias)


def test_a_copy_keeps_the_stride_that_torch_refuses() -> None:
    layer = Conv2d(2, 3, 3, 2, "same")
    other = pickle.loads(pickle.dumps(layer))
    x = torch.randn(1, 2, 7, 7)
    assert other(x).shape == (1, 3, 4, 4)
    assert torch.equal(other(x), layer(x))


@pytest.mark.parametrize("padding", [1, "same"])
@pytest.mark.parametrize("stride", [1, 2])
def test_compile_traces_the_whole_layer(padding, stride: int) -> None:
    if padding == "same" or stride == 1:
        layer = Conv2d(2, 3, 3, stride, padding)
    else:
        layer = Conv2d(2, 3, 3, stride, padding, padding_mode="circular")
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    for size in (8, 9):
        x = torch.randn(1, 2, size, size)
        torch.testing.assert_close(compiled(x), layer(x))


def test_a_compiled_layer_follows_the_choice() -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, _):
        graphs.append({node.target for node in graph.graph.nodes})
        return graph.forward

    layer, x = Conv2d(2, 3, 3), torch.randn(1, 2, 5, 5)

    def follow() -> None:
        compiled = torch.compile(layer, backend=backend)
        for algorithm, book in ((contextlib.nullcontext, False), (explicit, True)) * 2:
            with algorithm():
                y = compiled(x)
            assert isinstance(y.grad_fn, Convolution._backward_cls) == book
            torch.testing.assert_close(y, layer(x))

    with ThreadPoolExecutor() as new_thread:  # where nobody has made a choice before
        new_thread.submit(follow).result()
    assert all(torch.conv2d in graph for graph in graphs)  # the explicit algorithm is not traced


@by_each_algorithm
def test_an_empty_batch(algorithm) -> None:
    layer = Conv2d(2, 3, 3, padding=1)
    with algorithm():
        y = layer(torch.zeros(0, 2, 5, 6))
        y.sum().backward()
    assert y.shape == (0, 3, 5, 6)
    assert layer.weight.grad.count_nonzero() == 0


@by_each_algorithm
def test_autocast(algorithm) -> None:
    layer, x = Conv2d(2, 3, 3), torch.randn(1, 2, 5, 5)
    with algorithm(), torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
        of_halves = layer(x.bfloat16())
    assert y.dtype == of_halves.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), rtol=2e-2, atol=2e-2)


@by_each_algorithm
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.rand(1, 4, 8, 8), ValueError, r"3 channels, got 4 .* alpha .* x\[:, :3\]"),
        (torch.rand(4, 8, 8), ValueError, r"3 channels, got 4 .* alpha .* x\[:3\]"),
        (torch.rand(1, 8, 8, 3), ValueError, r"x.permute\(0, 3, 1, 2\)"),
        (torch.rand(8, 8), ValueError, r"got an input of shape \(8, 8\); a grey image"),
        (torch.rand(1, 1, 3, 8, 8), ValueError, r"got an input of shape \(1, 1, 3, 8, 8\)"),
        (torch.rand(1, 3, 4, 9), ValueError, r"kernel of size 5 .* size 4 .* \(1, 3, 4, 9\)"),
        (torch.rand(1, 3, 0, 9), ValueError, "at least one channel and one pixel"),
        (
            torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
            TypeError,
            r"torch.uint8; .*x.float\(\) / 255",
        ),
        (torch.rand(1, 3, 8, 8, dtype=F64), TypeError, "torch.float64 and torch.float32"),
        (torch.rand(1, 3, 8, 8).numpy(), TypeError, "got numpy.ndarray"),
        (None, TypeError, "got builtins.NoneType"),
    ],
)
def test_input_that_does_not_fit_is_refused(algorithm, x, error, message: str) -> None:
    opening = r"Conv2d\(3, 10, kernel_size=\(5, 5\), stride=\(1, 1\)\): "
    with algorithm(), pytest.raises(error, match=opening + ".*" + message):
        Conv2d(3, 10, 5)(x)


@by_each_algorithm
def test_other_errors_stay_what_they_are(algorithm) -> None:
    layer = Conv2d(3, 4, 3, padding=9, padding_mode="reflect")
    with algorithm(), pytest.raises(RuntimeError, match="Padding size should be less"):
        layer(torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"stride": 0}, ValueError, "stride is 0, expected an integer of at least 1 or a pair"),
        ({"stride": (1, -1)}, ValueError, r"stride is \(1, -1\)"),
        ({"stride": 1.5}, TypeError, "stride is 1.5, expected an integer"),
        ({"stride": (1, 2, 3)}, ValueError, r"stride is \(1, 2, 3\)"),
        ({"stride": 0, "padding": "same"}, ValueError, "stride is 0"),
        ({"dilation": 0}, ValueError, "dilation is 0"),
        ({"padding": -1}, ValueError, "padding is -1, expected an integer of at least 0"),
        ({"padding": "full"}, ValueError, "full"),
        ({"kernel_size": 0}, ValueError, "kernel_size is 0"),
        ({"kernel_size": True}, TypeError, "kernel_size is True"),
        ({"in_channels": 0}, ValueError, "in_channels is 0, expected an integer of at least 1$"),
        ({"out_channels": (4, 4)}, TypeError, r"out_channels is \(4, 4\)"),
        ({"groups": 3}, ValueError, "groups is 3, expected a divisor of in_channels, 4"),
        ({"groups": 4}, ValueError, "groups is 4, expected a divisor of out_channels, 6"),
        ({"groups": 0}, ValueError, "groups is 0, expected an integer of at least 1"),
    ],
)
def test_arguments_out_of_range_are_refused(given, error, message: str) -> None:
    fitting = {"in_channels": 4, "out_channels": 6, "kernel_size": 3}
    with pytest.raises(error, match=message):
        Conv2d(**fitting | given)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@by_each_algorithm
def test_cuda(algorithm) -> None:
    layer = Conv2d(3, 4, 3, 2, "same", dtype=F64)
    x = torch.randn(2, 3, 8, 9, dtype=F64)
    expected = layer(x)
    with algorithm():
        torch.testing.assert_close(layer.cuda()(x.cuda()).cpu(), expected, **CLOSE)


def _keras():
    """Keras with its torch backend; where there is no Keras, its test is skipped."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("KERAS_BACKEND", "torch")
        return pytest.importorskip("keras")
