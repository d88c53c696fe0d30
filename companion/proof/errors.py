"""What can go wrong with a proof, a check or a refutation; every message says what to do."""

from __future__ import annotations


class ProofError(Exception):
    """Base of every error that a theorem raises."""


class BadStatement(ProofError):
    """An argument is not something that can be proved, checked or refuted."""


class Disproved(ProofError):
    """The claimed identity is false: an exact point contradicts it, or the shapes differ."""


class Undecided(ProofError):
    """No exact zero was reached and no exact point refutes the identity: nothing is proved."""


class SurvivingMutant(ProofError):
    """A mutated claim could not be refuted, so the proof does not pin the claim down."""


class VacuousProof(ProofError):
    """The claim has nothing that could be wrong: no mutant of it exists."""


class CheckFailed(ProofError):
    """The measured numbers do not agree with the expected ones."""


class VacuousCheck(ProofError):
    """The check could not have failed."""


class NotRefuted(ProofError):
    """The wrong statement was not shown to be false at any exact point."""


class Incomplete(ProofError):
    """The theorem lacks a proof, a check or a refutation."""


class Closed(ProofError):
    """The theorem was closed by ``qed`` and takes no further evidence."""


class Unevaluable(ProofError):
    """An expression has no exact value at a point (a pole, an unknown node, no closed form).

    Raised by the evaluation and handled by its callers; a reader of a chapter does not see it.
    """


class LedgerError(ProofError):
    """A stored notebook or a record in it cannot be read."""
