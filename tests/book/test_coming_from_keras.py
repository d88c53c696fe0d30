"""What the page "Coming from Keras" calls equal is equal, and it leaves out no argument."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
import os
import re
from collections.abc import Callable
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from companion import nn
from companion.nn.pretrained.preprocess import IMAGENET

os.environ["KERAS_BACKEND"] = "torch"
import keras
from keras import layers
from keras.applications import imagenet_utils

PAGE = Path(__file__).resolve().parents[2] / "book/reference/coming_from_keras.ipynb"
CELLS = nbformat.read(PAGE, as_version=4).cells

#: Keras's matrix products, statistics and losses are in float32, whatever the dtype of the layer.
SINGLE = 2e-6
#: The test of each row, by what stands in its first column.
CLAIMS: dict[str, Callable] = {}


def claim(*rows: str) -> Callable[[Callable], Callable]:
    """The decorated function tests what these rows say."""

    def register(test: Callable) -> Callable:
        CLAIMS.update(dict.fromkeys(rows, test))
        return test

    return register


def rows() -> list[list[str]]:
    """The three cells of every row of every table of the page."""
    lines = "\n".join(c.source for c in CELLS if c.cell_type == "markdown").splitlines()
    table = [line.strip("|").split("|") for line in lines if line.startswith("| ")]
    cells = [[cell.strip() for cell in row] for row in table]
    return [row for row in cells if row[0] != "Keras"]


def functions_of_the_page() -> dict:
    """Its imports and functions; nothing else of its cells is run."""
    definition = re.compile(r"^(?:import .*|from .*|def (?:.|\n)*?(?=\n\n\n|\Z))", re.MULTILINE)
    namespace: dict = {}
    for cell in CELLS:
        if cell.cell_type == "code":
            for source in definition.findall(cell.source):
                exec(source, namespace)
    return namespace


PAGES = functions_of_the_page()


@pytest.fixture(autouse=True)
def _double_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    keras.utils.set_random_seed(0)
    yield
    torch.set_default_dtype(before)


def images(*shape: int) -> torch.Tensor:
    """Random images with the channels last, as Keras wants them."""
    return torch.randn(shape)


def first(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 3, 1, 2)


def weights(layer: keras.Layer, x: torch.Tensor) -> list[torch.Tensor]:
    """As the page has them; biases are random, so that they count."""
    layer.build(tuple(x.shape))
    for variable in layer.weights:
        if variable.name == "bias":
            variable.assign(torch.randn(tuple(variable.shape)))
    return values(layer)


def values(layer: keras.Layer) -> list[torch.Tensor]:
    """What ``get_weights`` returns, as tensors."""
    return [variable.value.detach().clone() for variable in layer.weights]


def assert_equal(ours: torch.Tensor, theirs: torch.Tensor, atol: float = 1e-12) -> None:
    theirs = first(theirs) if theirs.ndim == 4 else theirs
    torch.testing.assert_close(ours, theirs.to(ours.dtype), rtol=0, atol=atol)


def compare_conv(x: torch.Tensor, filters: int, kernel: int, theirs: dict, ours: dict) -> None:
    layer = layers.Conv2D(filters, kernel, dtype="float64", **theirs)
    here = PAGES["conv_from_keras"](*weights(layer, x), **ours)
    assert isinstance(here, nn.Conv2d)
    assert_equal(here(first(x)), layer(x))


class TestThePage:
    def test_it_has_every_argument_of_conv2d(self):
        named = {name for row in rows() for name in re.findall(r"`(\w+)", row[0])}
        arguments = set(inspect.signature(layers.Conv2D).parameters) - {"kwargs"}
        assert len(arguments) == 16
        assert arguments <= named

    def test_every_row_that_says_equal_has_a_test(self):
        equal = {row[0] for row in rows() if row[2].startswith("equal")}
        assert len(equal) > 25
        assert equal <= set(CLAIMS)

    def test_every_test_has_a_row(self):
        assert set(CLAIMS) <= {row[0] for row in rows()}

    def test_what_it_names_exists(self):
        for name in re.findall(r"`nn\.(\w+)", " ".join(row[1] for row in rows())):
            assert hasattr(nn, name), name
        for name in re.findall(r"`([A-Z]\w+)\(", " ".join(row[0] for row in rows())):
            assert any(hasattr(m, name) for m in (keras, layers, keras.applications)), name

    def test_it_does_not_import_keras(self):
        code = "\n".join(cell.source for cell in CELLS if cell.cell_type == "code")
        assert not re.search(r"^\s*(import|from) (keras|tensorflow)", code, re.MULTILINE)


class TestConv2D:
    @claim("`filters`", "`kernel_size`", '`padding="valid"`')
    @pytest.mark.parametrize("kernel", [1, 2, 3, 4, (2, 5)])
    def test_kernels(self, kernel):
        x = images(2, 6, 7, 3)
        compare_conv(x, 4, kernel, {}, {})
        compare_conv(x, 4, kernel, {"padding": "valid"}, {"padding": "valid"})

    @claim("`strides`", '`padding="same"`')
    @pytest.mark.filterwarnings("ignore:Using padding='same' with even")
    def test_strides_and_same(self):
        for n, kernel, stride in itertools.product((5, 6, 7), (1, 2, 3, 4, 5), (1, 2, 3, (2, 1))):
            for padding in ("same", "valid"):
                compare_conv(
                    images(1, n, 7, 2),
                    3,
                    kernel,
                    {"strides": stride, "padding": padding},
                    {"stride": stride, "padding": padding},
                )

    @claim("`dilation_rate`")
    def test_dilation(self):
        for padding in ("same", "valid"):
            compare_conv(
                images(1, 9, 8, 2),
                3,
                3,
                {"dilation_rate": (2, 3), "padding": padding},
                {"dilation": (2, 3), "padding": padding},
            )
        with pytest.raises(ValueError, match="not supported in conjunction"):
            layers.Conv2D(3, 3, strides=2, dilation_rate=2)
        assert nn.Conv2d(2, 3, 3, stride=2, dilation=2, padding="same")(
            first(images(1, 9, 9, 2))
        ).shape == (1, 3, 5, 5)

    @claim("`groups`")
    @pytest.mark.parametrize("groups", [2, 4])
    def test_groups(self, groups):
        compare_conv(images(2, 6, 6, 4), 8, 3, {"groups": groups}, {"groups": groups})
        for make in (
            lambda: layers.Conv2D(6, 3, groups=4),
            lambda: nn.Conv2d(4, 6, 3, groups=4),
        ):
            with pytest.raises(ValueError, match="groups"):
                make()

    @claim("`activation`")
    def test_activation(self):
        x = images(1, 6, 6, 2)
        layer = layers.Conv2D(3, 3, activation="relu", dtype="float64")
        conv = PAGES["conv_from_keras"](*weights(layer, x))
        theirs = layer(x)
        assert (theirs == 0).any()
        assert_equal(nn.Sequential(conv, nn.ReLU())(first(x)), theirs)
        assert layers.Conv2D(3, 3).activation(-1.0) == -1.0

    @claim("`use_bias`")
    def test_use_bias(self):
        x = images(1, 6, 6, 2)
        layer = layers.Conv2D(3, 3, use_bias=False, dtype="float64")
        (kernel,) = weights(layer, x)
        here = nn.Conv2d(2, 3, 3, bias=False)
        here.weight.data = kernel.permute(3, 2, 0, 1)
        assert_equal(here(first(x)), layer(x))
        assert layers.Conv2D(3, 3).use_bias
        assert nn.Conv2d(2, 3, 3).bias is not None

    @claim("`kernel_initializer`", "`bias_initializer`")
    @pytest.mark.parametrize("groups", [1, 4])
    def test_initial_weights(self, groups):
        """Uniform within the same bounds: the quantiles of many weights are alike."""
        layer = layers.Conv2D(64, (3, 5), groups=groups, dtype="float64")
        layer.build((1, 9, 9, 32))
        here = nn.Conv2d(32, 64, (3, 5), groups=groups)
        bound = 1 / np.sqrt(3 * 5 * 32 // groups)
        for p in here.parameters():
            assert 0.9 * bound < p.abs().max() <= bound
        torch.nn.init.xavier_uniform_(here.weight)
        torch.nn.init.zeros_(here.bias)
        parts = torch.linspace(0, 1, 9)
        theirs, there_bias = values(layer)
        theirs = theirs.flatten()
        ours = here.weight.detach().flatten()
        limit = theirs.abs().max()
        assert (ours.quantile(parts) - theirs.quantile(parts)).abs().max() < 0.08 * limit
        assert ours.abs().max() == pytest.approx(float(limit), rel=2e-3)
        assert torch.equal(here.bias, there_bias)

    @claim("`kernel_regularizer`", "`bias_regularizer`", "`activity_regularizer`")
    def test_regularisers(self):
        x = images(4, 6, 6, 2)
        l2 = keras.regularizers.L2
        layer = layers.Conv2D(
            3, 3, kernel_regularizer=l2(0.1), bias_regularizer=l2(0.2),
            activity_regularizer=l2(0.3), dtype="float64",
        )  # fmt: skip
        here = PAGES["conv_from_keras"](*weights(layer, x))
        y = here(first(x))
        layer(x)
        theirs = sorted(float(loss.detach()) for loss in layer.losses)
        ours = [
            0.1 * here.weight.square().sum(),
            0.2 * here.bias.square().sum(),
            0.3 * y.square().sum() / len(x),
        ]
        assert theirs == pytest.approx(sorted(float(loss.detach()) for loss in ours), rel=1e-6)


class TestOtherLayers:
    @claim("`DepthwiseConv2D(k)`")
    @pytest.mark.parametrize("options", [{}, {"padding": "same"}])
    def test_depthwise(self, options):
        x = images(1, 7, 6, 3)
        layer = layers.DepthwiseConv2D((3, 5), depth_multiplier=2, dtype="float64", **options)
        assert_equal(
            PAGES["depthwise_from_keras"](*weights(layer, x), **options)(first(x)), layer(x)
        )

    @claim("`SeparableConv2D`")
    def test_separable(self):
        x = images(1, 7, 6, 3)
        layer = layers.SeparableConv2D(5, 3, dtype="float64")
        depthwise, pointwise, bias = weights(layer, x)
        ours = nn.Sequential(
            PAGES["depthwise_from_keras"](depthwise, torch.zeros(3)),
            PAGES["conv_from_keras"](pointwise, bias),
        )
        assert_equal(ours(first(x)), layer(x))

    @claim("`MaxPooling2D(k)`", "`AveragePooling2D(k)`")
    @pytest.mark.parametrize(("kernel", "strides"), [(2, None), (3, None), (3, 2), ((2, 3), 1)])
    def test_pooling(self, kernel, strides):
        x = images(2, 7, 8, 3)
        for there, here in (
            (layers.MaxPooling2D, nn.MaxPool2d),
            (layers.AveragePooling2D, nn.AvgPool2d),
        ):
            assert_equal(
                here(kernel, strides)(first(x)), there(kernel, strides, dtype="float64")(x)
            )

    @claim('both of size 2, `padding="same"`')
    @pytest.mark.parametrize("n", [4, 5, 6, 7])
    def test_pooling_same(self, n):
        x = images(2, n, 7, 3) - 5
        for there, here in (
            (layers.MaxPooling2D, nn.MaxPool2d),
            (layers.AveragePooling2D, nn.AvgPool2d),
        ):
            theirs = there(2, padding="same", dtype="float64")(x)
            assert_equal(here(2, ceil_mode=True)(first(x)), theirs)
        for kernel, stride in itertools.product((2, 3, 4), (1, 2, 3)):
            theirs = layers.MaxPooling2D(kernel, stride, "same", dtype="float64")(x)
            assert_equal(PAGES["max_pool_same"](first(x), kernel, stride), theirs)

    @claim("`GlobalAveragePooling2D()`", "`GlobalMaxPooling2D()`")
    def test_global_pooling(self):
        x = images(2, 7, 8, 3)
        assert_equal(nn.GlobalAvgPool2d()(first(x)), layers.GlobalAveragePooling2D()(x), 1e-6)
        assert_equal(first(x).amax((2, 3)).float(), layers.GlobalMaxPooling2D()(x).float(), atol=0)

    @claim("`BatchNormalization()`")
    def test_batch_normalisation(self):
        x = images(4, 5, 5, 3)
        layer = layers.BatchNormalization(momentum=0.9, epsilon=0.01, dtype="float64")
        layer.build(tuple(x.shape))
        layer.set_weights([np.random.default_rng(k).uniform(1, 2, 3) for k in range(4)])
        here = PAGES["batch_norm_from_keras"](*values(layer), momentum=0.9, epsilon=0.01)
        assert_equal(here(first(x)), layer(x), atol=SINGLE)
        before = here.running_var.clone()
        assert_equal(here.train()(first(x)), layer(x, training=True), atol=SINGLE)
        _, _, mean, variance = values(layer)
        torch.testing.assert_close(here.running_mean, mean, rtol=1e-6, atol=0)
        m = x[..., 0].numel()
        ours = (here.running_var - 0.9 * before) / 0.1  # what was taken of this batch
        theirs = (variance - 0.9 * before) / 0.1
        torch.testing.assert_close(ours, theirs * m / (m - 1), rtol=1e-4, atol=0)
        default = layers.BatchNormalization()
        assert (default.momentum, default.epsilon) == (0.99, 1e-3)
        assert (nn.BatchNorm2d(3).momentum, nn.BatchNorm2d(3).eps) == (0.1, 1e-5)

    @claim("`Dense(units)`")
    def test_dense(self):
        x = torch.randn(5, 7)
        layer = layers.Dense(4, dtype="float64")
        assert_equal(PAGES["dense_from_keras"](*weights(layer, x))(x), layer(x), atol=SINGLE)

    @claim("`Flatten()`")
    def test_dense_after_flatten(self):
        x = images(2, 4, 5, 3)
        flat = layers.Flatten(dtype="float64")(x)
        layer = layers.Dense(6, dtype="float64")
        dense = PAGES["dense_from_keras"](*weights(layer, flat), image_shape=(4, 5, 3))
        assert_equal(nn.Sequential(nn.Flatten(), dense)(first(x)), layer(flat), atol=SINGLE)
        assert not torch.allclose(nn.Flatten()(first(x)), flat)

    @claim("`Dropout(rate)`")
    def test_dropout(self):
        x = torch.ones(100, 100)
        ours = nn.Dropout(0.2).train()(x)
        theirs = layers.Dropout(0.2, seed=0, dtype="float64")(x, training=True)
        for y in (ours, theirs):
            assert y.unique().tolist() == [0, pytest.approx(1.25)]
            assert float((y == 0).sum()) / y.numel() == pytest.approx(0.2, abs=0.02)
        assert torch.equal(nn.Dropout(0.2).eval()(x), layers.Dropout(0.2, dtype="float64")(x))

    @claim("`ReLU(max_value=6)`")
    def test_relu6(self):
        x = 9 * torch.randn(50)
        assert_equal(nn.ReLU6()(x), layers.ReLU(max_value=6, dtype="float64")(x), atol=0)

    def test_cross_entropy(self):
        logits, labels = 10 * torch.randn(6, 4), torch.tensor([0, 3, 1, 2, 2, 0])
        theirs = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
        assert_equal(nn.CrossEntropyLoss()(logits, labels), theirs(labels, logits), 1e-5)


def small_networks() -> tuple[keras.Sequential, nn.Sequential, torch.Tensor]:
    """One of each kind of layer with weights, and an image."""
    x = images(2, 9, 8, 3)
    theirs = keras.Sequential(
        [
            keras.Input((9, 8, 3)),
            layers.Conv2D(4, 3, padding="same", strides=2, dtype="float64"),
            layers.BatchNormalization(dtype="float64"),
            layers.ReLU(dtype="float64"),
            layers.MaxPooling2D(2, dtype="float64"),
            layers.Flatten(dtype="float64"),
            layers.Dense(5, dtype="float64"),
        ]
    )
    conv, norm, _, _, _, dense = theirs.layers
    ours = nn.Sequential(
        PAGES["conv_from_keras"](*values(conv), padding="same", stride=2),
        PAGES["batch_norm_from_keras"](*values(norm)),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        PAGES["dense_from_keras"](*values(dense), image_shape=(2, 2, 4)),
    )
    return theirs, ours, x


class TestNetworks:
    @claim("`Sequential([...])`")
    def test_a_network_carried_over(self):
        theirs, ours, x = small_networks()
        assert_equal(ours(first(x)), theirs(x), atol=SINGLE)

    @claim("`model.summary()`")
    def test_summary(self):
        theirs, ours, _ = small_networks()
        table = nn.summary(ours, (9, 8, 3), channels_last=True)
        shapes = [row.outputs[0] for row in table.rows]
        assert shapes == [tuple(layer.output.shape) for layer in theirs.layers]
        counts = [sum(math.prod(w.shape) for w in a.trainable_weights) for a in theirs.layers]
        assert [row.parameters for row in table.rows] == counts
        # Running statistics: the buffers, less the count of batches that PyTorch keeps.
        assert table.parameters + table.buffers - 1 == theirs.count_params()

    @claim('`preprocess_input`, mode `"torch"`')
    def test_preprocessing(self):
        image = torch.randint(256, (1, 3, 224, 224), dtype=torch.uint8)
        ours = dataclasses.replace(IMAGENET, resize=224)(image)
        theirs = imagenet_utils.preprocess_input(
            image.permute(0, 2, 3, 1).double().numpy(), "channels_last", mode="torch"
        )
        assert_equal(ours.double(), torch.from_numpy(theirs), atol=1e-5)

    @claim("`preprocess_input` of VGG")
    def test_preprocessing_of_the_authors(self):
        red = np.zeros((1, 1, 1, 3))
        red[..., 0] = 255
        blue, green, last = keras.applications.vgg19.preprocess_input(red, "channels_last")[0, 0, 0]
        assert blue < 0 and green < 0 and last == pytest.approx(255 - 123.68)  # noqa: PT018

    @claim("`decode_predictions`")
    def test_decoding(self, monkeypatch):
        names = {str(k): (f"n{k}", name) for k, name in enumerate(nn.imagenet_classes())}
        module = inspect.getmodule(imagenet_utils.decode_predictions)
        monkeypatch.setattr(module, "CLASS_INDEX", names)  # instead of a download
        logits = 3 * torch.randn(1, 1000)
        (theirs,) = imagenet_utils.decode_predictions(logits.softmax(1).numpy(), top=5)
        ours = nn.top(logits, k=5)
        assert [(p.name, p.probability) for p in ours] == [
            (name, pytest.approx(float(score))) for _, name, score in theirs
        ]
