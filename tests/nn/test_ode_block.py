"""The ODE block and the layers around it: against SciPy, torch and loops written out."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import scipy.integrate
import torch
from torch import nn
from torch.nn import functional as F

from companion import FixedStep, SolverError, Stats, solve
from companion.adjoint import STRATEGIES, Checkpointed
from companion.nn import Augment, ConvField, ODEBlock, ODENet, Residual, TimeConv2d, explicit
from companion.nn import summary as summarise
from companion.nn.layers import Sequential
from companion.ode.tableaus import METHODS

CHANNELS = 3
#: The strategy for steady states has none to find at t1.
GRADIENTS = sorted({*STRATEGIES} - {"implicit"})


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def field():
    return ConvField(CHANNELS).double()


@pytest.fixture
def x():
    return torch.randn(2, CHANNELS, 5, 4, dtype=torch.float64)


class Linear(nn.Module):
    """dz/dt = rate t z, z(t) = x exp(rate t^2 / 2)."""

    def __init__(self, rate=1.0):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(rate, dtype=torch.float64))

    def forward(self, t, z):
        return self.rate * t * z


class Same(nn.Module):
    """Returns what a function makes of the state."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, t, z):
        return self.function(z)


# TimeConv2d


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"padding": 1},
        {"stride": 2, "padding": (2, 1)},
        {"dilation": 2, "padding": 2, "bias": False},
        {"padding": 1, "padding_mode": "circular"},
    ],
    ids=str,
)
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("by_the_book", [True, False])
def test_a_time_convolution_is_torch_s_of_a_map_of_time_and_the_others(
    x, settings, batched, by_the_book
):
    layer = TimeConv2d(CHANNELS, 4, 3, **settings).double()
    z = x if batched else x[0]
    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    maps = torch.cat([0.3 * torch.ones_like(z[..., :1, :, :]), z], dim=-3)
    settings = dict(settings)
    padding = settings.pop("padding", 0)
    settings.pop("bias", None)
    if settings.pop("padding_mode", None):
        maps, padding = F.pad(maps, (1, 1, 1, 1), "circular"), 0
    expected = F.conv2d(maps, layer.weight, layer.bias, padding=padding, **settings)
    if by_the_book:
        with explicit():
            found = layer(t, z)
    else:
        found = layer(t, z)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(layer(0.3, z), expected, rtol=1e-12, atol=1e-13)
    # The time has a gradient: the sum of the weights that meet its channel.
    (slope,) = torch.autograd.grad(found.sum(), t)
    more = layer(1.3, z).sum() - layer(0.3, z).sum()
    torch.testing.assert_close(slope, more, rtol=1e-10, atol=1e-12)


def test_a_time_convolution_tells_its_own_channels():
    layer = TimeConv2d(3, 4, 3)
    assert repr(layer) == "TimeConv2d(3, 4, kernel_size=(3, 3), stride=(1, 1))"
    assert layer.weight.shape == (4, 4, 3, 3)
    with pytest.raises(ValueError, match=r"expected 3 channels, got 4 in an input of shape \(1, 4"):
        layer(0.0, torch.rand(1, 4, 5, 5))
    with pytest.raises(ValueError, match=r"input of shape \(1, 3, 2, 5\)"):
        layer(0.0, torch.rand(1, 3, 2, 5))
    with pytest.raises(ValueError, match=r"expected a batch of images \(N, 3, H, W\)"):
        layer(0.0, torch.rand(3, 5))
    with pytest.raises(TypeError, match=r"torch.float64 and torch.float32"):
        layer(0.0, torch.rand(1, 3, 5, 5, dtype=torch.float64))
    with pytest.raises(ValueError, match="TimeConv2d: in_channels is 0"):
        TimeConv2d(0, 3, 3)
    with pytest.raises(TypeError, match=r"TimeConv2d: in_channels is 3\.0"):
        TimeConv2d(3.0, 3, 3)
    with pytest.raises(ValueError, match="Conv2d: out_channels is 0"):
        TimeConv2d(3, 0, 3)


def test_every_sample_may_have_a_time_of_its_own(field):
    # As many samples as the maps are wide: the times must not be broadcast along the width.
    t, z = torch.rand(4).double(), torch.randn(4, CHANNELS, 5, 4, dtype=torch.float64)
    apart = torch.cat([field(t[i], z[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(field(t, z), apart, rtol=1e-12, atol=1e-13)
    together = solve(field, z, [0.0, 1.0], batched=True).y[-1]
    apart = torch.cat([solve(field, z[i : i + 1], [0.0, 1.0]).y[-1] for i in range(4)])
    torch.testing.assert_close(together, apart, rtol=1e-12, atol=1e-13)
    layer = TimeConv2d(3, 4, 3)
    for times, maps in [((5,), (1, 3, 5, 5)), ((1,), (3, 5, 5)), ((2, 1), (2, 3, 5, 5))]:
        with pytest.raises(ValueError, match=r"a time for all samples .* or one for each, got t"):
            layer(torch.rand(times), torch.rand(maps))


# Residual and Augment


def test_a_residual_layer_is_one_step_of_euler_s_method(field, x):
    layer = Residual(field, t=0.25, h=0.5)
    step = solve(field, x, [0.25, 0.75], method="euler", control=FixedStep()).y[-1]
    torch.testing.assert_close(layer(x), step, rtol=1e-14, atol=1e-14)
    assert set(layer.state_dict()) == {f"f.{name}" for name in field.state_dict()}
    assert "t=0.25, h=0.5" in repr(layer)


def test_a_residual_that_would_be_broadcast_is_refused(x):
    with pytest.raises(ValueError, match=r"shape \(2, 3, 1, 4\) for an input of shape \(2, 3, 5,"):
        Residual(Same(lambda z: z.sum(2, keepdim=True)))(x)
    with pytest.raises(TypeError, match=r"f must be a torch\.nn\.Module"):
        Residual(torch.tanh)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 5), (2, 3, 5, 4)])
def test_channels_of_zeros_are_appended(shape):
    x = torch.randn(shape)
    y = Augment(2)(x)
    assert y.shape == (2, 5, *shape[2:])
    assert torch.equal(y[:, :3], x)
    assert not y[:, 3:].any()
    assert Augment(0)(x) is x


def test_channels_that_cannot_be_appended(field, x):
    with pytest.raises(ValueError, match="Augment: channels must be at least 0, got -1"):
        Augment(-1)
    with pytest.raises(TypeError, match=r"Augment: channels must be an integer, got 1\.5"):
        Augment(1.5)
    with pytest.raises(ValueError, match=r"Augment: expected a batch of states.*shape \(3,\)"):
        Augment(1)(torch.rand(3))
    block = ODEBlock(field)
    block.augment = -1
    with pytest.raises(ValueError, match="augment must be at least 0, got -1"):
        block(x)


# The solution


def test_the_block_solves_what_scipy_solves(field, x):
    def rates(t, flat):
        with torch.no_grad():
            z = torch.from_numpy(flat).reshape(x.shape)
            return field(torch.tensor(t, dtype=torch.float64), z).numpy().ravel()

    times = np.array([0.5, 1.0, 1.25, 2.0])
    found = scipy.integrate.solve_ivp(
        rates, (0.5, 2.0), x.numpy().ravel(), "DOP853", times, rtol=1e-11, atol=1e-12
    )
    block = ODEBlock(field, (0.5, 2.0), rtol=1e-9, atol=1e-10, gradient="direct")
    with torch.no_grad():
        states = block.trajectory(x, times.tolist())
        end = block(x)
    expected = torch.from_numpy(found.y.T.copy()).reshape(states.shape)
    torch.testing.assert_close(states, expected, rtol=1e-7, atol=1e-8)
    assert torch.equal(end, states[-1])


@pytest.mark.parametrize("count", [1, 3, 8])
def test_euler_s_method_is_the_residual_layers(field, x, count):
    h = 2 / count
    layers = nn.Sequential(*(Residual(field, -1 + n * h, h) for n in range(count)))
    block = ODEBlock(field, (-1, 1), method="euler", control=FixedStep(h))
    torch.testing.assert_close(block(x), layers(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "euler", "control": FixedStep(0.25)},
        {"method": "rk4", "control": FixedStep(0.3)},
        {},
        {"method": "tsit5", "step_t": (0.4,)},
    ],
    ids=["euler", "rk4", "dopri5", "step_t"],
)
def test_the_trajectory_takes_the_steps_of_the_forward_pass(field, x, settings):
    block = ODEBlock(field, **settings)
    times = torch.linspace(0, 1, 9)
    with torch.no_grad():
        end, steps = block(x), block.stats.accepted
        states = block.trajectory(x, times)
        assert block.stats.accepted == steps
    assert states.shape == (9, *x.shape)
    assert torch.equal(states[0], x)
    assert torch.equal(states[-1], end)
    few = block.trajectory(x, (0.25, 0.5))
    torch.testing.assert_close(few, states[[2, 4]], rtol=1e-14, atol=1e-14)


def test_the_states_within_a_step_come_from_the_dense_output_of_the_method(x):
    # One step of size 1 to z(1) = x, and one to z(2) = 2x; slopes 0, x and 4x where they end.
    block = ODEBlock(Linear(), (0.0, 2.0), method="euler", control=FixedStep(1.0))
    states = block.trajectory(x, [0.5, 1.0, 1.5, 2.0])
    # Half-way, Hermite's cubic is the mean of the ends and an eighth of the change of slope.
    half, more = (0 - 1) / 8 + 1, (1 - 4) / 8 + 1.5
    expected = torch.stack([half * x, x, more * x, 2 * x])
    torch.testing.assert_close(states, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(
    ("t", "error", "message"),
    [
        ([0.0, 1.5], ValueError, "times from 0 to 1, strictly increasing"),
        ([0.5, 0.5], ValueError, "strictly increasing"),
        ([-0.1, 0.5], ValueError, "times from 0 to 1"),
        ([], ValueError, "times from 0 to 1"),
        (0.5, TypeError, "t must be a sequence of numbers"),
        (["a"], TypeError, "t must be a sequence of numbers"),
    ],
)
def test_times_that_the_trajectory_does_not_have(field, x, t, error, message):
    with pytest.raises(error, match=message):
        ODEBlock(field).trajectory(x, t)


@pytest.mark.parametrize("span", [(0.0, 0.1), (0.7, 1.3)])
def test_times_in_single_precision_reach_the_ends(field, x, span):
    block = ODEBlock(field, t=span)
    t = torch.linspace(*span, 4, dtype=torch.float32)
    assert not span[0] <= t[0].item() <= t[-1].item() <= span[1]
    states = block.trajectory(x, t)
    assert torch.equal(states[0], x)
    torch.testing.assert_close(states[-1], block(x), rtol=1e-7, atol=1e-7)


# Gradients


def by_hand(field, x, count):
    """Euler's method, which autograd differentiates."""
    z = x
    for n in range(count):
        z = z + field(torch.tensor(n / count, dtype=torch.float64), z) / count
    return z


@pytest.mark.parametrize("gradient", ["direct", "checkpointed", "reversible", Checkpointed(2)])
def test_gradients_of_the_steps_are_those_of_the_loop(field, x, gradient):
    x.requires_grad_()
    weight = torch.randn_like(x)
    wanted = [x, *field.parameters()]
    if gradient == "reversible":  # a scheme of its own on top of the method: fine steps instead
        block = ODEBlock(field, method="rk4", control=FixedStep(0.01), gradient=gradient)
        other = ODEBlock(field, method="rk4", control=FixedStep(0.01), gradient="direct")
        expected = torch.autograd.grad((weight * other(x)).sum(), wanted)
        tolerance = 1e-5
    else:
        block = ODEBlock(field, method="euler", control=FixedStep(0.125), gradient=gradient)
        expected = torch.autograd.grad((weight * by_hand(field, x, 8)).sum(), wanted)
        tolerance = 1e-12
    found = torch.autograd.grad((weight * block(x)).sum(), wanted)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_every_strategy_has_the_gradient_of_the_flow(x, gradient):
    x.requires_grad_()
    f = Linear(0.7)
    block = ODEBlock(f, (0.0, 1.5), rtol=1e-8, atol=1e-8, gradient=gradient)
    block(x).sum().backward()
    growth = np.exp(0.7 * 1.5**2 / 2)
    torch.testing.assert_close(x.grad, torch.full_like(x, growth), rtol=1e-5, atol=0)
    slope = x.detach().sum() * growth * 1.5**2 / 2
    torch.testing.assert_close(f.rate.grad, slope, rtol=1e-5, atol=1e-6)
    assert (block.stats.backward is None) == (gradient == "direct")


def test_the_explicit_layers_have_the_same_gradients(field, x):
    block = ODEBlock(field, method="rk4", control=FixedStep(0.5), gradient="direct")
    wanted = tuple(field.parameters())
    expected = torch.autograd.grad(block(x).square().sum(), wanted)
    with explicit():
        found = torch.autograd.grad(block(x).square().sum(), wanted)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


# What a solve costs


def test_evaluations_are_those_of_the_method(field, x):
    block = ODEBlock(field, method="rk4", control=FixedStep(0.25), gradient="direct")
    assert block.stats is None
    block(x)
    assert block.stats == Stats(evaluations=16, accepted=4)
    block.method = "euler"
    with torch.no_grad():
        block(x)
    assert block.stats == Stats(evaluations=4, accepted=4)
    block.method, block.control, block.gradient = "dopri5", None, "checkpointed"
    calls = []
    hook = field.register_forward_hook(lambda *_: calls.append(1))
    z = block(x)
    assert block.stats.evaluations == len(calls)
    z.sum().backward()
    hook.remove()
    assert block.stats.evaluations + block.stats.backward.evaluations == len(calls)
    assert block.stats.accepted >= 1


def test_a_tighter_tolerance_costs_more_and_errs_less(x):
    block = ODEBlock(Linear(2.0), (0.0, 1.0))
    errors, costs = [], []
    for block.rtol in (1e-2, 1e-5, 1e-8):
        block.atol = block.rtol
        with torch.no_grad():
            errors.append((block(x) - x * np.exp(1.0)).abs().max().item())
        costs.append(block.stats.evaluations)
    assert costs == sorted(set(costs))
    assert errors[2] < 1e-6 < errors[0]


# A module like others


def test_the_state_dict_is_the_field_s_whatever_the_solver(field, x):
    one = ODEBlock(field, method="gl4", control=FixedStep(0.5), gradient="backsolve")
    other = ODEBlock(ConvField(CHANNELS).double(), method="gl4", control=FixedStep(0.5))
    assert set(one.state_dict()) == {f"f.{name}" for name in field.state_dict()}
    other.load_state_dict(one.state_dict())
    with torch.no_grad():
        assert torch.equal(one(x), other(x))
        plain = ODEBlock(ConvField(CHANNELS).double(), rtol=1e-8, atol=1e-8)
        plain.load_state_dict(one.state_dict())
        torch.testing.assert_close(plain(x), one(x), rtol=1e-3, atol=1e-3)


def test_a_block_trained_with_one_solver_goes_on_with_another(x):
    torch.manual_seed(1)
    target = 0.5 * x.roll(1, -1)
    block = ODEBlock(ConvField(CHANNELS).double(), method="midpoint", control=FixedStep(0.1))
    optimiser = torch.optim.Adam(block.parameters(), lr=0.02)
    before = F.mse_loss(block(x), target).item()
    for _ in range(30):
        optimiser.zero_grad()
        loss = F.mse_loss(block(x), target)
        loss.backward()
        optimiser.step()
    other = ODEBlock(ConvField(CHANNELS).double(), method="dopri8", rtol=1e-6, atol=1e-6)
    other.load_state_dict(block.state_dict())
    with torch.no_grad():
        after = F.mse_loss(other(x), target).item()
        assert after == pytest.approx(F.mse_loss(block(x), target).item(), rel=0.02)
    assert after < 0.5 * before


@pytest.mark.parametrize("way", [copy.deepcopy, lambda block: pickle.loads(pickle.dumps(block))])
def test_copies_keep_solver_and_weights_and_are_apart(field, x, way):
    block = ODEBlock(field, method="rk4", control=FixedStep(0.2), augment=0)
    block(x).sum().backward()
    other = way(block)
    assert (other.method, other.control, other.t) == ("rk4", FixedStep(0.2), (0.0, 1.0))
    assert other.stats == block.stats
    with torch.no_grad():
        assert torch.equal(other(x), block(x))
        other.f.conv1.weight.zero_()
        assert not torch.equal(other(x), block(x))


def test_dtype_and_mode_reach_the_field(x):
    block = ODEBlock(ConvField(CHANNELS))
    assert block(x.float()).dtype == torch.float32
    assert block.to(torch.float64)(x).dtype == torch.float64
    assert not block.eval().f.training
    with pytest.raises(TypeError, match=r"torch.float32 and torch.float64"):
        block(x.float())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_on_a_device(field, x, gradient):
    block = ODEBlock(field, rtol=1e-6, atol=1e-6, gradient=gradient, augment=0)
    expected = block(x)
    x = x.cuda().requires_grad_()
    found = block.to("cuda")(x)
    found.sum().backward()
    assert x.grad.device == found.device == x.device
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-8, atol=1e-8)


def test_a_compiled_model_gives_the_same(x):
    model = Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1), ODEBlock(ConvField(CHANNELS))).double()
    x.requires_grad_()
    compiled = torch.compile(model, backend="eager")
    assert torch.equal(compiled(x), model(x))
    found, expected = (torch.autograd.grad(f(x).sum(), x)[0] for f in (compiled, model))
    torch.testing.assert_close(found, expected)


def test_the_repr_tells_the_solver(field):
    block = ODEBlock(field, method="tsit5", control="PI3040", augment=0, step_t=(0.5,))
    line = repr(block).splitlines()[1].strip()
    assert line == (
        "t=(0.0, 1.0), method='tsit5', rtol=0.001, atol=0.001, control='PI3040', "
        "max_steps=10000, step_t=(0.5,), gradient='checkpointed'"
    )


def test_the_repr_tells_tensors_and_tableaus(field):
    told = repr(ODEBlock(field, method=METHODS["tsit5"], atol=torch.tensor(0.5), step_t=[0.25]))
    assert "method='tsit5'" in told
    assert "atol=tensor(0.5" in told
    assert "step_t=[0.25]" in told


def test_the_summary_has_a_row_for_each_layer_of_the_field():
    model = ODENet(width=4, method="rk4", control=FixedStep(0.5))
    table = summarise(model, (1, 28, 28))
    rows = {row.name: row for row in table.rows}
    assert len(rows) == len(table.rows)
    conv = rows["block.f.conv1"]
    assert (conv.calls, conv.outputs, conv.parameters) == (8, ((None, 4, 7, 7),), 5 * 4 * 9 + 4)
    assert conv.multiply_adds == 8 * 49 * 9 * 5 * 4
    assert "block.f.conv1 (TimeConv2d, 8 calls)" in repr(table)
    assert rows["stem.0"].calls == 1
    assert table.parameters == sum(p.numel() for p in model.parameters())
    adaptive = summarise(ODENet(width=4), (1, 28, 28))
    assert len(adaptive.rows) == len(table.rows)
    assert {row.name: row for row in adaptive.rows}["block.f.conv2"].calls > 5


# Augmentation


def test_channels_of_zeros_come_before_the_solve(x):
    field = ConvField(CHANNELS + 2).double()
    block = ODEBlock(field, augment=2, method="rk4", control=FixedStep(0.5))
    expected = solve(
        field, F.pad(x, (0, 0, 0, 0, 0, 2)), [0.0, 1.0], method="rk4", control=FixedStep(0.5)
    )
    assert torch.equal(block(x), expected.y[-1])
    states = block.trajectory(x, [0.0, 1.0])
    assert not states[0, :, CHANNELS:].any()
    assert "augment=2" in repr(block)


def test_a_field_that_was_not_made_for_the_new_channels(x):
    with pytest.raises(ValueError, match="expected 3 channels, got 5"):
        ODEBlock(ConvField(CHANNELS).double(), augment=2)(x)


# Mistakes


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"t": (1.0, 0.0)}, ValueError, r"t must be finite and increasing, t0 < t1, got \(1"),
        ({"t": (1.0, 1.0)}, ValueError, "t must be finite and increasing"),
        ({"t": (0.0, float("inf"))}, ValueError, "t must be finite and increasing"),
        ({"t": (0.0, 0.5, 1.0)}, ValueError, r"two numbers, \(t0, t1\), got 3; .* trajectory"),
        ({"t": 1.0}, TypeError, r"two numbers, \(t0, t1\), got 1.0"),
        ({"t": torch.ones(2).requires_grad_()}, ValueError, "t requires grad"),
        ({"method": "dopri6"}, ValueError, "unknown method 'dopri6': did you mean .*'dopri5'"),
        ({"method": "rk4"}, ValueError, "'rk4' has no error estimate .* control=FixedStep"),
        ({"gradient": "adjoint"}, ValueError, "unknown gradient 'adjoint'"),
        ({"rtol": -1.0}, ValueError, "rtol"),
        ({"max_steps": 0}, ValueError, "max_steps must be at least 1"),
        ({"augment": -1}, ValueError, "augment must be at least 0, got -1"),
        ({"augment": 1.0}, TypeError, "augment must be an integer, got 1.0"),
        ({"f": "tanh"}, TypeError, "f must be a torch.nn.Module"),
    ],
    ids=str,
)
def test_wrong_arguments_are_told_when_the_block_is_made(field, settings, error, message):
    with pytest.raises(error, match=message):
        ODEBlock(**{"f": field, **settings})


def test_times_are_looked_at_again(field, x):
    block = ODEBlock(field)
    block.t = (1, 0)
    with pytest.raises(ValueError, match="t must be finite and increasing"):
        block(x)


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda z: z[:, :2], r"f returned a tensor of shape \(2, 2, 5, 4\) for a state of shape"),
        (lambda z: z.float(), "f returned torch.float32 for a state of torch.float64"),
        (lambda z: 1.0, "f returned float, expected a tensor"),
    ],
)
def test_what_f_returns_must_be_like_the_state(x, f, message):
    with pytest.raises((TypeError, ValueError), match=message):
        ODEBlock(Same(f))(x)


def test_inputs_that_are_no_batch(field):
    with pytest.raises(ValueError, match=r"batch of states, \(N, C, ...\), got .* \(7,\)"):
        ODEBlock(field)(torch.rand(7))
    with pytest.raises(TypeError, match=r"expected a torch\.Tensor, got list"):
        ODEBlock(field)([1.0])
    with pytest.raises(TypeError, match=r"y0 has dtype torch\.int64"):
        ODEBlock(field)(torch.ones(2, 3, dtype=torch.int64))


def test_a_solve_that_does_not_come_to_its_end(x):
    block = ODEBlock(Same(lambda z: z * z), (0.0, 9.0), max_steps=50)
    with pytest.raises(SolverError):
        block(x.abs() + 1)
