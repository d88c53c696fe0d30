"""Jacobians of vector fields, and Newton's method on the equations of stages."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from companion import FixedStep, SolverError, solve
from companion.ode import Stats, newton
from companion.ode import jacobian as jacobian_module
from companion.ode.jacobian import RealSpace, jacobian
from companion.ode.method import Method
from companion.ode.newton import Newton, NewtonFailure, StageEquations
from tests.ode.problems import F64

DTYPES = [torch.float16, torch.float32, torch.float64, torch.complex64, torch.complex128]


@given(
    shapes=st.lists(
        st.tuples(st.lists(st.integers(0, 3), max_size=3), st.sampled_from(DTYPES)),
        min_size=1,
        max_size=4,
    )
)
@settings(deadline=None, max_examples=50)
def test_a_state_survives_the_way_to_a_vector_and_back(shapes):
    leaves = [torch.randn(shape, dtype=dtype) for shape, dtype in shapes]
    space = RealSpace(leaves)
    vector = space.pack([*leaves, torch.ones(7)])
    real = sum(leaf.numel() * (2 if leaf.is_complex() else 1) for leaf in leaves)
    assert vector.shape == (space.n,) == (real,)
    assert not vector.is_complex()
    back = space.unpack(vector)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(leaves, back, strict=True))


def central(field, space, t, x, eps=1e-6):
    """The Jacobian by central differences."""

    def rate(x):
        return space.pack(field(t, space.unpack(x)))

    columns = [(rate(x + eps * e) - rate(x - eps * e)) / (2 * eps) for e in torch.eye(len(x)).to(x)]
    return torch.stack(columns, 1)


def coupled(t, y):
    """Real and complex parts of two precisions, not holomorphic, with an integrand at the end."""
    a, b = y
    first = (a.sin() * t + b.abs().sum() ** 2).to(a.dtype)
    return [first, (b.conj() * b + 1j * a.sum() * b).to(b.dtype), torch.ones(3)]


def test_the_jacobian_is_that_of_central_differences():
    y = [torch.randn(2, 2, dtype=F64), torch.randn(3, dtype=torch.complex128)]
    space = RealSpace(y)
    x = space.pack(y)
    exact = jacobian(coupled, space, 0.7, x)
    assert exact.shape == (10, 10)
    assert torch.allclose(exact, central(coupled, space, 0.7, x), rtol=1e-7, atol=1e-8)
    assert not exact.requires_grad


def test_rows_in_several_batches_are_the_same_rows(monkeypatch):
    space, x = RealSpace([torch.zeros(5, dtype=F64)]), torch.randn(5, dtype=F64)

    def field(t, y):
        return [y[0] ** 2 * y[0].sum()]

    whole = jacobian(field, space, 0.0, x)
    monkeypatch.setattr(jacobian_module, "ROWS", 2)
    assert torch.equal(jacobian(field, space, 0.0, x), whole)


class Unbatched(torch.autograd.Function):
    """The square; its backward pass reads a number back, which vmap cannot do."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * x * grad if grad.sum().item() else torch.zeros_like(x)


def with_inner_gradient(t, y):
    """A field that differentiates something itself, as Hamiltonian networks do."""
    (q,) = y
    with torch.enable_grad():
        q = q.requires_grad_()
        (grad,) = torch.autograd.grad((q**4).sum(), q, create_graph=True)
    return [-grad]


@pytest.mark.parametrize(
    ("field", "derivative"),
    [
        (lambda t, y: [Unbatched.apply(y[0])], lambda x: 2 * x),
        (with_inner_gradient, lambda x: -12 * x**2),
        (lambda t, y: [torch.ones_like(y[0])], torch.zeros_like),
        (lambda t, y: [y[0].sign() * t], torch.zeros_like),
    ],
    ids=["no vmap", "gradient inside", "constant", "piecewise constant"],
)
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_jacobians_of_unusual_fields(field, derivative, mode):
    x = torch.tensor([0.3, -1.2, 2.0], dtype=F64)
    with mode():
        found = jacobian(field, RealSpace([x]), 0.5, x)
    assert torch.allclose(found, torch.diag(derivative(x)), rtol=1e-14)


def test_a_parameter_does_not_hide_that_f_is_constant_in_y():
    p = torch.tensor(2.0, dtype=F64, requires_grad=True)
    x = torch.ones(2, dtype=F64)
    assert not jacobian(lambda t, y: [p * torch.ones(2)], RealSpace([x]), 0.0, x).any()


def test_a_hidden_derivative_is_noticed_where_f_ends():
    """Beside the state f is not even finite."""
    x = torch.ones(1)
    with pytest.raises(ValueError, match="autograd does not see"):
        jacobian(lambda t, y: [(1 - y[0].detach()).sqrt()], RealSpace([x]), 0.0, x)


def test_a_field_that_is_not_finite_is_not_taken_for_one_that_hides_its_derivative():
    x = torch.ones(2)
    assert not jacobian(
        lambda t, y: [torch.full_like(y[0], torch.nan)], RealSpace([x]), 0.0, x
    ).any()


@pytest.mark.parametrize("hide", [torch.no_grad, torch.inference_mode])
def test_a_hidden_derivative_is_an_error_and_not_zero(hide):
    def f(t, y):
        with hide():
            return -y

    with pytest.raises(ValueError, match="autograd does not see"):
        solve(f, torch.ones(2), [0.0, 1.0], method="implicit_euler", control=FixedStep(0.1))


def test_an_error_in_f_is_not_hidden_by_the_fallback():
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise RuntimeError("no way back")

    x = torch.ones(2)
    with pytest.raises(RuntimeError, match="no way back"):
        jacobian(lambda t, y: [Broken.apply(y[0])], RealSpace([x]), 0.0, x)


# Newton's method.


def equations_for(field, y, h, solver, matrix=((1.0,),)):
    space = solver.begin(field, 0.0, y)
    base = torch.stack([space.pack(y)] * len(matrix))
    return StageEquations(field, space, matrix, h, [0.0] * len(matrix), base)


def newton_for(control=None, **options):
    stats = Stats()
    return Newton(Method("trbdf2", control=control, **options), stats), stats


class Counted:
    def __init__(self, field):
        self.field, self.calls = field, 0

    def __call__(self, t, y):
        self.calls += 1
        return self.field(t, y)


A = torch.tensor([[-1.0, 3.0], [-2.0, -4.0]], dtype=F64)


def linear(t, y):
    return [A @ y[0]]


@pytest.mark.parametrize("matrix", [((0.5,),), ((0.25, -0.04), (0.54, 0.25))])
def test_linear_stages_are_exact_after_one_iteration(matrix):
    y, h, m = [torch.tensor([1.0, 2.0], dtype=F64)], 0.3, len(matrix)
    solver, stats = newton_for()
    field = Counted(linear)
    equations = equations_for(field, y, h, solver, matrix)
    z = solver.solve(equations, torch.zeros(m, 2, dtype=F64))
    # z = h (A (x) J) (1 (x) y + z), by Kronecker's product.
    coupling = h * torch.kron(torch.tensor(matrix, dtype=F64), A)
    expected = torch.linalg.solve(torch.eye(2 * m) - coupling, coupling @ y[0].repeat(m))
    assert torch.allclose(z.reshape(-1), expected, rtol=1e-14)
    # One iteration finds the solution, one more finds that it is one; and one f for J.
    assert field.calls == 1 + 2 * m
    assert (stats.jacobians, stats.factorisations) == (1, 1)


def test_a_factorisation_serves_the_steps_of_a_fixed_grid_and_near_sizes():
    solver, stats = newton_for()
    y = [torch.tensor([1.0, 2.0], dtype=F64)]
    for h in (0.1, 0.1 + 1e-15, 0.11, 0.095):
        equations = equations_for(linear, y, h, solver)
        z = solver.solve(equations, torch.zeros(1, 2, dtype=F64))
        expected = torch.linalg.solve(torch.eye(2) - h * A, h * A @ y[0])
        assert torch.allclose(z[0], expected, atol=0, rtol=1e-7)
    assert (stats.jacobians, stats.factorisations) == (1, 1)
    equations = equations_for(linear, y, 0.2, solver)
    solver.solve(equations, torch.zeros(1, 2, dtype=F64))
    assert (stats.jacobians, stats.factorisations) == (1, 2)


def test_a_factorisation_for_another_step_size_is_off_evenly():
    """By r in the stiff component and by 1 in the other: the error falls by (r - 1) / (r + 1)."""
    solver, _ = newton_for(rtol=1e-10, atol=1e-10)
    y, zero = [torch.tensor([1.0, 1.0], dtype=F64)], torch.zeros(1, 2, dtype=F64)
    rates = torch.tensor([-1e7, -1e-3], dtype=F64)
    field = Counted(lambda t, y: [rates * y[0]])
    solver.solve(equations_for(field, y, 0.1, solver), zero)
    before = field.calls
    solver.solve(equations_for(field, y, 0.118, solver), zero)
    # 0.18 / 2.18 to the power of 11 is below 1e-11, 0.18 is to the power of 15.
    assert field.calls - before <= 12


def cubic(t, y):
    return [-(y[0] ** 3)]


def test_a_bad_rate_of_convergence_asks_for_a_new_jacobian_in_the_next_step():
    solver, stats = newton_for()
    y = [torch.tensor([1.0], dtype=F64)]
    zero = torch.zeros(1, 1, dtype=F64)
    for _ in range(2):
        # The same step again: its Jacobian is as good as can be.
        solver.solve(equations_for(cubic, y, 0.3, solver), zero)
    assert stats.jacobians == 1
    y = [torch.tensor([0.9], dtype=F64)]
    solver.solve(equations_for(cubic, y, 0.3, solver), zero)
    assert stats.jacobians == 2


def test_the_rate_of_the_last_step_spares_an_iteration():
    """What is known to converge at once need not show it again; after a new Jacobian it must."""
    solver, _ = newton_for()
    y, zero = [torch.tensor([1.0, 2.0], dtype=F64)], torch.zeros(1, 2, dtype=F64)
    field = Counted(linear)
    guess = solver.solve(equations_for(field, y, 0.1, solver), zero) * (1 + 5e-7)
    costs = []
    for first, renewed in ((guess, False), (zero, False), (guess, False), (guess, True)):
        before = field.calls
        y = [y[0].clone()]
        solver._stale = renewed
        solver.solve(equations_for(field, y, 0.1, solver), first)
        costs.append(field.calls - before)
    # A change larger than the tolerances is not the last one, whatever the rate has been.
    assert costs == [1, 2, 1, 3]


def test_a_rate_of_convergence_is_remembered():
    """The second solve begins 0.3 tolerances off, and is done if it may expect a good rate."""
    solver, _ = newton_for()
    y, zero = [torch.tensor([1.0], dtype=F64)], torch.zeros(1, 1, dtype=F64)
    field = Counted(cubic)
    z = solver.solve(equations_for(field, y, 0.01, solver), zero)
    before = field.calls
    solver.solve(equations_for(field, [y[0].clone()], 0.01, solver), z + 3e-7)
    assert field.calls - before == 1


@pytest.mark.parametrize("late", [lambda y: -100 * y**3, lambda y: -1e4 * (y - 2)])
def test_a_field_that_becomes_another_is_not_solved_at_its_old_rate(late):
    """Where f has been linear one iteration would do; what comes then must not profit."""
    h = 0.1
    sol = solve(
        lambda t, y: torch.where(t < 0.55, -y, late(y)),
        torch.tensor([1.0], dtype=F64),
        torch.arange(11, dtype=F64) * h,
        method="implicit_euler",
        control=FixedStep(),
    )
    for i in range(5, 10):
        assert torch.allclose(sol.y[i + 1] - h * late(sol.y[i + 1]), sol.y[i], rtol=1e-5)


def test_a_factorisation_for_another_step_size_is_not_believed_like_the_right_one():
    """The change is 0.9 tolerances, the error that it leaves almost a tenth of that."""
    solver, _ = newton_for(rtol=0.0, atol=1e-3)
    rates = torch.tensor([-1e7], dtype=F64)
    y = [torch.ones(1, dtype=F64)]

    def field(t, y):
        return [rates * y[0]]

    solver.solve(equations_for(field, y, 0.1, solver), torch.zeros(1, 1, dtype=F64))
    z = solver.solve(equations_for(field, y, 0.119, solver), -torch.full((1, 1), 0.9991, dtype=F64))
    assert abs(float(z) + 1) < 0.05 * 1e-3


def test_the_largest_change_of_all_stages_counts():
    solver, _ = newton_for(rtol=0.0, atol=1e-3)
    solver.begin(linear, 0.0, [torch.ones(2, dtype=F64)])
    changes = torch.tensor([[0.0, 1e-9], [3e-3, 3e-3], [0.0, 0.0]], dtype=F64)
    assert float(solver._norm(changes)) == pytest.approx(3)


def test_the_jacobian_is_taken_at_the_beginning_of_the_step():
    seen = []

    def field(t, y):
        if y[0].requires_grad:
            seen.append((t, y[0].detach().clone()))
        return [-t * y[0]]

    y = [torch.tensor([1.0, 2.0], dtype=F64)]
    solver, _ = newton_for()
    solver.begin(field, 0.25, y)
    equations = StageEquations(field, solver.space, ((0.5,),), 0.1, [0.3], y[0][None])
    solver.solve(equations, torch.zeros(1, 2, dtype=F64))
    assert [t for t, _ in seen] == [0.25]
    assert torch.equal(seen[0][1], y[0])


@pytest.mark.parametrize("tolerance", [1e-4, 1e-6])
def test_with_fixed_steps_the_iteration_is_well_within_the_tolerances(tolerance):
    def end(tolerance):
        return solve(
            lambda t, y: -(y**3),
            torch.tensor([2.0], dtype=F64),
            [0.0, 1.0],
            method="implicit_midpoint",
            control=FixedStep(0.1),
            rtol=tolerance,
            atol=tolerance,
        ).y[-1]

    assert abs(float(end(tolerance) - end(1e-13))) < 0.01 * tolerance


def test_a_failure_with_an_old_jacobian_is_repeated_with_a_new_one():
    solver, stats = newton_for()
    mild, stiff = [torch.tensor([0.01], dtype=F64)], [torch.tensor([5.0], dtype=F64)]
    zero = torch.zeros(1, 1, dtype=F64)
    solver.solve(equations_for(cubic, mild, 0.02, solver), zero)
    z = solver.solve(equations_for(cubic, stiff, 0.02, solver), zero)
    assert stats.jacobians == 2
    end = stiff[0] + z
    assert torch.allclose(end + 0.02 * end**3, stiff[0], rtol=1e-6)


def test_full_newton_takes_over_where_a_fixed_step_is_too_large_for_one_jacobian():
    y, zero = [torch.tensor([5.0], dtype=F64)], torch.zeros(1, 1, dtype=F64)
    h = 20.0
    adaptive, _ = newton_for(max_iterations=12)
    field = Counted(cubic)
    with pytest.raises(NewtonFailure, match="more than 12 iterations"):
        adaptive.solve(equations_for(field, y, h, adaptive), zero)
    # It sees that coming from the rate of convergence.
    assert field.calls < 6
    fixed, stats = newton_for(FixedStep(h), max_iterations=12)
    end = y[0] + fixed.solve(equations_for(cubic, y, h, fixed), zero)
    assert torch.allclose(end + h * end**3, y[0], rtol=1e-9)
    assert stats.jacobians > 3
    # The next step does not try again what failed: it costs the same.
    evaluations = []
    for _ in range(2):
        field, y = Counted(cubic), [y[0].clone()]
        fixed.solve(equations_for(field, y, h, fixed), zero)
        evaluations.append(field.calls)
    first, _ = newton_for(FixedStep(h), max_iterations=12)
    field = Counted(cubic)
    first.solve(equations_for(field, y, h, first), zero)
    assert evaluations == [field.calls] * 2


def test_a_bad_first_guess_is_dropped():
    y = [torch.tensor([5.0], dtype=F64)]
    solver, _ = newton_for(FixedStep(0.02), max_iterations=12)
    end = y[0] + solver.solve(
        equations_for(cubic, y, 0.02, solver), torch.full((1, 1), 1e6, dtype=F64)
    )
    assert torch.allclose(end + 0.02 * end**3, y[0], rtol=1e-9)


def test_divergence_and_values_that_are_not_finite_fail():
    y, zero = [torch.tensor([1.0], dtype=F64)], torch.zeros(1, 1, dtype=F64)
    solver, _ = newton_for()
    with pytest.raises(NewtonFailure, match="diverges"):
        solver.solve(equations_for(lambda t, y: [10 * (y[0] - 3).atan()], y, 50.0, solver), zero)
    solver, _ = newton_for()
    with pytest.raises(NewtonFailure, match="not finite"):
        solver.solve(equations_for(lambda t, y: [(y[0] - 2).log()], y, 0.1, solver), zero)
    # 1 - h J is singular.
    solver, _ = newton_for()
    with pytest.raises(NewtonFailure, match="not finite"):
        solver.solve(equations_for(lambda t, y: [y[0]], y, 1.0, solver), zero)


def test_the_iteration_stops_at_the_rounding_of_f():
    """Tolerances that float32 cannot meet are met as well as it can."""
    solver, _ = newton_for(FixedStep(1.0), rtol=1e-12, atol=1e-12)
    y = [torch.tensor([1.0, -2.0])]
    z = solver.solve(equations_for(cubic, y, 0.1, solver), torch.zeros(1, 2))
    end = y[0] + z[0]
    assert torch.allclose(end + 0.1 * end**3, y[0], rtol=1e-6)


def test_a_leaf_in_double_precision_is_not_rounded_like_one_in_single():
    """Each has its own tolerance; the iteration goes on until both are met."""
    y0 = {"coarse": torch.tensor([1.0, -2.0]), "fine": torch.tensor([1.5], dtype=F64)}
    sol = solve(
        lambda t, y: {name: -(leaf**3) for name, leaf in y.items()},
        y0,
        [0.0, 0.1],
        method="implicit_euler",
        control=FixedStep(),
        rtol={"coarse": 1e-4, "fine": 1e-12},
        atol={"coarse": 1e-6, "fine": 1e-13},
    )
    for name, accuracy in (("coarse", 1e-5), ("fine", 1e-12)):
        end = sol.y[name][-1]
        assert torch.allclose(end + 0.1 * end**3, y0[name], rtol=accuracy), name


def test_zero_tolerance_for_a_zero_state_is_named():
    y0 = torch.tensor([1.0, 0.0], dtype=F64)
    options = {"method": "gl4", "control": FixedStep(0.1), "atol": 0.0}
    with pytest.raises(SolverError, match="atol"):
        solve(lambda t, y: -y, y0, [0.0, 1.0], **options)
    solve(lambda t, y: -y, y0 + 1, [0.0, 1.0], **options)


class ReadBacks(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ == "_local_scalar_dense"
        return func(*args, **(kwargs or {}))


def test_an_iteration_reads_back_once(monkeypatch):
    measured = []
    measure = Newton._measure

    def watch(self, *args):
        measured.append(args)
        return measure(self, *args)

    monkeypatch.setattr(Newton, "_measure", watch)
    solver, _ = newton_for()
    field = Counted(cubic)
    y = [torch.tensor([1.0], dtype=F64)]
    with ReadBacks() as reads:
        solver.solve(equations_for(field, y, 0.3, solver), torch.zeros(1, 1, dtype=F64))
    # One evaluation is the Jacobian's; the first measure has two numbers.
    assert len(measured) == field.calls - 1
    assert reads.count == len(measured) + 1


def test_a_state_too_large_for_a_dense_matrix_is_refused(monkeypatch):
    monkeypatch.setattr(newton, "LARGEST", 8 * 20**2)
    y0 = torch.ones(21, dtype=F64)
    with pytest.raises(ValueError, match=r"n = 21 real entries.*21 x 21.*explicit method"):
        solve(lambda t, y: -y, y0, [0.0, 1.0], method="kencarp4")
    with pytest.raises(ValueError, match=r"n = 11 real entries.*22 x 22"):
        solve(lambda t, y: -y, y0[:11], [0.0, 1.0], method="gl4", control=FixedStep(0.1))
    solve(lambda t, y: -y, y0[:20], [0.0, 1.0], method="kencarp4")


def test_a_failure_reaches_the_user_as_a_solver_error():
    with pytest.raises(SolverError, match="could not be solved"):
        solve(
            lambda t, y: (y - 2).log(),
            torch.ones(1),
            [0.0, 1.0],
            method="implicit_euler",
            control=FixedStep(0.1),
        )
