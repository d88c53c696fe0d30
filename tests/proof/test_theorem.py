"""The life of a theorem: evidence, refusals, the record."""

from __future__ import annotations

from fractions import Fraction

import pytest
import sympy as sp

from companion.proof import (
    BadStatement,
    Closed,
    Incomplete,
    LedgerError,
    NotRefuted,
    ProofError,
    Record,
    Theorem,
)
from companion.proof.display import as_html
from tests.proof.statements import DF, A, B, G, a, f, i, n, q, t, u, x, y

SQUARE = ("derivative of the square", sp.diff(x**2, x), 2 * x)


def complete() -> Theorem:
    theorem = Theorem("square", r"\frac{d}{dx} x^2 = 2x", hypotheses="x < 1 & real")
    theorem.prove(*SQUARE)
    theorem.check("at 3", 6.0, 6.0, rtol=1e-9)
    theorem.refute("without the factor", sp.diff(x**2, x), x)
    return theorem


def test_each_step_prints_one_line(capsys):
    complete()
    assert capsys.readouterr().out.splitlines() == [
        "proved: derivative of the square (3 mutants refuted)",
        "checked: at 3 (relative error <= 1e-9)",
        "refuted: without the factor",
    ]


def test_qed_shows_the_record(capsys):
    theorem = complete()
    capsys.readouterr()
    theorem.qed()
    assert theorem.closed
    assert capsys.readouterr().out.splitlines() == [
        r"Theorem square: \frac{d}{dx} x^2 = 2x",
        "  assuming x < 1 & real",
        "  proved: derivative of the square (3 mutants refuted)",
        "  checked: at 3 (relative error <= 1e-9)",
        "  refuted: without the factor",
    ]


@pytest.mark.parametrize("missing", ["prove", "check", "refute"])
def test_qed_demands_every_kind_of_evidence(missing):
    theorem = Theorem("square", "a = b")
    if missing != "prove":
        theorem.prove(*SQUARE)
    if missing != "check":
        theorem.check("at 3", 6.0, 6.0)
    if missing != "refute":
        theorem.refute("without the factor", 2 * x, x)
    with pytest.raises(Incomplete, match=f"has no {missing};"):
        theorem.qed()
    assert not theorem.closed


def test_an_empty_theorem_lacks_all_three():
    with pytest.raises(Incomplete, match="no prove and no check and no refute"):
        Theorem("empty", "a = b").qed()


def test_a_closed_theorem_takes_no_more():
    theorem = complete()
    theorem.qed()
    with pytest.raises(Closed):
        theorem.prove("again", 2 * x, 2 * x)
    with pytest.raises(Closed):
        theorem.check("again", 1.0, 1.0)
    with pytest.raises(Closed):
        theorem.refute("again", x, 2 * x)
    with pytest.raises(Closed):
        theorem.qed()


def test_html_is_accessible_and_escaped():
    html = as_html(complete().record)
    assert "<caption>" in html
    assert html.count('scope="col"') == 3
    assert html.count('scope="row"') == 3
    assert "x &lt; 1 &amp; real" in html
    assert "<script" not in html
    assert "style=" not in html


def test_record_survives_json():
    record = complete().record
    assert Record.from_json(record.to_json()) == record
    assert record.mutants == 3


BROKEN = {
    "not a dictionary": lambda data: [],
    "other version": lambda data: {**data, "version": 2},
    "no statement": lambda data: {**data, "statement": None},
    "evidence is no list": lambda data: {**data, "evidence": {}},
    "unknown kind": lambda data: {**data, "evidence": [{"kind": "guess", "label": "x"}]},
    "evidence is text": lambda data: {**data, "evidence": ["prove"]},
    "mutants are text": lambda data: {
        **data, "evidence": [{"kind": "prove", "label": "x", "mutants": "3", "dimensions": ""}]
    },
}  # fmt: skip


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_a_broken_record_is_an_error(change):
    with pytest.raises(LedgerError):
        Record.from_json(change(complete().record.to_json()))


def test_refutation_keeps_its_point():
    theorem = Theorem("refuted", "a = b")
    theorem.refute("root", sp.sqrt(x**2), x)
    theorem.refute("transpose", A * u, A.T * u)
    root, transpose = theorem.record.refutations
    assert root.point == "x = -2"
    assert transpose.point.startswith("n = 2, A[0,0] = ")


NOT_WRONG = {
    "the truth": (sp.diff(x**2, x), 2 * x),
    "true, but hard": (sp.atan(sp.Rational(1, 2)) + sp.atan(sp.Rational(1, 3)), sp.pi / 4),
    "matrices": ((A * B).T, B.T * A.T),
    "other shape": (DF, DF.T),
    "no value anywhere": (sp.exp(G), sp.exp(a)),
    "divergent": (sp.Sum(q[i], (i, 1, sp.oo)), sp.S.Zero),
}


@pytest.mark.parametrize(("derived", "wrong"), NOT_WRONG.values(), ids=NOT_WRONG)
def test_what_is_not_shown_false_is_not_refuted(derived, wrong):
    theorem = Theorem("refuted", "a = b")
    with pytest.raises(NotRefuted):
        theorem.refute("step", derived, wrong)
    assert theorem.record.evidence == ()


BAD_SIDES = {
    "float": 0.5,
    "float inside": x + 0.5,
    "text": "x",
    "list": [x],
    "truth value": True,
    "equation": sp.Eq(x, y),
    "evaluated equation": sp.Eq(x, x),
    "nan": sp.nan,
    "zoo": sp.zoo,
    "set": sp.Interval(0, 1),
    "array of rank 3": sp.Array([[[x]]]),
    "indefinite integral": sp.Integral(f(t), t),
    "shapes that fit only by chance": sp.MatMul(DF, DF),
    "shapes that add only by chance": sp.MatAdd(DF, DF.T),
    "noncommutative and matrix": a * sp.Trace(A),
    "nothing": None,
}


@pytest.mark.parametrize("side", BAD_SIDES.values(), ids=BAD_SIDES)
def test_what_cannot_be_part_of_a_statement(side):
    theorem = Theorem("bad", "a = b")
    with pytest.raises(BadStatement):
        theorem.prove("step", side, x)
    with pytest.raises(BadStatement):
        theorem.prove("step", x, side)
    with pytest.raises(BadStatement):
        theorem.refute("step", x, side)


def test_exact_python_numbers_are_fine():
    theorem = Theorem("numbers", "a = b")
    theorem.prove("integer", sp.sqrt(4), 2)
    theorem.prove("fraction", sp.Rational(1, 2), Fraction(1, 2))
    assert [proof.label for proof in theorem.record.proofs] == ["integer", "fraction"]


@pytest.mark.parametrize("label", ["", "  ", "two\nlines", None, 3])
def test_bad_labels(label):
    with pytest.raises(BadStatement):
        Theorem("square", "a = b").prove(label, x, x)


def test_labels_are_unique():
    theorem = Theorem("square", "a = b")
    theorem.prove(*SQUARE)
    with pytest.raises(BadStatement, match="is taken"):
        theorem.check(SQUARE[0], 1.0, 1.0)


@pytest.mark.parametrize("name", ["", "Square", "two words", "-a", "a_b", None])
def test_bad_names(name):
    with pytest.raises(BadStatement):
        Theorem(name, "a = b")


def test_bad_statement_and_hypotheses():
    with pytest.raises(BadStatement):
        Theorem("square", " ")
    with pytest.raises(BadStatement):
        Theorem("square", "a = b", hypotheses=None)


def test_every_error_is_a_proof_error():
    from companion.proof import errors

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert len(kinds) > 10
    assert all(issubclass(kind, ProofError) for kind in kinds)


def test_dimensions_are_recorded():
    theorem = Theorem("dimension", "a = b")
    theorem.prove("sum", sp.Sum(2 * q[i], (i, 1, n)), 2 * sp.Sum(q[i], (i, 1, n)))
    (proof,) = theorem.record.proofs
    assert proof.dimensions == "n = 2"
