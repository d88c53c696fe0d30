"""Batches whose samples are solved together, and yet each as if it were alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from companion.ode.batched_dense import Outputs
from companion.ode.batched_march import BatchedMarch, name_samples
from companion.ode.batched_replay import replay
from companion.ode.control import PID
from companion.ode.errors import NonFiniteState
from companion.ode.field import Field, Leaves
from companion.ode.method import Method
from companion.ode.norm import rms_norm
from companion.ode.problem import check_times
from companion.ode.solution import Stats
from companion.ode.tableau import Tableau


def integrate_batched(
    field: Field, method: Method, y0: Leaves, t: Tensor, stats: Stats
) -> Leaves:
    """Solve every sample of a batch with step sizes of its own.

    Steps are chosen without recording a graph.  Where gradients are wanted, the accepted steps
    are then repeated with one: f is evaluated once more for each, rejected steps leave nothing
    behind (no memory, and no NaN times zero), and the gradient is that of the repeated steps,
    exact to rounding, with respect to y0, to what f depends on, and to the times.

    Args:
        field: ``field(t, leaves)`` with t of shape (B,).
        method: how to step; see `check_batched_method`.
        y0: leaves of the initial state; see `check_batched_state`.
        t: shape (B, T); see `check_batched_times`.
        stats: its accepted and rejected steps become int64 tensors of shape (B,).

    Returns:
        The states at the times, leaves of shape (T, B, ...).

    Raises:
        SolverError: if a sample does not reach its last time with a finite state.
    """
    batch, count = t.shape
    if batch == 0 or count == 1:
        stats.accepted, stats.rejected = t.new_zeros((2, batch), dtype=torch.int64).unbind()
        return [torch.stack([leaf] * count) for leaf in y0]
    backwards = t[:, -1] < t[:, 0]
    direction = torch.where(backwards, -1.0, 1.0).to(t.dtype) if backwards.any() else None
    times = t if direction is None else t * direction[:, None]
    watched = _Watched(field, [*y0, t])
    plain = _constant(times)
    start = [_constant(leaf) for leaf in y0]
    with torch.no_grad():
        rates = watched(_constant(t[:, 0]), start)
        outputs = None if watched.found else Outputs(plain, start, direction)
        march = BatchedMarch(
            field if watched.idle else watched,
            method,
            start,
            rates,
            plain,
            direction,
            outputs,
            remember=watched.found or not watched.idle,
        )
        march.run()
    stats.accepted, stats.rejected = march.accepted, march.rejected
    if watched.found:
        leaves = replay(field, method.scheme, y0, times, direction, march.knots)
    else:
        leaves = outputs.finish(march.y)
    _require_finite(leaves, t, march.tried)
    return leaves


class _Watched:
    """A field whose values carry no derivatives, and which notices that they might.

    Attributes:
        found: whether a value of the field, or one of the given tensors, is to be differentiated.
        idle: whether there is no use in watching any more.
    """

    def __init__(self, field: Field, tensors: Sequence[Tensor]) -> None:
        self.field = field
        self._recording = torch.is_grad_enabled()
        self._pushed = False
        self.found = False
        self._look_at(tensors)

    def __call__(self, t: Tensor, y: Leaves) -> Leaves:
        # A graph is needed until a value shows that f depends on something that requires grad.
        with torch.set_grad_enabled(self._recording and not self.found):
            rates = self.field(t, y)
        self._look_at(rates)
        return [_constant(rate) for rate in rates] if self.found else rates

    @property
    def idle(self) -> bool:
        return not self._pushed and (self.found or not self._recording)

    def _look_at(self, tensors: Sequence[Tensor]) -> None:
        if any(forward_ad.unpack_dual(x).tangent is not None for x in tensors):
            self._pushed = self.found = True
        if self._recording and any(x.requires_grad for x in tensors):
            self.found = True


def _constant(x: Tensor) -> Tensor:
    return forward_ad.unpack_dual(x).primal.detach()


def _require_finite(leaves: Leaves, t: Tensor, steps: int) -> None:
    if all(bool(torch.isfinite(leaf).all()) for leaf in leaves):
        return
    batch, count = t.shape
    finite = torch.stack(
        [torch.isfinite(x).reshape(count, batch, x[0, 0].numel()).all(2) for x in leaves]
    ).all(0)
    bad = ~finite.all(0)
    sample = int(bad.long().argmax())
    number = int(finite[:, sample].long().argmin())
    raise NonFiniteState(
        f"{name_samples(bad)}: the state is infinite or NaN at output {number}: check y0 and f, "
        "or take smaller steps",
        t=float(t[sample, number]),
        h=0.0,
        steps=steps,
    )


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
