"""Numerical checks: what passes, what fails, and what could never have failed."""

from __future__ import annotations

from fractions import Fraction

import pytest
import sympy as sp

from companion.proof import BadStatement, CheckFailed, Theorem, VacuousCheck


class Tensor:
    """Stands for a torch tensor or a numpy array."""

    def __init__(self, nested):
        self.nested = nested

    def tolist(self):
        return self.nested


def check(measured, expected, **tolerances):
    theorem = Theorem("checked", "a = b")
    theorem.check("numbers", measured, expected, **tolerances)
    (found,) = theorem.record.checks
    return found


SAME = {
    "floats": (1.0 + 1e-9, 1.0),
    "integer": (2, 2.0),
    "complex": (1 + 2j, 1 + (2 + 1e-9) * 1j),
    "lists": ([[1.0, 2.0], [3.0, 4.0]], ((1.0, 2.0), (3.0, 4.0))),
    "tensor": (Tensor([1.0, 2.0]), [1.0, 2.0]),
    "list of tensors": ([Tensor(1.0), Tensor(2.0)], [1.0, 2.0]),
    "SymPy matrix": ([[0.5, 3.141592653589793]], sp.Matrix([[sp.Rational(1, 2), sp.pi]])),
    "SymPy complex": (2j, 2 * sp.I),
    "fraction": (0.25, Fraction(1, 4)),
    "one zero among others": ([0.0, 1.0], [0.0, 1.0]),
}


@pytest.mark.parametrize(("measured", "expected"), SAME.values(), ids=SAME)
def test_agreement(measured, expected):
    assert check(measured, expected).bound == "relative error <= 1e-7"


def test_the_bound_is_what_is_recorded_and_never_the_error():
    assert check(1.0, 1.0000004, rtol=1e-6).bound == "relative error <= 1e-6"
    assert check(1.0, 1.0, rtol=0, atol=1e-9).bound == "absolute error <= 1e-9"
    both = check([1.0, 1e-12], [1.0, 0.0], rtol=1e-6, atol=1e-9)
    assert both.bound == "error <= 1e-9 + 1e-6 |expected|"
    assert both.numbers == 2


DIFFERENT = {
    "sign": (1.0, -1.0),
    "factor 2": (1.0, 2.0),
    "just outside": (1.0, 1.0 + 1.5e-7),
    "one entry": ([1.0, 2.0, 3.0], [1.0, 2.0, 3.001]),
    "a small entry beside a large one": ([1e9, 1.0], [1e9, 1.001]),
    "zero that is not": ([1e-12, 1.0], [0.0, 1.0]),
    "imaginary part": (1 + 1e-3j, 1.0),
    "shape": ([1.0], 1.0),
    "transposed": ([[1.0, 2.0]], [[1.0], [2.0]]),
}


@pytest.mark.parametrize(("measured", "expected"), DIFFERENT.values(), ids=DIFFERENT)
def test_disagreement(measured, expected):
    with pytest.raises(CheckFailed):
        check(measured, expected)


def test_the_message_has_the_largest_error_and_its_index():
    measured = [[1.0, 2.0], [3.0, 4.5]]
    with pytest.raises(CheckFailed, match=r"numbers: the largest error is 5.00e-01 at .*\(1, 1\)"):
        check(measured, [[1.0, 2.1], [3.0, 4.0]])


VACUOUS = {
    "expected is zero": ([0.0, 0.0], [0.0, 0.0], {"atol": 1e-9}),
    "relative tolerance of one": (1.0, 1.0, {"rtol": 1.0}),
    "tolerance as large as the numbers": (1e-4, 1e-4, {"atol": 1e-3}),
    "tolerance that swallows zero alone": (0.9999e-3, 1.0005e-3, {"atol": 1e-3, "rtol": 0}),
}


@pytest.mark.parametrize(("measured", "expected", "tolerances"), VACUOUS.values(), ids=VACUOUS)
def test_a_check_that_cannot_fail_is_an_error(measured, expected, tolerances):
    with pytest.raises(VacuousCheck):
        check(measured, expected, **tolerances)


BAD = {
    "nan": (float("nan"), 1.0, {}),
    "infinity": ([1.0, float("inf")], [1.0, float("inf")], {}),
    "infinite expectation": (1.0, float("inf"), {}),
    "complex nan": (complex(0, float("nan")), 1.0, {}),
    "ragged": ([[1.0], [1.0, 2.0]], [[1.0], [1.0, 2.0]], {}),
    "empty": ([], [], {}),
    "text": ("1.0", 1.0, {}),
    "truth value": (True, 1.0, {}),
    "nothing": (None, 1.0, {}),
    "object": (object(), 1.0, {}),
    "symbol": (sp.Symbol("x"), 1.0, {}),
    "rtol is no power of ten": (1.0, 1.0, {"rtol": 2e-7}),
    "rtol is negative": (1.0, 1.0, {"rtol": -1e-7}),
    "rtol is nan": (1.0, 1.0, {"rtol": float("nan")}),
    "rtol is infinite": (1.0, 1.0, {"rtol": float("inf")}),
    "rtol is text": (1.0, 1.0, {"rtol": "1e-7"}),
    "atol is no power of ten": (1.0, 1.0, {"atol": 3e-7}),
    "no tolerance": (1.0, 1.0, {"rtol": 0, "atol": 0}),
}


@pytest.mark.parametrize(("measured", "expected", "tolerances"), BAD.values(), ids=BAD)
def test_bad_input(measured, expected, tolerances):
    with pytest.raises(BadStatement):
        check(measured, expected, **tolerances)


def test_the_message_says_what_would_have_passed():
    with pytest.raises(VacuousCheck, match=r"with expected\[0\] with its sign flipped"):
        check([0.0], [0.0], atol=1e-9)
    with pytest.raises(VacuousCheck, match="with expected doubled"):
        check(1.0, 1.0, rtol=1.0)


@pytest.mark.parametrize("exponent", range(-15, 1))
def test_every_power_of_ten_is_recognised(exponent):
    assert check(5.0, 5.0, rtol=0, atol=float(f"1e{exponent}")).bound.endswith(f"1e{exponent}")
