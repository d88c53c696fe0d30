"""GMRES against direct solves: right sides, residuals, numbers of products."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from companion.adjoint.gmres import CYCLES, RESTART, gmres

F64 = torch.float64


def counted(matrix):
    """The product with a matrix, and the list of vectors it was asked for."""
    vectors = []

    def product(vector):
        vectors.append(vector)
        return matrix @ vector

    return product, vectors


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 12), st.integers(0, 2**31))
def test_small_systems_in_at_most_n_products(n, seed):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(n, n, dtype=F64, generator=generator)
    matrix = matrix @ matrix.mT + torch.randn(n, n, dtype=F64, generator=generator).tril(-1)
    matrix += n * torch.eye(n, dtype=F64)
    right = torch.randn(n, dtype=F64, generator=generator)
    product, vectors = counted(matrix)
    x, residual = gmres(product, right, 1e-12)
    assert residual <= 1e-12
    assert torch.allclose(x, torch.linalg.solve(matrix, right), rtol=1e-9, atol=1e-12)
    # One more for the residual itself.
    assert len(vectors) <= n + 1


def test_as_many_products_as_different_eigenvalues():
    values = torch.tensor([1.0, 3.0, -2.0], dtype=F64).repeat(100)
    product, vectors = counted(torch.diag(values))
    right = torch.arange(1.0, 301.0, dtype=F64)
    x, residual = gmres(product, right, 1e-13)
    assert len(vectors) == 3 + 1
    assert residual <= 1e-13
    assert torch.allclose(x, right / values, rtol=1e-12)


@pytest.mark.parametrize(("dtype", "rtol"), [(F64, 1e-12), (torch.float32, 1e-5)])
def test_restarts(dtype, rtol):
    """A spectrum on [1, 100] takes more products than vectors are kept."""
    n = 400
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(n, n, dtype=dtype))[0]
    matrix = basis @ torch.diag(torch.linspace(1, 100, n, dtype=dtype)) @ basis.mT
    right = torch.randn(n, dtype=dtype)
    product, vectors = counted(matrix)
    x, residual = gmres(product, right, rtol)
    assert RESTART + 2 < len(vectors) <= CYCLES * (RESTART + 1)
    assert residual <= rtol
    assert float((matrix @ x - right).norm() / right.norm()) == pytest.approx(residual, rel=0.1)
    expected = torch.linalg.solve(matrix, right)
    assert (x - expected).norm() <= 100 * rtol * expected.norm()


def test_the_residual_tells_where_there_is_no_solution():
    """The nearest to (3, 4) that diag(0, 2) reaches is (0, 4)."""
    x, residual = gmres(
        lambda v: torch.tensor([0.0, 2.0], dtype=F64) * v, torch.tensor([3.0, 4.0], dtype=F64), 1e-9
    )
    assert residual == pytest.approx(3 / 5)
    assert float(x[1]) == pytest.approx(2)


def test_a_singular_system_that_has_solutions():
    x, residual = gmres(
        lambda v: torch.tensor([0.0, 2.0], dtype=F64) * v, torch.tensor([0.0, 4.0], dtype=F64), 1e-9
    )
    assert (residual, x.tolist()) == (0, [0, 2])


def test_nothing_to_solve():
    x, residual = gmres(lambda v: 2 * v, torch.zeros(3, dtype=F64), 1e-9)
    assert (residual, x.tolist()) == (0, [0, 0, 0])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_products_that_are_not_finite(bad):
    x, residual = gmres(lambda v: bad * v, torch.ones(3, dtype=F64), 1e-9)
    assert (residual, x.tolist()) == (1, [0, 0, 0])


def test_a_cycle_without_progress_ends_it():
    """A shift gets nowhere before its last product; to try that again and again is no use."""
    n = 2 * RESTART
    product, vectors = counted(torch.roll(torch.eye(n, dtype=F64), 1, 0))
    right = torch.zeros(n, dtype=F64)
    right[0] = 1
    _, residual = gmres(product, right, 1e-9)
    assert residual == pytest.approx(1)
    assert len(vectors) <= RESTART + 1


def test_autocast_costs_no_products():
    def products():
        values, vectors = torch.linspace(1, 4, 60), []

        def product(vector):
            vectors.append(vector)
            return values * vector

        gmres(product, torch.ones(60), 1e-5)
        return len(vectors)

    expected = products()
    with torch.autocast("cpu", dtype=torch.float16):
        assert products() == expected


def test_ill_conditioned_systems():
    """The vectors stay orthogonal to rounding, and n of them are enough, but for rounding."""
    values = torch.logspace(0, 8, 40, dtype=F64)
    product, vectors = counted(torch.diag(values))
    x, residual = gmres(product, torch.ones(40, dtype=F64), 1e-9)
    assert residual <= 1e-9
    assert len(vectors) <= 1.5 * 40
    assert torch.allclose(x * values, torch.ones(40, dtype=F64), rtol=1e-7)
    basis = torch.stack(vectors[:40])
    assert torch.allclose(basis @ basis.T, torch.eye(40, dtype=F64), rtol=0, atol=1e-12)


def test_a_space_that_the_matrix_maps_into_itself():
    """The second vector is the last: no product leads out of the plane of the first two axes."""
    matrix = torch.zeros(4, 4, dtype=F64)
    matrix[1, 0] = 1
    right = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=F64)
    x, residual = gmres(lambda v: matrix @ v, right, 1e-9)
    assert residual == pytest.approx(math.sqrt(0.5))
    assert x.tolist() == pytest.approx([1, 0, 0, 0])


def test_slow_progress_ends_it():
    """The second difference on a thousand points: each cycle leaves most of the residual."""
    right = torch.zeros(1000, dtype=F64)
    right[0] = 1
    product, vectors = counted(
        2 * torch.eye(1000, dtype=F64)
        - torch.diag(torch.ones(999, dtype=F64), 1)
        - torch.diag(torch.ones(999, dtype=F64), -1)
    )
    _, residual = gmres(product, right, 1e-9)
    assert 1e-3 < residual < 1
    assert len(vectors) <= 3 * (RESTART + 1)
