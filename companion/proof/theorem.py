"""Theorems: a statement with the exact proofs, the checks and the refutations that support it."""

from __future__ import annotations

import re

import sympy as sp

from companion.proof import check as numeric
from companion.proof.display import line, show
from companion.proof.errors import (
    BadStatement,
    Closed,
    Disproved,
    Incomplete,
    NotRefuted,
    ProofError,
    SurvivingMutant,
    Undecided,
    VacuousProof,
)
from companion.proof.mutate import Mutant, mutants
from companion.proof.normal import normal
from companion.proof.record import Checked, Evidence, Proved, Record, Refuted
from companion.proof.refutation import Counterexample, Evaluated
from companion.proof.statement import Side, require_same_shape, same_shape, side
from companion.proof.words import words
from companion.proof.zero import residual

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class Theorem:
    """A theorem under proof.

    Args:
        name: Label of the theorem in the page, lower case with hyphens.
        statement: The statement in LaTeX.
        hypotheses: What is assumed, as text.

    Raises:
        BadStatement: The name or the statement is not usable.
    """

    def __init__(self, name: str, statement: str, hypotheses: str = "") -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise BadStatement(
                f"name is {name!r}; use lower case letters, digits and hyphens, as in "
                "'augmented-adjoint'"
            )
        if not isinstance(statement, str) or not statement.strip():
            raise BadStatement(f"statement is {statement!r}; give the statement in LaTeX")
        if not isinstance(hypotheses, str):
            raise BadStatement(f"hypotheses is {hypotheses!r}; give text")
        self._name = name
        self._statement = statement
        self._hypotheses = hypotheses
        self._evidence: list[Evidence] = []
        self._closed = False

    # What is under proof does not change while it is proved.

    @property
    def name(self) -> str:
        """Label of the theorem in the page."""
        return self._name

    @property
    def statement(self) -> str:
        """The statement in LaTeX."""
        return self._statement

    @property
    def hypotheses(self) -> str:
        """What is assumed."""
        return self._hypotheses

    @property
    def record(self) -> Record:
        """The evidence so far."""
        return Record(self.name, self.statement, self.hypotheses, tuple(self._evidence))

    @property
    def closed(self) -> bool:
        """Whether ``qed`` has been reached."""
        return self._closed

    def __repr__(self) -> str:
        return f"Theorem({self.name!r}, {self.statement!r})"

    def prove(self, label: str, derived: object, claimed: object) -> None:
        """Prove ``derived == claimed`` exactly, then show that mutants of the claim are false.

        Args:
            label: What is proved, in words; unique in the theorem.
            derived: The side that was computed.
            claimed: The side that is claimed; its mutants are tried (those of ``derived``, if
                the claim is zero).

        Raises:
            Disproved: An exact point contradicts the identity, or the shapes differ.
            Undecided: Neither a proof nor a contradiction was found.
            SurvivingMutant: A mutant of the claim could not be refuted.
            VacuousProof: The claim has no mutants.
            BadStatement: An argument cannot be part of a proof.
        """
        self._admit(label)
        derived, claimed = side("derived", derived), side("claimed", claimed)
        with _Labelled(label):
            require_same_shape(derived, claimed)
            evaluated = Evaluated(derived, (claimed,))
            # Points come first: they are fast, and where they contradict, no rewriting by the
            # algebra system may say otherwise.
            against = evaluated.differs_from(claimed)
            if against is not None:
                raise Disproved(
                    f"false at {_place(against)}, where derived - claimed = {against.difference}"
                )
            left = residual(derived, claimed)
            if left != 0:
                raise Undecided(
                    f"no proof and no counterexample; derived - claimed was reduced to "
                    f"{_cut(left)}. Rewrite one side, or prove the step in smaller parts"
                )
            count, dimensions = _refute_mutants(evaluated, derived, claimed)
        self._add(Proved(label, count, dimensions))

    def check(
        self,
        label: str,
        measured: object,
        expected: object,
        *,
        rtol: float = 1e-7,
        atol: float = 0.0,
    ) -> None:
        """Check measured numbers: ``|measured - expected| <= atol + rtol * |expected|``.

        Args:
            label: What is checked, in words; unique in the theorem.
            measured: Numbers of any shape: a number, nested lists, anything with ``tolist()``.
            expected: Numbers of the same shape.
            rtol: Relative tolerance, a power of ten or zero.
            atol: Absolute tolerance, a power of ten or zero.

        Raises:
            CheckFailed: The numbers or their shapes differ.
            VacuousCheck: The check would also pass for wrong numbers.
            BadStatement: An argument is no array of finite numbers or no power of ten.
        """
        self._admit(label)
        with _Labelled(label):
            allowed = numeric.bound(rtol, atol)
            found = numeric.array("measured", measured)
            numeric.compare(found, numeric.array("expected", expected), allowed)
        self._add(Checked(label, str(allowed), len(found.numbers)))

    def refute(self, label: str, derived: object, wrong: object) -> None:
        """Show that ``derived == wrong`` is false at an exact point.

        Args:
            label: What is wrong, in words; unique in the theorem.
            derived: The true side.
            wrong: The wrong side, of the same shape.

        Raises:
            NotRefuted: No point shows a difference.
            BadStatement: An argument cannot be part of a statement.
        """
        self._admit(label)
        derived, wrong = side("derived", derived), side("wrong", wrong)
        with _Labelled(label):
            if not same_shape(derived, wrong):
                raise NotRefuted(
                    "the two sides have different shapes, so they are not a false statement but "
                    "none; compare sides of one shape"
                )
            evaluated = Evaluated(derived, (wrong,))
            against = evaluated.differs_from(wrong)
            if against is None:
                raise NotRefuted(_not_refuted(evaluated))
        self._add(Refuted(label, against.point))

    def qed(self) -> None:
        """Close the theorem and show its record.

        Raises:
            Incomplete: A proof, a check or a refutation is missing.
            Closed: The theorem is closed already.
        """
        self._require_open()
        record = self.record
        present = (("prove", record.proofs), ("check", record.checks),
                   ("refute", record.refutations))  # fmt: skip
        missing = [kind for kind, found in present if not found]
        if missing:
            raise Incomplete(
                f"{self.name} has no {' and no '.join(missing)}; a theorem needs at least one "
                "prove, one check and one refute before qed"
            )
        self._closed = True
        show(record)

    def _require_open(self) -> None:
        if self._closed:
            raise Closed(f"{self.name} was closed by qed; make a new Theorem for more evidence")

    def _admit(self, label: str) -> None:
        self._require_open()
        if not isinstance(label, str) or not label.strip() or "\n" in label:
            raise BadStatement(f"label is {label!r}; say in one line what is shown")
        if any(e.label == label for e in self._evidence):
            raise BadStatement(f"the label {label!r} is taken in {self.name}; choose another")

    def _add(self, evidence: Evidence) -> None:
        self._evidence.append(evidence)
        print(line(evidence))


class _Labelled:
    """Puts the label of the step in front of the message of an error."""

    def __init__(self, label: str) -> None:
        self.label = label

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, trace) -> None:
        if isinstance(error, ProofError) and error.args:
            error.args = (f"{self.label}: {error.args[0]}",)


def _refute_mutants(evaluated: Evaluated, derived: Side, claimed: Side) -> tuple[int, str]:
    """Refute every mutant; how many there were, and the dimensions at which the first fell."""
    zero = _is_zero(claimed)
    original = derived if zero else claimed
    candidates = mutants(original, zero=zero)
    count, at_a_point, dimensions = 0, False, ""
    for mutant in candidates:
        if mutant.expr is None:  # not even well formed: the shapes do not fit
            count += 1
            continue
        against = _refutes(evaluated, mutant, claimed if zero else None)
        if against is None:
            if mutant.rewriting and _same_form(original, mutant):
                continue
            raise SurvivingMutant(_survivor(mutant, evaluated))
        count, at_a_point = count + 1, True
        dimensions = dimensions or against.dimensions
    if not at_a_point:
        raise VacuousProof(
            "nothing in this claim can be changed to something false; state the identity with "
            "its terms on both sides"
        )
    return count, dimensions


def _is_zero(claimed: Side) -> bool:
    if isinstance(claimed, sp.MatrixBase):
        return all(entry == 0 for entry in claimed)
    return claimed == 0 or isinstance(claimed, sp.ZeroMatrix)


def _refutes(evaluated: Evaluated, mutant: Mutant, zero: Side | None) -> Counterexample | None:
    if zero is None:
        return evaluated.differs_from(mutant.expr, mutant.entry, misfit_counts=True)
    # The claim is zero: a mutant of the other side must not be zero.
    target = zero if mutant.entry is None else sp.S.Zero
    return Evaluated(mutant.expr, (evaluated.expr,)).differs_from(target)


def _same_form(original: Side, mutant: Mutant) -> bool:
    """Whether a mutant is the claim in other words: renamed indices, a transposed scalar."""
    if mutant.entry is not None:
        original = original[mutant.entry]
    if not original.is_Matrix:
        return normal(original - mutant.expr) == 0
    if isinstance(original, sp.MatrixBase) or not same_shape(original, mutant.expr):
        return False
    return not words(original - mutant.expr)


def _survivor(mutant: Mutant, evaluated: Evaluated) -> str:
    reasons = evaluated.reasons
    why = f" ({reasons[0]})" if reasons and not evaluated.evaluated else ""
    return (
        f"the claim with its {mutant.name} was not refuted at any exact point{why}, so the proof "
        "does not distinguish it from the claim. Remove what does not matter from the claim, or "
        "state it for unknowns that are general enough"
    )


def _not_refuted(evaluated: Evaluated) -> str:
    if not evaluated.evaluated:
        return f"no exact point could be evaluated: {evaluated.reasons[0]}"
    return "the two sides agree at every exact point that was tried; it may be true"


def _place(against: Counterexample) -> str:
    return against.point or "every point"


def _cut(expr: sp.Basic, most: int = 400) -> str:
    text = sp.sstr(expr)
    return text if len(text) <= most else text[:most] + " ..."
