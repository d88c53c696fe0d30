"""Mutants: which ones are made, that each is refuted, and that a survivor is an error."""

from __future__ import annotations

import pytest
import sympy as sp

from companion.proof import SurvivingMutant, Theorem, Undecided, VacuousProof, theorem
from companion.proof.mutate import MOST_MUTANTS, Mutant, mutants
from tests.proof.statements import (
    DF,
    A,
    B,
    G,
    a,
    augmented,
    f,
    i,
    j,
    k,
    n,
    t,
    t0,
    t1,
    u,
    v,
    w,
    x,
    y,
)


def names(claim, **options) -> list[str]:
    return [mutant.name for mutant in mutants(claim, **options)]


def test_whole_terms_and_factors():
    assert names(x + 2 * a * G) == [
        "sign of the whole flipped",
        "whole doubled",
        "whole replaced by zero",
        "sign of the term x flipped",
        "term x dropped",
        "sign of the term 2*a*G flipped",
        "term 2*a*G dropped",
        "factors a and G swapped",
    ]


def test_matrix_factors():
    found = names(DF.T * v)
    assert "transpose of DF dropped" in found
    assert "v transposed" in found
    assert "factors DF.T and v swapped" in found
    assert "A transposed" in names(A * u)
    assert "factors A and B swapped" in names(sp.Trace(A * B) * x)


def test_indices_limits_and_variables():
    assert "indices of w[i, j] swapped" in names(sp.Sum(w[i, j], (i, 1, n)))
    summed = names(sp.Sum(w[i, j], (i, 1, n)))
    assert "lower limit raised by one for i in the sum" in summed
    assert "upper limit lowered by one for i in the sum" in summed
    integral = names(sp.Integral(f(t), (t, t0, t1)))
    assert "limits reversed for t in the integral" in integral
    assert "upper limit lowered by one for t in the integral" in integral
    partial = f(x, y, t).diff(x)
    shown = "Derivative(f(x, y, t), x) taken with respect to"
    assert f"{shown} y instead of x" in names(partial)
    assert f"{shown} t instead of x" in names(partial)


def test_entries_of_a_matrix():
    found = names(sp.ImmutableMatrix([[x, 0], [y + 1, 0]]))
    assert "whole transposed" in found
    assert "sign flipped in entry [0, 0]" in found
    assert "term y dropped in entry [1, 0]" in found
    assert not any("[0, 1]" in name for name in found)


def test_blocks_of_a_matrix():
    found = names(sp.BlockMatrix([[A * B, sp.ZeroMatrix(n, n)]]))
    assert "factors A and B swapped in block [0, 0]" in found
    assert not any("[0, 1]" in name for name in found)


def test_no_mutant_equals_the_claim_and_none_comes_twice():
    symmetric = sp.ImmutableMatrix([[x, y], [y, x]])
    assert "whole transposed" not in names(symmetric)
    for claim in (x + y, a * G * a, sp.sin(x), A * B + B * A):
        found = [mutant.expr for mutant in mutants(claim)]
        assert claim not in found
        assert len(set(found)) == len(found)


def test_their_number_is_capped_the_same_way_every_time():
    claim = augmented().claimed.as_immutable()
    assert len(mutants(claim)) == MOST_MUTANTS
    assert names(claim) == names(claim)


def test_a_zero_claim_mutates_the_other_side():
    found = names(x - y, zero=True)
    assert found == [
        "sign of the term x flipped",
        "term x dropped",
        "sign of the term -y flipped",
        "term -y dropped",
    ]
    theorem = Theorem("zero", "a = 0")
    theorem.prove("scalar", (x + y) ** 2 - x**2 - 2 * x * y - y**2, 0)
    theorem.prove("explicit", sp.Matrix([[sp.sin(x) ** 2 + sp.cos(x) ** 2 - 1, 0]]), sp.zeros(1, 2))
    theorem.prove("symbolic", A * (B + A) - A * B - A * A, sp.ZeroMatrix(n, n))
    assert all(proof.mutants >= 2 for proof in theorem.record.proofs)


SURVIVORS = {
    "symmetric matrix": (
        sp.Matrix([[1, x**2 + x], [x * (x + 1), 2]]),
        sp.Matrix([[1, x * (x + 1)], [x**2 + x, 2]]),
        "whole transposed",
    ),
    "term that vanishes": (x, x + y * ((x + 1) ** 2 - x**2 - 2 * x - 1), "flipped"),
    "commuting matrices": (
        sp.Matrix([[3, 0], [0, 8]]),
        sp.MatMul(sp.ImmutableMatrix([[1, 0], [0, 2]]), sp.ImmutableMatrix([[3, 0], [0, 4]])),
        "swapped",
    ),
    "first term of a sum is zero": (
        n * (n + 1) / 2,
        sp.Sum(k, (k, 0, n)),
        "lower limit raised by one",
    ),
}


@pytest.mark.parametrize("name", SURVIVORS)
def test_a_surviving_mutant_is_an_error(name):
    derived, claimed, survivor = SURVIVORS[name]
    theorem = Theorem("survivor", "a = b")
    with pytest.raises(SurvivingMutant, match=survivor):
        theorem.prove("step", derived, claimed)
    assert theorem.record.evidence == ()


def test_other_ways_to_write_the_claim_are_no_mutants():
    theorem = Theorem("rewriting", "a = b")
    theorem.prove("quadratic form", u.T * A * u, u.T * A.T * u)
    theorem.prove(
        "renamed indices",
        sp.Sum(w[i, j] * w[j, i], (i, 1, n), (j, 1, n)),
        sp.Sum(w[j, i] * w[i, j], (i, 1, n), (j, 1, n)),
    )
    assert all(proof.mutants > 0 for proof in theorem.record.proofs)


def test_nothing_to_mutate_is_a_vacuous_proof():
    with pytest.raises(VacuousProof):
        Theorem("vacuous", "0 = 0").prove("step", x - x, 0)


def test_mutants_that_do_not_even_fit_are_not_enough(monkeypatch):
    monkeypatch.setattr(theorem, "mutants", lambda claim, zero: [Mutant("misfit", None)])
    with pytest.raises(VacuousProof):
        Theorem("misfit", "a = b").prove("step", 2 * A, A + A)


def test_mutants_that_cannot_be_evaluated_survive():
    # True by definition, but no point gives an exact value of an exponential of matrices.
    with pytest.raises((SurvivingMutant, Undecided), match=r"exp of a matrix"):
        Theorem("opaque", "a = b").prove("step", 2 * sp.exp(G), sp.exp(G) + sp.exp(G))
