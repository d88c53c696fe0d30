"""Tolerances: numbers, tensors for the elements, trees for the leaves."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._pytree import tree_leaves

from companion import FixedStep, odeint, solve
from tests.ode.problems import F64, forced

ONES = torch.ones(2, dtype=F64)
LEAVES = {"a": torch.ones(3, dtype=F64), "b": (torch.ones(2, 2, dtype=F64),)}


def swing(t, y):
    return -y * (1 + torch.cos(3 * t))


def swings(t, y):
    return {"a": swing(t, y["a"]), "b": (swing(t, y["b"][0]),)}


def same(a, b):
    """Whether two solutions took the same steps to the same states."""
    leaves = zip(tree_leaves(a.y), tree_leaves(b.y), strict=True)
    return a.stats == b.stats and all(torch.equal(x, y) for x, y in leaves)


@pytest.mark.parametrize("kind", [np.float32, np.float64, Fraction, int])
def test_every_kind_of_number_is_one(kind):
    """For a state of one tensor and for a tree of them."""
    number = kind(1) if kind is int else kind(2**-20)
    for f, y0 in ((swing, ONES), (swings, LEAVES)):
        for name in ("rtol", "atol"):
            sol = solve(f, y0, [0.0, 2.0], **{name: number})
            assert same(sol, solve(f, y0, [0.0, 2.0], **{name: float(number)}))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-30, 30), min_size=1, max_size=4), st.sampled_from(["bosh3", "tsit5"]))
def test_scales_of_the_elements(powers, method):
    """A linear problem does not notice in which units its components are measured.

    Powers of two are exact, so that the steps are the same to the last bit.
    """
    scale = 2.0 ** torch.tensor(powers, dtype=F64)
    options = {"method": method, "rtol": 1e-5}
    plain = solve(swing, torch.ones_like(scale), [0.0, 2.0], atol=1e-6, **options)
    scaled = solve(swing, scale, [0.0, 2.0], atol=1e-6 * scale, **options)
    assert torch.equal(scaled.y, plain.y * scale)
    assert scaled.stats == plain.stats


def test_one_tolerance_for_all_is_not_the_same_as_one_for_each():
    scale = torch.tensor([1.0] + [1e-9] * 15, dtype=F64)
    each = solve(swing, scale, [0.0, 2.0], atol=1e-6 * scale, rtol=0.0)
    together = solve(swing, scale, [0.0, 2.0], atol=1e-6, rtol=0.0)
    assert together.stats.accepted < each.stats.accepted


@pytest.mark.parametrize("name", ["rtol", "atol"])
def test_an_element_with_a_loose_tolerance_does_not_steer_the_steps(name):
    def wild(t, y):
        return torch.stack([-y[0], 30 * torch.cos(40 * t)])

    def calm(t, y):
        return torch.stack([-y[0], 0 * y[1]])

    other = {"rtol": "atol", "atol": "rtol"}[name]
    options = {name: torch.tensor([1e-7, 1e15], dtype=F64), other: 0.0}
    a, b = (solve(f, ONES, [0.0, 3.0], **options) for f in (wild, calm))
    assert a.stats == b.stats
    assert torch.allclose(a.y[:, 0], b.y[:, 0], rtol=1e-9)
    assert solve(wild, ONES, [0.0, 3.0], **{name: 1e-7, other: 0.0}).stats.accepted > 50


@pytest.mark.parametrize("name", ["rtol", "atol"])
def test_tolerances_broadcast_to_the_state(name):
    y0 = torch.linspace(1, 2, 6, dtype=F64).reshape(2, 3)
    column = torch.tensor([[1e-4], [1e-7]], dtype=F64)
    sol = solve(swing, y0, [0.0, 2.0], **{name: column})
    assert same(sol, solve(swing, y0, [0.0, 2.0], **{name: column.expand(2, 3)}))
    flipped = solve(swing, y0.flip(0), [0.0, 2.0], **{name: column})
    assert not torch.equal(sol.y, flipped.y.flip(1))
    # A 0-dim tensor is a number; so it is for every leaf of a tree.
    assert same(
        solve(swings, LEAVES, [0.0, 2.0], **{name: torch.tensor(1e-5, dtype=F64)}),
        solve(swings, LEAVES, [0.0, 2.0], **{name: 1e-5}),
    )


@pytest.mark.parametrize("name", ["rtol", "atol"])
def test_a_tolerance_for_every_leaf(name):
    def times(a, b):
        return {"a": a, "b": (b,)}

    ones = {"a": torch.ones(3, dtype=F64), "b": (torch.ones(2, 2, dtype=F64),)}
    number = solve(swings, ones, [0.0, 2.0], **{name: 1e-5})
    full = torch.full((2, 2), 1e-5, dtype=F64)
    assert same(number, solve(swings, ones, [0.0, 2.0], **{name: times(1e-5, full)}))
    # The norm is the largest of the leaves': that with the small tolerance decides.
    for pair in ((1e-9, 1.0), (1.0, 1e-9)):
        sol = solve(swings, ones, [0.0, 2.0], **{"rtol": 0.0, "atol": 0.0, name: times(*pair)})
        fine = solve(swings, ones, [0.0, 2.0], **{"rtol": 0.0, "atol": 0.0, name: 1e-9})
        assert same(sol, fine)


def test_a_tuple_of_tolerances_through_the_drop_in():
    def f(t, y):
        return swing(t, y[0]), swing(t, y[1])

    state = (ONES, 1e6 * ONES)
    t = torch.tensor([0.0, 2.0], dtype=F64)
    ours = odeint(f, state, t, rtol=0.0, atol=(1e-8, 1e-8 * torch.full((2,), 1e6)))
    assert torch.allclose(ours[1], 1e6 * ours[0], rtol=1e-12)


def test_half_precision_does_not_round_a_tolerance_to_zero():
    half = torch.zeros(2, dtype=torch.float16)
    tensor = torch.full((2,), 1e-8)
    sol = solve(lambda t, y: 1 - y, half, [0.0, 1.0], rtol=1e-2, atol=tensor)
    assert sol.y[-1].tolist() == pytest.approx([0.632, 0.632], abs=0.01)


@pytest.mark.parametrize(
    ("y0", "tolerance", "error", "message"),
    [
        (ONES, torch.ones(3), ValueError, r"shape \(3,\) does not fit a state of shape \(2,\)"),
        (ONES, torch.ones(1, 2), ValueError, r"shape \(1, 2\) does not fit"),
        (ONES, [1e-3, 1e-3], ValueError, r"is \[tensor, tensor\], the state y0 is tensor"),
        (ONES, (), ValueError, "with the structure of y0"),
        (ONES, None, TypeError, "must be a number, got NoneType"),
        (ONES, np.ones(2), TypeError, "must be a number, got ndarray"),
        (ONES, torch.tensor([1e-3, -1e-3]), ValueError, "finite and not negative"),
        (ONES, torch.tensor([1e-3, torch.nan]), ValueError, "finite and not negative"),
        (ONES, torch.tensor([1e-3, torch.inf]), ValueError, "finite and not negative"),
        (ONES, torch.tensor(1e-3 + 0j), TypeError, "has dtype torch.complex64"),
        (ONES, torch.tensor(True), TypeError, "has dtype torch.bool"),
        (ONES, torch.tensor(1e-3, requires_grad=True), ValueError, "no gradient flows to a tol"),
        (LEAVES, {"a": 1e-3}, ValueError, "the state y0 is"),
        (LEAVES, (1e-3, 1e-3), ValueError, "the state y0 is"),
        (LEAVES, {"a": 1e-3, "b": (-1.0,)}, ValueError, "finite and not negative, got -1.0"),
        (LEAVES, torch.ones(3), ValueError, r"shape \(3,\) does not fit a state of shape \(2, 2\)"),
    ],
)
@pytest.mark.parametrize("name", ["rtol", "atol"])
def test_wrong_tolerances(name, y0, tolerance, error, message):
    with pytest.raises(error, match=message) as raised:
        solve(swing if y0 is ONES else swings, y0, [0.0, 1.0], **{name: tolerance})
    assert str(raised.value).startswith(name)


@settings(max_examples=20, deadline=None)
@given(st.floats(1e-9, 1e-3), st.floats(1e-9, 1e-3))
def test_the_error_of_a_solve_follows_both_tolerances(rtol, atol):
    y0 = torch.tensor([1.0, -0.5], dtype=F64)
    sol = solve(forced, y0, [0.0, 2.0], rtol=rtol, atol=atol)
    exact = solve(forced, y0, [0.0, 2.0], rtol=1e-12, atol=1e-12)
    assert (sol.y[-1] - exact.y[-1]).abs().max() < 100 * (rtol + atol)


def test_elements_may_have_one_tolerance_each_of_a_kind():
    """Only where both are zero nothing is allowed."""
    y0 = {"a": ONES, "b": (ONES,)}
    pair = {"rtol": {"a": 1e-6, "b": (0.0,)}, "atol": {"a": 0.0, "b": (1e-6,)}}
    sol = solve(swings, y0, [0.0, 2.0], **pair)
    exact = solve(swings, y0, [0.0, 2.0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(sol.y, exact.y, rtol=1e-4, atol=1e-4)
    first, second = torch.tensor([1e-6, 0.0]), torch.tensor([0.0, 1e-6])
    solve(swing, ONES, [0.0, 2.0], rtol=first, atol=second)
    for rtol, atol in ((first, first), (0.0, second), (first, 0.0), (0.0, 0.0), (0, 0)):
        with pytest.raises(ValueError, match="both zero"):
            solve(swing, ONES, [0.0, 2.0], rtol=rtol, atol=atol)
    with pytest.raises(ValueError, match="both zero"):
        solve(swings, y0, [0.0, 2.0], rtol={"a": 1e-6, "b": (0.0,)}, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_tolerances_that_half_precision_cannot_hold_are_named(dtype, recwarn):
    y0, eps = torch.ones(2, dtype=dtype), torch.finfo(dtype).eps
    sol = solve(lambda t, y: -y, y0, [0.0, 1.0], method="trbdf2", rtol=eps, atol=0.0)
    assert sol.y[-1].tolist() == pytest.approx([0.3679] * 2, abs=4 * eps)
    # It does not matter where the state is small, and with fixed steps not at all.
    solve(lambda t, y: 0 * y, y0 / 1024, [0.0, 1.0], rtol=0.0, atol=eps)
    solve(lambda t, y: -y, y0, [0.0, 1.0], method="rk4", control=FixedStep(0.25))
    solve(lambda t, y: 0 * y, y0.float(), [0.0, 1.0])
    assert not [w for w in recwarn if "resolution" in str(w.message)]
    for options in ({}, {"batched": True}):
        with pytest.warns(UserWarning, match=f"resolution of {dtype}.*state in float32"):
            solve(lambda t, y: 0 * y, y0, [0.0, 1.0], **options)
