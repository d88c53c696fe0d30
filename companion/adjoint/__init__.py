"""Every way to the gradient of a solve.

A strategy is called with a problem and the statistics to fill, and returns the solution with
tensors that carry the gradient.  It is the only place where backward passes differ.
"""

from __future__ import annotations

from typing import Protocol

from companion.adjoint.backsolve import Backsolve, LostStateWarning
from companion.adjoint.checkpointed import Checkpointed
from companion.adjoint.direct import Direct
from companion.adjoint.gauss import Gauss
from companion.adjoint.implicit import Implicit
from companion.adjoint.recorded import Adjoints, Recording, recorded
from companion.adjoint.reversible import LostState, Reversible
from companion.adjoint.steady import NotSteady
from companion.ode.integrate import Path
from companion.ode.problem import Problem
from companion.ode.solution import Stats

__all__ = [
    "STRATEGIES",
    "Adjoints",
    "Backsolve",
    "Checkpointed",
    "Direct",
    "Gauss",
    "Gradient",
    "Implicit",
    "LostState",
    "LostStateWarning",
    "NotSteady",
    "Recording",
    "Reversible",
    "recorded",
]


class Gradient(Protocol):
    """A gradient strategy: solves, and makes the solution differentiable."""

    def __call__(self, problem: Problem, stats: Stats) -> Path: ...


#: Strategies by the name that ``solve(gradient=...)`` takes.
STRATEGIES: dict[str, type[Gradient]] = {
    "direct": Direct,
    "checkpointed": Checkpointed,
    "backsolve": Backsolve,
    "gauss": Gauss,
    "reversible": Reversible,
    "implicit": Implicit,
}
