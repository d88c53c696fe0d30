"""Programs as torchdiffeq's examples are built: the import decides which library runs them.

One program for each of the six examples (a spiral, an ODE-Net for digits, a continuous
normalizing flow, a latent ODE, a bouncing ball, learned physics), written anew and small, with
the same use of the library.  Each takes the library and the name of its solver, and returns what
it computed; both libraries must compute the same.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torchdiffeq
from torch import nn

import companion
from tests.ode.problems import F64


def grads(module):
    return {f"d {name}": p.grad for name, p in module.named_parameters()}


def mlp(*sizes):
    layers = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


# --- the spiral: a field learned from mini-batches of a trajectory -------------------------------


class SpiralField(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = mlp(2, 16, 2)

    def forward(self, t, y):
        return self.net(y**3)


class TrueSpiral(nn.Module):
    def forward(self, t, y):
        return (y**3) @ torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])


def spiral(library, odeint):
    times = torch.linspace(0, 5, 40)
    with torch.no_grad():
        truth = odeint(TrueSpiral(), torch.tensor([[2.0, 0.0]]), times, method="dopri5")
    field = SpiralField()
    optimizer = torch.optim.SGD(field.parameters(), lr=1e-2)
    losses = []
    for start in (torch.tensor([3, 11, 20]), torch.tensor([0, 17, 29])):
        optimizer.zero_grad()
        batch = torch.stack([truth[start + i] for i in range(6)])
        predicted = odeint(field, truth[start], times[:6])
        loss = (predicted - batch).abs().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return {"truth": truth, "losses": torch.stack(losses), **grads(field)}


# --- the ODE-Net: a block of a convolutional network ---------------------------------------------


class ConvField(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = nn.GroupNorm(2, channels)
        # One channel more, for the time.
        self.conv = nn.Conv2d(channels + 1, channels, 3, padding=1)
        self.nfe = 0

    def forward(self, t, x):
        self.nfe += 1
        time = torch.ones_like(x[:, :1]) * t
        return torch.tanh(self.conv(torch.cat([time, self.norm(x)], 1)))


class OdeBlock(nn.Module):
    def __init__(self, field, odeint):
        super().__init__()
        self.field, self.odeint = field, odeint
        self.integration_time = torch.tensor([0, 1]).float()

    def forward(self, x):
        self.integration_time = self.integration_time.type_as(x)
        out = self.odeint(self.field, x, self.integration_time, rtol=1e-6, atol=1e-6)
        return out[1]


def digits(library, odeint):
    block = OdeBlock(ConvField(4), odeint)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, 2), block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    images = torch.sin(torch.arange(6 * 81.0)).reshape(6, 1, 9, 9)
    logits = model(images)
    forward, block.field.nfe = block.field.nfe, 0
    nn.functional.cross_entropy(logits, torch.arange(6) % 3).backward()
    assert forward > 0
    assert (block.field.nfe > 0) == (odeint is library.odeint_adjoint)
    model.eval()
    with torch.no_grad():
        assert torch.allclose(model(images), logits)
    return {"logits": logits, **grads(model)}


# --- the continuous normalizing flow: a trace by autograd inside f, backwards in time -------------


class Flow(nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = mlp(1, 8, 12)

    def forward(self, t, state):
        z, _ = state
        with torch.set_grad_enabled(True):
            z.requires_grad_(True)
            inner, outer, shift = self.weights(t.reshape(1, 1)).reshape(3, 2, 2)
            velocity = torch.tanh(z @ inner + shift[0]) @ outer
            trace = sum(
                torch.autograd.grad(velocity[:, i].sum(), z, create_graph=True)[0][:, i]
                for i in range(2)
            )
        return velocity, -trace.reshape(-1, 1)


def normalizing_flow(library, odeint):
    flow = Flow()
    x = torch.stack([torch.linspace(-1, 1, 7), torch.linspace(-1, 1, 7) ** 2], 1)
    z, change = odeint(
        flow,
        (x, torch.zeros(7, 1)),
        torch.tensor([10.0, 0.0]),
        atol=1e-7,
        rtol=1e-7,
        method="dopri5",
    )
    normal = torch.distributions.MultivariateNormal(torch.zeros(2), 0.1 * torch.eye(2))
    loss = -(normal.log_prob(z[-1]) - change[-1].view(-1)).mean()
    loss.backward()
    assert not x.requires_grad or odeint is torchdiffeq.odeint
    with torch.no_grad():
        samples, _ = odeint(
            flow,
            (x, torch.zeros(7, 1)),
            torch.linspace(0, 10, 5),
            atol=1e-7,
            rtol=1e-7,
            method="dopri5",
        )
    return {"loss": loss, "samples": samples, **grads(flow)}


# --- the latent ODE: an encoder, a solve at some times, another one back from the first -----------


class LatentField(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.ELU(), nn.Linear(8, 3))
        self.nfe = 0

    def forward(self, t, z):
        self.nfe += 1
        return self.net(z)


class LatentOde(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode, self.to_latent = nn.RNNCell(2, 6), nn.Linear(6, 6)
        self.field, self.decode = LatentField(), mlp(3, 8, 2)


def latent(library, odeint):
    times = torch.tensor([0.0, 0.1, 0.35, 0.6, 1.1])
    seen = torch.stack(
        [torch.stack([torch.sin(3 * times + k), torch.cos(2 * times)], 1) for k in range(4)]
    )
    model = LatentOde()
    hidden = torch.zeros(4, 6)
    for i in reversed(range(len(times))):
        hidden = model.encode(seen[:, i], hidden)
    mean, log_variance = model.to_latent(hidden).chunk(2, 1)
    noise = torch.sin(torch.arange(12.0)).reshape(4, 3)
    start = mean + noise * torch.exp(0.5 * log_variance)
    path = odeint(model.field, start, times).permute(1, 0, 2)
    divergence = (mean**2 + log_variance.exp() - log_variance - 1).sum(1) / 2
    loss = ((model.decode(path) - seen) ** 2).sum((1, 2)).add(divergence).mean()
    loss.backward()
    with torch.no_grad():
        before = odeint(model.field, start[0], torch.linspace(0, -2, 9))
    return {"loss": loss, "path": path, "before": torch.flip(before, dims=[0]), **grads(model)}


# --- the bouncing ball: events, one after the other, with everything differentiated --------------


class Ball(nn.Module):
    def __init__(self, odeint):
        super().__init__()
        self.odeint = odeint
        self.gravity = nn.Parameter(torch.tensor([9.8]))
        self.log_radius = nn.Parameter(torch.tensor([0.2]).log())
        self.log_restitution = nn.Parameter(torch.tensor([0.8]).log())
        self.t0 = nn.Parameter(torch.tensor([0.0]))
        self.position = nn.Parameter(torch.tensor([10.0]))
        self.velocity = nn.Parameter(torch.tensor([0.0]))

    def forward(self, t, state):
        _, velocity, log_radius, log_restitution = state
        still = torch.zeros_like(log_radius)
        return velocity, -self.gravity, still, torch.zeros_like(log_restitution)

    def height(self, t, state):
        return state[0] - torch.exp(state[2])

    def start(self):
        return self.t0, (self.position, self.velocity, self.log_radius, self.log_restitution)

    def bounced(self, state):
        position, velocity, log_radius, log_restitution = state
        # Without the small number the event could fire again at once.
        return position + 1e-7, -velocity * torch.exp(log_restitution), log_radius, log_restitution

    def bounces(self, odeint_event, count):
        t0, state = self.start()
        times = []
        for _ in range(count):
            t0, path = odeint_event(
                self,
                state,
                t0,
                event_fn=self.height,
                reverse_time=False,
                atol=1e-9,
                rtol=1e-9,
                odeint_interface=self.odeint,
            )
            state = self.bounced(tuple(part[-1] for part in path))
            times.append(t0)
        return times


def bouncing_ball(library, odeint):
    ball = Ball(odeint)
    times = ball.bounces(library.odeint_event, 4)
    times[-1].backward()
    results = {"times": torch.stack(times), **grads(ball)}
    # The path in between, at times of which the first and the last are differentiable.
    t0, state = ball.start()
    heights = []
    for t1 in times[:2]:
        inside = torch.linspace(float(t0.detach()), float(t1.detach()), 5)[1:-1]
        asked = torch.cat([t0.reshape(-1), inside, t1.reshape(-1)])
        path = odeint(ball, state, asked, atol=1e-9, rtol=1e-9)
        heights.append(path[0][1:])
        t0, state = t1, ball.bounced(tuple(part[-1] for part in path))
    return {**results, "heights": torch.cat(heights)}


def test_the_ball_bounces_when_mechanics_says():
    """The programs agree with each other; this one agrees with the closed form as well."""
    times = torch.stack(Ball(companion.odeint).bounces(companion.odeint_event, 3))
    fall = math.sqrt(2 * (10 - 0.2) / 9.8)
    exact = torch.tensor([fall, fall * (1 + 2 * 0.8), fall * (1 + 2 * 0.8 + 2 * 0.8**2)])
    assert torch.allclose(times, exact.to(times), atol=1e-6)


# --- learned physics: a learned field, a learned event, a learned jump ----------------------------


class Pull(nn.Module):
    def __init__(self):
        super().__init__()
        self.force, self.scale = nn.Linear(1, 1), nn.Parameter(torch.tensor(10.0))
        nn.init.constant_(self.force.bias, -0.9)

    def forward(self, t, state):
        _, velocity, *rest = state
        force = torch.tanh(self.force(torch.zeros_like(velocity))) * self.scale
        return velocity, force, *(torch.zeros_like(x) for x in rest)


class Floor(nn.Module):
    def __init__(self):
        super().__init__()
        self.root = nn.Parameter(torch.tensor([0.5]))

    def parameters(self):
        return [self.root]

    def forward(self, t, state):
        position, _, root = state
        return position - root.reshape_as(position) ** 2


class Physics(nn.Module):
    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.tensor([3.0]))
        self.velocity = nn.Parameter(torch.tensor([0.0]))
        self.field, self.floor, self.loss = Pull(), Floor(), nn.Linear(1, 1)

    def simulate(self, library, odeint, times):
        def event_fn(t, state):
            # The end of the observations is an event, too.
            if t > times[-1] + 1e-7:
                return torch.zeros_like(t)
            return self.floor(t, state)

        t0 = torch.tensor([0.0]).to(times)
        state = (self.position, self.velocity, *self.floor.parameters())
        path, events = [state[0][None]], []
        while t0 < times[-1]:
            t1, ends = library.odeint_event(
                self.field,
                state,
                t0,
                event_fn=event_fn,
                atol=1e-9,
                rtol=1e-9,
                method="dopri5",
                odeint_interface=odeint,
            )
            between = times[(times > t0) & (times <= t1)]
            asked = torch.cat([t0.reshape(-1), between.reshape(-1)])
            path.append(odeint(self.field, state, asked, atol=1e-9, rtol=1e-9)[0][1:])
            if t1 < times[-1]:
                position, velocity, *rest = (part[-1] for part in ends)
                velocity = -torch.sigmoid(self.loss(torch.ones_like(velocity))) * velocity
                state = (position + 1e-7 * velocity, velocity, *rest)
                events.append(t1)
            t0 = t1
        return torch.cat(path).reshape(-1), torch.stack(events)


def learned_physics(library, odeint):
    times = torch.linspace(0, 3, 30)
    model = Physics()
    path, events = model.simulate(library, odeint, times)
    assert len(path) == len(times)
    assert len(events) >= 2
    loss = ((path - torch.cos(times)).abs() / (times + 1)).mean()
    loss.backward()
    # The floor hides its parameter from named_parameters: it has a method of its own.
    return {"path": path, "events": events, "d root": model.floor.root.grad, **grads(model)}


PROGRAMS = [spiral, digits, normalizing_flow, latent, bouncing_ball, learned_physics]


@pytest.fixture(autouse=True)
def float64():
    """As torchdiffeq's programs for physics do, so that the results can be compared closely."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(F64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("adjoint", [False, True], ids=["odeint", "odeint_adjoint"])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_only_the_import_changes(program, adjoint):
    results = []
    for library in (companion, torchdiffeq):
        torch.manual_seed(0)
        odeint = library.odeint_adjoint if adjoint else library.odeint
        results.append(program(library, odeint))
    ours, theirs = results
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert ours[name].shape == expected.shape, name
        size = float(expected.detach().abs().max())
        assert torch.allclose(ours[name], expected, rtol=1e-4, atol=1e-5 * max(1, size)), name
    assert any(name.startswith("d ") and value.abs().max() > 1e-3 for name, value in ours.items())
