"""``solve(batched=True)``: every sample as if it were alone."""

import math

import pytest
import torch

from companion import Event, FixedStep, solve
from tests.ode.problems import F64

MU = torch.linspace(0.5, 8, 5, dtype=F64)
Y0 = torch.tensor([[2.0, 0.0]] * 5, dtype=F64)
TIMES = torch.linspace(0, 3, 7, dtype=F64)


def van_der_pol(t, y, mu):
    return torch.stack([y[:, 1], mu * (1 - y[:, 0] ** 2) * y[:, 1] - y[:, 0]], dim=1)


def test_a_sample_does_not_know_the_others():
    options = {"rtol": 1e-8, "atol": 1e-10}
    sol = solve(van_der_pol, Y0, TIMES, args=(MU,), batched=True, **options)
    for i in range(5):
        alone = solve(van_der_pol, Y0[i : i + 1], TIMES, args=(MU[i : i + 1],), **options)
        assert torch.allclose(sol.y[:, i], alone.y[:, 0], rtol=1e-11, atol=1e-11)
        assert int(sol.stats.accepted[i]) == alone.stats.accepted
        assert int(sol.stats.rejected[i]) == alone.stats.rejected


def test_every_sample_has_its_own_times():
    times = torch.stack([TIMES[:4], TIMES[:4] + 1, -TIMES[:4]])
    sol = solve(
        lambda t, y: t[:, None] * y,
        torch.ones(3, 1, dtype=F64),
        times,
        batched=True,
        rtol=1e-9,
        atol=1e-11,
    )
    exact = torch.exp((times**2 - times[:, :1] ** 2) / 2).T
    assert torch.allclose(sol.y[..., 0], exact, rtol=1e-7)
    assert torch.equal(sol.t, times)


def test_times_may_be_integers():
    times = torch.tensor([[0, 1], [3, 1]])
    sol = solve(lambda t, y: -y, torch.ones(2, dtype=F64), times, batched=True)
    assert sol.t.dtype == F64
    assert torch.allclose(sol.y[-1].log(), torch.tensor([-1.0, 2.0], dtype=F64), atol=1e-5)


def test_gradients():
    rate = torch.tensor([0.5, 3.0], dtype=F64, requires_grad=True)
    sol = solve(
        lambda t, y, rate: -rate * y,
        torch.ones(2, dtype=F64),
        [0.0, 1.0],
        args=(rate,),
        batched=True,
        rtol=1e-9,
        atol=1e-11,
    )
    (grad,) = torch.autograd.grad(sol.y[-1].sum(), rate)
    assert torch.allclose(grad, -torch.exp(-rate.detach()), atol=1e-7)


@pytest.mark.parametrize(
    "options",
    [
        {"event": Event(lambda t, y: y[0])},
        {"dense": True},
        {"progress": True},
        {"gradient": "backsolve"},
        {"method": "rk4", "control": FixedStep(0.1)},
        {"method": "kencarp4"},
        {"t": [[0.0, math.nan]] * 5},
        {"t": [[0.0, 1.0]] * 3},
    ],
)
def test_what_does_not_go_together(options):
    options = {"t": TIMES, "args": (MU,)} | options
    with pytest.raises(ValueError, match=r"batch|times"):
        solve(van_der_pol, Y0, options.pop("t"), batched=True, **options)
