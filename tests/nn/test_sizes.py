"""Integer arithmetic of sizes, against torch, Keras, counting and the support of gradients."""

from __future__ import annotations

import itertools
import os

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from companion.nn.sizes import (
    ReceptiveField,
    Window,
    multiply_adds,
    output_shape,
    output_size,
    paddings,
    parameter_count,
    receptive_field,
    same_padding,
)

os.environ["KERAS_BACKEND"] = "torch"
import keras

#: VGG's convolutions, 3x3 with padding 1, and "M" for its poolings, 2x2 with stride 2.
VGG16 = [64, 64, "M", 128, 128, "M", *3 * [256], "M", *3 * [512], "M", *3 * [512], "M"]
VGG19 = [64, 64, "M", 128, 128, "M", *4 * [256], "M", *4 * [512], "M", *4 * [512], "M"]


def size_by_torch(n, kernel, stride, padding, dilation) -> int | None:
    """The size of what torch computes, or None where it refuses."""
    x, w = torch.empty(1, 1, n, device="meta"), torch.empty(1, 1, kernel, device="meta")
    try:
        return F.conv1d(x, w, stride=stride, padding=padding, dilation=dilation).shape[-1]
    except RuntimeError:
        return None


def size_by_us(*arguments) -> int | None:
    try:
        return output_size(*arguments)
    except ValueError:
        return None


class TestOutputs:
    def test_every_small_case_is_torchs(self):
        cases = list(itertools.product(range(1, 8), range(1, 6), (1, 2, 3), (0, 1, 2), (1, 2, 3)))
        ours = [size_by_us(*case) for case in cases]
        assert ours == [size_by_torch(*case) for case in cases]
        assert None in ours
        assert max(filter(None, ours)) == 11

    @given(
        n=st.integers(1, 10**6),
        kernel=st.integers(1, 500),
        stride=st.integers(1, 500),
        padding=st.tuples(st.integers(0, 10**3), st.integers(0, 10**3)),
        dilation=st.integers(1, 10),
    )
    def test_windows_are_counted(self, n, kernel, stride, padding, dilation):
        last = n + sum(padding) - dilation * (kernel - 1) - 1
        assume(last >= 0)
        starts = range(0, last + 1, stride)
        assert output_size(n, kernel, stride, padding, dilation) == len(starts)

    @settings(deadline=None)
    @given(st.data())
    def test_images_are_torchs(self, data):
        def pair(least, most):
            return data.draw(st.tuples(st.integers(least, most), st.integers(least, most)))

        size, kernel, stride = pair(20, 500), pair(1, 9), pair(1, 9)
        padding, dilation = pair(0, 9), pair(1, 2)
        layer = torch.nn.Conv2d(2, 3, kernel, stride, padding, dilation, device="meta")
        image = torch.empty(1, 2, *size, device="meta")
        assert output_shape(size, kernel, stride, padding, dilation) == layer(image).shape[2:]
        (top, bottom), (left, right) = sides = pair(0, 9), pair(0, 9)
        padded = F.pad(image, (left, right, top, bottom))
        layer = torch.nn.Conv2d(2, 3, kernel, stride, 0, dilation, device="meta")
        assert output_shape(size, kernel, stride, sides, dilation) == layer(padded).shape[2:]

    def test_the_example_of_the_article_in_the_order_of_keras(self):
        assert (*output_shape((200, 200), kernel=5), 10) == (196, 196, 10)
        layer = keras.layers.Conv2D(10, 5)
        assert layer.compute_output_shape((None, 200, 200, 3)) == (None, 196, 196, 10)

    def test_numbers_of_numpy_become_ints(self):
        size = output_size(np.int64(200), np.int32(5))
        assert size == 196
        assert type(size) is int

    def test_compiled_code_keeps_sizes_symbolic(self):
        """One graph serves all sizes: nothing in here turns a symbol into a number."""
        graphs = []

        def count(graph, _):
            graphs.append(graph)
            return graph.forward

        @torch.compile(backend=count, dynamic=True, fullgraph=True)
        def measure(x):
            (top, bottom), _ = paddings(x.shape, 3, 2, "same")
            return x.sum() * output_size(x.shape[0], 3, 2, (top, bottom))

        for n in (8, 9, 10, 11):
            assert measure(torch.ones(n, n)) == n * n * ((n + 1) // 2)
        assert len(graphs) == 1


class TestSame:
    @given(n=st.integers(1, 10**6), kernel=st.integers(1, 99), stride=st.integers(1, 99))
    def test_it_is_the_least_padding_and_an_odd_zero_comes_after(self, n, kernel, stride):
        before, after = same_padding(n, kernel, stride)
        assert output_size(n, kernel, stride, (before, after)) == -(-n // stride)
        assert after - before in (0, 1)
        if after:
            less = (before, after - 1)
            assert n + sum(less) < kernel or output_size(n, kernel, stride, less) < -(-n // stride)

    @pytest.mark.parametrize(
        ("stride", "dilation"), [(1, 1), (1, 2), (1, 3), (2, 1), (3, 1), (4, 1)]
    )
    def test_it_is_keras(self, stride, dilation):
        """With a kernel of powers of ten, the output tells which value of the input went where."""
        for n, kernel in itertools.product(range(1, 10), range(1, 6)):
            x = torch.arange(1.0, n + 1, dtype=torch.float64)
            w = 10.0 ** torch.arange(kernel, dtype=torch.float64)
            theirs = keras.ops.conv(
                x.reshape(1, n, 1), w.reshape(kernel, 1, 1), stride, "same", dilation_rate=dilation
            )
            padded = F.pad(x, same_padding(n, kernel, stride, dilation)).reshape(1, 1, -1)
            ours = F.conv1d(padded, w.reshape(1, 1, -1), stride=stride, dilation=dilation)
            assert ours.flatten().tolist() == theirs.flatten().tolist(), (n, kernel)

    @given(n=st.integers(1, 99), kernel=st.integers(1, 9), dilation=st.integers(1, 5))
    def test_without_stride_it_is_torchs(self, n, kernel, dilation):
        layer = torch.nn.Conv1d(1, 1, kernel, padding="same", dilation=dilation)
        right_to_left = layer._reversed_padding_repeated_twice
        assert list(same_padding(n, kernel, 1, dilation)) == right_to_left

    def test_a_stride_beyond_the_kernel_needs_no_padding(self):
        assert same_padding(7, kernel=1, stride=3) == (0, 0)

    def test_each_axis_of_an_image_has_its_own(self):
        assert paddings((224, 7), (3, 4), (2, 1), "same", (1, 2)) == ((0, 1), (3, 3))
        assert output_shape((224, 7), (3, 4), (2, 1), "same", (1, 2)) == (112, 7)

    def test_other_ways_to_give_a_padding(self):
        size = (9, 9)
        assert paddings(size, 3, padding="valid") == ((0, 0), (0, 0))
        assert paddings(size, 3, padding=2) == ((2, 2), (2, 2))
        assert paddings(size, 3, padding=(2, 1)) == ((2, 2), (1, 1))
        assert paddings(size, 3, padding=[(2, 1), (0, 3)]) == ((2, 1), (0, 3))


class TestParameters:
    def test_the_example_of_the_article(self):
        assert parameter_count(5, 3, 10) == 760
        layer = keras.layers.Conv2D(10, 5)
        layer.build((None, 200, 200, 3))
        assert layer.count_params() == 760

    @given(
        kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
        channels=st.tuples(st.integers(1, 9), st.integers(1, 9)),
        groups=st.integers(1, 9),
        bias=st.booleans(),
    )
    def test_it_is_torchs(self, kernel, channels, groups, bias):
        inputs, outputs = (groups * c for c in channels)
        layer = torch.nn.Conv2d(inputs, outputs, kernel, groups=groups, bias=bias, device="meta")
        count = sum(p.numel() for p in layer.parameters())
        assert parameter_count(kernel, inputs, outputs, groups, bias) == count

    @pytest.mark.parametrize(("network", "total"), [(VGG16, 138_357_544), (VGG19, 143_667_240)])
    def test_vgg(self, network, total):
        widths = [3, *(width for width in network if width != "M")]
        convolutions = sum(parameter_count(3, *ends) for ends in itertools.pairwise(widths))
        dense = [512 * 7 * 7, 4096, 4096, 1000]
        assert convolutions + sum((n + 1) * m for n, m in itertools.pairwise(dense)) == total


class TestMultiplyAdds:
    @pytest.mark.parametrize("groups", [1, 2, 4])
    @pytest.mark.parametrize("kernel", [(1, 1), (2, 3)])
    def test_the_products_of_the_definition_are_counted(self, kernel, groups):
        """Each term of the sum that defines each output is visited, and counted."""
        inputs, outputs, output = 4, 8, (3, 5)
        count = 0
        for f, _, _ in itertools.product(range(outputs), *map(range, output)):
            group = f // (outputs // groups)
            for c, _, _ in itertools.product(range(inputs), *map(range, kernel)):
                count += c // (inputs // groups) == group
        assert multiply_adds(output, kernel, inputs, outputs, groups) == count

    @given(
        size=st.tuples(st.integers(5, 50), st.integers(5, 50)),
        kernel=st.integers(1, 5),
        channels=st.tuples(st.integers(1, 9), st.integers(1, 9)),
        groups=st.integers(1, 4),
    )
    @settings(deadline=None)
    def test_it_is_torchs_count(self, size, kernel, channels, groups):
        from torch.utils.flop_counter import FlopCounterMode

        inputs, outputs = (groups * c for c in channels)
        layer = torch.nn.Conv2d(inputs, outputs, kernel, groups=groups, device="meta")
        with FlopCounterMode(display=False) as counter:
            output = layer(torch.empty(1, inputs, *size, device="meta")).shape[2:]
        ours = multiply_adds(output, kernel, inputs, outputs, groups)
        assert 2 * ours == counter.get_total_flops()


def windows_of_vgg(network, last: int) -> list[Window]:
    kinds = {"M": Window(2, stride=2)}
    return [kinds.get(width, Window(3, padding=1)) for width in network[:last]]


def support(windows: list[Window], n: int, position: int) -> list[int]:
    """Which of n inputs the output at a position depends on, by automatic differentiation."""
    x = torch.ones(1, 1, n, dtype=torch.float64, requires_grad=True)
    y = x
    for kernel, stride, dilation, padding in windows:
        # A mean, so that nothing cancels and nothing grows.
        w = torch.full((1, 1, kernel), 1 / kernel, dtype=x.dtype)
        y = F.conv1d(y, w, stride=stride, dilation=dilation, padding=padding)
    (gradient,) = torch.autograd.grad(y[0, 0, position], x)
    return gradient.flatten().nonzero().flatten().tolist()


class TestReceptiveField:
    @settings(deadline=None)
    @given(
        windows=st.lists(
            st.builds(
                Window,
                kernel=st.integers(1, 4),
                stride=st.integers(1, 3),
                dilation=st.integers(1, 3),
                padding=st.integers(0, 3),
            ),
            max_size=4,
        ),
        further=st.integers(0, 2),
    )
    def test_it_is_the_support_of_the_gradient(self, windows, further):
        field = receptive_field(windows)
        # The first output whose receptive field has no padding, and some further ones.
        position = max(-(field.start // field.jump), 0) + further
        first = field.start + position * field.jump
        n = first + field.size + 2 * field.jump
        seen = support(windows, n, position)
        assert seen[0] == first
        assert seen[-1] == first + field.size - 1
        if all(w.dilation == 1 and w.stride <= w.kernel for w in windows):
            assert len(seen) == field.size

    @pytest.mark.parametrize(
        ("last", "size", "jump"), [(2, 5, 1), (3, 6, 2), (17, 196, 16), (18, 212, 32)]
    )
    def test_vgg16(self, last, size, jump):
        """From conv1_2 and pool1 to conv5_3 and pool5."""
        windows = windows_of_vgg(VGG16, last)
        field = receptive_field(windows)
        assert field[:2] == (size, jump)
        assert len(support(windows, n=700, position=224 // jump)) == size

    def test_a_tuple_serves_as_a_window(self):
        chain = [(3,), (3, 2), (3, 1, 2), (2, 1, 1, (1, 0))]
        assert receptive_field(chain) == receptive_field(Window(*window) for window in chain)
        assert receptive_field(chain) == ReceptiveField(size=15, jump=2, start=-2)

    def test_no_layer_sees_one_value(self):
        assert receptive_field([]) == ReceptiveField(size=1, jump=1, start=0)


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda: output_size(4, 5), ValueError, "kernel of size 5 does not fit.* by 1 more"),
        (lambda: output_size(3, 3, padding=(0, 1), dilation=3), ValueError,
         r"dilation 3 spans 7 values.* size 3 padded by 0 \+ 1.* by 3 more"),
        (lambda: output_size(0, 1), ValueError, "n is 0, expected .* at least 1"),
        (lambda: output_size(4, 0), ValueError, "kernel is 0"),
        (lambda: output_size(4, 1, 0), ValueError, "stride is 0"),
        (lambda: output_size(4, 1, -2), ValueError, "stride is -2"),
        (lambda: output_size(4, 1, 1, -1), ValueError, "padding is -1, expected .* at least 0"),
        (lambda: output_size(4, 1, 1, 0, 0), ValueError, "dilation is 0"),
        (lambda: output_size(4, 1, 1, (1, 1, 1)), ValueError, r"one number or \(before, after\)"),
        (lambda: output_size(4.0, 1), TypeError, "n is 4.0, expected an integer"),
        (lambda: output_size(4, True), TypeError, "kernel is True, expected an integer"),
        (lambda: output_size(4, 1, "2"), TypeError, "stride is '2'"),
        (lambda: output_size(4, 1, 1, None), TypeError, "padding is None"),
        (lambda: same_padding(4, 3, 0), ValueError, "stride is 0"),
        (lambda: same_padding(0, 3), ValueError, "n is 0"),
        (lambda: paddings((4, 4), 3, padding="SAME"), ValueError, "'SAME', expected 'valid'"),
        (lambda: output_shape((4, 4, 3), 3), ValueError, "size is .* for height and width"),
        (lambda: output_shape((9, 4), (1, 5)), ValueError, "kernel of size 5 .* size 4 padded"),
        (lambda: output_shape((9, 9), 3, padding=(1, 1, 1, 1)), ValueError, "padding is"),
        (lambda: parameter_count(3, 6, 8, groups=4), ValueError,
         "groups is 4, expected a divisor of in_channels, 6"),
        (lambda: parameter_count(3, 8, 6, groups=4), ValueError, "divisor of out_channels, 6"),
        (lambda: parameter_count(3, 8, 6, groups=0), ValueError, "groups is 0"),
        (lambda: parameter_count(3, 0, 6), ValueError, "in_channels is 0"),
        (lambda: multiply_adds((3, 0), 3, 1, 1), ValueError, "output is 0"),
        (lambda: multiply_adds((3, 3), (3, -1), 1, 1), ValueError, "kernel is -1"),
        (lambda: receptive_field([(3, 0)]), ValueError, "stride is 0"),
        (lambda: receptive_field([(0,)]), ValueError, "kernel is 0"),
    ],
)  # fmt: skip
def test_mistakes_are_named(run, error, message):
    with pytest.raises(error, match=message):
        run()
