"""SciPy's solvers as a method."""

from __future__ import annotations

import math
from dataclasses import dataclass

from companion.ode.control import require_number

#: What `scipy.integrate` offers.
SOLVERS = ("RK45", "RK23", "DOP853", "Radau", "BDF", "LSODA")


@dataclass(frozen=True)
class SciPy:
    """One of SciPy's solvers, on the CPU; gradients by `companion.adjoint.Backsolve` only.

    SciPy computes in float64 whatever the dtype of the state.  Jacobians of "Radau" and "BDF" are
    its finite differences; `Stats.evaluations` counts their evaluations of f too.

    Args:
        solver: "RK45", "RK23", "DOP853", "Radau", "BDF" or "LSODA".
        max_step: no step is larger.

    Raises:
        TypeError, ValueError: for another name, or a largest step that is not positive.
    """

    solver: str = "LSODA"
    max_step: float = math.inf

    def __post_init__(self) -> None:
        require_number("SciPy: max_step", self.max_step)
        if not self.max_step > 0:
            raise ValueError(f"SciPy: max_step must be positive, got {self.max_step}")
        if self.solver not in SOLVERS:
            raise ValueError(f"unknown solver {self.solver!r}: choose one of {', '.join(SOLVERS)}")

    @property
    def name(self) -> str:
        return "scipy_solver"
