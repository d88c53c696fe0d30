"""A step is a pure function of tensors."""

import pytest
import torch

from companion.ode import runge_kutta_step, tableaus
from companion.ode.dense import Piece
from companion.ode.norm import Allowance, error_ratio, rms_norm
from tests.ode.problems import F64, forced

Y0 = torch.tensor([1.0, -0.5], dtype=F64)
EXPLICIT = [t for t in tableaus.METHODS.values() if t.explicit]


def field(t, leaves):
    return [forced(torch.as_tensor(t, dtype=F64), leaves[0])]


def take(tableau, y=Y0, t=0.3, h=0.2):
    return runge_kutta_step(tableau, field, t, [y], field(t, [y]), h)


def test_classical_rk4_by_hand():
    def f(t, y):
        return forced(torch.tensor(t, dtype=F64), y)

    t, h = 0.3, 0.2
    k1 = f(t, Y0)
    k2 = f(t + h / 2, Y0 + h / 2 * k1)
    k3 = f(t + h / 2, Y0 + h / 2 * k2)
    k4 = f(t + h, Y0 + h * k3)
    expected = Y0 + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    assert torch.allclose(take(tableaus.RK4).y[0], expected, rtol=1e-15)


@pytest.mark.parametrize("tableau", EXPLICIT, ids=lambda t: t.name)
def test_first_same_as_last_is_f_at_the_end(tableau):
    step = take(tableau)
    assert (step.f is not None) == tableau.fsal
    if tableau.fsal:
        assert torch.equal(step.f[0], field(0.5, step.y)[0])
    assert (step.error is None) == (tableau.error is None)


@pytest.mark.parametrize("tableau", EXPLICIT, ids=lambda t: t.name)
def test_dense_output_meets_the_ends(tableau):
    step = take(tableau)
    rates = [*step.stages, field(0.5, step.y)][: len(tableau.dense)]
    piece = Piece(0.3, 0.5, 0.3, 0.2, [Y0], rates, tableau.dense_polynomials)
    assert torch.equal(piece.at(0.3)[0], Y0)
    assert torch.allclose(piece.at(0.5)[0], step.y[0], rtol=1e-12)
    ends = Y0 + sum(leaf for (leaf,) in piece.coefficients())
    assert torch.allclose(ends, step.y[0], rtol=1e-12)


def test_the_error_estimate_is_the_difference_to_the_embedded_solution():
    step = take(tableaus.HEUN)
    euler = take(tableaus.EULER)
    assert torch.allclose(step.error[0], step.y[0] - euler.y[0], rtol=1e-12)


def test_a_tensor_for_the_step_size_gives_the_same_step():
    for tableau in EXPLICIT:
        h = torch.tensor(0.2, dtype=F64)
        assert torch.allclose(take(tableau, h=h).y[0], take(tableau).y[0], rtol=1e-15)


def test_steps_can_be_vmapped_and_pushed_forward():
    batch = torch.stack([Y0, Y0 + 0.1, Y0 - 0.3])

    def end(y):
        return take(tableaus.DOPRI5, y).y[0]

    one_by_one = torch.stack([end(y) for y in batch])
    assert torch.allclose(torch.func.vmap(end)(batch), one_by_one, rtol=1e-14)
    _, pushed = torch.func.jvp(end, (Y0,), (torch.ones(2, dtype=F64),))
    eps = 1e-6
    central = (end(Y0 + eps) - end(Y0 - eps)) / (2 * eps)
    assert torch.allclose(pushed, central, rtol=1e-8)


def test_norms():
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([[2.0]])
    assert float(rms_norm([a])) == pytest.approx((25 / 2) ** 0.5)
    assert float(rms_norm([a, b])) == pytest.approx((25 / 2) ** 0.5)
    assert float(rms_norm([b, a])) == pytest.approx((25 / 2) ** 0.5)
    assert float(rms_norm([torch.empty(0)])) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, F64, torch.complex128])
def test_an_allowance_is_absolute_and_relative(dtype):
    y = torch.tensor([-2.0, 4.0], dtype=dtype)
    for rtol, atol in [(0.5, 1.0), (0.5, (torch.tensor(1.0),)), ((torch.tensor(0.5),), 1.0)]:
        (allowed,) = Allowance(rtol, atol, [y.requires_grad_()])([y])
        assert allowed.tolist() == [2.0, 3.0]
        assert not allowed.requires_grad
    assert allowed.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype.to_real())
    error = [torch.tensor([2.0, -9.0], dtype=dtype)]
    assert error_ratio(rms_norm, error, [allowed]) == pytest.approx(((1 + 9) / 2) ** 0.5)
    assert error_ratio(lambda x: x[0].abs().max(), error, [allowed]) == pytest.approx(3)
