"""Initial value problems: methods, steps, control, events, and the solve loop."""

from companion.ode import tableaus
from companion.ode.adams import Adams
from companion.ode.control import PID, PRESETS, FixedGrid, FixedStep
from companion.ode.errors import (
    GrazingEvent,
    NonFiniteState,
    NotConverged,
    SolverError,
    StepSizeUnderflow,
    TooManySteps,
)
from companion.ode.event import Event, EventRecord
from companion.ode.scipy_solver import SciPy
from companion.ode.solution import Solution, Stats
from companion.ode.step import Step, runge_kutta_step
from companion.ode.tableau import Tableau

__all__ = [
    "PID",
    "PRESETS",
    "Adams",
    "Event",
    "EventRecord",
    "FixedGrid",
    "FixedStep",
    "GrazingEvent",
    "NonFiniteState",
    "NotConverged",
    "SciPy",
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
