"""Every method's orders, proved in exact arithmetic and refuted one higher; and peers' tables."""

from fractions import Fraction
from itertools import chain

import numpy as np
import pytest
from scipy.integrate import RK23, RK45

from companion.ode import tableaus
from companion.ode.algebraic import sqrt
from companion.ode.tableau import Tableau
from companion.ode.trees import (
    defects,
    dense_defects,
    dense_order_of,
    embedded_order_of,
    order_of,
)

METHODS = list(tableaus.METHODS.values())
#: What users were promised: order, embedded order, order of the dense output.
ORDERS = {
    "euler": (1, None, 1),
    "midpoint": (2, None, 2),
    "heun": (2, 1, 2),
    "ralston": (2, 1, 2),
    "fehlberg2": (2, 1, 2),
    "heun3": (3, None, 3),
    "rk4": (4, None, 3),
    "rk4_38": (4, None, 3),
    "bosh3": (3, 2, 3),
    "dopri5": (5, 4, 4),
    "tsit5": (5, 4, 4),
    "vern7": (7, 6, 5),
    "dopri8": (8, 7, 5),
    "implicit_euler": (1, None, 1),
    "implicit_midpoint": (2, None, 1),
    "trapezoid": (2, None, 2),
    "gl4": (4, None, 2),
    "gl6": (6, None, 3),
    "radauIIA3": (3, None, 2),
    "radauIIA5": (5, None, 3),
    "sdirk2": (2, None, 2),
    "trbdf2": (2, 3, 2),
    "kvaerno3": (3, 2, 3),
    "kvaerno5": (5, 4, 3),
    "kencarp4": (4, 3, 3),
}
#: Coefficients that the sources give as decimals or rational approximations.
ROUNDED = {"tsit5": 3e-13, "dopri8": 1e-15, "kvaerno5": 1e-16}

each = pytest.mark.parametrize("tableau", METHODS, ids=lambda t: t.name)


def largest(values):
    return max(abs(float(x)) for x in values)


@each
def test_orders_hold_and_the_next_do_not(tableau):
    """`order_of` and its kin find the first order at which a condition fails, exactly."""
    order, embedded, dense = ORDERS[tableau.name]
    assert tableau.order == order == order_of(tableau)
    assert tableau.embedded_order == embedded
    if embedded:
        assert embedded_order_of(tableau) == embedded
    assert dense_order_of(tableau) == dense


@each
def test_the_next_order_fails_by_far(tableau):
    """Not by a rounding error: a method of the next order was not merely miscopied."""
    assert largest(defects(tableau, tableau.b, tableau.order + 1)) > 5e-6
    if tableau.error:
        assert largest(defects(tableau, tableau.embedded, tableau.embedded_order + 1)) > 5e-5
    dense = ORDERS[tableau.name][2]
    assert largest(chain.from_iterable(dense_defects(tableau, dense + 1))) > 1e-3


@each
def test_conditions_hold_exactly_or_to_the_rounding_of_the_source(tableau):
    assert float(tableau.rounding) == ROUNDED.get(tableau.name, 0)
    order, embedded, dense = ORDERS[tableau.name]
    found = [x for p in range(1, order + 1) for x in defects(tableau, tableau.b, p)]
    for p in range(1, (embedded or 0) + 1):
        found += defects(tableau, tableau.embedded, p)
    # The solutions are not as badly rounded as the large weights inside the step.
    assert largest(found) <= min(2e-15, tableau.rounding)
    found += [x for p in range(1, dense + 1) for row in dense_defects(tableau, p) for x in row]
    assert tableau.rounding / 20 <= largest(found) <= tableau.rounding


@each
def test_dense_output_is_smooth_from_step_to_step(tableau):
    """Its slope is f(t0, y0) at the start and f(t1, y1) at the end, where a stage is there."""
    start = [row[0] for row in tableau.dense]
    end = [sum(k * x for k, x in enumerate(row, 1)) for row in tableau.dense]
    unit = [0] * (len(end) - 1)
    if tableau.first_explicit:
        assert start == [1, *unit]
    if not (tableau.first_explicit or tableau.fsal):
        assert len(tableau.dense) == tableau.stages
        return
    tolerance = {"tsit5": 1e-12, "dopri8": 1e-10}.get(tableau.name, 0)
    assert largest(x - y for x, y in zip(end, [*unit, 1], strict=True)) <= tolerance


@each
def test_properties(tableau):
    """Against the matrix of floats."""
    a = np.array(tableau.matrix)
    s = tableau.stages
    assert a.shape == (s, s)
    np.testing.assert_allclose(a.sum(1), tableau.nodes, atol=1e-15)
    assert tableau.explicit == (not np.triu(a).any())
    lower = not np.triu(a, 1).any()
    assert tableau.diagonally_implicit == (lower and not tableau.explicit)
    diagonal = {x for x in a.diagonal() if x}
    if tableau.diagonally_implicit and len(diagonal) == 1:
        assert float(tableau.singly) == diagonal.pop()
    else:
        assert tableau.singly is None
    assert tableau.first_explicit == (not a[0].any())
    assert tableau.fsal == (a[-1].tolist() == [float(x) for x in tableau.b])
    assert len(tableau.dense) in ({s} if tableau.fsal else {s, s + 1})
    for row, weights in zip(a, tableau.stage_weights, strict=True):
        assert dict(weights) == {j: x for j, x in enumerate(row) if x}
    assert tableau.estimate_order == (
        min(tableau.order, tableau.embedded_order) if tableau.error else None
    )
    assert tableau.plain.error is None
    assert tableau.plain.b == tableau.b


def test_unlike_diagonal_entries():
    half = Fraction(1, 2)
    a, dense = ((half,), (half, 1)), ((half,), (half,))
    tableau = Tableau("two", order=1, a=a, b=(half, half), dense=dense)
    assert tableau.diagonally_implicit
    assert tableau.singly is None


def test_names():
    assert {t.name: t for t in METHODS} == tableaus.METHODS
    assert set(ORDERS) == set(tableaus.METHODS)


def test_gauss_nodes_are_the_roots_of_the_legendre_polynomials():
    """A method whose nodes are both the smaller root, as has been published, is of order 1."""
    r = sqrt(3)
    assert tableaus.GL4.c == (Fraction(1, 2) - r / 6, Fraction(1, 2) + r / 6)
    for tableau, n in ((tableaus.GL4, 2), (tableaus.GL6, 3), (tableaus.IMPLICIT_MIDPOINT, 1)):
        expected, weights = np.polynomial.legendre.leggauss(n)
        np.testing.assert_allclose(tableau.nodes, (1 + expected) / 2, atol=1e-15)
        np.testing.assert_allclose([float(b) for b in tableau.b], weights / 2, atol=1e-15)


@pytest.mark.parametrize("name", ["gl4", "gl6", "radauIIA3", "radauIIA5", "implicit_euler"])
def test_collocation(name):
    """The stages integrate polynomials of degree s - 1 exactly up to every node."""
    tableau = tableaus.METHODS[name]
    for k in range(tableau.stages):
        for row, c in zip(tableau.a, tableau.c, strict=True):
            total = sum(x * node**k for x, node in zip(row, tableau.c, strict=True))
            assert total == c ** (k + 1) / (k + 1)


@pytest.mark.parametrize(
    ("tableau", "peer"), [(tableaus.DOPRI5, RK45), (tableaus.BOSH3, RK23)], ids=["dopri5", "bosh3"]
)
def test_equal_to_scipy(tableau, peer):
    rows, columns = peer.A.shape
    np.testing.assert_array_equal(np.array(tableau.matrix)[:rows, :columns], peer.A)
    np.testing.assert_array_equal(np.array(tableau.b[:-1], float), peer.B)
    np.testing.assert_allclose(np.array(tableau.error, float), -peer.E, atol=1e-16)
    np.testing.assert_allclose(np.array(tableau.dense, float), peer.P, rtol=1e-15)


#: Estimates of torchdiffeq and diffrax over ours; signs do not matter, and for DOPRI5 they use
#: Shampine's embedded method, which makes the error two thirds of Dormand and Prince's.
SCALE = {"heun": -1, "ralston": -1, "dopri5": 2 / 3, "tsit5": -1}
TORCHDIFFEQ = {
    "heun": ("adaptive_heun", "_ADAPTIVE_HEUN_TABLEAU"),
    "fehlberg2": ("fehlberg2", "_FEHLBERG2_TABLEAU"),
    "bosh3": ("bosh3", "_BOGACKI_SHAMPINE_TABLEAU"),
    "dopri5": ("dopri5", "_DORMAND_PRINCE_SHAMPINE_TABLEAU"),
    "dopri8": ("dopri8", "_DOPRI8_TABLEAU"),
}


@pytest.mark.parametrize("name", TORCHDIFFEQ)
def test_equal_to_torchdiffeq(name):
    """It appends f(t1, y1) as a stage where the method is not first-same-as-last."""
    implementation = pytest.importorskip("torchdiffeq._impl")
    module, table = TORCHDIFFEQ[name]
    theirs = getattr(getattr(implementation, module), table)
    ours = tableaus.METHODS[name]
    # The first rows: it has none for the first stage, and maybe the weights b as its last.
    for row, beta in zip(ours.matrix[1:], theirs.beta, strict=False):
        np.testing.assert_allclose(row[: len(beta)], beta.numpy(), rtol=3e-16, atol=3e-17)
    for weights, their, scale in (
        (ours.b, theirs.c_sol, 1),
        (ours.error, theirs.c_error, SCALE.get(name, 1)),
    ):
        padded = [*(scale * float(x) for x in weights), 0.0][: len(their)]
        np.testing.assert_allclose(padded, their.numpy(), rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize(
    ("name", "theirs", "digits"),
    [
        ("heun", "Heun", 1e-16),
        ("ralston", "Ralston", 1e-16),
        ("bosh3", "Bosh3", 1e-16),
        ("dopri5", "Dopri5", 1e-15),
        ("tsit5", "Tsit5", 1e-14),
        ("dopri8", "Dopri8", 1e-15),
        # Its gamma has ten digits.
        ("kvaerno3", "Kvaerno3", 1e-9),
        ("kvaerno5", "Kvaerno5", 1e-15),
        ("kencarp4", "KenCarp4", 1e-16),
    ],
)
def test_equal_to_diffrax(name, theirs, digits):
    diffrax = pytest.importorskip("diffrax")
    ours, theirs = tableaus.METHODS[name], getattr(diffrax, theirs).tableau
    # Of a pair for splitting, the second is the implicit one.
    theirs = getattr(theirs, "tableaus", (theirs,))[-1]
    # It may append f(t1, y1) as a stage.
    for i, row in enumerate(theirs.a_lower[: ours.stages - 1], 1):
        np.testing.assert_allclose(ours.matrix[i][:i], row[:i], atol=digits, rtol=1e-15)
    s = min(ours.stages, len(theirs.b_sol))
    np.testing.assert_allclose([float(x) for x in ours.b[:s]], theirs.b_sol[:s], atol=digits)
    error = SCALE.get(name, 1) * np.array([float(x) for x in ours.error[:s]])
    np.testing.assert_allclose(error, theirs.b_error[:s], atol=digits)


@pytest.mark.parametrize(
    "change",
    [
        {"a": ((), (0.5,))},
        {"b": (0.5, Fraction(1, 2))},
        {"error": (0.5, Fraction(-1, 2)), "embedded_order": 1},
        {"dense": ((Fraction(1), -0.5), (Fraction(0), 0.5), (Fraction(0), Fraction(0)))},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_tableau_of_numbers_that_are_not_exact_is_refused(change):
    parts = {"a": ((), (Fraction(1),)), "b": (Fraction(1, 2), Fraction(1, 2))}
    with pytest.raises(TypeError, match=r"entry -?0\.5 is a float"):
        Tableau("bad", order=2, **(parts | change))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"b": (Fraction(1, 2), Fraction(1, 3))}, "b sums to 5/6"),
        ({"a": ((Fraction(1),),)}, "a must have 2 rows"),
        ({"a": ((), (Fraction(1), Fraction(0), Fraction(0)))}, "at most 2 entries"),
        ({"error": (Fraction(1), Fraction(0)), "embedded_order": 1}, "error sums to 1"),
        ({"error": (Fraction(1),), "embedded_order": 1}, "got 1 for 2"),
        ({"error": (Fraction(1), Fraction(-1))}, "come together"),
        ({"dense": ((Fraction(1),), (Fraction(1),), (Fraction(0),))}, "sum to theta"),
        ({"dense": ((Fraction(1),), (Fraction(0),), (Fraction(0),))}, "end in b"),
        ({"dense": ((Fraction(1),),)}, "a row a stage"),
        ({"dense": ((Fraction(1), Fraction(0)), (Fraction(0),))}, "one length"),
        (
            {"a": ((Fraction(1),), (Fraction(0), Fraction(1)))},
            "give dense, the nodes are not distinct",
        ),
        (
            {"a": ((Fraction(1, 2),), (Fraction(1, 2), Fraction(1, 4)))},
            "give dense, b does not integrate",
        ),
    ],
)
def test_an_inconsistent_tableau_is_refused(change, complaint):
    parts = {
        "name": "bad",
        "order": 2,
        "a": ((), (Fraction(1),)),
        "b": (Fraction(1, 2), Fraction(1, 2)),
    }
    with pytest.raises(ValueError, match=complaint):
        Tableau(**(parts | change))


def test_stages_after_the_first_same_as_last_have_no_use():
    b = (Fraction(1, 2), Fraction(1, 2))
    dense = ((Fraction(1), Fraction(-1, 2)), (Fraction(0), Fraction(1, 2)), (Fraction(0),) * 2)
    with pytest.raises(ValueError, match="dense needs a row a stage"):
        Tableau("bad", order=2, a=((), b), b=b, dense=dense)
