"""What `solve(batched=True)` takes: methods, states and times that fit a batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from companion.ode.control import PID
from companion.ode.field import Leaves
from companion.ode.method import Method
from companion.ode.norm import rms_norm
from companion.ode.problem import check_times
from companion.ode.tableau import Tableau


def check_batched_method(method: Method) -> None:
    """Raise unless the steps can be chosen sample by sample.

    Raises:
        ValueError: naming what does not apply to a batch.
    """
    scheme, control = method.scheme, method.control
    if not (isinstance(scheme, Tableau) and scheme.explicit and scheme.error is not None):
        raise ValueError(
            f"batched=True needs an explicit Runge-Kutta method with an error estimate, such as "
            f"'dopri5' or 'bosh3', got {scheme.name!r}"
        )
    if not isinstance(control, PID):
        raise ValueError(
            f"batched=True chooses a step size for every sample, got {type(control).__name__}: "
            "with fixed steps a batch is solved as one state, leave batched out"
        )
    unwanted = {
        "step_t": method.step_t,
        "jump_t": method.jump_t,
        "PID(min_step)": control.min_step,
        "observers (progress, callbacks)": method.observers,
        "norm": method.norm is not rms_norm,
    }
    for name, value in unwanted.items():
        if value:
            raise ValueError(f"{name} does not apply to batched=True: leave one of them out")


def check_batched_state(y0: Leaves) -> int:
    """The number of samples.

    Raises:
        ValueError: unless all tensors of the state have one leading axis, the batch.
    """
    sizes = {leaf.shape[0] if leaf.ndim else None for leaf in y0}
    if len(sizes) > 1 or None in sizes:
        raise ValueError(
            "batched=True needs a state whose tensors all have the batch as their first axis, got "
            f"shapes {', '.join(str(tuple(leaf.shape)) for leaf in y0)}"
        )
    return sizes.pop()


def check_batched_times(t: Any, y0: Leaves) -> tuple[Tensor, Tensor]:
    """The times as given, and for every sample.

    Args:
        t: common times, shape (T,), or those of every sample, shape (B, T); each row strictly
            increasing or decreasing.  A tensor, or (nested) sequences of numbers.
        y0: leaves of the state.

    Returns:
        t as a tensor, and the times of all samples, shape (B, T), on the device of the state, in
        float64 where the device has it.

    Raises:
        TypeError, ValueError: naming the sample and the time that is wrong.
    """
    batch, device = check_batched_state(y0), y0[0].device
    dtype = torch.float32 if device.type == "mps" else torch.float64
    if not isinstance(t, Tensor):
        t = _as_tensor(t)
    if t.ndim != 2:
        t, _ = check_times(t)
        return t, t.to(device, dtype).expand(batch, -1)
    if t.is_complex() or t.dtype == torch.bool:
        raise TypeError(f"t has dtype {t.dtype}: times must be real numbers")
    if t.shape[0] != batch or t.shape[1] == 0:
        raise ValueError(
            f"t of shape {tuple(t.shape)} does not fit a batch of {batch}: give common times of "
            f"shape (T,), or times of every sample of shape ({batch}, T), with T >= 1"
        )
    if not t.is_floating_point():
        t = t.to(torch.float64)
    times = t.to(device, dtype)
    _check_rows(times.detach())
    return t, times


def _as_tensor(t: Any) -> Any:
    """Numbers as one tensor; tensors in a sequence are stacked, and keep their graph."""
    try:
        if isinstance(t, Iterable) and any(isinstance(row, Tensor) for row in t):
            return torch.stack([torch.as_tensor(row, dtype=torch.float64) for row in t])
        return torch.as_tensor(t, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            "t must be a tensor, a sequence of numbers or one of such sequences, got "
            f"{type(t).__name__}"
        ) from error


def _check_rows(times: Tensor) -> None:
    steps = times.diff(dim=1)
    direction = torch.where(times[:, -1:] > times[:, :1], 1, -1)
    finite, monotone = torch.isfinite(times), steps * direction > 0
    if bool(finite.all() & monotone.all()):
        return
    bad = (~finite).nonzero()
    if len(bad):
        sample, i = bad[0].tolist()
        raise ValueError(f"t[{sample}, {i}] is {float(times[sample, i])}: times must be finite")
    sample, i = (~monotone).nonzero()[0].tolist()
    raise ValueError(
        f"the times of every sample must be strictly increasing or strictly decreasing, got "
        f"t[{sample}, {i}] = {float(times[sample, i])} and "
        f"t[{sample}, {i + 1}] = {float(times[sample, i + 1])}: sort them and drop repeated ones"
    )
