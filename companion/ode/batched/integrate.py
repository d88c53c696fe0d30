"""Solving a batch: steps first, and then what is to be differentiated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from companion.ode.batched.dense import Outputs
from companion.ode.batched.march import BatchedMarch, name_samples
from companion.ode.batched.replay import replay
from companion.ode.errors import NonFiniteState
from companion.ode.field import Field, Leaves
from companion.ode.method import Method
from companion.ode.solution import Stats


def integrate_batched(field: Field, method: Method, y0: Leaves, t: Tensor, stats: Stats) -> Leaves:
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
