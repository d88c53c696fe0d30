"""Theorems whose proofs run.

A theorem collects evidence and shows its record::

    import sympy as sp
    from companion.proof import Theorem

    x, h = sp.symbols("x h", real=True)
    f, g = sp.Function("f"), sp.Function("g")
    product = sp.diff(f(x) * g(x), x)
    rule = f(x).diff(x) * g(x) + f(x) * g(x).diff(x)

    thm = Theorem("product-rule", r"(fg)' = f'g + fg'", hypotheses="f and g are smooth")
    thm.prove("the product rule", product, rule)
    thm.check("at 0.5 for sin and exp", measured, expected, rtol=1e-7)
    thm.refute("not the product of the derivatives", product, f(x).diff(x) * g(x).diff(x))
    thm.qed()

What "proved" means here
    ``derived - claimed`` was rewritten, by identities, to the SymPy object 0.  The identity holds
    for all values of the unknowns for which both sides are defined: symbols within their declared
    assumptions; undefined functions as smooth functions; noncommutative symbols as square
    matrices of any size; matrix symbols and indexed sums of any dimension at least 1; a free
    ``Idx`` anywhere in its range.  An identity written for explicit dimensions is proved for those
    dimensions only.  Integrals are over intervals on which the integrand is smooth;
    functions with kinks and jumps are refused inside derivatives, integrals and limits.
    A simplification that does not arrive at 0 proves nothing and disproves nothing
    (:class:`Undecided`).

What makes it hard to fool
    Before anything is rewritten, both sides are evaluated at exact points (rational numbers for
    symbols, rational polynomials for functions, rational matrices for matrices), where they must
    agree (:class:`Disproved`).  After the zero, mutants of the claim (a flipped sign, a dropped
    term, a swapped or transposed factor, swapped indices, changed limits, another variable in a
    derivative) must each be false at such a point, and :class:`SurvivingMutant` is raised
    otherwise.

What has to be trusted
    SymPy's automatic evaluation, its assumptions, ``expand``, ``diff``, ``integrate``,
    ``limit``, ``together`` and ``simplify`` (never with ``force``), and the few hundred lines of
    rewriting in this package.
    Exact evaluation at points, which is independent of the simplifier, guards against a mistake
    in them, but for ``integrate`` and ``limit``: what they say enters the points, too.  ``check``
    is float64 arithmetic and proves nothing by itself.
"""

from companion.proof.errors import (
    BadStatement,
    CheckFailed,
    Closed,
    Disproved,
    Incomplete,
    LedgerError,
    NotRefuted,
    ProofError,
    SurvivingMutant,
    Undecided,
    VacuousCheck,
    VacuousProof,
)
from companion.proof.ledger import read_ledger
from companion.proof.record import MIME, Checked, Proved, Record, Refuted
from companion.proof.theorem import Theorem

__all__ = [
    "MIME",
    "BadStatement",
    "CheckFailed",
    "Checked",
    "Closed",
    "Disproved",
    "Incomplete",
    "LedgerError",
    "NotRefuted",
    "ProofError",
    "Proved",
    "Record",
    "Refuted",
    "SurvivingMutant",
    "Theorem",
    "Undecided",
    "VacuousCheck",
    "VacuousProof",
    "read_ledger",
]
