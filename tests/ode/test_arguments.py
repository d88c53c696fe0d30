"""What f takes after t and y: any tree, through which gradients flow."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._pytree import tree_leaves, tree_structure, tree_unflatten

from companion import Backsolve, FixedStep, solve
from tests.ode.problems import F64

Y0 = torch.tensor([1.0, 0.5], dtype=F64)
GRADIENTS = ["direct", Backsolve(rtol=1e-10, atol=1e-12)]


def number(value):
    return torch.tensor(value, dtype=F64, requires_grad=True)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("sense", [1, -1])
def test_dictionaries_of_tuples_with_other_things_between(gradient, sense):
    """y' = (a b[0] + n t) y, y(1) = y0 exp(a b[0] + n / 2), and both again backwards."""
    a, b, unused = number(0.4), number([0.5, 7.0]), number(3.0)
    marker = object()
    steps = torch.tensor([1, 2])

    def f(t, y, coefficients, marked, name):
        assert marked is marker
        assert name == "growth"
        assert coefficients["steps"].dtype == torch.int64
        (first, (second,)), power = coefficients["rates"], coefficients["power"]
        assert coefficients["none"] is None
        return (first * second[0] + power * coefficients["steps"][0] * t) * y

    tree = {"rates": (a, (b,)), "power": 2, "steps": steps, "none": None, "unused": [unused]}
    sol = solve(
        f,
        Y0,
        [0.0, float(sense)],
        args=(tree, marker, "growth"),
        rtol=1e-10,
        atol=1e-12,
        gradient=gradient,
    )
    expected = Y0 * torch.exp(sense * a * b[0] + 1)
    assert torch.allclose(sol.y[-1], expected, rtol=1e-8)
    loss, exact = sol.y[-1] @ Y0, expected @ Y0
    found = torch.autograd.grad(loss, (a, b, unused), allow_unused=True)
    for x, y in zip(found, torch.autograd.grad(exact, (a, b)), strict=False):
        assert torch.allclose(x, y, rtol=1e-7)
    assert found[2] is None or float(found[2]) == 0


TREES = st.recursive(
    st.floats(-0.5, 0.5) | st.just("name") | st.just(None) | st.integers(-3, 3),
    lambda parts: (
        st.lists(parts, max_size=3)
        | st.dictionaries(st.sampled_from("abc"), parts)
        | st.tuples(parts, parts)
    ),
    max_leaves=6,
)


@settings(max_examples=30, deadline=None)
@given(st.lists(TREES, max_size=3), st.sampled_from(GRADIENTS))
def test_any_tree_arrives_as_it_was_given(trees, gradient):
    """Its floats are tensors here, with the derivative of exp(t * their sum) each."""

    def tensor(x):
        return number(x) if isinstance(x, float) else x

    args = tuple(
        tree_unflatten([tensor(x) for x in tree_leaves(tree)], tree_structure(tree))
        for tree in trees
    )
    structures = [tree_structure(tree) for tree in trees]
    others = [x for x in tree_leaves(trees) if not isinstance(x, float)]

    def f(t, y, *args):
        assert [tree_structure(arg) for arg in args] == structures
        leaves = tree_leaves(args)
        assert [x for x in leaves if not isinstance(x, torch.Tensor)] == others
        return y * sum((x for x in leaves if isinstance(x, torch.Tensor)), 0.1)

    tensors = [x for x in tree_leaves(args) if isinstance(x, torch.Tensor)]
    y0 = Y0.clone().requires_grad_()
    sol = solve(f, y0, [0.0, 1.0], args=args, rtol=1e-9, atol=1e-10, gradient=gradient)
    grads = torch.autograd.grad(sol.y[-1, 0], [y0, *tensors])
    growth = torch.exp(sum((x.detach() for x in tensors), torch.tensor(0.1, dtype=F64)))
    assert torch.allclose(grads[0], torch.stack([growth, 0 * growth]), rtol=1e-6)
    for grad in grads[1:]:
        assert torch.allclose(grad, growth, rtol=1e-6)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_one_tensor_in_two_places_and_a_derived_one(gradient):
    """The gradients of both places add up, and flow on to what a tensor was computed from."""
    a = number(0.3)
    sol = solve(
        lambda t, y, p, q: (p["x"] + p["y"] + q) * y,
        Y0,
        [0.0, 1.0],
        args=({"x": a, "y": a}, a**2),
        rtol=1e-10,
        atol=1e-12,
        gradient=gradient,
    )
    exact = Y0[0] * torch.exp(2 * a + a**2)
    (found,) = torch.autograd.grad(sol.y[-1, 0], a)
    (expected,) = torch.autograd.grad(exact, a)
    assert found.item() == pytest.approx(expected.item(), rel=1e-8)


def test_the_condition_of_an_event_takes_them_too():
    a = number(2.0)
    sol = solve(
        lambda t, y, p: -y,
        Y0,
        [0.0, 9.0],
        args=({"level": (a,)},),
        rtol=1e-10,
        atol=1e-12,
        event=lambda t, y, p: y[0] * p["level"][0] - 1,
    )
    # exp(-t) a = 1 at t = log(a).
    assert float(torch.autograd.grad(sol.event.t, a)[0]) == pytest.approx(0.5, rel=1e-8)


@pytest.mark.parametrize(
    ("method", "control"),
    [("kvaerno3", None), ("gl4", FixedStep(0.1)), ("implicit_adams", FixedStep(0.02))],
)
def test_with_implicit_methods(method, control):
    a, b = number(0.4), number(-0.7)
    sol = solve(
        lambda t, y, p: (p["a"] + p["b"][0] * t) * y,
        Y0,
        [0.0, 1.0],
        args=({"a": a, "b": (b, "unused")},),
        method=method,
        control=control,
        rtol=1e-9,
        atol=1e-9,
    )
    expected = Y0[0] * torch.exp(a + b / 2)
    assert sol.y[-1, 0].item() == pytest.approx(expected.item(), rel=1e-5)
    for x, y in zip(
        torch.autograd.grad(sol.y[-1, 0], (a, b)),
        torch.autograd.grad(expected, (a, b)),
        strict=True,
    ):
        assert x.item() == pytest.approx(y.item(), rel=1e-4)
