"""torchdiffeq's method names and dictionaries of options, as a `Method`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from companion.ode.adams import Adams
from companion.ode.control import PID, FixedGrid, FixedStep, require_number
from companion.ode.field import Leaves
from companion.ode.method import Control, Method, Scheme, suggestion
from companion.ode.problem import check_times
from companion.ode.scipy_solver import SciPy
from companion.ode.tableaus import METHODS
from companion.odeint.callbacks import NAMES, observers_of
from companion.odeint.forms import State, number, tolerance


def _by_name(*names: str) -> dict[str, Scheme]:
    return {name: METHODS[name] for name in names}


#: Methods with steps that are known in advance, by torchdiffeq's name.
FIXED: dict[str, Scheme] = {
    "heun2": METHODS["heun"],
    "rk4": METHODS["rk4_38"],
    "rk4_classical": METHODS["rk4"],
    "explicit_adams": Adams(implicit=False),
    "implicit_adams": Adams(),
    "fixed_adams": Adams(),
    **_by_name("euler", "midpoint", "heun3"),
    **_by_name("implicit_euler", "implicit_midpoint", "trapezoid", "gl4", "gl6"),
    **_by_name("radauIIA3", "radauIIA5", "sdirk2", "trbdf2"),
}
#: Methods that choose their steps; those of the last row are not torchdiffeq's.  The first two
#: are so in torchdiffeq: they take their last stage for the rates at the end of the step.
ADAPTIVE: dict[str, Scheme] = {
    "adaptive_heun": replace(METHODS["heun"], reuses_last=True),
    "fehlberg2": replace(METHODS["fehlberg2"], reuses_last=True),
    **_by_name("bosh3", "dopri5", "tsit5", "dopri8"),
    **_by_name("vern7", "kvaerno3", "kvaerno5", "kencarp4"),
}
SCHEMES: dict[str, Scheme] = {**ADAPTIVE, **FIXED, "scipy_solver": SciPy()}

#: torchdiffeq's keys for step-size control, and the fields of `PID`.
_CONTROL = {
    "safety": "safety",
    "ifactor": "max_factor",
    "dfactor": "min_factor",
    "min_step": "min_step",
    "max_step": "max_step",
}
#: What companion's messages call them.
_WORDS = {
    "PID: safety": "safety",
    "PID: max_factor": "ifactor",
    "PID: min_factor": "dfactor",
    "PID: min_step": "min_step",
    "PID: max_step": "max_step",
    "max_steps": "max_num_steps",
    "max_iterations": "max_iters",
    "FixedStep: size": "step_size",
}
_FIXED_OPTIONS = {"step_size", "grid_constructor", "interp", "perturb"}
_ADAPTIVE_OPTIONS = {
    "norm", "first_step", "max_num_steps", "step_t", "jump_t", "dtype", *_CONTROL,
}  # fmt: skip


def method_of(
    name: str | None,
    rtol: Any,
    atol: Any,
    options: Mapping[str, Any] | None,
    func: Callable[[Tensor, Any], Any],
    y0: State,
    t: Tensor,
    *,
    until_event: bool,
    backward: bool = False,
) -> Method:
    """How to solve.

    Args:
        name, rtol, atol, options, func, y0, t: as the user gave them.
        until_event: whether an event ends the solve.
        backward: whether this is the solve of the adjoint.

    Raises:
        TypeError, ValueError: for a wrong argument or option; the message says which.
    """
    name = "dopri5" if name is None else name
    prefix = "adjoint_" if backward else ""
    argument = f"{prefix}options"
    if not isinstance(name, str):
        raise TypeError(f"{prefix}method must be a string, got {type(name).__name__}")
    if not isinstance(options, Mapping | None):
        raise TypeError(f"{argument} must be a dictionary, got {type(options).__name__}")
    if name not in SCHEMES:
        raise ValueError(f"unknown method {name!r}: {suggestion(name, SCHEMES)}")
    options = _known(name, argument, options, until_event) if options else {}
    with _in_its_words(argument):
        common = {
            "rtol": tolerance(f"{prefix}rtol", rtol, y0),
            "atol": tolerance(f"{prefix}atol", atol, y0),
            "observers": observers_of(func, y0, name, _callbacks_of(name), backward=backward),
            "max_steps": _whole(options.get("max_num_steps", 2**31 - 1)),
        }
        if "max_iters" in options:
            common["max_iterations"] = options["max_iters"]
        if name == "scipy_solver":
            return Method(SciPy(**options), **common)
        if name in FIXED:
            scheme = FIXED[name]
            if "max_order" in options:
                scheme = Adams(scheme.implicit, options["max_order"])
            control = _known_steps(argument, options, func, y0, t, until_event)
            return Method(scheme, control=control, **common)
        if "norm" in options:
            common["norm"] = _norm_of_state(options["norm"], y0)
        if "dtype" in options and not getattr(options["dtype"], "is_floating_point", False):
            raise TypeError(f'{argument}["dtype"] must be a floating dtype, got {options["dtype"]}')
        control = {_CONTROL[key]: options[key] for key in _CONTROL if key in options}
        return Method(
            ADAPTIVE[name],
            control=PID(**control) if control else None,
            first_step=options.get("first_step"),
            step_t=options.get("step_t", ()),
            jump_t=options.get("jump_t", ()),
            **common,
        )


@contextmanager
def _in_its_words(argument: str) -> Iterator[None]:
    """Let errors name torchdiffeq's keys, which the user wrote, and not companion's."""
    try:
        yield
    except (TypeError, ValueError) as error:
        text = str(error)
        for ours, key in _WORDS.items():
            text = text.replace(ours, f'{argument}["{key}"]')
        if text == str(error):
            raise
        raise type(error)(text) from error


def options_of_adjoint(
    adjoint_options: Mapping[str, Any] | None, options: Mapping[str, Any] | None, *, same: bool
) -> Mapping[str, Any]:
    """The options of the backward solve, whose norm is that of the forward solve for y and a.

    Args:
        adjoint_options, options: as the user gave them.
        same: whether both solves have the same method, so that the options serve for both.

    Raises:
        TypeError, ValueError: if they cannot be those of a backward solve.
    """
    if adjoint_options is None:
        if options and not same:
            raise ValueError(
                "adjoint_method differs from method, so that options cannot serve for both: "
                "give adjoint_options as well"
            )
        return {key: value for key, value in (options or {}).items() if key != "norm"}
    if not isinstance(adjoint_options, Mapping):
        raise TypeError(
            f"adjoint_options must be a dictionary, got {type(adjoint_options).__name__}"
        )
    norm = adjoint_options.get("norm", "seminorm")
    if not (isinstance(norm, str) and norm == "seminorm"):
        raise ValueError(
            'adjoint_options["norm"] must be "seminorm" or left out: the parameter gradient is '
            "a quadrature here and is not part of the state that a norm would see"
        )
    return {key: value for key, value in adjoint_options.items() if key != "norm"}


def _known(
    name: str, argument: str, options: Mapping[str, Any], until_event: bool
) -> dict[str, Any]:
    """The options, if the method knows them all, without those that are left to their default."""
    known = _options_of(SCHEMES[name], name in ADAPTIVE)
    if until_event and name in FIXED:
        # An event may never come.
        known = known | {"max_num_steps"}
    if unknown := sorted(map(str, set(options) - known)):
        raise ValueError(
            f"{argument} has {', '.join(map(repr, unknown))}, which method {name!r} does not "
            f"know: it takes {', '.join(sorted(known))}"
        )
    # torchdiffeq takes numbers as 0-dim tensors, too, and None for a default.
    return {
        key: value if key in ("step_t", "jump_t") else number(value)
        for key, value in options.items()
        if value is not None
    }


def _options_of(scheme: Scheme, adaptive: bool) -> set[str]:
    """The options that a method knows."""
    if isinstance(scheme, SciPy):
        return {"solver", "max_step"}
    known = _ADAPTIVE_OPTIONS if adaptive else _FIXED_OPTIONS
    if isinstance(scheme, Adams):
        return known | {"max_order", "max_iters"}
    return known if scheme.explicit else known | {"max_iters"}


def _callbacks_of(name: str) -> set[str]:
    """The callbacks that a method calls."""
    if name in ADAPTIVE:
        return set(NAMES)
    return {"callback_step"} if name in FIXED else set()


def _known_steps(
    argument: str,
    options: Mapping[str, Any],
    func: Callable[[Tensor, Any], Any],
    y0: State,
    t: Tensor,
    until_event: bool,
) -> Control:
    """Steps from ``step_size`` or ``grid_constructor``, or from each time to the next."""
    size, construct = options.get("step_size"), options.get("grid_constructor")
    if not (construct is None or callable(construct)):
        raise TypeError(
            f'{argument}["grid_constructor"] must be callable as (func, y0, t), got '
            f"{type(construct).__name__}"
        )
    interpolation, one_sided = options.get("interp", "linear"), options.get("perturb", False)
    if interpolation not in ("linear", "cubic"):
        raise ValueError(f'{argument}["interp"] must be "linear" or "cubic", got {interpolation!r}')
    if not isinstance(one_sided, bool):
        raise TypeError(f'{argument}["perturb"] must be True or False, got {one_sided!r}')
    if size is not None and construct is not None:
        raise ValueError(f"{argument} has both step_size and grid_constructor: give one of them")
    if size is not None:
        require_number(f'{argument}["step_size"]', size)
        steps = FixedStep(size)
    if until_event:
        if size is None:
            raise ValueError(f"with event_fn, a method with fixed steps needs {argument} step_size")
        if one_sided:
            raise ValueError(
                f"{argument} has perturb, which does not go with event_fn: take an adaptive "
                "method and name the times at which f jumps in jump_t"
            )
        # Interpolation has no part in it: an event is located by steps that end there.
        return steps
    _, times = check_times(t)
    if len(times) == 1:
        return FixedStep()
    if size is not None:
        grid = _equidistant(times[0], times[-1], steps)
    elif construct is not None:
        grid = _as_floats(f'{argument}["grid_constructor"]', construct(func, y0, t))
        if not grid or (grid[0], grid[-1]) != (times[0], times[-1]):
            raise ValueError(
                "grid_constructor must return times from the first of t to the last, "
                f"{times[0]} to {times[-1]}"
            )
    elif one_sided:
        grid = times
    else:
        return FixedStep()
    return FixedGrid(grid, interpolation, one_sided)


def _whole(count: Any) -> Any:
    """1e4 as the integer that it is."""
    return int(count) if isinstance(count, float) and count.is_integer() else count


def _equidistant(start: float, end: float, steps: FixedStep) -> tuple[float, ...]:
    """Times of distance ``steps.size``, the last of which is the end."""
    step = math.copysign(steps.size, end - start)
    return (*(start + i * step for i in range(steps.count(end - start))), end)


def _as_floats(name: str, times: Any) -> tuple[float, ...]:
    if isinstance(times, Tensor) and times.ndim == 1:
        return tuple(times.detach().tolist())
    if isinstance(times, str) or not isinstance(times, Iterable):
        raise TypeError(
            f"{name} must return a tensor of shape (N,) or a sequence of times, got "
            f"{type(times).__name__}"
        )
    return tuple(map(float, times))


def _norm_of_state(norm: Callable[[Any], Tensor], y0: State) -> Callable[[Leaves], Tensor]:
    """A norm of states as the user sees them, as one of lists of leaves."""
    if not callable(norm):
        raise TypeError(f'options["norm"] must be callable, got {type(norm).__name__}')
    _, spec = tree_flatten(y0)

    def checked(leaves: Leaves) -> Tensor:
        value = norm(tree_unflatten(leaves, spec))
        if not isinstance(value, Tensor) or value.numel() != 1:
            what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value)
            raise TypeError(f'options["norm"] must return a tensor with one element, got {what}')
        return value.reshape(())

    return checked
