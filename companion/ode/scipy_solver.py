"""SciPy's solvers as a method."""

from __future__ import annotations

from dataclasses import dataclass

#: What `scipy.integrate` offers.
SOLVERS = ("RK45", "RK23", "DOP853", "Radau", "BDF", "LSODA")


@dataclass(frozen=True)
class SciPy:
    """One of SciPy's solvers, on the CPU; gradients by `companion.adjoint.Backsolve` only.

    Args:
        solver: "RK45", "RK23", "DOP853", "Radau", "BDF" or "LSODA".

    Raises:
        ValueError: for another name.
    """

    solver: str = "LSODA"

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise ValueError(f"unknown solver {self.solver!r}: choose one of {', '.join(SOLVERS)}")

    @property
    def name(self) -> str:
        return "scipy_solver"
