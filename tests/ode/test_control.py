"""Controllers as functions of the errors they see."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.ode import PID
from companion.ode.control import START

RATIOS = st.floats(1e-12, 1e12)


@given(RATIOS, st.integers(1, 8))
def test_integral_control_is_the_textbook_formula(ratio, order):
    accepted, factor, _ = PID().judge(ratio, order, START)
    optimal = 0.9 * max(ratio, 1e-10) ** (-1 / (order + 1))
    assert accepted == (ratio <= 1)
    low, high = (1.0, 10.0) if accepted else (0.2, 0.9)
    assert factor == pytest.approx(min(max(optimal, low), high))


@given(st.lists(RATIOS, min_size=3, max_size=3), st.integers(1, 8))
def test_the_full_formula(ratios, order):
    control = PID(0.3, 0.4, 0.1, min_factor=1e-12, max_factor=1e12)
    _, factor, _ = control.judge(ratios[2], order, (ratios[1], ratios[0]))
    now, last, before = max(ratios[2], 1e-10), ratios[1], ratios[0]
    k = order + 1
    expected = 0.9 * now ** (-0.8 / k) * last ** (0.5 / k) * before ** (-0.1 / k)
    expected = max(expected, 1e-12)
    assert factor == pytest.approx(expected if ratios[2] <= 1 else min(expected, 0.9))


@given(st.lists(RATIOS, min_size=1, max_size=30), st.floats(0, 1), st.floats(0, 1))
def test_history_holds_the_last_two_accepted_errors(ratios, p, d):
    control, history = PID(p, 0.5, d), START
    accepted = [1.0, 1.0]
    for ratio in ratios:
        ok, factor, history = control.judge(ratio, 4, history)
        if ok:
            accepted.append(max(ratio, 1e-10))
        else:
            assert factor < 1
        assert history == (accepted[-1], accepted[-2])
        assert control.min_factor <= factor <= control.max_factor


@pytest.mark.parametrize("ratio", [math.nan, math.inf])
def test_an_error_that_is_no_number_shrinks_the_step(ratio):
    assert PID().judge(ratio, 4, START) == (False, 0.2, START)


def test_a_rejected_step_shrinks_whatever_the_history_says():
    """An almost exact step two steps ago would have the derivative term ask for a larger one."""
    accepted, factor, _ = PID(0.0, 0.1, 1.0).judge(1.01, 4, (1.0, 1e-10))
    assert not accepted
    assert factor < 1
