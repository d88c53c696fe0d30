"""Steps of implicit methods: order, stability, derivatives, and stiff problems beside SciPy."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch.autograd import forward_ad, gradcheck

from companion import FixedStep, solve
from companion.ode import Stats, Tableau
from companion.ode.implicit import blocks_of, implicit_step
from companion.ode.method import Method
from companion.ode.newton import Newton
from companion.ode.step import runge_kutta_step
from companion.ode.tableaus import METHODS
from companion.ode.trees import dense_order_of
from tests.ode.problems import F64, forced, forced_reference

IMPLICIT = {name: tableau for name, tableau in METHODS.items() if not tableau.explicit}
every_method = pytest.mark.parametrize("tableau", IMPLICIT.values(), ids=IMPLICIT)

#: Lobatto IIIA of order 4: an explicit stage, then two that depend on each other.
LOBATTO = Tableau(
    "lobattoIIIA4",
    order=4,
    a=(
        (),
        (Fraction(5, 24), Fraction(1, 3), Fraction(-1, 24)),
        (Fraction(1, 6), Fraction(2, 3), Fraction(1, 6)),
    ),
    b=(Fraction(1, 6), Fraction(2, 3), Fraction(1, 6)),
)


def march(tableau, f, y, t, h, count=1, tolerance=1e-13):
    """Steps of equal size on leaves; returns the last step and what it cost."""
    stats = Stats()
    newton = Newton(Method(tableau, tolerance, tolerance, FixedStep(1.0)), stats)

    def field(t, leaves):
        stats.evaluations += 1
        return f(torch.as_tensor(t, dtype=F64), leaves)

    rates = None
    for _ in range(count):
        if tableau.first_explicit and rates is None:
            rates = field(t, y)
        step = implicit_step(tableau, field, t, y, rates, h, newton)
        t, y, rates = t + h, step.y, step.f
    return step, stats


def one(f):
    """A vector field on one tensor, as one on leaves."""
    return lambda t, leaves: [f(t, leaves[0])]


# The method itself.


@pytest.mark.parametrize("tableau", [*IMPLICIT.values(), LOBATTO], ids=[*IMPLICIT, "lobatto"])
def test_order_on_a_problem_that_is_not_autonomous(tableau):
    y0 = torch.tensor([1.0, -0.5], dtype=F64)
    exact = forced_reference(y0.tolist(), [0.0, 2.0])[-1]
    counts = (10, 20) if tableau.order >= 5 else (40, 80)
    errors = [
        (march(tableau, one(forced), [y0], 0.0, 2.0 / n, n)[0].y[0] - exact).norm() for n in counts
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(tableau.order, abs=0.1)


def pade(m, n, z):
    """The (m, n) Pade approximation of exp: degree m over degree n."""

    def polynomial(m, n, z):
        return sum(
            math.comb(m, j) * math.factorial(m + n - j) / math.factorial(m + n) * z**j
            for j in range(m + 1)
        )

    return polynomial(m, n, z) / polynomial(n, m, -z)


def sdirk2(z):
    gamma = 1 - math.sqrt(0.5)
    return (1 + (1 - 2 * gamma) * z) / (1 - gamma * z) ** 2


def trbdf2(z):
    """The trapezoidal rule to 2 gamma, then BDF2 with steps of 2 gamma and 1 - 2 gamma."""
    c = 2 - math.sqrt(2)
    middle = pade(1, 1, c * z)
    return (middle / (c * (2 - c)) - (1 - c) ** 2 / (c * (2 - c))) / (1 - (1 - c) / (2 - c) * z)


STABILITY = {
    "implicit_euler": lambda z: 1 / (1 - z),
    "implicit_midpoint": lambda z: (1 + z / 2) / (1 - z / 2),
    "trapezoid": lambda z: (1 + z / 2) / (1 - z / 2),
    "gl4": lambda z: pade(2, 2, z),
    "gl6": lambda z: pade(3, 3, z),
    "radauIIA3": lambda z: pade(1, 2, z),
    "radauIIA5": lambda z: pade(2, 3, z),
    "sdirk2": sdirk2,
    "trbdf2": trbdf2,
}


@pytest.mark.parametrize("name", STABILITY)
def test_linear_problems_are_multiplied_by_the_stability_function(name):
    h = 0.5
    rates = torch.tensor([-1.0, -2 + 3j, 0.4j, -40.0, 0.3, -1e4], dtype=torch.complex128)
    y0 = torch.tensor([1, 1j, 2 - 1j, 1, 1, 1], dtype=torch.complex128)
    step, _ = march(METHODS[name], one(lambda t, y: rates * y), [y0], 0.0, h)
    assert torch.allclose(step.y[0], STABILITY[name](h * rates) * y0, rtol=1e-12)


L_STABLE = ["implicit_euler", "radauIIA3", "radauIIA5", "sdirk2", "trbdf2"]
L_STABLE += ["kvaerno3", "kvaerno5", "kencarp4"]


@every_method
def test_one_huge_step_over_a_transient(tableau):
    """y' = -1e6 (y - cos t): an L-stable method is on the slow solution at once."""
    y0 = torch.tensor([3.0], dtype=F64)
    step, _ = march(tableau, one(lambda t, y: -1e6 * (y - t.cos())), [y0], 0.0, 1.0)
    deviation = float(step.y[0] - math.cos(1.0))
    if tableau.name in L_STABLE:
        assert abs(deviation) < 1e-4
    else:
        # |R(infinity)| = 1: the deviation at the beginning, 2, is only reflected.
        assert abs(deviation) == pytest.approx(2, abs=0.5)


@every_method
def test_the_solution_inside_a_stiff_step_is_as_good_as_at_its_end(tableau):
    """No value of f may enter that multiplies the error of the state by the stiffness."""
    times = torch.linspace(0, 1, 101, dtype=F64)
    sol = solve(
        lambda t, y: -1e6 * (y - t.cos()),
        torch.ones(1, dtype=F64),
        [0.0, 1.0],
        method=tableau,
        control=FixedStep(0.1),
        dense=True,
    )
    assert (sol(times)[:, 0] - times.cos()).abs().max() < 3e-3


@every_method
def test_order_inside_a_step(tableau):
    """One order less than the error of a single step, which is what falls here."""

    def error(h):
        inside = torch.linspace(0, h, 9, dtype=F64)[1:-1]
        sol = solve(
            forced,
            torch.tensor([1.0, -0.5], dtype=F64),
            [0.0, h],
            method=tableau,
            control=FixedStep(),
            dense=True,
            rtol=1e-13,
            atol=1e-14,
        )
        exact = forced_reference([1.0, -0.5], [0.0, *inside.tolist()])[1:]
        return float((sol(inside) - exact).norm())

    order = math.log2(error(0.2) / error(0.1)) - 1
    assert order == pytest.approx(dense_order_of(tableau), abs=0.35)


def test_gauss_methods_conserve_quadratic_invariants():
    """Euler's equations of a rigid body: |y|^2 and the energy y . y / I."""
    inertia = torch.tensor([2.0, 1.0, 2 / 3], dtype=F64)
    y0 = torch.tensor([1.1, 0.9, 1.0], dtype=F64)

    def drift(name):
        step, _ = march(
            METHODS[name], one(lambda t, y: torch.linalg.cross(y, y / inertia)), [y0], 0.0, 0.2, 50
        )
        (y,) = step.y
        return max(abs(float(y @ y - y0 @ y0)), abs(float(y @ (y / inertia) - y0 @ (y0 / inertia))))

    for name in ("implicit_midpoint", "gl4", "gl6"):
        assert drift(name) < 1e-11
    for name in ("trapezoid", "radauIIA5", "sdirk2"):
        assert drift(name) > 1e-9


def test_stages_are_solved_in_the_smallest_blocks():
    def sizes(tableau):
        return [(b.start, b.stop, b.inverse is None) for b in blocks_of(tableau.matrix)]

    assert sizes(METHODS["gl6"]) == [(0, 3, False)]
    assert sizes(METHODS["sdirk2"]) == [(0, 1, False), (1, 2, False)]
    assert sizes(METHODS["trbdf2"]) == [(0, 1, True), (1, 2, False), (2, 3, False)]
    assert sizes(LOBATTO) == [(0, 1, True), (1, 3, False)]


@every_method
def test_first_guesses_continue_a_parabola(tableau):
    """Through the rates at the last three nodes, those that coincide counting once."""
    for block in blocks_of(tableau.matrix):
        nodes = tableau.nodes[: block.start] or (0.0,)
        distinct = min(3, len({round(node, 3) for node in nodes}))
        for node, weights in zip(
            tableau.nodes[block.start : block.stop], block.predictors, strict=True
        ):
            assert sum(w != 0 for w in weights) <= distinct
            for power in range(distinct):
                guess = sum(w * x**power for w, x in zip(weights, nodes, strict=True))
                assert guess == pytest.approx(node**power, abs=1e-12)


def test_the_error_is_a_constant():
    y0 = torch.tensor([1.0, -0.5], dtype=F64, requires_grad=True)
    step, _ = march(METHODS["kvaerno3"], one(forced), [y0], 0.0, 0.1)
    assert step.y[0].requires_grad
    assert not step.error[0].requires_grad


def test_a_singular_block_is_refused():
    half, zero = Fraction(1, 2), Fraction(0)
    tableau = Tableau(
        "bad", 1, a=((half, half), (half, half)), b=(half, half), dense=((half,),) * 2
    )
    with pytest.raises(ValueError, match="singular"):
        march(tableau, one(forced), [torch.ones(2, dtype=F64)], 0.0, 0.1)
    # A last stage that nothing depends on is an explicit one: no singular matrix there.
    third = ((half, zero), (Fraction(1),))
    late = Tableau("late", 1, a=third, b=(Fraction(1), zero), dense=((Fraction(1),), (zero,)))
    step, _ = march(late, one(lambda t, y: -y), [torch.ones(1, dtype=F64)], 0.0, 0.1)
    assert float(step.y[0]) == pytest.approx(1 - 0.1 / 1.05)


@every_method
def test_rates_come_from_the_equations(tableau):
    """They agree with f at the stages where f is mild, and the last one is f at the end."""
    y0, t, h = torch.tensor([1.0, -0.5], dtype=F64), 0.3, 0.2
    step, _ = march(tableau, one(forced), [y0], t, h)
    for node, weights, stage in zip(tableau.nodes, tableau.matrix, step.stages, strict=True):
        at = y0 + h * sum(w * k[0] for w, k in zip(weights, step.stages, strict=True))
        assert torch.allclose(stage[0], forced(torch.tensor(t + node * h), at), atol=1e-11)
    assert (step.f is not None) == tableau.fsal
    if tableau.fsal:
        assert step.f is step.stages[-1]
        assert torch.allclose(step.f[0], forced(torch.tensor(t + h), step.y[0]), atol=1e-11)


def test_the_error_estimate_is_filtered_of_what_is_damped_already():
    """In a stiff component h sum(e_i k_i) is off by the factor 1 - h gamma lambda."""
    tableau, h, rate = METHODS["trbdf2"], 0.1, torch.tensor([-1.0, -1e5], dtype=F64)
    y0 = torch.tensor([1.0, 1.0], dtype=F64)
    step, _ = march(tableau, one(lambda t, y: rate * y), [y0], 0.0, h)
    plain = h * sum(w * step.stages[j][0] for j, w in tableau.error_weights)
    filtered = plain / (1 - h * float(tableau.singly) * rate)
    assert torch.allclose(step.error[0], filtered, rtol=1e-9)
    assert plain[1].abs() > 1e3 * filtered[1].abs()


@pytest.mark.parametrize("graph", [False, True])
def test_integrands_are_evaluated_at_the_stages_and_feed_nothing_back(graph):
    """Their integral is that of a state that has them as equations."""
    tableau, h = METHODS["kvaerno3"], 0.3
    y0 = torch.tensor([1.0, -0.5], dtype=F64)

    def with_integrands(t, leaves):
        return [forced(t, leaves[0]), leaves[0].sum() * t, None]

    def augmented(t, leaves):
        return [forced(t, leaves[0]), leaves[0].sum() * t]

    with torch.set_grad_enabled(graph):
        step, _ = march(tableau, with_integrands, [y0], 0.1, h)
    plain, _ = march(tableau, one(forced), [y0], 0.1, h)
    assert torch.equal(step.y[0], plain.y[0])
    assert all(len(stage) == 3 and stage[2] is None for stage in step.stages)
    integral = h * sum(w * step.stages[j][1] for j, w in tableau.solution_weights)
    zero = torch.zeros((), dtype=F64)
    both, _ = march(tableau, augmented, [y0, zero], 0.1, h)
    assert torch.allclose(integral, both.y[1], rtol=1e-11)


def test_time_can_run_backwards():
    y0 = torch.tensor([1.0, -0.5], dtype=F64)
    for name in ("gl6", "kencarp4", "radauIIA5"):
        there, _ = march(METHODS[name], one(forced), [y0], 0.0, 0.05, 20)
        back, _ = march(METHODS[name], one(forced), there.y, 1.0, -0.05, 20)
        assert torch.allclose(back.y[0], y0, atol=1e-6)
    # The Gauss methods are symmetric.
    there, _ = march(METHODS["gl4"], one(forced), [y0], 0.0, 0.5, 2)
    back, _ = march(METHODS["gl4"], one(forced), there.y, 1.0, -0.5, 2)
    assert torch.allclose(back.y[0], y0, rtol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision(dtype):
    y0 = torch.tensor([1.0, -0.5])
    expected, _ = march(METHODS["trbdf2"], one(forced), [y0.double()], 0.0, 0.1, 5)

    def field(t, leaves):
        return [forced(t.to(dtype), leaves[0])]

    step, _ = march(METHODS["trbdf2"], field, [y0.to(dtype)], 0.0, 0.1, 5)
    assert step.y[0].dtype == dtype
    assert torch.allclose(step.y[0].double(), expected.y[0], rtol=20 * torch.finfo(dtype).eps)


# Derivatives.


def parametric(t, leaves, a, b):
    """Real and complex, coupled, nonlinear, not autonomous, not holomorphic."""
    x, c = leaves
    return [
        torch.sin(a @ x) + b * t * x.sum() - x**3 * c.abs().sum(),
        (c * c.conj() + 1j * c * x[0] + torch.exp(1j * t)) * b,
    ]


def inputs():
    torch.manual_seed(0)
    return [
        x.requires_grad_()
        for x in (
            torch.randn(2, dtype=F64),
            torch.randn(1, dtype=torch.complex128),
            torch.tensor(0.2, dtype=F64),
            torch.tensor(0.15, dtype=F64),
            torch.randn(2, 2, dtype=F64),
            torch.tensor(0.3, dtype=F64),
        )
    ]


def packed(leaves):
    return torch.cat([torch.view_as_real(x + 0j).reshape(-1) for x in leaves])


@pytest.mark.parametrize("tableau", [*IMPLICIT.values(), LOBATTO], ids=[*IMPLICIT, "lobatto"])
def test_derivatives_in_both_modes_along_a_direction(tableau):
    """With respect to every part of the state, t, h and parameters, over two steps."""

    def end(x, c, t, h, a, b):
        step, _ = march(tableau, lambda t, y: parametric(t, y, a, b), [x, c], t, h, 2)
        return packed([*step.y, *step.stages[0]])

    points = inputs()
    directions = [torch.randn_like(x) for x in points]
    eps = 1e-5
    ahead, behind = (
        end(*(x.detach() + s * eps * d for x, d in zip(points, directions, strict=True)))
        for s in (1, -1)
    )
    central = (ahead - behind) / (2 * eps)
    # Forward mode does not ask whether reverse mode is on.
    with torch.no_grad(), forward_ad.dual_level():
        duals = [
            forward_ad.make_dual(x.detach(), d) for x, d in zip(points, directions, strict=True)
        ]
        pushed = forward_ad.unpack_dual(end(*duals)).tangent
    assert torch.allclose(pushed, central, rtol=1e-7, atol=1e-7)
    weights = torch.randn_like(central)
    grads = torch.autograd.grad(end(*points), points, weights)
    pulled = sum((g.conj() * d).real.sum() for g, d in zip(grads, directions, strict=True))
    assert torch.allclose(pulled, weights @ pushed, rtol=1e-10)


@pytest.mark.parametrize("name", ["implicit_euler", "trapezoid", "radauIIA3"])
def test_derivatives_entry_by_entry(name):
    def end(x, c, t, h, a, b):
        step, _ = march(METHODS[name], lambda t, y: parametric(t, y, a, b), [x, c], t, h)
        return tuple(step.y)

    assert gradcheck(end, inputs())


def test_a_derivative_where_the_jacobian_of_the_step_is_useless():
    """The gradient takes the Jacobian at the solution: y = 5, h = 2 is far from the beginning."""
    y0 = torch.tensor([5.0], dtype=F64, requires_grad=True)
    step, _ = march(METHODS["implicit_euler"], one(lambda t, y: -(y**3)), [y0], 0.0, 2.0)
    (grad,) = torch.autograd.grad(step.y[0], y0)
    assert torch.allclose(grad, 1 / (1 + 3 * 2.0 * step.y[0] ** 2), rtol=1e-12)


def test_the_gradient_of_a_solve_agrees_with_a_tight_explicit_one():
    rate = torch.tensor(3.0, dtype=F64, requires_grad=True)
    y0 = torch.tensor([1.0, -0.5], dtype=F64, requires_grad=True)
    t = torch.tensor([0.0, 1.5], dtype=F64, requires_grad=True)

    def gradients(method, tolerance):
        sol = solve(
            lambda t, y: forced(t, y) - rate * y,
            y0,
            t,
            method=method,
            rtol=tolerance,
            atol=tolerance,
        )
        return torch.autograd.grad(sol.y[1:].sum(), (rate, y0, t))

    for found, expected in zip(
        gradients("kencarp4", 1e-9), gradients("dopri5", 1e-12), strict=True
    ):
        assert torch.allclose(found, expected, rtol=1e-6, atol=1e-7)


def step_from(x, method="implicit_euler"):
    step, _ = march(METHODS[method], one(lambda t, y: -(y**3) * y.sum()), [x], 0.0, 0.15)
    return step.y[0]


def linear_loss(x):
    return step_from(x).sum()


X = torch.tensor([1.0, 0.4, -0.7], dtype=F64)


@pytest.mark.parametrize("method", ["trbdf2", "radauIIA3"])
def test_transforms_of_torch_func_give_first_derivatives(method):
    def end(x):
        return step_from(x, method)

    expected = torch.autograd.functional.jacobian(end, X)
    assert torch.allclose(torch.func.jacrev(end)(X), expected, rtol=1e-12)
    assert torch.allclose(torch.func.jacfwd(end)(X), expected, rtol=1e-12)
    grad = torch.func.grad(lambda x: end(x).sum())(X)
    assert torch.allclose(grad, expected.sum(0), rtol=1e-12)


def reverse_over_reverse():
    x = X.clone().requires_grad_()
    (grad,) = torch.autograd.grad(linear_loss(x), x, create_graph=True)
    torch.autograd.grad(grad.sum(), x)


@pytest.mark.parametrize(
    "second",
    [
        reverse_over_reverse,
        lambda: torch.func.grad(lambda x: torch.func.grad(linear_loss)(x).sum())(X),
        lambda: torch.func.jvp(torch.func.grad(linear_loss), (X,), (X,)),
        lambda: torch.func.grad(lambda x: torch.func.jvp(step_from, (x,), (X,))[1].sum())(X),
        lambda: torch.func.jvp(lambda x: torch.func.jvp(step_from, (x,), (X,))[1], (X,), (X,)),
        lambda: torch.func.hessian(linear_loss)(X),
    ],
    ids=["autograd twice", "grad grad", "jvp grad", "grad jvp", "jvp jvp", "hessian"],
)
def test_a_second_derivative_is_an_error_and_not_wrong(second):
    """One stage and a linear loss are the case that would go unnoticed."""
    with pytest.raises(RuntimeError, match="second derivatives"):
        second()


@every_method
def test_gradients_change_no_value_and_cost_nothing_where_not_wanted(tableau):
    y0 = torch.tensor([1.0, -0.5], dtype=F64)
    p = torch.tensor(0.4, dtype=F64, requires_grad=True)

    def f(t, y):
        return forced(t, y) * p

    with_graph, more = march(tableau, one(f), [y0], 0.0, 0.1, 3)
    with torch.no_grad():
        without, stats = march(tableau, one(f), [y0], 0.0, 0.1, 3)
    assert torch.equal(with_graph.y[0], without.y[0])
    assert with_graph.y[0].requires_grad
    solved = sum(b.stop - b.start for b in blocks_of(tableau.matrix) if b.inverse is not None)
    assert more.jacobians == stats.jacobians + 3 * solved
    # A Jacobian, and an evaluation with a graph, for every stage.
    assert more.evaluations == stats.evaluations + 2 * 3 * solved


# Stiff problems.


def van_der_pol(t, y, stack=torch.stack):
    return stack((y[1], 1000 * (1 - y[0] ** 2) * y[1] - y[0]))


def robertson(t, y, stack=torch.stack):
    first, last = -0.04 * y[0] + 1e4 * y[1] * y[2], 3e7 * y[1] ** 2
    return stack((first, -first - last, last))


def hires(t, y, stack=torch.stack):
    a, b, c, d, e, f, g, h = y
    exchange = 280 * f * h
    return stack(
        (
            -1.71 * a + 0.43 * b + 8.32 * c + 0.0007,
            1.71 * a - 8.75 * b,
            -10.03 * c + 0.43 * d + 0.035 * e,
            8.32 * b + 1.71 * c - 1.12 * d,
            -1.745 * e + 0.43 * f + 0.43 * g,
            -exchange + 0.69 * d + 1.71 * e - 0.43 * f + 0.69 * g,
            exchange - 1.81 * g,
            -exchange + 1.81 * g,
        )
    )


STIFF = {
    "van der Pol": (van_der_pol, [2.0, 0.0], 2000.0),
    "Robertson": (robertson, [1.0, 0.0, 0.0], 1e4),
    "HIRES": (hires, [1.0, 0, 0, 0, 0, 0, 0, 0.0057], 321.8122),
}


@pytest.mark.parametrize("problem", STIFF)
@pytest.mark.parametrize("method", ["kencarp4", "kvaerno5"])
def test_stiff_problems_beside_scipy(problem, method):
    f, y0, end = STIFF[problem]

    def radau(rtol, atol):
        return solve_ivp(
            lambda t, y: f(t, y, np.stack), (0, end), y0, method="Radau", rtol=rtol, atol=atol
        )

    exact = torch.from_numpy(radau(1e-9, 1e-13).y[:, -1])
    with torch.no_grad():
        sol = solve(f, torch.tensor(y0, dtype=F64), [0.0, end], method=method, rtol=1e-5, atol=1e-9)
    assert torch.allclose(sol.y[-1], exact, rtol=3e-3, atol=1e-9)
    peer = radau(1e-5, 1e-9)
    assert sol.stats.accepted < len(peer.t)
    assert sol.stats.evaluations < 1.5 * peer.nfev
    assert sol.stats.jacobians < 2 * peer.njev
    assert sol.stats.factorisations < 2 * peer.nlu


def test_a_linear_problem_needs_one_jacobian():
    def f(t, y):
        return -1e4 * (y - torch.cos(t))

    with torch.no_grad():
        sol = solve(f, torch.zeros(2, dtype=F64), [0.0, 10.0], method="kvaerno3")
    assert torch.allclose(sol.y[-1], torch.tensor(math.cos(10.0), dtype=F64), atol=1e-4)
    assert sol.stats.jacobians == 1
    with torch.no_grad():
        sol = solve(f, torch.zeros(2, dtype=F64), [0.0, 10.0], method="gl4", control=FixedStep(0.1))
    assert (sol.stats.jacobians, sol.stats.factorisations) == (1, 1)


def test_an_empty_state():
    sol = solve(lambda t, y: y, torch.zeros(0), [0.0, 1.0], method="kencarp4")
    assert sol.y.shape == (2, 0)


def test_a_mild_step_is_that_of_the_explicit_method_up_to_the_order():
    """Both are of order 4: they differ by h^5."""
    y0 = torch.tensor([1.0, -0.5], dtype=F64)

    def difference(h):
        implicit, _ = march(METHODS["gl4"], one(forced), [y0], 0.3, h)
        field = one(lambda t, y: forced(torch.as_tensor(t, dtype=F64), y))
        explicit = runge_kutta_step(METHODS["rk4"], field, 0.3, [y0], field(0.3, [y0]), h)
        return (implicit.y[0] - explicit.y[0]).norm()

    assert math.log2(difference(0.1) / difference(0.05)) == pytest.approx(5, abs=0.2)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("method", ["gl4", "trbdf2"])
def test_a_gpu_gives_the_same_solution_and_gradient(method):
    control = FixedStep(0.1) if method == "gl4" else None

    def run(device):
        y0 = torch.tensor([1.0, -0.5], dtype=F64, device=device, requires_grad=True)
        t = torch.tensor([0.0, 0.5, 1.0], dtype=F64, device=device, requires_grad=True)
        sol = solve(forced, y0, t, method=method, control=control)
        grads = torch.autograd.grad(sol.y.square().sum(), (y0, t))
        return [x.detach().cpu() for x in (sol.y, *grads)]

    for found, expected in zip(run("cuda"), run("cpu"), strict=True):
        assert torch.allclose(found, expected, rtol=1e-7, atol=1e-9)
