"""Times strictly inside an interval, as close to its ends as a dtype has them."""

import math

import pytest
import torch

from companion import solve
from companion.ode import FixedGrid
from companion.ode.one_sided import OneSided
from tests.ode.problems import F64

DTYPES = [torch.bfloat16, torch.float16, torch.float32, F64]


def seen(t0, t1, dtype, *times):
    """What f is given for these times."""
    found = []

    def field(t, leaves):
        found.append(float(torch.as_tensor(t, dtype=dtype)))
        return leaves

    sided = OneSided(field, t0, t1, dtype)
    for time in times:
        sided(time, [])
        sided(torch.tensor(time, dtype=F64), [])
    assert found[::2] == found[1::2]
    return found[::2]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("t0", "t1"), [(0.3, 1.7), (1.7, 0.3), (-0.7, 0.0), (0.0, -0.7)])
def test_only_the_ends_move_and_no_further_than_they_must(t0, t1, dtype):
    first, inside, last = seen(t0, t1, dtype, t0, (t0 + t1) / 2, t1)
    low, high = sorted((t0, t1))
    assert low < min(first, last)
    assert max(first, last) < high
    assert inside == float(torch.tensor((t0 + t1) / 2, dtype=dtype))
    for time, moved in ((t0, first), (t1, last)):
        rounded = torch.tensor(time, dtype=dtype)
        toward = torch.tensor(t0 + t1 - time, dtype=dtype)
        assert moved == float(torch.nextafter(rounded, toward))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("step", [1e-6, 5e-5])
def test_an_interval_without_a_number_inside_is_what_comes_after_its_beginning(step, sign):
    """In float32 the next number after 1000 is 6e-5 away."""
    t0 = 1000.0 * sign
    for direction in (1, -1):
        t1 = t0 + direction * step
        times = seen(t0, t1, torch.float32, t0, t1)
        ahead = torch.tensor(direction * math.inf)
        assert times == [float(torch.nextafter(torch.tensor(t0), ahead))] * 2


def test_an_end_may_be_infinite():
    assert seen(0.5, math.inf, F64, 0.5, 1e300) == [math.nextafter(0.5, 1), 1e300]
    assert seen(0.5, -math.inf, F64, 0.5, -1e300) == [math.nextafter(0.5, 0), -1e300]


def test_the_derivative_with_respect_to_time_passes():
    t = torch.tensor(0.25, dtype=F64, requires_grad=True)
    sided = OneSided(lambda t, leaves: [t * leaves[0]], 0.25, 1.0, F64)
    (value,) = sided(t, [torch.tensor(3.0, dtype=F64)])
    (grad,) = torch.autograd.grad(value, t)
    assert float(grad) == 3


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("later", [torch.lt, torch.le])
@pytest.mark.parametrize("method", ["bosh3", "dopri5", "kencarp4"])
def test_both_sides_of_a_jump_are_right_whatever_f_is_at_it(method, later, dtype):
    """y' = 1 and then 3: every method is exact, in both directions of time."""
    one = torch.ones(2, dtype=dtype)

    def field(t, y):
        return torch.where(later(t, 0.3), one, 3 * one)

    options = {"method": method, "jump_t": (0.3,), "rtol": 1e-2, "atol": 1e-2}
    rtol = 20 * torch.finfo(dtype).eps
    for times, end in (([0.0, 1.0], 2.4), ([1.0, 0.0], -2.4)):
        sol = solve(field, 0 * one, times, **options)
        assert torch.allclose(sol.y[-1], end * one, rtol=rtol)
        assert sol.stats.rejected == 0


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("interpolation", ["method", "cubic", "linear"])
@pytest.mark.parametrize("included", [torch.le, torch.lt])
@pytest.mark.parametrize(
    "method",
    ["euler", "rk4_38", "dopri5", "bosh3", "implicit_midpoint", "trapezoid", "kvaerno3", "vern7"],
)
def test_a_grid_point_where_f_jumps_is_seen_from_both_sides(
    method, included, interpolation, backwards
):
    """f is 1 before t = 1/2 and 3 after: exact for every method whose steps end there."""

    def f(t, y):
        return torch.where(included(t, 0.5), 1.0, 3.0).to(y) * torch.ones_like(y)

    times, grid = [0.0, 0.25, 0.75, 1.0], (0.0, 0.5, 1.0)
    expected = torch.tensor([0.0, 0.25, 1.25, 2.0], dtype=F64)
    if backwards:
        times, grid = times[::-1], grid[::-1]
        expected = expected.flip(0) - 2
    control = FixedGrid(grid, interpolation, one_sided=True)
    sol = solve(f, torch.zeros((), dtype=F64), times, method=method, control=control)
    torch.testing.assert_close(sol.y, expected, rtol=0, atol=1e-9)
