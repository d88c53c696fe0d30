"""DepthCAM: the maps at every depth, what they cost, and what they leave behind."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from collections import OrderedDict
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from companion import FixedStep, SolverError, solve
from companion.adjoint import Backsolve, Checkpointed, Gauss, Reversible
from companion.cam import CAM, DepthCAM, DepthMaps, GradCAM, Top
from companion.cam.rules import RULES
from companion.nn import ODEBlock, ODENet, residual_net
from tests.cam.networks import images

EXACT = {"rtol": 1e-12, "atol": 1e-14}
STRATEGIES = ["checkpointed", "reversible", "backsolve", "gauss"]
TIGHT, LOOSE = {"rtol": 1e-10, "atol": 1e-10}, {"rtol": 1e-4, "atol": 1e-4}
CLASSES = [1, 4, 0]


class Field(nn.Module):
    """Smooth, and another one at every time."""

    def __init__(self, channels):
        super().__init__()
        self.one = nn.Conv2d(channels, channels, 3, padding=1)
        self.other = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, t, z):
        return 2 * self.other(torch.tanh(2 * (1 - t) * self.one(z) + t))


def head(channels):
    """Its gradient is another one at every place."""
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 5),
    )


def around(block, channels=3):
    parts = OrderedDict(stem=nn.Conv2d(3, 3, 3, stride=2), block=block, head=head(channels))
    model = nn.Sequential(parts).double().eval()
    return model


def ode_net(gradient="checkpointed", augment=0, **options):
    torch.manual_seed(0)
    options = LOOSE | options
    block = ODEBlock(Field(3 + augment), gradient=gradient, augment=augment, **options)
    return around(block, 3 + augment)


def euler_net(layers=4, gradient="checkpointed"):
    return ode_net(gradient, method="euler", control=FixedStep(1 / layers))


def chain(model, layers=4):
    """The residual network whose layers are the steps of `euler_net`."""
    from companion.nn import Residual

    f = model.block.f
    steps = [Residual(f, n / layers, 1 / layers) for n in range(layers)]
    parts = OrderedDict(stem=model.stem, block=nn.Sequential(*steps), head=model.head)
    return nn.Sequential(parts)


def one_by_one(model, x, classes, times):
    """At each time a gradient of its own, with the solve in two halves."""
    block = model.block
    states, adjoints = [], []
    with torch.no_grad():
        z0 = model.stem(x)
        z0 = nn.functional.pad(z0, (0, 0, 0, 0, 0, block.augment))
    t0, t1 = block.t
    for t in times:
        with torch.no_grad():
            z = z0 if t == t0 else solve(block.f, z0, [t0, t], **TIGHT).y[-1]
        z.requires_grad_()
        end = z if t == t1 else solve(block.f, z, [t, t1], gradient="direct", **TIGHT).y[-1]
        score = model.head(end)[torch.arange(len(x)), classes]
        (a,) = torch.autograd.grad(score.sum(), z)
        states.append(z.detach())
        adjoints.append(a)
    return torch.stack(states, 1), torch.stack(adjoints, 1), score.detach()


@pytest.mark.parametrize("gradient", STRATEGIES)
def test_one_backward_solve_gives_what_a_gradient_for_every_depth_does(gradient):
    model, x, classes = ode_net(gradient, **TIGHT), images(), torch.tensor(CLASSES)
    times = [0.0, 0.13, 0.5, 0.77, 1.0]
    z, a, score = one_by_one(model, x, classes, times)
    alpha = a.mean((3, 4))
    seen = DepthCAM(model)(x, classes, times)
    close = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(seen.activation, z, **close)
    torch.testing.assert_close(seen.gradient, a, **close)
    torch.testing.assert_close(seen.weights, alpha, **close)
    torch.testing.assert_close(seen.map, torch.einsum("ntk,ntkij->ntij", alpha, z), **close)
    torch.testing.assert_close(seen.score, score, **close)
    assert seen.depth.tolist() == times
    assert seen.depth.dtype == torch.float64
    assert seen.target.tolist() == CLASSES
    assert seen.layer == "block"
    # The adjoint does move, so that this is not one map five times.
    assert (alpha[:, 0] - alpha[:, -1]).abs().max() > 0.05 * alpha.abs().max()
    tensors = (seen.map, seen.weights, seen.activation, seen.gradient, seen.score)
    assert not any(t.requires_grad for t in tensors)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("gradient", STRATEGIES)
def test_at_the_ends_it_is_grad_cam_of_the_output_and_of_the_input(gradient, rule):
    model, x = ode_net(gradient), images()
    seen = DepthCAM(model, "block", rule=rule)(x, CLASSES, 3)
    behind = GradCAM(model, "block", rule=rule)(x, CLASSES)
    before = GradCAM(model, "stem", rule=rule)(x, CLASSES)
    for record, expected, at_end in ((seen.at(-1), behind, True), (seen.at(0), before, False)):
        assert torch.equal(record.activation, expected.activation)
        # The strategy's own gradient, but for the order of sums.
        torch.testing.assert_close(record.gradient, expected.gradient, **EXACT)
        torch.testing.assert_close(record.map, expected.map, rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(record.weights, expected.weights, rtol=1e-10, atol=1e-14)
        assert torch.equal(record.score, expected.score)
        if at_end and gradient in ("checkpointed", "reversible"):  # the others scale a loss
            assert torch.equal(record.gradient, expected.gradient)
            assert torch.equal(record.map, expected.map)


@pytest.mark.parametrize("rule", RULES)
def test_a_residual_network_has_the_maps_of_hooks_at_every_layer(rule):
    model, x = chain(euler_net()), images()
    seen = DepthCAM(model, "block", rule=rule)(x, CLASSES)
    assert seen.depth.tolist() == [0, 1, 2, 3, 4]
    assert seen.depth.dtype == torch.int64
    layers = ["stem", *(f"block.{n}" for n in range(4))]
    for n, expected in enumerate(GradCAM(model, layers, rule=rule)(x, CLASSES)):
        found = seen.at(n)
        assert torch.equal(found.activation, expected.activation)
        for name in ("map", "weights", "gradient", "score"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name), **EXACT)
    assert seen.stats is None
    assert seen.layer == "block"


@pytest.mark.parametrize("rule", RULES)
def test_a_residual_network_is_an_ode_net_with_eulers_steps(rule):
    model, x = euler_net(), images()
    of_steps = DepthCAM(model, rule=rule)(x, CLASSES, 5)
    of_layers = DepthCAM(chain(model), "block", rule=rule)(x, CLASSES)
    for name in ("map", "weights", "activation", "gradient", "score"):
        torch.testing.assert_close(getattr(of_steps, name), getattr(of_layers, name), **EXACT)


def test_maps_of_a_deeper_residual_network_come_nearer_to_the_ode_nets():
    model, x = ode_net(**TIGHT), images()
    limit = DepthCAM(model)(x, 1, 3).map
    errors = []
    for layers in (16, 32, 64):
        deep = DepthCAM(chain(model, layers), "block")(x, 1, 3)
        assert deep.depth.tolist() == [0, layers // 2, layers]
        errors.append(float((deep.map - limit).abs().max()))
    orders = [np.log2(a / b) for a, b in pairwise(errors)]
    assert orders == pytest.approx([1, 1], abs=0.1)


@pytest.mark.parametrize("gradient", STRATEGIES)
def test_24_depths_cost_little_more_than_one_gradient(gradient):
    model, x = ode_net(gradient, rtol=1e-5, atol=1e-5), images()
    calls, runs = [], []
    model.block.f.register_forward_hook(lambda *_: calls.append(1))
    model.stem.register_forward_hook(lambda *_: runs.append(1))
    z0 = model.stem(x).detach().requires_grad_()
    model.head(model.block(z0))[:, 1].sum().backward()
    gradient_alone = len(calls)
    calls.clear()
    runs.clear()
    seen = DepthCAM(model)(x, 1, 24)
    assert len(runs) == 1
    assert len(calls) <= 1.5 * gradient_alone
    assert seen.stats.evaluations > 0
    assert seen.stats.backward.evaluations > 0
    assert len(calls) == seen.stats.evaluations + seen.stats.backward.evaluations


@pytest.mark.parametrize("gradient", ["backsolve", "gauss"])
def test_of_a_continuous_adjoint_the_depths_are_free(gradient):
    cam, x = DepthCAM(ode_net(gradient, rtol=1e-5, atol=1e-5)), images()
    few, many = (cam(x, 1, depths).stats.backward.evaluations for depths in (2, 99))
    assert few == many


def test_no_gradient_of_a_parameter_is_computed():
    model = ode_net("backsolve")
    with torch.no_grad():
        frozen = copy.deepcopy(model)
    seen = []
    for p in model.block.parameters():
        p.register_hook(lambda g: seen.append(g))
    DepthCAM(model)(images(), 1, 3)
    assert not seen
    for p in frozen.parameters():
        p.requires_grad_(False)
    assert torch.equal(
        DepthCAM(frozen)(images(), 1, 3).gradient, DepthCAM(model)(images(), 1, 3).gradient
    )


def test_several_classes_share_one_forward_pass():
    model, x = ode_net(), images()
    runs = []
    model.stem.register_forward_hook(lambda *_: runs.append(1))
    classes = [[0, 1], [4, 2], [3, 3]]
    cam = DepthCAM(model)
    seen = cam(x, classes, 4)
    assert runs == [1]
    assert seen.map.shape == (3, 2, 4, 6, 6)
    assert seen.weights.shape == (3, 2, 4, 3)
    assert seen.gradient.shape == (3, 2, 4, 3, 6, 6)
    assert seen.activation.shape == (3, 4, 3, 6, 6)
    assert seen.score.shape == (3, 2)
    assert seen.target.tolist() == classes
    assert seen.heatmap((14, 14)).shape == (3, 2, 4, 14, 14)
    for column in range(2):
        one = cam(x, [row[column] for row in classes], 4)
        torch.testing.assert_close(seen.activation, one.activation, **EXACT)
        for name in ("map", "weights", "gradient", "score"):
            torch.testing.assert_close(getattr(seen, name)[:, column], getattr(one, name), **EXACT)
    at = seen.at(2)
    assert isinstance(at, CAM)
    assert torch.equal(at.map, seen.map[:, :, 2])
    assert torch.equal(at.weights, seen.weights[:, :, 2])
    assert torch.equal(at.gradient, seen.gradient[:, :, 2])
    assert torch.equal(at.activation, seen.activation[:, 2])


def test_several_classes_of_a_residual_network():
    model, x = chain(euler_net()), images()
    classes = [[0, 1], [4, 2], [3, 3]]
    seen = DepthCAM(model, "block")(x, classes, [1, 4])
    for i, layer in enumerate(["block.0", "block.3"]):
        expected = GradCAM(model, layer)(x, classes)
        torch.testing.assert_close(seen.at(i).map, expected.map, **EXACT)
        torch.testing.assert_close(seen.at(i).gradient, expected.gradient, **EXACT)


@pytest.mark.parametrize("rule", ["hires-cam", "layer-cam"])
def test_rules_with_a_weight_to_a_position_keep_it(rule):
    seen = DepthCAM(ode_net(), rule=rule)(images(), [[1, 2]] * 3, 4)
    assert seen.weights.shape == (3, 2, 4, 3, 6, 6)
    expected = (seen.weights * seen.activation[:, None]).sum(3)
    torch.testing.assert_close(seen.map, expected, **EXACT)


def test_targets_are_those_of_grad_cam():
    model, x = ode_net(), images()
    names = ["ant", "bee", "cat", "dog", "eel"]
    cam, layer = DepthCAM(model, names=names), GradCAM(model, "block", names=names)
    for targets in (None, Top(2), "dog", ["ant", 2, "eel"], lambda y: y[:, 1] - y[:, 2]):
        seen, expected = cam(x, targets, 2), layer(x, targets)
        assert torch.equal(seen.at(-1).map, expected.map)
        assert torch.equal(seen.score, expected.score)
        if seen.target is None:
            assert expected.target is None
        else:
            assert torch.equal(seen.target, expected.target)


@pytest.mark.parametrize("block", [None, "chain"])
@pytest.mark.parametrize("rule", RULES)
def test_the_counterfactual_is_the_map_of_the_negative_score(rule, block):
    model = ode_net() if block is None else chain(euler_net())
    cam, x = DepthCAM(model, block and "block", rule=rule), images()
    found = cam(x, 1, 3, counterfactual=True)
    expected = cam(x, lambda y: -y[:, 1], 3)
    torch.testing.assert_close(found.map, expected.map, **EXACT)
    torch.testing.assert_close(found.score, -expected.score, **EXACT)


@pytest.mark.parametrize("gradient", STRATEGIES)
def test_images_of_a_batch_do_not_mix(gradient):
    model, x = ode_net(gradient, method="rk4", control=FixedStep(0.125)), images()
    cam = DepthCAM(model)
    together = cam(x, [1, 2, 3], [0.1, 0.5, 1.0])
    for n in range(3):
        alone = cam(x[n : n + 1], n + 1, [0.1, 0.5, 1.0])
        torch.testing.assert_close(together.map[n], alone.map[0], rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(together.gradient[n], alone.gradient[0], rtol=1e-10, atol=1e-13)


def test_channels_of_zeros_are_a_part_of_the_state():
    model, x = ode_net(augment=2, **TIGHT), images()
    times = [0.0, 0.4, 1.0]
    seen = DepthCAM(model)(x, CLASSES, times)
    z, a, _ = one_by_one(model, x, torch.tensor(CLASSES), times)
    torch.testing.assert_close(seen.activation, z, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(seen.gradient, a, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(seen.at(0).map, GradCAM(model, "stem")(x, CLASSES).map, **EXACT)


class Solves(nn.Module):
    """Any module that solves; ``run`` says how, of the field and the input."""

    def __init__(self, run):
        super().__init__()
        self.f = Field(3)
        self.mix = nn.Conv2d(3, 3, 1)
        self.run = run

    def forward(self, z):
        return self.run(self, z)


def solving(run):
    torch.manual_seed(0)
    return around(Solves(run))


def test_any_module_that_solves_is_a_block():
    """What it makes of the solution is a part of the score, and what it makes of its input not."""

    def run(self, z):
        y = solve(self.f, 2 * z, [0.5, 1.0, 2.0], **TIGHT).y
        return self.mix(y[-1]) + y[1].square()

    model, x = solving(run), images()
    seen = DepthCAM(model, "block")(x, 1, [0.5, 0.75, 1.5, 2.0])
    block = model.block
    with torch.no_grad():
        z0 = 2 * model.stem(x)
    for i, t in enumerate(seen.depth.tolist()):
        z = z0 if i == 0 else solve(block.f, z0, [0.5, t], **TIGHT).y[-1].detach()
        z.requires_grad_()
        if t < 1:
            y1, y2 = solve(block.f, z, [t, 1.0, 2.0], gradient="direct", **TIGHT).y[1:]
        else:  # the earlier output does not depend on it
            y1 = solve(block.f, z0, [0.5, 1.0], **TIGHT).y[-1].detach()
            y2 = z if t == 2 else solve(block.f, z, [t, 2.0], gradient="direct", **TIGHT).y[-1]
        score = model.head(block.mix(y2) + y1.square())[:, 1]
        (a,) = torch.autograd.grad(score.sum(), z)
        torch.testing.assert_close(seen.gradient[:, i], a, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(seen.activation[:, i], z.detach(), rtol=1e-5, atol=1e-6)


def test_a_solve_backwards_in_time():
    model = solving(lambda self, z: solve(self.f, z, [1.0, 0.0], **LOOSE).y[-1])
    x = images()
    seen = DepthCAM(model, "block")(x, 1, 3)
    assert seen.depth.tolist() == [1.0, 0.5, 0.0]
    assert torch.equal(seen.at(-1).map, GradCAM(model, "block")(x, 1).map)
    torch.testing.assert_close(seen.at(0).map, GradCAM(model, "stem")(x, 1).map, **EXACT)
    assert torch.equal(DepthCAM(model, "block")(x, 1, [1.0, 0.5, 0.0]).map, seen.map)
    with pytest.raises(ValueError, match="strictly decreasing depths"):
        DepthCAM(model, "block")(x, 1, [0.0, 0.5])


@pytest.mark.parametrize("first", [True, False])
def test_one_of_two_blocks(first):
    torch.manual_seed(0)
    one, other = (ODEBlock(Field(3), **LOOSE) for _ in range(2))
    model, x = around(nn.Sequential(one, other)), images()
    with pytest.raises(ValueError, match=r"several ODE blocks, 'block\.0', 'block\.1'; name one"):
        DepthCAM(model)
    name, before = ("block.0", "stem") if first else ("block.1", "block.0")
    seen = DepthCAM(model, name)(x, 1, 3)
    assert torch.equal(seen.at(-1).activation, GradCAM(model, name)(x, 1).activation)
    torch.testing.assert_close(seen.at(-1).map, GradCAM(model, name)(x, 1).map, **EXACT)
    torch.testing.assert_close(seen.at(0).map, GradCAM(model, before)(x, 1).map, **EXACT)
    # As layers of a chain both have the depths at their ends.
    ends = DepthCAM(model, "block")(x, 1)
    torch.testing.assert_close(ends.at(1).map, GradCAM(model, "block.0")(x, 1).map, **EXACT)


def test_an_operation_in_place_behind_the_block_changes_nothing():
    apart, inplace = ode_net(), ode_net()
    apart.head.insert(0, nn.ReLU())
    inplace.head.insert(0, nn.ReLU(inplace=True))
    assert torch.equal(DepthCAM(inplace)(images(), 1, 3).map, DepthCAM(apart)(images(), 1, 3).map)
    own, apart = (
        solving(lambda self, z, end=end: end(solve(self.f, z, [0.0, 1.0], **LOOSE).y[-1]))
        for end in (torch.relu_, torch.relu)
    )
    assert torch.equal(
        DepthCAM(own, "block")(images(), 1, 3).map, DepthCAM(apart, "block")(images(), 1, 3).map
    )


def test_what_passes_the_block_by_is_no_part_of_it():
    class Skip(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return x + self.inner(x)

    for inner in (ode_net().block, chain(euler_net()).block):
        model, x = around(Skip(inner)), images()
        seen = DepthCAM(model, "block.inner")(x, 1, 2)
        alone = around(copy.deepcopy(inner))
        alone.load_state_dict(model.state_dict(), strict=False)
        # By the chain rule in the one place where both meet.
        end = model.block(model.stem(x)).detach().requires_grad_()
        (cotangent,) = torch.autograd.grad(model.head(end)[:, 1].sum(), end)
        z = model.stem(x).detach().requires_grad_()
        (expected,) = torch.autograd.grad(model.block.inner(z), z, cotangent)
        torch.testing.assert_close(seen.gradient[:, 0], expected, **EXACT)


@pytest.mark.parametrize(
    "given",
    [
        lambda model: "block",
        lambda model: model.block,
        lambda model: list(model.block),
        lambda model: tuple(f"block.{n}" for n in range(4)),
        lambda model: model.block[:],  # a Sequential that is no part of the model
        lambda model: nn.ModuleList(model.block),
    ],
)
def test_a_chain_goes_by_name_by_module_or_by_its_layers(given):
    model, x = chain(euler_net()), images()
    expected = DepthCAM(model, "block")(x, 1)
    cam = DepthCAM(model, given(model))
    assert torch.equal(cam(x, 1).map, expected.map)
    assert cam.block in ("block", "block.0 to block.3")
    assert cam(x, 1).layer == cam.block


def test_a_part_of_a_chain():
    model, x = chain(euler_net()), images()
    whole = DepthCAM(model, "block")(x, 1)
    part = DepthCAM(model, model.block[1:3])(x, 1)
    assert part.depth.tolist() == [0, 1, 2]
    torch.testing.assert_close(part.map, whole.map[:, 1:4], **EXACT)
    torch.testing.assert_close(part.gradient, whole.gradient[:, 1:4], **EXACT)


def test_layers_of_a_chain_that_are_chosen():
    cam, x = DepthCAM(chain(euler_net(6), 6), "block"), images()
    whole = cam(x, 1)
    for depths, expected in [
        ([0, 6], [0, 6]),
        (torch.tensor([1, 5]), [1, 5]),
        ([4], [4]),
        (2, [0, 6]),
        (3, [0, 3, 6]),
        (4, [0, 2, 4, 6]),
        (5, [0, 2, 3, 5, 6]),
        (7, [0, 1, 2, 3, 4, 5, 6]),
        (np.int64(3), [0, 3, 6]),
    ]:
        seen = cam(x, 1, depths)
        assert seen.depth.tolist() == expected
        torch.testing.assert_close(seen.map, whole.map[:, expected], **EXACT)


def test_times_that_are_chosen():
    cam, x = DepthCAM(ode_net()), images()
    assert DepthCAM(ode_net())(x, 1).depth.tolist() == [n / 8 for n in range(9)]
    whole = cam(x, 1, 5)
    assert whole.depth.tolist() == [0, 0.25, 0.5, 0.75, 1]
    for depths in ([0.25], (0.25,), np.array([0.25]), torch.tensor([0.25]), [np.float32(0.25)]):
        seen = cam(x, 1, depths)
        assert seen.depth.tolist() == [0.25]
        torch.testing.assert_close(seen.map[:, 0], whole.map[:, 1], **EXACT)


@pytest.mark.parametrize("span", [(0.0, 0.1), (0.7, 1.3)])
def test_times_in_single_precision_reach_the_ends(span):
    model, x = ode_net(), images()
    model.block.t = span
    t = torch.linspace(*span, 3, dtype=torch.float32)
    assert not span[0] <= t[0].item() <= t[-1].item() <= span[1]
    seen, whole = DepthCAM(model)(x, 1, t), DepthCAM(model)(x, 1, 3)
    torch.testing.assert_close(seen.map, whole.map, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("depths", "error", "words"),
    [
        (True, TypeError, "got True"),
        (1.5, TypeError, "expected how many, or a sequence"),
        ("all", TypeError, "got 'all'"),
        (b"ab", TypeError, "got b'ab'"),
        (torch.tensor(True), TypeError, "got True"),
        (1, ValueError, r"at least 2, got 1; for one depth give it in a list, such as \[1\.0\]"),
        (0, ValueError, "at least 2, got 0"),
        (-3, ValueError, "at least 2, got -3"),
        ([], ValueError, "empty sequence"),
        (torch.empty(0), ValueError, "empty sequence"),
        ([0.0, float("nan")], ValueError, "finite numbers, got nan"),
        ([0.0, float("inf")], ValueError, "finite numbers, got inf"),
        ([0.0, "1"], TypeError, "expected numbers, got '1'"),
        ([0.0, True], TypeError, "expected numbers, got True"),
        ([0.0, 1j], TypeError, "expected numbers, got 1j"),
        ([[0.0, 1.0]], TypeError, r"expected numbers, got \[0\.0, 1\.0\]"),
        ([-0.1, 0.5], ValueError, r"-0\.1 is outside the times of the block, 0\.0 to 1\.0"),
        ([0.5, 1.0000001], ValueError, r"1\.0000001 is outside"),
        ([0.5, 0.5], ValueError, r"strictly increasing depths.*got 0\.5 after 0\.5"),
        ([0.5, 0.25], ValueError, r"got 0\.25 after 0\.5"),
    ],
)
def test_depths_that_are_none(depths, error, words):
    with pytest.raises(error, match=words):
        DepthCAM(ode_net())(images(), 1, depths)


@pytest.mark.parametrize(
    ("depths", "error", "words"),
    [
        ([0.5], TypeError, "numbers of layers, integers, got 0.5"),
        ([5], ValueError, "5 does not exist; 4 layers have the depths 0 to 4"),
        ([-1], ValueError, "-1 does not exist"),
        ([2, 1], ValueError, "got 1 after 2"),
        (6, ValueError, "asked for 6, and 4 layers have 5"),
        (1, ValueError, r"such as \[4\]"),
    ],
)
def test_layers_that_are_none(depths, error, words):
    with pytest.raises(error, match=words):
        DepthCAM(chain(euler_net()), "block")(images(), 1, depths)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"block": "blok"}, ValueError, "block: Sequential has no layer named 'blok'; did you"),
        ({"block": nn.ReLU()}, ValueError, "its ODE blocks and Sequentials are '', 'block', 'head"),
        ({"block": []}, ValueError, "block: got an empty sequence"),
        ({"block": nn.Sequential()}, ValueError, "block: got an empty sequence"),
        ({"block": 3}, TypeError, "block: expected a module or its dotted name, got int"),
        ({"block": ["head.0", "head.0"]}, ValueError, "block: 'head.0' was given twice"),
        ({"rule": "eigen-cam"}, ValueError, "rule: expected one of 'grad-cam'.*got 'eigen-cam'"),
        ({"names": "abcde"}, TypeError, "names: expected a sequence"),
    ],
)
def test_blocks_and_rules_that_do_not_exist(arguments, error, words):
    with pytest.raises(error, match=words):
        DepthCAM(ode_net(), **arguments)


def test_a_model_without_an_ode_block():
    with pytest.raises(ValueError, match="Sequential has no ODEBlock to take by default; name"):
        DepthCAM(chain(euler_net()))
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got function"):
        DepthCAM(images)


def test_a_model_is_its_own_block():
    block = ode_net().block
    seen = DepthCAM(block)(images(), lambda z: z.square().sum((1, 2, 3)), 2)
    assert seen.layer == ""
    z = seen.activation[:, -1]
    torch.testing.assert_close(seen.gradient[:, -1], 2 * z, **EXACT)


def twice(self, z):
    return solve(self.f, solve(self.f, z, [0.0, 1.0]).y[-1], [0.0, 1.0]).y[-1]


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda self, z: self.mix(z), "block 'block'.*no solve"),
        (twice, "block 'block'.*(more than one|two|second)"),
        (
            lambda self, z: solve(lambda t, s: (-s[0], s[1]), (z, z), [0.0, 1.0]).y[0][-1],
            "block 'block' solves for a tuple of tensors, expected one",
        ),
        (
            lambda self, z: solve(lambda t, y: -y, z.flatten(1), [0.0, 1.0]).y[-1].view_as(z),
            r"block 'block' solves for a torch.float64 state of shape \(3, 108\), expected",
        ),
        (
            lambda self, z: solve(lambda t, y: -y, z[:1], [0.0, 1.0]).y[-1].expand_as(z),
            r"state of shape \(1, 3, 6, 6\), expected feature maps of shape \(3, C, h, w\)",
        ),
        (
            lambda self, z: solve(self.f, z, [0.0, 1.0], gradient="direct").y[-1],
            "block 'block'.*irect",
        ),
        (
            lambda self, z: solve(self.f, z, [0.0, 1.0], gradient="implicit").y[-1],
            "block 'block'.*mplicit",
        ),
        (
            lambda self, z: solve(
                self.f, z, [0.0, 1.0], method="scipy_solver", gradient="checkpointed"
            ).y[-1],
            "block 'block'.*SciPy",
        ),
        (
            lambda self, z: solve(self.f, z, [0.0, 1.0]).y[-1].detach(),
            "does not depend on the output of layer 'block'",
        ),
        (
            lambda self, z: solve(self.f, z, [0.0, 1.0]).y[-1] * float("inf"),
            "layer 'block': its gradient is infinite or not a number",
        ),
    ],
)
def test_solves_that_cannot_be_explained(run, words):
    model = solving(run)
    with pytest.raises(ValueError, match=words):
        DepthCAM(model, "block")(images(), 1, 3)
    assert_untouched(model)
    solve(lambda t, y: -y, torch.ones(1), [0.0, 1.0])  # nothing records any more


@pytest.mark.parametrize("block", [None, "chain"])
def test_a_block_that_does_not_run_once(block):
    inner = ode_net().block if block is None else chain(euler_net()).block
    name = "block" if block is None else "block.0"
    for use, words in [
        (lambda model, z: z, "did not run"),
        (lambda model, z: model.block(model.block(z)), "ran more than once"),
    ]:

        class Uses(nn.Module):
            def __init__(self):
                super().__init__()
                self.stem, self.block, self.head = around(inner)

            def forward(self, x, use=use):
                return self.head(use(self, self.stem(x)))

        model = Uses()
        with pytest.raises(ValueError, match=f"'{name}.*{words}"):
            DepthCAM(model, "block")(images(), 1)
        assert_untouched(model)


def test_a_score_that_does_not_depend_on_the_block():
    model = ode_net()
    with pytest.raises(ValueError, match="does not depend on the output of layer 'block'"):
        DepthCAM(model)(images(), lambda y: torch.ones(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="does not depend on the output of layer 'block'"):
        DepthCAM(model)(images(), lambda y: model.stem.weight.sum().expand(3))


def test_layers_that_are_no_chain():
    model, x = chain(euler_net()), images()
    with pytest.raises(ValueError, match=r"run in the order 'block\.0', 'block\.2'; give them"):
        DepthCAM(model, ["block.2", "block.0"])(x, 1, [1, 2])
    with pytest.raises(ValueError, match=r"changes its shape from layer to layer, \{'stem"):
        DepthCAM(model, ["stem", "block.0"])(x, 1)
    with pytest.raises(ValueError, match=r"layer 'head\.3' returned .* expected feature maps"):
        DepthCAM(model, ["head.2", "head.3"])(x, 1)
    with pytest.raises(ValueError, match=r"does not depend on the output of layer 'block\.1'"):
        DepthCAM(model, "block")(x, lambda y: model.head[0].bias.sum().expand(3), [2, 3])


@pytest.mark.parametrize(
    ("x", "error"),
    [
        (torch.zeros(1, 3, 14, 14, dtype=torch.uint8), TypeError),
        (torch.zeros(3, 14, 14, dtype=torch.float64), ValueError),
        (torch.full((1, 3, 14, 14), torch.nan, dtype=torch.float64), SolverError),
    ],
)
def test_images_that_are_none(x, error):
    with pytest.raises(error):
        DepthCAM(ode_net())(x, 1)


def test_at_a_depth_that_is_none():
    seen = DepthCAM(ode_net())(images(), 1, 3)
    assert torch.equal(seen.at(-3).map, seen.at(0).map)
    for i in (3, -4):
        with pytest.raises(IndexError, match=f"there are 3 depths, 0 to 2; got {i}"):
            seen.at(i)


def test_a_heatmap_is_that_of_its_depth():
    seen = DepthCAM(ode_net())(images(), 1, 3)
    heatmap = seen.heatmap((14, 14))
    assert heatmap.shape == (3, 3, 14, 14)
    for i in range(3):
        assert torch.equal(heatmap[:, i], seen.at(i).heatmap((14, 14)))


def hooks_of(model):
    return [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]


def assert_untouched(model):
    assert not hooks_of(model)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("kind", [ode_net, lambda: chain(euler_net())])
def test_frozen_parameters_no_grad_and_inference_mode_change_nothing(kind):
    model, x = kind(), images()
    cam = DepthCAM(model, "block")
    expected = cam(x, 1, 3).map
    model.requires_grad_(False)
    assert torch.equal(cam(x, 1, 3).map, expected)
    with torch.no_grad():
        assert torch.equal(cam(x, 1, 3).map, expected)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        inside = cam(x.clone(), 1, 3)
    assert torch.equal(inside.map, expected)
    assert not inside.map.is_inference()


def test_a_compiled_model_is_explained():
    model, x = ode_net(), images()
    expected = DepthCAM(model)(x, 1, 3).map
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        compiled(x)
    assert torch.equal(DepthCAM(compiled)(x, 1, 3).map, expected)
    assert torch.equal(DepthCAM(compiled, model.block)(x, 1, 3).map, expected)
    assert DepthCAM(compiled).block == "block"
    model.block = torch.compile(model.block, backend="eager")
    model(x)
    assert torch.equal(DepthCAM(model)(x, 1, 3).map, expected)
    assert torch.equal(DepthCAM(model, "block")(x, 1, 3).map, expected)


@pytest.mark.parametrize("kind", [ode_net, lambda: chain(euler_net())])
def test_the_model_is_left_as_it_was_found(kind):
    model, x = kind(), images()
    field = model.block.f if hasattr(model.block, "f") else model.block[0].f
    field.norm = nn.BatchNorm2d(3).double()
    field.register_forward_hook(lambda module, _, output: module.norm(output))
    model.train()
    model.stem.weight.requires_grad_(False)
    model.head[4].weight.grad = torch.ones_like(model.head[4].weight)
    state = copy.deepcopy(model.state_dict())
    flags = [p.requires_grad for p in model.parameters()]
    hooked = hooks_of(model)
    seen = DepthCAM(model, "block")(x, 1, 3)
    assert torch.isfinite(seen.map).all()
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert [p.requires_grad for p in model.parameters()] == flags
    assert model.training
    assert sum(p.grad is not None for p in model.parameters()) == 1
    assert hooks_of(model) == hooked == [field]
    assert not x.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_maps_in_single(dtype):
    options = {"method": "rk4", "control": FixedStep(0.25), "rtol": 1e-3, "atol": 1e-3}
    model, x = ode_net(**options), images()
    expected = DepthCAM(model)(x, 1, 3).map
    half = DepthCAM(copy.deepcopy(model).to(dtype))(x.to(dtype), 1, 3)
    parts = (half.map, half.weights, half.activation, half.gradient, half.score)
    assert {part.dtype for part in parts} == {torch.float32}
    both = torch.stack([half.map.flatten().double(), expected.flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.98
    with torch.autocast("cpu", torch.bfloat16):
        seen = DepthCAM(copy.deepcopy(model).float())(x.float(), 1, 3)
        assert torch.is_autocast_enabled("cpu")
    assert seen.map.dtype == torch.float32
    both = torch.stack([seen.map.flatten().double(), expected.flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.98


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["stem", "block.f", "block", "head.1"])
def test_an_interruption_leaves_nothing(error, place):
    model = ode_net()

    def interrupt(*_):
        raise error

    handle = model.get_submodule(place).register_forward_hook(interrupt)
    with pytest.raises(error):
        DepthCAM(model)(images(), 1)
    handle.remove()
    assert_untouched(model)
    assert torch.equal(DepthCAM(model)(images(), 1).map, DepthCAM(ode_net())(images(), 1).map)


def test_an_error_of_the_model_keeps_its_words():
    model = ode_net()

    def complain(*_):
        raise ValueError("own words")

    handle = model.head.register_forward_hook(complain)
    with pytest.raises(ValueError, match=r"^own words$"):
        DepthCAM(model)(images(), 1)
    handle.remove()
    model.block.f.register_forward_hook(complain)
    with pytest.raises(ValueError, match=r"^block 'block': own words$"):
        DepthCAM(model)(images(), 1)


def test_a_hook_of_the_user_may_explain_too():
    model, x, inside = ode_net(), images(), []
    cam = DepthCAM(model)

    def hook(*_):
        if not inside:
            inside.append(None)
            inside.append(cam(x, 2, 3).map)

    model.head.register_forward_hook(hook)
    assert torch.equal(cam(x, 1, 3).map, DepthCAM(ode_net())(x, 1, 3).map)
    assert torch.equal(inside[1], DepthCAM(ode_net())(x, 2, 3).map)


def test_another_thread_may_run_the_model_meanwhile():
    model, x = ode_net(), images()
    found, failed = [], []
    entered, ran = threading.Event(), threading.Event()

    def other():
        entered.wait()
        try:
            with torch.no_grad():
                found.append(model(-x))
                found.append(DepthCAM(model)(-x, 2, 3).map)
        except BaseException as error:
            failed.append(error)
        ran.set()

    thread = threading.Thread(target=other)
    thread.start()

    def pause(*_):
        if threading.current_thread() is not thread:
            entered.set()
            ran.wait()

    # In the middle of the solve, whose record must not take in the other's.
    handle = model.block.f.register_forward_hook(pause)
    seen = DepthCAM(model)(x, 1, 3)
    thread.join()
    handle.remove()
    assert not failed
    fresh = ode_net()
    assert torch.equal(seen.map, DepthCAM(fresh)(x, 1, 3).map)
    assert torch.equal(found[0], fresh(-x).detach())
    assert torch.equal(found[1], DepthCAM(fresh)(-x, 2, 3).map)
    assert not hooks_of(model)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda cam: pickle.loads(pickle.dumps(cam))])
@pytest.mark.parametrize("kind", [ode_net, lambda: chain(euler_net())])
def test_a_copy_explains_its_own_model(again, kind):
    cam = DepthCAM(kind(), "block")
    other = again(cam)
    with torch.no_grad():
        cam.model.stem.weight.zero_()
    assert torch.equal(other(images(), 1, 3).map, DepthCAM(kind(), "block")(images(), 1, 3).map)


@pytest.mark.parametrize("gradient", [*STRATEGIES, "chain"])
def test_memory_goes_without_the_garbage_collector(gradient):
    gc.collect()
    gc.disable()
    try:
        model = chain(euler_net()) if gradient == "chain" else ode_net(gradient)
        seen = DepthCAM(model, "block")(images(), [[1, 2]] * 3, 3)
        left = [weakref.ref(one) for one in (model, seen, seen.map, seen.activation)]
        del model, seen
        assert all(one() is None for one in left)
    finally:
        gc.enable()


@pytest.mark.parametrize("cut", [0, 2, 3])
def test_a_block_before_or_in_a_checkpoint(cut):
    model, x = ode_net(), images()
    expected = DepthCAM(model)(x, 1, 3).map

    class Run(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, x):
            x = checkpoint(self.net[:cut], x, use_reentrant=False) if cut else x
            return checkpoint(self.net[cut:], x, use_reentrant=False) if cut < 3 else x

    torch.testing.assert_close(DepthCAM(Run())(x, 1, 3).map, expected, **EXACT)


@pytest.mark.parametrize("kind", [ode_net, lambda: chain(euler_net())])
def test_a_model_that_standardises_in_place_leaves_the_images(kind):
    model, x, kept = kind(), images(), images()
    expected = DepthCAM(model, "block")(2 * x, 1, 3).map

    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, x):
            return self.net(x.mul_(2))

    assert torch.equal(DepthCAM(InPlace(), "net.block")(x, 1, 3).map, expected)
    assert torch.equal(x, kept)


@pytest.mark.parametrize(
    "strategy",
    [
        Checkpointed(checkpoints=2),
        Reversible(coupling=0.9),
        Backsolve(rtol=1e-8, method="bosh3"),
        Gauss(method="kvaerno5", rtol=1e-7, atol=1e-9),
    ],
)
def test_strategies_with_choices_of_their_own(strategy):
    x, expected = images(), DepthCAM(ode_net(**TIGHT))(images(), 1, 4)
    seen = DepthCAM(ode_net(strategy, **TIGHT))(x, 1, 4)
    torch.testing.assert_close(seen.map, expected.map, rtol=1e-4, atol=1e-6)


def test_networks_of_the_library():
    torch.manual_seed(0)
    x = torch.rand(2, 1, 28, 28)
    model = ODENet(width=4).eval()
    seen = DepthCAM(model)(x, Top(2))
    assert isinstance(seen, DepthMaps)
    assert seen.map.shape == (2, 2, 9, 7, 7)
    residual = DepthCAM(model.as_residual_net(4), "block")(x)
    assert residual.map.shape == (2, 5, 7, 7)
    assert DepthCAM(residual_net(3, width=4).eval(), "block")(x).map.shape == (2, 4, 7, 7)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("gradient", STRATEGIES)
def test_on_a_gpu_the_maps_are_the_same(gradient):
    model, x = ode_net(gradient), images()
    expected = DepthCAM(model)(x, CLASSES, 4)
    there = DepthCAM(model.cuda())(x.cuda(), CLASSES, 4)
    assert there.map.is_cuda
    assert there.depth.is_cuda
    torch.testing.assert_close(there.map.cpu(), expected.map, rtol=1e-7, atol=1e-9)
