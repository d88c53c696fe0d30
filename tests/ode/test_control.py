"""Controllers as functions of the errors they see."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from companion import solve
from companion.ode import PID
from companion.ode.control import PRESETS, START
from tests.ode.problems import F64, forced, forced_reference

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


#: The exponents of the present and of the last two errors, times k, as their sources give them:
#: Gustafsson (1991) with (k_I, k_P) in fractions of 1 / k, Soderlind (2003), table II.
EXPONENTS = {
    "I": (-1.0, 0.0, 0.0),
    "PI3040": (-0.7, 0.4, 0.0),
    "PI3333": (-2 / 3, 1 / 3, 0.0),
    "PI4020": (-0.6, 0.2, 0.0),
    "H211PI": (-1 / 6, -1 / 6, 0.0),
    "H312PID": (-1 / 18, -1 / 9, -1 / 18),
}


def test_every_preset_is_known():
    assert set(PRESETS) == set(EXPONENTS)


@pytest.mark.parametrize("name", EXPONENTS)
def test_presets_have_the_coefficients_of_their_sources(name):
    now, last, before = 0.5, 0.7, 0.3
    factor = PRESETS[name].judge(now, 4, (last, before))[1]
    a, b, c = (exponent / 5 for exponent in EXPONENTS[name])
    assert factor == pytest.approx(max(0.9 * now**a * last**b * before**c, 0.2))
    assert 0.2 < factor < 10


@pytest.mark.parametrize("name", EXPONENTS)
def test_presets_by_name(name):
    """A name is the controller it stands for, and every controller keeps the tolerance."""
    y0 = torch.tensor([1.0, -0.5], dtype=F64)
    sol = solve(forced, y0, [0.0, 9.0], control=name)
    assert torch.equal(sol.y, solve(forced, y0, [0.0, 9.0], control=PRESETS[name]).y)
    assert (sol.y[-1] - forced_reference(y0.numpy(), [0.0, 9.0])[-1]).abs().max() < 1e-4
    assert (name == "I") == torch.equal(sol.y, solve(forced, y0, [0.0, 9.0]).y)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("PI3041", "unknown control 'PI3041': did you mean 'PI3040'"),
        ("h211pi", "unknown control 'h211pi'"),
        ("deadbeat", "choose one of I, PI3040, PI3333, PI4020, H211PI, H312PID"),
    ],
)
def test_unknown_presets(name, message):
    with pytest.raises(ValueError, match=message):
        solve(forced, torch.ones(2), [0.0, 1.0], control=name)
