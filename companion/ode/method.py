"""How to solve: the scheme that makes the steps, and what controls them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec

from companion.ode.adams import Adams
from companion.ode.control import PID, PRESETS, FixedGrid, FixedStep, require_number
from companion.ode.field import Leaves
from companion.ode.norm import Norm, rms_norm
from companion.ode.observe import Observer
from companion.ode.read_back import is_differentiated, read_all
from companion.ode.scipy_solver import SOLVERS, SciPy
from companion.ode.tableau import Tableau
from companion.ode.tableaus import METHODS
from companion.ode.tolerance import check_tolerance, of_leaves, require_allowance

Control = FixedStep | FixedGrid | PID
#: What makes the steps.
Scheme = Tableau | Adams | SciPy

#: Every scheme by the name that ``solve(method=...)`` takes.
SCHEMES: dict[str, Scheme] = {
    **METHODS,
    "explicit_adams": Adams(implicit=False),
    "implicit_adams": Adams(),
    "scipy_solver": SciPy(),
}


@dataclass(frozen=True)
class Method:
    """How to step: the scheme, what controls the step size, how far to go, and who watches.

    Args:
        scheme: a tableau or another scheme, or the name of one.
        rtol, atol: tolerances; a step is accepted if the norm of its error divided by
            ``atol + rtol * max(|y|, |y1|)`` is at most 1.  Numbers, tensors that the state can
            be broadcast with, or a pytree of such with the structure of y0.
        control: a controller, or the name of one in `companion.ode.control.PRESETS`; None takes
            `PID` for methods with an error estimate.
        norm: from the leaves of that quotient to a 0-dim tensor.
        first_step: size of the first step; None chooses it from f.
        max_steps: number of steps tried before `TooManySteps`.
        step_t: times at which a step must end.
        jump_t: times at which f jumps: steps end there, and f is evaluated on their side only.
            A tensor, or tensors among the numbers, may require grad.
        max_iterations: iterations that an implicit method may take for its stages.
        observers: told about every step.
        jump_nodes: the jump times whose gradients are wanted, as 0-dim float64 tensors, by their
            values; made from ``jump_t``.

    Raises:
        TypeError, ValueError: naming the argument, what came and what was expected.
    """

    scheme: Scheme | str
    rtol: Any = 1e-6
    atol: Any = 1e-8
    control: Control | str | None = None
    norm: Norm = rms_norm
    first_step: float | None = None
    max_steps: int = 10_000
    step_t: Sequence[float] | Tensor = ()
    jump_t: Sequence[float] | Tensor = ()
    max_iterations: int = 20
    observers: tuple[Observer, ...] = field(default=(), compare=False)
    jump_nodes: Mapping[float, Tensor] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scheme", find_scheme(self.scheme))
        for name in ("rtol", "atol"):
            check_tolerance(name, getattr(self, name))
        object.__setattr__(self, "control", _find_control(self.control, self.scheme))
        if self.first_step is not None:
            require_number("first_step", self.first_step)
            if not (math.isfinite(self.first_step) and self.first_step > 0):
                raise ValueError(f"first_step must be positive, got {self.first_step}")
            if isinstance(self.control, FixedStep | FixedGrid):
                raise ValueError(
                    "first_step is for steps that adapt: leave it out, or give the size of all "
                    "steps with FixedStep(size)"
                )
        for name in ("max_steps", "max_iterations"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral):
                raise TypeError(f"{name} must be an int, got {type(value).__name__}")
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        jumps = _joined(self.jump_t)
        if isinstance(jumps, Tensor) and is_differentiated(jumps):
            nodes = jumps.reshape(-1).double().unbind()
            values = read_all(jumps.reshape(-1), "jump_t")
            object.__setattr__(self, "jump_nodes", dict(zip(values, nodes, strict=True)))
            jumps = values
        elif isinstance(jumps, Tensor):
            jumps = jumps.detach()
        object.__setattr__(self, "jump_t", _check_stops("jump_t", jumps))
        object.__setattr__(self, "step_t", _check_stops("step_t", self.step_t))
        stops = [*self.step_t, *self.jump_t]
        if len(set(stops)) < len(stops):
            raise ValueError(
                "step_t and jump_t must not repeat a time, within or between them: a jump time "
                "is a step time already"
            )
        if stops and not (isinstance(self.control, PID) and isinstance(self.scheme, Tableau)):
            raise ValueError(
                "step_t and jump_t are for Runge-Kutta methods whose steps adapt: with fixed "
                "steps put these times into t, or into FixedGrid(times)"
            )

    def of_leaves(self, leaves: Leaves, spec: TreeSpec) -> Method:
        """The same with tolerances that are numbers, or tuples with one a leaf of this state."""
        rtol = of_leaves("rtol", self.rtol, leaves, spec)
        atol = of_leaves("atol", self.atol, leaves, spec)
        require_allowance(rtol, atol, leaves)
        if isinstance(self.rtol, float) and isinstance(self.atol, float):
            return self
        return replace(self, rtol=rtol, atol=atol)


def _find_control(control: Control | str | None, scheme: Scheme) -> Control | None:
    if isinstance(scheme, SciPy):
        if control is not None:
            raise ValueError("SciPy's solvers control their steps themselves: leave control out")
        return None
    if isinstance(control, str):
        if control not in PRESETS:
            raise ValueError(f"unknown control {control!r}: {suggestion(control, PRESETS)}")
        control = PRESETS[control]
    if control is None:
        control = PRESETS["I"]
    if not isinstance(control, Control):
        cure = f": write {control.__name__}(...)" if isinstance(control, type) else ""
        raise TypeError(
            "control must be PID, FixedStep or FixedGrid, or the name of a preset, got "
            f"{type(control).__name__}{cure}"
        )
    if isinstance(control, PID) and (isinstance(scheme, Adams) or scheme.error is None):
        raise ValueError(
            f"method {scheme.name!r} has no error estimate to choose steps by: give "
            "the step size with control=FixedStep(size), or take a method with an error "
            "estimate such as 'dopri5'"
        )
    return control


def _joined(times: Any) -> Any:
    """Times among which there are tensors as one tensor, which keeps their graphs."""
    if isinstance(times, (tuple, list)) and any(isinstance(time, Tensor) for time in times):
        return torch.stack([torch.as_tensor(time, dtype=torch.float64) for time in times])
    return times


def _check_stops(name: str, times: Any) -> tuple[float, ...]:
    if isinstance(times, Tensor):
        if times.requires_grad:
            raise ValueError(
                f"{name} requires grad, but where a step ends changes nothing: detach it"
            )
        times = times.reshape(-1).tolist()
    if isinstance(times, str) or not isinstance(times, Iterable):
        raise TypeError(
            f"{name} must be a sequence of times, got {type(times).__name__}: write {name}=(t,)"
        )
    times = tuple(times)
    for time in times:
        require_number(name, time)
        if not math.isfinite(time):
            raise ValueError(f"{name} holds {time}: all times must be finite")
    return tuple(map(float, times))


def find_scheme(method: Scheme | str) -> Scheme:
    """The scheme itself, or the one with this name."""
    if isinstance(method, Scheme):
        return method
    if not isinstance(method, str):
        raise TypeError(
            "method must be a name or a Tableau (or Adams, SciPy), got "
            f"{getattr(method, '__name__', type(method).__name__)}"
        )
    if method in SOLVERS:
        raise ValueError(f"unknown method {method!r}: SciPy's solver is SciPy({method!r})")
    if method not in SCHEMES:
        raise ValueError(f"unknown method {method!r}: {suggestion(method, SCHEMES)}")
    return SCHEMES[method]


def suggestion(name: str, known: Iterable[str]) -> str:
    """What to write instead of an unknown name: close names first, then all."""
    known = list(known)
    close = get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    return f"{hint}choose one of {', '.join(known)}"
