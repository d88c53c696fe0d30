"""Initial value problems: methods, steps, control, and the solve loop."""

from companion.ode import tableaus
from companion.ode.control import PID, FixedStep
from companion.ode.errors import NonFiniteState, SolverError, StepSizeUnderflow, TooManySteps
from companion.ode.solution import Solution, Stats
from companion.ode.step import Step, runge_kutta_step
from companion.ode.tableau import Tableau

__all__ = [
    "PID",
    "FixedStep",
    "NonFiniteState",
    "Solution",
    "SolverError",
    "Stats",
    "Step",
    "StepSizeUnderflow",
    "Tableau",
    "TooManySteps",
    "runge_kutta_step",
    "tableaus",
]
